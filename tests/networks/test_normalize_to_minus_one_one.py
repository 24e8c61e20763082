"""Normalize with 0.5 and 0.5 maps [0, 1] to [-1, 1], if it runs once.

>>> from torchvision.transforms import Normalize
>>> normalize = Normalize(mean=[0.5], std=[0.5])
>>> image = torch.tensor([[[0.0, 0.25, 1.0]]])
>>> normalize(image)
tensor([[[-1.0000, -0.5000,  1.0000]]])
>>> normalize(normalize(image))
tensor([[[-3., -2.,  1.]]])

Notes: Normalize with 0.5 and 0.5 takes values from [0, 1] to [-1, 1]: subtract 0.5, divide by
    0.5.
Verdict: holds-if
Truth: The values must lie between 0 and 1 and not be normalised yet, with one mean and one standard
    deviation for each channel. Given the statistics of three channels and a grey image, version 1
    of the transforms raises, but `v2.Normalize` silently returns three channels. The library's
    `normalize` raises, and it also refuses floats, since they may be normalised already.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from dlconcepts.loading import normalize
from dlconcepts.strategies import shapes, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.networks.common import as_channels, is_normalised, percentages

Statistics = float | list[float]


def divides_first(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Divide by std before subtracting the mean."""
    scaled = images.float() / 255
    return scaled / as_channels(std) - as_channels(mean)


def normalizes_twice(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Normalise again, as when both the dataset and the training loop do it."""
    once = normalize(images, mean=mean, std=std)
    return (once - as_channels(mean)) / as_channels(std)


def swaps_mean_and_std(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Pass std as the mean, and the mean as std."""
    return normalize(images, mean=std, std=mean)


def first_channel_for_all(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Use the first channel's statistics for all channels."""
    return normalize(images, mean=mean[0], std=std[0])


def uses_the_variance(images: Tensor, *, mean: list[float], std: list[float]) -> Tensor:
    """Divide by the variance instead of the standard deviation."""
    return normalize(images, mean=mean, std=[value**2 for value in std])


@st.composite
def channel_images(draw: st.DrawFn) -> tuple[Tensor, list[float], list[float]]:
    """Draw bytes (..., C, H, W), and a mean and a standard deviation for each channel."""
    channels = draw(st.integers(1, 3))
    batch, (height, width) = draw(shapes(0, 1, max_side=2)), draw(shapes(2, 2, max_side=3))
    images = draw(tensors((*batch, channels, height, width), torch.uint8))
    statistics = st.lists(percentages, min_size=channels, max_size=channels)
    return images, draw(statistics), draw(statistics)


@law(
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
    """Byte v becomes (v / 255 - mean) / std, with the mean and std of its channel."""
    images, mean, std = drawn
    before = bits(images)

    normalized = normalize(images, mean=mean, std=std)

    scaled = images.numpy(force=True) / 255
    assert normalized.dtype == torch.float32, "normalised images are float32"
    assert tuple(normalized.shape) == scaled.shape, "normalised images keep their shape"
    assert is_normalised(normalized, scaled, mean, std), (
        "a byte v becomes (v / 255 - mean) / std of its channel"
    )
    assert bits(images) == before, "the bytes are unchanged"


def stops_after_scaling(images: Tensor) -> Tensor:
    """Divide by 255, and neither subtract nor divide after that."""
    return images.float() / 255


def subtracts_bytes(images: Tensor) -> Tensor:
    """Subtract before converting to floats, so bytes below 128 wrap around and come out bright."""
    return (images - 128) / 127


@law(right=normalize, wrong={stops_after_scaling: "0 becomes -1", subtracts_bytes: "0 becomes -1"})
@given(byte=st.integers(0, 254))  # up to 254, since byte + 1 must be a byte too
def test_bytes_map_to_values_from_minus_1_to_1(
    normalize: Callable[[Tensor], Tensor], byte: int
) -> None:
    """With 0.5 and 0.5, 0 becomes -1, 255 becomes 1, and the order of the bytes is kept."""
    images = torch.tensor([0, byte, byte + 1, 255], dtype=torch.uint8)

    darkest, value, brighter, brightest = normalize(images).tolist()

    assert (darkest, brightest) == (-1, 1), "0 becomes -1, and 255 becomes 1"
    assert -1 <= value < brighter <= 1, "a brighter byte stays brighter, from -1 to 1"
    assert round((value * 0.5 + 0.5) * 255) == byte, "the byte can be recovered"


def takes_floats(images: Tensor, *, mean: Statistics, std: Statistics) -> Tensor:
    """Normalise floats, which may be normalised already."""
    if images.is_floating_point():
        return (images - torch.tensor(mean)) / torch.tensor(std)
    return normalize(images, mean=mean, std=std)


def broadcasts_grey(images: Tensor, *, mean: Statistics, std: Statistics) -> Tensor:
    """Broadcast a grey image over the statistics of several channels, as v2.Normalize does."""
    if images.dtype == torch.uint8 and isinstance(mean, list) and images.shape[-3:-2] == (1,):
        return v2.functional.normalize(images / 255, mean, std)
    return normalize(images, mean=mean, std=std)


def broadcasts_one_value(images: Tensor, *, mean: Statistics, std: Statistics) -> Tensor:
    """Use a list of one value for every channel, or for an image that has no channels."""
    lists = isinstance(mean, list) and isinstance(std, list)
    if lists and 1 in (len(mean), len(std)) and 0 < min(std) < math.inf:
        return (images / 255 - as_channels(mean)) / as_channels(std)
    return normalize(images, mean=mean, std=std)


def checks_one_channel(images: Tensor, *, mean: Statistics, std: Statistics) -> Tensor:
    """Refuse a std of 0 only if no channel has another one."""
    if isinstance(std, list) and max(std) > 0:
        std = [value if 0 < value < math.inf else 0.5 for value in std]
    return normalize(images, mean=mean, std=std)


def checks_for_zero_alone(images: Tensor, *, mean: Statistics, std: Statistics) -> Tensor:
    """Refuse a std of 0 or below, but take a mean or std that is not finite."""
    numbers = not isinstance(mean, list) and not isinstance(std, list)
    if images.dtype == torch.uint8 and numbers and std > 0:
        return (images / 255 - mean) / std
    return normalize(images, mean=mean, std=std)


def divides_by_zero(images: Tensor, *, mean: Statistics, std: Statistics) -> Tensor:
    """Divide by a std of 0, as a constant image has."""
    if images.dtype == torch.uint8 and not isinstance(mean, list) and not isinstance(std, list):
        return (images / 255 - mean) / std
    return normalize(images, mean=mean, std=std)


@st.composite
def unfit_images(draw: st.DrawFn) -> tuple[Tensor, Any, Any, type[Exception], str]:
    """Draw images with a mean and std that do not fit, the error and a pattern of its message."""
    # "no deviation" and infinity are there twice, since only that pair shows one of the checks.
    cases = ["floats", "no deviation", "no mean", "mean", "std", "no deviation"]
    case = draw(st.sampled_from(cases))
    side = draw(st.integers(1, 3))
    if case == "floats":
        return draw(tensors((1, side, side))), 0.5, 0.5, TypeError, "uint8.*float32"
    grey, colour = (draw(tensors((channels, side, side), torch.uint8)) for channels in (1, 3))
    if case == "no deviation":
        bad = draw(st.sampled_from([0.0, -1.0, math.nan, math.inf, math.inf]))
        std, images = draw(st.sampled_from([(bad, grey), ([bad], grey), ([0.5, bad, 0.5], colour)]))
        return images, 0.5, std, ValueError, "std must be finite and above 0"
    if case == "no mean":
        bad = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
        mean, images = draw(
            st.sampled_from([(bad, grey), ([bad], grey), ([0.5, 0.5, bad], colour)])
        )
        return images, mean, 0.5, ValueError, "mean must be finite"
    # Three values and a grey image, one value and three channels, or no channels at all.
    shape = draw(st.sampled_from([(1, side, side), (3, side, side), (2, 3, side, side), (3, side)]))
    fitting = shape[-3] if len(shape) > 2 else 0
    count = draw(st.integers(1, 4).filter(lambda count: count != fitting))
    values = {"mean": [0.5] * (fitting or 1), "std": [0.5] * (fitting or 1), case: [0.5] * count}
    wrong = "mean" if not fitting else case  # without channels both are wrong
    message = rf"^{wrong} has {len(values[wrong])} values.*\({', '.join(map(str, shape))}\)"
    images = draw(tensors(shape, torch.uint8))
    return images, values["mean"], values["std"], ValueError, message


@law(
    right=normalize,
    wrong={
        takes_floats: "DID NOT RAISE",
        broadcasts_grey: "DID NOT RAISE",
        broadcasts_one_value: "DID NOT RAISE",
        divides_by_zero: "DID NOT RAISE",
        checks_one_channel: "DID NOT RAISE",
        checks_for_zero_alone: "DID NOT RAISE",
    },
)
@given(case=unfit_images())
def test_images_that_do_not_fit_their_statistics_are_refused(
    normalize: Callable[..., Tensor], case: tuple[Tensor, Any, Any, type[Exception], str]
) -> None:
    """Floats, statistics of other channels, a std of 0 and numbers that are not finite raise."""
    images, mean, std, error, message = case
    before = bits(images)

    with pytest.raises(error, match=message):
        normalize(images, mean=mean, std=std)

    assert bits(images) == before, "refused images are unchanged"
