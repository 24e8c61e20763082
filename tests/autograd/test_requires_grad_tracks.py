"""Requires_grad.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: A tensor created with requires_grad=True has the operations on it tracked.
Verdict: holds
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
from tests.autograd.common import compute, float64


def detaches_on_the_way(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Detach the first input, as one does to be able to print it."""
    return operation(inputs[0].detach(), *inputs[1:])


def goes_through_numpy(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Compute on arrays and make a tensor of the result."""
    arrays = [tensor.numpy(force=True) for tensor in inputs]
    return torch.as_tensor(operation(*map(torch.as_tensor, arrays)))


def goes_through_python_numbers(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Take the numbers out and put them back into a new tensor, which is asked to track."""
    result = operation(*inputs)
    tracked = result.requires_grad and result.numel() > 1
    return torch.tensor(result.tolist(), dtype=result.dtype).requires_grad_(tracked)


@st.composite
def operands(draw: st.DrawFn) -> list[Tensor]:
    """Draw two tensors of one shape, integer or floating point, the latter tracked or not."""
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
        goes_through_python_numbers: "tracked exactly when an input is",
    },
)
@given(inputs=operands(), enabled=st.booleans())
def test_a_result_is_tracked_exactly_when_an_input_is(
    compute: Callable[..., Tensor], inputs: list[Tensor], enabled: bool
) -> None:
    """A result requires grad, and has a history, if some input does and gradients are enabled."""
    tracked = enabled and any(tensor.requires_grad for tensor in inputs)

    for operation in (torch.add, torch.sub, torch.mul, torch.maximum):
        with torch.set_grad_enabled(enabled):
            result = compute(operation, *inputs)

        assert result.requires_grad == tracked, "a result is tracked exactly when an input is"
        assert (result.grad_fn is not None) == tracked, "a tracked result has a history"


def inherits_tracking(tensor: Tensor) -> Tensor:
    """Expect a new tensor to be tracked like the one whose shape it takes."""
    return torch.zeros_like(tensor, requires_grad=tensor.requires_grad)


@law(
    right=torch.zeros_like,
    wrong={inherits_tracking: "untracked unless asked"},
)
@given(
    tensor=st.booleans().flatmap(
        lambda tracked: tensors(dtype=st.sampled_from(FLOATS), requires_grad=tracked)
    )
)
def test_a_new_tensor_is_untracked(make: Callable[[Tensor], Tensor], tensor: Tensor) -> None:
    """requires_grad is False by default, also for a tensor made after a tracked one."""
    new = make(tensor)

    assert not new.requires_grad, "a new tensor is untracked unless asked"
    assert new.is_leaf, "a new tensor is a leaf"


def converts_silently(tensor: Tensor) -> Tensor:
    """Track a floating-point copy, whose gradient the caller's tensor never gets."""
    return tensor.float().requires_grad_()


@law(
    right=Tensor.requires_grad_,
    wrong={converts_silently: "DID NOT RAISE"},
)
@given(
    tensor=tensors(
        dtype=st.sampled_from([torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool])
    )
)
def test_integers_and_booleans_cannot_be_tracked(
    track: Callable[[Tensor], Tensor], tensor: Tensor
) -> None:
    """Nothing is differentiable with respect to integers: asking for it raises."""
    before = bits(tensor)

    with pytest.raises(RuntimeError, match="only Tensors of floating point"):
        track(tensor)

    assert not tensor.requires_grad, "a refused tensor stays untracked"
    assert bits(tensor) == before, "a refused tensor stays as it was"
