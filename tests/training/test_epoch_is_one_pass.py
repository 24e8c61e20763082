"""An epoch sees every example exactly once, batch by batch.

>>> from torch.utils.data import DataLoader
>>> loader = DataLoader([10, 20, 30, 40, 50], batch_size=2)
>>> for epoch in (1, 2):
...     for batch in loader:
...         print(epoch, batch)
1 tensor([10, 20])
1 tensor([30, 40])
1 tensor([50])
2 tensor([10, 20])
2 tensor([30, 40])
2 tensor([50])

Notes: An epoch is one pass through the whole data set; the outer loop is over epochs, the inner
    one over mini-batches.
Verdict: holds
Truth: Training on n examples in batches of b takes epochs * ceil(n / b) optimizer steps, and sees
    every example exactly `epochs` times, each with its own label.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from dlconcepts.support.runs import Epoch, History
from dlconcepts.testing.laws import law
from dlconcepts.training import fit, train_step
from dlconcepts.validation import evaluate
from tests.training.common import Pairs, Recorder, as_examples, as_pair, as_tensors

Train = Callable[..., object]
Batch = tuple[Tensor, Tensor]


def train_on(model: Recorder, optimizer: Optimizer, epochs: Iterable[Iterable[Batch]]) -> None:
    for batches in epochs:
        for inputs, labels in batches:
            train_step(model, model.loss, optimizer, inputs, labels)


def cut(data: Batch, batch_size: int) -> list[Batch]:
    return list(zip(data[0].split(batch_size), data[1].split(batch_size), strict=True))


def one_batch_per_epoch(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Take `next(iter(loader))` for an epoch."""
    train_on(model, optimizer, [cut(data, batch_size)[:1]] * epochs)


def builds_the_iterator_once(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Build the iterator before the loop over epochs, so the second epoch sees nothing."""
    train_on(model, optimizer, [iter(cut(data, batch_size))] * epochs)


def drops_the_last_batch(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Round the number of batches down."""
    train_on(model, optimizer, [cut(data, batch_size)[: len(data[1]) // batch_size]] * epochs)


def draws_with_replacement(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Draw the examples of each epoch with replacement, so some are missed and some repeated."""
    n = len(data[1])
    chosen = [torch.randint(n, (n,)) for _ in range(epochs)]
    train_on(model, optimizer, [cut((data[0][k], data[1][k]), batch_size) for k in chosen])


def shuffles_the_images_alone(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Draw one order for the images and another for the labels."""
    n = len(data[1])
    shuffled = data[0][torch.randperm(n)], data[1][torch.randperm(n)]
    train_on(model, optimizer, [cut(shuffled, batch_size)] * epochs)


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
    batch_size=st.integers(1, 10),  # up to one more than there are examples
    seed=st.integers(0, 9),
)
def test_every_example_is_seen_once_an_epoch(
    train: Train, n: int, epochs: int, batch_size: int, seed: int
) -> None:
    """There are epochs * ceil(n / b) steps, and each epoch sees every example with its label."""
    train_and_check(train, as_pair(n, batch_size), n, epochs, batch_size, seed=seed)


def train_and_check(
    train: Train, data: object, n: int, epochs: int, batch_size: int, **options: Any
) -> None:
    model = Recorder()
    # The learning rate does not matter: what is compared is which examples the model sees.
    optimizer, steps = SGD(model.parameters(), lr=0.0), []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    if not isinstance(data, DataLoader):  # which has its own batch size
        options["batch_size"] = batch_size

    train(model, data, epochs=epochs, optimizer=optimizer, loss_fn=model.loss, **options)

    seen = [int(value) for value in model.seen]
    assert len(seen) == epochs * n, "every epoch has as many examples as the data"
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n)), (
            "every example is seen exactly once in each epoch"
        )
    assert model.labels == seen, "every example comes with its own label"
    assert len(steps) == epochs * math.ceil(n / batch_size), "there is one step for each batch"


def as_loader(n: int, batch_size: int) -> DataLoader[Batch]:
    return DataLoader(Pairs(n), batch_size, shuffle=True)


def as_generator_once(
    model: Recorder, data: Any, *, epochs: int, batch_size: int = 0, optimizer: Optimizer, **_: Any
) -> None:
    """Turn the data into one iterator, which the first epoch uses up."""
    once = iter(data if isinstance(data, DataLoader) else DataLoader(data, batch_size))
    train_on(model, optimizer, [once] * epochs)


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
    """An epoch is one pass over a Dataset or a DataLoader too."""
    train_and_check(train, form(n, batch_size), n, epochs, batch_size)


def trains_all_again(*arguments: Any, start_epoch: int, **options: Any) -> History:
    """Begin again at the first epoch when a run is resumed."""
    return fit(*arguments, **options)


def trains_more(*arguments: Any, epochs: int, start_epoch: int, **options: Any) -> History:
    """Take `epochs` for the number of further epochs."""
    return fit(*arguments, epochs=start_epoch + epochs, start_epoch=start_epoch, **options)


def lets_ctrl_c_through(*arguments: Any, epochs: int, start_epoch: int, **options: Any) -> History:
    """Let Ctrl-C end the program, and the record is lost."""
    history = fit(*arguments, epochs=epochs, start_epoch=start_epoch, **options)
    if len(history) < epochs - start_epoch:
        raise KeyboardInterrupt
    return history


def calls_back_at_the_end(
    *arguments: Any, callback: Callable[[Epoch], None], **options: Any
) -> Any:
    """Report the epochs when all of them are over."""
    history = fit(*arguments, **options)
    with suppress(KeyboardInterrupt):
        for record in history:
            callback(record)
    return history


def validates_on_the_training_data(model: Any, data: Any, *, validate: Any, **options: Any) -> Any:
    """Evaluate the data that the model has seen."""
    return fit(model, data, validate=data, **options)


def ends_in_eval_mode(model: nn.Module, *arguments: Any, **options: Any) -> History:
    """Leave the model in eval mode."""
    history = fit(model, *arguments, **options)
    model.eval()
    return history


def computes_whole_batches(*arguments: Any, accumulate: int, **options: Any) -> History:
    """Ignore `accumulate`, so the memory must hold whole batches."""
    return fit(*arguments, **options)


@law(
    right=fit,
    wrong={
        trains_all_again: "that was finished has a record",
        trains_more: "that was finished has a record",
        lets_ctrl_c_through: "without an error",
        calls_back_at_the_end: "that was finished has a record",
        validates_on_the_training_data: "held-out loss and accuracy",
        ends_in_eval_mode: "ends in training mode",
        computes_whole_batches: "in as many pieces",
    },
)
@given(
    n=st.integers(1, 5),
    batch_size=st.integers(1, 6),
    accumulate=st.integers(1, 3),
    done=st.integers(0, 2),
    epochs=st.integers(1, 3),
    stop=st.integers(1, 4),  # the epoch after which somebody presses Ctrl-C
)
def test_each_finished_epoch_has_a_record(
    train: Callable[..., History],
    n: int,
    batch_size: int,
    accumulate: int,
    done: int,
    epochs: int,
    stop: int,
) -> None:
    """A record has the epoch's number, its mean loss, and what `evaluate` finds at its end."""
    model = nn.Linear(1, 2).eval()
    images, labels = as_pair(n, batch_size)
    held_out = torch.tensor([[-1.0], [3.0]]), torch.tensor([0, 1])
    records: list[Epoch] = []
    found: list[tuple[float, float]] = []
    pieces: list[tuple[int, float]] = []

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs, targets)
        if model.training:
            pieces.append((len(targets), loss.item()))
        return loss

    def callback(record: Epoch) -> None:
        records.append(record)
        result = evaluate(model, held_out, loss_fn=loss_fn)
        found.append((result.loss, result.accuracy))
        if len(records) == stop:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"batch_size": batch_size, "accumulate": accumulate}
    options |= {"optimizer": SGD(model.parameters(), lr=0.1), "loss_fn": loss_fn}
    options |= {"validate": held_out, "callback": callback}
    try:
        history = train(
            model, (images, labels % 2), epochs=done + epochs, start_epoch=done, **options
        )
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C ends training early, without an error")

    numbers = list(range(done + 1, done + min(epochs, stop) + 1))
    assert [record.epoch for record in history] == numbers, (
        "each epoch after start_epoch that was finished has a record"
    )
    assert records == history, "the callback gets each record"
    for record, expected in zip(history, found, strict=True):
        assert (record.held_out_loss, record.held_out_accuracy) == pytest.approx(expected), (
            "the held-out loss and accuracy are those at the end of the epoch"
        )
    mean = sum(size * loss for size, loss in pieces) / n / len(history)
    # Room for float32's rounding of each piece's loss.
    assert math.isclose(sum(r.train_loss for r in history) / len(history), mean, rel_tol=1e-5), (
        "train_loss is the mean over the examples"
    )
    assert max(pieces)[0] <= math.ceil(min(n, batch_size) / accumulate), (
        "each batch is computed in as many pieces as asked for"
    )
    assert model.training, "the model ends in training mode"
