"""Compose.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Transforms are composed into a pipeline.
Verdict: holds-if
Truth: The empty pipeline is the identity in version 1 of the transforms only; v2.Compose([])
    raises ValueError.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2

from dlconcepts.loading import Pixels, image_pipeline
from dlconcepts.testing.laws import law
from tests.networks.common import (
    EPSILON,
    HOST,
    as_channels,
    as_picture,
    channel_first,
    percentages,
    pixel_arrays,
)


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


@law(right=v1.Compose, wrong=OUT_OF_ORDER)
@given(chain=chains, x=st.integers(-3, 3))
def test_transforms_run_in_their_order(
    compose: Compose, chain: list[Callable[[int], int]], x: int
) -> None:
    """Compose([f, g, h])(x) is h(g(f(x))), and the empty pipeline is the identity."""
    expected = reduce(lambda value, transform: transform(value), chain, x)

    assert compose(chain)(x) == expected, "transforms are applied in their order"


@law(right=v1.Compose, wrong=OUT_OF_ORDER)
@given(parts=st.lists(chains, max_size=3), x=st.integers(-3, 3))
def test_pipelines_are_transforms_themselves(
    compose: Compose, parts: list[list[Callable[[int], int]]], x: int
) -> None:
    """A pipeline of pipelines does what the pipeline of all their transforms does."""
    flat = list(itertools.chain.from_iterable(parts))

    nested = compose([compose(part) for part in parts])

    expected = reduce(lambda value, transform: transform(value), flat, x)
    assert nested(x) == expected, "nested pipelines apply all transforms in their order"


@law(right=v2.Compose, wrong=OUT_OF_ORDER)
@given(chain=chains.filter(len), x=st.integers(-3, 3))
def test_version_2_runs_in_the_same_order(
    compose: Compose, chain: list[Callable[[int], int]], x: int
) -> None:
    """Version 2 applies one transform or more as version 1 does."""
    expected = reduce(lambda value, transform: transform(value), chain, x)

    assert compose(chain)(x) == expected, "transforms are applied in their order"


@law(
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


@law(
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
