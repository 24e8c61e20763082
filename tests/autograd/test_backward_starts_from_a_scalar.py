"""backward starts from one element, or needs a gradient of the result's shape.

>>> x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> y = x.square()
>>> y.backward()
Traceback (most recent call last):
...
RuntimeError: grad can be implicitly created only for scalar outputs
>>> y.backward(torch.tensor([1.0, 10.0, 100.0]))
>>> x.grad
tensor([  2.,  40., 600.])

Notes: (implied) `backward` is called on the loss.
Verdict: holds-if
Truth: The result has one element, or the call passes a gradient of its shape. `backward` then
    computes the vector-Jacobian product; without a gradient it raises.
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
    """Differentiate the sum if no gradient is given."""
    tensor.sum().backward() if gradient is None else tensor.backward(gradient)


@law(right=Tensor.backward, wrong={sums_silently: "DID NOT RAISE"})
@given(x=tensors(shapes(max_dims=2), float64, max_magnitude=9.0, requires_grad=True))
def test_more_or_less_than_one_element_needs_a_gradient(
    backward: Callable[..., None], x: Tensor
) -> None:
    """A result of one element needs no gradient; with none or several, backward raises."""
    result = 3 * x

    if x.numel() == 1:
        backward(result)
        assert_close(
            x.grad, torch.full_like(x, 3), "from one element, the gradient is that element's"
        )
    else:
        with pytest.raises(RuntimeError, match="can be implicitly created only for scalar"):
            backward(result)
        assert x.grad is None, "a refused backward stores no gradient"


def ignores_the_vector(tensor: Tensor, gradient: Tensor) -> None:
    """Weight every element by one, whatever gradient is passed."""
    tensor.backward(torch.ones_like(gradient))


def normalizes_the_vector(tensor: Tensor, gradient: Tensor) -> None:
    """Scale the passed gradient to length one, as if only its direction mattered."""
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
    """If backward gets a vector v of the result's shape, x.grad is v times the Jacobian."""
    backward((matrix @ x).square(), gradient=v)

    m, at, vector = (tensor.numpy(force=True) for tensor in (matrix, x, v))
    expected = torch.as_tensor(vector @ (2 * (m @ at)[:, None] * m), device=x.device)
    assert_close(x.grad, expected, "x.grad is the vector-Jacobian product")
