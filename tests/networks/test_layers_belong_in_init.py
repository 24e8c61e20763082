"""Layers belong in __init__.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Layers are defined in __init__; forward only passes the tensor through them.
Verdict: holds
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
    """Return the leaves that autograd would send gradients to: what forward computed with."""
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
    """A network whose hidden layers are in a Python list, where nn.Module does not look."""

    def __init__(self, *sizes: Any) -> None:
        """Take the layers out of their ModuleList."""
        super().__init__(*sizes)
        layers = list(self.hidden)
        del self.hidden
        self.hidden = layers


class CreatesInForward(Network):
    """A network that creates its last layer when it runs."""

    def forward(self, images: Tensor) -> Tensor:
        """Make an output layer and use it."""
        self.output = nn.Linear(self.output.in_features, self.out_features, dtype=images.dtype)
        return super().forward(images)


class HidesInForward(Network):
    """A network that creates its last layer when it runs, and forgets it."""

    def forward(self, images: Tensor) -> Tensor:
        """Make an output layer and use it."""
        features = flatten(images, self.in_features)
        for layer in self.hidden:
            features = F.relu(layer(features))
        return nn.Linear(features.shape[1], self.out_features, dtype=images.dtype)(features)


class ForgetsALayer(Network):
    """A network that has a layer and does not use it."""

    def __init__(self, *sizes: Any) -> None:
        """Create a layer too many."""
        super().__init__(*sizes)
        self.spare = nn.Linear(1, 1)


@law(
    right=Network,
    wrong={
        KeepsAPlainList: "forward uses no weight but those of parameters()",
        CreatesInForward: "forward uses no weight but those of parameters()",
        HidesInForward: "forward uses no weight but those of parameters()",
        ForgetsALayer: "forward uses each weight of parameters()",
    },
)
@given(sizes=deep, batch=st.integers(1, 3))
def test_every_weight_is_registered(
    build: Callable[..., nn.Module], sizes: Sizes, batch: int
) -> None:
    """What forward computes with is what parameters(), state_dict() and an optimizer see."""
    model = build(*sizes)
    registered, names = set(model.parameters()), list(model.state_dict())

    used = weights_used(model(torch.ones(batch, sizes[0])))

    assert used <= registered, "forward uses no weight but those of parameters()"
    assert registered <= used, "forward uses each weight of parameters()"
    assert set(model.state_dict(keep_vars=True).values()) == used, "state_dict() has each weight"
    assert list(model.state_dict()) == names, "calling forward creates no weight"


@law(
    right=Network,
    wrong={KeepsAPlainList: "to() reaches each weight"},
)
@given(sizes=deep, dtype=st.sampled_from([torch.float64, torch.float16, torch.bfloat16]))
def test_to_reaches_every_weight(
    build: Callable[..., nn.Module], sizes: Sizes, dtype: torch.dtype
) -> None:
    """A model that was moved to another dtype computes in that dtype throughout."""
    model = build(*sizes).to(dtype)

    try:
        output = model(torch.ones(1, sizes[0], dtype=dtype))
    except RuntimeError as error:
        pytest.fail(f"to() reaches each weight, but {error}")

    assert output.dtype == dtype, "the output has the dtype of the weights"
    assert {weight.dtype for weight in weights_used(output)} == {dtype}, "to() reaches each weight"


@law(
    right=Network,
    wrong={KeepsAPlainList: "an optimizer moves each weight"},
)
@given(sizes=deep, seed=seeds)
def test_an_optimizer_moves_every_weight(
    build: Callable[..., nn.Module], sizes: Sizes, seed: int
) -> None:
    """A step of an optimizer over parameters() moves each weight that has a gradient."""
    torch.manual_seed(seed)
    model = build(*sizes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    output = model(torch.ones(2, sizes[0]))
    weights = weights_used(output)
    output.sum().backward()
    before = {weight: bits(weight) for weight in weights if bool(weight.grad.any())}
    optimizer.step()

    moved = all(bits(weight) != old for weight, old in before.items())
    assert moved, "an optimizer moves each weight with a gradient"
