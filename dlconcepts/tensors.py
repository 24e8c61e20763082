"""Lesson 1, tensors: the bridge to numpy, views, reshaping, and operations that write in place."""

from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

# Pairs of methods that look like an operation and its in-place version, but are not.
NOT_PAIRS = {
    "bernoulli": "the tensor holds the probabilities; bernoulli_ takes them as an argument",
    "detach": "detach_ changes the history, not the values",
    "resize": "deprecated in favour of reshape",
    "resize_as": "resize_as_ changes the size over the same storage",
}
# The dtypes that torch and numpy share.
NUMPY_DTYPES = frozenset(
    getattr(torch, name)
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)


def from_numpy(array: NDArray[Any]) -> Tensor:
    """Return a tensor that shares the array's memory, with its shape, dtype and values.

    Raises TypeError if torch has no such dtype (object, strings, dates, byte-swapped numbers) and
    ValueError if the array is read-only (torch itself only warns) or has a negative stride. Either
    may come first if both apply.
    Source: PyTorch documentation, "torch.from_numpy".

    >>> import numpy as np
    >>> array = np.array([1.0, 2.0])
    >>> from_numpy(array).mul_(10)
    tensor([10., 20.], dtype=torch.float64)
    >>> array
    array([10., 20.])
    """
    if not array.dtype.isnative:
        raise TypeError(
            f"the array's dtype {array.dtype} is byte-swapped: convert it first with "
            "array.astype(array.dtype.newbyteorder('='))"
        )
    if not array.flags.writeable:
        raise ValueError(
            "the array is read-only, but a write to the tensor would change it: pass "
            "array.copy(), or make it writeable with array.setflags(write=True)"
        )
    if any(stride < 0 for stride in array.strides):
        raise ValueError(
            f"the array has negative strides {array.strides}, which a tensor cannot have: pass "
            "array.copy()"
        )
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise TypeError(
            f"torch has no dtype like the array's {array.dtype}: convert it first, for example "
            "with array.astype(numpy.float32)"
        ) from error


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return an array that shares the tensor's memory, with its shape, dtype and values.

    Raises TypeError if numpy cannot take the tensor: it requires grad (detach), has a conjugate or
    negative bit (resolve_conj, resolve_neg), is not dense (to_dense), is not on the CPU (cpu), is
    quantized (dequantize), or has a dtype that numpy does not know (a cast). The message ends in
    the missing calls and no others, in an order that works, as "call .detach().cpu() first".
    Source: PyTorch documentation, "torch.Tensor.numpy".

    >>> to_numpy(torch.ones(2, dtype=torch.bfloat16))
    Traceback (most recent call last):
    ...
    TypeError: numpy cannot take this tensor as it is: call .float() first
    """
    # float() would drop the imaginary part of complex32; dequantize() gives float32.
    cast = ".cfloat()" if tensor.is_complex() else ".float()"
    cast = ".dequantize()" if tensor.is_quantized else cast
    steps = {  # in an order in which the calls work
        ".detach()": tensor.requires_grad,
        ".to_dense()": tensor.layout != torch.strided,
        ".cpu()": tensor.device.type != "cpu",
        ".resolve_conj()": tensor.is_conj(),
        ".resolve_neg()": tensor.is_neg(),
        cast: tensor.dtype not in NUMPY_DTYPES,
    }
    missing = "".join(step for step, needed in steps.items() if needed)
    if missing:
        raise TypeError(f"numpy cannot take this tensor as it is: call {missing} first")
    return tensor.numpy()


def centre(tensor: Tensor) -> Tensor:
    """Return the elements minus their mean, flat, (numel,), without changing the argument.

    The tensor is floating-point, and the result has its dtype. A view is not a copy: subtracting in
    place from tensor.view(-1) would change the argument too.

    >>> x = torch.tensor([[1.0, 3.0]])
    >>> centre(x), x
    (tensor([-1.,  1.]), tensor([[1., 3.]]))
    """
    flat = tensor.reshape(-1)
    return flat - flat.mean()


def fill_through_view(tensor: Tensor, value: float) -> Tensor:
    """Set every element in place, through a flat view of it, and return the view (numel,).

    Raises RuntimeError if the strides allow no flat view: reshape(-1) would write to a copy. The
    tensor does not require grad, and no elements share memory, as `expand` makes them.
    Source: PyTorch documentation, "torch.Tensor.view".

    >>> x = torch.zeros(2, 1)
    >>> fill_through_view(x, 7.0)
    tensor([7., 7.])
    >>> x
    tensor([[7.],
            [7.]])
    """
    return tensor.view(-1).fill_(value)


@cache
def in_place_pairs() -> dict[str, tuple[torch.dtype, str]]:
    """Return each method `name` that has an in-place version `name_` and takes at most one operand.

    It tries every such pair of torch.Tensor on small tensors. The values are the dtype of the
    tensor that worked, and its operand: "none", "scalar" or "tensor".

    >>> in_place_pairs()["add"], in_place_pairs()["exp"]
    ((torch.float32, 'tensor'), (torch.float32, 'none'))
    """
    names = [
        name
        for name in dir(Tensor)
        if name[0] != "_" and hasattr(Tensor, f"{name}_") and name not in NOT_PAIRS
    ]
    # The last combination that works wins, so the order is that of preference, the best last.
    return {
        name: (dtype, operand)
        for name in names
        for operand in ("scalar", "tensor", "none")
        for dtype in (torch.int64, torch.float32)
        if _is_pair(name, dtype, operand)
    }


def _is_pair(name: str, dtype: torch.dtype, operand: str) -> bool:
    # On the CPU, whatever the default device: the answer must not depend on it.
    square = torch.ones(2, 2, dtype=dtype, device="cpu")
    operands = {"none": (), "scalar": (1,), "tensor": (square.clone(),)}[operand]
    try:
        getattr(square, name)(*operands)
        getattr(square, f"{name}_")(*operands)
    except (RuntimeError, TypeError):
        return False
    return True
