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
    both give the same values. But `name_` keeps the dtype: `eq` returns bools, `eq_` writes 1.0 and
    0.0 into a float tensor. Not every operation has both versions. `bernoulli_`, `detach_` and
    `resize_as_` only look like the in-place version of the plain method. `+=`, indexed assignment
    and `out=` write without an underscore.
"""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import tensors
from dlconcepts.support.bitwise import bits, same
from dlconcepts.testing.laws import law
from tests.tensors.common import WRITABLE, Operations, copy_of, one_by_one, operations


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


def takes_the_result_over(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Let the tensor take the result's memory and dtype: a comparison turns it into bools."""
    tensor.data = getattr(tensor, name)(*operands)
    return tensor


@law(
    right=in_place,
    wrong={
        drops_the_result: "writes into its tensor",
        rebinds_the_name: "that same object",
        takes_the_result_over: "keeps the dtype",
    },
)
@given(drawn=operations())
def test_an_underscore_writes_into_its_tensor(
    apply: Callable[..., Tensor], drawn: Operations
) -> None:
    """The method with an underscore writes the plain method's values and returns its tensor."""
    for name, tensor, operands, expected in one_by_one(drawn):
        address, dtype = tensor.data_ptr(), tensor.dtype

        result = apply(tensor, name, *operands)

        assert result is tensor, f"{name}_ returns that same object"
        assert tensor.dtype == dtype, f"{name}_ keeps the dtype"
        assert same(tensor, expected.to(dtype)), f"{name}_ writes into its tensor"
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


def write(tensor: Tensor, other: Tensor, how: str) -> Tensor:
    if how == "+=":
        tensor += other
    elif how == "x[...] =":
        tensor[...] = other
    else:
        torch.add(tensor, other, out=tensor)
    return tensor


def adds_without_writing(tensor: Tensor, other: Tensor, how: str) -> Tensor:
    """Write x = x + y for x += y, which makes a new tensor."""
    return tensor + other if how == "+=" else write(tensor, other, how)


def assigns_to_a_copy(tensor: Tensor, other: Tensor, how: str) -> Tensor:
    """Select all rows by their positions, which copies, and assign to the copy."""
    if how == "x[...] =":
        tensor[torch.arange(len(tensor))][...] = other
        return tensor
    return write(tensor, other, how)


def ignores_out(tensor: Tensor, other: Tensor, how: str) -> Tensor:
    """Pass a clone as `out`."""
    return (
        torch.add(tensor, other, out=tensor.clone()) if how == "out=" else write(tensor, other, how)
    )


@law(
    right=write,
    wrong={
        adds_without_writing: "+= returns that same object",
        assigns_to_a_copy: "x[...] = counts as one write",
        ignores_out: "out= returns that same object",
    },
)
@given(
    tensor=tensors((2, 2), layouts=WRITABLE),
    other=tensors((2, 2)),
    how=st.sampled_from(["+=", "x[...] =", "out="]),
)
def test_some_writes_have_no_underscore(
    write: Callable[..., Tensor], tensor: Tensor, other: Tensor, how: str
) -> None:
    """+=, indexed assignment and out= write into their tensor, as the underscore does."""
    expected = other.clone() if how == "x[...] =" else copy_of(tensor) + other
    address, version = tensor.data_ptr(), tensor._version

    result = write(tensor, other, how)

    assert result is tensor, f"{how} returns that same object"
    assert tensor._version == version + 1, f"{how} counts as one write"
    assert same(tensor, expected), f"{how} writes into its tensor"
    assert tensor.data_ptr() == address, f"{how} stays at the same address"
