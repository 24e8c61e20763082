"""Going on with a training.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: (reason to save) There is no need to train again from scratch.
Verdict: holds-if
Truth: To continue exactly, the optimizer's state, the epoch and the random generators' states
    belong in the checkpoint.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.checkpoints import Training, capture, load, resume, save
from dlconcepts.networks import Network
from dlconcepts.strategies import batches
from dlconcepts.testing.laws import law
from dlconcepts.training import fit, seeded
from tests.checkpoints.common import models, parts_of, values_of


def forgets_the_optimizer(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Go on with a new optimizer, whose momentum and averages are zero."""
    fresh = copy.deepcopy(optimizer.state_dict())
    resume(training, optimizer, generator)
    optimizer.load_state_dict(fresh)


def forgets_the_random_state(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Go on with the optimizer's state alone."""
    optimizer.load_state_dict(training.optimizer)


def forgets_the_shuffling(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Go on with PyTorch's own random state, and a new generator for the order of examples."""
    resume(training, optimizer, generator)
    generator.manual_seed(0)


def seeds_again(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Go on from the seed, with the dropout of the first epoch."""
    resume(training, optimizer, generator)
    torch.manual_seed(0)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "AMSGrad": lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


@law(
    right=resume,
    wrong={
        forgets_the_optimizer: "bit for bit",
        forgets_the_random_state: "bit for bit",
        forgets_the_shuffling: "bit for bit",
        seeds_again: "bit for bit",
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
def test_a_resumed_training_is_an_unbroken_one(
    bring_back: Callable[..., None],
    model: Network,
    batch: tuple[Tensor, Tensor],
    optimizer: str,
    batch_size: int,
    epochs: tuple[int, int],
    folder: Path,
) -> None:
    """K epochs, a file, and n - k more from new objects are n epochs, bit for bit.

    That it also holds in a new process is tested with the command, in test_commands.py.
    """
    done, path = epochs[0], folder / "training.pt"
    device, unbroken = batch[0].device, copy.deepcopy(model)

    def go(model: Network, steps: torch.optim.Optimizer, start: int, end: int) -> list[float]:
        """Train from one epoch to another and return the losses."""
        history = fit(
            model,
            batch,
            epochs=end,
            start_epoch=start,
            batch_size=batch_size,
            optimizer=steps,
            generator=generator,
        )
        return [record.train_loss for record in history]

    with seeded(3, device):
        generator = torch.Generator(device="cpu").manual_seed(3)
        expected = go(unbroken, OPTIMIZERS[optimizer](unbroken.parameters()), 0, sum(epochs))

    with seeded(3, device):
        generator = torch.Generator(device="cpu").manual_seed(3)
        steps = OPTIMIZERS[optimizer](model.parameters())
        losses = go(model, steps, 0, done)
        training = capture(steps, generator, epoch=done)
        save(path, model, **parts_of(model), training=training)

    with seeded(4, device):
        checkpoint = load(path)
        resumed = checkpoint.model.to(device)
        generator = torch.Generator(device="cpu")
        steps = OPTIMIZERS[optimizer](resumed.parameters())
        bring_back(checkpoint.training, steps, generator)
        losses += go(resumed, steps, checkpoint.training.epoch, sum(epochs))

    assert values_of(resumed) == values_of(unbroken), (
        "a resumed training ends bit for bit where an unbroken one does"
    )
    assert losses == expected, "its losses are those of the unbroken one"
