"""Lesson 1: tensors.

A tensor is an array of numbers of one dtype: a vector is a 1-d tensor, a matrix a 2-d one. Behind
it stands a storage, a plain run of memory, and the tensor says only how to walk it: shape, strides,
offset. Most of this lesson follows from that one fact. Indexing with slices, `view` and
`from_numpy` make another way to walk the same memory, so a write through one is seen through the
other. Methods whose names end in an underscore write into that memory. `resize_` sets another walk
without a look at the old strides, which is why it does not reshape.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dlconcepts.compare import bits, same
from dlconcepts.strategies import DTYPES, FLOATS, INTEGERS, aliases, shapes, tensors
from dlconcepts.tensors import (
    NUMPY_DTYPES,
    centre,
    fill_through_view,
    from_numpy,
    in_place_pairs,
    to_numpy,
)

claim = pytest.mark.claim

WRITABLE = ("contiguous", "permuted", "offset", "strided")
EPSILON, SMALLEST = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).smallest_normal
HOST = "numpy arrays live in the memory of the CPU"


def indices_of(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Draw an index of a shape: slices and integers, integer arrays, or a boolean mask."""
    basic = hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True)
    kinds = [basic.filter(lambda index: not has_negative_step(index))]
    if shape and min(shape) > 0:
        kinds.append(hnp.integer_array_indices(shape))
    if shape:
        kinds.append(hnp.arrays(bool, shape))
    return st.one_of(kinds)


def has_negative_step(index: Any) -> bool:
    """Return whether a basic index has a slice that walks backwards."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, slice) and (part.step or 1) < 0 for part in parts)


def is_advanced(index: Any) -> bool:
    """Return whether numpy copies for this index, instead of making a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, np.ndarray) for part in parts)


def as_tensors(index: Any) -> Any:
    """Return an index with its arrays made tensors."""
    if isinstance(index, tuple):
        return tuple(as_tensors(part) for part in index)
    return torch.from_numpy(index) if isinstance(index, np.ndarray) else index


# ------------------------------------------------- vectors and matrices generalise to any rank


def concatenates(parts: list[Tensor], dim: int) -> Tensor:
    """Join along an axis that is there already, where there is one."""
    return (
        torch.cat([part.reshape(-1) for part in parts]) if parts[0].ndim < 1 else torch.cat(parts)
    )


def stacks_last(parts: list[Tensor], dim: int) -> Tensor:
    """Stack along the last axis whatever axis was asked."""
    return torch.stack(parts, dim=-1)


@claim(
    "tensors.generalise-vectors-and-matrices",
    right=torch.stack,
    wrong={concatenates: "one rank more", stacks_last: "length k along the new axis"},
)
@given(data=st.data())
def test_stacking_adds_an_axis(stack: Callable[..., Tensor], data: st.DataObject) -> None:
    """A stack of k tensors of rank r has rank r + 1, and its slices are the tensors."""
    shape = data.draw(shapes(), label="shape")
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    parts = data.draw(st.lists(tensors(shape, dtype), min_size=1, max_size=3), label="parts")
    dim = data.draw(st.integers(0, len(shape)), label="dim")

    stacked = stack(parts, dim=dim)

    assert stacked.ndim == len(shape) + 1, "a stack has one rank more than its parts"
    assert stacked.shape == (*shape[:dim], len(parts), *shape[dim:]), (
        "the shape has length k along the new axis"
    )
    for k, part in enumerate(parts):
        assert same(stacked.select(dim, k), part), f"slice {k} equals its original"


# ------------------------------------------------- indexing like numpy


def drops_length_one(tensor: Tensor, index: Any) -> Tensor:
    """Squeeze every axis on which one element is left."""
    return tensor[index].squeeze()


def mask_as_positions(tensor: Tensor, index: Any) -> Tensor:
    """Read True and False as the positions 1 and 0."""
    if isinstance(index, Tensor) and index.dtype == torch.bool and tensor.shape[0] > 1:
        index = index.long()
    return tensor[index]


@claim(
    "tensors.index-like-numpy",
    right=operator.getitem,
    wrong={drops_length_one: "numpy's shape", mask_as_positions: "an index gives numpy's"},
    cpu_only=HOST,
)
@given(data=st.data())
def test_an_index_selects_what_it_selects_in_numpy(
    getitem: Callable[[Tensor, Any], Tensor], data: st.DataObject
) -> None:
    """Slices, integers, integer arrays and masks select the same elements in the same shape."""
    dtypes = sorted(NUMPY_DTYPES & set(DTYPES), key=str)
    tensor = data.draw(tensors(dtype=st.sampled_from(dtypes)), label="tensor")
    index = data.draw(indices_of(tuple(tensor.shape)), label="index")

    selected = getitem(tensor, as_tensors(index))

    expected = torch.as_tensor(np.asarray(tensor.numpy()[index]))
    assert selected.shape == expected.shape, f"an index gives numpy's shape {expected.shape}"
    assert same(selected, expected), "an index gives numpy's values"


def copies_slices(tensor: Tensor, index: Any) -> Tensor:
    """Give a private copy for every index."""
    return tensor[index].clone()


def views_everything(tensor: Tensor, index: Any) -> Tensor:
    """Take the rows from the first to the last position, as a view, for integer positions too."""
    if isinstance(index, Tensor) and index.numel():
        return tensor[index.min() : index.max() + 1]
    return tensor[index]


@claim(
    "tensors.index-like-numpy",
    right=operator.getitem,
    wrong={copies_slices: "reaches the original", views_everything: "stays in the copy"},
)
@given(
    tensor=tensors(shapes(min_dims=1, min_side=1), layouts=WRITABLE),
    data=st.data(),
)
def test_a_slice_is_a_view_and_positions_are_a_copy(
    getitem: Callable[[Tensor, Any], Tensor], tensor: Tensor, data: st.DataObject
) -> None:
    """Writing through a basic index reaches the original; through an advanced one it does not."""
    row = data.draw(st.integers(0, len(tensor) - 1), label="row")
    advanced = data.draw(st.booleans(), label="advanced")
    before = tensor.clone()
    expected = before[row] + 1

    getitem(tensor, torch.tensor([row]) if advanced else slice(row, row + 1)).add_(1)

    if advanced:
        assert same(tensor, before), "a write through integer positions stays in the copy"
    else:
        assert same(tensor[row], expected), "a write through a slice reaches the original"


def reverses(tensor: Tensor, index: slice) -> Tensor:
    """Copy where torch has no view to give, and say nothing."""
    return torch.from_numpy(tensor.numpy()[index].copy())


@claim(
    "tensors.index-like-numpy",
    right=operator.getitem,
    wrong={reverses: "DID NOT RAISE"},
    cpu_only=HOST,
)
@given(
    tensor=tensors(shapes(min_dims=1)),
    start=st.none() | st.integers(-5, 5),
    step=st.integers(-4, -1),
)
def test_a_negative_step_is_refused(
    getitem: Callable[[Tensor, Any], Tensor], tensor: Tensor, start: int | None, step: int
) -> None:
    """A slice that walks backwards, fine in numpy, raises ValueError."""
    before = bits(tensor)

    with pytest.raises(ValueError, match="step must be greater than zero"):
        getitem(tensor, slice(start, None, step))

    assert bits(tensor) == before, "a refused index changes nothing"


# ------------------------------------------------- size


def length(tensor: Tensor) -> tuple[int, ...]:
    """Take len(), which knows the first dimension only."""
    return (len(tensor),) if tensor.ndim else ()


def element_count(tensor: Tensor) -> tuple[int, ...]:
    """Take the number of elements for the dimensions."""
    return (tensor.numel(),)


@claim(
    "tensors.size-gives-the-dimensions",
    right=Tensor.size,
    wrong={length: "one entry for each dimension", element_count: "one entry for each dimension"},
)
@given(tensor=tensors())
def test_size_is_the_shape(size: Callable[[Tensor], tuple[int, ...]], tensor: Tensor) -> None:
    """The size is a tuple of ints, one for each dimension, from which a tensor of it is made."""
    dimensions = size(tensor)

    assert len(dimensions) == tensor.dim(), "the size has one entry for each dimension"
    assert all(type(side) is int for side in dimensions), "the entries are ints"
    assert np.prod(dimensions, dtype=int) == tensor.numel(), "their product is numel()"
    assert tuple(dimensions) == tensor.numpy(force=True).shape, "the size is numpy's shape"
    assert torch.zeros(dimensions).shape == tensor.shape, "a tensor made from it has the same shape"


# ------------------------------------------------- the underscore


def in_place(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Call the method with the underscore."""
    return getattr(tensor, f"{name}_")(*operands)


def drops_the_result(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Call the plain method and forget what it returns."""
    getattr(tensor, name)(*operands)
    return tensor


def rebinds_the_name(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Assign the result to the local name, as in x = x * 2: other references keep the old one."""
    tensor = getattr(tensor, name)(*operands)
    return tensor


def out_of_place(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Call the method without the underscore."""
    return getattr(tensor, name)(*operands)


# The smallest int64 divided by -1 is more than the largest: torch's remainder then traps, and ends
# the process.
LARGEST = {torch.float32: float("inf"), torch.int64: 2.0**62}
Operations = tuple[list[str], dict[torch.dtype, tuple[Tensor, Tensor]]]


@st.composite
def operations(draw: st.DrawFn) -> Operations:
    """Draw a quarter of the pairs of methods, and for each dtype a matrix and an operand."""
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
    """Yield each name, a matrix of its own, the operands, and what the plain method gives.

    The matrix has the strides that were drawn. Those outside a method's domain are left out.
    """
    names, matrices = drawn
    for name in names:
        dtype, operand = in_place_pairs()[name]
        matrix, other = matrices[dtype]
        operands = {"none": (), "scalar": (1,), "tensor": (other,)}[operand]
        try:
            # With the same strides: torch 2.6 computes fmod of subnormal numbers in another way
            # where elements do not lie side by side.
            expected = getattr(copy_of(matrix), name)(*operands)
        except RuntimeError:
            continue
        yield name, copy_of(matrix), operands, expected


def copy_of(tensor: Tensor) -> Tensor:
    """Return the same elements with the same strides, in memory of its own."""
    return tensor.new_empty_strided(*walk_of(tensor)).copy_(tensor)


def walk_of(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape and the strides of a tensor."""
    return tuple(tensor.shape), tensor.stride()


@claim(
    "tensors.underscore-mutates",
    right=in_place,
    wrong={drops_the_result: "writes into its tensor", rebinds_the_name: "that same object"},
)
@given(drawn=operations())
def test_an_underscore_writes_into_its_tensor(
    apply: Callable[..., Tensor], drawn: Operations
) -> None:
    """The method with an underscore writes the plain one's values, and returns its tensor."""
    for name, tensor, operands, expected in one_by_one(drawn):
        address = tensor.data_ptr()

        result = apply(tensor, name, *operands)

        assert result is tensor, f"{name}_ returns that same object"
        assert same(tensor, expected.to(tensor.dtype)), f"{name}_ writes into its tensor"
        assert tensor.data_ptr() == address, f"{name}_ stays at the same address"


def writes_to_the_data(tensor: Tensor, name: str, *operands: Any) -> Tensor:
    """Write through .data, which has a version counter of its own."""
    getattr(tensor.data, f"{name}_")(*operands)
    return tensor


@claim(
    "tensors.underscore-mutates",
    right=in_place,
    wrong={writes_to_the_data: "counts as one write"},
)
@given(drawn=operations())
def test_an_underscore_counts_as_one_write(apply: Callable[..., Tensor], drawn: Operations) -> None:
    """The version counter, by which autograd notices a write, goes up by one."""
    for name, tensor, operands, _ in one_by_one(drawn):
        version = tensor._version

        apply(tensor, name, *operands)

        assert tensor._version == version + 1, f"{name}_ counts as one write"


@claim(
    "tensors.underscore-mutates",
    right=out_of_place,
    wrong={in_place: "leaves its input alone"},
)
@given(drawn=operations())
def test_without_underscore_the_input_is_left_alone(
    apply: Callable[..., Tensor], drawn: Operations
) -> None:
    """The plain method leaves every bit of its tensor as it was."""
    for name, tensor, operands, expected in one_by_one(drawn):
        before = bits(tensor), tensor.shape, tensor._version

        result = apply(tensor, name, *operands)

        after = bits(tensor), tensor.shape, tensor._version
        assert after == before, f"{name} leaves its input alone"
        assert same(result, expected), f"{name} gives its result"


def test_the_pairs_are_found() -> None:
    """Introspection finds the pairs by the hundred, arithmetic, comparisons and the rest."""
    in_place_pairs.cache_clear()
    pairs = in_place_pairs()

    assert len(pairs) >= 100
    assert {"add", "mul", "exp", "clamp_min", "logical_not", "tril"} <= set(pairs)
    assert pairs["add"] == (torch.float32, "tensor")
    assert pairs["bitwise_not"] == (torch.int64, "none")
    assert pairs["clamp_min"] == (torch.float32, "tensor")
    assert not {"bernoulli", "detach", "resize", "resize_as"} & set(pairs)


# ------------------------------------------------- what cannot be done in place


def casts_silently(tensor: Tensor, factor: Tensor) -> Tensor:
    """Round the product to the tensor's type."""
    return tensor.copy_(tensor * factor) if tensor.dtype != factor.dtype else tensor.mul_(factor)


def outgrows_silently(tensor: Tensor, factor: Tensor) -> Tensor:
    """Give the tensor the room that the product needs."""
    product = tensor * factor
    if product.shape == tensor.shape:
        return tensor.mul_(factor)
    return tensor.set_(product)


def writes_behind_autograd(tensor: Tensor, factor: Tensor) -> Tensor:
    """Multiply the data of a leaf, so that autograd does not see it."""
    return tensor.data.mul_(factor)


@st.composite
def impossible_products(draw: st.DrawFn) -> tuple[Tensor, Tensor, str]:
    """Draw a tensor, a factor that it cannot take in place, and what torch says of it."""
    case = draw(st.sampled_from(["dtype", "room", "shared", "leaf"]))
    shape = draw(shapes(min_dims=1, min_side=2, max_side=3, max_dims=3))
    if case == "dtype":
        integers = draw(tensors(shape, st.sampled_from(INTEGERS), layouts=WRITABLE))
        return integers, draw(tensors(shape)), "can't be cast"
    if case == "room":
        larger = (draw(st.integers(2, 3)), *shape)
        return draw(tensors(shape, layouts=WRITABLE)), draw(tensors(larger)), "doesn't match"
    if case == "shared":
        shared = draw(tensors(shape, layouts=["expanded"]))
        return shared, draw(tensors(shape)), "single memory location"
    leaf = draw(tensors(shape, layouts=WRITABLE, requires_grad=True))
    return leaf, draw(tensors(shape)), "a leaf Variable that requires grad"


@claim(
    "tensors.in-place-cannot-change-type-or-room",
    right=Tensor.mul_,
    wrong={
        casts_silently: "DID NOT RAISE",
        outgrows_silently: "DID NOT RAISE",
        writes_behind_autograd: "DID NOT RAISE",
    },
)
@given(product=impossible_products())
def test_what_does_not_fit_in_place_raises(
    mul_: Callable[[Tensor, Tensor], Tensor], product: tuple[Tensor, Tensor, str]
) -> None:
    """Another dtype, a larger shape, shared elements and a leaf with grad raise, and stay."""
    tensor, factor, message = product
    before, shape = bits(tensor), tensor.shape

    with pytest.raises(RuntimeError, match=message):
        mul_(tensor, factor)

    assert bits(tensor) == before, "a refused product changes no element"
    assert tensor.shape == shape, "a refused product changes no shape"


# ------------------------------------------------- reshaping


def resizes_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Change the size over the same storage, whatever the strides say."""
    return tensor.resize_(shape)


def grows_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Hard-code the size of a full batch: resize_(64, 1, 784), also for the last, smaller one."""
    if np.prod(shape, dtype=int) > tensor.numel():
        return tensor.resize_(shape)
    return tensor.reshape(shape)


def shrinks_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Ask for fewer elements than there are."""
    if np.prod(shape, dtype=int) < tensor.numel():
        return tensor.resize_(shape)
    return tensor.reshape(shape)


@claim(
    "tensors.resize-in-place",
    right=torch.reshape,
    wrong={resizes_in_place: "row-major order"},
)
@given(
    tensor=tensors(dtype=st.sampled_from(FLOATS) | st.sampled_from(DTYPES)),
    data=st.data(),
)
def test_reshaping_keeps_the_elements_in_order(
    reshape: Callable[..., Tensor], tensor: Tensor, data: st.DataObject
) -> None:
    """Every element is kept, in row-major order, whatever the strides."""
    shape = data.draw(shapes_of(tensor.numel()), label="shape")
    before = bits(tensor)

    reshaped = reshape(tensor, shape)

    assert tuple(reshaped.shape) == shape, "the shape is the one that was asked for"
    assert bits(reshaped) == before, "the elements are kept in row-major order"


@claim(
    "tensors.resize-in-place",
    right=torch.reshape,
    wrong={grows_in_place: "DID NOT RAISE", shrinks_in_place: "DID NOT RAISE"},
)
@given(tensor=tensors(layouts=WRITABLE), shape=shapes())
def test_another_number_of_elements_is_refused(
    reshape: Callable[..., Tensor], tensor: Tensor, shape: tuple[int, ...]
) -> None:
    """A shape that holds more or fewer elements raises: nothing is invented, nothing hidden."""
    assume(np.prod(shape, dtype=int) != tensor.numel())
    before = bits(tensor)

    with pytest.raises(RuntimeError, match="is invalid for input of size"):
        reshape(tensor, shape)

    assert bits(tensor) == before, "a refused reshape changes nothing"


@st.composite
def shapes_of(draw: st.DrawFn, elements: int) -> tuple[int, ...]:
    """Draw a shape that holds this number of elements."""
    if elements == 0:
        return draw(shapes(min_dims=1).filter(lambda shape: 0 in shape))
    shape, rest = [], elements
    while rest > 1:
        shape.append(draw(st.sampled_from([n for n in range(2, rest + 1) if rest % n == 0])))
        rest //= shape[-1]
    shape += [1] * draw(st.integers(0, 2))
    return tuple(draw(st.permutations(shape)))


# ------------------------------------------------- views


def copies(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape a private copy."""
    return tensor.clone().reshape(shape)


def views_in_place(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give the original itself the new shape, as resize_ does."""
    view = tensor.view(shape)
    tensor.set_(view)
    return view


@claim(
    "tensors.view-is-a-new-tensor",
    right=Tensor.view,
    wrong={copies: "seen in the original", views_in_place: "keeps its own shape"},
)
@given(
    tensor=tensors(dtype=st.sampled_from((*FLOATS, *INTEGERS)), layouts=["contiguous", "offset"]),
    data=st.data(),
)
def test_a_view_is_another_walk_over_the_same_memory(
    view: Callable[..., Tensor], tensor: Tensor, data: st.DataObject
) -> None:
    """A view has the original's elements and memory; the original keeps its own shape."""
    shape = data.draw(shapes_of(tensor.numel()), label="shape")
    before, own_shape = tensor.clone(), tensor.shape

    viewed = view(tensor, shape)

    assert tensor.shape == own_shape, "the original keeps its own shape"
    assert tuple(viewed.shape) == shape, "the view has the shape that was asked for"
    assert viewed is not tensor, "a view is a new tensor"
    assert bits(viewed) == bits(before), "a view has the original's elements"
    viewed.fill_(5)
    assert bool((tensor == 5).all()), "a write through the view is seen in the original"
    assert viewed.data_ptr() == tensor.data_ptr(), "a view starts at the original's address"


def shares_or_copies(tensor: Tensor, value: float) -> Tensor:
    """Assume that reshape always shares memory."""
    return tensor.reshape(-1).fill_(value)


@claim(
    "tensors.view-is-a-new-tensor",
    right=fill_through_view,
    wrong={shares_or_copies: "DID NOT RAISE"},
)
@given(tensor=tensors(layouts=WRITABLE), value=st.integers(-9, 9))
def test_a_view_that_strides_cannot_express_is_refused(
    fill: Callable[[Tensor, float], Tensor], tensor: Tensor, value: int
) -> None:
    """Where one stride cannot walk all elements in order, view raises and reshape copies."""
    before = bits(tensor)

    if has_flat_view(tensor):
        flat = fill(tensor, value)
        assert bool((tensor == value).all()), "what is written to the view is in the original"
        assert flat.shape == (tensor.numel(),), "the view is flat"
    else:
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            fill(tensor, value)
        assert bits(tensor) == before, "a refused view changes nothing"
        copy = tensor.reshape(-1)
        assert bits(copy) == before, "reshape copies the elements in order"
        assert copy.data_ptr() != tensor.data_ptr(), "reshape copies to an address of its own"


def has_flat_view(tensor: Tensor) -> bool:
    """Return whether consecutive elements in row-major order lie one fixed step apart."""
    offsets = np.zeros(1, dtype=int)
    for side, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = (offsets[:, None] + stride * np.arange(side)).ravel()
    return len(set(np.diff(offsets))) <= 1


def centres_the_view(tensor: Tensor) -> Tensor:
    """Take a view for a private copy and subtract the mean in place."""
    flat = tensor.view(-1) if tensor.is_contiguous() else tensor.reshape(-1)
    return flat.sub_(flat.mean())


@claim(
    "tensors.view-is-a-new-tensor",
    right=centre,
    wrong={centres_the_view: "stays as it was"},
)
@given(tensor=tensors(shapes(min_side=1), layouts=WRITABLE, max_magnitude=1e3))
def test_a_view_is_no_private_copy(centre: Callable[[Tensor], Tensor], tensor: Tensor) -> None:
    """Who promises a new tensor must not write into a view of the old one."""
    before = bits(tensor)
    elements = tensor.double().numpy(force=True).ravel()

    centred = centre(tensor)

    assert bits(tensor) == before, "the argument stays as it was"
    error = np.abs(centred.double().numpy(force=True) - (elements - elements.mean()))
    # A sum of n numbers is rounded n times, and the mean and the difference once more.
    bound = (elements.size + 3) * EPSILON * np.abs(elements).max() + SMALLEST
    assert (error <= bound).all(), "the elements minus their mean"


# ------------------------------------------------- from numpy


@st.composite
def arrays(draw: st.DrawFn, min_dims: int = 0) -> NDArray[Any]:
    """Draw arrays of every shared dtype and any bits, often NaN payloads, -0.0 and subnormals."""
    name = draw(st.sampled_from(sorted(str(dtype)[6:] for dtype in NUMPY_DTYPES)))
    dtype = np.dtype(name)
    shape = draw(shapes(min_dims=min_dims, max_dims=3, max_side=3))
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if special := draw(st.sampled_from(specials_of(dtype))):
        raw[:] = special * (size // len(special))
    if name == "bool":
        raw = bytearray(byte % 2 for byte in raw)
    array = np.frombuffer(raw, dtype).reshape(shape)
    layout = draw(st.sampled_from(["C", "transposed", "every other"]))
    if layout == "every other" and shape:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    return array.T if layout == "transposed" else array


def specials_of(dtype: np.dtype[Any]) -> list[bytes]:
    """Return the bytes of single numbers that are easily lost, or none to draw any bytes."""
    if dtype.kind not in "fc":
        return [b""]
    real = np.zeros(1, dtype).real.dtype
    payload = (np.array([np.inf], real).view(f"u{real.itemsize}") + 1).tobytes()
    numbers = (real.type(-0.0), real.type(np.finfo(real).smallest_subnormal))
    return [b"", payload, *(number.tobytes() for number in numbers)]


def always_float32(array: NDArray[Any]) -> Tensor:
    """Call the constructor torch.Tensor, which makes float32 of everything."""
    return torch.Tensor(array.astype(np.float32))


@claim(
    "tensors.from-numpy", right=from_numpy, wrong={always_float32: "keeps the dtype"}, cpu_only=HOST
)
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
    """Hand out the memory of a read-only array, to be written by anyone."""
    if array.flags.writeable:
        return from_numpy(array)
    array.setflags(write=True)
    tensor = from_numpy(array)
    array.setflags(write=False)
    return tensor


@st.composite
def unfit_arrays(draw: st.DrawFn) -> tuple[NDArray[Any], type[Exception], str]:
    """Draw an array that cannot become a tensor, the error and what it says, with the remedy."""
    case = draw(st.sampled_from(["read-only", "byte-swapped", "negative strides", "no dtype"]))
    array = draw(arrays(min_dims=1))
    if case == "read-only":
        array.setflags(write=False)
        return array, ValueError, r"read-only.* pass array\.copy\(\), or .*setflags\(write=True\)"
    if case == "byte-swapped":
        assume(array.dtype.itemsize > 1)
        swapped = array.byteswap().view(array.dtype.newbyteorder())
        return swapped, TypeError, r"byte-swapped: .* with array\.astype\(.*newbyteorder\('='\)\)$"
    if case == "negative strides":
        backwards = array[::-1]
        assume(min(backwards.strides) < 0)
        return backwards, ValueError, r"negative strides .*: pass array\.copy\(\)$"
    kind = draw(st.sampled_from(["object", "U3", "S3", "datetime64[s]"]))
    return np.zeros(array.shape, kind), TypeError, r"no dtype .* array\.astype\(numpy\.float32\)$"


def byte_swaps_silently(array: NDArray[Any]) -> Tensor:
    """Read foreign bytes as if they were this machine's own."""
    return from_numpy(array if array.dtype.isnative else array.view(array.dtype.newbyteorder("=")))


def copies_backwards(array: NDArray[Any]) -> Tensor:
    """Copy an array that walks backwards, and share no memory without a word."""
    return from_numpy(array.copy() if min(array.strides) < 0 else array)


@claim(
    "tensors.from-numpy",
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
    """Read-only, byte-swapped, backwards and object arrays raise, and say what to do."""
    array, error, message = case
    before = array.tobytes()

    with pytest.raises(error, match=message):
        from_numpy(array)

    assert array.tobytes() == before, "a refused array stays as it was"


# ------------------------------------------------- to numpy


def through_a_list(tensor: Tensor) -> NDArray[Any]:
    """Go through Python numbers, which have no dtype."""
    return np.array(tensor.tolist())


@claim("tensors.to-numpy", right=to_numpy, wrong={through_a_list: "keeps the dtype"}, cpu_only=HOST)
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
    """Detach, convert and copy whatever comes, as numpy(force=True) does."""
    dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return (dense if dense.dtype in NUMPY_DTYPES else dense.float()).numpy(force=True)


STEPS = ("detach", "to_dense", "cpu", "resolve_conj", "resolve_neg", "float")


@st.composite
def unfit_tensors(draw: st.DrawFn) -> tuple[Tensor, set[str]]:
    """Draw a tensor that is no array yet, and the steps that it lacks."""
    step = draw(st.sampled_from([step for step in STEPS if step != "cpu"]))
    if step == "detach":
        several = draw(st.booleans())
        dtype = torch.bfloat16 if several else torch.float32
        return draw(tensors(dtype=dtype, requires_grad=True)), {step, *["float"] * several}
    if step == "float":
        low = [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
        return draw(tensors()).to(draw(st.sampled_from(low))), {step}
    if step == "to_dense":
        return draw(tensors(shapes(min_dims=1))).to_sparse(), {step}
    conjugate = draw(tensors(dtype=torch.complex64)).conj()
    return (conjugate if step == "resolve_conj" else conjugate.imag), {step}


@claim("tensors.to-numpy", right=to_numpy, wrong={forces: "DID NOT RAISE"})
@given(case=unfit_tensors())
def test_a_tensor_that_is_no_array_yet_is_refused(
    to_numpy: Callable[[Tensor], NDArray[Any]], case: tuple[Tensor, set[str]]
) -> None:
    """A gradient, a lazy conjugate, a sparse layout and bfloat16 raise and name the next steps."""
    tensor, missing = case
    on_host = tensor.device.type == "cpu"
    steps = [step for step in STEPS if step in missing or (step == "cpu" and not on_host)]
    calls = "".join(f".{step}()" for step in steps)

    with pytest.raises(TypeError, match=re.escape(f": call {calls} first")):
        to_numpy(tensor)


def test_a_tensor_on_another_device_is_asked_to_the_cpu_first() -> None:
    """An array has no other memory than the machine's own."""
    with pytest.raises(TypeError, match=re.escape(": call .cpu() first")):
        to_numpy(torch.ones(2, device="meta"))


# ------------------------------------------------- shared memory


# Dtypes in which torch calculates, and which count the elements of the shapes that are drawn.
COUNTING = (
    *("uint8", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)


def copies_the_array(array: NDArray[Any]) -> Tensor:
    """Call torch.tensor, which copies."""
    return torch.tensor(array)


def clones_on_the_way(array: NDArray[Any]) -> Tensor:
    """Clone what from_numpy gives."""
    return torch.from_numpy(array).clone()


@claim(
    "tensors.numpy-shares-memory",
    right=from_numpy,
    wrong={copies_the_array: "seen on the other side", clones_on_the_way: "seen on the other side"},
    cpu_only=HOST,
)
@given(data=st.data())
def test_a_write_on_either_side_is_seen_on_the_other(
    from_numpy: Callable[[NDArray[Any]], Tensor], data: st.DataObject
) -> None:
    """Array, tensor, and any view of either after any number of hops share the elements."""
    shape = data.draw(shapes(max_dims=3), label="shape")
    dtype = data.draw(st.sampled_from(COUNTING), label="dtype")
    # Each element is its own position, so a view tells which elements it holds.
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    tensor = from_numpy(array)
    for _ in range(data.draw(st.integers(0, 2), label="hops")):
        tensor = data.draw(aliases(st.just(tensor)))[1]
        tensor = from_numpy(np.asarray(tensor.numpy()))
    held = np.array(tensor.reshape(-1).tolist(), dtype)
    write = data.draw(st.sampled_from([operator.iadd, operator.imul, operator.isub]), label="write")
    tensor_side = data.draw(st.booleans(), label="written on the tensor's side")

    seven = held.dtype.type(7)  # to numpy 1, a 7 of Python is an int64 beside an array of rank 0
    write(tensor if tensor_side else array, 7 if tensor_side else seven)

    places, written = held.real.astype(int), write(held.copy(), seven)
    there = array.reshape(-1)[places] if tensor_side else np.array(tensor.reshape(-1).tolist())
    assert (there == written).all(), "a write on one side is seen on the other side"
    if tensor_side:
        others = np.setdiff1d(np.arange(array.size), places)
        assert (array.reshape(-1)[others] == others).all(), "a write spares the other elements"


def doubles(tensor: Tensor) -> Tensor:
    """Multiply in place."""
    return tensor.mul_(2)


def doubles_a_copy(tensor: Tensor) -> Tensor:
    """Multiply out of place and expect the array to change."""
    return tensor * 2


@claim(
    "tensors.numpy-shares-memory",
    right=doubles,
    wrong={doubles_a_copy: "the array changes"},
    cpu_only=HOST,
)
@given(tensor=tensors(layouts=WRITABLE, max_magnitude=1e30))
def test_multiplying_in_place_changes_the_array(
    double: Callable[[Tensor], Tensor], tensor: Tensor
) -> None:
    """The array doubles with its tensor, and does not see operations out of place."""
    array = tensor.numpy()
    doubled = (array * 2).astype(array.dtype)
    tensor * 3

    double(tensor)

    assert array.tobytes() == doubled.tobytes(), "the array changes with its tensor"
