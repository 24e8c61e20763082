"""requires_grad can be set at any time; operations are tracked from then on.

>>> x = torch.tensor([1.0, 2.0])
>>> y = x * 3
>>> x.requires_grad_()
tensor([1., 2.], requires_grad=True)
>>> y.requires_grad, (x * 3).requires_grad
(False, True)

Notes: `requires_grad` is set when a tensor is created.
Verdict: corrected
Truth: `requires_grad_()`, or setting the attribute, works at any time on a floating-point tensor
    that autograd does not track yet. Only later operations are tracked; results computed before
    stay untracked. A leaf can be switched off again; a result cannot, and `detach()` is its way
    out. Python accepts a misspelled attribute (`x.require_grad = True`), which does nothing.
"""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.autograd import leaves
from dlconcepts.strategies import COMPLEX, FLOATS, shapes, tensors
from dlconcepts.support.bitwise import bits, same
from dlconcepts.testing.laws import law


def sets_the_attribute(tensor: Tensor) -> Tensor:
    tensor.requires_grad = True
    return tensor


def tracks_a_copy(tensor: Tensor) -> Tensor:
    """Track a clone and forget to use it afterwards."""
    return tensor.clone().requires_grad_()


def misspells_the_attribute(tensor: Tensor) -> Tensor:
    """Set `require_grad`, which Python accepts as a new attribute."""
    tensor.require_grad = True
    return tensor


def multiplies_by_a_tracked_one(tensor: Tensor) -> Tensor:
    """Make the values part of a graph, whose leaf is another tensor."""
    tracked = tensor.new_ones(()).requires_grad_() * tensor
    tensor.set_(tracked.detach())
    return tracked


LATE = {
    tracks_a_copy: "the tensor itself requires grad",
    misspells_the_attribute: "the tensor itself requires grad",
    multiplies_by_a_tracked_one: "the tensor itself requires grad",
}
untracked = tensors(shapes(min_side=1), st.sampled_from((*FLOATS, *COMPLEX)), max_magnitude=9.0)


@law(right=Tensor.requires_grad_, wrong=LATE)
@given(tensor=untracked)
def test_a_tensor_can_be_tracked_later(track: Callable[[Tensor], Tensor], tensor: Tensor) -> None:
    """requires_grad_ marks the tensor itself; only later operations are tracked."""
    before, earlier = bits(tensor), tensor * 2

    for mark in (track, sets_the_attribute):
        mark(tensor)
        assert tensor.requires_grad, "the tensor itself requires grad"
        assert tensor.is_leaf, "the tensor stays a leaf"
        assert bits(tensor) == before, "its values stay"
        later = tensor * 2
        assert later.requires_grad, "operations are tracked from then on"
        assert leaves(later)[0] is tensor, "the history leads back to the tensor itself"
        assert not earlier.requires_grad, "a result computed before stays untracked"
        tensor.requires_grad_(False)
        assert not (tensor * 2).requires_grad, "a leaf can be switched off again"


def detaches_in_place(result: Tensor, flag: bool) -> Tensor:
    """Cut the result off from its history silently."""
    return result.detach_().requires_grad_(flag)


def returns_a_detached_one(result: Tensor, flag: bool) -> Tensor:
    """Return a detached tensor, though the caller keeps using the result."""
    return result.detach().requires_grad_(flag)


@law(
    right=Tensor.requires_grad_,
    wrong={detaches_in_place: "DID NOT RAISE", returns_a_detached_one: "DID NOT RAISE"},
)
@given(tensor=untracked)
def test_a_result_cannot_be_switched_off(
    switch: Callable[[Tensor, bool], Tensor], tensor: Tensor
) -> None:
    """requires_grad_(False) of a tracked result raises; detach gives an untracked tensor."""
    result = tensor.requires_grad_() * 2
    history = result.grad_fn

    with pytest.raises(RuntimeError, match="only change requires_grad flags of leaf variables"):
        switch(result, False)

    assert result.requires_grad, "a refused result stays tracked"
    assert result.grad_fn is history, "a refused result keeps its history"
    assert same(result.detach(), tensor.detach() * 2), "detach keeps the values"
    assert not result.detach().requires_grad, "detach gives an untracked tensor"
