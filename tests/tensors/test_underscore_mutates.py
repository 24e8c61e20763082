"""A method whose name ends in an underscore writes into its tensor.

>>> x = torch.tensor([1, 2, 3])
>>> x.mul(10), x
(tensor([10, 20, 30]), tensor([1, 2, 3]))
>>> x.mul_(10) is x
True
>>> x
tensor([10, 20, 30])

Notes: Every operation comes as a mutating version, whose name ends in an underscore, and an
    immutable one.
Verdict: holds-if
Truth: `name_` writes into its tensor and returns that same object; `name` leaves its input alone;
    both give the same values. But not every operation has both. `bernoulli_`, `detach_` and
    `resize_as_` only look like the in-place version of the plain method. `+=`, indexed assignment
    and `out=` write without an underscore.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import shapes, tensors
from dlconcepts.support.bitwise import bits, same
from dlconcepts.tensors import in_place_pairs
from dlconcepts.testing.laws import law
from tests.tensors.common import WRITABLE


def in_place(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Call the method with the underscore."""
    return getattr(tensor, f"{name}_")(*operands)


def drops_the_result(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Call the plain method and ignore its result."""
    getattr(tensor, name)(*operands)
    return tensor


def rebinds_the_name(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Assign the result to a local name, as in x = x * 2: other names keep the old tensor."""
    tensor = getattr(tensor, name)(*operands)
    return tensor


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
        except RuntimeError:  # the matrix is outside the method's domain
            continue
        yield name, copy_of(matrix), operands, expected


def copy_of(tensor: Tensor) -> Tensor:
    """Return a copy with the same strides; clone() would close the gaps of a strided tensor."""
    return tensor.new_empty_strided(tensor.shape, tensor.stride()).copy_(tensor)


@law(
    right=in_place,
    wrong={drops_the_result: "writes into its tensor", rebinds_the_name: "that same object"},
)
@given(drawn=operations())
def test_an_underscore_writes_into_its_tensor(
    apply: Callable[..., Tensor], drawn: Operations
) -> None:
    """The method with an underscore writes the plain method's values and returns its tensor."""
    for name, tensor, operands, expected in one_by_one(drawn):
        address = tensor.data_ptr()

        result = apply(tensor, name, *operands)

        assert result is tensor, f"{name}_ returns that same object"
        assert same(tensor, expected.to(tensor.dtype)), f"{name}_ writes into its tensor"
        assert tensor.data_ptr() == address, f"{name}_ stays at the same address"


def writes_to_the_data(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Write through .data, which has a separate version counter."""
    getattr(tensor.data, f"{name}_")(*operands)
    return tensor


@law(right=in_place, wrong={writes_to_the_data: "counts as one write"})
@given(drawn=operations())
def test_an_underscore_counts_as_one_write(apply: Callable[..., Tensor], drawn: Operations) -> None:
    """The version counter, through which autograd notices a write, goes up by one."""
    for name, tensor, operands, _ in one_by_one(drawn):
        version = tensor._version

        apply(tensor, name, *operands)

        assert tensor._version == version + 1, f"{name}_ counts as one write"


def out_of_place(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    return getattr(tensor, name)(*operands)


@law(right=out_of_place, wrong={in_place: "leaves its input alone"})
@given(drawn=operations())
def test_without_underscore_the_input_is_left_alone(
    apply: Callable[..., Tensor], drawn: Operations
) -> None:
    """The plain method changes no bit of its tensor."""
    for name, tensor, operands, expected in one_by_one(drawn):
        before = bits(tensor), tensor.shape, tensor._version

        result = apply(tensor, name, *operands)

        after = bits(tensor), tensor.shape, tensor._version
        assert after == before, f"{name} leaves its input alone"
        assert same(result, expected), f"{name} gives its result"
