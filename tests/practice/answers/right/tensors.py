"""Right answers to the exercises of lesson 1, tensors."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def fill_through_view__by_fill(tensor: Tensor, value: float) -> Tensor:
    """Take the view and fill it."""
    return tensor.view(-1).fill_(value)


def fill_through_view__by_slice(tensor: Tensor, value: float) -> Tensor:
    """Give the view its length and assign to a slice of all."""
    flat = tensor.view(tensor.numel())
    flat[:] = value
    return flat


def fill_through_view__by_a_loop(tensor: Tensor, value: float) -> Tensor:
    """Set one element after the other."""
    flat = tensor.view(-1)
    for i in range(flat.shape[0]):
        flat[i] = value
    return flat


def fill_through_view__checks_the_address(tensor: Tensor, value: float) -> Tensor:
    """Reshape, and refuse if the elements lie elsewhere afterwards."""
    flat = tensor.reshape(-1)
    if flat.data_ptr() != tensor.data_ptr():
        raise RuntimeError(f"a tensor with strides {tensor.stride()} has no flat view")
    flat.copy_(torch.full_like(flat, value))
    return flat


def fill_through_view__own_words(tensor: Tensor, value: float) -> Tensor:
    """Raise a RuntimeError in words of its own."""
    try:
        flat = tensor.view(-1)
    except RuntimeError as error:
        raise RuntimeError("cannot flatten without copying") from error
    tensor.fill_(value)
    return flat


def centre__by_broadcasting(tensor: Tensor) -> Tensor:
    """Subtract the mean from a flat tensor, out of place."""
    flat = tensor.reshape(-1)
    return flat - flat.mean()


def centre__in_a_clone(tensor: Tensor) -> Tensor:
    """Subtract in place, from a clone."""
    result = tensor.clone().flatten()
    result -= tensor.mean()
    return result


def centre__by_a_loop(tensor: Tensor) -> Tensor:
    """Collect Python floats in a list."""
    values = tensor.reshape(-1).tolist()
    if not values:
        return tensor.new_empty(0)
    mean = math.fsum(values) / len(values)
    return torch.tensor([value - mean for value in values], dtype=tensor.dtype)


def centre__numpy(tensor: Tensor) -> Tensor:
    """Let numpy do it in float64."""
    array = tensor.detach().double().numpy().ravel()
    if array.size == 0:
        return tensor.new_empty(0)
    return torch.from_numpy(array - array.mean()).to(tensor.dtype)


def centre__flat_at_the_end(tensor: Tensor) -> Tensor:
    """Flatten the difference rather than the argument."""
    return torch.flatten(torch.sub(tensor, torch.mean(tensor)))


def from_numpy__checks_first(array: NDArray[Any]) -> Tensor:
    """Check what torch does not refuse, or refuses with another error."""
    if not array.dtype.isnative:
        raise TypeError(f"torch has no byte-swapped dtype, but the array is {array.dtype}")
    tensor_dtypes = "?bBhHiIlLqQefdFD"
    if array.dtype.char not in tensor_dtypes:
        raise TypeError(f"torch has no dtype for {array.dtype}")
    if not array.flags.writeable:
        raise ValueError("the array is read-only: copy it first")
    return torch.from_numpy(array)


def from_numpy__as_tensor(array: NDArray[Any]) -> Tensor:
    """Look for negative strides itself, and use as_tensor, which does not copy."""
    if array.dtype.kind not in "biufc" or array.dtype.byteorder not in ("=", "|"):
        raise TypeError(f"{array.dtype!r} is not a dtype of torch")
    if array.dtype in (np.dtype(np.longdouble), np.dtype(np.clongdouble)):
        raise TypeError(f"{array.dtype!r} is too wide for torch")
    if any(stride < 0 for stride in array.strides):
        raise ValueError("negative stride")
    if not array.flags["WRITEABLE"]:
        raise ValueError("read-only")
    return torch.as_tensor(array)


def from_numpy__read_only_first(array: NDArray[Any]) -> Tensor:
    """Look at the flags before the dtype, and translate the error of from_numpy."""
    if not array.flags.writeable:
        raise ValueError("cannot share the memory of a read-only array")
    try:
        return torch.from_numpy(array)
    except ValueError as error:
        if array.dtype.newbyteorder("=") != array.dtype:
            raise TypeError(
                "byte-swapped: use array.astype(array.dtype.newbyteorder('='))"
            ) from error
        raise


def from_numpy__dlpack(array: NDArray[Any]) -> Tensor:
    """Share through DLPack, after trying the dtype on an empty array."""
    try:
        torch.from_numpy(np.empty(0, array.dtype))
    except (TypeError, ValueError) as error:
        raise TypeError(f"no tensor has the dtype {array.dtype}") from error
    if not array.flags.writeable:
        raise ValueError("the array is read-only")
    if min(array.strides, default=0) < 0:
        raise ValueError(f"the array is reversed: strides {array.strides}")
    return torch.from_dlpack(array)


_KNOWN = (
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128),
)


def _missing(tensor: Tensor) -> Iterator[str]:
    if tensor.requires_grad:
        yield ".detach()"
    if tensor.device.type != "cpu":
        yield ".cpu()"
    if tensor.layout != torch.strided:
        yield ".to_dense()"
    if tensor.is_quantized:
        yield ".dequantize()"
    elif tensor.dtype not in _KNOWN:
        yield ".cfloat()" if tensor.dtype.is_complex else ".float()"
    if tensor.is_conj():
        yield ".resolve_conj()"
    if tensor.is_neg():
        yield ".resolve_neg()"


def to_numpy__helper(tensor: Tensor) -> NDArray[Any]:
    """Collect the calls in a helper."""
    calls = "".join(_missing(tensor))
    if calls:
        raise TypeError(f"before tensor.numpy(), call {calls} first")
    return tensor.numpy()


def to_numpy__list_of_conditions(tensor: Tensor) -> NDArray[Any]:
    """List all conditions with their calls, and convert with numpy's own function."""
    complex_half = tensor.dtype == torch.complex32
    unknown = tensor.dtype not in _KNOWN and not tensor.is_quantized
    conditions = [
        (tensor.requires_grad, "detach"),
        (tensor.is_conj(), "resolve_conj"),
        (tensor.is_neg(), "resolve_neg"),
        (tensor.layout is not torch.strided, "to_dense"),
        (not tensor.is_cpu, "cpu"),
        (tensor.is_quantized, "dequantize"),
        (unknown and not complex_half, "float"),
        (complex_half, "cfloat"),
    ]
    missing = [name for condition, name in conditions if condition]
    if missing:
        calls = "".join(f".{name}()" for name in missing)
        raise TypeError(f"there are {len(missing)} calls missing: call {calls} first")
    return np.asarray(tensor)


def to_numpy__asks_afterwards(tensor: Tensor) -> NDArray[Any]:
    """Try the conversion, and find out what was missing only if it fails."""
    try:
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        calls = "".join(_missing(tensor)) or ".float()"
        raise TypeError(f"numpy refuses ({error}): call {calls} first") from None
