"""Augmentation distorts a training image differently each time it is read.

>>> from torchvision.transforms import v2
>>> image, mirror = torch.tensor([[1, 2, 3]]), v2.RandomHorizontalFlip()
>>> torch.cat([mirror(image) for _ in range(100)]).unique(dim=0)
tensor([[1, 2, 3],
        [3, 2, 1]])

Notes: Augmentation makes the model robust to distorted images.
Verdict: holds-if
Truth: It helps against distortions like those of training: a network trained on distorted shapes
    is right on more new ones than the same network trained on the plain shapes. The pipeline
    rotates, crops and mirrors within limits, so that the label stays true; where left and right
    matter, as in digits, `flip=0` turns the mirror off. The draws come from torch's generator: a
    seed repeats them, and no epoch or worker repeats another's.
"""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.stats import binomtest
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dlconcepts.images import eval_pipeline, image_folder, to_rgb, train_pipeline
from dlconcepts.loading import image_pipeline
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.images.common import (
    HOST,
    RAW,
    SIDE,
    OwnGenerator,
    Transform,
    find_steps,
    loads,
    picture,
    places,
    right_on_distorted,
    saved,
)

SIZE = 32  # of the distorted images
seeds = st.integers(0, 2**32)


def distorts_with(step: Callable[[Image.Image], Image.Image]) -> Transform:
    return v2.Compose([to_rgb, step, v2.Resize((SIZE, SIZE)), image_pipeline(0, 1)])


def right_way_up() -> Transform:
    """Augment as the library does, without normalisation."""
    return train_pipeline(SIZE, **RAW)


def swaps_the_colours() -> Transform:
    """Mirror the last axis of an array (H, W, C), which is the axis of the colours."""
    return distorts_with(lambda image: Image.fromarray(np.asarray(image)[..., ::-1].copy()))


def turns_upside_down() -> Transform:
    """Mirror top and bottom, although nobody takes photographs that way."""
    return distorts_with(v2.RandomVerticalFlip())


def turns_too_far() -> Transform:
    """Rotate by up to 80 degrees."""
    return distorts_with(v2.RandomRotation(80, fill=255))


def shears() -> Transform:
    """Push the top to one side, so that squares become diamonds."""
    return distorts_with(v2.RandomAffine(0, shear=30, fill=255))


def squeezes() -> Transform:
    """Crop windows of any aspect ratio and make squares of them."""
    return distorts_with(v2.RandomResizedCrop(SIZE, ratio=(0.2, 5)))


def crops_specks() -> Transform:
    """Crop so little that it shows nothing."""
    return distorts_with(v2.RandomResizedCrop(SIZE, scale=(0.01, 0.05)))


def leaves_black_corners() -> Transform:
    """Rotate with the default fill of RandomRotation, which is black."""
    return distorts_with(v2.RandomRotation(30))


def waves() -> Transform:
    """Shift every other row by eight pixels."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    columns = (columns - rows % 2 * 8) % SIDE
    return distorts_with(lambda image: Image.fromarray(np.asarray(image)[rows, columns]))


@law(
    right=right_way_up,
    wrong={
        swaps_the_colours: "the colours are kept",
        turns_upside_down: "up stays up",
        turns_too_far: "rotated by 30 degrees at most",
        shears: "right angles stay right",
        squeezes: "stretched by a third at most",
        crops_specks: "at least 8 % of the area",
        waves: "straight lines stay straight",
        leaves_black_corners: "the corners are filled with white",
    },
    cpu_only=HOST,
)
@given(seed=seeds)
def test_a_distorted_image_is_rotated_cropped_and_mirrored(
    pipeline: Callable[[], Transform], seed: int
) -> None:
    """All pixels are rotated, scaled and mirrored together: an affine function, within limits."""
    torch.manual_seed(seed)

    output = pipeline()(places())

    # The pipeline's own limits are 30 degrees, ratios from 3/4 to 4/3, and areas from 8 % to 100 %.
    # These are a little wider, since a crop has whole pixels and bilinear colours are rounded.
    right, down, error = find_steps(output)
    assert output[2].min() * 255 > 127, "the corners are filled with white"
    assert error < 2, "straight lines stay straight"
    width, height = SIZE * np.linalg.norm(right), SIZE * np.linalg.norm(down)
    assert down[1] > 0, "up stays up"
    assert abs(right @ down) < 0.06 * width * height / SIZE**2, "right angles stay right"
    assert math.degrees(math.atan2(abs(down[0]), down[1])) < 33, "rotated by 30 degrees at most"
    assert 0.7 < width / height < 1.43, "stretched by a third at most"
    assert 0.07 < width * height / SIDE**2 < 1.05, "the crop has at least 8 % of the area"


def only_mirrors() -> Transform:
    """Neither rotate nor crop."""
    return distorts_with(v2.RandomHorizontalFlip())


def never_mirrors() -> Transform:
    """Rotate and crop, but do not mirror."""
    return train_pipeline(SIZE, flip=0, **RAW)


def never_rotates() -> Transform:
    """Crop and mirror, but do not rotate."""
    return train_pipeline(SIZE, degrees=0, **RAW)


def rotates_to_one_side() -> Transform:
    """Rotate to the left only."""
    return distorts_with(v2.Compose([v2.RandomRotation((0, 30), fill=255), v2.RandomCrop(30)]))


@law(
    right=right_way_up,
    wrong={
        only_mirrors: "some are cropped",
        never_rotates: "to either side",
        rotates_to_one_side: "to either side",
        never_mirrors: "some are mirrored",
    },
    share=0.1,
    because="each example draws 50 images",
    cpu_only=HOST,
)
@given(seed=seeds)
def test_each_distortion_happens(pipeline: Callable[[], Transform], seed: int) -> None:
    """Of 50 draws some are cropped to half of the area, some rotated, and some mirrored."""
    # The area is uniform from 8 % to 100 %, the angle from -30 to 30 degrees. By chance an example
    # fails with probability 3 * 0.55 ** 50 + 2 * 0.5 ** 50 < 4e-13.
    torch.manual_seed(seed)
    transform = pipeline()

    steps = [find_steps(transform(places())) for _ in range(50)]

    areas = [np.linalg.norm(right) * np.linalg.norm(down) for right, down, _ in steps]
    angles = [math.degrees(math.atan2(*down)) for _, down, _ in steps]
    mirrored = [right[0] < 0 for right, _, _ in steps]
    assert min(areas) * (SIZE / SIDE) ** 2 < 0.55, "some are cropped"
    turned = min(angles) < -3 and max(angles) > 3
    assert turned, "some are rotated to either side"
    assert any(mirrored), "some are mirrored"
    assert not all(mirrored), "some are not mirrored"


def draws_elsewhere(size: int) -> Transform:
    """Draw from Python's generator, which torch.manual_seed does not seed."""
    return v2.Compose([lambda image: image.rotate(random.uniform(-30, 30)), v2.ToImage()])


def seeds_itself(size: int) -> Transform:
    """Seed torch at each call."""

    def transform(image: Image.Image) -> Tensor:
        torch.manual_seed(0)
        return train_pipeline(size)(image)

    return transform


@law(
    right=train_pipeline,
    wrong={
        draws_elsewhere: "one seed gives one image",
        seeds_itself: "further draws give other images",
        eval_pipeline: "further draws give other images",
    },
    share=0.2,
    because="each example draws 82 images",
    cpu_only=HOST,
)
@given(seed=seeds)
def test_draws_differ_and_a_seed_repeats_them(
    pipeline: Callable[[int], Transform], seed: int
) -> None:
    """One seed gives one image, and 80 draws are not all the same."""
    # If they were, all or none would be mirrored: the probability is below 2 ** -79 = 2e-24.
    transform, image = pipeline(8), places()
    torch.manual_seed(seed)
    first = bits(transform(image))
    torch.manual_seed(seed)

    repeated = bits(transform(image)) == first

    assert repeated, "one seed gives one image"
    further = {bits(transform(image)) for _ in range(80)}
    assert len(further) > 1, "further draws give other images"


def flips_the_rows(image: Image.Image) -> Image.Image:
    """Mirror top and bottom."""
    return ImageOps.flip(image)


def shifts_by_one(image: Image.Image) -> Image.Image:
    """Mirror around the wrong axis, one column to the right."""
    return Image.fromarray(np.roll(np.asarray(ImageOps.mirror(image)), 1, axis=1))


@law(
    right=v2.RandomHorizontalFlip(1),
    wrong={flips_the_rows: "change places", shifts_by_one: "change places"},
    cpu_only=HOST,
)
@given(width=st.integers(1, 5), height=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_a_mirrored_image_has_left_and_right_swapped(
    mirror: Callable[[Image.Image], Image.Image], width: int, height: int, seed: int
) -> None:
    """Column x becomes column width - 1 - x, alone and at the end of the library's pipeline."""
    image = picture("RGB", (width, height), seed)

    swapped = np.asarray(image)[:, ::-1]
    assert (np.asarray(mirror(image)) == swapped).all(), "left and right change places"
    outputs = []
    for flip in (0, 1):
        torch.manual_seed(seed)  # the same rotation, and the same crop
        outputs.append(train_pipeline(width, flip=flip)(image))
    assert bits(outputs[1]) == bits(outputs[0].flip(-1)), "in the pipeline they change places too"


def mirrors_with(flip: float) -> Transform:
    """Mirror with the given probability, and do not rotate."""
    return train_pipeline(8, degrees=0, flip=flip, **RAW)


def mirrors_digits(flip: float) -> Transform:
    """Keep the default probability even where left and right matter."""
    return train_pipeline(8, degrees=0, **RAW)


def mirrors_the_others(flip: float) -> Transform:
    """Mistake the probability for that of leaving the image alone."""
    return mirrors_with(1 - flip)


@law(
    right=mirrors_with,
    wrong={
        mirrors_digits: "keeps left and right, and with them the label",
        mirrors_the_others: "keeps left and right, and with them the label",
    },
    share=0.2,
    because="each example draws 100 images",
    cpu_only=HOST,
)
@given(flip=st.sampled_from([0.0, 0.2, 0.5, 1.0]), seed=seeds)
def test_an_image_is_mirrored_as_often_as_asked(
    pipeline: Callable[[float], Transform], flip: float, seed: int
) -> None:
    """An arrow that points right, and is labelled so, is mirrored with the probability `flip`."""
    torch.manual_seed(seed)
    transform, image = pipeline(flip), places()

    outputs = [transform(image)[0] for _ in range(100)]

    # In places() red grows from left to right.
    mirrored = sum(bool(red[:, 0].mean() > red[:, -1].mean()) for red in outputs)
    if flip == 0:
        assert mirrored == 0, "flip=0 keeps left and right, and with them the label"
    # The number is binomial. So small a p-value makes chance fail one example in 10 ** 13.
    chance = binomtest(mirrored, 100, flip).pvalue
    assert chance > 1e-13, f"flip={flip} mirrors that share, but mirrored {mirrored} of 100"


def distorts_otherwise(size: int) -> Transform:
    """Augment with negatives, which no test image is."""
    plain = eval_pipeline(size)
    return lambda image: plain(ImageOps.invert(image) if torch.rand(()) < 0.5 else image)


@law(
    right=train_pipeline,
    wrong={eval_pipeline: "is right on more", distorts_otherwise: "is right on more"},
    share=0.01,
    because="each example trains twelve networks",
    cpu_only=HOST,
)
@given(seed=seeds)
def test_a_network_trained_on_distorted_images_knows_more_of_them(
    pipeline: Callable[[int], Transform], seed: int
) -> None:
    """Training on distorted shapes gives more right answers on others than training on plain ones.

    Of 100 networks, each tested on 60 shapes, the gain was 10.1 on average, with a deviation of
    3.5. That six together gain nothing is seven deviations away, a chance of 1e-12.
    """
    runs = range(seed, seed + 6)

    gain = sum(right_on_distorted(pipeline, k) - right_on_distorted(eval_pipeline, k) for k in runs)

    assert gain > 0, f"a network trained on distorted images is right on more of them, not {gain}"


def augments_when_read(root: Path, num_workers: int) -> DataLoader[Any]:
    """Give the pipeline to the dataset, which draws whenever it reads an image."""
    return loads(image_folder(root, transform=train_pipeline(4)), 40, num_workers)


def augments_once(root: Path, num_workers: int) -> DataLoader[Any]:
    """Store the distorted images, so that every epoch gets the same ones."""
    return loads(list(image_folder(root, transform=train_pipeline(4))), 40, num_workers)


def seeds_each_epoch(root: Path, num_workers: int) -> DataLoader[Any]:
    """Seed torch with the same number at the start of each epoch."""

    class SeededLoader(DataLoader[Any]):
        def __iter__(self) -> Any:
            torch.manual_seed(0)
            return super().__iter__()

    return SeededLoader(image_folder(root, transform=train_pipeline(4)), 40)


def copies_its_generator(root: Path, num_workers: int) -> DataLoader[Any]:
    """Draw from a generator in the transform, of which each worker gets the same copy."""
    return loads(image_folder(root, transform=OwnGenerator()), 40, num_workers)


@law(
    right=augments_when_read,
    wrong={
        augments_once: "each epoch draws new distortions",
        seeds_each_epoch: "each epoch draws new distortions",
        copies_its_generator: "workers do not repeat each other's draws",
    },
    share=0.02,
    because="each example reads 320 images, half of them in worker processes",
    cpu_only=HOST,
)
@given(seed=seeds)
# Since Python 3.12 a fork warns if the process has threads, and torch starts some.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_no_draw_repeats_another(load: Callable[[Path, int], DataLoader[Any]], seed: int) -> None:
    """Two batches of the same image differ, whether from two workers, one, or two epochs."""
    # By chance 40 images are mirrored like 40 others with probability 2 ** -40. With eight pairs,
    # an example fails by chance with probability 8e-12.
    torch.manual_seed(seed)
    copies = {f"cat/{number:02}.ppm": places().resize((16, 16)) for number in range(80)}
    for num_workers in (0, 2):  # of two workers, each loads one of the two batches
        with saved(copies) as root:
            loader = load(root, num_workers)
            epochs = [[bits(images) for images, _ in loader] for _ in range(2)]
        for first, second in epochs:
            assert first != second, "workers do not repeat each other's draws"
        for one, other in zip(*epochs, strict=True):
            assert one != other, "each epoch draws new distortions"
