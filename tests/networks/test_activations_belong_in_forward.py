"""nn.ReLU in __init__ and F.relu in forward compute the same.

>>> layer, x = nn.Linear(2, 3), torch.tensor([[1.0, -2.0]])
>>> model = nn.Sequential(layer, nn.ReLU())
>>> model(x).equal(F.relu(layer(x)))
True
>>> list(model.state_dict())  # a ReLU has nothing to learn
['0.weight', '0.bias']
>>> list(nn.PReLU().state_dict())  # a PReLU has a slope: create it in __init__
['weight']

Notes: By convention layers with parameters go in __init__ and activations in forward.
Verdict: holds-if
Truth: A convention: an activation module in __init__ and its function in forward compute the
    same. An activation with a parameter, such as nn.PReLU, belongs in __init__, or it never learns.
"""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.networks import Network, flatten
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.networks.common import (
    MODULES,
    Sizes,
    activation_modules,
    deep,
    inputs,
    seeds,
    sides,
    values_and_gradients,
)


class ActivationModules(Network):
    """The same network, with an activation module that it creates in __init__."""

    def __init__(self, *sizes: Any, activation: str) -> None:
        super().__init__(*sizes, activation=activation)
        self.activate = MODULES[activation]()

    def forward(self, images: Tensor) -> Tensor:
        features = flatten(images, self.in_features)
        for layer in self.hidden:
            features = self.activate(layer(features))
        return self.output(features)


class ActivatesWithPReLU(ActivationModules):
    """A network that uses PReLU, which has a slope to learn, for every activation."""

    def __init__(self, *sizes: Any, activation: str) -> None:
        super().__init__(*sizes, activation=activation)
        self.activate = nn.PReLU()


class ActivatesWithSoftplus(ActivationModules):
    """A network that uses Softplus for every activation."""

    def __init__(self, *sizes: Any, activation: str) -> None:
        super().__init__(*sizes, activation=activation)
        self.activate = nn.Softplus()


@law(
    right=ActivationModules,
    wrong={
        ActivatesWithPReLU: "the same state_dict keys",
        ActivatesWithSoftplus: "the same values",
    },
)
@given(sizes=deep, activation=activation_modules, seed=seeds, data=st.data())
def test_an_activation_module_equals_its_function(
    build: Callable[..., nn.Module],
    sizes: Sizes,
    activation: str,
    seed: int,
    data: st.DataObject,
) -> None:
    """A module in __init__ and a function in forward have the same keys, values and gradients."""
    torch.manual_seed(seed)
    one, other = build(*sizes, activation=activation), Network(*sizes, activation=activation)
    images = data.draw(inputs(2, sizes[0], requires_grad=True), label="images")

    assert list(one.state_dict()) == list(other.state_dict()), "they have the same state_dict keys"
    other.load_state_dict(one.state_dict())
    (values, *gradients), (expected, *expected_gradients) = (
        values_and_gradients(lambda model, x: model(x), model.double(), [images], seed)
        for model in (one, other)
    )
    assert same(values, expected), "they give the same values"
    assert all(map(same, gradients, expected_gradients)), "they give the same gradients"


class LearnsItsSlope(nn.Module):
    """A layer and a PReLU, both created in __init__."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.layer, self.activate = nn.Linear(side, side), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.layer(x))


class RecreatesItsSlope(nn.Module):
    """The same network, which creates a new PReLU in forward as if it had nothing to learn."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.layer = nn.Linear(side, side)

    def forward(self, x: Tensor) -> Tensor:
        return nn.PReLU()(self.layer(x))


@law(right=LearnsItsSlope, wrong={RecreatesItsSlope: "the slope learns"})
@given(side=sides, lr=st.sampled_from([0.1, 1.0]))
def test_an_activation_with_a_parameter_learns(
    build: Callable[[int], nn.Module], side: int, lr: float
) -> None:
    """A step moves the slope of a PReLU that was created in __init__."""
    model, x = build(side), torch.ones(1, side)
    # A negative input for PReLU: only there does its slope count.
    nn.init.constant_(model.layer.weight, -1.0)
    nn.init.zeros_(model.layer.bias)

    before = model(x)
    before.sum().backward()
    # Only the slope moves, so that nothing else can change the output.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("layer"):
                parameter -= lr * parameter.grad

    assert not same(model(x), before), "the slope learns, and the output with it"
