"""Reshaping.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: To reshape, use resize_ with the new size; the reshaping is done in place.
Verdict: corrected
Truth: resize_ changes size over the same storage: it ignores strides (a transposed tensor comes
    out in storage order), invents uninitialised elements when it grows and hides elements when it
    shrinks. reshape is the operation that reshapes.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import DTYPES, FLOATS, shapes, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.tensors.common import WRITABLE, shapes_of


def resizes_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Change the size over the same storage, whatever the strides say."""
    return tensor.resize_(shape)


def grows_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Hard-code the size of a full batch: resize_(64, 1, 784), also for the last, smaller one."""
    if np.prod(shape, dtype=int) > tensor.numel():
        return tensor.resize_(shape)
    return tensor.reshape(shape)


def shrinks_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Ask for fewer elements than there are."""
    if np.prod(shape, dtype=int) < tensor.numel():
        return tensor.resize_(shape)
    return tensor.reshape(shape)


@law(
    right=torch.reshape,
    wrong={resizes_in_place: "row-major order"},
)
@given(
    tensor=tensors(dtype=st.sampled_from(FLOATS) | st.sampled_from(DTYPES)),
    data=st.data(),
)
def test_reshaping_keeps_the_elements_in_order(
    reshape: Callable[..., Tensor], tensor: Tensor, data: st.DataObject
) -> None:
    """Every element is kept, in row-major order, whatever the strides."""
    shape = data.draw(shapes_of(tensor.numel()), label="shape")
    before = bits(tensor)

    reshaped = reshape(tensor, shape)

    assert tuple(reshaped.shape) == shape, "the shape is the one that was asked for"
    assert bits(reshaped) == before, "the elements are kept in row-major order"


@law(
    right=torch.reshape,
    wrong={grows_in_place: "DID NOT RAISE", shrinks_in_place: "DID NOT RAISE"},
)
@given(tensor=tensors(layouts=WRITABLE), shape=shapes())
def test_another_number_of_elements_is_refused(
    reshape: Callable[..., Tensor], tensor: Tensor, shape: tuple[int, ...]
) -> None:
    """A shape that holds more or fewer elements raises: nothing is invented, nothing hidden."""
    assume(np.prod(shape, dtype=int) != tensor.numel())
    before = bits(tensor)

    with pytest.raises(RuntimeError, match="is invalid for input of size"):
        reshape(tensor, shape)

    assert bits(tensor) == before, "a refused reshape changes nothing"
