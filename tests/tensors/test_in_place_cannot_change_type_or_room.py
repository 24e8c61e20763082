"""An in-place operation cannot change the dtype or outgrow the shape.

>>> x = torch.tensor([1, 2, 3])
>>> x.mul_(0.5)
Traceback (most recent call last):
...
RuntimeError: result type Float can't be cast to the desired output type Long
>>> x * 0.5
tensor([0.5000, 1.0000, 1.5000])

Notes: (implied) Mutation works on any tensor.
Verdict: holds-if
Truth: An in-place operation raises, and changes nothing, if the result needs another dtype
    (int *= float) or a larger shape, if elements of the tensor share memory (`expand`), or if the
    tensor is a leaf that requires grad, outside `no_grad`.
"""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import INTEGERS, shapes, tensors
from dlconcepts.support.bitwise import bits
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


@st.composite
def impossible_products(draw: st.DrawFn) -> tuple[Tensor, Tensor, str]:
    """Draw a tensor, a factor it cannot be multiplied by in place, and torch's error message."""
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
    """mul_ raises and changes nothing: another dtype, a larger shape, shared elements, a leaf."""
    tensor, factor, message = product
    before, shape = bits(tensor), tensor.shape

    with pytest.raises(RuntimeError, match=message):
        mul_(tensor, factor)

    assert bits(tensor) == before, "a refused product changes no element"
    assert tensor.shape == shape, "a refused product changes no shape"
