"""A view is a new tensor over the same memory.

>>> x = torch.arange(6)
>>> x.view(2, 3)[0, 0] = 100
>>> x
tensor([100,   1,   2,   3,   4,   5])

Notes: `view` is like `resize` but immutable: it returns a new tensor, the resized version of the
    original.
Verdict: corrected
Truth: The tensor object is new, its memory is not: a write through either shows in both. `view`
    raises on strides it cannot express; `reshape` then copies.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import FLOATS, INTEGERS, shapes, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.tensors import centre, fill_through_view
from dlconcepts.testing.laws import law
from tests.tensors.common import WRITABLE, shapes_of


def copies(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape a copy."""
    return tensor.clone().reshape(shape)


def views_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give the original itself the new shape, as `resize_` does."""
    view = tensor.view(shape)
    tensor.set_(view)
    return view


@law(
    right=Tensor.view,
    wrong={copies: "seen in the original", views_in_place: "keeps its own shape"},
)
@given(
    # Permuted and strided tensors are left to the next law: most of their shapes have no view.
    tensor=tensors(dtype=st.sampled_from((*FLOATS, *INTEGERS)), layouts=["contiguous", "offset"]),
    data=st.data(),
)
def test_a_write_through_a_view_reaches_the_original(
    view: Callable[..., Tensor], tensor: Tensor, data: st.DataObject
) -> None:
    """A view has the original's elements and memory; the original keeps its own shape."""
    shape = data.draw(shapes_of(tensor.numel()), label="shape")
    before, own_shape = tensor.clone(), tensor.shape

    viewed = view(tensor, shape)

    assert tensor.shape == own_shape, "the original keeps its own shape"
    assert tuple(viewed.shape) == shape, "the view has the requested shape"
    assert viewed is not tensor, "a view is a new tensor"
    assert bits(viewed) == bits(before), "a view has the original's elements"
    viewed.fill_(5)
    assert bool((tensor == 5).all()), "a write through the view is seen in the original"
    assert viewed.data_ptr() == tensor.data_ptr(), "a view starts at the original's address"


def shares_or_copies(tensor: Tensor, value: float) -> Tensor:
    """Assume that reshape always shares memory."""
    return tensor.reshape(-1).fill_(value)


def returns_a_copy(tensor: Tensor, value: float) -> Tensor:
    """Fill the argument, but return other memory."""
    return fill_through_view(tensor, value).clone()


def replaces_the_memory(tensor: Tensor, value: float) -> Tensor:
    """Give the tensor new memory, which its other views do not share."""
    tensor.view(-1)
    tensor.data = torch.full_like(tensor, value)
    return tensor.reshape(-1)


def multiplies_by_zero(tensor: Tensor, value: float) -> Tensor:
    """Multiply by zero and add the value: NaN and infinity become NaN."""
    return tensor.view(-1).mul_(0).add_(value)


@law(
    right=fill_through_view,
    wrong={
        shares_or_copies: "DID NOT RAISE",
        returns_a_copy: "lies in the original's memory",
        replaces_the_memory: "lies in the original's memory",
        multiplies_by_zero: "seen in the original",
    },
)
@given(
    tensor=tensors(layouts=WRITABLE, allow_nan=True, allow_infinity=True),
    value=st.integers(-9, 9).map(lambda n: n / 2),
)
def test_a_view_that_strides_cannot_express_is_refused(
    fill: Callable[[Tensor, float], Tensor], tensor: Tensor, value: float
) -> None:
    """If one stride cannot walk all elements in order, view raises and reshape copies."""
    before, original = bits(tensor), tensor.detach()  # another tensor over the same memory

    if has_flat_view(tensor):
        flat = fill(tensor, value)
        assert bool((original == value).all()), "a write to the view is seen in the original"
        assert flat.shape == (tensor.numel(),), "the view is flat"
        assert flat.data_ptr() == original.data_ptr(), "the view lies in the original's memory"
    else:
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            fill(tensor, value)
        assert bits(tensor) == before, "a refused view changes nothing"
        copy = tensor.reshape(-1)
        assert bits(copy) == before, "reshape copies the elements in order"
        assert copy.data_ptr() != tensor.data_ptr(), "reshape copies to an address of its own"


def has_flat_view(tensor: Tensor) -> bool:
    # The oracle: walk the memory by hand and see whether all steps are the same.
    offsets = np.zeros(1, dtype=int)
    for side, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = (offsets[:, None] + stride * np.arange(side)).ravel()
    return len(set(np.diff(offsets))) <= 1


def centres_the_view(tensor: Tensor) -> Tensor:
    """Take a view for a copy and subtract the mean in place."""
    flat = tensor.view(-1) if tensor.is_contiguous() else tensor.reshape(-1)
    return flat.sub_(flat.mean())


def rounds_the_mean(tensor: Tensor) -> Tensor:
    """Compute the mean in float32, whatever the dtype."""
    return tensor.reshape(-1) - tensor.float().mean()


def returns_float32(tensor: Tensor) -> Tensor:
    """Convert to float32 and stay there."""
    return centre(tensor.float())


@law(
    right=centre,
    wrong={
        centres_the_view: "stays as it was",
        rounds_the_mean: "minus their mean",
        returns_float32: "keeps the dtype",
    },
)
@given(
    tensor=tensors(shapes(min_side=1), st.sampled_from(FLOATS), layouts=WRITABLE, max_magnitude=1e3)
)
def test_a_view_is_not_a_copy(centre: Callable[[Tensor], Tensor], tensor: Tensor) -> None:
    """A function that returns a new tensor must not write through a view of its argument."""
    before = bits(tensor)
    elements = tensor.double().numpy(force=True).ravel()

    centred = centre(tensor)

    assert bits(tensor) == before, "the argument stays as it was"
    error = np.abs(centred.double().numpy(force=True) - (elements - elements.mean()))
    # A sum of n numbers is rounded n times, and the mean and the difference once more.
    limits = torch.finfo(tensor.dtype)
    bound = (elements.size + 3) * limits.eps * np.abs(elements).max() + limits.smallest_normal
    assert centred.dtype == tensor.dtype, "the result keeps the dtype"
    assert (error <= bound).all(), "the result is the elements minus their mean"
