"""Lesson 2, first part: the data that goes in.

An image file is bytes, height by width by channel; a network takes floats around 0, channel first.
The way from one to the other is a pipeline: make a tensor, divide by 255, subtract a mean, divide
by a deviation. torchvision has two versions of it, which differ where nobody looks: in the last
bit, in integers that are not bytes, in grey images that meet the statistics of three channels.

A loader then cuts the examples into batches. It is an iterable, not an iterator: each `iter` of it
begins a new epoch. What it must never do is lose an example, repeat one, or part an image from its
label.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

import itertools
import math
import multiprocessing
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from dlconcepts.compare import bits, same
from dlconcepts.loading import READ_AT_ONCE, Pixels, batches, image_pipeline, normalize
from dlconcepts.strategies import shapes, tensors

claim = pytest.mark.claim

HOST = "PIL images and numpy arrays live in the memory of the CPU"
GENERATOR = "a loader shuffles with a generator of the CPU"
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


# ------------------------------------------------- ToTensor


def reshapes(image: Pixels) -> Tensor:
    """Reshape (H, W, C) to (C, H, W), which runs and mixes the pixels."""
    pixels = np.atleast_3d(np.asarray(image))
    height, width, channels = pixels.shape
    return torch.tensor(pixels).reshape(channels, height, width).float() / 255


def forgets_to_divide(image: Pixels) -> Tensor:
    """Convert to floats and leave them between 0 and 255."""
    return torch.tensor(np.atleast_3d(np.asarray(image))).permute(2, 0, 1).float()


def multiplies_by_the_reciprocal(image: Pixels) -> Tensor:
    """Multiply by the rounded 1 / 255 instead of dividing, as v2.ToDtype does."""
    return forgets_to_divide(image) * (1 / 255)


def divides_by_256(image: Pixels) -> Tensor:
    """Divide by the number of values instead of the largest."""
    return forgets_to_divide(image) / 256


@claim(
    "networks.to-tensor-scales",
    right=v1.ToTensor(),
    wrong={
        reshapes: "exactly v / 255",
        forgets_to_divide: "exactly v / 255",
        multiplies_by_the_reciprocal: "exactly v / 255",
        divides_by_256: "exactly v / 255",
    },
    cpu_only=HOST,
)
@given(array=pixel_arrays(), opened=st.booleans())
def test_bytes_become_floats_from_0_to_1_channel_first(
    to_tensor: Callable[[Pixels], Tensor], array: NDArray[np.uint8], opened: bool
) -> None:
    """Byte v of pixel (i, j), channel c, of an array or a PIL image is v / 255 at (c, i, j)."""
    image = as_picture(array) if opened else array

    tensor = to_tensor(image)

    expected = channel_first(array) / 255
    assert tensor.dtype == torch.float32, "the tensor is float32"
    assert tuple(tensor.shape) == expected.shape, "the channels come first"
    assert (tensor.numpy() == expected.astype(np.float32)).all(), "each value is exactly v / 255"


def divides_floats_too(image: NDArray[Any]) -> Tensor:
    """Divide whatever comes by 255."""
    return torch.from_numpy(image.transpose(2, 0, 1)) / 255


@claim(
    "networks.to-tensor-scales",
    right=v1.ToTensor(),
    wrong={divides_floats_too: "keeps its values"},
    cpu_only=HOST,
)
@given(
    image=tensors(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
        st.sampled_from([torch.float32, torch.float64]),
        max_magnitude=255,
    )
)
def test_floats_are_not_scaled(to_tensor: Callable[[Any], Tensor], image: Tensor) -> None:
    """An array of floats, from 0 to 255 though it may be, keeps its values and its dtype."""
    tensor = to_tensor(image.numpy())

    assert tensor.dtype == image.dtype, "an array of floats keeps its dtype"
    assert same(tensor, image.permute(2, 0, 1)), "an array of floats keeps its values"


to_tensor_v2 = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@claim(
    "networks.to-tensor-scales",
    right=to_tensor_v2,
    wrong={v1.ToTensor(): "largest value of its dtype", forgets_to_divide: "largest value"},
    cpu_only=HOST,
)
@given(
    image=tensors(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
        st.sampled_from([torch.uint8, torch.int16, torch.int32]),
    )
)
def test_version_2_scales_every_integer_dtype(
    to_tensor: Callable[[Any], Tensor], image: Tensor
) -> None:
    """ToDtype(scale=True) divides all integers by the largest of their dtype, ToTensor bytes only.

    One rounding of the reciprocal, one of the integer and one of the product: three halves of a
    unit in the last place.
    """
    tensor = to_tensor(image.numpy())

    expected = channel_first(image.numpy()) / torch.iinfo(image.dtype).max
    error = np.abs(tensor.double().numpy() - expected)
    assert (error <= 1.5 * EPSILON * np.abs(expected)).all(), (
        "an integer is divided by the largest value of its dtype"
    )


# ------------------------------------------------- Normalize


def divides_first(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Divide before subtracting."""
    scaled = images.float() / 255
    return scaled / as_channels(std) - as_channels(mean)


def normalizes_twice(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Normalise what is normalised, as when the dataset and the loop both do it."""
    once = normalize(images, mean=mean, std=std)
    return (once - as_channels(mean)) / as_channels(std)


def swaps_mean_and_std(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Pass the deviation where the mean is asked for."""
    return normalize(images, mean=std, std=mean)


def first_channel_for_all(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Use the first channel's statistics for all."""
    return normalize(images, mean=mean[0], std=std[0])


def uses_the_variance(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Divide by the variance."""
    return normalize(images, mean=mean, std=[value**2 for value in std])


def as_channels(values: Sequence[float]) -> Tensor:
    """Return one value a channel, ready to be spread over an image."""
    return torch.tensor(values).view(-1, 1, 1)


@st.composite
def channel_images(draw: st.DrawFn) -> tuple[Tensor, list[float], list[float]]:
    """Draw images (..., C, H, W) of bytes, and a mean and a deviation for each channel."""
    channels = draw(st.integers(1, 3))
    batch, (height, width) = draw(shapes(0, 1, max_side=2)), draw(shapes(2, 2, max_side=3))
    images = draw(tensors((*batch, channels, height, width), torch.uint8))
    statistics = st.lists(percentages, min_size=channels, max_size=channels)
    return images, draw(statistics), draw(statistics)


@claim(
    "networks.normalize-to-minus-one-one",
    right=normalize,
    wrong={
        divides_first: "(v / 255 - mean) / std",
        normalizes_twice: "(v / 255 - mean) / std",
        swaps_mean_and_std: "(v / 255 - mean) / std",
        first_channel_for_all: "(v / 255 - mean) / std",
        uses_the_variance: "(v / 255 - mean) / std",
    },
)
@given(drawn=channel_images())
def test_each_channel_is_normalised_with_its_own_statistics(
    normalize: Callable[..., Tensor], drawn: tuple[Tensor, list[float], list[float]]
) -> None:
    """A byte becomes (v / 255 - mean) / std with the mean and deviation of its channel.

    Six roundings of half a unit: mean, std, 255's reciprocal on some devices, and three operations.
    """
    images, mean, std = drawn
    before = bits(images)

    normalized = normalize(images, mean=mean, std=std)

    scaled = images.numpy(force=True) / 255
    centre, deviation = (np.reshape(values, (-1, 1, 1)) for values in (mean, std))
    expected = (scaled - centre) / deviation
    error = np.abs(normalized.numpy(force=True) - expected)
    assert normalized.dtype == torch.float32, "normalised images are float32"
    assert tuple(normalized.shape) == expected.shape, "normalised images keep their shape"
    assert (error <= 3 * EPSILON * (scaled + centre) / deviation).all(), (
        "a byte v becomes (v / 255 - mean) / std of its channel"
    )
    assert bits(images) == before, "the bytes are left alone"


def leaves_from_0_to_1(images: Tensor) -> Tensor:
    """Stop after the division by 255."""
    return images.float() / 255


def subtracts_bytes(images: Tensor) -> Tensor:
    """Subtract before converting: bytes below 128 wrap around to the bright end."""
    return (images - 128) / 127


@claim(
    "networks.normalize-to-minus-one-one",
    right=normalize,
    wrong={leaves_from_0_to_1: "0 becomes -1", subtracts_bytes: "0 becomes -1"},
)
@given(byte=st.integers(0, 254))
def test_bytes_end_from_minus_1_to_1(normalize: Callable[[Tensor], Tensor], byte: int) -> None:
    """With 0.5 and 0.5 the ends are -1 and 1, a brighter byte stays brighter, and comes back."""
    images = torch.tensor([0, byte, byte + 1, 255], dtype=torch.uint8)

    darkest, value, brighter, brightest = normalize(images).tolist()

    assert (darkest, brightest) == (-1, 1), "0 becomes -1, and 255 becomes 1"
    assert -1 <= value < brighter <= 1, "a brighter byte stays brighter, from -1 to 1"
    assert round((value * 0.5 + 0.5) * 255) == byte, "the byte can be had back"


def takes_floats(images: Tensor, *, mean: float | list[float], std: float | list[float]) -> Tensor:
    """Normalise floats, whether they are normalised already or not."""
    if images.is_floating_point():
        return (images - torch.tensor(mean)) / torch.tensor(std)
    return normalize(images, mean=mean, std=std)


def spreads_grey(images: Tensor, *, mean: float | list[float], std: float | list[float]) -> Tensor:
    """Subtract as tensors are subtracted, which makes three channels of a grey image (as in v2)."""
    if images.dtype == torch.uint8 and isinstance(mean, list) and images.shape[-3] == 1:
        return v2.functional.normalize(images / 255, mean, std)
    return normalize(images, mean=mean, std=std)


def divides_by_zero(
    images: Tensor, *, mean: float | list[float], std: float | list[float]
) -> Tensor:
    """Divide by the deviation of a constant image."""
    if images.dtype == torch.uint8 and not isinstance(std, list):
        return (images / 255 - mean) / std
    return normalize(images, mean=mean, std=std)


@st.composite
def unfit_images(draw: st.DrawFn) -> tuple[Tensor, Any, Any, type[Exception], str]:
    """Draw images, mean and std that do not fit together, the error and what it says."""
    case = draw(st.sampled_from(["floats", "no deviation", "mean", "std"]))
    side = draw(st.integers(1, 3))
    if case == "floats":
        return draw(tensors((1, side, side))), 0.5, 0.5, TypeError, "uint8.*float32"
    grey = draw(tensors((1, side, side), torch.uint8))
    if case == "no deviation":
        return grey, 0.5, draw(st.sampled_from([0.0, -1.0, math.nan])), ValueError, "above 0"
    count = draw(st.integers(2, 4))
    values = {"mean": 0.5, "std": 0.5, case: [0.5] * count}
    message = rf"^{case} has {count} values.*\(1, {side}, {side}\)"
    return grey, values["mean"], values["std"], ValueError, message


@claim(
    "networks.normalize-to-minus-one-one",
    right=normalize,
    wrong={
        takes_floats: "DID NOT RAISE",
        spreads_grey: "DID NOT RAISE",
        divides_by_zero: "DID NOT RAISE",
    },
)
@given(case=unfit_images())
def test_images_that_do_not_fit_their_statistics_are_refused(
    normalize: Callable[..., Tensor], case: tuple[Tensor, Any, Any, type[Exception], str]
) -> None:
    """Floats, grey images with statistics of several channels, and a deviation of 0 raise."""
    images, mean, std, error, message = case
    before = bits(images)

    with pytest.raises(error, match=message):
        normalize(images, mean=mean, std=std)

    assert bits(images) == before, "refused images stay as they were"


# ------------------------------------------------- Compose


def increment(x: int) -> int:
    """Add one."""
    return x + 1


def double(x: int) -> int:
    """Multiply by two."""
    return x * 2


def square(x: int) -> int:
    """Multiply by itself."""
    return x * x


def reverses(transforms: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Apply the last transform first, as functions are composed on paper."""
    return v1.Compose(transforms[::-1])


def stops_at_the_first(transforms: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Apply the first transform only."""
    return v1.Compose(transforms[:1])


def applies_each_to_the_input(transforms: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Give every transform the first input, and keep the last result."""
    return lambda x: [x, *(transform(x) for transform in transforms)][-1]


Compose = Callable[[Sequence[Callable[[Any], Any]]], Callable[[Any], Any]]
OUT_OF_ORDER = {
    reverses: "in their order",
    stops_at_the_first: "in their order",
    applies_each_to_the_input: "in their order",
}
chains = st.lists(st.sampled_from([increment, double, square]), max_size=4)


@claim("networks.compose-runs-in-order", right=v1.Compose, wrong=OUT_OF_ORDER)
@given(chain=chains, x=st.integers(-3, 3))
def test_transforms_run_in_their_order(
    compose: Compose, chain: list[Callable[[int], int]], x: int
) -> None:
    """Compose([f, g, h])(x) is h(g(f(x))), and the empty pipeline is the identity."""
    expected = reduce(lambda value, transform: transform(value), chain, x)

    assert compose(chain)(x) == expected, "transforms are applied in their order"


@claim("networks.compose-runs-in-order", right=v1.Compose, wrong=OUT_OF_ORDER)
@given(parts=st.lists(chains, max_size=3), x=st.integers(-3, 3))
def test_pipelines_are_transforms_themselves(
    compose: Compose, parts: list[list[Callable[[int], int]]], x: int
) -> None:
    """A pipeline of pipelines does what the pipeline of all their transforms does."""
    flat = list(itertools.chain.from_iterable(parts))

    nested = compose([compose(part) for part in parts])

    expected = reduce(lambda value, transform: transform(value), flat, x)
    assert nested(x) == expected, "nested pipelines apply all transforms in their order"


@claim("networks.compose-runs-in-order", right=v2.Compose, wrong=OUT_OF_ORDER)
@given(chain=chains.filter(len), x=st.integers(-3, 3))
def test_version_2_runs_in_the_same_order(
    compose: Compose, chain: list[Callable[[int], int]], x: int
) -> None:
    """Version 2 applies one transform or more as version 1 does."""
    expected = reduce(lambda value, transform: transform(value), chain, x)

    assert compose(chain)(x) == expected, "transforms are applied in their order"


@claim(
    "networks.compose-runs-in-order",
    right=v2.Compose,
    wrong={v1.Compose: "DID NOT RAISE"},
)
@given(empty=st.sampled_from([[], ()]))
def test_version_2_refuses_the_empty_pipeline(
    compose: Compose, empty: Sequence[Callable[[int], int]]
) -> None:
    """No transform at all, the identity in version 1, is a ValueError in version 2."""
    with pytest.raises(ValueError, match="at least one transform"):
        compose(empty)


def normalizes_channel_last(
    mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)
) -> Callable[[Pixels], Tensor]:
    """Normalise the array as it lies, channel last, and move the channels afterwards."""

    def transform(image: Pixels) -> Tensor:
        """Normalise along the last dimension."""
        pixels = torch.tensor(np.atleast_3d(np.asarray(image)), dtype=torch.float32) / 255
        return ((pixels - as_channels(mean)) / as_channels(std)).permute(2, 0, 1)

    return transform


def leaves_out_normalize(*statistics: Sequence[float]) -> Callable[[Pixels], Tensor]:
    """Make a tensor and forget to normalise it."""
    return v1.ToTensor()


@claim(
    "networks.compose-runs-in-order",
    right=image_pipeline,
    wrong={
        normalizes_channel_last: "(C, H, W)",
        leaves_out_normalize: "normalised by channel",
    },
    cpu_only=HOST,
)
@given(array=pixel_arrays(), opened=st.booleans(), data=st.data())
def test_the_image_pipeline_makes_a_tensor_and_normalises_it(
    pipeline: Callable[..., Callable[[Pixels], Tensor]],
    array: NDArray[np.uint8],
    opened: bool,
    data: st.DataObject,
) -> None:
    """An image goes through both steps: channel first, then (v / 255 - mean) / std."""
    channels = array.shape[2] if array.ndim == 3 else 1
    statistics = st.lists(percentages, min_size=channels, max_size=channels)
    mean, std = data.draw(statistics, label="mean"), data.draw(statistics, label="std")
    by_default = data.draw(st.booleans(), label="by default")
    image = as_picture(array) if opened else array

    tensor = (pipeline() if by_default else pipeline(mean, std))(image)

    if by_default:
        mean, std = [0.5] * channels, [0.5] * channels

    scaled = channel_first(array) / 255
    centre, deviation = (np.reshape(values, (-1, 1, 1)) for values in (mean, std))
    assert type(tensor) is Tensor, "the pipeline ends in a plain tensor"
    assert tuple(tensor.shape) == scaled.shape, "the tensor has the shape (C, H, W)"
    error = np.abs(tensor.numpy() - (scaled - centre) / deviation)
    assert (error <= 3 * EPSILON * (scaled + centre) / deviation).all(), (
        "the pixels are normalised by channel"
    )


# ------------------------------------------------- batches


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


def always_drops_the_rest(
    dataset: TensorDataset, batch_size: int, drop_last: bool = False
) -> Iterable[Batch]:
    """Drop the last partial batch, asked or not."""
    return DataLoader(dataset, batch_size, drop_last=True)


def drops_the_last_batch(
    dataset: TensorDataset, batch_size: int, drop_last: bool = False
) -> Iterable[Batch]:
    """Drop the last batch when drop_last says so, be it full or not."""
    found = list(DataLoader(dataset, batch_size))
    return found[:-1] if drop_last else found


def draws_with_replacement(
    dataset: TensorDataset, batch_size: int, drop_last: bool = False
) -> Iterable[Batch]:
    """Draw as many examples as there are, each from all of them."""
    order = [random.randrange(len(dataset)) for _ in range(len(dataset))]
    return DataLoader(dataset, batch_size, sampler=order, drop_last=drop_last)


def pads_the_last_batch(
    dataset: TensorDataset, batch_size: int, drop_last: bool = False
) -> Iterable[Batch]:
    """Fill the last batch with the first examples."""
    missing = -len(dataset) % batch_size if not drop_last else 0
    order = [i % len(dataset) for i in range(len(dataset) + missing)]
    return DataLoader(dataset, batch_size, sampler=order, drop_last=drop_last)


@claim(
    "networks.loader-cuts-batches",
    right=DataLoader,
    wrong={
        always_drops_the_rest: "each example comes exactly once",
        drops_the_last_batch: "drop_last drops a partial batch only",
        draws_with_replacement: "each example comes exactly once",
        pads_the_last_batch: "each example comes exactly once",
    },
)
@given(n=st.integers(0, 12), batch_size=st.integers(1, 5), drop_last=st.booleans())
def test_one_pass_yields_each_example_once(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int, drop_last: bool
) -> None:
    """A pass yields each example once with its label, in full batches and one with the rest."""
    found = positions(load(numbered(n), batch_size, drop_last=drop_last))

    seen = sorted(itertools.chain.from_iterable(found))
    full, rest = divmod(n, batch_size)
    if drop_last:
        assert len(seen) == full * batch_size, "drop_last drops a partial batch only"
        assert len(set(seen)) == len(seen), "no example comes twice"
    else:
        assert seen == list(range(n)), "each example comes exactly once"
    sizes = [batch_size] * full + [rest] * (rest > 0 and not drop_last)
    assert [len(batch) for batch in found] == sizes, "all batches but the last are full"


class EachWorkerYieldsAll(IterableDataset[Any]):
    """A stream of examples that does not ask which worker it runs in."""

    def __init__(self, dataset: TensorDataset) -> None:
        """Keep the examples."""
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        """Yield every example, in every worker."""
        return (self.dataset[i] for i in range(len(self.dataset)))


def streams(dataset: TensorDataset, batch_size: int, **options: Any) -> Iterable[Batch]:
    """Load from a stream instead of a dataset with positions."""
    return DataLoader(EachWorkerYieldsAll(dataset), batch_size, **options)


@claim(
    "networks.loader-cuts-batches",
    right=DataLoader,
    wrong={streams: "what one process yields"},
    share=0.05,
    because="each example starts two processes",
    cpu_only="worker processes load into the memory of the CPU",
)
@given(n=st.integers(1, 6), batch_size=st.integers(1, 3), drop_last=st.booleans())
# Python 3.12 warns whoever forks while threads run, as torch's loader does on Linux.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_worker_processes_change_nothing(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int, drop_last: bool
) -> None:
    """Two worker processes yield the same batches in the same order as none."""
    fork = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    workers = {"num_workers": 2, "multiprocessing_context": fork}

    found = positions(load(numbered(n), batch_size, drop_last=drop_last, **workers))

    alone = positions(DataLoader(numbered(n), batch_size, drop_last=drop_last))
    assert found == alone, "two workers yield what one process yields"


def cuts_without_the_rest(data: tuple[Tensor, Tensor], batch_size: int, **options: Any) -> Any:
    """Cut n // batch_size batches."""
    full = len(data[0]) // batch_size
    return itertools.islice(batches(data, batch_size, **options), full)


def ignores_the_order(data: tuple[Tensor, Tensor], batch_size: int, **options: Any) -> Any:
    """Cut the examples as they lie."""
    return batches(data, batch_size)


def reorders_images_only(
    data: tuple[Tensor, Tensor], batch_size: int, *, order: Tensor | None = None
) -> Any:
    """Apply the order to the images and forget the labels."""
    images, labels = data
    return batches((images if order is None else images[order], labels), batch_size)


def reads_once(data: tuple[Tensor, Tensor], batch_size: int, *, order: Tensor | None = None) -> Any:
    """Read as much as fits the cache, and take it for all there is."""
    order = torch.arange(len(data[1])) if order is None else order
    read = order[: max(1, READ_AT_ONCE // data[0][0].numel())]
    return batches(data, batch_size, order=read)


def leaves_bytes(
    data: tuple[Tensor, Tensor], batch_size: int, *, order: Tensor | None = None
) -> Any:
    """Yield bytes as they are."""
    order = torch.arange(len(data[1])) if order is None else order
    return ((data[0][cut].float(), data[1][cut]) for cut in order.split(batch_size))


@claim(
    "networks.loader-cuts-batches",
    right=batches,
    wrong={
        cuts_without_the_rest: "the batches of a DataLoader",
        ignores_the_order: "the batches of a DataLoader",
        reorders_images_only: "the batches of a DataLoader",
        reads_once: "the batches of a DataLoader",
        leaves_bytes: "bytes come normalised",
    },
)
@given(
    order=st.integers(1, 8).flatmap(lambda n: st.permutations(range(n))),
    batch_size=st.integers(1, 5),
    as_bytes=st.booleans(),
    values=st.sampled_from([1, READ_AT_ONCE // 2]),
    reordered=st.booleans(),
)
def test_batches_are_those_of_a_loader(
    batches: Callable[..., Iterable[tuple[Tensor, Tensor]]],
    order: list[int],
    batch_size: int,
    as_bytes: bool,
    values: int,
    reordered: bool,
) -> None:
    """Cutting two tensors, in an order or as they lie, gives a DataLoader's batches, normalised."""
    if not reordered:
        order = sorted(order)
    images, labels = numbered(len(order)).tensors
    images = images.to(torch.uint8) if as_bytes else images
    images = images[:, :1].expand(-1, values)  # two large ones are as much as is read at once

    options = {"order": torch.tensor(order)} if reordered else {}
    found = list(batches((images, labels), batch_size, **options))

    expected = list(DataLoader(TensorDataset(images, labels), batch_size, sampler=order))
    assert [labels.tolist() for _, labels in found] == [
        labels.tolist() for _, labels in expected
    ], "the labels are in the batches of a DataLoader"
    for (cut, _), (whole, _) in zip(found, expected, strict=True):
        same_images = same(cut, normalize(whole) if as_bytes else whole)
        assert same_images, "the images are in the batches of a DataLoader, bytes come normalised"


def checks_at_the_first_batch(data: tuple[Tensor, Tensor], batch_size: int) -> Iterator[Any]:
    """Check in a generator function, whose body runs only when the first batch is taken."""
    yield from batches(data, batch_size)


def cuts_what_there_is(data: tuple[Tensor, Tensor], batch_size: int) -> Any:
    """Pair images and labels until one of them ends."""
    return list(zip(*(part.split(abs(batch_size) or 1) for part in data), strict=False))


@claim(
    "networks.loader-cuts-batches",
    right=batches,
    wrong={checks_at_the_first_batch: "DID NOT RAISE", cuts_what_there_is: "DID NOT RAISE"},
)
@given(n=st.integers(0, 3), m=st.integers(0, 3), batch_size=st.integers(-1, 2))
def test_examples_that_cannot_be_cut_are_refused_at_once(
    batches: Callable[..., Iterable[Any]], n: int, m: int, batch_size: int
) -> None:
    """No examples, fewer labels than images, and a batch size below 1 raise before any batch."""
    assume(n != m or n == 0 or batch_size < 1)
    counts = f"{n} images but {m} labels" if n != m else "no examples"
    message = counts if n != m or n == 0 else f"batch_size is {batch_size}"

    with pytest.raises(ValueError, match=message):
        batches((torch.zeros(n, 2), torch.zeros(m, dtype=torch.int64)), batch_size)


# ------------------------------------------------- shuffle


def shuffles(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle with a generator of its own, so that a seed gives an order."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size, shuffle=True, generator=generator)


def shuffles_apart(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle the images, then the labels."""
    generator = torch.Generator().manual_seed(seed)
    parts = [part[torch.randperm(len(dataset), generator=generator)] for part in dataset.tensors]
    return DataLoader(TensorDataset(*parts), batch_size)


def forgets_the_seed(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle with whatever state the global generator is in."""
    return DataLoader(dataset, batch_size, shuffle=True)


def draws_each_by_itself(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Draw each position from all, so that some come twice."""
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(dataset, replacement=True, generator=generator)
    return DataLoader(dataset, batch_size, sampler=sampler)


@claim(
    "networks.shuffle-reorders",
    right=shuffles,
    wrong={
        shuffles_apart: "its own label",
        forgets_the_seed: "the same seed gives the same order",
        draws_each_by_itself: "each example comes exactly once",
    },
    cpu_only=GENERATOR,
)
@given(n=st.integers(1, 12), batch_size=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_a_shuffled_epoch_is_a_permutation(
    shuffle: Callable[..., Iterable[Batch]], n: int, batch_size: int, seed: int
) -> None:
    """An epoch has each example once with its label, and the seed alone decides their order."""
    first, again = (positions(shuffle(numbered(n), batch_size, seed)) for _ in range(2))

    assert sorted(itertools.chain.from_iterable(first)) == list(range(n)), (
        "each example comes exactly once"
    )
    assert first == again, "the same seed gives the same order"


def one_permutation(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle once and iterate over that in every epoch."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return DataLoader(dataset, batch_size, sampler=order.tolist())


class SeedsEveryEpoch(DataLoader[Any]):
    """A loader that seeds its generator whenever an epoch begins."""

    def __iter__(self) -> Any:
        """Seed and start over."""
        self.generator.manual_seed(0)
        return super().__iter__()


def seeds_every_epoch(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Fix the seed where the epoch begins instead of where the run does."""
    return SeedsEveryEpoch(dataset, batch_size, shuffle=True, generator=torch.Generator())


@claim(
    "networks.shuffle-reorders",
    right=shuffles,
    wrong={
        one_permutation: "further epochs give other orders",
        seeds_every_epoch: "further epochs give other orders",
    },
    cpu_only=GENERATOR,
)
@given(n=st.integers(20, 30), batch_size=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_further_epochs_give_other_orders(
    shuffle: Callable[..., Iterable[Batch]], n: int, batch_size: int, seed: int
) -> None:
    """Three epochs have three orders, by chance not with probability 3 / 20! < 2e-18."""
    loader = shuffle(numbered(n), batch_size, seed)

    epochs = [list(itertools.chain.from_iterable(positions(loader))) for _ in range(3)]

    assert all(one != other for one, other in itertools.combinations(epochs, 2)), (
        "further epochs give other orders"
    )


def shuffles_inside_batches(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Cut the batches first and shuffle each."""
    orders = random.Random(seed)
    cut = [list(part) for part in np.array_split(range(len(dataset)), [batch_size])]
    return EpochsOf(dataset, lambda: [orders.sample(part, len(part)) for part in cut])


def starts_anywhere(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Begin at a random example and go around."""
    starts, n = random.Random(seed), len(dataset)
    return EpochsOf(dataset, lambda: [np.roll(range(n), starts.randrange(n)).tolist()])


def swaps_with_any(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Swap each position with any other, not with a later one: some orders come more often."""
    places = random.Random(seed)

    def order() -> list[list[int]]:
        """Return one epoch, a single batch."""
        shuffled = list(range(len(dataset)))
        for i in range(len(shuffled)):
            j = places.randrange(len(shuffled))
            shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
        return [shuffled]

    return EpochsOf(dataset, order)


class EpochsOf:
    """A loader whose epochs are drawn by a function that returns batches of positions."""

    def __init__(self, dataset: TensorDataset, draw: Callable[[], list[list[int]]]) -> None:
        """Keep the examples and the function."""
        self.dataset, self.draw = dataset, draw

    def __iter__(self) -> Iterator[Any]:
        """Draw an epoch and yield its batches."""
        return (self.dataset[batch] for batch in self.draw())


@claim(
    "networks.shuffle-reorders",
    right=shuffles,
    wrong={
        shuffles_inside_batches: "each order comes equally often",
        starts_anywhere: "each order comes equally often",
        swaps_with_any: "each order comes equally often",
    },
    share=0.01,
    because="each example shuffles 10,000 epochs",
    cpu_only=GENERATOR,
)
@given(seed=st.integers(0, 2**32))
def test_each_order_comes_equally_often(shuffle: Callable[..., Iterable[Batch]], seed: int) -> None:
    """Each of the 24 orders of 4 examples comes in one of 24 of 10,000 epochs.

    The counts are binomial; an exact two-sided p of 1e-13 is allowed to each of the 24, so that
    chance fails an example with probability 2.4e-12 at most.
    """
    loader = shuffle(numbered(4), 2, seed)
    epochs = [tuple(torch.cat([labels for _, labels in loader]).tolist()) for _ in range(10_000)]

    for order in itertools.permutations(range(100, 104)):
        chance = binomtest(epochs.count(order), len(epochs), 1 / 24).pvalue
        assert chance > 1e-13, f"each order comes equally often, {order} too"


def always_shuffles(dataset: TensorDataset, batch_size: int, shuffle: bool) -> Iterable[Batch]:
    """Shuffle whatever was asked."""
    return DataLoader(dataset, batch_size, shuffle=True)


@claim(
    "networks.shuffle-reorders",
    right=DataLoader,
    wrong={always_shuffles: "keeps the order"},
    cpu_only=GENERATOR,
)
@given(n=st.integers(1, 12), batch_size=st.integers(1, 5))
def test_without_shuffle_the_order_is_kept(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int
) -> None:
    """shuffle=False yields the examples as they lie."""
    found = positions(load(numbered(n), batch_size, shuffle=False))

    assert list(itertools.chain.from_iterable(found)) == list(range(n)), "False keeps the order"


# ------------------------------------------------- a loader is an iterable


def a_new_iterator_each_time(loader: DataLoader[Any]) -> list[Batch]:
    """Call next(iter(loader)) in the training loop, which begins an epoch for every batch."""
    return [next(iter(loader)) for _ in range(len(loader))]


@claim(
    "networks.loader-is-a-generator",
    right=list,
    wrong={a_new_iterator_each_time: "gets past the first batch"},
)
@given(n=st.integers(0, 6), batch_size=st.integers(1, 3))
def test_one_iterator_makes_one_epoch(
    epoch: Callable[[DataLoader[Any]], list[Batch]], n: int, batch_size: int
) -> None:
    """Iterating over one iterator gets past the first batch and sees every example."""
    found = positions(epoch(DataLoader(numbered(n), batch_size)))

    assert list(itertools.chain.from_iterable(found)) == list(range(n)), (
        "an epoch gets past the first batch"
    )


def generates(dataset: TensorDataset, batch_size: int) -> Iterator[Batch]:
    """Yield batches: what the notes take a loader for."""
    yield from DataLoader(dataset, batch_size)


class OneIterator(DataLoader[Any]):
    """A loader that is its own iterator, with one position for all who iterate."""

    def __iter__(self) -> Any:
        """Begin an epoch, for the others too."""
        self.epoch = super().__iter__()
        return self

    def __next__(self) -> Any:
        """Return the next batch of the epoch that began last."""
        return next(self.epoch)


@claim(
    "networks.loader-is-a-generator",
    right=DataLoader,
    wrong={generates: "DID NOT RAISE"},
)
@given(n=st.integers(1, 6), batch_size=st.integers(1, 3))
def test_a_loader_is_no_iterator(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int
) -> None:
    """next(loader) raises TypeError: a loader is iterable, and iter(loader) the iterator."""
    loader = load(numbered(n), batch_size)

    with pytest.raises(TypeError, match="is not an iterator"):
        next(loader)


@claim(
    "networks.loader-is-a-generator",
    right=DataLoader,
    wrong={generates: "a complete epoch", OneIterator: "a complete epoch"},
)
@given(n=st.integers(1, 6), batch_size=st.integers(1, 3), data=st.data())
def test_iterators_are_epochs_of_their_own(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int, data: st.DataObject
) -> None:
    """Iterators that take turns in any order each go through a complete epoch."""
    loader = load(numbered(n), batch_size)
    k = data.draw(st.integers(1, 3), label="iterators")
    turns = data.draw(st.lists(st.integers(0, k - 1), max_size=6), label="turns")
    iterators = [iter(loader) for _ in range(k)]
    found: list[list[Batch]] = [[] for _ in iterators]

    # In the end each iterator gets as many turns as an epoch can need.
    for turn in turns + list(range(k)) * n:
        batch = next(iterators[turn], None)
        found[turn] += [] if batch is None else [batch]

    for epoch in found:
        assert list(itertools.chain.from_iterable(positions(epoch))) == list(range(n)), (
            "each iterator goes through a complete epoch"
        )
