"""Forward.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: forward applies the first layer, ReLU, the next layer, and so on, and softmax at the end.
Verdict: holds-if
Truth: With the softmax where the loss does not do it itself: the library's networks end in
    logits, which nn.CrossEntropyLoss expects, and the probabilities are their softmax.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.networks import ACTIVATIONS, Network, flatten
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.networks.common import (
    EXACT,
    Sizes,
    activations,
    architectures,
    deep,
    fill,
    inputs,
    seeds,
)


class HasNoActivation(Network):
    """A network of layers alone: whatever their number, one affine map."""

    def forward(self, images: Tensor) -> Tensor:
        """Apply the layers."""
        features = flatten(images, self.in_features)
        for layer in (*self.hidden, self.output):
            features = layer(features)
        return features


class ActivatesTheOutput(Network):
    """A network that applies the activation after the output layer too."""

    def forward(self, images: Tensor) -> Tensor:
        """Apply the activation once more."""
        return ACTIVATIONS[self.activation](super().forward(images))


class SwapsHiddenLayers(Network):
    """A network that applies its hidden layers from the last to the first, where they fit."""

    def forward(self, images: Tensor) -> Tensor:
        """Apply the hidden layers in reverse."""
        if len({layer.weight.shape for layer in self.hidden}) > 1:
            return super().forward(images)
        features = flatten(images, self.in_features)
        for layer in reversed(self.hidden):
            features = ACTIVATIONS[self.activation](layer(features))
        return self.output(features)


class AlwaysSigmoid(Network):
    """A network that takes sigmoid for whatever activation was asked."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        """Forget what was asked."""
        super().__init__(*sizes, **options)
        self.activation = "sigmoid"


class DropsInEvalMode(Network):
    """A network whose dropout does not switch off."""

    def forward(self, images: Tensor) -> Tensor:
        """Turn dropout on."""
        self.dropout.train()
        return super().forward(images)


@law(
    right=Network,
    wrong={
        HasNoActivation: "layer, activation, layer",
        ActivatesTheOutput: "layer, activation, layer",
        SwapsHiddenLayers: "layer, activation, layer",
        AlwaysSigmoid: "layer, activation, layer",
        DropsInEvalMode: "layer, activation, layer",
    },
)
@given(
    sizes=architectures,
    activation=activations,
    dropout=st.sampled_from([0.0, 0.5, 1.0]),
    seed=seeds,
    data=st.data(),
)
def test_forward_is_the_chain_of_its_layers(
    build: Callable[..., nn.Module],
    sizes: Sizes,
    activation: str,
    dropout: float,
    seed: int,
    data: st.DataObject,
) -> None:
    """Logits are those of the same chain in numpy, the classes' probabilities their softmax.

    The bound is 1e-13 of the same chain of absolute values, which no sum can exceed.
    """
    model = build(*sizes, activation=activation, dropout=dropout).double().eval()
    fill(model, seed)
    batch = data.draw(st.integers(0, 3), label="batch")
    images = data.draw(inputs(batch, sizes[0]), label="images")

    logits = model(images)

    parameters = [parameter.numpy(force=True) for parameter in model.parameters()]
    features = images.numpy(force=True)
    size = np.abs(features)
    for layer, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        if layer:
            features, size = EXACT[activation](features), size + 1
        features = features @ weight.T + bias
        size = size @ np.abs(weight.T) + np.abs(bias)
    assert logits.shape == features.shape, "the chain has one row for each example"
    assert (np.abs(logits.numpy(force=True) - features) <= 1e-13 * size).all(), (
        "forward is layer, activation, layer and so on"
    )


class DropsTheLogits(Network):
    """A network with dropout after its last layer too."""

    def forward(self, images: Tensor) -> Tensor:
        """Drop scores of classes."""
        return self.dropout(super().forward(images))


class DropsBeforeTheActivation(Network):
    """A network that drops what goes into the activation, where sigmoid makes 0.5 of nothing."""

    def forward(self, images: Tensor) -> Tensor:
        """Apply layer, dropout, activation."""
        features = flatten(images, self.in_features)
        for layer in self.hidden:
            features = ACTIVATIONS[self.activation](self.dropout(layer(features)))
        return self.output(features)


class DropsNothing(Network):
    """A network that forgets to apply its dropout."""

    def __init__(self, *sizes: Any, dropout: float, **options: Any) -> None:
        """Leave out the dropout."""
        super().__init__(*sizes, **options)


@law(
    right=Network,
    wrong={
        DropsTheLogits: "spares the logits",
        DropsBeforeTheActivation: "all features of a hidden layer",
        DropsNothing: "all features of a hidden layer",
    },
)
@given(sizes=deep, activation=activations, seed=seeds, data=st.data())
def test_dropout_acts_on_the_hidden_features(
    build: Callable[..., nn.Module],
    sizes: Sizes,
    activation: str,
    seed: int,
    data: st.DataObject,
) -> None:
    """In training, a dropout of 1 leaves of the logits the bias of the last layer, and no less."""
    model = build(*sizes, activation=activation, dropout=1.0).double()
    fill(model, seed)
    images = data.draw(inputs(2, sizes[0]), label="images")

    logits = model(images)

    bias = list(model.parameters())[-1]
    assert bool((logits.ne(0) | bias.eq(0)).all()), "dropout spares the logits"
    assert same(logits, bias.expand(2, -1)), "a dropout of 1 drops all features of a hidden layer"
