"""The loss falls at every step if the learning rate is small enough.

>>> from dlconcepts.training import gradient_descent
>>> labels = torch.tensor([1.0, 3.0])
>>> loss = lambda w: ((w - labels) ** 2).mean()
>>> [loss(w).item() for w in gradient_descent(loss, torch.tensor(0.0), lr=0.25, steps=3)]
[5.0, 2.0, 1.25, 1.0625]
>>> [loss(w).item() for w in gradient_descent(loss, torch.tensor(0.0), lr=1.25, steps=3)]
[5.0, 10.0, 21.25, 46.5625]

Notes: The running loss should decrease steadily during training.
Verdict: holds-if
Truth: The loss never rises if it is convex with curvature at most L, the batch is the whole data
    set, and lr < 1/L. A step on a mini-batch lowers the loss of the mini-batch and may raise the
    loss of all examples, however small the rate. A network's loss falls as a trend, with full or
    mini-batches; a learning rate that is too large breaks even that. A network that trains
    correctly can drive the loss of one small batch to nearly zero, which is a useful check.
"""

import copy
import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from dlconcepts.strategies import tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.support.runs import seeded
from dlconcepts.testing.laws import law
from dlconcepts.training import DivergedError, fit, train_step
from tests.training.common import float64


def fit_all(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    loss_fn: Callable[..., Tensor],
    *,
    lr: float,
    epochs: int,
    optimizer: Optimizer | None = None,
    batch_size: int | None = None,
) -> list[float]:
    """Train with SGD and full batches by default, and return the loss of each epoch."""
    optimizer = optimizer or SGD(model.parameters(), lr=lr)
    options = {"epochs": epochs, "batch_size": batch_size or len(data[1]), "loss_fn": loss_fn}
    return [epoch.train_loss for epoch in fit(model, data, optimizer=optimizer, **options)]


def learns_too_fast(model: nn.Module, *arguments: Any, lr: float, **options: Any) -> list[float]:
    """Use a learning rate that is far too large."""
    return fit_all(model, *arguments, lr=200 * lr, **options)


def shuffles_the_labels_anew(
    model: nn.Module, data: tuple[Tensor, Tensor], *arguments: Any, lr: float, epochs: int
) -> list[float]:
    """Give each example another example's label, and a different one in each epoch."""
    losses, (inputs, labels) = [], data
    for epoch in range(epochs):
        losses += fit_all(model, (inputs, labels.roll(epoch)), *arguments, lr=lr, epochs=1)
    return losses


def trains_another_model(
    model: nn.Module, *arguments: Any, lr: float, **options: Any
) -> list[float]:
    """Give the optimizer the parameters of a copy, so the model itself never learns."""
    optimizer = SGD(copy.deepcopy(model).parameters(), lr=lr)
    return fit_all(model, *arguments, lr=lr, optimizer=optimizer, **options)


@st.composite
def regressions(draw: st.DrawFn) -> tuple[nn.Linear, tuple[Tensor, Tensor], float]:
    """Draw a linear model, examples, and the largest curvature of their mean squared error."""
    n, features = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    inputs = draw(tensors((n, features), float64, max_magnitude=9.0))
    labels = draw(tensors((n, 1), float64, max_magnitude=9.0))
    model = nn.Linear(features, 1, bias=False, dtype=float64)
    nn.init.zeros_(model.weight)
    # The Hessian of the mean squared error is 2 X'X / n, so its norm is 2 / n times the square of
    # the largest singular value of X.
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
    """With lr below 1/L, full batches never raise a linear model's mean squared error."""
    model, data, curvature = regression
    slope = float((data[0].T @ data[1]).norm())
    assume(curvature > 1e-6 and slope > 1e-6)  # at the minimum the loss cannot fall

    losses = train(model, data, F.mse_loss, lr=0.9 / curvature, epochs=3)

    for before, after in itertools.pairwise(losses):
        # 1e-12 is room for float64's rounding once the loss no longer changes.
        assert after <= before * (1 + 1e-12), "no epoch raises a convex loss"
    assert losses[1] < losses[0], "the loss falls where the gradient is not zero"


class Constant(nn.Module):
    """A model that answers every input with one number, its only weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight.expand(len(inputs))


def steps_on_one_example(model: Constant, labels: Tensor, lr: float) -> None:
    """Take a step on a mini-batch: the first example alone."""
    train_step(model, F.mse_loss, SGD(model.parameters(), lr=lr), labels[:1], labels[:1])


def steps_on_all_examples(model: Constant, labels: Tensor, lr: float) -> None:
    """Take a step on all examples at once."""
    train_step(model, F.mse_loss, SGD(model.parameters(), lr=lr), labels, labels)


def climbs_on_one_example(model: Constant, labels: Tensor, lr: float) -> None:
    """Take a step on the first example in the direction of its gradient."""
    steps_on_one_example(model, labels, lr)
    model.weight.data = 2 * labels.mean() - model.weight.data


@law(
    right=steps_on_one_example,
    wrong={
        steps_on_all_examples: "raises the loss of all examples",
        climbs_on_one_example: "lowers the loss of the mini-batch",
    },
)
@given(
    labels=st.lists(st.integers(-9, 9), min_size=2, max_size=5),
    lr=st.sampled_from([1e-3, 0.1, 0.4]),
)
def test_a_step_on_a_mini_batch_may_raise_the_loss_of_all(
    step: Callable[..., None], labels: list[int], lr: float
) -> None:
    """At the minimum over all examples, a step on one lowers its loss and raises the whole."""
    targets = torch.tensor(labels, dtype=float64)
    assume(labels[0] * len(labels) != sum(labels))  # otherwise the gradient is zero
    model = Constant(targets.mean())  # the minimum of the mean squared error

    def losses() -> list[float]:
        weight = model.weight.detach()
        return [float((weight - part).square().mean()) for part in (targets[:1], targets)]

    own_before, before = losses()
    step(model, targets, lr)
    own, whole = losses()

    assert whole > before, "a step raises the loss of all examples"
    assert own < own_before, "a step lowers the loss of the mini-batch"


# Even if one network in ten ended higher than it began, more than ENOUGH of SEEDS would still end
# lower, except once in 1e11 examples. None of 4,000 networks that we trained ended higher, nor of
# 800 with batches of 4.
SEEDS = 40
ENOUGH = int(stats.binom.ppf(1e-11, SEEDS, 0.9))


@law(
    right=fit_all,
    wrong={learns_too_fast: "falls for most seeds", trains_another_model: "falls for most seeds"},
    share=0.04,
    because="each example trains 40 networks",
)
@given(first=st.integers(0, 2**16), hidden=st.integers(4, 16), batch_size=st.sampled_from([12, 4]))
def test_a_network_ends_lower_than_it_began(
    train: Callable[..., list[float]], first: int, hidden: int, batch_size: int
) -> None:
    """A step may raise a network's loss, but ten epochs lower it for most seeds."""
    falls = 0
    for seed in range(first, first + SEEDS):
        generator = torch.Generator(device="cpu").manual_seed(seed)
        labels = torch.arange(12, device="cpu") % 3
        # Three clusters two deviations apart in each coordinate: easy, but not solved at the start.
        inputs = torch.randn(12, 2, generator=generator, device="cpu") + 2 * labels[:, None]
        device = torch.get_default_device()
        with seeded(seed, device):
            model = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        data = inputs.to(device), labels.to(device)
        options = {"lr": 0.1, "epochs": 10, "batch_size": batch_size}
        losses = train(model, data, F.cross_entropy, **options)
        falls += losses[-1] < losses[0]

    assert falls > ENOUGH, f"the loss falls for most seeds: more than {ENOUGH} of {SEEDS}"


def new_network(features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, 3))


def memorizes(inputs: Tensor, labels: Tensor, epochs: int) -> float:
    """Train on one batch again and again, and return its last loss."""
    model = new_network(inputs.shape[1])
    optimizer = Adam(model.parameters(), lr=0.05)
    return fit(model, (inputs, labels), epochs=epochs, optimizer=optimizer)[-1].train_loss


def memorizes_with_a_dead_optimizer(inputs: Tensor, labels: Tensor, epochs: int) -> float:
    """Give the optimizer other parameters than the model's."""
    model = new_network(inputs.shape[1])
    optimizer = Adam(copy.deepcopy(model).parameters(), lr=0.05)
    return fit(model, (inputs, labels), epochs=epochs, optimizer=optimizer)[-1].train_loss


def memorizes_moving_labels(inputs: Tensor, labels: Tensor, epochs: int) -> float:
    """Shift every label by one class in each epoch."""
    model = new_network(inputs.shape[1])
    optimizer = Adam(model.parameters(), lr=0.05)
    for epoch in range(epochs):
        data = inputs, (labels + epoch) % 3
        history = fit(model, data, epochs=1, optimizer=optimizer)
    return history[-1].train_loss


@law(
    right=memorizes,
    wrong={memorizes_with_a_dead_optimizer: "nearly zero", memorizes_moving_labels: "nearly zero"},
    share=0.1,
    because="each example trains a network for 100 steps",
)
@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_one_small_batch_can_be_learnt_by_heart(
    train: Callable[[Tensor, Tensor, int], float], labels: list[int]
) -> None:
    """A correct network can drive the loss of a few examples to nearly zero."""
    inputs = torch.eye(len(labels))

    loss = train(inputs, torch.tensor(labels), 100)

    # Guessing among three classes gives log(3) = 1.1; 0.05 means 95 % for the right class.
    assert loss < 0.05, "the loss of one small batch goes to nearly zero"


def ends_quietly(*arguments: Any, **options: Any) -> None:
    """Stop without an error if the loss is not finite."""
    with suppress(DivergedError):
        fit(*arguments, **options)


@law(right=fit, wrong={ends_quietly: "DID NOT RAISE"})
@given(good=st.integers(0, 5), bad=st.sampled_from([math.nan, math.inf]))
def test_a_loss_that_is_not_finite_ends_training(
    fit: Callable[..., object], good: int, bad: float
) -> None:
    """Training stops with an error at the first such loss, and the weights stay finite."""
    model, losses = nn.Linear(1, 1), iter([1.0] * good)

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.square().mean() * next(losses, bad)

    with pytest.raises(DivergedError, match=f"epoch {good // 2 + 1}, batch {good % 2 + 1}: "):
        fit(model, (torch.ones(4, 1), torch.ones(4)), epochs=3, batch_size=2, loss_fn=loss_fn)

    assert all(bool(part.isfinite().all()) for part in model.parameters()), "weights stay finite"


def looks_at_the_held_out_data_later(*arguments: Any, validate: Any = None, **options: Any) -> None:
    """Train first, and use the held-out data afterwards."""
    fit(*arguments, **options)
    if validate is not None and not len(validate[0]) == len(validate[1]) > 0:
        raise ValueError("there are no examples for each of which there is a label")


def trains_no_epoch(*arguments: Any, epochs: int, **options: Any) -> list[object]:
    """Return an empty record for no epochs."""
    return fit(*arguments, epochs=epochs, **options) if epochs else []


@law(
    right=fit,
    wrong={looks_at_the_held_out_data_later: "before any training", trains_no_epoch: "DID NOT"},
)
@given(
    unusable=st.sampled_from(["epochs", "batch_size", "data", "validate"]),
    numbers=st.sampled_from([(0, 0), (3, 2), (2, 3)]),
)
def test_what_cannot_be_trained_on_is_refused_at_once(
    fit: Callable[..., object], unusable: str, numbers: tuple[int, int]
) -> None:
    """No epoch, no example, or an image without a label: ValueError, and no weight has moved."""
    data = torch.ones(numbers[0], 1), torch.zeros(numbers[1], dtype=torch.int64)
    options: dict[str, Any] = {
        "epochs": 1,
        "data": (torch.ones(2, 1), torch.tensor([0, 1])),
        unusable: 0 if unusable in ("epochs", "batch_size") else data,
    }
    model = nn.Linear(1, 2)
    before = [bits(parameter) for parameter in model.parameters()]

    with pytest.raises(ValueError, match=r"at least 1|no examples|images but"):
        fit(model, options.pop("data"), **options)

    assert [bits(p) for p in model.parameters()] == before, "it is refused before any training"
