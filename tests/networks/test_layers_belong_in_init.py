"""Layers belong in __init__: a layer created in forward never learns.

>>> class Net(nn.Module):
...     def forward(self, x):
...         return nn.Linear(2, 3)(x)  # new random weights on every call
>>> model, x = Net(), torch.ones(1, 2)
>>> model(x).equal(model(x))
False
>>> list(model.parameters())  # nothing for an optimizer to train
[]

Notes: Layers are defined in __init__; forward only passes the tensor through them.
Verdict: holds
Truth: Every weight that forward uses is then registered: `parameters()`, `state_dict()`, `to()` and
    the optimizer reach it. A layer in a plain Python list is not registered; nn.ModuleList is for
    that.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.networks import Network, flatten
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.networks.common import Sizes, deep, seeds


def weights_used(output: Tensor) -> set[Tensor]:
    # The leaves of the autograd graph, since a module may hide the weights that it uses.
    leaves, functions, seen = set(), [output.grad_fn], set()
    while functions:
        function = functions.pop()
        if function is not None and function not in seen:
            seen.add(function)
            functions += [before for before, _ in function.next_functions]
            if hasattr(function, "variable"):
                leaves.add(function.variable)
    return leaves


class KeepsAPlainList(Network):
    """A network that keeps its hidden layers in a Python list, where nn.Module does not look."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        layers = list(self.hidden)
        del self.hidden
        self.hidden = layers


class CreatesInForward(Network):
    """A network that creates its last layer in forward and assigns it to itself."""

    def forward(self, images: Tensor) -> Tensor:
        self.output = nn.Linear(self.output.in_features, self.out_features, dtype=images.dtype)
        return super().forward(images)


class HidesInForward(Network):
    """A network that creates its last layer in forward and does not keep it."""

    def forward(self, images: Tensor) -> Tensor:
        features = flatten(images, self.in_features)
        for layer in self.hidden:
            features = F.relu(layer(features))
        return nn.Linear(features.shape[1], self.out_features, dtype=images.dtype)(features)


class NeverUsesALayer(Network):
    """A network that creates a layer in __init__ and never uses it."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        self.spare = nn.Linear(1, 1)


@law(
    right=Network,
    wrong={
        KeepsAPlainList: "forward uses only weights in parameters()",
        CreatesInForward: "forward uses only weights in parameters()",
        HidesInForward: "forward uses only weights in parameters()",
        NeverUsesALayer: "forward uses each weight in parameters()",
    },
)
@given(sizes=deep, batch=st.integers(1, 3))
def test_every_weight_is_registered(
    build: Callable[..., nn.Module], sizes: Sizes, batch: int
) -> None:
    """The forward pass uses exactly the weights in parameters() and state_dict(), and adds none."""
    model = build(*sizes)
    registered, names = set(model.parameters()), list(model.state_dict())

    used = weights_used(model(torch.ones(batch, sizes[0])))

    assert used <= registered, "forward uses only weights in parameters()"
    assert registered <= used, "forward uses each weight in parameters()"
    assert set(model.state_dict(keep_vars=True).values()) == used, "state_dict() has each weight"
    assert list(model.state_dict()) == names, "calling forward creates no weight"


@law(right=Network, wrong={KeepsAPlainList: "to() reaches each weight"})
@given(sizes=deep, dtype=st.sampled_from([torch.float64, torch.float16, torch.bfloat16]))
def test_to_reaches_every_weight(
    build: Callable[..., nn.Module], sizes: Sizes, dtype: torch.dtype
) -> None:
    """After model.to(dtype) every weight and the output have that dtype."""
    model = build(*sizes).to(dtype)

    try:
        output = model(torch.ones(1, sizes[0], dtype=dtype))
    except RuntimeError as error:
        pytest.fail(f"to() reaches each weight, but {error}")

    assert output.dtype == dtype, "the output has the dtype of the weights"
    assert {weight.dtype for weight in weights_used(output)} == {dtype}, "to() reaches each weight"


@law(right=Network, wrong={KeepsAPlainList: "an optimizer moves each weight"})
@given(sizes=deep, seed=seeds)
def test_an_optimizer_moves_every_weight(
    build: Callable[..., nn.Module], sizes: Sizes, seed: int
) -> None:
    """An optimizer built from parameters() moves each weight whose gradient is not zero."""
    torch.manual_seed(seed)
    model = build(*sizes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    output = model(torch.ones(2, sizes[0]))
    weights = weights_used(output)
    output.sum().backward()
    # A ReLU that is off gives some weights a zero gradient; SGD leaves those alone.
    before = {weight: bits(weight) for weight in weights if bool(weight.grad.any())}
    optimizer.step()

    moved = all(bits(weight) != old for weight, old in before.items())
    assert moved, "an optimizer moves each weight that has a gradient"
