"""Lesson 2, networks: from images to one score for each class."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import inf, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class Network(nn.Module):
    """A fully connected network from images to logits, one score for each class.

    `hidden_features` are the widths of the hidden layers. After each of them come the activation,
    one of `ACTIVATIONS`, and dropout. After the last layer comes neither, and no softmax, since
    `nn.CrossEntropyLoss` expects logits.

    Input: floating point of shape (B, ...) with `in_features` values per example, B >= 0.
    Output: logits of shape (B, out_features).

    Raises ValueError for a size below 1, an unknown activation, or a dropout outside [0, 1]. A call
    raises ValueError for examples of another width, and TypeError for integers.
    Source: PyTorch documentation, "Build the Neural Network"; `torch.nn.CrossEntropyLoss`.

    >>> model = Network(784, [128, 64], 10)
    >>> model(torch.zeros(2, 28, 28)).shape
    torch.Size([2, 10])
    >>> sum(parameter.numel() for parameter in model.parameters())
    109386
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        """Create the layers; PyTorch initialises their weights."""
        super().__init__()
        sizes = [in_features, *hidden_features, out_features]
        if not all(type(size) is int and size >= 1 for size in sizes):
            raise ValueError(f"sizes must be integers of at least 1, but these are {sizes}")
        if activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"unknown activation {activation!r}: choose one of {known}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be a probability in [0, 1], but it is {dropout}")
        self.in_features = in_features
        self.hidden_features = list(hidden_features)
        self.out_features = out_features
        self.activation = activation
        self.hidden = nn.ModuleList(
            nn.Linear(width, next_width) for width, next_width in pairwise(sizes[:-1])
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(sizes[-2], out_features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch."""
        features = flatten(images, self.in_features)
        for layer in self.hidden:
            features = self.dropout(ACTIVATIONS[self.activation](layer(features)))
        logits: torch.Tensor = self.output(features)
        return logits

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments that build a network of the same architecture, as numbers, text and a list.

        >>> Network(4, [3], 2, dropout=0.5).architecture["dropout"]
        0.5
        """
        return {
            "in_features": self.in_features,
            "hidden_features": list(self.hidden_features),
            "out_features": self.out_features,
            "activation": self.activation,
            "dropout": self.dropout.p,
        }


def flatten(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Turn a batch of examples of any shape into rows: (B, ...) becomes (B, in_features).

    Input: floating point, at least two dimensions, B >= 0. Output: a view if the strides of the
    input allow one, else a copy.

    Raises TypeError for integers and ValueError if the examples do not have `in_features` values.
    Source: PyTorch documentation, `torch.flatten`.

    >>> flatten(torch.zeros(5, 1, 28, 28), 784).shape
    torch.Size([5, 784])
    """
    shape = tuple(images.shape)
    if not images.is_floating_point():
        raise TypeError(f"the network takes floats, but got {images.dtype}; call normalize first")
    if images.ndim < 2:
        raise ValueError(f"the network takes a batch, (B, ...), but got the shape {shape}")
    if prod(shape[1:]) != in_features:
        raise ValueError(
            f"the network takes examples of {in_features} values, but images of shape {shape} "
            f"have {prod(shape[1:])} each"
        )
    # Not view(-1, in_features), which mixes examples if their width is wrong.
    return images.flatten(1)


def sequential(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Chain named layers in order, as `nn.Sequential` does, but without losing any.

    In an OrderedDict a repeated name silently replaces the earlier layer.

    Raises ValueError for a name that is repeated, empty, has a dot or is an attribute of every
    Sequential, as `forward`. Raises TypeError for a layer that is not a module, such as a class
    without parentheses.
    Source: PyTorch documentation, `torch.nn.Sequential`.

    >>> model = sequential([("hidden", nn.Linear(4, 3)), ("output", nn.Linear(3, 2))])
    >>> model.output is model[1]
    True
    """
    model = nn.Sequential()
    for name, layer in layers:
        if name in dict(model.named_children()):
            raise ValueError(f"two layers have the name {name!r}; rename one of them")
        if not name or "." in name:
            raise ValueError(f"a layer's name must be non-empty, with no dot, but it is {name!r}")
        if hasattr(model, name):
            raise ValueError(f"the name {name!r} would hide an attribute of nn.Module; rename it")
        if not isinstance(layer, nn.Module):
            raise TypeError(f"the layer {name!r} must be an nn.Module, but it is {layer!r}")
        model.add_module(name, layer)
    return model


def reinitialize(layer: nn.Linear, *, std: float, generator: torch.Generator | None = None) -> None:
    """Set a layer's bias to zero and draw its weights from a normal distribution around zero.

    This works in place, so an optimizer that already holds the parameters still trains them.

    A layer may have no bias. Raises ValueError, and changes nothing, if the standard deviation
    `std` is not a finite number above 0.
    Source: PyTorch documentation, `torch.nn.init`.

    >>> layer = nn.Linear(2, 1)
    >>> weight = layer.weight
    >>> reinitialize(layer, std=0.1)
    >>> layer.weight is weight, layer.bias.item()
    (True, 0.0)
    """
    if not 0 < std < inf:
        raise ValueError(f"std must be finite and above 0, but it is {std}")
    nn.init.normal_(layer.weight, std=std, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
