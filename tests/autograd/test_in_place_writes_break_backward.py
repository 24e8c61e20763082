"""A write to a value that backward needs raises, or makes the gradient wrong.

>>> x = torch.tensor([1.0, 2.0], requires_grad=True)
>>> loss = x.square().sum()
>>> x.data.mul_(10)  # no error, but square saved x
tensor([10., 20.])
>>> loss.backward()
>>> x.grad  # twice x would be tensor([2., 4.])
tensor([20., 40.])

Notes: Multiply a tensor in place; its numpy array then changes too.
Verdict: corrected
Truth: Autograd keeps references to the values that backward needs, not copies. It counts the writes
    to a tensor, its views and `detach()`, also under `no_grad`; if a saved value was written to,
    backward raises. Writes by way of `.data`, of a numpy array or of DLPack are not counted:
    backward then computes a wrong gradient without a word, as after `w.data.normal_()` between
    forward and backward. Where no operation saved the values, a write in place is recorded and the
    gradient is right.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import tensors
from dlconcepts.testing.laws import law
from tests.autograd.common import assert_close, float64

# By what backward needs: the operation's result or its input.
SAVES_RESULT = {"exp": torch.exp, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
SAVES_INPUT = {"square": torch.square, "sin": torch.sin, "log1p": torch.log1p}
# Not zero: a product with 2 must be another number.
numbers = tensors((3,), float64, max_magnitude=3.0, layouts=["contiguous"]).map(
    lambda x: x.abs() + 0.5
)


def writes_under_no_grad(value: Tensor) -> None:
    with torch.no_grad():
        value.mul_(2)


# Writes that autograd counts, apart from no_grad's.
COUNTED: dict[str, Callable[[Tensor], Any]] = {
    "detach": lambda value: value.detach().mul_(2),
    "view": lambda value: value.detach().view(-1, 1).mul_(2),
    "slice": lambda value: value.detach()[1:].add_(1),
    "out=": lambda value: torch.mul(value.detach(), 2, out=value.detach()),
    "assignment": lambda value: value.detach().__setitem__(0, 9.0),
    "nn.init": lambda value: nn.init.constant_(value, 9.0),
}


def writes_to_data(value: Tensor) -> None:
    """Write through .data, which has a version counter of its own."""
    value.data.mul_(2)


def writes_random_data(value: Tensor) -> None:
    """Initialise again with .data.normal_() between forward and backward."""
    value.data.normal_()


def writes_through_numpy(value: Tensor) -> None:
    """Multiply the numpy array that shares the memory."""
    array = value.numpy(force=True)
    array *= 2


def writes_through_dlpack(value: Tensor) -> None:
    """Multiply a tensor that another library made over the same memory."""
    torch.from_dlpack(value.detach()).mul_(2)


@law(
    right=writes_under_no_grad,
    wrong={
        writes_to_data: "DID NOT RAISE",
        writes_random_data: "DID NOT RAISE",
        writes_through_numpy: "DID NOT RAISE",
        writes_through_dlpack: "DID NOT RAISE",
    },
)
@given(
    x=numbers,
    name=st.sampled_from(sorted([*SAVES_RESULT, *SAVES_INPUT])),
    how=st.none() | st.sampled_from(sorted(COUNTED)),
)
def test_backward_raises_if_a_saved_value_was_written_to(
    write: Callable[[Tensor], None], x: Tensor, name: str, how: str | None
) -> None:
    """Autograd counts a write to a saved input or result, and backward refuses the graph."""
    x.requires_grad_()
    result = (SAVES_RESULT | SAVES_INPUT)[name](x)

    (write if how is None else COUNTED[how])(result if name in SAVES_RESULT else x)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()
    assert x.grad is None, "a refused backward stores no gradient"


def doubled(value: Tensor) -> Tensor:
    return value.detach() * 2


def doubles_data(value: Tensor) -> Tensor:
    """Multiply .data in place."""
    return value.data.mul_(2)


def doubles_the_array(value: Tensor) -> Tensor:
    """Multiply the numpy array in place."""
    array = value.detach().numpy()
    return torch.from_numpy(np.multiply(array, 2, out=array))


@law(
    right=doubled,
    wrong={
        doubles_data: "values of the forward pass",
        doubles_the_array: "values of the forward pass",
        writes_random_data: "values of the forward pass",
    },
    cpu_only="numpy arrays live in the memory of the CPU",
)
@given(x=numbers, name=st.sampled_from(sorted([*SAVES_RESULT, *SAVES_INPUT])))
def test_an_unseen_write_makes_the_gradient_wrong(
    double: Callable[[Tensor], Tensor], x: Tensor, name: str
) -> None:
    """To change numbers between forward and backward, write to a copy: the gradient is right."""
    function = (SAVES_RESULT | SAVES_INPUT)[name]
    x.requires_grad_()
    (expected,) = torch.autograd.grad(function(x).sum(), x)
    result = function(x)
    value = result if name in SAVES_RESULT else x
    values = value.detach().clone()

    changed = double(value)

    result.sum().backward()
    assert_close(x.grad, expected, "the gradient belongs to the values of the forward pass")
    assert_close(changed, 2 * values, "the numbers are doubled")


def double_(value: Tensor) -> Tensor:
    return value.mul_(2)


def forgets_to_record(value: Tensor) -> Tensor:
    """Multiply .data, so that the graph lacks the product."""
    value.data.mul_(2)
    return value


def multiplies_a_detached_clone(value: Tensor) -> Tensor:
    """Detach before the write, against the error about a leaf, and lose the history."""
    return value.detach().clone().requires_grad_().mul(2)


@law(
    right=double_,
    wrong={
        forgets_to_record: "gradient of what was computed",
        multiplies_a_detached_clone: "gradient of what was computed",
    },
)
@given(x=numbers)
def test_a_write_that_nobody_saved_is_recorded(
    double_: Callable[[Tensor], Tensor], x: Tensor
) -> None:
    """A sum saves no values: it may be multiplied in place, and the gradient has the factor."""
    x.requires_grad_()

    result = double_(x + 1)

    assert_close(result.detach(), 2 * (x.detach() + 1), "the result is doubled")
    result.sum().backward()
    assert_close(x.grad, torch.full_like(x, 2), "the gradient is the gradient of what was computed")
