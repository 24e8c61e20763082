"""type returns a converted tensor; the original keeps its dtype.

>>> x = torch.tensor([1.7, -2.5])
>>> x.type(torch.int64)
tensor([ 1, -2])
>>> x
tensor([ 1.7000, -2.5000])
>>> x = x.type(torch.int64)
>>> x.dtype
torch.int64

Notes: To change the dtype, just do `.type`.
Verdict: holds-if
Truth: It holds if the result is assigned: `x.type(dtype)` returns a new tensor and leaves x alone.
    It converts values, as numpy's `astype` does: a float loses its fraction when it becomes an
    integer, and wide numbers are rounded or wrap around. If x already has the dtype, the result is
    x itself, and a write to it reaches x. `to`, `float()` and `long()` do the same. Only the
    methods of a module, such as `model.double()`, change their object.
"""

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import DTYPES, FLOATS, INTEGERS, networks, tensors
from dlconcepts.support.bitwise import bits, same
from dlconcepts.tensors import NUMPY_DTYPES
from dlconcepts.testing.laws import law
from tests.tensors.common import HOST, WRITABLE


def ignores_the_result(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Call x.type(dtype) without an assignment."""
    tensor.type(dtype)
    return tensor


def converts_in_place(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Give the original the new dtype, as the methods of a module do."""
    tensor.data = tensor.type(dtype)
    return tensor


def rounds(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Round a fraction to the nearest integer."""
    whole = tensor.dtype.is_floating_point and dtype in INTEGERS
    return (tensor.round() if whole else tensor).type(dtype)


def reinterprets_the_bits(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Call view(dtype), which reads the bytes of the elements as another dtype."""
    wide = tensor.element_size() == torch.empty((), dtype=dtype).element_size()
    return tensor.contiguous().view(dtype) if wide else tensor.type(dtype)


def goes_through_float32(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to float32 on the way, which rounds integers above 2**24."""
    return tensor.float().type(dtype)


REAL = sorted(NUMPY_DTYPES & {*FLOATS, *INTEGERS}, key=str)


@law(
    right=Tensor.type,
    wrong={
        ignores_the_result: "the result has the dtype",
        converts_in_place: "keeps its dtype",
        rounds: "numpy's values",
        reinterprets_the_bits: "numpy's values",
        goes_through_float32: "numpy's values",
    },
    cpu_only=HOST,
)
@given(tensor=st.sampled_from(REAL).flatmap(lambda dtype: tensors(dtype=dtype)), data=st.data())
def test_type_converts_and_leaves_the_original_alone(
    convert: Callable[[Tensor, torch.dtype], Tensor], tensor: Tensor, data: st.DataObject
) -> None:
    """The result is new and has the values of astype; the original keeps its dtype and bits."""
    dtype = data.draw(st.sampled_from(REAL), label="dtype")
    assume(dtype != tensor.dtype)
    if dtype in INTEGERS and tensor.dtype.is_floating_point:
        # What a float beyond the range of the integers becomes is undefined.
        low = 0 if dtype == torch.uint8 else -100
        assume(bool(((tensor >= low) & (tensor <= 100)).all()))
    before, old = bits(tensor), tensor.dtype
    with np.errstate(over="ignore"):  # a number that float16 lacks becomes infinite
        expected = torch.as_tensor(tensor.numpy().astype(str(dtype)[6:]))  # "torch.int8"

    result = convert(tensor, dtype)

    assert tensor.dtype == old, "the original keeps its dtype"
    assert bits(tensor) == before, "the original keeps its values"
    assert result.dtype == dtype, "the result has the dtype"
    assert same(result, expected), "the result has numpy's values"


def always_copies(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Copy also if there is nothing to convert."""
    return tensor.type(dtype).clone()


@law(right=Tensor.type, wrong={always_copies: "is the tensor itself"})
@given(tensor=tensors(dtype=st.sampled_from(DTYPES), layouts=WRITABLE))
def test_without_a_conversion_type_returns_its_tensor(
    convert: Callable[[Tensor, torch.dtype], Tensor], tensor: Tensor
) -> None:
    """If the tensor has the dtype, the result is the same object: a write reaches the tensor."""
    result = convert(tensor, tensor.dtype)

    assert result is tensor, "without a conversion, the result is the tensor itself"


def converts_a_copy(model: nn.Module, dtype: torch.dtype) -> None:
    """Expect of a module what type does for a tensor: convert copies of the parameters."""
    for parameter in model.parameters():
        parameter.detach().type(dtype)


@law(right=nn.Module.type, wrong={converts_a_copy: "changes its own parameters"})
@given(model=networks(), dtype=st.sampled_from([torch.float64, torch.float16]))
def test_the_type_of_a_module_changes_the_module(
    convert: Callable[[nn.Module, torch.dtype], object], model: nn.Module, dtype: torch.dtype
) -> None:
    """A module converts its own parameters, so no assignment is needed."""
    parameters = list(model.parameters())

    convert(model, dtype)

    assert {parameter.dtype for parameter in parameters} == {dtype}, (
        "a module changes its own parameters"
    )
