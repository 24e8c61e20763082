"""The evaluation pipeline gives an image the same result each time.

>>> from PIL import Image
>>> from dlconcepts.images import eval_pipeline, train_pipeline
>>> image = Image.linear_gradient("L")  # black at the top, white at the bottom
>>> for pipeline in train_pipeline(8), eval_pipeline(8):
...     len({float(pipeline(image).mean()) for _ in range(20)}) == 1
False
True

Notes: Validation and test images are not augmented: only resized, centred and normalised, as in
    real use.
Verdict: holds
Truth: Its pipeline draws no random number, and its crop is centred to within half a pixel.
"""

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.models import MobileNet_V2_Weights
from torchvision.transforms import v2

from dlconcepts.images import MEAN, STD, eval_pipeline, train_pipeline
from dlconcepts.loading import image_pipeline
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.images.common import HOST, RAW, Transform, picture, profile, ramps, squashes


def random_states() -> tuple[Any, ...]:
    """Return the states of the generators of torch, Python and numpy."""
    legacy = str(np.random.get_state())  # noqa: NPY002 - many transforms draw from it
    return bits(torch.get_rng_state()), random.getstate(), legacy


def draws_and_ignores(size: int) -> Transform:
    """Mirror with probability 0, which draws a number and changes nothing."""
    return v2.Compose([v2.RandomHorizontalFlip(0), eval_pipeline(size)])


def jitters(size: int) -> Transform:
    """Leave one distortion in the pipeline."""
    return v2.Compose([v2.RandomAdjustSharpness(2), eval_pipeline(size)])


def takes_turns(size: int) -> Transform:
    """Mirror every other image, which draws nothing but changes the result."""
    transform, turns = eval_pipeline(size), itertools.cycle([False, True])
    return lambda image: transform(ImageOps.mirror(image) if next(turns) else image)


@law(
    right=eval_pipeline,
    wrong={
        train_pipeline: "no random number is drawn",
        jitters: "no random number is drawn",
        draws_and_ignores: "no random number is drawn",
        takes_turns: "the same each time",
    },
    cpu_only=HOST,
)
@given(
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    size=st.integers(1, 8),
    seed=st.integers(0, 2**16),
)
def test_a_test_image_is_the_same_each_time(
    pipeline: Callable[[int], Transform], width: int, height: int, size: int, seed: int
) -> None:
    """The pipeline gives an image one result and draws from no generator."""
    transform, image = pipeline(size), picture("RGB", (width, height), seed)
    before = random_states()

    outputs = {bits(transform(image)) for _ in range(5)}

    nothing_drawn = random_states() == before
    assert nothing_drawn, "no random number is drawn"
    assert len(outputs) == 1, "a test image comes out the same each time"


def crops_the_top_left(size: int, *, resize: int, **statistics: Any) -> Transform:
    """Crop from the corner where arrays begin."""
    corner = functools.partial(v2.functional.crop, top=0, left=0, height=size, width=size)
    return v2.Compose([v2.Resize(resize), corner, image_pipeline(**statistics)])


def centres_one_off(size: int, *, resize: int, **statistics: Any) -> Transform:
    """Start the crop one pixel too far right and down."""

    def crop(image: Image.Image) -> Image.Image:
        left, top = ((side - size) // 2 + 1 for side in image.size)
        return image.crop((left, top, left + size, top + size))

    return v2.Compose([v2.Resize(resize), crop, image_pipeline(**statistics)])


@law(
    right=eval_pipeline,
    wrong={
        crops_the_top_left: "the crop is centred to within half a pixel",
        centres_one_off: "the crop is centred to within half a pixel",
    },
    cpu_only=HOST,
)
@given(ramp=ramps(), size=st.integers(6, 16), more=st.integers(0, 16))
def test_the_crop_is_centred(
    pipeline: Callable[..., Transform], ramp: tuple[Image.Image, bool], size: int, more: int
) -> None:
    """The centre of the output shows the centre of the image, to within half an output pixel."""
    image, along_x = ramp
    short, long = sorted(image.size)

    output = pipeline(size, resize=size + more, **RAW)(image)

    # The ramp climbs by this much from one output pixel to the next.
    step = 255 / (long - 1) * short / (size + more)
    off = abs(profile(output, along_x).mean() - 127.5) / step
    # The levels are whole numbers, so one level of rounding is allowed on top.
    centred = off <= 0.5 + 1 / step
    assert centred, f"the crop is centred to within half a pixel, but {off:.2f} off"


@law(right=eval_pipeline, wrong={squashes: "DID NOT RAISE"}, cpu_only=HOST)
@given(size=st.integers(2, 9), less=st.integers(1, 8))
def test_a_crop_larger_than_the_image_is_refused(
    pipeline: Callable[..., Transform], size: int, less: int
) -> None:
    """If `resize` leaves less than the crop, which torchvision pads with black, it is an error."""
    with pytest.raises(ValueError, match=f"resize must be at least size, {size}"):
        pipeline(size, resize=size - less, mean=MEAN, std=STD)


def always_256(size: int) -> Transform:
    """Scale to 256, which is right for 224."""
    return eval_pipeline(size, resize=max(256, size))


def never_larger(size: int) -> Transform:
    """Scale to the size of the crop."""
    return eval_pipeline(size, resize=size)


@law(
    right=eval_pipeline,
    wrong={always_256: "8/7 of the size", never_larger: "8/7 of the size"},
    cpu_only=HOST,
)
@given(sevenths=st.integers(1, 6), width=st.integers(20, 60), height=st.integers(20, 60))
def test_by_default_an_image_is_a_seventh_larger_than_its_crop(
    pipeline: Callable[[int], Transform], sevenths: int, width: int, height: int
) -> None:
    """The short side is scaled to 8/7 of the size: 256 for 224, as for torchvision's weights."""
    image = picture("RGB", (width, height), seed=0)
    weights = MobileNet_V2_Weights.IMAGENET1K_V1
    official = weights.transforms(crop_size=7 * sevenths, resize_size=8 * sevenths)

    same_bits = bits(pipeline(7 * sevenths)(image)) == bits(official(image))

    assert same_bits, "by default the short side is scaled to 8/7 of the size"
