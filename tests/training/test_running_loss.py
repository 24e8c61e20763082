"""The running loss weights each batch by its size and keeps no graph.

>>> losses = torch.tensor([1.0, 2.0, 3.0, 10.0]).split(3)  # two batches: 3 examples and 1
>>> sum(batch.mean().item() for batch in losses) / 2
6.0
>>> sum(batch.mean().item() * len(batch) for batch in losses) / 4
4.0

Notes: Keep a running loss over the epoch; loss.item() gives the number out of the scalar tensor.
Verdict: holds
Truth: The loss of an epoch is the mean over its examples, a Python float that starts at zero in
    each epoch. A batch's mean counts by the number of examples in it; with class weights or
    `ignore_index`, by the sum of the weights of its labels. However many batches there are, no
    graph stays alive after its batch.
"""

import gc
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from dlconcepts.strategies import Problem, problems
from dlconcepts.testing.laws import law
from dlconcepts.training import train_epoch, train_step
from tests.training.common import float64

Loader = Iterable[tuple[Tensor, Tensor]]
LossFunction = Callable[[Tensor, Tensor], Tensor]


def run_steps(
    model: nn.Module, loader: Loader, loss_fn: LossFunction, optimizer: Optimizer
) -> tuple[list[float], list[int]]:
    """Take a step for each batch and return the batches' mean losses and sizes."""
    losses, sizes = [], []
    for inputs, labels in loader:
        losses.append(train_step(model, loss_fn, optimizer, inputs, labels))
        sizes.append(len(labels))
    return losses, sizes


def averages_batch_means(*arguments: Any) -> float:
    """Divide the sum of the batch means by the number of batches, though the last is smaller."""
    losses, _ = run_steps(*arguments)
    return sum(losses) / len(losses)


def divides_by_the_examples(*arguments: Any) -> float:
    """Add batch means, but divide by the number of examples."""
    losses, sizes = run_steps(*arguments)
    return sum(losses) / sum(sizes)


def weights_by_examples(*arguments: Any) -> float:
    """Weight each batch's mean by its number of examples, though class weights count too."""
    losses, sizes = run_steps(*arguments)
    return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)


def never_resets(model: nn.Module, *arguments: Any) -> float:
    """Add each epoch's loss to that of the epochs before."""
    model.running_loss = getattr(model, "running_loss", 0.0) + train_epoch(model, *arguments)
    return model.running_loss


def returns_a_tensor(*arguments: Any) -> Tensor:
    """Return the mean as a tensor."""
    return torch.tensor(train_epoch(*arguments))


@st.composite
def problems_in_batches(draw: st.DrawFn) -> tuple[Problem, list[tuple[Tensor, Tensor]]]:
    """Draw a problem, and cut its examples into batches of different sizes."""
    problem = draw(problems(dtype=float64, any_loss=True))
    model, loss_fn, loader = problem.model, problem.loss_fn, []
    inputs, labels = problem.inputs, problem.labels
    while len(labels):
        size = draw(st.integers(1, 3))
        # The mean over no label is NaN, so a batch whose labels do not count ends the epoch.
        if not bool(loss_fn(model(inputs[:size]), labels[:size]).isfinite()):
            break
        loader.append((inputs[:size], labels[:size]))
        inputs, labels = inputs[size:], labels[size:]
    assume(loader)
    return problem, loader


@law(
    right=train_epoch,
    wrong={
        averages_batch_means: "example-weighted mean",
        divides_by_the_examples: "example-weighted mean",
        weights_by_examples: "example-weighted mean",
        never_resets: "starts anew",
        returns_a_tensor: "a Python float",
    },
)
@given(drawn=problems_in_batches())
def test_the_loss_of_an_epoch_is_the_mean_over_its_examples(
    train_epoch: Callable[..., float], drawn: tuple[Problem, list[tuple[Tensor, Tensor]]]
) -> None:
    """The loss of an epoch is the loss of all its outputs at once; every epoch starts at zero."""
    problem, loader = drawn
    optimizer = SGD(problem.model.parameters(), lr=0.1)
    outputs: list[Tensor] = []
    problem.model.register_forward_hook(lambda *call: outputs.append(call[2].detach()))
    labels = torch.cat([labels for _, labels in loader])

    # Two epochs: a running loss that is not reset is right in the first one.
    for epoch in ("first", "second"):
        outputs.clear()
        found = train_epoch(problem.model, loader, problem.loss_fn, optimizer)
        expected = problem.loss_fn(torch.cat(outputs), labels).item()
        assert type(found) is float, "the loss of an epoch is a Python float"
        fact = "is the example-weighted mean" if epoch == "first" else "starts anew"
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12), (
            f"the {epoch} epoch's loss {fact}"
        )


def adds_the_loss_tensors(
    model: nn.Module, loader: Loader, loss_fn: LossFunction, optimizer: Optimizer
) -> float:
    """Add the loss tensors, and call item() only at the end, so every batch's graph stays alive."""
    running_loss, seen = torch.zeros(()), 0
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), labels)
        loss.backward()
        optimizer.step()
        running_loss = running_loss + loss * len(labels)
        seen += len(labels)
    return running_loss.item() / seen


class Trace(torch.autograd.Function):
    """The identity; it leaves in the graph an object that lives as long as the graph does."""

    alive: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.trace = nn.Identity()  # any object that allows weak references
        Trace.alive.add(ctx.trace)
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


@contextmanager
def without_collector() -> Iterator[None]:
    # The cycle collector runs at any time and could free a graph that reference counting keeps.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@law(right=train_epoch, wrong={adds_the_loss_tensors: "one graph is alive"})
@given(count=st.integers(1, 5))
def test_no_graph_outlives_its_batch(train_epoch: Callable[..., float], count: int) -> None:
    """When a batch begins, at most the previous batch's graph is alive; after the epoch, none."""
    model = nn.Linear(1, 1)
    alive: list[int] = []
    Trace.alive.clear()

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(count):
            alive.append(len(Trace.alive))
            yield torch.ones(1, 1), torch.ones(1, 1)

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(Trace.apply(outputs), labels)

    with without_collector():
        train_epoch(model, loader(), loss_fn, SGD(model.parameters(), lr=0.1))

    assert max(alive) <= 1, "at most one graph is alive when a batch begins"
    assert not Trace.alive, "no graph is alive after the epoch"
