"""item() returns the only element of a tensor as a Python number.

>>> torch.tensor([0.25]).item()
0.25
>>> torch.tensor([[7]]).item()
7
>>> torch.tensor([0.25, 0.5]).item()
Traceback (most recent call last):
...
RuntimeError: a Tensor with 2 elements cannot be converted to Scalar

Notes: item() takes the value out of a scalar tensor.
Verdict: holds
Truth: The number equals the element exactly and is a bool, int, float or complex, as the dtype is.
    A tensor of several dimensions works if it has one element; any other number of elements raises.
"""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import DTYPES, easily_lost, shapes, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law


def takes_the_first(tensor: Tensor) -> float:
    """Take the first element, whether or not it is the only one."""
    return tensor.flatten().tolist()[0] if tensor.numel() else math.nan


@law(right=Tensor.item, wrong={takes_the_first: "DID NOT RAISE"})
@given(tensor=tensors(shapes(max_dims=3, max_side=2), st.sampled_from(DTYPES)))
def test_more_or_less_than_one_element_has_no_item(
    item: Callable[[Tensor], object], tensor: Tensor
) -> None:
    """item() raises for a tensor with no element or with several."""
    assume(tensor.numel() != 1)

    with pytest.raises(RuntimeError, match="cannot be converted to Scalar"):
        item(tensor)


def goes_through_float(tensor: Tensor) -> object:
    """Convert to float, which rounds large integers and turns a bool into a number."""
    return complex(tensor) if tensor.is_complex() else float(tensor)


def rounds_for_display(tensor: Tensor) -> object:
    """Round to the four digits that PyTorch prints."""
    number = tensor.item()
    return round(number, 4) if isinstance(number, float) else number


KINDS = {torch.bool: bool, torch.complex64: complex, torch.complex128: complex}


@law(right=Tensor.item, wrong={goes_through_float: "the right kind", rounds_for_display: "exactly"})
@given(
    tensor=easily_lost()
    | tensors(
        st.sampled_from([(), (1,), (1, 1)]),
        st.sampled_from(DTYPES),
        allow_nan=True,
        allow_infinity=True,
    )
)
def test_an_item_is_the_number_itself(item: Callable[[Tensor], object], tensor: Tensor) -> None:
    """item() returns a bool, int, float or complex that equals the element bit for bit."""
    number = item(tensor)

    kind = KINDS.get(tensor.dtype, float if tensor.is_floating_point() else int)
    assert type(number) is kind, "an item is a Python number of the right kind"
    # Compare bits rather than numbers: NaN differs from itself, and -0.0 equals 0.0.
    again = torch.full_like(tensor, number)
    assert bits(again) == bits(tensor), "an item is exactly the element, signs of zeros included"
