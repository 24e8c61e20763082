"""A tensor shares memory with the numpy array that it was made from.

>>> array = np.array([1.0, 2.0, 3.0])
>>> x = torch.from_numpy(array)
>>> x.mul_(10)
tensor([10., 20., 30.], dtype=torch.float64)
>>> array
array([10., 20., 30.])
>>> array += 1
>>> x
tensor([11., 21., 31.], dtype=torch.float64)

Notes: The tensor and the array share memory: multiply the tensor in place and the array changes,
    and the other way round.
Verdict: holds
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dlconcepts.strategies import aliases, shapes, tensors
from dlconcepts.tensors import from_numpy
from dlconcepts.testing.laws import law
from tests.tensors.common import HOST, WRITABLE

# Dtypes that torch computes in and that can count the elements, at most 5 * 5 * 5.
COUNTING = (
    *("uint8", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)


def copies_the_array(array: NDArray[Any]) -> Tensor:
    """Call torch.tensor, which copies."""
    return torch.tensor(array)


def clones_on_the_way(array: NDArray[Any]) -> Tensor:
    """Clone the tensor that from_numpy returns."""
    return torch.from_numpy(array).clone()


@law(
    right=from_numpy,
    wrong={copies_the_array: "seen on the other side", clones_on_the_way: "seen on the other side"},
    cpu_only=HOST,
)
@given(data=st.data())
def test_a_write_on_either_side_is_seen_on_the_other(
    from_numpy: Callable[[NDArray[Any]], Tensor], data: st.DataObject
) -> None:
    """An array, its tensor and any view of either share elements, also after several hops."""
    shape = data.draw(shapes(max_dims=3), label="shape")
    dtype = data.draw(st.sampled_from(COUNTING), label="dtype")
    # The value of each element is its position, so a view shows which elements it holds.
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    tensor = from_numpy(array)
    for _ in range(data.draw(st.integers(0, 2), label="hops")):
        tensor = data.draw(aliases(st.just(tensor)))[1]
        tensor = from_numpy(np.asarray(tensor.numpy()))
    held = np.array(tensor.reshape(-1).tolist(), dtype)
    write = data.draw(st.sampled_from([operator.iadd, operator.imul, operator.isub]), label="write")
    tensor_side = data.draw(st.booleans(), label="written on the tensor's side")

    seven = held.dtype.type(7)  # next to a rank-0 array, numpy 1 makes a Python 7 an int64
    write(tensor if tensor_side else array, 7 if tensor_side else seven)

    places, written = held.real.astype(int), write(held.copy(), seven)
    there = array.reshape(-1)[places] if tensor_side else np.array(tensor.reshape(-1).tolist())
    assert (there == written).all(), "a write on one side is seen on the other side"
    if tensor_side:
        others = np.setdiff1d(np.arange(array.size), places)
        assert (array.reshape(-1)[others] == others).all(), "a write spares the other elements"


def doubles(tensor: Tensor) -> Tensor:
    return tensor.mul_(2)


def doubles_a_copy(tensor: Tensor) -> Tensor:
    """Multiply out of place and expect the array to change."""
    return tensor * 2


@law(right=doubles, wrong={doubles_a_copy: "the array changes"}, cpu_only=HOST)
# The limit keeps the product finite: numpy warns of an overflow.
@given(tensor=tensors(layouts=WRITABLE, max_magnitude=1e30))
def test_multiplying_in_place_changes_the_array(
    double: Callable[[Tensor], Tensor], tensor: Tensor
) -> None:
    """An in-place product changes the array, and an out-of-place product does not."""
    array = tensor.numpy()
    doubled = (array * 2).astype(array.dtype)
    tensor * 3  # out of place: the array must not change

    double(tensor)

    assert array.tobytes() == doubled.tobytes(), "the array changes with its tensor"
