"""An epoch.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: An epoch is one pass through the whole data set; the outer loop is epochs, the inner one
    mini-batches.
Verdict: holds
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from dlconcepts.testing.laws import law
from dlconcepts.training import fit, train_step
from tests.training.common import Pairs, Recorder, Train, as_examples, as_tensors


def loop(
    model: Recorder,
    optimizer: Optimizer,
    batches_of_epochs: Iterable[Iterable[tuple[Tensor, Tensor]]],
) -> None:
    """Train on the batches of each epoch."""
    for batches_of_epoch in batches_of_epochs:
        for inputs, labels in batches_of_epoch:
            train_step(model, model.loss, optimizer, inputs, labels)


def cut(data: tuple[Tensor, Tensor], batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Cut examples into batches, in order."""
    return list(zip(data[0].split(batch_size), data[1].split(batch_size), strict=True))


def one_batch_per_epoch(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Take next(iter(loader)) for an epoch."""
    loop(model, optimizer, [cut(data, batch_size)[:1]] * epochs)


def builds_the_iterator_once(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Make an iterator before the loop over the epochs: the second epoch sees nothing."""
    loop(model, optimizer, [iter(cut(data, batch_size))] * epochs)


def drops_the_last_batch(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Round the number of batches down."""
    loop(model, optimizer, [cut(data, batch_size)[: len(data[1]) // batch_size]] * epochs)


def draws_with_replacement(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Draw each batch anew from all examples."""
    n, batches_of_epochs = len(data[1]), []
    for _ in range(epochs):
        chosen = torch.randint(n, (n,))
        batches_of_epochs.append(cut((data[0][chosen], data[1][chosen]), batch_size))
    loop(model, optimizer, batches_of_epochs)


def shuffles_the_images_alone(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Draw one order for the images and another for the labels."""
    n = len(data[1])
    shuffled = data[0][torch.randperm(n)], data[1][torch.randperm(n)]
    loop(model, optimizer, [cut(shuffled, batch_size)] * epochs)


def train_and_check(
    train: Train, data: object, *, n: int, epochs: int, batch_size: int, **options: Any
) -> None:
    """Train a recorder on examples whose value is their number, and check what it has seen."""
    model = Recorder()
    optimizer, steps = SGD(model.parameters(), lr=0.0), []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))

    train(
        model,
        data,
        epochs=epochs,
        optimizer=optimizer,
        loss_fn=model.loss,
        **({} if isinstance(data, DataLoader) else {"batch_size": batch_size}),
        **options,
    )

    seen = [int(value) for value in model.seen]
    assert len(seen) == epochs * n, "every epoch has as many examples as the data"
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n)), (
            "every example is seen exactly once in each epoch"
        )
    assert model.labels == seen, "every example comes with its own label"
    assert len(steps) == epochs * math.ceil(n / batch_size), "there is one step for each batch"


@law(
    right=fit,
    wrong={
        one_batch_per_epoch: "as many examples as the data",
        builds_the_iterator_once: "as many examples as the data",
        drops_the_last_batch: "as many examples as the data",
        draws_with_replacement: "exactly once in each epoch",
        shuffles_the_images_alone: "its own label",
    },
)
@given(
    n=st.integers(1, 9),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 10),
    seed=st.integers(0, 9),
)
def test_every_example_is_seen_once_an_epoch(
    train: Train, n: int, epochs: int, batch_size: int, seed: int
) -> None:
    """There are epochs * ceil(n / b) steps, and every example is seen with its label each epoch."""
    data = torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n)

    train_and_check(train, data, n=n, epochs=epochs, batch_size=batch_size, seed=seed)


def as_loader(n: int, batch_size: int) -> object:
    """Return a DataLoader."""
    return DataLoader(Pairs(n), batch_size, shuffle=True)


def as_generator_once(
    model: Recorder, data: Any, *, epochs: int, batch_size: int = 0, optimizer: Optimizer, **_: Any
) -> None:
    """Turn the data into an iterator, to take batches or examples from."""
    once = iter(data if isinstance(data, DataLoader) else DataLoader(data, batch_size))
    loop(model, optimizer, [once] * epochs)


@law(
    right=fit,
    wrong={as_generator_once: "as many examples as the data"},
    cpu_only="a DataLoader shuffles with a generator on the CPU",
)
@given(
    form=st.sampled_from([as_tensors, as_examples, as_loader]),
    n=st.integers(1, 5),
    epochs=st.integers(1, 2),
    batch_size=st.integers(1, 6),
)
def test_any_form_of_data_is_seen_once_an_epoch(
    train: Train, form: Callable[[int, int], object], n: int, epochs: int, batch_size: int
) -> None:
    """A Dataset and a DataLoader are passed through as a pair of tensors is."""
    train_and_check(train, form(n, batch_size), n=n, epochs=epochs, batch_size=batch_size)
