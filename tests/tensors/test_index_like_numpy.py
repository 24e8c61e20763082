"""A tensor is indexed like a numpy array, with a few exceptions.

>>> x = torch.tensor([[1, 2, 3], [4, 5, 6]])
>>> x[1, :2], x[x > 4]
(tensor([4, 5]), tensor([5, 6]))
>>> x[None][0, :, [0, 2]].tolist(), x.numpy()[None][0, :, [0, 2]].tolist()
([[1, 3], [4, 6]], [[1, 4], [3, 6]])
>>> x[::-1]
Traceback (most recent call last):
...
ValueError: step must be greater than zero

Notes: Tensors can be sliced and indexed the same way as numpy arrays.
Verdict: holds-if
Truth: Slices, integers, None, Ellipsis, masks, and arrays of int64 or int32 select the same values
    in the same shape, but for four exceptions. A slice with a negative step raises ValueError.
    Arrays of int8, int16, uint16, uint32 or uint64 raise IndexError, and one of uint8 is read as a
    mask. An integer next to an array selects first, so `x[0, :, [0, 2]]` keeps the order of the
    axes, where numpy moves the array's axis to the front. A nested list is read as a tuple of
    indices. Basic indexing returns a view of the same memory, also by a 0-d tensor of int64, where
    numpy copies; advanced indexing copies.
"""

import operator
import warnings
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
    """Draw an index of a shape: slices and integers, integer arrays, or masks of leading axes."""
    basic = hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True)
    # torch refuses negative steps: a law below.
    kinds = [basic.filter(lambda index: not has_negative_step(index))]
    if shape and min(shape) > 0:  # an axis without elements has no valid position
        kinds += [hnp.integer_array_indices(shape, dtype=kind) for kind in ("int64", "int32")]
        kinds.append(hnp.integer_array_indices(shape[:1]))  # positions of rows
    kinds += [hnp.arrays(bool, shape[:axes]) for axes in range(1, len(shape) + 1)]
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


def passes_a_nested_list(tensor: Tensor, index: Any) -> Tensor:
    """Pass a list of lists, which torch reads as a tuple: one list for each axis."""
    parts = index if isinstance(index, tuple) else ()
    is_matrix = len(parts) == 1 and isinstance(parts[0], Tensor) and parts[0].ndim == 2
    # Otherwise torch raises: there are more lists than axes, or an axis lacks a position.
    if is_matrix and len(parts[0]) <= tensor.ndim and int(parts[0].max()) < min(tensor.shape):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of this mistake
            return tensor[parts[0].tolist()]
    return tensor[index]


@law(
    right=operator.getitem,
    wrong={
        drops_length_one: "numpy's shape",
        mask_as_positions: "an index gives numpy's",
        passes_a_nested_list: "numpy's shape",
    },
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


def selects_in_one_step(tensor: Tensor, index: Any) -> Tensor:
    """Select as numpy does, which counts an integer next to an array as an array."""
    return torch.as_tensor(tensor.numpy()[index])


def indexes_axis_by_axis(tensor: Tensor, index: Any) -> Tensor:
    """Index one axis after the other, which selects a grid, not pairs of positions."""
    for axis in range(len(index) - 1, -1, -1):
        tensor = tensor[(slice(None),) * axis + (index[axis],)]
    return tensor


def mixed_indices(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw an integer, a slice or a list of two positions for each axis."""
    return st.tuples(
        *(
            st.integers(0, side - 1)
            | st.just(slice(None))
            | st.lists(st.integers(0, side - 1), min_size=2, max_size=2)
            for side in shape
        )
    )


@law(
    right=operator.getitem,
    wrong={
        selects_in_one_step: "an integer selects first",
        indexes_axis_by_axis: "an integer selects first",
    },
    cpu_only=HOST,
)
@given(
    tensor=tensors(shapes(min_dims=3, min_side=2, max_side=3), torch.int64, layouts=WRITABLE),
    data=st.data(),
)
def test_an_integer_selects_before_a_list_of_positions(
    getitem: Callable[[Tensor, Any], Tensor], tensor: Tensor, data: st.DataObject
) -> None:
    """An index of integers, slices and lists is numpy's in two steps: first the integers."""
    index = data.draw(mixed_indices(tuple(tensor.shape)), label="index")
    whole = slice(None)
    first = tuple(part if isinstance(part, int) else whole for part in index)
    second = tuple(part for part in index if not isinstance(part, int))

    selected = getitem(tensor, index)

    expected = torch.as_tensor(np.asarray(tensor.numpy()[first])[second])
    assert selected.shape == expected.shape, "an integer selects first, then the lists"
    assert same(selected, expected), "an integer selects first, then the lists"


def copies_slices(tensor: Tensor, index: Any) -> Tensor:
    """Return a copy for every index."""
    return tensor[index].clone()


def views_everything(tensor: Tensor, index: Any) -> Tensor:
    """Return a view of a range of rows, even for integer positions."""
    if isinstance(index, Tensor) and index.ndim:
        row = int(index.long().argmax() if index.dtype == torch.bool else index)
        return tensor[row : row + 1]
    return tensor[index]


def views_all_rows(tensor: Tensor, index: Any) -> Tensor:
    """Return a view of all rows from the selected one on."""
    return tensor[index.start :] if isinstance(index, slice) else tensor[index]


def copies_like_numpy(tensor: Tensor, index: Any) -> Tensor:
    """Copy for a 0-d tensor, as numpy does for a 0-d array."""
    return tensor[index].clone() if isinstance(index, Tensor) else tensor[index]


@law(
    right=operator.getitem,
    wrong={
        copies_slices: "reaches the original",
        views_everything: "stays in the copy",
        views_all_rows: "no other row",
        copies_like_numpy: "reaches the original",
    },
)
@given(
    tensor=tensors(shapes(min_dims=1, min_side=1), layouts=WRITABLE),
    kind=st.sampled_from(["slice", "integer", "0-d tensor", "positions", "mask"]),
    data=st.data(),
)
def test_a_slice_is_a_view_and_positions_are_a_copy(
    getitem: Callable[[Tensor, Any], Tensor], tensor: Tensor, kind: str, data: st.DataObject
) -> None:
    """A write through a basic index reaches the original; through an advanced one it does not."""
    row = data.draw(st.integers(0, len(tensor) - 1), label="row")
    index = {
        "slice": slice(row, row + 1),
        "integer": row,
        "0-d tensor": torch.tensor(row),
        "positions": torch.tensor([row]),
        "mask": torch.arange(len(tensor)) == row,
    }[kind]
    before, expected = tensor.clone(), tensor.clone()
    expected[row] += 1

    getitem(tensor, index).add_(1)

    if kind in ("positions", "mask"):
        assert same(tensor, before), f"a write through {kind} stays in the copy"
    else:
        assert same(tensor[row], expected[row]), f"a write through a {kind} reaches the original"
        assert same(tensor, expected), f"a write through a {kind} changes no other row"


def converts_positions(tensor: Tensor, index: Tensor) -> Tensor:
    """Convert the positions to int64 silently."""
    return tensor[index.long()]


@law(right=operator.getitem, wrong={converts_positions: "DID NOT RAISE"})
@given(
    tensor=tensors(shapes(min_dims=1, min_side=1)),
    dtype=st.sampled_from(["int8", "int16", "uint16", "uint32", "uint64", "float32"]),
    length=st.integers(1, 3),
)
def test_positions_of_another_dtype_are_refused(
    getitem: Callable[[Tensor, Any], Tensor], tensor: Tensor, dtype: str, length: int
) -> None:
    """Only int64 and int32 are positions; numpy takes integers of every size."""
    before = bits(tensor)

    with pytest.raises(IndexError, match="tensors used as indices must be"):
        getitem(tensor, torch.zeros(length, dtype=getattr(torch, dtype)))

    assert bits(tensor) == before, "a refused index changes nothing"


@law(right=operator.getitem, wrong={converts_positions: "read as a mask"})
@given(data=st.data())
def test_uint8_is_a_mask(getitem: Callable[[Tensor, Any], Tensor], data: st.DataObject) -> None:
    """A uint8 tensor selects the elements where it is not zero, as a bool tensor does."""
    tensor = data.draw(tensors(shapes(min_dims=1)), label="tensor")
    mask = data.draw(tensors(tensor.shape[:1], torch.uint8, max_magnitude=1), label="mask")
    # A mistake reads ones as positions, and a single row has no position 1.
    mask = mask if len(tensor) > 1 else torch.zeros_like(mask)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls such a mask deprecated
        selected = getitem(tensor, mask)

    expected = [row for row, chosen in zip(tensor, mask.tolist(), strict=True) if chosen]
    assert len(selected) == len(expected), "uint8 is read as a mask"
    for found, row in zip(selected, expected, strict=True):
        assert same(found, row), "a mask selects the rows in order"


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
