"""ReLU is max(0, x); its gradient is 1 above zero and 0 elsewhere.

>>> x = torch.tensor([-2.0, -1.0, 0.0, 3.0], requires_grad=True)
>>> y = torch.relu(x)
>>> y.tolist()
[0.0, 0.0, 0.0, 3.0]
>>> y.sum().backward()
>>> x.grad
tensor([0., 0., 0., 1.])

Notes: ReLU is the hidden activation.
Verdict: holds
Truth: The gradient at exactly 0 is 0. NaN stays NaN, and a second ReLU changes nothing. It is the
    default activation of the library's `Network`, after every hidden layer and not after the last.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.networks import ACTIVATIONS, Network
from dlconcepts.strategies import FLOATS, tensors
from dlconcepts.support.bitwise import bits, same
from dlconcepts.testing.laws import law
from tests.networks.common import WRITABLE, Sizes, deep, fill, inputs, seeds


def absolute_value(x: Tensor) -> Tensor:
    """Turn negative numbers positive."""
    return x.abs()


def leaks(x: Tensor) -> Tensor:
    """Return a hundredth of a negative x instead of 0."""
    return F.leaky_relu(x)


def overwrites_its_input(x: Tensor) -> Tensor:
    """Call relu_, which destroys an input that other code may still need."""
    return torch.relu_(x)


def chooses_where_positive(x: Tensor) -> Tensor:
    """Return 0 unless x > 0, which is false for NaN and so hides it."""
    return torch.where(x > 0, x, torch.zeros_like(x))


@law(
    right=ACTIVATIONS["relu"],
    wrong={
        absolute_value: "max(0, x)",
        leaks: "max(0, x)",
        overwrites_its_input: "leaves its input alone",
        chooses_where_positive: "NaN stays NaN",
    },
)
@given(
    # Writable layouts only: on an expanded tensor relu_ raises instead of overwriting it.
    x=tensors(dtype=st.sampled_from(FLOATS), layouts=WRITABLE, allow_infinity=True),
    zeros_become_nan=st.booleans(),
)
def test_relu_is_the_larger_of_0_and_x(
    relu: Callable[[Tensor], Tensor], x: Tensor, zeros_become_nan: bool
) -> None:
    """ReLU is max(0, x), NaN stays NaN, and a second ReLU changes nothing."""
    if zeros_become_nan:  # so that NaN is not rare in any dtype
        x.masked_fill_(x == 0, torch.nan)
    before = x.clone()

    y = relu(x)

    assert bits(x) == bits(before), "ReLU leaves its input alone"
    assert same(y.isnan(), before.isnan()), "NaN stays NaN"
    expected = np.maximum(before.double().numpy(force=True), 0)
    assert np.array_equal(y.double().numpy(force=True), expected, equal_nan=True), (
        "ReLU is max(0, x)"
    )
    assert same(relu(y), y), "ReLU of ReLU is ReLU"


def takes_the_maximum(x: Tensor) -> Tensor:
    """Take the maximum of x and 0, which passes half of the gradient on where they are equal."""
    return torch.maximum(x, torch.zeros_like(x))


def cuts_the_gradient(x: Tensor) -> Tensor:
    """Mask a detached x, so that no gradient reaches it."""
    return x.detach() * (x > 0) + 0 * x


@law(
    right=ACTIVATIONS["relu"],
    wrong={
        absolute_value: "1 above zero, and 0 at and below it",
        leaks: "1 above zero, and 0 at and below it",
        takes_the_maximum: "1 above zero, and 0 at and below it",
        cuts_the_gradient: "1 above zero, and 0 at and below it",
    },
)
@given(x=tensors(dtype=st.sampled_from(FLOATS), requires_grad=True))
def test_the_gradient_of_relu_is_a_step(relu: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """The incoming gradient is multiplied by 1 above zero, and by 0 at and below it."""
    # The incoming gradients differ, so a gradient that reaches the wrong element shows.
    incoming = torch.arange(1, 1 + x.numel(), dtype=x.dtype).view(x.shape)

    (gradient,) = torch.autograd.grad(relu(x), x, incoming)

    assert same(gradient, incoming * (x > 0)), "the gradient is 1 above zero, and 0 at and below it"


class UsesGELU(Network):
    """A network whose default activation is GELU."""

    def __init__(self, *sizes: Any, activation: str = "gelu") -> None:
        super().__init__(*sizes, activation=activation)


class HasNoActivation(Network):
    """A network that chains its layers without an activation."""

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.hidden:
            images = layer(images)
        return self.output(images)


class ActivatesItsScores(Network):
    """A network with a ReLU after the last layer too, so no score is below 0."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).relu()


@law(
    right=Network,
    wrong={
        UsesGELU: "the hidden activation is ReLU",
        HasNoActivation: "the hidden activation is ReLU",
        ActivatesItsScores: "the hidden activation is ReLU",
    },
)
@given(sizes=deep, seed=seeds, data=st.data())
def test_relu_is_the_default_activation(
    build: Callable[..., Network], sizes: Sizes, seed: int, data: st.DataObject
) -> None:
    """By default a network applies max(0, x) after each hidden layer alone."""
    model = build(*sizes).double()
    fill(model, seed)
    images = data.draw(inputs(2, sizes[0]), label="images")

    scores = model(images)

    *hidden, output = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    features = images
    for layer in hidden:
        features = F.linear(features, layer.weight, layer.bias).clamp(min=0)
    expected = F.linear(features, output.weight, output.bias)
    assert same(scores, expected), "the hidden activation is ReLU"
