"""Shared by several claims of the lesson networks."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.special import erf
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dlconcepts.networks import ACTIVATIONS, Network
from dlconcepts.strategies import tensors

HOST = "PIL images and numpy arrays live in the memory of the CPU"


EPSILON = float(torch.finfo(torch.float32).eps)


Batch = list[Tensor]


percentages = st.integers(1, 99).map(lambda number: number / 100)


@st.composite
def pixel_arrays(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Draw bytes of shape (H, W), grey, or (H, W, C) with one, three or four channels.

    Some are black but for a one here and there, as a mask is, which is an image like any other.
    """
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    channels = draw(st.sampled_from([(), (1,), (3,), (4,)]))
    size = math.prod((height, width, *channels))
    values = draw(st.binary(min_size=size, max_size=size))
    if draw(st.booleans()):
        values = bytes(value & 1 for value in values)
    return np.frombuffer(bytearray(values), np.uint8).reshape(height, width, *channels)


def as_picture(array: NDArray[np.uint8]) -> Image.Image:
    """Return the PIL image with these pixels: mode L, RGB or RGBA."""
    return Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array)


def channel_first(array: NDArray[Any]) -> NDArray[np.float64]:
    """Return pixels (H, W) or (H, W, C) as (C, H, W) in float64, one element at a time."""
    height, width, channels = (*array.shape, 1)[:3]
    first = np.empty((channels, height, width))
    for i, j in np.ndindex(height, width):
        first[:, i, j] = array[i, j]
    return first


def as_channels(values: Sequence[float]) -> Tensor:
    """Return one value a channel, ready to be spread over an image."""
    return torch.tensor(values).view(-1, 1, 1)


def numbered(n: int) -> TensorDataset:
    """Return n examples that can be told apart: image i is i twice, its label 100 + i."""
    numbers = torch.arange(n)
    return TensorDataset(numbers.float().view(n, 1).expand(n, 2), numbers + 100)


def positions(epoch: Iterable[Batch]) -> list[list[int]]:
    """Return the numbers of the examples in each batch, once images and labels agree."""
    found = []
    for images, labels in epoch:
        numbers = (labels - 100).tolist()
        assert images[:, 0].tolist() == numbers, "each image comes with its own label"
        found.append(numbers)
    return found


WRITABLE = ("contiguous", "permuted", "offset", "strided")


EXACT: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


Sizes = tuple[int, list[int], int]


sides = st.integers(1, 4)


seeds = st.integers(0, 2**16)


architectures = st.tuples(sides, st.lists(sides, max_size=3), sides)


deep = st.tuples(sides, st.lists(sides, min_size=1, max_size=3), sides)


activations = st.sampled_from(sorted(ACTIVATIONS, key=list(EXACT).index))


def fill(model: nn.Module, seed: int) -> None:
    """Set all weights and biases of a model: to ones by seed 0, else to random numbers.

    Small ones too, and large ones: an activation is met where it is straight and where it is flat.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    scale = (1.0, 1e-4, 10.0)[seed % 3]
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, device="cpu")
            parameter.copy_(scale * values if seed else torch.ones_like(values))


def inputs(*shape: int, **options: Any) -> st.SearchStrategy[Tensor]:
    """Draw float64 inputs of a network, none beyond 10."""
    return tensors(shape, torch.float64, max_magnitude=10, **options)


MODULES = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


activation_modules = st.sampled_from(list(MODULES))


def values_and_gradients(
    call: Callable[..., Tensor], module: nn.Module, arguments: list[Tensor], seed: int
) -> list[Tensor]:
    """Return the output and the gradients of input and parameters under uneven incoming ones."""
    torch.manual_seed(seed)
    output = call(module, *arguments)
    incoming = torch.arange(1, 1 + output.numel(), dtype=output.dtype).view(output.shape)
    leaves = [arguments[0], *module.parameters()]
    gradients = torch.autograd.grad(output, leaves, incoming, allow_unused=True)
    zeros = (torch.zeros_like(leaf) for leaf in leaves)
    pairs = zip(gradients, zeros, strict=True)
    return [output, *(zero if gradient is None else gradient for gradient, zero in pairs)]


def zeros(model: Network) -> None:
    """Set every weight to zero."""
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
