"""Normalize.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Normalize with 0.5 and 0.5 takes values from [0, 1] to [-1, 1]: subtract 0.5, divide by
    0.5.
Verdict: holds-if
Truth: On values from 0 to 1 that were not normalised before, with one mean and deviation for each
    channel. With the statistics of three channels on a grey image version 1 of the transforms
    raises, and v2.Normalize makes three channels of it without a word; the library's normalize
    raises, also for floats, which may be normalised already.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
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
from tests.networks.common import EPSILON, as_channels, percentages


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


@st.composite
def channel_images(draw: st.DrawFn) -> tuple[Tensor, list[float], list[float]]:
    """Draw images (..., C, H, W) of bytes, and a mean and a deviation for each channel."""
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


@law(
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


@law(
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
