"""Autograd tracks a floating-point result exactly if an input requires grad.

>>> x = torch.tensor([1.0, 2.0], requires_grad=True)
>>> x * 3
tensor([3., 6.], grad_fn=<MulBackward0>)
>>> x > 1, x.argmax()
(tensor([False,  True]), tensor(1))
>>> torch.tensor([1, 2], requires_grad=True)  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
RuntimeError: Only Tensors of floating point ... can require gradients

Notes: A tensor created with `requires_grad=True` has the operations on it tracked.
Verdict: holds-if
Truth: It holds for operations whose result is floating-point or complex: such a result requires
    grad exactly if some input does and gradients are enabled. Bools and integers have no
    derivative: comparisons, `isnan`, `argmax`, `long` are untracked, and a loss built from them
    teaches nothing. A new tensor, also `zeros_like(x)`, is untracked by default.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import FLOATS, shapes, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.autograd.common import float64


def compute(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return operation(*inputs)


def detaches_on_the_way(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Detach the first input, as people do to print a tensor."""
    return operation(inputs[0].detach(), *inputs[1:])


def goes_through_numpy(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Compute on numpy arrays and make a tensor from the result."""
    arrays = [tensor.numpy(force=True) for tensor in inputs]
    return torch.as_tensor(operation(*map(torch.as_tensor, arrays)))


def goes_through_python_numbers(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Rebuild the result from Python numbers, as a new leaf that requires grad."""
    result = operation(*inputs)
    leaf = torch.tensor(result.tolist(), dtype=result.dtype)
    return leaf.requires_grad_(result.requires_grad)


@st.composite
def operands(draw: st.DrawFn) -> list[Tensor]:
    """Draw two tensors of one shape, integer or floating point; floats may be tracked."""
    shape = draw(shapes(max_dims=2, max_side=3))
    result = []
    for _ in range(2):
        dtype = draw(st.sampled_from([torch.float32, float64, torch.float16, torch.int64]))
        tracked = dtype.is_floating_point and draw(st.booleans())
        result.append(draw(tensors(shape, dtype, max_magnitude=9.0, requires_grad=tracked)))
    return result


@law(
    right=compute,
    wrong={
        detaches_on_the_way: "tracked exactly when an input is",
        goes_through_numpy: "tracked exactly when an input is",
        goes_through_python_numbers: "a tracked result has a history",
    },
)
@given(inputs=operands(), enabled=st.booleans())
def test_a_result_is_tracked_exactly_when_an_input_is(
    compute: Callable[..., Tensor], inputs: list[Tensor], enabled: bool
) -> None:
    """A result requires grad and has a history if some input does and gradients are enabled."""
    tracked = enabled and any(tensor.requires_grad for tensor in inputs)

    for operation in (torch.add, torch.sub, torch.mul, torch.maximum):
        with torch.set_grad_enabled(enabled):
            result = compute(operation, *inputs)

        assert result.requires_grad == tracked, "a result is tracked exactly when an input is"
        assert (result.grad_fn is not None) == tracked, "a tracked result has a history"


UNTRACKED: tuple[Callable[[Tensor], Tensor], ...] = (
    *(torch.isnan, torch.argmax, torch.argsort, torch.count_nonzero, torch.logical_not),
    *(Tensor.long, Tensor.bool),
    *(lambda x: x > 1, lambda x: x == x, lambda x: x.flatten().topk(1).indices),
)


def tracks_a_new_leaf(operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Track the result itself, against the error that a loss does not require grad."""
    return operation(x).to(x.dtype).requires_grad_()


def rounds_with_a_slope(operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Add x - x.detach(), so that the result passes the gradient on as if it were x."""
    return operation(x) + (x - x.detach()).sum()


@law(
    right=compute,
    wrong={
        tracks_a_new_leaf: "a bool or an integer",
        rounds_with_a_slope: "a bool or an integer",
    },
)
@given(
    x=tensors(
        shapes(max_dims=2, min_side=1),
        st.sampled_from(FLOATS),
        max_magnitude=9.0,
        requires_grad=True,
    )
)
def test_bools_and_integers_are_untracked(compute: Callable[..., Tensor], x: Tensor) -> None:
    """A comparison, an index or a cast to integers of a tracked tensor has no history."""
    for operation in UNTRACKED:
        result = compute(operation, x)

        assert not result.is_floating_point(), "the result is a bool or an integer"
        assert not result.requires_grad, "a bool or an integer is untracked"
        assert result.grad_fn is None, "an untracked result has no history"


def inherits_tracking(tensor: Tensor) -> Tensor:
    """Track a new tensor if the tensor whose shape it takes is tracked."""
    return torch.zeros_like(tensor, requires_grad=tensor.requires_grad)


@law(right=torch.zeros_like, wrong={inherits_tracking: "untracked unless asked"})
@given(
    tensor=st.booleans().flatmap(
        lambda tracked: tensors(dtype=st.sampled_from(FLOATS), requires_grad=tracked)
    )
)
def test_a_new_tensor_is_untracked(make: Callable[[Tensor], Tensor], tensor: Tensor) -> None:
    """requires_grad is False by default, even for zeros_like of a tracked tensor."""
    new = make(tensor)

    assert not new.requires_grad, "a new tensor is untracked unless asked"
    assert new.is_leaf, "a new tensor is a leaf"


def converts_silently(tensor: Tensor) -> Tensor:
    """Track a floating-point copy, so the caller's tensor never gets a gradient."""
    return tensor.float().requires_grad_()


@law(right=Tensor.requires_grad_, wrong={converts_silently: "DID NOT RAISE"})
@given(
    tensor=tensors(
        dtype=st.sampled_from([torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool])
    )
)
def test_integers_and_booleans_cannot_be_tracked(
    track: Callable[[Tensor], Tensor], tensor: Tensor
) -> None:
    """Integers and booleans have no derivative, so requires_grad_ raises an error."""
    before = bits(tensor)

    with pytest.raises(RuntimeError, match="only Tensors of floating point"):
        track(tensor)

    assert not tensor.requires_grad, "a refused tensor stays untracked"
    assert bits(tensor) == before, "a refused tensor stays as it was"
