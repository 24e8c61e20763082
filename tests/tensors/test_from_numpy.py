"""from_numpy keeps the array's shape, dtype and every bit.

>>> array = np.array([1.5, 2.5])
>>> torch.from_numpy(array)
tensor([1.5000, 2.5000], dtype=torch.float64)
>>> torch.Tensor(array)
tensor([1.5000, 2.5000])
>>> torch.from_numpy(array[::-1])  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
ValueError: At least one stride in the given numpy array is negative, ...

Notes: A numpy array is turned into a tensor with `from_numpy`.
Verdict: holds-if
Truth: It works for dtypes that torch and numpy share, in native byte order, with no negative
    stride. Shape, dtype and every bit stay the same: float64 stays float64, and NaN payloads, -0.0
    and subnormals survive. For read-only arrays torch only warns, although a write is undefined
    behaviour; the library raises an error. It also raises for byte-swapped, negatively strided,
    object and string arrays.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dlconcepts.support.bitwise import bits
from dlconcepts.tensors import from_numpy
from dlconcepts.testing.laws import law
from tests.tensors.common import HOST, arrays


def always_float32(array: NDArray[Any]) -> Tensor:
    """Call the constructor torch.Tensor, which converts everything to float32."""
    return torch.Tensor(array.astype(np.float32))


@law(right=from_numpy, wrong={always_float32: "keeps the dtype"}, cpu_only=HOST)
@given(array=arrays())
def test_from_numpy_keeps_shape_dtype_and_every_bit(
    from_numpy: Callable[[NDArray[Any]], Tensor], array: NDArray[Any]
) -> None:
    """The tensor has the array's shape, dtype and bits: float64 stays float64."""
    tensor = from_numpy(array)

    assert str(tensor.dtype) == f"torch.{array.dtype}", "from_numpy keeps the dtype"
    assert tuple(tensor.shape) == array.shape, "from_numpy keeps the shape"
    assert bits(tensor) == array.tobytes(), "from_numpy keeps every bit"


def accepts_read_only(array: NDArray[Any]) -> Tensor:
    """Make a tensor over a read-only array, so that anyone can write to it."""
    if array.flags.writeable:
        return from_numpy(array)
    array.setflags(write=True)
    tensor = from_numpy(array)
    array.setflags(write=False)
    return tensor


@st.composite
def unfit_arrays(draw: st.DrawFn) -> tuple[NDArray[Any], type[Exception], str]:
    """Draw an array that cannot become a tensor, the error, and its message with the remedy."""
    case = draw(st.sampled_from(["read-only", "byte-swapped", "negative strides", "no dtype"]))
    array = draw(arrays(min_dims=1))
    if case == "read-only":
        array.setflags(write=False)
        return array, ValueError, r"read-only.* pass array\.copy\(\), or .*setflags\(write=True\)"
    if case == "byte-swapped":
        assume(array.dtype.itemsize > 1)  # one byte has no order
        swapped = array.byteswap().view(array.dtype.newbyteorder())
        return swapped, TypeError, r"byte-swapped: .* with array\.astype\(.*newbyteorder\('='\)\)$"
    if case == "negative strides":
        backwards = array[::-1]
        assume(min(backwards.strides) < 0)  # without elements all strides are 0
        return backwards, ValueError, r"negative strides .*: pass array\.copy\(\)$"
    kind = draw(st.sampled_from(["object", "U3", "S3", "datetime64[s]"]))
    return np.zeros(array.shape, kind), TypeError, r"no dtype .* array\.astype\(numpy\.float32\)$"


def byte_swaps_silently(array: NDArray[Any]) -> Tensor:
    """Read byte-swapped numbers as if their bytes were in native order."""
    return from_numpy(array if array.dtype.isnative else array.view(array.dtype.newbyteorder("=")))


def copies_backwards(array: NDArray[Any]) -> Tensor:
    """Copy an array with negative strides silently: the tensor then shares no memory with it."""
    return from_numpy(array.copy() if min(array.strides) < 0 else array)


@law(
    right=from_numpy,
    wrong={
        accepts_read_only: "DID NOT RAISE",
        byte_swaps_silently: "DID NOT RAISE",
        copies_backwards: "DID NOT RAISE",
    },
    cpu_only=HOST,
)
@given(case=unfit_arrays())
def test_an_array_that_cannot_be_shared_is_refused(
    from_numpy: Callable[[NDArray[Any]], Tensor],
    case: tuple[NDArray[Any], type[Exception], str],
) -> None:
    """Read-only, byte-swapped, reversed and object arrays raise an error that says what to do."""
    array, error, message = case
    before = array.tobytes()

    with pytest.raises(error, match=message):
        from_numpy(array)

    assert array.tobytes() == before, "a refused array stays as it was"
