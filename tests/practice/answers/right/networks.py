"""Right answers to the exercises of lesson 2, networks."""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dlconcepts.loading import Pixels, as_input
from dlconcepts.loading import normalize as _normalize
from dlconcepts.networks import ACTIVATIONS
from dlconcepts.networks import flatten as _flatten


def _check_numbers(
    images: torch.Tensor, mean: float | Sequence[float], std: float | Sequence[float]
) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8, got {images.dtype}")
    for numbers in (mean, std):
        if isinstance(numbers, (int, float)):
            continue
        if images.dim() < 3 or len(numbers) != images.shape[-3]:
            raise ValueError(f"{len(numbers)} numbers for images of shape {tuple(images.shape)}")
    if not np.isfinite(mean).all():
        raise ValueError(f"mean must be finite, not {mean}")
    if not (np.isfinite(std).all() and (np.asarray(std) > 0).all()):
        raise ValueError(f"std must be finite and positive, not {std}")


def normalize__by_broadcasting(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Broadcast columns of numbers against the channels."""
    if images.dtype is not torch.uint8:
        raise TypeError("normalize takes bytes")
    columns = []
    for numbers in (mean, std):
        column = torch.tensor(numbers, dtype=torch.float64)
        if column.dim() == 1:
            if images.dim() < 3 or images.size(-3) != len(column):
                raise ValueError("one number for each channel, please")
            column = column[:, None, None]
        columns.append(column.to(images.device))
    if not columns[0].isfinite().all():
        raise ValueError("mean is not finite")
    if not (columns[1].isfinite() & (columns[1] > 0)).all():
        raise ValueError("std is not finite and above 0")
    return ((images.double() / 255 - columns[0]) / columns[1]).float()


def normalize__numpy(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Compute in numpy's float64."""
    _check_numbers(images, mean, std)
    m, s = (np.asarray(x, float).reshape(-1, 1, 1) if np.ndim(x) else float(x) for x in (mean, std))
    result = (images.cpu().numpy() / 255.0 - m) / s
    return torch.from_numpy(np.asarray(result, dtype=np.float32)).to(images.device)


def normalize__table(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Look each byte up in a table of 256 values, one table for each channel."""
    _check_numbers(images, mean, std)

    def table(m: float, s: float) -> torch.Tensor:
        return torch.tensor([(byte / 255 - m) / s for byte in range(256)], dtype=torch.float32)

    if isinstance(mean, (int, float)) and isinstance(std, (int, float)):
        return table(mean, std)[images.long()]
    count = images.shape[-3]
    means = [mean] * count if isinstance(mean, (int, float)) else list(mean)
    stds = [std] * count if isinstance(std, (int, float)) else list(std)
    result = torch.empty(images.shape)
    for channel, (m, s) in enumerate(zip(means, stds, strict=True)):
        result[..., channel, :, :] = table(m, s)[images[..., channel, :, :].long()]
    return result


def normalize__in_steps(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Work in place on a tensor of its own, with the channels last."""
    _check_numbers(images, mean, std)
    result = images.to(torch.float32).div_(255)
    if isinstance(mean, (int, float)) and isinstance(std, (int, float)):
        return result.sub_(mean).div_(std)
    last = result.movedim(-3, -1)
    last -= torch.as_tensor(mean, dtype=torch.float32, device=images.device)
    last /= torch.as_tensor(std, dtype=torch.float32, device=images.device)
    return result


def image_pipeline__closure(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Return an inner function."""

    def transform(image: Pixels) -> torch.Tensor:
        array = np.array(image)
        if array.ndim == 2:
            array = array[:, :, None]
        pixels = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
        return _normalize(pixels, mean=mean, std=std)

    return transform


class _Pipeline:
    def __init__(self, **numbers: Any) -> None:
        self.numbers = numbers

    def __call__(self, image: Pixels) -> torch.Tensor:
        pixels = torch.tensor(np.ascontiguousarray(image))
        pixels = pixels.permute(2, 0, 1) if pixels.dim() == 3 else pixels.unsqueeze(0)
        return _normalize(pixels, **self.numbers)


def image_pipeline__class(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Return an object with `__call__`, which can be pickled."""
    return _Pipeline(mean=mean, std=std)


def _transform(
    image: Pixels, mean: float | Sequence[float], std: float | Sequence[float]
) -> torch.Tensor:
    if isinstance(image, Image.Image):
        pixels = TF.pil_to_tensor(image)
    else:
        pixels = torch.stack([torch.tensor(channel.copy()) for channel in np.atleast_3d(image).T])
        pixels = pixels.transpose(1, 2)
    return _normalize(pixels, mean=mean, std=std)


def image_pipeline__partial(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Treat PIL images and arrays apart, in a partial."""
    return partial(_transform, mean=mean, std=std)


def batches__by_slices(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Step through the positions in a generator."""
    images, labels = data
    if len(images) == 0:
        raise ValueError("no examples")
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images, {len(labels)} labels")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}")
    positions = torch.arange(len(images)) if order is None else order

    def cut() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(positions), batch_size):
            chosen = positions[start : start + batch_size]
            yield as_input(images[chosen]).to(device), labels[chosen].to(device)

    return cut()


def batches__by_split(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Check at once, sort all examples first, and split them."""
    images, labels = data
    if batch_size <= 0:
        raise ValueError("batch_size must be positive")
    if images.shape[0] != labels.shape[0]:
        raise ValueError("each image needs one label")
    if not images.shape[0]:
        raise ValueError("the data is empty")
    if order is not None:
        images, labels = images.index_select(0, order), labels.index_select(0, order)

    def convert(part: torch.Tensor) -> torch.Tensor:
        part = _normalize(part) if part.dtype == torch.uint8 else part
        return part if device is None else part.to(device)

    pairs = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return ((convert(x), y if device is None else y.to(device)) for x, y in pairs)


def batches__data_loader(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Leave the cutting to a DataLoader, whose sampler is the order."""
    images, labels = data
    if not len(images) or len(images) != len(labels) or batch_size < 1:
        raise ValueError("nothing to cut")
    loader = DataLoader(
        TensorDataset(images, labels),
        batch_size=batch_size,
        sampler=range(len(images)) if order is None else order.tolist(),
        generator=torch.Generator(),
    )
    return (
        ((_normalize(x) if x.dtype == torch.uint8 else x).to(device), y.to(device))
        for x, y in loader
    )


class _Batches:
    def __init__(self, images: torch.Tensor, labels: torch.Tensor, size: int) -> None:
        self.images, self.labels, self.size, self.at = images, labels, size, 0

    def __iter__(self) -> "_Batches":
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.at >= len(self.images):
            raise StopIteration
        chosen = slice(self.at, self.at + self.size)
        self.at += self.size
        return self.images[chosen], self.labels[chosen]


def batches__iterator_class(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Prepare all examples at once, and hand them out from a class with `__next__`."""
    images, labels = data
    if batch_size < 1:
        raise ValueError("batch_size < 1")
    if len(images) != len(labels):
        raise ValueError("lengths differ")
    if len(images) == 0:
        raise ValueError("empty")
    if order is not None:
        images, labels = images[order], labels[order]
    if images.dtype == torch.uint8:
        images = _normalize(images)
    return _Batches(images.to(device), labels.to(device), batch_size)


def make_generator__chained(seed: int) -> torch.Generator:
    """Seed it in the same line."""
    return torch.Generator().manual_seed(seed)


def make_generator__in_steps(seed: int) -> torch.Generator:
    """Name the device."""
    generator = torch.Generator(device="cpu")
    generator.manual_seed(seed)
    return generator


def make_generator__from_a_state(seed: int) -> torch.Generator:
    """Copy the state of another generator."""
    other = torch.Generator("cpu").manual_seed(seed)
    generator = torch.Generator("cpu")
    generator.set_state(other.get_state())
    return generator


def _check_network(
    sizes: Sequence[int], activation: str, dropout: float, names: Iterable[str] = ACTIVATIONS
) -> None:
    if min(sizes) < 1:
        raise ValueError(f"all sizes must be at least 1: {list(sizes)}")
    if activation not in names:
        raise ValueError(f"no activation {activation!r}; there are {', '.join(names)}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout is a probability, not {dropout}")


class Network__module_list(nn.Module):
    """Keep the layers in a ModuleList and use the functional API."""

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
        _check_network(widths, activation, dropout)
        self.widths, self.activation, self.p = widths, activation, dropout
        self.layers = nn.ModuleList(
            nn.Linear(widths[i], widths[i + 1]) for i in range(len(widths) - 1)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = _flatten(images, self.widths[0])
        for layer in self.layers[:-1]:
            x = F.dropout(ACTIVATIONS[self.activation](layer(x)), self.p, self.training)
        return self.layers[-1](x)

    @property
    def architecture(self) -> dict[str, Any]:
        return {
            "in_features": self.widths[0],
            "hidden_features": self.widths[1:-1],
            "out_features": self.widths[-1],
            "activation": self.activation,
            "dropout": self.p,
        }


class Network__sequential(nn.Module):
    """Build one Sequential, with modules for the activations."""

    _modules_by_name = {  # noqa: RUF012
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "gelu": nn.GELU,
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
    }

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
        hidden = [int(width) for width in hidden_features]
        _check_network(
            [in_features, *hidden, out_features], activation, dropout, self._modules_by_name
        )
        self._arguments = (int(in_features), hidden, int(out_features), activation, float(dropout))
        layers: list[nn.Module] = []
        before = in_features
        for width in hidden:
            layers.append(nn.Linear(before, width))
            layers.append(self._modules_by_name[activation]())
            layers.append(nn.Dropout(dropout))
            before = width
        layers.append(nn.Linear(before, out_features))
        self.chain = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not images.is_floating_point():
            raise TypeError(f"floating point only, not {images.dtype}")
        if math.prod(images.shape[1:]) != self._arguments[0]:
            raise ValueError(f"{tuple(images.shape[1:])} is not {self._arguments[0]} values")
        return self.chain(images.reshape(len(images), self._arguments[0]))

    @property
    def architecture(self) -> dict[str, Any]:
        names = ("in_features", "hidden_features", "out_features", "activation", "dropout")
        values = dict(zip(names, self._arguments, strict=True))
        return {**values, "hidden_features": list(values["hidden_features"])}


class Network__recursive(nn.Module):
    """Chain a layer and a rest, which is a chain itself."""

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
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}")
        if dropout < 0 or dropout > 1 or math.isnan(dropout):
            raise ValueError("dropout outside [0, 1]")
        for size in (in_features, out_features, *hidden_features):
            if size < 1:
                raise ValueError(f"size {size} below 1")
        self._architecture = {
            "in_features": in_features,
            "hidden_features": list(hidden_features),
            "out_features": out_features,
            "activation": activation,
            "dropout": dropout,
        }
        first, *rest = (*hidden_features, out_features)
        self.layer = nn.Linear(in_features, first)
        self.drop = nn.Dropout(dropout)
        self.rest = (
            Network__recursive(first, rest[:-1], rest[-1], activation=activation, dropout=dropout)
            if rest
            else None
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = self.layer(_flatten(images, self.layer.in_features))
        if self.rest is None:
            return rows
        return self.rest(self.drop(ACTIVATIONS[self._architecture["activation"]](rows)))

    @property
    def architecture(self) -> dict[str, Any]:
        return dict(self._architecture)


def _check_std(std: float) -> None:
    if not math.isfinite(std) or std <= 0:
        raise ValueError(f"std must be a positive number, not {std}")


def reinitialize__nn_init(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Use the functions of nn.init."""
    _check_std(std)
    nn.init.normal_(layer.weight, mean=0.0, std=std, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def reinitialize__no_grad(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Copy numbers of a standard normal distribution, scaled, into the weight."""
    if not (0 < std < math.inf):
        raise ValueError("std out of range")
    weight = layer.weight
    numbers = torch.randn(
        weight.shape, generator=generator, dtype=weight.dtype, device=weight.device
    )
    with torch.no_grad():
        weight.copy_(numbers * std)
        if layer.bias is not None:
            layer.bias.zero_()


def reinitialize__data(
    layer: nn.Linear, *, std: float, generator: torch.Generator | None = None
) -> None:
    """Write to `.data`, as older code does."""
    if math.isnan(std) or math.isinf(std) or not std > 0:
        raise ValueError(f"bad std {std!r}")
    layer.weight.data.normal_(0, std, generator=generator)
    if layer.bias is not None:
        layer.bias.data[:] = 0


def flatten__reshape(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Check the number of values, and reshape."""
    if not images.is_floating_point():
        raise TypeError(f"images of {images.dtype} are not floating point")
    if math.prod(images.shape[1:]) != in_features:
        raise ValueError(f"expected {in_features} values per example")
    return images.reshape(images.shape[0], in_features)


def flatten__torch_flatten(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Flatten first, and check the width of the rows."""
    if not torch.is_floating_point(images):
        raise TypeError("integers: normalise the images first")
    rows = images.unsqueeze(-1).flatten(start_dim=1)
    if rows.shape[1] != in_features:
        raise ValueError(f"{rows.shape[1]} values per example instead of {in_features}")
    return rows


def flatten__view_or_copy(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Try a view, and copy only if there is none."""
    if images.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"unexpected dtype {images.dtype}")
    count = 1
    for size in images.shape[1:]:
        count *= size
    if count != in_features:
        raise ValueError(f"{count} != {in_features}")
    try:
        return images.view(len(images), count)
    except RuntimeError:
        return images.contiguous().view(len(images), count)


def flatten__module(images: torch.Tensor, in_features: int) -> torch.Tensor:
    """Use nn.Flatten, and numpy for the product."""
    if not images.dtype.is_floating_point:
        raise TypeError("not floats")
    if int(np.prod(images.shape[1:])) != in_features:
        raise ValueError("wrong width")
    return images[:, None] if images.dim() == 1 else nn.Flatten()(images)


def _check_picture(
    image: torch.Tensor, probabilities: torch.Tensor, classes: Sequence[str], label: int | None
) -> None:
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"an image of {image.dtype} can't be drawn")
    grey = image.dim() == 2 or (image.dim() == 3 and image.shape[0] == 1)
    if not grey and not (image.dim() == 3 and image.shape[0] == 3):
        raise ValueError(f"not the shape of an image: {tuple(image.shape)}")
    if tuple(probabilities.shape) != (len(classes),):
        raise ValueError(f"{len(classes)} classes, but shape {tuple(probabilities.shape)}")
    numbers = probabilities.detach().double()
    if not ((numbers >= 0) & (numbers <= 1)).all() or abs(numbers.sum().item() - 1) > 1e-2:
        raise ValueError("these are not probabilities; take the softmax of the logits")
    if label is not None and not 0 <= label < len(classes):
        raise ValueError(f"no class {label}")


def view_classify__figure(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Draw on a Figure of its own; the title is green or red."""
    _check_picture(image, probabilities, classes, label)
    pixels = image.detach().cpu()
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float() * std + mean
    pixels = pixels.clamp(0, 1).numpy()
    figure = Figure(figsize=(8, 4))
    left, right = figure.subplots(1, 2)
    if pixels.ndim == 3 and pixels.shape[0] == 3:
        left.imshow(pixels.transpose(1, 2, 0))
    else:
        left.imshow(pixels.reshape(pixels.shape[-2:]), cmap="gray", vmin=0, vmax=1)
    values = probabilities.detach().float().cpu().numpy()
    best = int(values.argmax())
    color = "black" if label is None else "green" if best == label else "red"
    left.set_title(f"predicted: {classes[best]}", color=color)
    left.set_axis_off()
    right.barh(range(len(classes)), values, color=color)
    right.set_yticks(range(len(classes)), labels=list(classes))
    right.invert_yaxis()
    right.set_xlim(0, 1)
    return figure


def view_classify__pyplot(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Use pyplot and upright bars, and colour the bar of the prediction and the title."""
    _check_picture(image, probabilities, classes, label)
    figure, axes = plt.subplots(ncols=2)
    plt.close(figure)
    array = image.detach().cpu().double().numpy()
    array = array / 255 if image.dtype == torch.uint8 else np.clip(array * std + mean, 0, 1)
    if array.shape[0] == 3 and array.ndim == 3:
        axes[0].imshow(np.moveaxis(array, 0, -1))
    else:
        axes[0].imshow(array if array.ndim == 2 else array[0], cmap="gray", vmin=0, vmax=1)
    numbers = probabilities.tolist()
    best = numbers.index(max(numbers))
    bars = axes[1].bar(range(len(numbers)), numbers, color="lightblue")
    axes[1].set_xticks(range(len(numbers)), classes, rotation=45)
    axes[0].set_title("predicted: " + classes[best])
    if label is not None:
        color = "tab:green" if label == best else "tab:red"
        bars[best].set_color(color)
        axes[0].title.set_color(color)
    return figure


def view_classify__bytes(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Turn every image into bytes in colour first, and draw bar by bar."""
    _check_picture(image, probabilities, classes, label)
    colour = image.detach().expand(3, *image.shape[-2:])
    if image.dtype != torch.uint8:
        colour = colour.float().mul(std).add(mean).mul(255).round().clamp(0, 255).byte()
    figure = Figure()
    picture, chart = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    picture.imshow(colour.cpu().permute(1, 2, 0).numpy())
    winner = int(torch.argmax(probabilities))
    shade = "navy" if label is None else {True: "darkgreen", False: "darkred"}[winner == label]
    for i, probability in enumerate(probabilities.tolist()):
        chart.barh(i, probability, color=shade)
    chart.set_yticks(list(range(len(classes))))
    chart.set_yticklabels(classes)
    picture.set_title(f"predicted: {classes[winner]}").set_color(shade)
    return figure


def sequential__add_module(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Add one layer after the other to an empty Sequential."""
    model = nn.Sequential()
    for name, layer in layers:
        if not isinstance(layer, nn.Module):
            raise TypeError(f"{layer!r} is not a module")
        if not name or "." in name or hasattr(model, name):
            raise ValueError(f"{name!r} cannot name a layer")
        model.add_module(name, layer)
    return model


def sequential__ordered_dict(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Count the names before they become the keys of an OrderedDict."""
    pairs = list(layers)
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{count} layers are called {name!r}")
        if name == "" or "." in name:
            raise ValueError(f"{name!r} is empty or has a dot")
        if name in dir(nn.Sequential()):
            raise ValueError(f"{name!r} is an attribute of every module")
    wrong = [name for name, layer in pairs if not isinstance(layer, nn.Module)]
    if wrong:
        raise TypeError(f"no modules: {wrong}")
    return nn.Sequential(OrderedDict(pairs))


def sequential__lets_torch_check(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Check what add_module lets pass, and translate its KeyError."""
    model = nn.Sequential()
    seen: set[str] = set()
    for name, layer in layers:
        if layer is None:
            raise TypeError(f"the layer {name} is None")
        if name in seen:
            raise ValueError(f"{name} occurs twice")
        seen.add(name)
        try:
            model.add_module(name, layer)
        except KeyError as error:
            raise ValueError(f"unusable name: {error}") from error
    return model
