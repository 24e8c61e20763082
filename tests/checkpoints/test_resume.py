"""A run resumes exactly only if its optimizer and generators are restored.

>>> w = nn.Parameter(torch.tensor(9.0))
>>> w.grad = torch.tensor(2.0)  # the same in every step
>>> sgd, new, resumed = (torch.optim.SGD([w], lr=1.0, momentum=0.5) for _ in range(3))
>>> sgd.step()  # from 9 to 7
>>> resumed.load_state_dict(sgd.state_dict())
>>> for optimizer in (new, resumed):
...     optimizer.step()
...     print(w.item())  # the new one subtracts 2; the resumed one 2 + 0.5 * 2
5.0
2.0

Notes: (reason to save) There is no need to train again from scratch.
Verdict: holds-if
Truth: To resume exactly, the checkpoint must hold the optimizer's state, the epoch and the random
    generators' states: the one that shuffles, and PyTorch's own, which draws dropout.
"""

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dlconcepts.checkpoints import Training, capture, load, resume, save
from dlconcepts.networks import Network
from dlconcepts.strategies import batches
from dlconcepts.support.bitwise import bits
from dlconcepts.support.runs import seeded
from dlconcepts.testing.laws import law
from dlconcepts.training import fit
from tests.checkpoints.common import models, parts_of, values_of


def forgets_the_optimizer(
    training: Training, optimizer: Optimizer, generator: torch.Generator
) -> None:
    """Resume with a new optimizer, whose momentum and averages are zero."""
    fresh = copy.deepcopy(optimizer.state_dict())
    resume(training, optimizer, generator)
    optimizer.load_state_dict(fresh)


def forgets_the_random_state(
    training: Training, optimizer: Optimizer, generator: torch.Generator
) -> None:
    """Restore only the optimizer, not the random generators."""
    optimizer.load_state_dict(training.optimizer)


def forgets_the_shuffling(
    training: Training, optimizer: Optimizer, generator: torch.Generator
) -> None:
    """Restore PyTorch's global generator, but shuffle with a new one."""
    resume(training, optimizer, generator)
    generator.manual_seed(0)


def seeds_again(training: Training, optimizer: Optimizer, generator: torch.Generator) -> None:
    """Seed again after restoring, which repeats the dropout of the first epoch."""
    resume(training, optimizer, generator)
    torch.manual_seed(0)


def keeps_the_options(training: Training, optimizer: Optimizer, generator: torch.Generator) -> None:
    """Keep the options that the new optimizer was built with, such as its learning rate."""
    rates = [group["lr"] for group in optimizer.param_groups]
    resume(training, optimizer, generator)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda parameters: SGD(parameters, lr=0.1),
    "SGD with momentum": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: Adam(parameters, lr=0.01),
    "AMSGrad": lambda parameters: Adam(parameters, lr=0.01, amsgrad=True),
    "AdamW": lambda parameters: AdamW(parameters, lr=0.01),
}


@law(
    right=resume,
    wrong={
        forgets_the_optimizer: "bit for bit",
        forgets_the_random_state: "bit for bit",
        forgets_the_shuffling: "bit for bit",
        seeds_again: "bit for bit",
        keeps_the_options: "bit for bit",
    },
    share=0.4,
    because="each example trains two networks",
)
@given(
    model=models(in_features=2, hidden_features=[3], out_features=2),
    batch=batches(2, 2, max_magnitude=1),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    batch_size=st.integers(1, 4),
    epochs=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    restore: Callable[..., None],
    model: Network,
    batch: tuple[Tensor, Tensor],
    optimizer: str,
    batch_size: int,
    epochs: tuple[int, int],
    folder: Path,
) -> None:
    """Training k epochs, saving, loading and training n - k more equals n epochs, bit for bit."""
    (done, more), path = epochs, folder / "training.pt"
    device, uninterrupted = batch[0].device, copy.deepcopy(model)
    new_optimizer = OPTIMIZERS[optimizer]

    def built(model: Network) -> Optimizer:
        steps = new_optimizer(model.parameters())
        steps.param_groups[0]["lr"] /= 2  # as a schedule does during a run
        return steps

    def train(model: Network, steps: Optimizer, start: int, end: int) -> list[float]:
        options = {"start_epoch": start, "optimizer": steps, "generator": generator}
        history = fit(model, batch, epochs=end, batch_size=batch_size, **options)
        return [record.train_loss for record in history]

    with seeded(3, device):
        generator = torch.Generator(device="cpu").manual_seed(3)
        steps = built(uninterrupted)
        expected = train(uninterrupted, steps, 0, done + more)

    with seeded(3, device):
        generator = torch.Generator(device="cpu").manual_seed(3)
        steps = built(model)
        losses = train(model, steps, 0, done)
        training = capture(steps, generator, epoch=done)
        save(path, model, **parts_of(model), training=training)

    # Everything is new, under another seed, as in a new process.
    with seeded(4, device):
        checkpoint = load(path)
        resumed = checkpoint.model.to(device)
        generator = torch.Generator(device="cpu")
        steps = new_optimizer(resumed.parameters())
        restore(checkpoint.training, steps, generator)
        losses += train(resumed, steps, checkpoint.training.epoch, done + more)

    assert values_of(resumed) == values_of(uninterrupted), (
        "a resumed run ends bit for bit where an uninterrupted one does"
    )
    assert losses == expected, "its losses are bit for bit those of the uninterrupted run"


def restores_the_generators_first(
    training: Training, optimizer: Optimizer, generator: torch.Generator
) -> None:
    """Restore the generators before it is known whether the optimizer fits."""
    generator.set_state(training.random_states["shuffling"])
    resume(training, optimizer, generator)


def starts_anew(training: Training, optimizer: Optimizer, generator: torch.Generator) -> None:
    """Leave an optimizer that has other parameters as it is, and restore the rest."""
    with suppress(ValueError):
        resume(training, optimizer, generator)


@law(
    right=resume,
    wrong={restores_the_generators_first: "are as they were", starts_anew: "DID NOT RAISE"},
)
@given(
    sizes=st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=2), min_size=2, max_size=2),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
)
def test_an_optimizer_of_other_parameters_is_refused(
    restore: Callable[..., None], sizes: list[list[int]], optimizer: str
) -> None:
    """Another number of groups, or of parameters in one, is an error before anything changes."""
    assume(sizes[0] != sizes[1])
    saved, other = (
        OPTIMIZERS[optimizer](
            [{"params": [nn.Parameter(torch.ones(1)) for _ in range(n)]} for n in own]
        )
        for own in sizes
    )
    other.param_groups[0]["lr"] = 7.0
    generator = torch.Generator(device="cpu").manual_seed(2)
    training = capture(saved, torch.Generator(device="cpu").manual_seed(1), epoch=1)
    torch.rand((), device="cpu")  # moves the global generator on
    before = bits(generator.get_state()), bits(torch.get_rng_state())

    with pytest.raises(ValueError, match="parameter group"):
        restore(training, other, generator)

    unchanged = (bits(generator.get_state()), bits(torch.get_rng_state())) == before
    assert unchanged, "the generators are as they were"
    assert other.param_groups[0]["lr"] == 7.0, "the optimizer is as it was"
