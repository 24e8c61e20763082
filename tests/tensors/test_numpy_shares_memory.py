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
Truth: This holds for `from_numpy` and for `numpy()`, for every dtype that torch and numpy share,
    for views of either side, and for every write in place: all methods with an underscore,
    assignment, `fill`. `torch.tensor(array)` and `np.array(tensor)` copy.
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
from dlconcepts.support.bitwise import same
from dlconcepts.tensors import from_numpy, to_numpy
from dlconcepts.testing.laws import law
from tests.tensors.common import HOST, WRITABLE, Operations, arrays, one_by_one, operations

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
        tensor = from_numpy(np.asarray(to_numpy(tensor)))
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


Side = Tensor | NDArray[Any]


def convert(side: Side) -> Side:
    return to_numpy(side) if isinstance(side, Tensor) else from_numpy(side)


def copies_the_tensor(side: Side) -> Side:
    """Copy the array that a tensor gives, as np.array(tensor) does."""
    return to_numpy(side).copy() if isinstance(side, Tensor) else from_numpy(side)


def copies_some_dtypes(side: Side) -> Side:
    """Copy a bool or unsigned array by way of a list, since torch computes little in them."""
    if isinstance(side, Tensor):
        return to_numpy(side)
    if side.dtype.kind not in "bu":
        return from_numpy(side)
    return torch.tensor(side.tolist(), dtype=getattr(torch, side.dtype.name)).view(side.shape)


def copies_unless_contiguous(side: Side) -> Side:
    """Close the gaps of an array with strides first, which copies."""
    return from_numpy(np.ascontiguousarray(side)) if isinstance(side, np.ndarray) else convert(side)


# Each for tensors and for arrays, and for all of the dtypes: in torch 2.6, unsigned integers above
# 8 bits have few others. The mask has the side's shape.
WRITES: dict[str, Callable[[Any, Any], object]] = {
    "x[...] = 1": lambda side, mask: operator.setitem(side, ..., 1),
    "fill": lambda side, mask: side.fill_(1) if isinstance(side, Tensor) else side.fill(1),
    "zero": lambda side, mask: side.zero_() if isinstance(side, Tensor) else side.fill(0),
    "copy": lambda side, mask: (
        side.copy_(mask) if isinstance(side, Tensor) else np.copyto(side, mask.numpy())
    ),
}


@law(
    right=convert,
    wrong={
        copies_the_tensor: "seen on every side",
        copies_some_dtypes: "seen on every side",
        copies_unless_contiguous: "seen on every side",
    },
    cpu_only=HOST,
)
@given(array=arrays(), data=st.data())
def test_every_dtype_and_every_write_is_shared(
    convert: Callable[[Side], Side], array: NDArray[Any], data: st.DataObject
) -> None:
    """All sides of a chain array, tensor, array, tensor show a write on any one of them."""
    sides: list[Any] = [array]
    for _ in range(data.draw(st.integers(1, 3), label="hops")):
        sides.append(convert(sides[-1]))
    write = WRITES[data.draw(st.sampled_from(sorted(WRITES)), label="write")]
    mask = data.draw(tensors(array.shape, torch.bool, layouts=["contiguous"]), label="mask")
    expected = array.copy()
    write(expected, mask)

    write(data.draw(st.sampled_from(sides), label="side"), mask)

    for side in sides:
        # As text, in which NaN equals NaN.
        assert str(side.tolist()) == str(expected.tolist()), "a write is seen on every side"


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
    array = to_numpy(tensor)
    doubled = (array * 2).astype(array.dtype)
    tensor * 3  # out of place: the array must not change

    double(tensor)

    assert array.tobytes() == doubled.tobytes(), "the array changes with its tensor"


def array_after(tensor: Tensor, name: str, *operands: Any) -> NDArray[Any]:
    array = to_numpy(tensor)
    getattr(tensor, f"{name}_")(*operands)
    return array


def copies_first(tensor: Tensor, name: str, *operands: Any) -> NDArray[Any]:
    """Copy the array before the write, as np.array(tensor) does."""
    array = to_numpy(tensor).copy()
    getattr(tensor, f"{name}_")(*operands)
    return array


def forgets_the_underscore(tensor: Tensor, name: str, *operands: Any) -> NDArray[Any]:
    """Call the plain method and expect the array to change."""
    array = to_numpy(tensor)
    getattr(tensor, name)(*operands)
    return array


@law(
    right=array_after,
    wrong={
        copies_first: "changes the array",
        forgets_the_underscore: "changes the array",
    },
    cpu_only=HOST,
)
@given(drawn=operations())
def test_every_method_in_place_changes_the_array(
    array_after: Callable[..., NDArray[Any]], drawn: Operations
) -> None:
    """An array made before the call has the values that the method computes."""
    for name, tensor, operands, expected in one_by_one(drawn):
        if name not in ("t", "squeeze", "unsqueeze"):  # these change the shape of the tensor only
            array = array_after(tensor, name, *operands)

            found = torch.tensor(array)
            assert same(found, expected.to(tensor.dtype)), f"{name}_ changes the array"
