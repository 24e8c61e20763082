"""Strategies and constants that several claims about tensors share."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dlconcepts.strategies import shapes, tensors
from dlconcepts.tensors import NUMPY_DTYPES, in_place_pairs

# Not "expanded": torch refuses to write in place to elements that share memory.
WRITABLE = ("contiguous", "permuted", "offset", "strided")
HOST = "numpy arrays live in the memory of the CPU"


@st.composite
def shapes_of(draw: st.DrawFn, elements: int) -> tuple[int, ...]:
    """Draw a shape that holds this number of elements."""
    if elements == 0:
        return draw(shapes(min_dims=1).filter(lambda shape: 0 in shape))
    # Split off one divisor after another, then mix in sides of length one.
    shape, rest = [], elements
    while rest > 1:
        shape.append(draw(st.sampled_from([n for n in range(2, rest + 1) if rest % n == 0])))
        rest //= shape[-1]
    shape += [1] * draw(st.integers(0, 2))
    return tuple(draw(st.permutations(shape)))


@st.composite
def arrays(draw: st.DrawFn, min_dims: int = 0) -> NDArray[Any]:
    """Draw arrays of every shared dtype and any bits, often NaN payloads, -0.0 and subnormals."""
    name = draw(st.sampled_from(sorted(str(dtype)[6:] for dtype in NUMPY_DTYPES)))  # "torch.int8"
    dtype = np.dtype(name)
    shape = draw(shapes(min_dims=min_dims, max_dims=3, max_side=3))
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if special := draw(st.sampled_from(specials_of(dtype))):
        raw[:] = special * (size // len(special))
    if name == "bool":  # numpy itself stores only the bytes 0 and 1
        raw = bytearray(byte % 2 for byte in raw)
    array = np.frombuffer(raw, dtype).reshape(shape)
    layout = draw(st.sampled_from(["C", "transposed", "every other"]))
    if layout == "every other" and shape:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    return array.T if layout == "transposed" else array


def specials_of(dtype: np.dtype[Any]) -> list[bytes]:
    """Return bytes of numbers that conversions lose, and b"", which keeps the drawn bytes."""
    if dtype.kind not in "fc":
        return [b""]
    real = np.zeros(1, dtype).real.dtype
    # The bits of infinity plus one are a NaN with a payload.
    payload = (np.array([np.inf], real).view(f"u{real.itemsize}") + 1).tobytes()
    numbers = (real.type(-0.0), real.type(np.finfo(real).smallest_subnormal))
    return [b"", payload, *(number.tobytes() for number in numbers)]


# The smallest int64 divided by -1 overflows: torch's remainder then crashes the process.
LARGEST = {torch.float32: float("inf"), torch.int64: 2.0**62}
Operations = tuple[list[str], dict[torch.dtype, tuple[Tensor, Tensor]]]


@st.composite
def operations(draw: st.DrawFn) -> Operations:
    """Draw a quarter of the pairs of methods, and for each dtype a matrix and an operand."""
    # All hundred pairs in every example would be slow.
    names = sorted(in_place_pairs())[draw(st.integers(0, 3)) :: 4]
    shape = draw(shapes(2, 2, max_side=4))
    matrices = {
        dtype: (
            draw(tensors(shape, dtype, layouts=WRITABLE, max_magnitude=limit)),
            draw(tensors(shape, dtype, max_magnitude=limit)),
        )
        for dtype, limit in LARGEST.items()
    }
    return names, matrices


def one_by_one(drawn: Operations) -> Iterator[tuple[str, Tensor, tuple[Any, ...], Tensor]]:
    """Yield each name, a fresh copy of its matrix, the operands, and the plain method's result."""
    names, matrices = drawn
    for name in names:
        dtype, operand = in_place_pairs()[name]
        matrix, other = matrices[dtype]
        operands = {"none": (), "scalar": (1,), "tensor": (other,)}[operand]
        try:
            # The copy has the same strides: torch 2.6 computes fmod of subnormal numbers
            # differently if elements are not adjacent.
            expected = getattr(copy_of(matrix), name)(*operands)
        except NotImplementedError:  # another device may lack the operator
            assert not matrix.is_cpu, f"on the CPU every method runs, {name} too"
            continue
        yield name, copy_of(matrix), operands, expected


def copy_of(tensor: Tensor) -> Tensor:
    """Return a copy with the same strides; clone() would close the gaps of a strided tensor."""
    return tensor.new_empty_strided(tensor.shape, tensor.stride()).copy_(tensor)
