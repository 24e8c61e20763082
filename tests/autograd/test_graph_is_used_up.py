"""backward frees the graph, so most graphs allow only one backward.

>>> w = torch.tensor(0.0, requires_grad=True)
>>> b = torch.tensor(1.0, requires_grad=True)
>>> loss = w.exp() + b
>>> loss.backward()
>>> loss.backward()  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
RuntimeError: Trying to backward through the graph a second time ...
>>> w.grad, b.grad
(tensor(1.), tensor(2.))

Notes: Only call backward once per iteration.
Verdict: holds-if
Truth: `backward` frees the values that operations saved, so a second call raises, unless the first
    had `retain_graph=True`; the gradients then add. A graph whose operations saved nothing can be
    walked again: after two calls on `(x + 1).sum()` the gradients have added, without an error. So
    a call that raises may already have added to the leaves on such a path: zero the gradients.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor

from dlconcepts.autograd import leaves
from dlconcepts.strategies import Problem, problems, shapes, tensors
from dlconcepts.testing.laws import law
from tests.autograd.common import assert_close, float64, gradients, gradients_of


def backward_twice(loss: Tensor) -> None:
    loss.backward()
    loss.backward()


def retains_the_graph(loss: Tensor) -> None:
    """Pass retain_graph=True, as the error message says, though nobody needs a second walk."""
    loss.backward(retain_graph=True)
    loss.backward()


@law(right=backward_twice, wrong={retains_the_graph: "DID NOT RAISE"})
@given(problem=problems(dtype=float64))
def test_a_second_backward_raises(
    backward_twice: Callable[[Tensor], None], problem: Problem
) -> None:
    """The first backward frees the saved values, so a second one raises; here it adds nothing."""
    loss = problem.loss_fn(problem.model(problem.inputs), problem.labels)
    expected = gradients_of(problem.model, problem.loss_fn, problem.inputs, problem.labels)

    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        backward_twice(loss)

    for found, once in zip(gradients(problem.model), expected, strict=True):
        assert_close(found, once, "after the error, grad still holds one gradient")


def adds_once(loss: Tensor) -> None:
    """Expect the second backward to have no effect."""
    loss.backward()


@law(right=backward_twice, wrong={adds_once: "walked again without an error"})
@given(x=tensors(shapes(min_side=1, max_dims=2), float64, max_magnitude=9.0, requires_grad=True))
def test_a_graph_that_saved_nothing_can_be_walked_twice(
    backward_twice: Callable[[Tensor], None], x: Tensor
) -> None:
    """A sum saves no values, so its graph can be walked again, and the gradients add."""
    backward_twice((x + 1).sum())

    assert_close(x.grad, torch.full_like(x, 2), "a sum is walked again without an error")


def undoes_the_walk(loss: Tensor) -> None:
    """Restore the gradients if backward raises, as if it were all or nothing."""
    loss.backward()
    before = [(leaf, leaf.grad.clone()) for leaf in leaves(loss)]
    try:
        loss.backward()
    except RuntimeError:
        for leaf, grad in before:
            leaf.grad = grad
        raise


def checks_first(loss: Tensor) -> None:
    """Try the walk with torch.autograd.grad, which stores nothing, before backward."""
    loss.backward()
    torch.autograd.grad(loss, leaves(loss))
    loss.backward()


@law(right=backward_twice, wrong={undoes_the_walk: "already added", checks_first: "already added"})
@given(
    w=tensors(shapes(min_side=1, max_dims=2), float64, max_magnitude=9.0, requires_grad=True),
    b=tensors(shapes(min_side=1, max_dims=2), float64, max_magnitude=9.0, requires_grad=True),
)
def test_a_backward_that_raises_may_already_have_added(
    backward_twice: Callable[[Tensor], None], w: Tensor, b: Tensor
) -> None:
    """The error comes on the path that saved values; a path without any was walked before."""
    # Autograd visits the operation that was recorded last first: here the sum of b.
    loss = w.exp().sum() + b.sum()

    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        backward_twice(loss)

    assert_close(w.grad, w.detach().exp(), "where values were saved, grad holds one gradient")
    assert_close(b.grad, torch.full_like(b, 2), "where none were, the call has already added")


def step_after_one_backward(weight: Tensor, loss: Tensor, lr: float) -> None:
    loss.backward(retain_graph=True)
    with torch.no_grad():
        weight -= lr * weight.grad


def steps_on_doubled_gradients(weight: Tensor, loss: Tensor, lr: float) -> None:
    """Call backward twice, with retain_graph=True, and step on the sum."""
    loss.backward(retain_graph=True)
    step_after_one_backward(weight, loss, lr)


@law(right=step_after_one_backward, wrong={steps_on_doubled_gradients: "w - lr * gradient"})
@given(
    start=tensors((2,), float64, max_magnitude=9.0, layouts=["contiguous"]),
    x=tensors((2,), float64, max_magnitude=9.0),
)
def test_a_retained_graph_doubles_the_step(
    step: Callable[..., None], start: Tensor, x: Tensor
) -> None:
    """A step ends at w - lr * gradient; a second backward would double the gradient."""
    weight = start.clone().requires_grad_()
    slope = 2 * ((start * x).sum() - 1) * x
    loss = ((weight * x).sum() - 1).square()

    step(weight, loss, 0.5)

    assert_close(weight.detach(), start - 0.5 * slope, "the step ends at w - lr * gradient")
    loss.backward()
    assert_close(weight.grad, 2 * slope, "with retain_graph, the gradients of two walks add")
