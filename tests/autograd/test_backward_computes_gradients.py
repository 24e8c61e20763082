"""backward computes the gradient of a result for every leaf it came from.

>>> x = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
>>> x.square().mean().backward()
>>> x.grad
tensor([0.5000, 1.0000, 1.5000, 2.0000])
>>> torch.equal(x.grad, 2 * x / 4)
True

Notes: `backward()` goes back through the operations and computes the gradients of one tensor with
    respect to another.
Verdict: holds
Truth: The gradient has its tensor's shape and equals the derivative: closed forms, and central
    differences in float64. Only leaves keep it in `grad`.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.autograd import central_differences, gradient
from dlconcepts.strategies import shapes, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.autograd.common import apply_chain, assert_close, chains, float64


def mean_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    return gradient(lambda x: function(x).mean(), x)


def differentiates_the_sum(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """Differentiate the sum instead of the mean."""
    return gradient(lambda x: function(x).sum(), x)


def reads_grad_of_a_non_leaf(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """Scale the input after requires_grad_(), which makes a non-leaf, and read its grad."""
    x = x.detach().clone().requires_grad_() * 1
    function(x).mean().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of this mistake
        return x.grad


def gradient_of_the_flat_input(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """Flatten the input first, so the gradient has another shape."""
    return gradient(lambda x: function(x).mean(), x.reshape(-1))


CLOSED_FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Any], Any]]] = {
    "square": (torch.square, lambda x: 2 * x),
    "cube": (lambda x: x**3, lambda x: 3 * x**2),
    "exp": (torch.exp, np.exp),
    "sin": (torch.sin, np.cos),
    "relu": (torch.relu, lambda x: (x > 0).astype(x.dtype)),  # at 0 torch takes 0
    "softplus": (nn.functional.softplus, lambda x: 1 / (1 + np.exp(-x))),
}


@law(
    right=mean_gradient,
    wrong={
        differentiates_the_sum: "closed form",
        reads_grad_of_a_non_leaf: "only leaves keep their gradient",
        gradient_of_the_flat_input: "its tensor's shape",
    },
)
@given(
    name=st.sampled_from(sorted(CLOSED_FORMS)),
    x=tensors(shapes(min_side=1), float64, max_magnitude=5.0),
)
def test_gradients_equal_their_closed_forms(
    mean_gradient: Callable[..., Tensor | None], name: str, x: Tensor
) -> None:
    """The gradient of a mean of n values is the derivative over n, as 2x/n for squares."""
    function, derivative = CLOSED_FORMS[name]
    before = bits(x)

    found = mean_gradient(function, x)

    assert found is not None, "only leaves keep their gradient: here there is none"
    assert found.shape == x.shape, "a gradient has its tensor's shape"
    expected = torch.as_tensor(derivative(x.numpy(force=True)) / x.numel(), device=x.device)
    assert_close(found, expected, "the gradient is the closed form")
    assert bits(x) == before, "the argument stays as it was"


def takes_a_long_step(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Take differences over a step of 0.01, whose error is large."""
    return central_differences(function, x, step=0.01)


def differentiates_in_half_precision(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute in bfloat16, which keeps eight significant bits."""
    return gradient(lambda x: function(x.bfloat16().double()), x)


@law(
    right=gradient,
    wrong={
        takes_a_long_step: "central differences",
        differentiates_in_half_precision: "central differences",
    },
)
@given(names=chains, x=tensors((3,), float64, max_magnitude=2.0))
def test_gradients_equal_central_differences(
    gradient: Callable[..., Tensor], names: list[str], x: Tensor
) -> None:
    """For compositions of operations, the gradient agrees with differences of their values."""
    # Differences fail at the kink of Abs, and three squares make the third derivative too large.
    assume(names.count("Pow") < 3 and "Abs" not in names)
    factors = torch.tensor([1.0, -2.0, 3.0], dtype=float64)

    def function(x: Tensor) -> Tensor:
        return (apply_chain(names, x) * factors).sum()

    expected = central_differences(function, x)
    # The error is step**2 / 6 times the third derivative, which is below 1e5: 2e-6.
    assert_close(
        gradient(function, x), expected, "backward agrees with central differences", atol=1e-5
    )


def forward_differences(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Step forward only, so the error falls with the step, not with its square."""
    x = x.double()
    steps = step * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    return torch.stack([(function(x + h) - function(x)) / step for h in steps]).view(x.shape)


def differences_in_float32(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Take differences of float32 values, whose rounding is as large as the differences."""
    return central_differences(lambda y: function(y).float().double(), x, step=step)


def ignores_the_step(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Use one step for all functions."""
    return central_differences(function, x)


def keeps_the_dtype(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Round the gradient to the dtype of x."""
    return central_differences(function, x, step=step).to(x.dtype)


def flattens(function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5) -> Tensor:
    """Return a list of the slopes."""
    return central_differences(function, x, step=step).flatten()


@law(
    right=central_differences,
    wrong={
        forward_differences: "square of the step",
        differences_in_float32: "square of the step",
        ignores_the_step: "square of the step",
        keeps_the_dtype: "has the shape of x, in float64",
        flattens: "has the shape of x, in float64",
    },
)
@given(
    x=tensors(
        st.sampled_from([(3,), (), (3, 1), (2, 2)]),
        st.sampled_from([torch.float32, float64]),
        max_magnitude=9.0,
    ),
    numbers=tensors((4, 4), float64, max_magnitude=9.0),
    step=st.sampled_from([1e-5, 0.5]),
)
def test_central_differences_are_off_by_the_square_of_the_step(
    differences: Callable[..., Tensor], x: Tensor, numbers: Tensor, step: float
) -> None:
    """Central differences are exact for a quadratic; for a cube they add the square of the step."""
    matrix, before = numbers[: x.numel(), : x.numel()], bits(x)

    def function(y: Tensor) -> Tensor:
        assert (y.dtype, y.shape) == (float64, x.shape), "the function gets float64, as x is shaped"
        return y.flatten() @ matrix @ y.flatten() + (y**3).sum()

    found = differences(function, x, step=step)

    at = x.double()
    slope = ((matrix + matrix.T) @ at.flatten()).view(x.shape) + 3 * at**2 + step**2
    assert (found.shape, found.dtype) == (x.shape, float64), "it has the shape of x, in float64"
    # Values reach 9**3 * 19. Their rounding, 2e-12, is divided by the step of 1e-5.
    torch.testing.assert_close(
        found, slope, rtol=0, atol=1e-6, msg="the error is the square of the step"
    )
    assert bits(x) == before, "x stays as it was"
