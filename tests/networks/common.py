"""Shared by several claims of the lesson: images, numbered examples, networks and their inputs."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dlconcepts.networks import ACTIVATIONS
from dlconcepts.strategies import tensors

HOST = "PIL images and numpy arrays live in the memory of the CPU"
EPSILON = float(torch.finfo(torch.float32).eps)
WRITABLE = ("contiguous", "permuted", "offset", "strided")  # in-place writes to "expanded" raise

Batch = list[Tensor]
Sizes = tuple[int, list[int], int]  # in_features, hidden_features, out_features

MODULES = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

percentages = st.integers(1, 99).map(lambda number: number / 100)
sides = st.integers(1, 4)
seeds = st.integers(0, 2**16)
architectures = st.tuples(sides, st.lists(sides, max_size=3), sides)
deep = st.tuples(sides, st.lists(sides, min_size=1, max_size=3), sides)  # has a hidden layer
activations = st.sampled_from(list(ACTIVATIONS))
activation_modules = st.sampled_from(list(MODULES))


@st.composite
def pixel_arrays(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Draw bytes of shape (H, W), grey, or (H, W, C) with one, three or four channels."""
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    channels = draw(st.sampled_from([(), (1,), (3,), (4,)]))
    size = math.prod((height, width, *channels))
    values = draw(st.binary(min_size=size, max_size=size))
    # Half of them hold only 0 and 1, as masks do: code that guesses the scale from the largest
    # value would take such bytes for floats that are already scaled.
    if draw(st.booleans()):
        values = bytes(value & 1 for value in values)
    return np.frombuffer(bytearray(values), np.uint8).reshape(height, width, *channels)


def as_picture(array: NDArray[np.uint8]) -> Image.Image:
    """Return the PIL image with these pixels: mode L, RGB or RGBA."""
    return Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array)


def channel_first(array: NDArray[Any]) -> NDArray[np.float64]:
    """Return pixels (H, W) or (H, W, C) as (C, H, W) in float64."""
    height, width, channels = (*array.shape, 1)[:3]
    first = np.empty((channels, height, width))
    # Pixel by pixel: a transpose here could repeat an error of the code under test.
    for i, j in np.ndindex(height, width):
        first[:, i, j] = array[i, j]
    return first


def as_channels(values: Sequence[float]) -> Tensor:
    """Return one value per channel, shaped (C, 1, 1) to broadcast over an image."""
    return torch.tensor(values).view(-1, 1, 1)


def is_normalised(
    images: Tensor, scaled: NDArray[np.float64], mean: Sequence[float], std: Sequence[float]
) -> bool:
    """Return whether images are (scaled - mean) / std, channel by channel, up to rounding."""
    centre, deviation = (np.reshape(values, (-1, 1, 1)) for values in (mean, std))
    error = np.abs(images.numpy(force=True) - (scaled - centre) / deviation)
    # Six roundings of half a unit each: mean, std, the reciprocal of 255 (some devices multiply
    # by it instead of dividing), and the three operations.
    return bool((error <= 3 * EPSILON * (scaled + centre) / deviation).all())


def numbered(n: int) -> TensorDataset:
    """Return n examples, all different: image i is [i, i], and its label is 100 + i."""
    numbers = torch.arange(n)
    return TensorDataset(numbers.float().view(n, 1).expand(n, 2), numbers + 100)


def positions(epoch: Iterable[Batch]) -> list[list[int]]:
    """Return the positions of the examples in each batch; assert that images and labels agree."""
    found = []
    for images, labels in epoch:
        numbers = (labels - 100).tolist()
        assert images[:, 0].tolist() == numbers, "each image comes with its own label"
        found.append(numbers)
    return found


def fill(model: nn.Module, seed: int) -> None:
    """Set all parameters: to ones for seed 0, to random numbers for any other seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    # Small weights keep an activation where it is nearly linear, large ones where it is flat.
    scale = (1.0, 1e-4, 10.0)[seed % 3]
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, device="cpu")
            parameter.copy_(scale * values if seed else torch.ones_like(values))


def inputs(*shape: int, **options: Any) -> st.SearchStrategy[Tensor]:
    """Draw float64 inputs of a network, none beyond 10."""
    return tensors(shape, torch.float64, max_magnitude=10, **options)


def values_and_gradients(
    call: Callable[..., Tensor], module: nn.Module, arguments: list[Tensor], seed: int
) -> list[Tensor]:
    """Return the output, then the gradients of the input and of each parameter."""
    torch.manual_seed(seed)
    output = call(module, *arguments)
    # The incoming gradients differ, so a gradient that reaches the wrong element shows.
    incoming = torch.arange(1, 1 + output.numel(), dtype=output.dtype).view(output.shape)
    leaves = [arguments[0], *module.parameters()]
    gradients = torch.autograd.grad(output, leaves, incoming, allow_unused=True)
    pairs = zip(leaves, gradients, strict=True)
    return [output, *(torch.zeros_like(x) if grad is None else grad for x, grad in pairs)]
