"""The graph is used up.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Only call backward once per iteration.
Verdict: holds-if
Truth: The values that operations saved are freed by backward: a second call raises unless
    retain_graph=True; with it, the gradients add. Operations that save nothing do not notice: (x
    + 1).sum() goes twice, and the gradients add without a word.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor

from dlconcepts.strategies import Problem, problems, shapes, tensors
from dlconcepts.testing.laws import law
from tests.autograd.common import assert_close, float64, gradients, gradients_of


def backward_twice(loss: Tensor) -> None:
    """Call backward a second time, as it stands."""
    loss.backward()
    loss.backward()


def retains_the_graph(loss: Tensor) -> None:
    """Follow the advice of the error message without asking why the graph is walked twice."""
    loss.backward(retain_graph=True)
    loss.backward()


@law(
    right=backward_twice,
    wrong={retains_the_graph: "DID NOT RAISE"},
)
@given(problem=problems(dtype=float64))
def test_a_second_backward_raises(
    backward_twice: Callable[[Tensor], None], problem: Problem
) -> None:
    """The values that the operations saved are gone: the second walk raises, and adds nothing."""
    loss = problem.loss_fn(problem.model(problem.inputs), problem.labels)
    expected = gradients_of(problem.model, problem.loss_fn, problem.inputs, problem.labels)

    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        backward_twice(loss)

    for found, once in zip(gradients(problem.model), expected, strict=True):
        assert_close(found, once, "after the error, the gradient is that of one backward")


def adds_once(loss: Tensor) -> None:
    """Expect the second walk to have no effect."""
    loss.backward()


@law(
    right=backward_twice,
    wrong={adds_once: "walked again without a word"},
)
@given(x=tensors(shapes(min_side=1, max_dims=2), float64, max_magnitude=9.0, requires_grad=True))
def test_a_graph_that_saved_nothing_goes_twice(
    backward_twice: Callable[[Tensor], None], x: Tensor
) -> None:
    """A sum needs no saved value: its graph is walked again, and the gradients add in silence."""
    backward_twice((x + 1).sum())

    assert_close(x.grad, torch.full_like(x, 2), "a sum is walked again without a word")


def step_after_one_backward(weight: Tensor, loss: Tensor, lr: float) -> None:
    """Step along the gradient of one backward."""
    loss.backward(retain_graph=True)
    with torch.no_grad():
        weight -= lr * weight.grad


def steps_on_doubled_gradients(weight: Tensor, loss: Tensor, lr: float) -> None:
    """Call backward twice with retain_graph=True, then step."""
    loss.backward(retain_graph=True)
    step_after_one_backward(weight, loss, lr)


@law(
    right=step_after_one_backward,
    wrong={steps_on_doubled_gradients: "w - lr * gradient"},
)
@given(
    start=tensors((2,), float64, max_magnitude=9.0, layouts=["contiguous"]),
    x=tensors((2,), float64, max_magnitude=9.0),
)
def test_a_retained_graph_doubles_the_step(
    step: Callable[..., None], start: Tensor, x: Tensor
) -> None:
    """One backward and a step land at w - lr * gradient; a second backward adds the same again."""
    weight = start.clone().requires_grad_()
    slope = 2 * ((start * x).sum() - 1) * x
    loss = ((weight * x).sum() - 1).square()

    step(weight, loss, 0.5)

    assert_close(weight.detach(), start - 0.5 * slope, "the step lands at w - lr * gradient")
    loss.backward()
    assert_close(weight.grad, 2 * slope, "with retain_graph, the gradients of two walks add")
