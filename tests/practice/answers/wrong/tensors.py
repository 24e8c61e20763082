"""Wrong answers to the exercises of lesson 1, tensors."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def fill_through_view__reshape(tensor: Tensor, value: float) -> Tensor:
    """Fill a copy, without an error, if the strides allow no view."""
    return tensor.reshape(-1).fill_(value)


def fill_through_view__returns_the_tensor(tensor: Tensor, value: float) -> Tensor:
    """Return the tensor in its own shape instead of the flat view."""
    tensor.view(-1).fill_(value)
    return tensor


def fill_through_view__fills_a_clone(tensor: Tensor, value: float) -> Tensor:
    """Fill a clone, so that the argument stays as it was."""
    flat = tensor.view(-1).clone()
    flat.fill_(value)
    return flat


def fill_through_view__returns_a_copy(tensor: Tensor, value: float) -> Tensor:
    """Fill the argument, but return new memory instead of a view."""
    tensor.view(-1)[:] = value
    return torch.full((tensor.numel(),), value, dtype=tensor.dtype)


def fill_through_view__value_error(tensor: Tensor, value: float) -> Tensor:
    """Raise ValueError where RuntimeError is promised."""
    try:
        flat = tensor.view(-1)
    except RuntimeError as error:
        raise ValueError("no flat view") from error
    return flat.fill_(value)


def fill_through_view__contiguous_only(tensor: Tensor, value: float) -> Tensor:
    """Refuse every tensor that is not contiguous, though x[::2] has a flat view."""
    if not tensor.is_contiguous():
        raise RuntimeError("the tensor is not contiguous")
    return tensor.view(-1).fill_(value)


def fill_through_view__times_zero(tensor: Tensor, value: float) -> Tensor:
    """Multiply by zero and add, which leaves NaN where the tensor was infinite or NaN."""
    return tensor.view(-1).mul_(0).add_(value)


def fill_through_view__one_too_few(tensor: Tensor, value: float) -> Tensor:
    """Leave the last element out."""
    flat = tensor.view(-1)
    for i in range(len(flat) - 1):
        flat[i] = value
    return flat


def fill_through_view__new_data(tensor: Tensor, value: float) -> Tensor:
    """Give the tensor other memory, so that other views of it do not see the value."""
    tensor.view(-1)
    tensor.data = torch.full(tensor.shape, value, dtype=tensor.dtype)
    return tensor.view(-1)


def fill_through_view__whole_numbers(tensor: Tensor, value: float) -> Tensor:
    """Cut the fraction off the value."""
    return tensor.view(-1).fill_(int(value))


def centre__in_place(tensor: Tensor) -> Tensor:
    """Subtract in place from a view, so the argument changes."""
    flat = tensor.reshape(-1)
    flat -= flat.mean()
    return flat


def centre__mean_of_rows(tensor: Tensor) -> Tensor:
    """Subtract the mean of each row."""
    if tensor.dim() == 0:
        return torch.zeros(1, dtype=tensor.dtype)
    return (tensor - tensor.mean(dim=-1, keepdim=True)).flatten()


def centre__keeps_the_shape(tensor: Tensor) -> Tensor:
    """Return the shape of the argument instead of a flat tensor."""
    return tensor - tensor.mean()


def centre__subtracts_the_sum(tensor: Tensor) -> Tensor:
    """Take the sum for the mean."""
    flat = tensor.flatten()
    return flat - flat.sum()


def centre__median(tensor: Tensor) -> Tensor:
    """Take the median for the mean."""
    flat = tensor.reshape(-1)
    return flat - flat.median()


def centre__standardises(tensor: Tensor) -> Tensor:
    """Also divide by the standard deviation."""
    flat = tensor.reshape(-1)
    return (flat - flat.mean()) / (flat.std(unbiased=False) + 1e-8)


def centre__view_only(tensor: Tensor) -> Tensor:
    """Fail for a transposed tensor, which has no flat view."""
    return tensor.view(-1) - tensor.mean()


def centre__one_too_few(tensor: Tensor) -> Tensor:
    """Divide by one element less."""
    flat = tensor.reshape(-1)
    return flat - flat.sum() / max(flat.numel() - 1, 1)


def centre__whole_mean(tensor: Tensor) -> Tensor:
    """Round the mean to a whole number."""
    flat = tensor.reshape(-1)
    return flat - flat.mean().round()


def centre__other_order(tensor: Tensor) -> Tensor:
    """Return the elements column by column."""
    return (tensor - tensor.mean()).permute(*reversed(range(tensor.dim()))).reshape(-1)


def from_numpy__copies(array: NDArray[Any]) -> Tensor:
    """Copy the memory that is to be shared."""
    if not array.dtype.isnative:
        raise TypeError("byte-swapped")
    if not array.flags.writeable:
        raise ValueError("read-only")
    return torch.tensor(array)


def from_numpy__no_check_of_flags(array: NDArray[Any]) -> Tensor:
    """Accept a read-only array, for which torch only warns."""
    if not array.dtype.isnative:
        raise TypeError("byte-swapped")
    return torch.from_numpy(array)


def from_numpy__copies_read_only(array: NDArray[Any]) -> Tensor:
    """Copy a read-only array instead of refusing it."""
    if not array.dtype.isnative:
        raise TypeError("byte-swapped")
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def from_numpy__contiguous(array: NDArray[Any]) -> Tensor:
    """Share only contiguous arrays; a slice with steps is copied."""
    if not array.dtype.isnative:
        raise TypeError("byte-swapped")
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        raise ValueError("read-only or reversed")
    return torch.from_numpy(np.ascontiguousarray(array))


def from_numpy__copies_reversed(array: NDArray[Any]) -> Tensor:
    """Copy an array with a negative stride instead of refusing it."""
    if not array.dtype.isnative:
        raise TypeError("byte-swapped")
    if not array.flags.writeable:
        raise ValueError("read-only")
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def from_numpy__always_float(array: NDArray[Any]) -> Tensor:
    """Convert to float32, which changes the dtype and copies."""
    if not array.dtype.isnative:
        raise TypeError("byte-swapped")
    if not array.flags.writeable:
        raise ValueError("read-only")
    return torch.from_numpy(array).float()


def from_numpy__swaps_the_bytes(array: NDArray[Any]) -> Tensor:
    """Convert byte-swapped numbers instead of refusing them."""
    if not array.flags.writeable:
        raise ValueError("read-only")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def from_numpy__one_error_for_all(array: NDArray[Any]) -> Tensor:
    """Raise ValueError also for a dtype that torch does not have."""
    if not array.flags.writeable:
        raise ValueError("read-only")
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot convert: {error}") from error


def from_numpy__makes_it_writeable(array: NDArray[Any]) -> Tensor:
    """Lift the write protection of the argument instead of respecting it."""
    if not array.dtype.isnative:
        raise TypeError("byte-swapped")
    array.flags.writeable = True
    return torch.from_numpy(array)


def from_numpy__flat(array: NDArray[Any]) -> Tensor:
    """Return a flat tensor instead of one with the shape of the array."""
    if not array.dtype.isnative:
        raise TypeError("byte-swapped")
    if not array.flags.writeable:
        raise ValueError("read-only")
    return torch.from_numpy(array).view(-1)


def _refuse(tensor: Tensor) -> None:
    """Raise TypeError with every call that is missing."""
    calls = []
    if tensor.requires_grad:
        calls.append(".detach()")
    if not tensor.is_cpu:
        calls.append(".cpu()")
    if tensor.layout != torch.strided:
        calls.append(".to_dense()")
    if tensor.is_conj():
        calls.append(".resolve_conj()")
    if tensor.is_neg():
        calls.append(".resolve_neg()")
    if tensor.is_quantized:
        calls.append(".dequantize()")
    elif tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        calls.append(".float()")
    elif tensor.dtype == torch.complex32:
        calls.append(".cfloat()")
    if calls:
        raise TypeError(f"call {''.join(calls)} first")


def to_numpy__detaches(tensor: Tensor) -> NDArray[Any]:
    """Detach silently instead of refusing a tensor that requires grad."""
    tensor = tensor.detach()
    _refuse(tensor)
    return tensor.numpy()


def to_numpy__copies(tensor: Tensor) -> NDArray[Any]:
    """Return a copy of the memory that is to be shared."""
    _refuse(tensor)
    return np.array(tensor.numpy())


def to_numpy__no_checks(tensor: Tensor) -> NDArray[Any]:
    """Leave the errors to torch, which raises RuntimeError for a tensor that requires grad."""
    return tensor.numpy()


def to_numpy__says_nothing(tensor: Tensor) -> NDArray[Any]:
    """Raise TypeError, but without the calls that are missing."""
    try:
        _refuse(tensor)
    except TypeError:
        raise TypeError("numpy cannot take this tensor") from None
    return tensor.numpy()


def to_numpy__first_call_only(tensor: Tensor) -> NDArray[Any]:
    """Name only the first of several missing calls."""
    if tensor.requires_grad:
        raise TypeError("call .detach() first")
    _refuse(tensor)
    return tensor.numpy()


def to_numpy__no_lazy_bits(tensor: Tensor) -> NDArray[Any]:
    """Forget the conjugate and negative bits, for which torch raises RuntimeError."""
    if not (tensor.is_conj() or tensor.is_neg()):
        _refuse(tensor)
    return tensor.numpy()


def to_numpy__resolves(tensor: Tensor) -> NDArray[Any]:
    """Resolve the conjugate bit silently, which copies."""
    tensor = tensor.resolve_conj().resolve_neg()
    _refuse(tensor)
    return tensor.numpy()


def to_numpy__contiguous(tensor: Tensor) -> NDArray[Any]:
    """Share only contiguous memory; a transposed tensor is copied."""
    _refuse(tensor)
    return tensor.contiguous().numpy()


def to_numpy__value_error(tensor: Tensor) -> NDArray[Any]:
    """Raise ValueError where TypeError is promised."""
    try:
        _refuse(tensor)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return tensor.numpy()


def to_numpy__widens(tensor: Tensor) -> NDArray[Any]:
    """Cast bfloat16 silently to float32."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    _refuse(tensor)
    return tensor.numpy()


def to_numpy__all_calls_always(tensor: Tensor) -> NDArray[Any]:
    """Name the same calls for every tensor, whether they are missing or not."""
    try:
        _refuse(tensor)
    except TypeError:
        calls = ".detach().cpu().to_dense().dequantize().resolve_conj().resolve_neg().float()"
        raise TypeError(f"call {calls} first") from None
    return tensor.numpy()


def to_numpy__through_a_list(tensor: Tensor) -> NDArray[Any]:
    """Build the array from Python numbers, so that float32 becomes float64."""
    _refuse(tensor)
    return np.array(tensor.tolist())
