"""ReLU.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: ReLU is the hidden activation.
Verdict: holds
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import FLOATS, tensors
from dlconcepts.support.bitwise import bits, same
from dlconcepts.testing.laws import law
from tests.networks.common import WRITABLE


def absolute_value(x: Tensor) -> Tensor:
    """Turn negative numbers around."""
    return x.abs()


def leaks(x: Tensor) -> Tensor:
    """Let a hundredth of the negative side through."""
    return F.leaky_relu(x)


def writes_over_its_input(x: Tensor) -> Tensor:
    """Call relu_, and destroy what someone else may still need."""
    return torch.relu_(x)


def chooses_where_positive(x: Tensor) -> Tensor:
    """Ask whether x is above 0, which NaN is not, so that it disappears."""
    return torch.where(x > 0, x, torch.zeros_like(x))


@law(
    right=torch.relu,
    wrong={
        absolute_value: "max(0, x)",
        leaks: "max(0, x)",
        writes_over_its_input: "leaves its input alone",
        chooses_where_positive: "NaN stays NaN",
    },
)
@given(
    x=tensors(dtype=st.sampled_from(FLOATS), layouts=WRITABLE, allow_nan=True, allow_infinity=True)
)
def test_relu_is_the_larger_of_0_and_x(relu: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """ReLU is max(0, x), a second time changes nothing, NaN stays NaN and the input as it was."""
    before = x.clone()

    y = relu(x)

    assert bits(x) == bits(before), "ReLU leaves its input alone"
    assert same(y.isnan(), before.isnan()), "NaN stays NaN"
    expected = np.maximum(before.double().numpy(force=True), 0)
    assert np.array_equal(y.double().numpy(force=True), expected, equal_nan=True), (
        "ReLU is max(0, x)"
    )
    assert same(relu(y), y), "ReLU of ReLU is ReLU"


def takes_the_maximum(x: Tensor) -> Tensor:
    """Take the larger of two tensors, which share the gradient where they are equal."""
    return torch.maximum(x, torch.zeros_like(x))


def cuts_the_gradient(x: Tensor) -> Tensor:
    """Multiply with a mask, of x that was detached."""
    return x.detach() * (x > 0) + 0 * x


@law(
    right=torch.relu,
    wrong={
        absolute_value: "1 above zero, and 0 at and below it",
        leaks: "1 above zero, and 0 at and below it",
        takes_the_maximum: "1 above zero, and 0 at and below it",
        cuts_the_gradient: "1 above zero, and 0 at and below it",
    },
)
@given(x=tensors(dtype=st.sampled_from(FLOATS), requires_grad=True))
def test_the_gradient_of_relu_is_a_step(relu: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """The gradient is 1 above zero and 0 at and below it, times what comes in."""
    incoming = torch.arange(1, 1 + x.numel(), dtype=x.dtype).view(x.shape)

    (gradient,) = torch.autograd.grad(relu(x), x, incoming)

    assert same(gradient, incoming * (x > 0)), "the gradient is 1 above zero, and 0 at and below it"
