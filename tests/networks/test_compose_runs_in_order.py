"""Compose applies its transforms in order, from first to last.

>>> from torchvision.transforms import Compose, v2
>>> add_one, double = lambda x: x + 1, lambda x: x * 2
>>> Compose([add_one, double])(5), Compose([double, add_one])(5)
(12, 11)
>>> Compose([])(5)
5
>>> v2.Compose([])  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
ValueError: Pass at least one transform...

Notes: Transforms are composed into a pipeline.
Verdict: holds-if
Truth: Both versions of the transforms apply them in order. The empty pipeline is the identity in
    version 1 only; `v2.Compose([])` raises ValueError.
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
    HOST,
    as_channels,
    as_picture,
    channel_first,
    is_normalised,
    percentages,
    pixel_arrays,
)

Compose = Callable[[Sequence[Callable[[Any], Any]]], Callable[[Any], Any]]


def increment(x: int) -> int:
    return x + 1


def double(x: int) -> int:
    return x * 2


def square(x: int) -> int:
    return x * x


# No two of these functions commute, so a wrong order shows in the result for most x.
chains = st.lists(st.sampled_from([increment, double, square]), max_size=4)


def in_turn(chain: Sequence[Callable[[int], int]], x: int) -> int:
    return reduce(lambda value, transform: transform(value), chain, x)


def reverses(transforms: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Apply the last transform first, as in the mathematical notation f(g(x))."""
    return v1.Compose(transforms[::-1])


def stops_at_the_first(transforms: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Apply only the first transform."""
    return v1.Compose(transforms[:1])


def applies_each_to_the_input(transforms: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Pass the original input to every transform and return the last result."""
    return lambda x: [x, *(transform(x) for transform in transforms)][-1]


OUT_OF_ORDER = {
    reverses: "in their order",
    stops_at_the_first: "in their order",
    applies_each_to_the_input: "in their order",
}


@law(right=v1.Compose, wrong=OUT_OF_ORDER)
@given(chain=chains, x=st.integers(-3, 3))
def test_transforms_run_in_their_order(
    compose: Compose, chain: list[Callable[[int], int]], x: int
) -> None:
    """Compose([f, g, h])(x) is h(g(f(x))), and the empty pipeline is the identity."""
    assert compose(chain)(x) == in_turn(chain, x), "transforms are applied in their order"


@law(right=v1.Compose, wrong=OUT_OF_ORDER)
@given(parts=st.lists(chains, max_size=3), x=st.integers(-3, 3))
def test_pipelines_are_transforms_themselves(
    compose: Compose, parts: list[list[Callable[[int], int]]], x: int
) -> None:
    """A pipeline of pipelines does the same as one pipeline of all their transforms."""
    nested = compose([compose(part) for part in parts])

    expected = in_turn(list(itertools.chain.from_iterable(parts)), x)
    assert nested(x) == expected, "nested pipelines apply all transforms in their order"


@law(right=v2.Compose, wrong=OUT_OF_ORDER)
@given(chain=chains.filter(len), x=st.integers(-3, 3))
def test_version_2_runs_in_the_same_order(
    compose: Compose, chain: list[Callable[[int], int]], x: int
) -> None:
    """Version 2 applies one or more transforms in the same order as version 1."""
    assert compose(chain)(x) == in_turn(chain, x), "transforms are applied in their order"


@law(right=v2.Compose, wrong={v1.Compose: "DID NOT RAISE"})
@given(empty=st.sampled_from([[], ()]))
def test_version_2_refuses_the_empty_pipeline(
    compose: Compose, empty: Sequence[Callable[[int], int]]
) -> None:
    """Version 2 raises ValueError if there are no transforms; version 1 returns the identity."""
    with pytest.raises(ValueError, match="at least one transform"):
        compose(empty)


def normalizes_channel_last(
    mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)
) -> Callable[[Pixels], Tensor]:
    """Normalise while the channels are still last, then move them to the front."""

    def transform(image: Pixels) -> Tensor:
        pixels = torch.tensor(np.atleast_3d(np.asarray(image)), dtype=torch.float32) / 255
        return ((pixels - as_channels(mean)) / as_channels(std)).permute(2, 0, 1)

    return transform


def skips_normalize(*statistics: Sequence[float]) -> Callable[[Pixels], Tensor]:
    """Make a tensor but do not normalise it."""
    return v1.ToTensor()


@law(
    right=image_pipeline,
    wrong={normalizes_channel_last: "(C, H, W)", skips_normalize: "normalised by channel"},
    cpu_only=HOST,
)
@given(array=pixel_arrays(), opened=st.booleans(), data=st.data())
def test_the_image_pipeline_makes_a_tensor_and_normalises_it(
    pipeline: Callable[..., Callable[[Pixels], Tensor]],
    array: NDArray[np.uint8],
    opened: bool,
    data: st.DataObject,
) -> None:
    """The pipeline puts the channels first, then computes (v / 255 - mean) / std."""
    channels = array.shape[2] if array.ndim == 3 else 1
    statistics = st.lists(percentages, min_size=channels, max_size=channels)
    mean, std = data.draw(statistics, label="mean"), data.draw(statistics, label="std")
    by_default = data.draw(st.booleans(), label="by default")
    image = as_picture(array) if opened else array

    tensor = (pipeline() if by_default else pipeline(mean, std))(image)

    if by_default:
        mean, std = [0.5] * channels, [0.5] * channels
    scaled = channel_first(array) / 255
    assert type(tensor) is Tensor, "the pipeline returns a plain tensor"
    assert tuple(tensor.shape) == scaled.shape, "the tensor has the shape (C, H, W)"
    assert is_normalised(tensor, scaled, mean, std), "the pixels are normalised by channel"


def casts_to_bytes(*statistics: Any) -> Callable[[Any], Tensor]:
    """Cast whatever comes to bytes, so floats from 0 to 1 are nearly all 0."""
    return lambda array: image_pipeline(*statistics)(array.astype(np.uint8))


@law(right=image_pipeline, wrong={casts_to_bytes: "DID NOT RAISE"}, cpu_only=HOST)
@given(array=pixel_arrays(), dtype=st.sampled_from([np.float32, np.int64]))
def test_the_image_pipeline_takes_bytes_alone(
    pipeline: Callable[..., Callable[[Any], Tensor]], array: NDArray[np.uint8], dtype: Any
) -> None:
    """Floats, which may be normalised already, and wide integers raise TypeError."""
    with pytest.raises(TypeError, match="normalize takes uint8 images"):
        pipeline()(array.astype(dtype))
