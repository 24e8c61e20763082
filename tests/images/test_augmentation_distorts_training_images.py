"""Augmentation distorts training images.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Augmentation makes the model robust to distorted images.
Verdict: holds
"""

import math
import multiprocessing
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.stats import binomtest
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dlconcepts.images import eval_pipeline, image_folder, to_rgb, train_pipeline
from dlconcepts.loading import image_pipeline
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.images.common import HOST, SIDE, Transform, picture, places


def find_steps(output: Tensor) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Return what a step right and a step down in a distorted `places()` are in the original.

    They come from the affine function that fits best, in pixels (x, y); the third is its error.
    """
    red, green, blue = output.double().numpy() * 255
    image = np.abs(blue - 128) < 0.5  # not the white of the corners
    assert image.sum() > 100, "the colours are kept"
    rows, columns = np.nonzero(image)
    out = np.stack([columns, rows, np.ones_like(rows)], axis=1)
    source = np.stack([red[image], green[image]], axis=1) / 4
    affine, *_ = np.linalg.lstsq(out, source, rcond=None)
    return affine[0], affine[1], float(np.abs(out @ affine - source).max())


def distorts_with(*steps: Any, size: int = 32) -> Transform:
    """Return a training pipeline with other distortions, without normalisation."""
    return v2.Compose([to_rgb, *steps, v2.Resize((size, size)), image_pipeline(0, 1)])


def right_way_up(size: int) -> Transform:
    """Augment as the library does, without normalisation."""
    return train_pipeline(size, mean=(0,) * 3, std=(1,) * 3)


def swaps_the_colours(size: int) -> Transform:
    """Mirror the last axis of an array (H, W, C), which is that of the colours."""
    return distorts_with(lambda image: Image.fromarray(np.asarray(image)[..., ::-1].copy()))


def inverts(size: int) -> Transform:
    """Make a negative, as if colours meant nothing."""
    return distorts_with(ImageOps.invert)


def turns_upside_down(size: int) -> Transform:
    """Mirror top and bottom, as no photograph is held."""
    return distorts_with(v2.RandomVerticalFlip())


def turns_too_far(size: int) -> Transform:
    """Rotate by any angle."""
    return distorts_with(v2.RandomRotation(80, fill=255))


def shears(size: int) -> Transform:
    """Push the top to one side, so that what was square no longer is."""
    return distorts_with(v2.RandomAffine(0, shear=30, fill=255))


def squeezes(size: int) -> Transform:
    """Crop windows of any aspect ratio and make squares of them."""
    return distorts_with(v2.RandomResizedCrop(32, ratio=(0.2, 5)))


def crops_specks(size: int) -> Transform:
    """Crop so little that it shows nothing."""
    return distorts_with(v2.RandomResizedCrop(32, scale=(0.01, 0.05)))


def leaves_black_corners(size: int) -> Transform:
    """Rotate, and fill what comes in from outside with black, as RandomRotation does."""
    return distorts_with(v2.RandomRotation(30))


def waves(size: int) -> Transform:
    """Move each row by itself."""

    def wave(image: Image.Image) -> Image.Image:
        """Shift every other row by eight pixels."""
        rows = [np.roll(row, 8 * (y % 2), axis=0) for y, row in enumerate(np.asarray(image))]
        return Image.fromarray(np.stack(rows))

    return distorts_with(wave)


@law(
    right=right_way_up,
    wrong={
        swaps_the_colours: "the colours are kept",
        inverts: "the colours are kept",
        turns_upside_down: "up stays up",
        turns_too_far: "rotated by 30 degrees at most",
        shears: "right angles stay right",
        squeezes: "stretched by a third at most",
        crops_specks: "at least 8 % of the area",
        waves: "straight lines stay straight",
        leaves_black_corners: "what comes in from outside is white",
    },
    cpu_only=HOST,
)
@given(seed=st.integers(0, 2**32))
def test_a_distorted_image_is_rotated_cropped_and_mirrored(
    pipeline: Callable[[int], Transform], seed: int
) -> None:
    """Each pixel shows where it was: all were rotated, scaled and mirrored together, within limits.

    Source places are an affine function of the place in the output. Its columns are the steps right
    and down; they stay orthogonal, as a rotation and then a stretch along the axes leave them.
    """
    torch.manual_seed(seed)

    output = pipeline(32)(places())

    right, down, error = find_steps(output)
    assert output[2].min() * 255 > 127, "what comes in from outside is white"
    assert error < 2, "straight lines stay straight"
    width, height = 32 * np.linalg.norm(right), 32 * np.linalg.norm(down)
    assert down[1] > 0, "up stays up"
    assert abs(right @ down) < 0.06 * width * height / 32**2, "right angles stay right"
    assert math.degrees(math.atan2(abs(down[0]), down[1])) < 33, "rotated by 30 degrees at most"
    assert 0.7 < width / height < 1.43, "stretched by a third at most"
    assert 0.07 < width * height / SIDE**2 < 1.05, "the crop has at least 8 % of the area"


def only_mirrors(size: int) -> Transform:
    """Leave the rotation and the crop out."""
    return distorts_with(v2.RandomHorizontalFlip())


def never_mirrors(size: int) -> Transform:
    """Leave the mirror out."""
    return train_pipeline(size, flip=0, mean=(0,) * 3, std=(1,) * 3)


def never_rotates(size: int) -> Transform:
    """Leave the rotation out."""
    return train_pipeline(size, degrees=0, mean=(0,) * 3, std=(1,) * 3)


@law(
    right=right_way_up,
    wrong={
        only_mirrors: "some are cropped",
        never_rotates: "some are rotated",
        never_mirrors: "some are mirrored",
    },
    share=0.1,
    because="each example draws 50 images",
    cpu_only=HOST,
)
@given(seed=st.integers(0, 2**32))
def test_each_distortion_happens(pipeline: Callable[[int], Transform], seed: int) -> None:
    """Of 50 draws some are cropped to half of the area, some rotated by 8 degrees, some mirrored.

    The area is uniform from 8 % to 100 % and the angle from -30 to 30 degrees, so that a draw does
    neither with probabilities below 0.55 and 0.4, and one way round has 0.5: 0.55 ** 50 and twice
    0.5 ** 50 make chance fail an example with probability 2e-13 at most.
    """
    torch.manual_seed(seed)
    transform = pipeline(32)

    steps = [find_steps(transform(places())) for _ in range(50)]

    areas = [
        np.linalg.norm(right) * np.linalg.norm(down) * (32 / SIDE) ** 2 for right, down, _ in steps
    ]
    angles = [math.degrees(math.atan2(abs(down[0]), down[1])) for _, down, _ in steps]
    mirrored = [right[0] < 0 for right, _, _ in steps]
    assert min(areas) < 0.55, "some are cropped"
    assert max(angles) > 8, "some are rotated"
    assert any(mirrored), "some are mirrored"
    assert not all(mirrored), "some are not mirrored"


def draws_elsewhere(size: int) -> Transform:
    """Draw from Python's generator, which torch.manual_seed does not reach."""
    return v2.Compose([lambda image: image.rotate(random.uniform(-30, 30)), v2.ToImage()])


def seeds_itself(size: int) -> Transform:
    """Seed torch whenever it is called."""

    def transform(image: Image.Image) -> Tensor:
        """Seed, and distort."""
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
@given(seed=st.integers(0, 2**32))
def test_each_draw_is_another_and_a_seed_gives_it_again(
    pipeline: Callable[[int], Transform], seed: int
) -> None:
    """One seed gives one image, and 80 draws are not all the same.

    All the same would be mirrored all or none: the probability is below 2 ** -79 = 2e-24.
    """
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


def turns_round(image: Image.Image) -> Image.Image:
    """Rotate by 180 degrees, which is the identity when done twice, too."""
    return image.rotate(180)


def shifts_by_one(image: Image.Image) -> Image.Image:
    """Begin one pixel off, so that the first column stays where it was."""
    return Image.fromarray(np.roll(np.asarray(ImageOps.mirror(image)), 1, axis=1))


@law(
    right=v2.RandomHorizontalFlip(1),
    wrong={
        flips_the_rows: "left and right change places",
        turns_round: "left and right change places",
        shifts_by_one: "left and right change places",
    },
    cpu_only=HOST,
)
@given(width=st.integers(1, 5), height=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_a_mirrored_image_has_left_and_right_swapped(
    mirror: Callable[[Image.Image], Image.Image], width: int, height: int, seed: int
) -> None:
    """Column x becomes column width - 1 - x, so that twice is the identity."""
    image = picture("RGB", (width, height), seed)

    mirrored = mirror(image)

    pixels = np.asarray(image)
    assert (np.asarray(mirrored) == pixels[:, ::-1]).all(), "left and right change places"
    assert mirror(mirrored).tobytes() == image.tobytes(), "mirrored twice is the identity"


def mirrors_with(flip: float) -> Transform:
    """Leave only the mirror in the training pipeline, with a probability."""
    return train_pipeline(8, degrees=0, flip=flip, mean=(0,) * 3, std=(1,) * 3)


def mirrors_whatever(flip: float) -> Transform:
    """Keep the default, where left and right make a difference: digits come out mirrored."""
    return train_pipeline(8, degrees=0, mean=(0,) * 3, std=(1,) * 3)


def mirrors_the_others(flip: float) -> Transform:
    """Take the probability for that of leaving the image alone."""
    return mirrors_with(1 - flip)


@law(
    right=mirrors_with,
    wrong={
        mirrors_whatever: "keeps left and right, and with them the label",
        mirrors_the_others: "keeps left and right, and with them the label",
    },
    share=0.2,
    because="each example draws 100 images",
    cpu_only=HOST,
)
@given(flip=st.sampled_from([0.0, 0.2, 0.5, 1.0]), seed=st.integers(0, 2**32))
def test_an_image_is_mirrored_as_often_as_asked(
    pipeline: Callable[[float], Transform], flip: float, seed: int
) -> None:
    """An arrow that points right, and is labelled so, is mirrored with the probability `flip`.

    The number of mirrored ones among 100 is binomial; an exact two-sided p of 1e-13 is allowed.
    """
    torch.manual_seed(seed)
    transform, image = pipeline(flip), places()

    outputs = [transform(image)[0] for _ in range(100)]

    mirrored = sum(bool(red[:, 0].mean() > red[:, -1].mean()) for red in outputs)
    if flip == 0:
        assert mirrored == 0, "flip=0 keeps left and right, and with them the label"
    chance = binomtest(mirrored, 100, flip).pvalue
    assert chance > 1e-13, f"flip={flip} mirrors that share, but mirrored {mirrored} of 100"


@contextmanager
def copies() -> Iterator[Path]:
    """Write 80 copies of one image, which differ only by what is drawn."""
    with tempfile.TemporaryDirectory() as root:
        Path(root, "cat").mkdir()
        for number in range(80):
            places().resize((16, 16)).save(Path(root, "cat", f"{number:02}.ppm"))
        yield Path(root)


def loaded(dataset: Any, num_workers: int) -> DataLoader[Any]:
    """Load 40 images at a time: with two workers, each loads one batch."""
    fork = "fork" if num_workers and "fork" in multiprocessing.get_all_start_methods() else None
    return DataLoader(dataset, 40, num_workers=num_workers, multiprocessing_context=fork)


def augments_when_read(root: Path, num_workers: int) -> DataLoader[Any]:
    """Give the pipeline to the dataset, which draws whenever it reads an image."""
    return loaded(image_folder(root, transform=train_pipeline(4)), num_workers)


def augments_once(root: Path, num_workers: int) -> DataLoader[Any]:
    """Keep the distorted images, which are then the same in every epoch."""
    return loaded(list(image_folder(root, transform=train_pipeline(4))), num_workers)


def seeds_each_epoch(root: Path, num_workers: int) -> DataLoader[Any]:
    """Let each epoch begin with the same seed."""

    class Seeded(DataLoader[Any]):
        """A loader that seeds torch whenever an epoch begins."""

        def __iter__(self) -> Any:
            """Seed and start over."""
            torch.manual_seed(0)
            return super().__iter__()

    return Seeded(image_folder(root, transform=train_pipeline(4)), 40)


class OwnGenerator:
    """A transform with a generator of its own, which each worker gets a copy of."""

    def __init__(self) -> None:
        """Begin with a seed of chance."""
        self.generator = np.random.default_rng()

    def __call__(self, image: Image.Image) -> Tensor:
        """Mirror half of the images."""
        pixels = torch.from_numpy(np.array(image))
        return pixels.flip(1) if self.generator.random() < 0.5 else pixels


def copies_its_generator(root: Path, num_workers: int) -> DataLoader[Any]:
    """Augment with a generator of the transform's own."""
    return loaded(image_folder(root, transform=OwnGenerator()), num_workers)


@law(
    right=augments_when_read,
    wrong={
        augments_once: "each epoch draws anew",
        seeds_each_epoch: "each epoch draws anew",
        copies_its_generator: "workers do not repeat each other's draws",
    },
    share=0.02,
    because="each example reads 320 images, half of them in worker processes",
    cpu_only=HOST,
)
@given(seed=st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_no_draw_repeats_another(load: Callable[[Path, int], DataLoader[Any]], seed: int) -> None:
    """Two batches of the same image differ, whether of two workers, of one, or of two epochs.

    By chance 40 images are mirrored like 40 others with probability 2 ** -40; four pairs are
    compared twice over, which makes 8e-12 an example.
    """
    torch.manual_seed(seed)
    for num_workers in (0, 2):
        with copies() as root:
            loader = load(root, num_workers)
            epochs = [[bits(images) for images, _ in loader] for _ in range(2)]
        for first, second in epochs:
            assert first != second, "workers do not repeat each other's draws"
        for one, other in zip(*epochs, strict=True):
            assert one != other, "each epoch draws anew"
