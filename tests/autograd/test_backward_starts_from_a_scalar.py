"""Backward starts from a scalar.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: (implied) backward is called on the loss.
Verdict: holds-if
Truth: On a one-element tensor, or with an explicit gradient of its shape.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from dlconcepts.strategies import shapes, tensors
from dlconcepts.testing.laws import law
from tests.autograd.common import assert_close, float64


def sums_silently(tensor: Tensor, gradient: Tensor | None = None) -> None:
    """Differentiate the sum where nobody said how the elements count."""
    tensor.sum().backward() if gradient is None else tensor.backward(gradient)


@law(
    right=Tensor.backward,
    wrong={sums_silently: "DID NOT RAISE"},
)
@given(x=tensors(shapes(max_dims=2), float64, max_magnitude=9.0, requires_grad=True))
def test_more_or_less_than_one_element_needs_a_gradient(
    backward: Callable[..., None], x: Tensor
) -> None:
    """From one element backward goes by itself; from none or several it raises."""
    result = 3 * x

    if x.numel() == 1:
        backward(result)
        assert_close(x.grad, torch.full_like(x, 3), "from one element, the gradient is its own")
    else:
        with pytest.raises(RuntimeError, match="can be implicitly created only for scalar"):
            backward(result)
        assert x.grad is None, "a refused backward stores no gradient"


def ignores_the_vector(tensor: Tensor, gradient: Tensor) -> None:
    """Count each element the same, whatever gradient came in."""
    tensor.backward(torch.ones_like(gradient))


def normalizes_the_vector(tensor: Tensor, gradient: Tensor) -> None:
    """Scale the incoming gradient to length one, as if only its direction counted."""
    tensor.backward(nn.functional.normalize(gradient, dim=0))


@law(
    right=Tensor.backward,
    wrong={
        ignores_the_vector: "vector-Jacobian product",
        normalizes_the_vector: "vector-Jacobian product",
    },
)
@given(
    matrix=tensors((2, 3), float64, max_magnitude=9.0),
    x=tensors((3,), float64, max_magnitude=9.0, requires_grad=True),
    v=tensors((2,), float64, max_magnitude=9.0),
)
def test_with_a_vector_backward_gives_the_vector_jacobian_product(
    backward: Callable[..., None], matrix: Tensor, x: Tensor, v: Tensor
) -> None:
    """With a gradient of the result's shape, x.grad is that vector times the Jacobian."""
    backward((matrix @ x).square(), gradient=v)

    arrays = [tensor.numpy(force=True) for tensor in (matrix, x, v)]
    expected = arrays[2] @ (2 * (arrays[0] @ arrays[1])[:, None] * arrays[0])
    assert_close(
        x.grad, torch.as_tensor(expected, device=x.device), "x.grad is the vector-Jacobian product"
    )
