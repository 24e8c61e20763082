"""An in-place operation cannot change the dtype or outgrow the shape.

>>> x = torch.tensor([1, 2, 3])
>>> x.mul_(0.5)
Traceback (most recent call last):
...
RuntimeError: result type Float can't be cast to the desired output type Long
>>> x[0] = 2.7
>>> x
tensor([2, 2, 3])
>>> torch.tensor([100], dtype=torch.int8).add_(300)
tensor([-112], dtype=torch.int8)

Notes: (implied) Mutation works on any tensor.
Verdict: holds-if
Truth: An in-place operation keeps the dtype. It raises, and changes nothing, if the result is of a
    higher kind (bool, integer, float, complex), as in int *= 0.5; if the result has a larger shape;
    if elements of the tensor share memory (`expand`); or if the tensor is a leaf that requires
    grad, or a view of one, outside `no_grad`. Other arithmetic converts without a word: float32
    `mul_` float64 rounds, int8 `add_(300)` wraps around. `x[0] = 2.7` and `copy_` cut a fraction
    off, and `fill_` writes to expanded memory.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import COMPLEX, FLOATS, INTEGERS, shapes, tensors
from dlconcepts.support.bitwise import bits, same
from dlconcepts.testing.laws import law
from tests.tensors.common import WRITABLE


def casts_silently(tensor: Tensor, factor: Tensor) -> Tensor:
    """Cast the product to the tensor's dtype, which cuts off fractions."""
    return tensor.copy_(tensor * factor) if tensor.dtype != factor.dtype else tensor.mul_(factor)


def outgrows_silently(tensor: Tensor, factor: Tensor) -> Tensor:
    """Enlarge the tensor to the shape of the product."""
    product = tensor * factor
    return tensor.mul_(factor) if product.shape == tensor.shape else tensor.set_(product)


def writes_behind_autograd(tensor: Tensor, factor: Tensor) -> Tensor:
    """Multiply `.data` of a leaf, so that autograd does not notice the write."""
    return tensor.data.mul_(factor)


# The result of an operation has the highest kind of its operands.
KINDS = ((torch.bool,), INTEGERS, FLOATS, COMPLEX)


@st.composite
def impossible_products(draw: st.DrawFn) -> tuple[Tensor, Tensor, str]:
    """Draw a tensor, a factor it cannot be multiplied by in place, and torch's error message."""
    case = draw(st.sampled_from(["dtype", "room", "shared", "leaf"]))
    shape = draw(shapes(min_dims=1, min_side=2, max_side=3, max_dims=3))
    if case == "dtype":
        kind = draw(st.integers(0, 2))
        low = draw(tensors(shape, st.sampled_from(KINDS[kind]), layouts=WRITABLE))
        higher = KINDS[draw(st.integers(kind + 1, 3))]
        return low, draw(tensors(shape, st.sampled_from(higher))), "can't be cast"
    if case == "room":
        larger = (draw(st.integers(2, 3)), *shape)
        return draw(tensors(shape, layouts=WRITABLE)), draw(tensors(larger)), "doesn't match"
    if case == "shared":
        shared = draw(tensors(shape, layouts=["expanded"]))
        return shared, draw(tensors(shape)), "single memory location"
    leaf = draw(tensors(shape, layouts=WRITABLE, requires_grad=True))
    tensor = draw(st.sampled_from([leaf, leaf[:1]]))
    return tensor, draw(tensors(tuple(tensor.shape))), "a leaf Variable that requires grad"


@law(
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
    """mul_ raises and changes nothing: a higher kind, a larger shape, shared elements, a leaf."""
    tensor, factor, message = product
    before, shape = bits(tensor), tensor.shape

    with pytest.raises(RuntimeError, match=message):
        mul_(tensor, factor)

    assert bits(tensor) == before, "a refused product changes no element"
    assert tensor.shape == shape, "a refused product changes no shape"


def rounds_the_factor(tensor: Tensor, factor: Tensor) -> Tensor:
    """Convert the factor first, which rounds or wraps it, and then the product again."""
    return tensor.mul_(factor.to(tensor.dtype))


def stops_at_the_largest(tensor: Tensor, factor: Tensor) -> Tensor:
    """Stop at the limits of the dtype instead of wrapping around."""
    if tensor.dtype.is_floating_point:
        return tensor.mul_(factor)
    limits = torch.iinfo(tensor.dtype)
    return tensor.copy_((tensor * factor).clamp(limits.min, limits.max))


def widens(tensor: Tensor, factor: Tensor) -> Tensor:
    """Give the tensor the wider dtype of the product."""
    tensor.data = tensor * factor
    return tensor


@st.composite
def products_of_a_kind(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw two tensors of one kind, integers or floats, mostly of different dtypes."""
    dtypes = st.sampled_from(draw(st.sampled_from([INTEGERS, FLOATS])))
    shape = draw(shapes(max_dims=2, max_side=3))
    return draw(tensors(shape, dtypes, layouts=WRITABLE)), draw(tensors(shape, dtypes))


@law(
    right=Tensor.mul_,
    wrong={
        rounds_the_factor: "the wider dtype",
        stops_at_the_largest: "the wider dtype",
        widens: "keeps its dtype",
    },
)
@given(product=products_of_a_kind())
def test_a_result_of_the_same_kind_is_converted(
    mul_: Callable[[Tensor, Tensor], Tensor], product: tuple[Tensor, Tensor]
) -> None:
    """Among integers, or among floats, mul_ converts the product: it rounds or wraps around."""
    tensor, factor = product
    dtype, expected = tensor.dtype, (tensor * factor).to(tensor.dtype)

    mul_(tensor, factor)

    assert tensor.dtype == dtype, "the tensor keeps its dtype"
    assert same(tensor, expected), "the product is computed in the wider dtype, then converted"


def assign(tensor: Tensor, values: Tensor) -> None:
    tensor[...] = values


def rounds_to_the_nearest(tensor: Tensor, values: Tensor) -> None:
    """Round to the nearest integer."""
    tensor[...] = values.round()


def rounds_down(tensor: Tensor, values: Tensor) -> None:
    """Round down, as // does: -2.7 becomes -3."""
    tensor[...] = values.floor()


CUT = {rounds_to_the_nearest: "fraction is cut off", rounds_down: "fraction is cut off"}


@law(right=Tensor.copy_, wrong=CUT)
@given(data=st.data())
def test_copying_floats_to_integers_cuts_the_fraction_off(
    copy_: Callable[[Tensor, Tensor], object], data: st.DataObject
) -> None:
    """copy_ and indexed assignment store 2.7 as 2 and -2.7 as -2, without an error."""
    shape = data.draw(shapes(), label="shape")
    signed = st.sampled_from([dtype for dtype in INTEGERS if dtype.is_signed])
    # No integer dtype overflows: what a float beyond its range becomes is undefined.
    values = data.draw(tensors(shape, st.sampled_from(FLOATS), max_magnitude=99.0), label="values")
    expected = np.trunc(values.double().numpy(force=True))

    for write in (copy_, assign):
        tensor = data.draw(tensors(shape, signed, layouts=WRITABLE), label="tensor")
        write(tensor, values)
        assert (tensor.numpy(force=True) == expected).all(), "the fraction is cut off"


def fills_a_clone(tensor: Tensor, value: int) -> Tensor:
    """Clone the tensor first, as the error of other in-place methods says."""
    return tensor.clone().fill_(value)


@law(right=Tensor.fill_, wrong={fills_a_clone: "reaches the memory"})
@given(row=tensors(shapes(min_dims=1, min_side=1), layouts=WRITABLE), copies=st.integers(2, 3))
def test_fill_writes_to_expanded_memory(
    fill_: Callable[[Tensor, int], Tensor], row: Tensor, copies: int
) -> None:
    """fill_ is no danger to elements that share memory: all become the same value anyway."""
    expanded = row.expand(copies, *row.shape)

    fill_(expanded, 5)

    assert bool((row == 5).all()), "the value reaches the memory that the elements share"
    assert bool((expanded == 5).all()), "every element has the value"
