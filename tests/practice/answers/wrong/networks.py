"""Wrong answers to the exercises of lesson 2, networks."""

import copy
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from matplotlib.figure import Figure
from torch import nn

from dlconcepts.loading import Pixels, as_input
from dlconcepts.loading import normalize as _normalize
from dlconcepts.networks import ACTIVATIONS
from dlconcepts.networks import flatten as _flatten


def _check_numbers(
    images: torch.Tensor, mean: float | Sequence[float], std: float | Sequence[float]
) -> None:
    for numbers in (mean, std):
        if not isinstance(numbers, (int, float)) and (
            images.dim() < 3 or len(numbers) != images.shape[-3]
        ):
            raise ValueError("one number for each channel")
    if not np.isfinite(mean).all() or not np.isfinite(std).all() or not (np.array(std) > 0).all():
        raise ValueError("mean must be finite, std finite and above 0")


def _column(numbers: float | Sequence[float]) -> torch.Tensor:
    column = torch.tensor(numbers, dtype=torch.float32)
    return column if column.dim() == 0 else column.view(-1, 1, 1)


def normalize__floats_too(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Accept images of any dtype instead of raising TypeError."""
    _check_numbers(images, mean, std)
    return (images.float() / 255 - _column(mean)) / _column(std)


def normalize__by_256(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Divide by 256, so that white is below 1."""
    if images.dtype != torch.uint8:
        raise TypeError("uint8 only")
    _check_numbers(images, mean, std)
    return (images.float() / 256 - _column(mean)) / _column(std)


def normalize__swapped(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Subtract the std and divide by the mean, which the equal defaults hide."""
    if images.dtype != torch.uint8:
        raise TypeError("uint8 only")
    _check_numbers(images, mean, std)
    return (images.float() / 255 - _column(std)) / _column(mean)


def normalize__broadcasts_grey(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Turn a grey image into three channels instead of refusing three numbers for it."""
    if images.dtype != torch.uint8:
        raise TypeError("uint8 only")
    if not np.isfinite(mean).all() or not np.isfinite(std).all() or not (np.array(std) > 0).all():
        raise ValueError("mean must be finite, std finite and above 0")
    return (images.float() / 255 - _column(mean)) / _column(std)


def normalize__zero_std(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Divide by a std of zero without an error."""
    if images.dtype != torch.uint8:
        raise TypeError("uint8 only")
    _check_numbers(images, mean, np.where(np.equal(std, 0), 1.0, std).tolist())
    return (images.float() / 255 - _column(mean)) / _column(std)


def normalize__nan_passes(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Let numbers that are not finite pass, since NaN <= 0 is false."""
    if images.dtype != torch.uint8:
        raise TypeError("uint8 only")
    m, s = _column(mean), _column(std)
    for column in (m, s):
        if column.dim() and (images.dim() < 3 or len(column) != images.shape[-3]):
            raise ValueError("one number for each channel")
    if (s <= 0).any():
        raise ValueError("std must be above 0")
    return (images.float() / 255 - m) / s


def normalize__channels_last(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Broadcast the numbers along the width instead of the channels."""
    if images.dtype != torch.uint8:
        raise TypeError("uint8 only")
    _check_numbers(images, mean, std)
    return (images.float() / 255 - torch.tensor(mean)) / torch.tensor(std)


def normalize__float64(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Return float64."""
    if images.dtype != torch.uint8:
        raise TypeError("uint8 only")
    _check_numbers(images, mean, std)
    return (images.double() / 255 - _column(mean)) / _column(std)


def normalize__value_error(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Raise ValueError for another dtype instead of TypeError."""
    if images.dtype != torch.uint8:
        raise ValueError("uint8 only")
    _check_numbers(images, mean, std)
    return (images.float() / 255 - _column(mean)) / _column(std)


def normalize__first_number(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Use the first channel's numbers for all channels."""
    if images.dtype != torch.uint8:
        raise TypeError("uint8 only")
    _check_numbers(images, mean, std)
    m = mean if isinstance(mean, (int, float)) else mean[0]
    s = std if isinstance(std, (int, float)) else std[0]
    return (images.float() / 255 - m) / s


def normalize__integer_division(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Divide bytes as integers, so that everything but white is black."""
    if images.dtype != torch.uint8:
        raise TypeError("uint8 only")
    _check_numbers(images, mean, std)
    return (images // 255 - _column(mean)) / _column(std)


def image_pipeline__channels_last(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Leave the channels of the result in the last place."""

    def transform(image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.atleast_3d(np.array(image)))
        return _normalize(pixels.permute(2, 0, 1), mean=mean, std=std).permute(1, 2, 0)

    return transform


def image_pipeline__no_channel(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Return (H, W) for a grey image instead of (1, H, W)."""

    def transform(image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.ascontiguousarray(image))
        if pixels.dim() == 3:
            pixels = pixels.permute(2, 0, 1)
        return _normalize(pixels, mean=mean, std=std)

    return transform


def image_pipeline__only_scales(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Scale to [0, 1] as ToTensor does, and forget to normalise."""

    def transform(image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.atleast_3d(np.array(image))).permute(2, 0, 1)
        _normalize(pixels, mean=mean, std=std)
        return pixels.float() / 255

    return transform


def image_pipeline__transposed(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Return (C, W, H): all axes reversed."""

    def transform(image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.atleast_3d(np.array(image)))
        return _normalize(pixels.permute(2, 1, 0), mean=mean, std=std)

    return transform


def image_pipeline__reshaped(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Reshape to (C, H, W) instead of permuting, which mixes the channels."""

    def transform(image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.atleast_3d(np.array(image)))
        height, width, channels = pixels.shape
        return _normalize(pixels.reshape(channels, height, width), mean=mean, std=std)

    return transform


def image_pipeline__ignores_std(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Normalise with the default std."""

    def transform(image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.atleast_3d(np.array(image))).permute(2, 0, 1)
        return _normalize(pixels, mean=mean)

    return transform


def image_pipeline__pil_only(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Fail for an array."""
    return lambda image: _normalize(TF.pil_to_tensor(image), mean=mean, std=std)


def image_pipeline__casts(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Cast floats to bytes, which `normalize` would refuse."""

    def transform(image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.atleast_3d(np.array(image, dtype=np.uint8))).permute(2, 0, 1)
        return _normalize(pixels, mean=mean, std=std)

    return transform


def image_pipeline__grey(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Use only the first channel of a colour image."""

    def transform(image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.atleast_3d(np.array(image))).permute(2, 0, 1)
        return _normalize(pixels, mean=mean, std=std)[:1]

    return transform


def image_pipeline__batch(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Return a batch of one, (1, C, H, W)."""

    def transform(image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.atleast_3d(np.array(image))).permute(2, 0, 1)
        return _normalize(pixels, mean=mean, std=std)[None]

    return transform


def _check(data: tuple[torch.Tensor, torch.Tensor], batch_size: int) -> None:
    if batch_size < 1 or len(data[0]) != len(data[1]) or len(data[0]) == 0:
        raise ValueError("unusable data or batch_size")


def batches__drops_the_last(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Leave a smaller last batch out."""
    _check(data, batch_size)
    order = torch.arange(len(data[0])) if order is None else order
    for i in range(len(order) // batch_size):
        chosen = order[i * batch_size : (i + 1) * batch_size]
        yield as_input(data[0][chosen]).to(device), data[1][chosen].to(device)


def batches__ignores_the_order(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut the examples in the order in which they lie."""
    _check(data, batch_size)
    for x, y in zip(data[0].split(batch_size), data[1].split(batch_size), strict=True):
        yield as_input(x).to(device), y.to(device)


def batches__orders_images_only(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Reorder the images, but not their labels."""
    _check(data, batch_size)
    images, labels = data
    if order is not None:
        images = images[order]
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=False):
        yield as_input(x).to(device), y.to(device)


def batches__shuffles(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffle unasked if there is no order."""
    _check(data, batch_size)
    if order is None:
        order = torch.randperm(len(data[0]))
    for chosen in order.split(batch_size):
        yield as_input(data[0][chosen]).to(device), data[1][chosen].to(device)


def batches__shortest(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut the longer of images and labels without an error."""
    count = min(len(data[0]), len(data[1]))
    images, labels = data[0][:count], data[1][:count]
    _check((images, labels), batch_size)
    order = torch.arange(count) if order is None else order
    for chosen in order.split(batch_size):
        yield as_input(images[chosen]).to(device), labels[chosen].to(device)


def batches__negative_size(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield nothing, without an error, for a negative batch_size."""
    _check(data, 1)
    order = torch.arange(len(data[0])) if order is None else order
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield as_input(data[0][chosen]).to(device), data[1][chosen].to(device)


def batches__empty(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield nothing, without an error, if there are no examples."""
    if batch_size < 1 or len(data[0]) != len(data[1]):
        raise ValueError("unusable data or batch_size")
    order = torch.arange(len(data[0])) if order is None else order
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield as_input(data[0][chosen]).to(device), data[1][chosen].to(device)


def batches__bytes_stay(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Hand out uint8 images as they are."""
    _check(data, batch_size)
    order = torch.arange(len(data[0])) if order is None else order
    for chosen in order.split(batch_size):
        yield data[0][chosen].to(device), data[1][chosen].to(device)


def batches__scales_floats(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Normalise floats too, which are to stay as they are."""
    _check(data, batch_size)
    order = torch.arange(len(data[0])) if order is None else order
    for chosen in order.split(batch_size):
        yield ((data[0][chosen].float() / 255 - 0.5) / 0.5).to(device), data[1][chosen].to(device)


def batches__moves_images_only(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Leave the labels on their device."""
    _check(data, batch_size)
    order = torch.arange(len(data[0])) if order is None else order
    for chosen in order.split(batch_size):
        yield as_input(data[0][chosen]).to(device), data[1][chosen]


def batches__fills_up(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Fill the last batch up with examples from the start."""
    _check(data, batch_size)
    order = torch.arange(len(data[0])) if order is None else order
    for start in range(0, len(order), batch_size):
        chosen = order[torch.arange(start, start + batch_size) % len(order)]
        yield as_input(data[0][chosen]).to(device), data[1][chosen].to(device)


def batches__length_of_the_data(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Count the batches by the data and not by the order, which may skip or repeat positions."""
    _check(data, batch_size)
    order = torch.arange(len(data[0])) if order is None else order
    for start in range(0, len(data[0]), batch_size):
        chosen = order[start : start + batch_size]
        yield as_input(data[0][chosen]).to(device), data[1][chosen].to(device)


def make_generator__unseeded(seed: int) -> torch.Generator:
    """Forget the seed."""
    return torch.Generator()


def make_generator__the_global_one(seed: int) -> torch.Generator:
    """Seed and return PyTorch's global generator."""
    return torch.manual_seed(seed)


def make_generator__random_seed(seed: int) -> torch.Generator:
    """Draw a seed of its own."""
    generator = torch.Generator().manual_seed(seed)
    generator.seed()
    return generator


def make_generator__returns_the_seed(seed: int) -> torch.Generator:
    """Return the seed of the generator instead of the generator."""
    return torch.Generator().manual_seed(seed).initial_seed()


@lru_cache
def _cached(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_generator__cached(seed: int) -> torch.Generator:
    """Return the same generator again for the same seed, in whatever state it is."""
    return _cached(seed)


def make_generator__one_off(seed: int) -> torch.Generator:
    """Start with one number drawn already."""
    generator = torch.Generator().manual_seed(seed)
    torch.rand(1, generator=generator)
    return generator


def make_generator__small_seeds(seed: int) -> torch.Generator:
    """Keep only the last byte of the seed."""
    return torch.Generator().manual_seed(seed % 256)


class _Network(nn.Module):
    """Whatever the wrong networks have in common."""

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden_features, out_features]
        if min(widths) < 1 or activation not in ACTIVATIONS or not 0 <= dropout <= 1:
            raise ValueError("wrong size, activation or dropout")
        self.widths, self.activation, self.dropout = widths, activation, dropout
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = _flatten(images, self.widths[0])
        for layer in self.layers[:-1]:
            x = F.dropout(ACTIVATIONS[self.activation](layer(x)), self.dropout, self.training)
        return self.layers[-1](x)

    @property
    def architecture(self) -> dict[str, Any]:
        return {
            "in_features": self.widths[0],
            "hidden_features": self.widths[1:-1],
            "out_features": self.widths[-1],
            "activation": self.activation,
            "dropout": self.dropout,
        }


class Network__softmax(_Network):
    """Return probabilities instead of logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).softmax(dim=1)


class Network__last_activation(_Network):
    """Apply the activation to the logits too."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return ACTIVATIONS[self.activation](super().forward(images))


class Network__python_list(_Network):
    """Keep the layers in a list, so that the module has no parameters."""

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            in_features, hidden_features, out_features, activation=activation, dropout=dropout
        )
        layers = list(self.layers)
        del self.layers
        self.layers = layers


class Network__dropout_in_eval(_Network):
    """Drop values in eval mode too."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = _flatten(images, self.widths[0])
        for layer in self.layers[:-1]:
            x = F.dropout(ACTIVATIONS[self.activation](layer(x)), self.dropout)
        return self.layers[-1](x)


class Network__always_relu(_Network):
    """Ignore the activation that was chosen."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = _flatten(images, self.widths[0])
        for layer in self.layers[:-1]:
            x = F.dropout(F.relu(layer(x)), self.dropout, self.training)
        return self.layers[-1](x)


class Network__no_dropout(_Network):
    """Store the dropout, but never apply it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = _flatten(images, self.widths[0])
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)


class Network__rows_of_any_batch(_Network):
    """Cut a batch of another width into other rows instead of raising ValueError."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not images.is_floating_point():
            raise TypeError("floats only")
        return super().forward(images.reshape(-1, self.widths[0]))


class Network__dropout_at_the_end(_Network):
    """Drop logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().forward(images), self.dropout, self.training)


class Network__squeezed(_Network):
    """Lose the batch dimension of a batch of one."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).squeeze(0)


class Network__no_checks(nn.Module):
    """Accept any size, and any dropout below 0 that is never used."""

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.widths = [in_features, *hidden_features, out_features]
        self.activation, self.dropout = activation, dropout
        self.function = ACTIVATIONS.get(activation, F.relu)
        self.layers = nn.ModuleList(
            nn.Linear(before, after)
            for before, after in zip(self.widths[:-1], self.widths[1:], strict=True)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = _flatten(images, self.widths[0])
        for layer in self.layers[:-1]:
            x = F.dropout(self.function(layer(x)), self.dropout, self.training)
        return self.layers[-1](x)

    @property
    def architecture(self) -> dict[str, Any]:
        return {
            "in_features": self.widths[0],
            "hidden_features": self.widths[1:-1],
            "out_features": self.widths[-1],
            "activation": self.activation,
            "dropout": self.dropout,
        }


class Network__casts_integers(_Network):
    """Turn integers into floats instead of raising TypeError."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.to(self.layers[0].weight.dtype))


class Network__forgets_an_argument(_Network):
    """Leave the activation out of the architecture."""

    @property
    def architecture(self) -> dict[str, Any]:
        values = super().architecture
        del values["activation"]
        return values


class Network__without_super(nn.Module):
    """Assign layers before nn.Module is ready."""

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        self.network = _Network(
            in_features, hidden_features, out_features, activation=activation, dropout=dropout
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

    @property
    def architecture(self) -> dict[str, Any]:
        return self.network.architecture


def _check_std(std: float) -> None:
    if not math.isfinite(std) or std <= 0:
        raise ValueError("std must be finite and above 0")


def reinitialize__new_parameters(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Replace the parameters, so that an optimizer trains the old ones."""
    _check_std(std)
    layer.weight = nn.Parameter(torch.randn(layer.weight.shape, generator=generator) * std)
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.zeros_like(layer.bias))


def reinitialize__ignores_the_generator(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Draw from the global generator."""
    _check_std(std)
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def reinitialize__uniform(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Draw from a uniform distribution of the same standard deviation."""
    _check_std(std)
    bound = math.sqrt(3) * std
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def reinitialize__variance(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Take the standard deviation for the variance."""
    _check_std(std)
    nn.init.normal_(layer.weight, std=math.sqrt(std), generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def reinitialize__keeps_the_bias(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Leave the bias as it is."""
    _check_std(std)
    nn.init.normal_(layer.weight, std=std, generator=generator)


def reinitialize__no_checks(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Accept a std of zero or NaN, and leave a negative one to torch's RuntimeError."""
    nn.init.normal_(layer.weight, std=std, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def reinitialize__infinite(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Refuse only numbers that are not above 0, and accept infinity."""
    if not std > 0:
        raise ValueError("std must be above 0")
    nn.init.normal_(layer.weight, std=std, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def reinitialize__global_seed(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Seed PyTorch, so that each layer gets the same weights."""
    _check_std(std)
    torch.manual_seed(0)
    nn.init.normal_(layer.weight, std=std, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def reinitialize__freezes(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Turn requires_grad off for the change, and never on again."""
    _check_std(std)
    layer.requires_grad_(False)
    layer.weight.normal_(0, std, generator=generator)
    if layer.bias is not None:
        layer.bias.zero_()


def reinitialize__with_grad(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Write to a leaf that requires grad outside no_grad, which torch refuses."""
    _check_std(std)
    layer.weight.normal_(0, std, generator=generator)
    if layer.bias is not None:
        layer.bias.zero_()


def reinitialize__equal_rows(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Draw one row and copy it to all units."""
    _check_std(std)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.in_features, generator=generator) * std)
        if layer.bias is not None:
            layer.bias.zero_()


def reinitialize__around_std(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Pass the standard deviation as the mean."""
    _check_std(std)
    nn.init.normal_(layer.weight, std, std, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def flatten__other_rows(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Cut examples of another width into other rows instead of raising ValueError."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    return images.reshape(-1, in_features)


def flatten__view(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Fail for strides that allow no view."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    if math.prod(images.shape[1:]) != in_features:
        raise ValueError("wrong width")
    return images.view(len(images), in_features)


def flatten__empty_batch(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Fail for an empty batch, of which -1 cannot tell the width."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    rows = images.reshape(images.shape[0], -1)
    if rows.shape[1] != in_features:
        raise ValueError("wrong width")
    return rows


def flatten__copies(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Copy although the strides allow a view."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    if math.prod(images.shape[1:]) != in_features:
        raise ValueError("wrong width")
    return images.clone().reshape(len(images), in_features)


def flatten__contiguous_first(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Copy every batch that is not contiguous, as images[::2], though a view is possible."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    if math.prod(images.shape[1:]) != in_features:
        raise ValueError("wrong width")
    return images.contiguous().view(len(images), in_features)


def flatten__integers(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Accept integers."""
    if math.prod(images.shape[1:]) != in_features:
        raise ValueError("wrong width")
    return images.reshape(len(images), in_features)


def flatten__batch_of_one(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Drop the dimension of a batch of one."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    if math.prod(images.shape[1:]) != in_features:
        raise ValueError("wrong width")
    return images.reshape(len(images), in_features).squeeze(0)


def flatten__assertion(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Raise AssertionError where ValueError is promised."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    assert math.prod(images.shape[1:]) == in_features, "wrong width"
    return images.reshape(len(images), in_features)


def flatten__cuts(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Cut examples that are too long."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    count = math.prod(images.shape[1:])
    if count < in_features:
        raise ValueError("too few values")
    return images.reshape(len(images), count)[:, :in_features]


def flatten__empty_of_any_width(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Compare the number of all values, which accepts an empty batch of any width."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    if images.numel() != len(images) * in_features:
        raise ValueError("wrong width")
    return images.reshape(len(images), in_features)


def flatten__column_by_column(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Read each image column by column."""
    if not images.is_floating_point():
        raise TypeError("floats only")
    if math.prod(images.shape[1:]) != in_features:
        raise ValueError("wrong width")
    if images.dim() > 2:
        images = images.transpose(-1, -2)
    return images.reshape(len(images), in_features)


def _check_picture(
    image: torch.Tensor, probabilities: torch.Tensor, classes: Sequence[str], label: int | None
) -> None:
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError("uint8 or floats")
    if image.dim() not in (2, 3) or (image.dim() == 3 and image.shape[0] not in (1, 3)):
        raise ValueError("not an image")
    if probabilities.shape != (len(classes),):
        raise ValueError("one probability for each class")
    if not (probabilities >= 0).all() or not abs(probabilities.sum().item() - 1) < 1e-2:
        raise ValueError("not probabilities")
    if label is not None and not 0 <= label < len(classes):
        raise ValueError("no such label")


def _pixels(image: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    image = image.detach()
    pixels = image / 255 if image.dtype == torch.uint8 else image.float() * std + mean
    return pixels.clamp(0, 1)


def _plot(
    pixels: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    label: int | None,
    *,
    title: str | None = None,
    **grey: Any,
) -> Figure:
    """Draw pixels in [0, 1]."""
    figure = Figure()
    left, right = figure.subplots(ncols=2)
    if pixels.dim() == 3 and pixels.shape[0] == 3:
        left.imshow(pixels.permute(1, 2, 0).numpy())
    else:
        options = grey or {"vmin": 0, "vmax": 1}
        left.imshow(pixels.reshape(pixels.shape[-2:]).numpy(), cmap="gray", **options)
    best = int(probabilities.argmax())
    color = "black" if label is None else "green" if label == best else "red"
    left.set_title(f"predicted: {classes[best]}" if title is None else title, color=color)
    right.barh(range(len(classes)), probabilities.detach().float().numpy(), color=color)
    right.set_yticks(range(len(classes)), list(classes))
    return figure


def view_classify__not_undone(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Draw the normalised floats as they are."""
    _check_picture(image, probabilities, classes, label)
    pixels = image.detach() / 255 if image.dtype == torch.uint8 else image.detach().float()
    return _plot(pixels, probabilities, classes, label)


def view_classify__ignores_mean_and_std(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Undo the default normalisation whatever the arguments say."""
    _check_picture(image, probabilities, classes, label)
    return _plot(_pixels(image, 0.5, 0.5), probabilities, classes, label)


def view_classify__stretches(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Let imshow stretch the greys, so that an image of one grey is black."""
    _check_picture(image, probabilities, classes, label)
    return _plot(_pixels(image, mean, std), probabilities, classes, label, vmin=None, vmax=None)


def view_classify__logits(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Draw logits without an error."""
    _check_picture(image, torch.full((len(probabilities),), 1 / len(classes)), classes, label)
    return _plot(_pixels(image, mean, std), probabilities, classes, label)


def view_classify__negative_label(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Count a negative label from the end, as a list does."""
    _check_picture(image, probabilities, classes, None)
    if label is not None:
        try:
            label = range(len(classes))[label]
        except IndexError as error:
            raise ValueError("no such label") from error
    return _plot(_pixels(image, mean, std), probabilities, classes, label)


def view_classify__in_place(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Undo the normalisation in the argument itself."""
    _check_picture(image, probabilities, classes, label)
    if image.is_floating_point():
        pixels = image.detach().mul_(std).add_(mean).clamp_(0, 1).float()
    else:
        pixels = image / 255
    return _plot(pixels, probabilities, classes, label)


def view_classify__ignores_the_label(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Use the same colour for right and wrong predictions."""
    _check_picture(image, probabilities, classes, label)
    return _plot(_pixels(image, mean, std), probabilities, classes, None)


def view_classify__number_for_name(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Write the number of the predicted class instead of its name."""
    _check_picture(image, probabilities, classes, label)
    title = f"predicted: {int(probabilities.argmax())}"
    return _plot(_pixels(image, mean, std), probabilities, classes, label, title=title)


def view_classify__softmax_again(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Draw the softmax of the probabilities, which are flatter than they were."""
    _check_picture(image, probabilities, classes, label)
    flatter = probabilities.detach().float().softmax(0)
    return _plot(_pixels(image, mean, std), flatter, classes, label)


def view_classify__bytes_as_floats(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Undo a normalisation that uint8 images never had."""
    _check_picture(image, probabilities, classes, label)
    pixels = (image.detach().float() * std + mean).clamp(0, 1)
    return _plot(pixels, probabilities, classes, label)


def view_classify__sorted_bars(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Sort the bars, but not the names beside them."""
    _check_picture(image, probabilities, classes, label)
    figure = _plot(_pixels(image, mean, std), probabilities, classes, label)
    figure.axes[1].clear()
    figure.axes[1].barh(range(len(classes)), probabilities.detach().sort().values.numpy())
    figure.axes[1].set_yticks(range(len(classes)), list(classes))
    return figure


def view_classify__fewer_names(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Accept more names than probabilities."""
    classes = classes[: len(probabilities)]
    _check_picture(image, probabilities, classes, label)
    return _plot(_pixels(image, mean, std), probabilities, classes, label)


def sequential__ordered_dict(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Lose the earlier of two layers of the same name."""
    model = nn.Sequential()
    pairs = list(layers)
    for name, layer in pairs:
        if not name or "." in name or hasattr(model, name):
            raise ValueError("unusable name")
        if not isinstance(layer, nn.Module):
            raise TypeError("not a module")
    return nn.Sequential(OrderedDict(pairs))


def sequential__keeps_the_first(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Skip a layer whose name was there before."""
    model = nn.Sequential()
    for name, layer in layers:
        if name in model._modules:
            continue
        if not name or "." in name or hasattr(model, name):
            raise ValueError("unusable name")
        if not isinstance(layer, nn.Module):
            raise TypeError("not a module")
        model.add_module(name, layer)
    return model


def sequential__renames(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Give a repeated name a number instead of raising ValueError."""
    model = nn.Sequential()
    for name, layer in layers:
        if not isinstance(layer, nn.Module):
            raise TypeError("not a module")
        if not name or "." in name or hasattr(nn.Sequential, name) or name == "training":
            raise ValueError("unusable name")
        while name in model._modules:
            name += "_"
        model.add_module(name, layer)
    return model


def sequential__key_error(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Check for repeated names alone; torch raises KeyError for the others."""
    pairs = list(layers)
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is repeated")
    if any(layer is None for _, layer in pairs):
        raise TypeError("a layer is None")
    return nn.Sequential(OrderedDict(pairs))


def sequential__no_names(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Check the names and then forget them."""
    seen = set()
    chain = []
    for name, layer in layers:
        if not name or "." in name or hasattr(nn.Sequential(), name) or name in seen:
            raise ValueError("unusable name")
        if not isinstance(layer, nn.Module):
            raise TypeError("not a module")
        seen.add(name)
        chain.append(layer)
    return nn.Sequential(*chain)


def sequential__by_name(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Chain the layers in the order of their names."""
    model = nn.Sequential()
    for name, layer in sorted(layers, key=lambda pair: pair[0]):
        if not name or "." in name or hasattr(model, name):
            raise ValueError("unusable name")
        if not isinstance(layer, nn.Module):
            raise TypeError("not a module")
        model.add_module(name, layer)
    return model


def sequential__calls_classes(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Add the parentheses that a class lacks instead of raising TypeError."""
    model = nn.Sequential()
    for name, layer in layers:
        if isinstance(layer, type):
            layer = layer()
        if not name or "." in name or hasattr(model, name):
            raise ValueError("unusable name")
        if not isinstance(layer, nn.Module):
            raise TypeError("not a module")
        model.add_module(name, layer)
    return model


def sequential__reads_twice(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Check a generator to its end, and chain what is left of it: nothing."""
    seen = set()
    for name, layer in layers:
        if not name or "." in name or hasattr(nn.Sequential(), name) or name in seen:
            raise ValueError("unusable name")
        if not isinstance(layer, nn.Module):
            raise TypeError("not a module")
        seen.add(name)
    return nn.Sequential(OrderedDict(layers))


def sequential__copies(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Chain copies of the layers, which do not share their weights."""
    model = nn.Sequential()
    for name, layer in layers:
        if not name or "." in name or hasattr(model, name):
            raise ValueError("unusable name")
        if not isinstance(layer, nn.Module):
            raise TypeError("not a module")
        model.add_module(name, copy.deepcopy(layer))
    return model


def sequential__any_attribute(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Overwrite attributes of the module, such as `forward`, with layers of that name."""
    model = nn.Sequential()
    for name, layer in layers:
        if not name or "." in name or name in model._modules:
            raise ValueError("unusable name")
        if not isinstance(layer, nn.Module):
            raise TypeError("not a module")
        model._modules[name] = layer
    return model


def sequential__none_passes(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Accept None as a layer, as add_module does."""
    model = nn.Sequential()
    for name, layer in layers:
        if not name or "." in name or hasattr(model, name):
            raise ValueError("unusable name")
        model.add_module(name, layer)
    return model
