"""The loss goes down.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: The running loss should decrease steadily during training.
Verdict: holds-if
Truth: Monotone for full batches on a convex loss with lr < 1/L; for mini-batches only as a trend;
    a too large lr breaks it.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.optim import SGD, Adam

from dlconcepts.strategies import tensors
from dlconcepts.support.runs import seeded
from dlconcepts.testing.laws import law
from dlconcepts.training import fit
from tests.training.common import float64


def fit_all(
    model: nn.Module, data: tuple[Tensor, Tensor], loss_fn: Callable[..., Tensor], **settings: Any
) -> list[float]:
    """Train on all examples at once with SGD and return the loss of each epoch."""
    optimizer = SGD(model.parameters(), lr=settings["lr"])
    size = len(data[1])
    history = fit(
        *(model, data),
        epochs=settings["epochs"],
        batch_size=size,
        optimizer=optimizer,
        loss_fn=loss_fn,
    )
    return [epoch.train_loss for epoch in history]


def learns_too_fast(model: nn.Module, *arguments: Any, lr: float, epochs: int) -> list[float]:
    """Take a learning rate far too large."""
    return fit_all(model, *arguments, lr=200 * lr, epochs=epochs)


def shuffles_the_labels_anew(
    model: nn.Module, data: tuple[Tensor, Tensor], *arguments: Any, lr: float, epochs: int
) -> list[float]:
    """Give each example another example's label, in each epoch another one."""
    losses, (inputs, labels) = [], data
    for epoch in range(epochs):
        losses += fit_all(model, (inputs, labels.roll(epoch)), *arguments, lr=lr, epochs=1)
    return losses


def trains_another_model(model: nn.Module, *arguments: Any, **settings: Any) -> list[float]:
    """Never give the parameters to the optimizer: it has those of a copy, the model stays."""
    twin, frozen = copy.deepcopy(model), settings["epochs"]
    fit_all(twin, *arguments, **settings)
    return fit_all(model, *arguments, **{**settings, "lr": 0.0, "epochs": frozen})


@st.composite
def regressions(draw: st.DrawFn) -> tuple[nn.Linear, tuple[Tensor, Tensor], float]:
    """Draw a linear model, examples, and the largest curvature of their mean squared error."""
    n, features = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    inputs = draw(tensors((n, features), float64, max_magnitude=9.0))
    labels = draw(tensors((n, 1), float64, max_magnitude=9.0))
    model = nn.Linear(features, 1, bias=False, dtype=float64)
    nn.init.zeros_(model.weight)
    curvature = 2 * float(torch.linalg.matrix_norm(inputs, 2)) ** 2 / n
    return model, (inputs, labels), curvature


@law(
    right=fit_all,
    wrong={
        learns_too_fast: "no epoch raises a convex loss",
        shuffles_the_labels_anew: "no epoch raises a convex loss",
        trains_another_model: "the loss falls",
    },
)
@given(regression=regressions())
def test_full_batches_lower_a_convex_loss_every_time(
    train: Callable[..., list[float]],
    regression: tuple[nn.Linear, tuple[Tensor, Tensor], float],
) -> None:
    """With lr below 1/L the mean squared error of a linear model never rises, and it falls."""
    model, data, curvature = regression
    slope = float((data[0].T @ data[1]).norm())
    assume(curvature > 1e-6 and slope > 1e-6)

    losses = train(model, data, F.mse_loss, lr=0.9 / curvature, epochs=3)

    for before, after in itertools.pairwise(losses):
        assert after <= before * (1 + 1e-12), "no epoch raises a convex loss"
    assert losses[1] < losses[0], "the loss falls where the gradient is not zero"


SEEDS = 40


# If a training of this kind ended higher than it began one time in ten, more than ENOUGH of SEEDS
# would still fall, but for one law in 1e11.
ENOUGH = int(stats.binom.ppf(1e-11, SEEDS, 0.9))


@law(
    right=fit_all,
    wrong={learns_too_fast: "falls for most seeds", trains_another_model: "falls for most seeds"},
    share=0.04,
    because="each example trains 40 networks",
)
@given(first=st.integers(0, 2**16), hidden=st.integers(4, 16))
def test_a_network_ends_lower_than_it_began(
    train: Callable[..., list[float]], first: int, hidden: int
) -> None:
    """No single epoch is sure to lower a network's loss, but over ten steps it falls.

    The law wants ENOUGH of SEEDS networks to fall, which fails with a chance of 1e-11 if each
    fails with a chance of 0.1; of 4,000 that were trained to see, none did.
    """
    falls = 0
    for seed in range(first, first + SEEDS):
        generator = torch.Generator(device="cpu").manual_seed(seed)
        labels = torch.arange(12, device="cpu") % 3
        inputs = torch.randn(12, 2, generator=generator, device="cpu") + 2 * labels[:, None]
        device = torch.get_default_device()
        with seeded(seed, device):
            model = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        data = inputs.to(device), labels.to(device)
        losses = train(model, data, F.cross_entropy, lr=0.1, epochs=10)
        falls += losses[-1] < losses[0]

    assert falls > ENOUGH, f"the loss falls for most seeds: more than {ENOUGH} of {SEEDS}"


def memorizes(inputs: Tensor, labels: Tensor, epochs: int) -> float:
    """Train on one batch again and again, and return its last loss."""
    model = nn.Sequential(nn.Linear(inputs.shape[1], 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = Adam(model.parameters(), lr=0.05)
    return fit(model, (inputs, labels), epochs=epochs, optimizer=optimizer)[-1].train_loss


def memorizes_with_a_dead_optimizer(inputs: Tensor, labels: Tensor, epochs: int) -> float:
    """Give the optimizer other parameters than the model's."""
    model = nn.Sequential(nn.Linear(inputs.shape[1], 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = Adam(copy.deepcopy(model).parameters(), lr=0.05)
    return fit(model, (inputs, labels), epochs=epochs, optimizer=optimizer)[-1].train_loss


def memorizes_moving_labels(inputs: Tensor, labels: Tensor, epochs: int) -> float:
    """Move the labels on by one class in each epoch."""
    model = nn.Sequential(nn.Linear(inputs.shape[1], 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = Adam(model.parameters(), lr=0.05)
    for epoch in range(epochs):
        data = inputs, (labels + epoch) % 3
        history = fit(model, data, epochs=1, optimizer=optimizer)
    return history[-1].train_loss


@law(
    right=memorizes,
    wrong={
        memorizes_with_a_dead_optimizer: "nearly zero",
        memorizes_moving_labels: "nearly zero",
    },
    share=0.1,
    because="each example trains a network for 100 steps",
)
@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_one_small_batch_can_be_learnt_by_heart(
    train: Callable[[Tensor, Tensor, int], float], labels: list[int]
) -> None:
    """A network that cannot drive the loss of a few examples to nearly zero has a mistake in it."""
    inputs = torch.eye(len(labels))

    loss = train(inputs, torch.tensor(labels), 100)

    assert loss < 0.05, "the loss of one small batch goes to nearly zero"
