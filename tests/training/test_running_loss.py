"""The running loss.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Keep a running loss over the epoch; loss.item() gives the number out of the scalar tensor.
Verdict: holds
"""

import gc
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from dlconcepts.strategies import Problem, batches, problems
from dlconcepts.testing.laws import law
from dlconcepts.training import train_epoch, train_step
from tests.training.common import Train, float64


class KeepsEveryLoss:
    """Adds the loss tensors themselves; called like train_epoch."""

    __name__ = "adds_the_loss_tensors"

    def __call__(
        self,
        model: nn.Module,
        loader: Iterable[tuple[Tensor, Tensor]],
        loss_fn: Callable[..., Tensor],
        optimizer: Optimizer,
    ) -> float:
        """Take the item of the sum at the end of the epoch."""
        running_loss, seen = torch.zeros(()), 0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss = running_loss + loss * len(labels)
            seen += len(labels)
        return running_loss.item() / seen


def epoch_with(total: Callable[[list[float], list[int]], Any]) -> Train:
    """Return an epoch that makes this of the losses and sizes of its batches."""

    def epoch(
        model: nn.Module,
        loader: Iterable[tuple[Tensor, Tensor]],
        loss_fn: Callable[..., Tensor],
        optimizer: Optimizer,
    ) -> Any:
        """Take one step for each batch."""
        losses, sizes = [], []
        for inputs, labels in loader:
            losses.append(train_step(model, loss_fn, optimizer, inputs, labels))
            sizes.append(len(labels))
        return total(losses, sizes)

    return epoch


def averages_batch_means(*arguments: Any) -> Any:
    """Divide the sum of the batch means by the number of batches, though the last is smaller."""
    return epoch_with(lambda losses, sizes: sum(losses) / len(losses))(*arguments)


def divides_by_the_examples(*arguments: Any) -> Any:
    """Add batch means, but divide by the number of examples."""
    return epoch_with(lambda losses, sizes: sum(losses) / sum(sizes))(*arguments)


def never_resets(*arguments: Any) -> Any:
    """Go on adding where the last epoch stopped."""
    epoch = epoch_with(lambda losses, sizes: float(np.average(losses, weights=sizes)))
    model = arguments[0]
    model.running_loss = getattr(model, "running_loss", 0.0) + epoch(*arguments)
    return model.running_loss


def returns_a_tensor(*arguments: Any) -> Any:
    """Return the mean as a tensor."""
    return torch.tensor(train_epoch(*arguments))


@st.composite
def problems_in_batches(
    draw: st.DrawFn,
) -> tuple[Problem, list[tuple[Tensor, Tensor]]]:
    """Draw a problem and batches for it, of different sizes."""
    problem = draw(problems(dtype=float64, max_size=1))
    sizes = problem.model[0].in_features, problem.model[-1].out_features
    drawn = batches(*sizes, max_size=3, dtype=float64)
    return problem, draw(st.lists(drawn, min_size=1, max_size=3))


@law(
    right=train_epoch,
    wrong={
        averages_batch_means: "example-weighted mean",
        divides_by_the_examples: "example-weighted mean",
        never_resets: "starts anew",
        returns_a_tensor: "a Python float",
    },
)
@given(drawn=problems_in_batches())
def test_the_loss_of_an_epoch_is_the_mean_over_its_examples(
    train_epoch: Callable[..., float], drawn: tuple[Problem, list[tuple[Tensor, Tensor]]]
) -> None:
    """Each batch's mean loss counts by its examples; every epoch starts anew at zero."""
    problem, loader = drawn
    optimizer = SGD(problem.model.parameters(), lr=0.1)
    recorded: list[tuple[float, int]] = []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        loss = problem.loss_fn(outputs, labels)
        recorded.append((loss.item(), len(labels)))
        return loss

    for epoch in ("first", "second"):
        recorded.clear()
        found = train_epoch(problem.model, loader, loss_fn, optimizer)
        expected = sum(loss * size for loss, size in recorded) / sum(size for _, size in recorded)
        assert type(found) is float, "the loss of an epoch is a Python float"
        law = "is the example-weighted mean" if epoch == "first" else "starts anew"
        assert math.isclose(found, expected, rel_tol=1e-9), f"the {epoch} epoch's loss {law}"


class Trace(torch.autograd.Function):
    """The identity, which leaves in the graph an object that lives as long as the graph does."""

    alive: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        """Return the inputs."""
        ctx.trace = nn.Identity()
        Trace.alive.add(ctx.trace)
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient."""
        return gradients[0]


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python's collector from finding what reference counts did not free."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@law(
    right=train_epoch,
    wrong={KeepsEveryLoss(): "one graph is alive"},
)
@given(count=st.integers(1, 5))
def test_no_graph_outlives_its_batch(train_epoch: Callable[..., float], count: int) -> None:
    """However many batches there were, at most the last one's graph is there when one begins."""
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
