"""reshape keeps every element in order; resize_ does not.

>>> x = torch.tensor([[1, 2, 3], [4, 5, 6]]).t()
>>> x.reshape(6)
tensor([1, 4, 2, 5, 3, 6])
>>> x.resize_(6)
tensor([1, 2, 3, 4, 5, 6])

Notes: To reshape, use `resize_` with the new size; the reshaping is done in place.
Verdict: corrected
Truth: `resize_` changes the size over the same storage. It ignores strides, so a transposed tensor
    comes out in storage order. If it grows, the new elements are uninitialised; if it shrinks, it
    hides elements. `reshape` is the operation that reshapes: it keeps every element, in row-major
    order, and raises if the number of elements differs.
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
    """Change the size over the same storage and ignore the strides."""
    return tensor.resize_(shape)


def grows_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Hard-code a batch size, as in resize_(64, 1, 784), though the last batch is smaller."""
    if np.prod(shape, dtype=int) > tensor.numel():
        return tensor.resize_(shape)
    return tensor.reshape(shape)


def shrinks_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resize to fewer elements, which hides the others."""
    if np.prod(shape, dtype=int) < tensor.numel():
        return tensor.resize_(shape)
    return tensor.reshape(shape)


@law(right=torch.reshape, wrong={resizes_in_place: "row-major order"})
@given(
    # Floats, the usual elements, in every second example or more.
    tensor=tensors(dtype=st.sampled_from(FLOATS) | st.sampled_from(DTYPES)),
    data=st.data(),
)
def test_reshaping_keeps_the_elements_in_order(
    reshape: Callable[..., Tensor], tensor: Tensor, data: st.DataObject
) -> None:
    """A reshaped tensor has every element, in row-major order, whatever the strides."""
    shape = data.draw(shapes_of(tensor.numel()), label="shape")
    before = bits(tensor)

    reshaped = reshape(tensor, shape)

    assert tuple(reshaped.shape) == shape, "the result has the requested shape"
    assert bits(reshaped) == before, "the elements are kept in row-major order"


@law(
    right=torch.reshape,
    wrong={grows_in_place: "DID NOT RAISE", shrinks_in_place: "DID NOT RAISE"},
)
@given(tensor=tensors(layouts=WRITABLE), shape=shapes())
def test_another_number_of_elements_is_refused(
    reshape: Callable[..., Tensor], tensor: Tensor, shape: tuple[int, ...]
) -> None:
    """A shape with more or fewer elements raises an error and changes nothing."""
    assume(np.prod(shape, dtype=int) != tensor.numel())
    before = bits(tensor)

    with pytest.raises(RuntimeError, match="is invalid for input of size"):
        reshape(tensor, shape)

    assert bits(tensor) == before, "a refused reshape changes nothing"
