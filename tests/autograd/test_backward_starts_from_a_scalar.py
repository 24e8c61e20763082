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
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.autograd import gradient
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


Function = Callable[[Tensor], Tensor]


def differentiates_the_sum(function: Function, x: Tensor) -> Tensor:
    """Sum the elements of the result, however many there are."""
    return gradient(lambda x: function(x).sum(), x)


def insists_on_no_dimension(function: Function, x: Tensor) -> Tensor:
    """Refuse one element in a list."""
    return gradient(lambda x: function(x) if function(x).ndim == 0 else torch.ones(2), x)


def fails_if_x_is_ignored(function: Function, x: Tensor) -> Tensor | None:
    """Return None where the gradient is zero."""
    found = gradient(function, x)
    return found if found.any() else None


def goes_back_to_every_leaf(function: Function, x: Tensor) -> Tensor:
    """Call backward, which adds to the gradients of all leaves, also of the weights in use."""
    found = gradient(function, x)  # which raises what there is to raise
    with torch.enable_grad():
        result = function(x)
        if result.requires_grad:
            result.backward()
    return found


def tracks_x_itself(function: Function, x: Tensor) -> Tensor:
    """Let x require grad from now on."""
    return gradient(function, x.requires_grad_())


def needs_tracking(function: Function, x: Tensor) -> Tensor:
    """Rely on the caller's mode, in which nothing may be recorded."""
    found = gradient(function, x)
    return found if torch.is_grad_enabled() else torch.zeros_like(x)


@law(
    right=gradient,
    wrong={
        differentiates_the_sum: "DID NOT RAISE",
        insists_on_no_dimension: "has a gradient",
        fails_if_x_is_ignored: "the gradient is that of the element",
        goes_back_to_every_leaf: "other leaves",
        tracks_x_itself: "x stays as it was",
        needs_tracking: "the gradient is that of the element",
    },
)
@given(
    x=tensors(shapes(max_dims=2), float64, max_magnitude=9.0),
    shape=st.sampled_from([(), (1,), (1, 1), (0,), (2,)]),
    slopes=st.tuples(st.integers(0, 2), st.integers(0, 1)),
    tracking=st.booleans(),
)
def test_a_function_of_one_element_has_a_gradient(
    gradient: Callable[[Function, Tensor], Tensor],
    x: Tensor,
    shape: tuple[int, ...],
    slopes: tuple[int, int],
    tracking: bool,
) -> None:
    """One element, of whatever shape, has a gradient; none or several raise RuntimeError."""
    weight = torch.ones((), dtype=float64, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        # Not a factor of zero, which would use x: autograd would track the result.
        terms = zip(slopes, (x.sum(), weight), strict=True)
        used = [slope * term for slope, term in terms if slope]
        return sum(used, start=torch.zeros((), dtype=float64)).expand(shape)

    with nullcontext() if tracking else torch.no_grad():
        if function(x).numel() == 1:
            try:
                found = gradient(function, x)
            except RuntimeError as error:
                pytest.fail(f"a result of shape {shape} has a gradient: {error}")
            expected = torch.full_like(x, slopes[0])
            assert_close(found, expected, "the gradient is that of the element")
        else:
            with pytest.raises(RuntimeError, match="must return one element"):
                gradient(function, x)
    assert weight.grad is None, "the gradients of other leaves stay as they were"
    assert (x.requires_grad, x.grad) == (False, None), "x stays as it was"
