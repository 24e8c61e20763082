"""backward belongs to the loss that a criterion returns, not to the criterion.

>>> criterion, w = nn.MSELoss(), torch.tensor([3.0], requires_grad=True)
>>> criterion.backward()
Traceback (most recent call last):
...
AttributeError: 'MSELoss' object has no attribute 'backward'
>>> loss = criterion(w, torch.tensor([1.0]))
>>> loss.backward()
>>> w.grad
tensor([4.])

Notes: Call criterion.backward() to compute the gradients.
Verdict: corrected
Truth: A criterion is a function of outputs and labels, as a module or not, and keeps no result.
    Each call returns a new tensor, and that tensor's backward computes the gradients. One criterion
    serves any number of losses.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import Problem, problems
from dlconcepts.testing.laws import law
from tests.training.common import assert_close, float64

Criterion = Callable[[Tensor, Tensor], Tensor]


def through_the_loss(criterion: Criterion, outputs: Tensor, labels: Tensor) -> None:
    """Call backward on what the criterion returns."""
    criterion(outputs, labels).backward()


def through_the_criterion(criterion: Criterion, outputs: Tensor, labels: Tensor) -> None:
    """Call the criterion, then its own backward, as the notes do."""
    criterion(outputs, labels)
    criterion.backward()


def through_the_number(criterion: Criterion, outputs: Tensor, labels: Tensor) -> None:
    """Call backward on the number that item() returns."""
    criterion(outputs, labels).item().backward()


def through_a_new_tensor(criterion: Criterion, outputs: Tensor, labels: Tensor) -> None:
    """Make a tensor of the number, which silences the error and has no history."""
    torch.tensor(criterion(outputs, labels).item(), requires_grad=True).backward()


@law(
    right=through_the_loss,
    wrong={
        through_the_criterion: "has no attribute 'backward'",
        through_the_number: "has no attribute 'backward'",
        through_a_new_tensor: "every parameter gets its gradient",
    },
)
@given(problem=problems(dtype=float64), as_function=st.booleans(), calls=st.integers(1, 2))
def test_backward_of_the_loss_computes_the_gradients(
    go_back: Callable[..., None], problem: Problem, as_function: bool, calls: int
) -> None:
    """Each loss of one criterion, a module or a function, adds its gradients."""
    model, criterion = problem.model, F.cross_entropy if as_function else problem.loss_fn
    parameters = list(model.parameters())
    loss = F.cross_entropy(model(problem.inputs), problem.labels)
    slopes = torch.autograd.grad(loss, parameters)

    try:
        for _ in range(calls):
            go_back(criterion, model(problem.inputs), problem.labels)
    except AttributeError as error:
        pytest.fail(str(error))

    for parameter, slope in zip(parameters, slopes, strict=True):
        assert parameter.grad is not None, "every parameter gets its gradient"
        assert_close(parameter.grad, calls * slope, "the gradients of all losses add up")


class KeepsItsLoss(nn.Module):
    """A criterion with a backward, for which it keeps only its last loss."""

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.loss = F.cross_entropy(outputs, labels)
        return self.loss

    def backward(self) -> None:
        self.loss.backward()


@law(right=nn.CrossEntropyLoss, wrong={KeepsItsLoss: "keeps nothing"})
@given(problem=problems(dtype=float64))
def test_a_criterion_keeps_no_result(build: Callable[[], nn.Module], problem: Problem) -> None:
    """A call leaves the attributes of a criterion as they were, and returns a new tensor."""
    criterion = build()
    before = dict(vars(criterion))

    losses = [criterion(problem.model(problem.inputs), problem.labels) for _ in range(2)]

    assert vars(criterion) == before, "a criterion keeps nothing of a call"
    assert losses[0] is not losses[1], "each call returns a new tensor"
