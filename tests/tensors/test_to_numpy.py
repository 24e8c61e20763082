"""numpy() turns a tensor into an array, sometimes only after detach() or a cast.

>>> x = torch.tensor([1.5, 2.5], requires_grad=True)
>>> x.numpy()  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
RuntimeError: Can't call numpy() on Tensor that requires grad. ...
>>> x.detach().numpy()
array([1.5, 2.5], dtype=float32)

Notes: `.numpy()` turns a tensor back into an array.
Verdict: holds-if
Truth: It works for a dense CPU tensor that does not require grad, has no conjugate or negative
    bit, and has a dtype that numpy knows (not bfloat16, float8 or complex32; not quantized). Any
    other tensor needs `detach()`, `to_dense()`, `cpu()`, `resolve_conj()`, `resolve_neg()`,
    `dequantize()` or a cast first, which loses no value. The library's error says which. (Dtypes
    that torch only stores, such as uint4 and bits8, have no cast.)
"""

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dlconcepts.strategies import DTYPES, shapes, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.tensors import NUMPY_DTYPES, to_numpy
from dlconcepts.testing.laws import law
from tests.tensors.common import HOST


def through_a_list(tensor: Tensor) -> NDArray[Any]:
    """Go through a Python list, which has no dtype."""
    return np.array(tensor.tolist())


@law(right=to_numpy, wrong={through_a_list: "keeps the dtype"}, cpu_only=HOST)
@given(
    tensor=tensors(
        dtype=st.sampled_from(sorted(NUMPY_DTYPES & set(DTYPES), key=str)),
        allow_nan=True,
        allow_infinity=True,
    )
)
def test_to_numpy_keeps_shape_dtype_and_every_bit(
    to_numpy: Callable[[Tensor], NDArray[Any]], tensor: Tensor
) -> None:
    """The array has the tensor's shape, dtype and bits, whatever the strides."""
    array = to_numpy(tensor)

    assert f"torch.{array.dtype}" == str(tensor.dtype), "to_numpy keeps the dtype"
    assert array.shape == tuple(tensor.shape), "to_numpy keeps the shape"
    assert array.tobytes() == bits(tensor), "to_numpy keeps every bit"


def forces(tensor: Tensor) -> NDArray[Any]:
    """Detach, convert and copy silently, as numpy(force=True) does."""
    dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return (dense if dense.dtype in NUMPY_DTYPES else dense.float()).numpy(force=True)


# In the order of the calls that the error lists.
STEPS = (
    *("detach", "to_dense", "cpu", "resolve_conj", "resolve_neg"),
    *("dequantize", "cfloat", "float"),
)


@st.composite
def unfit_tensors(draw: st.DrawFn) -> tuple[Tensor, set[str]]:
    """Draw a tensor that numpy cannot take yet, and the missing steps."""
    # Whether "cpu" is missing depends on the device that the law runs on.
    step = draw(st.sampled_from([step for step in STEPS if step != "cpu"]))
    if step == "detach":
        several = draw(st.booleans())
        dtype = torch.bfloat16 if several else torch.float32
        return draw(tensors(dtype=dtype, requires_grad=True)), {step, *["float"] * several}
    if step in ("cfloat", "dequantize"):
        numbers = draw(tensors(dtype=torch.complex64, max_magnitude=100))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls complex32 experimental
            if step == "dequantize":
                # On the CPU: few other devices have quantized tensors.
                return torch.quantize_per_tensor(numbers.real.cpu(), 1.0, 0, torch.qint8), {step}
            return numbers.to(torch.complex32), {step}
    if step == "float":
        low = [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
        return draw(tensors()).to(draw(st.sampled_from(low))), {step}
    if step == "to_dense":
        return draw(tensors(shapes(min_dims=1))).to_sparse(), {step}
    conjugate = draw(tensors(dtype=torch.complex64)).conj()
    # The imaginary part of a lazy conjugate is lazily negated.
    return (conjugate if step == "resolve_conj" else conjugate.imag), {step}


def casts_all_to_float(tensor: Tensor) -> NDArray[Any]:
    """Name float() for every dtype, which drops the imaginary part of a complex number."""
    try:
        return to_numpy(tensor)
    except TypeError as error:
        raise TypeError(str(error).replace("cfloat", "float")) from None


def forgets_the_cast(tensor: Tensor) -> NDArray[Any]:
    """Name only detach() for bfloat16 that requires grad, as torch's own error does."""
    try:
        return to_numpy(tensor)
    except TypeError as error:
        message = str(error)
        raise TypeError(
            message.replace(".float()", "") if ".detach()" in message else message
        ) from None


@law(
    right=to_numpy,
    wrong={
        forces: "DID NOT RAISE",
        casts_all_to_float: "Regex pattern did not match",
        forgets_the_cast: "Regex pattern did not match",
    },
)
@given(case=unfit_tensors())
def test_a_tensor_that_numpy_cannot_take_is_refused(
    to_numpy: Callable[[Tensor], NDArray[Any]], case: tuple[Tensor, set[str]]
) -> None:
    """Gradients, lazy conjugates, sparse layouts and bfloat16 raise and name the missing calls."""
    tensor, missing = case
    on_host = tensor.device.type == "cpu"
    steps = [step for step in STEPS if step in missing or (step == "cpu" and not on_host)]
    calls = "".join(f".{step}()" for step in steps)

    with pytest.raises(TypeError, match=re.escape(f": call {calls} first")):
        to_numpy(tensor)


def lists_the_names(tensor: Tensor) -> NDArray[Any]:
    """Name the calls without a form that one can copy."""
    try:
        return to_numpy(tensor)
    except TypeError as error:
        raise TypeError(", ".join(re.findall(r"\w+(?=\(\))", str(error)))) from None


def names_every_call(tensor: Tensor) -> NDArray[Any]:
    """Name calls that are not missing."""
    try:
        return to_numpy(tensor)
    except TypeError as error:
        raise TypeError(str(error).replace("call ", "call .detach().resolve_conj()")) from None


@law(
    right=to_numpy,
    wrong={
        casts_all_to_float: "every value",
        forgets_the_cast: "are enough",
        lists_the_names: "ends in the calls",
        names_every_call: "and no others",
    },
    cpu_only=HOST,
)
@given(case=unfit_tensors())
def test_the_calls_in_the_error_make_it_work(
    to_numpy: Callable[[Tensor], NDArray[Any]], case: tuple[Tensor, set[str]]
) -> None:
    """After the calls that the error lists, the array has every value of the tensor."""
    tensor, missing = case
    values = tensor.detach().to_dense() if tensor.is_sparse else tensor
    expected = (values.dequantize() if values.is_quantized else values).tolist()
    with pytest.raises(TypeError) as refused:
        to_numpy(tensor)

    listed = re.search(r"call ((\.\w+\(\))+) first$", str(refused.value))
    assert listed, "the message ends in the calls, as `call .detach().cpu() first`"
    calls = re.findall(r"\w+", listed[1])
    # Any cast that keeps the values will do.
    casts = ("cfloat", "float")
    assert set(calls) & set(STEPS) - {*missing, *casts} == set(), "the missing calls and no others"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # float() warns if it drops an imaginary part
        for call in calls:
            tensor = getattr(tensor, call)()
    fits = not tensor.requires_grad and tensor.dtype in NUMPY_DTYPES

    assert fits, "the calls in the error are enough"
    # As text, in which NaN equals NaN.
    assert str(to_numpy(tensor).tolist()) == str(expected), "the calls keep every value"
