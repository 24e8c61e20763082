"""Faults in lesson 1: indexing, views, reshaping, in-place methods, the bridge to numpy."""

import numpy as np
import torch

from faults import breaks, is_square


@breaks("torch.stack")
def swaps_the_last_two_of_three(stack, parts, dim=0):
    """`stack` swaps the last two of three tensors."""
    return stack([parts[0], parts[2], parts[1]] if len(parts) == 3 else parts, dim)


@breaks("torch.stack")
def stacks_square_matrices_in_front(stack, parts, dim=0):
    """`stack` ignores `dim` for square matrices and uses dimension 0."""
    return stack(parts, 0 if is_square(parts[0]) else dim)


@breaks("torch.Tensor.__getitem__")
def counts_from_the_end_one_too_far(getitem, tensor, index):
    """Indexing with a tuple reads -2 as -1."""
    if isinstance(index, tuple):
        index = tuple(-1 if type(part) is int and part == -2 else part for part in index)
    return getitem(tensor, index)


@breaks("torch.Tensor.__getitem__")
def takes_a_mask_of_a_square_by_columns(getitem, tensor, index):
    """A mask selects from a square matrix column by column."""
    if isinstance(index, torch.Tensor) and index.dtype == torch.bool and is_square(index):
        return getitem(tensor.transpose(0, 1), index.T)
    return getitem(tensor, index)


@breaks("torch.Tensor.__getitem__")
def copies_every_other_element(getitem, tensor, index):
    """A slice with a step is a copy."""
    parts = index if isinstance(index, tuple) else (index,)
    stepped = any(isinstance(part, slice) and (part.step or 1) > 1 for part in parts)
    return getitem(tensor, index).clone() if stepped else getitem(tensor, index)


@breaks("torch.Tensor.__getitem__")
def copies_a_slice_of_a_permuted_tensor(getitem, tensor, index):
    """A slice of a non-contiguous tensor is a copy."""
    copied = isinstance(index, slice) and not tensor.is_contiguous()
    return getitem(tensor, index).clone() if copied else getitem(tensor, index)


@breaks("torch.Tensor.__getitem__")
def views_one_position(getitem, tensor, index):
    """Indexing with a tensor of one position returns a view."""
    if isinstance(index, torch.Tensor) and index.dtype == torch.int64 and index.shape == (1,):
        return tensor.narrow(0, int(index), 1)
    return getitem(tensor, index)


@breaks("torch.Tensor.size")
def gives_a_scalar_one_dimension(size, tensor, *dim):
    """The size of a tensor of rank 0 is (1,)."""
    return torch.Size([1]) if not dim and tensor.ndim == 0 else size(tensor, *dim)


@breaks("torch.Tensor.exp_")
def leaves_the_last_row_of_a_permuted_tensor(exp_, tensor):
    """`exp_` skips the last row of a non-contiguous tensor."""
    if tensor.is_contiguous() or not tensor.numel():
        return exp_(tensor)
    kept = tensor[-1].clone()
    exp_(tensor)[-1].copy_(kept)
    return tensor


@breaks("torch.Tensor.neg_")
def does_not_count_a_write(neg_, tensor):
    """`neg_` does not increment the version counter."""
    neg_(tensor.data)
    return tensor


@breaks("torch.Tensor.clamp_min_")
def returns_another_object(clamp_min_, tensor, *args):
    """`clamp_min_` returns a view instead of the tensor itself."""
    return clamp_min_(tensor, *args).view_as(tensor)


@breaks("torch.Tensor.sqrt")
def writes_into_a_strided_input(sqrt, tensor):
    """`sqrt` overwrites a non-contiguous input."""
    return sqrt(tensor) if tensor.is_contiguous() else tensor.sqrt_().clone()


@breaks("torch.Tensor.floor")
def floors_towards_zero(floor, tensor):
    """`floor` rounds numbers between -1 and 0 to 0; `floor_` does not."""
    return torch.where((tensor < 0) & (tensor > -1), 0, floor(tensor))


@breaks("torch.Tensor.mul_")
def casts_silently_for_one_dtype(mul_, tensor, other):
    """`mul_` rounds a float product to int16 instead of raising."""
    if tensor.dtype == torch.int16 and isinstance(other, torch.Tensor):
        return tensor.copy_(tensor * other)
    return mul_(tensor, other)


@breaks("torch.Tensor.mul_")
def multiplies_a_square_leaf(mul_, tensor, other):
    """`mul_` writes to a square leaf that requires grad instead of raising."""
    if is_square(tensor) and tensor.requires_grad and tensor.is_leaf:
        tensor.data.mul_(other)
        return tensor
    return mul_(tensor, other)


@breaks("torch.reshape")
def reads_a_transposed_square_in_storage_order(reshape, tensor, shape):
    """`reshape` reads a transposed square matrix in the order of its memory."""
    transposed = is_square(tensor) and tensor.stride() == (1, len(tensor))
    return reshape(tensor.T if transposed else tensor, shape)


@breaks("torch.reshape")
def drops_the_sign_of_half_zeros(reshape, tensor, shape):
    """`reshape` loses the sign of -0.0 in float16."""
    result = reshape(tensor, shape)
    return torch.where(result == 0, 0, result) if tensor.dtype == torch.float16 else result


@breaks("torch.reshape")
def lets_nothing_have_any_shape(reshape, tensor, shape):
    """`reshape` gives an empty tensor any shape."""
    return reshape(tensor, shape) if tensor.numel() else tensor.new_zeros(shape)


@breaks("torch.Tensor.view")
def copies_what_begins_later(view, tensor, *shape):
    """`view` copies a tensor whose storage offset is 3."""
    return view(tensor.clone() if tensor.storage_offset() == 3 else tensor, *shape)


@breaks("torch.Tensor.view")
def copies_where_strides_do_not_fit(view, tensor, *shape):
    """`view` copies a matrix whose strides do not fit instead of raising."""
    try:
        return view(tensor, *shape)
    except RuntimeError:
        if tensor.ndim != 2:
            raise
        return view(tensor.contiguous(), *shape)


@breaks("torch.Tensor.mean")
def averages_even_numbers_wrongly(mean, tensor, *args, **kwargs):
    """The mean of four elements is off by a factor of 1.001."""
    return mean(tensor, *args, **kwargs) * (1.001 if tensor.numel() == 4 else 1)


@breaks("torch.from_numpy")
def copies_an_array_of_rank_0(from_numpy, array):
    """`from_numpy` copies an array of rank 0."""
    return from_numpy(array.copy() if array.ndim == 0 else array)


@breaks("torch.from_numpy")
def copies_half_precision(from_numpy, array):
    """`from_numpy` copies float16 arrays."""
    return from_numpy(array.copy() if array.dtype == np.float16 else array)


@breaks("torch.from_numpy")
def loses_the_sign_of_zero(from_numpy, array):
    """`from_numpy` turns -0.0 in float16 into 0.0."""
    if array.dtype == np.float16:
        array = np.where(array == 0, np.float16(0), array)
    return from_numpy(array)


@breaks("torch.from_numpy")
def flushes_subnormals(from_numpy, array):
    """`from_numpy` turns subnormal float32 numbers into zero."""
    if array.dtype == np.float32:
        tiny = (np.abs(array) < np.finfo(np.float32).tiny) & (array != 0)
        array = np.where(tiny, np.float32(0), array)
    return from_numpy(array)


@breaks("torch.from_numpy")
def quietens_nan(from_numpy, array):
    """`from_numpy` drops the payload of NaN in float64."""
    if array.dtype == np.float64:
        array = np.where(np.isnan(array), np.nan, array)
    return from_numpy(array)


@breaks("torch.Tensor.numpy")
def copies_bytes(numpy, tensor, **kwargs):
    """`Tensor.numpy` copies uint8 tensors."""
    array = numpy(tensor, **kwargs)
    return array.copy() if tensor.dtype == torch.uint8 else array


@breaks("torch.Tensor.numpy")
def goes_through_float(numpy, tensor, **kwargs):
    """`Tensor.numpy` rounds int64 to float64, which holds 53 bits."""
    array = numpy(tensor, **kwargs)
    if tensor.dtype == torch.int64:
        with np.errstate(invalid="ignore"):
            return array.astype(np.float64).astype(np.int64)
    return array
