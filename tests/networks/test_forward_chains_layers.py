"""Forward is layer, activation, layer, and ends in logits, not in a softmax.

>>> from dlconcepts.networks import Network
>>> model, image = Network(4, [3], 2), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
>>> hidden = torch.relu(model.hidden[0](image))
>>> logits = model.output(hidden)
>>> torch.equal(model(image), logits)
True
>>> torch.equal(model(image), logits.softmax(dim=1))
False

Notes: forward applies the first layer, ReLU, the next layer, and so on, and softmax at the end.
Verdict: holds-if
Truth: The softmax belongs in the network only if the loss does not apply it. The library's networks
    end in logits, which `nn.CrossEntropyLoss` expects; their softmax is the probabilities.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import erf
from torch import Tensor, nn

from dlconcepts.networks import ACTIVATIONS, Network, flatten
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.networks.common import Sizes, activations, architectures, deep, fill, inputs, seeds

# The activations in numpy, by the formulas of PyTorch's documentation.
EXACT: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


class HasNoActivation(Network):
    """A network without activations, which is one affine map however many layers it has."""

    def forward(self, images: Tensor) -> Tensor:
        features = flatten(images, self.in_features)
        for layer in (*self.hidden, self.output):
            features = layer(features)
        return features


class ActivatesTheOutput(Network):
    """A network that applies the activation after the output layer too."""

    def forward(self, images: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](super().forward(images))


class ReversesHiddenLayers(Network):
    """A network that applies its hidden layers from last to first if their shapes allow it."""

    def forward(self, images: Tensor) -> Tensor:
        if len({layer.weight.shape for layer in self.hidden}) > 1:
            return super().forward(images)
        features = flatten(images, self.in_features)
        for layer in reversed(self.hidden):
            features = ACTIVATIONS[self.activation](layer(features))
        return self.output(features)


class AlwaysSigmoid(Network):
    """A network that uses sigmoid whatever activation it is given."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.activation = "sigmoid"


class DropsInEvalMode(Network):
    """A network that applies dropout in eval mode too."""

    def forward(self, images: Tensor) -> Tensor:
        self.dropout.train()
        return super().forward(images)


@law(
    right=Network,
    wrong={
        HasNoActivation: "layer, activation, layer",
        ActivatesTheOutput: "layer, activation, layer",
        ReversesHiddenLayers: "layer, activation, layer",
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
    """In eval mode the logits equal those of the same chain written in numpy."""
    model = build(*sizes, activation=activation, dropout=dropout).double().eval()
    fill(model, seed)
    batch = data.draw(st.integers(0, 3), label="batch")
    images = data.draw(inputs(batch, sizes[0]), label="images")

    logits = model(images)

    parameters = [parameter.numpy(force=True) for parameter in model.parameters()]
    features = images.numpy(force=True)
    # `size` is the same chain on absolute values. It bounds every partial sum, so rounding is
    # relative to it, not to the result, which cancellation may make small.
    size = np.abs(features)
    for layer, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        if layer:
            # |f(x)| <= |x| + 1 for every activation f; sigmoid(0) is 0.5.
            features, size = EXACT[activation](features), size + 1
        features = features @ weight.T + bias
        size = size @ np.abs(weight.T) + np.abs(bias)
    assert logits.shape == features.shape, "the chain has one row for each example"
    assert (np.abs(logits.numpy(force=True) - features) <= 1e-13 * size).all(), (
        "forward is layer, activation, layer and so on"
    )


class DropsTheLogits(Network):
    """A network that applies dropout to the logits too."""

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(super().forward(images))


class DropsBeforeTheActivation(Network):
    """A network that applies dropout before the activation, where sigmoid turns 0 into 0.5."""

    def forward(self, images: Tensor) -> Tensor:
        features = flatten(images, self.in_features)
        for layer in self.hidden:
            features = ACTIVATIONS[self.activation](self.dropout(layer(features)))
        return self.output(features)


class DropsNothing(Network):
    """A network that ignores its dropout."""

    def __init__(self, *sizes: Any, dropout: float, **options: Any) -> None:
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
    """In training, a dropout of 1 zeroes the hidden features, so the logits are the last bias."""
    model = build(*sizes, activation=activation, dropout=1.0).double()
    fill(model, seed)
    images = data.draw(inputs(2, sizes[0]), label="images")

    logits = model(images)

    bias = list(model.parameters())[-1]
    assert bool((logits.ne(0) | bias.eq(0)).all()), "dropout spares the logits"
    assert same(logits, bias.expand(2, -1)), "a dropout of 1 drops all features of a hidden layer"
