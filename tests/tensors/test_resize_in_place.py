"""reshape keeps every element in order; resize_ does not.

>>> x = torch.tensor([[1, 2, 3], [4, 5, 6]]).t()
>>> x.reshape(6)
tensor([1, 4, 2, 5, 3, 6])
>>> x.resize_(6)
tensor([1, 2, 3, 4, 5, 6])

Notes: To reshape, use `resize_` with the new size; the reshaping is done in place.
Verdict: corrected
Truth: `resize_` changes the size over the same storage. It ignores strides, so a transposed tensor
    comes out in storage order; only a tensor that already has this size keeps its strides. If it
    grows, the new elements are uninitialised; if it shrinks, it hides elements. It raises if the
    tensor requires grad, or would outgrow memory that numpy uses. `reshape` is the operation that
    reshapes: it keeps every element, in row-major order, and raises if the number of elements
    differs.
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
from tests.tensors.common import HOST, WRITABLE, copy_of, shapes_of


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


def moves_the_elements(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape in place: keep the elements in row-major order and fill up with zeros."""
    if shape == tuple(tensor.shape):
        return tensor
    flat = torch.zeros(int(np.prod(shape, dtype=int)), dtype=tensor.dtype)
    kept = min(flat.numel(), tensor.numel())
    flat[:kept] = tensor.reshape(-1)[:kept]
    return tensor.set_(flat.view(shape))


def resets_the_strides(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Make the tensor contiguous even if it has this size."""
    resized = tensor.resize_(shape)
    return resized.as_strided_(shape, torch.empty(shape).stride())


@law(
    right=Tensor.resize_,
    wrong={moves_the_elements: "storage order", resets_the_strides: "keeps its strides"},
)
@given(tensor=tensors(layouts=WRITABLE), shape=shapes(), keep=st.booleans())
def test_resize_takes_the_storage_as_it_comes(
    resize_: Callable[..., Tensor], tensor: Tensor, shape: tuple[int, ...], keep: bool
) -> None:
    """resize_ counts through the storage, whatever the strides; its own size changes nothing."""
    shape = tuple(tensor.shape) if keep else shape
    own = shape == tuple(tensor.shape)
    strides, before, address = tensor.stride(), bits(tensor), tensor.data_ptr()
    flat = torch.tensor([], dtype=tensor.dtype).set_(tensor.untyped_storage())
    stored = flat[tensor.storage_offset() :].tolist()

    result = resize_(tensor, shape)

    assert result is tensor, "resize_ returns that same object"
    assert tuple(tensor.shape) == shape, "the tensor has the requested shape"
    if own:
        assert tensor.stride() == strides, "a tensor of this size keeps its strides"
        assert bits(tensor) == before, "a tensor of this size keeps its elements"
        assert tensor.data_ptr() == address, "a tensor of this size stays at its address"
    else:
        found = tensor.reshape(-1).tolist()[: len(stored)]
        assert found == stored[: len(found)], "the elements come in storage order"


def resizes_the_data(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resize .data, a tensor of its own: the original keeps its size, with no error."""
    return tensor.data.resize_(shape)


def moves_out_of_numpy(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Move to new memory if the tensor grows, so that the array shows no later write."""
    if tensor.requires_grad or np.prod(shape, dtype=int) <= tensor.numel():
        return tensor.resize_(shape)
    return tensor.set_(copy_of(tensor)).resize_(shape)


@law(
    right=Tensor.resize_,
    wrong={resizes_the_data: "DID NOT RAISE", moves_out_of_numpy: "DID NOT RAISE"},
    cpu_only=HOST,
)
@given(length=st.integers(1, 5), more=st.integers(-1, 3), kind=st.sampled_from(["leaf", "numpy"]))
def test_gradients_and_numpy_forbid_a_resize(
    resize_: Callable[..., Tensor], length: int, more: int, kind: str
) -> None:
    """A tensor that requires grad keeps its size; memory that numpy uses cannot grow."""
    assume(kind == "leaf" or more > 0)
    ones = np.ones(length, np.float32)
    leaf = torch.ones(length, requires_grad=True)
    tensor = leaf if kind == "leaf" else torch.from_numpy(ones)
    message = "that require grad" if kind == "leaf" else "not resizable"

    with pytest.raises(RuntimeError, match=message):
        resize_(tensor, (length + more,))

    assert leaf.shape == (length,), "a refused resize keeps the size"
    assert (ones == 1).all(), "a refused resize keeps the array"
