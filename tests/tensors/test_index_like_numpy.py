"""A tensor is indexed like a numpy array, but a slice needs a positive step.

>>> x = torch.tensor([1, 2, 3, 4, 5])
>>> x[1:4], x[[0, 4]], x[x > 3]
(tensor([2, 3, 4]), tensor([1, 5]), tensor([4, 5]))
>>> x.numpy()[::-1].tolist()
[5, 4, 3, 2, 1]
>>> x[::-1]
Traceback (most recent call last):
...
ValueError: step must be greater than zero

Notes: Tensors can be sliced and indexed the same way as numpy arrays.
Verdict: holds-if
Truth: Every basic, integer-array and boolean index selects the same values in the same shape,
    except that a slice with a negative step raises ValueError. Basic indexing returns a view of
    the same memory; advanced indexing copies.
"""

import operator
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import DTYPES, shapes, tensors
from dlconcepts.support.bitwise import bits, same
from dlconcepts.tensors import NUMPY_DTYPES
from dlconcepts.testing.laws import law
from tests.tensors.common import HOST, WRITABLE


def indices_of(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Draw an index of a shape: slices and integers, integer arrays, or a boolean mask."""
    basic = hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True)
    # torch refuses negative steps: the last law.
    kinds = [basic.filter(lambda index: not has_negative_step(index))]
    if shape and min(shape) > 0:  # an axis without elements has no valid position
        kinds.append(hnp.integer_array_indices(shape))
    if shape:
        kinds.append(hnp.arrays(bool, shape))
    return st.one_of(kinds)


def has_negative_step(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, slice) and (part.step or 1) < 0 for part in parts)


def as_tensors(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(as_tensors(part) for part in index)
    return torch.from_numpy(index) if isinstance(index, np.ndarray) else index


def drops_length_one(tensor: Tensor, index: Any) -> Tensor:
    """Squeeze every axis of length one out of the selection."""
    return tensor[index].squeeze()


def mask_as_positions(tensor: Tensor, index: Any) -> Tensor:
    """Read True and False as the positions 1 and 0."""
    is_mask = isinstance(index, Tensor) and index.dtype == torch.bool
    if is_mask and tensor.shape[0] > 1:  # otherwise position 1 raises
        index = index.long()
    return tensor[index]


@law(
    right=operator.getitem,
    wrong={drops_length_one: "numpy's shape", mask_as_positions: "an index gives numpy's"},
    cpu_only=HOST,
)
@given(data=st.data())
def test_an_index_selects_what_it_selects_in_numpy(
    getitem: Callable[[Tensor, Any], Tensor], data: st.DataObject
) -> None:
    """Slices, integers, integer arrays and masks select the same elements in the same shape."""
    dtypes = sorted(NUMPY_DTYPES & set(DTYPES), key=str)
    tensor = data.draw(tensors(dtype=st.sampled_from(dtypes)), label="tensor")
    index = data.draw(indices_of(tuple(tensor.shape)), label="index")

    selected = getitem(tensor, as_tensors(index))

    expected = torch.as_tensor(np.asarray(tensor.numpy()[index]))
    assert selected.shape == expected.shape, f"an index gives numpy's shape {expected.shape}"
    assert same(selected, expected), "an index gives numpy's values"


def copies_slices(tensor: Tensor, index: Any) -> Tensor:
    """Return a copy for every index."""
    return tensor[index].clone()


def views_everything(tensor: Tensor, index: Any) -> Tensor:
    """Return a view of a range of rows, even for integer positions."""
    if isinstance(index, Tensor) and index.numel():
        return tensor[index.min() : index.max() + 1]
    return tensor[index]


@law(
    right=operator.getitem,
    wrong={copies_slices: "reaches the original", views_everything: "stays in the copy"},
)
@given(tensor=tensors(shapes(min_dims=1, min_side=1), layouts=WRITABLE), data=st.data())
def test_a_slice_is_a_view_and_positions_are_a_copy(
    getitem: Callable[[Tensor, Any], Tensor], tensor: Tensor, data: st.DataObject
) -> None:
    """A write through a basic index reaches the original; through an advanced one it does not."""
    row = data.draw(st.integers(0, len(tensor) - 1), label="row")
    advanced = data.draw(st.booleans(), label="advanced")
    before = tensor.clone()
    expected = before[row] + 1

    getitem(tensor, torch.tensor([row]) if advanced else slice(row, row + 1)).add_(1)

    if advanced:
        assert same(tensor, before), "a write through integer positions stays in the copy"
    else:
        assert same(tensor[row], expected), "a write through a slice reaches the original"


def reverses(tensor: Tensor, index: slice) -> Tensor:
    """Return a reversed copy silently."""
    return torch.from_numpy(tensor.numpy()[index].copy())


@law(right=operator.getitem, wrong={reverses: "DID NOT RAISE"}, cpu_only=HOST)
@given(
    tensor=tensors(shapes(min_dims=1)),
    start=st.none() | st.integers(-5, 5),
    step=st.integers(-4, -1),
)
def test_a_negative_step_is_refused(
    getitem: Callable[[Tensor, Any], Tensor], tensor: Tensor, start: int | None, step: int
) -> None:
    """A slice with a negative step, which numpy allows, raises ValueError."""
    before = bits(tensor)

    with pytest.raises(ValueError, match="step must be greater than zero"):
        getitem(tensor, slice(start, None, step))

    assert bits(tensor) == before, "a refused index changes nothing"
