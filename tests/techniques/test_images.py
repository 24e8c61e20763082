"""Techniques of images beyond the claims: splits, bad input, defaults, long strips, pictures."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest
from torchvision.models import MobileNet_V2_Weights
from torchvision.transforms import v2

from dlconcepts.images import (
    MEAN,
    STD,
    ImageFolder,
    eval_pipeline,
    image_folder,
    read_rgb,
    split,
    to_rgb,
    train_pipeline,
)
from dlconcepts.support.bitwise import bits
from dlconcepts.support.datasets import DataError
from dlconcepts.support.plots import view_augmentations
from tests.images.common import RAW, picture, places


@given(
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=4),
    size=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_a_split_holds_out_the_same_share_of_each_class(
    sizes: list[int], size: float, seed: int
) -> None:
    """Each image is in one part, and each class is split by the share, in whole images."""
    samples = [(Path(f"{k}/{i}"), k) for k, n in enumerate(sizes) for i in range(n)]
    folder = ImageFolder([str(k) for k in range(len(sizes))], samples)

    train, held_out = split(folder, size, seed=seed)

    assert sorted(train.samples + held_out.samples) == samples, "each image is in one part, once"
    for label, n in enumerate(sizes):
        held = held_out.targets.count(label)
        nearest = min(max(size * n, 1), n - 1)
        assert abs(held - nearest) <= 0.5, "the share is rounded to whole images"
    assert split(folder, size, seed=seed) == (train, held_out), "one seed gives one split"


def test_a_split_holds_out_a_fifth_with_seed_0_by_default() -> None:
    """Without arguments the split is the same each time."""
    folder = ImageFolder(["cat"], [(Path(str(i)), 0) for i in range(100)])

    assert split(folder) == split(folder, 0.2, seed=0)


def test_a_folder_without_a_transform_gives_pil_images(tmp_path: Path) -> None:
    """An example is an RGB image of PIL and its label."""
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "cat" / "one.png")

    image, label = image_folder(tmp_path)[0]

    assert (image.size, image.getpixel((0, 0)), label) == ((3, 2), (1, 2, 3), 0)


def test_each_image_is_held_out_as_often_as_any_other() -> None:
    """A third of 6 images is held out with 2,000 seeds: each image in a binomial number of splits.

    The seeds are fixed, so the test gives the same result each time.
    """
    folder = ImageFolder(["cat"], [(Path(str(i)), 0) for i in range(6)])
    held = [path for seed in range(2000) for path, _ in split(folder, 1 / 3, seed=seed)[1].samples]

    for path, _ in folder.samples:
        assert binomtest(held.count(path), 2000, 1 / 3).pvalue > 1e-12


@pytest.mark.parametrize("size", [0.0, 1.0, -0.5, 3, math.nan])
def test_a_share_outside_0_and_1_is_an_error(size: float) -> None:
    """A split that leaves one part empty, or has no meaning, is refused."""
    folder = ImageFolder(["cat"], [(Path("1"), 0), (Path("2"), 0)])

    with pytest.raises(ValueError, match="between 0 and 1"):
        split(folder, size)


def test_a_class_with_one_image_cannot_be_split() -> None:
    """The error names the class."""
    with pytest.raises(ValueError, match="the class cat has 1 image"):
        split(ImageFolder(["cat"], [(Path("1"), 0)]))


def test_a_missing_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    """An image may disappear after the folder was checked."""
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        read_rgb(tmp_path / "gone.png")


def test_each_damaged_image_is_listed_on_a_line(tmp_path: Path) -> None:
    """One error lists them all, so that they can be repaired at once."""
    (tmp_path / "cat").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "cat" / name).touch()

    with pytest.raises(DataError) as error:
        image_folder(tmp_path)

    first, *lines = str(error.value).splitlines()
    assert first == "2 of the 2 images cannot be read; repair, remove or skip them:"
    assert [line.partition(" cannot")[0] for line in lines] == [
        f"the image {tmp_path / 'cat' / name}" for name in ("1.png", "2.png")
    ]


@pytest.mark.parametrize(
    ("value", "grey"), [(-300, 0), (0, 0), (255, 0), (0x1234, 0x12), (0xFFFF, 255), (70_000, 255)]
)
def test_32_bit_grey_is_read_as_16_bit_and_clipped(value: int, grey: int) -> None:
    """Pillow opens 16-bit PNG files in a mode of 32 bits, which can hold more."""
    assert to_rgb(Image.new("I", (1, 1), value)).getpixel((0, 0)) == (grey, grey, grey)


def test_the_default_is_the_transform_of_torchvisions_weights() -> None:
    """Without `resize`, 224 pixels are cropped from 256."""
    image = picture("RGB", (300, 280), seed=0)

    same_bits = bits(eval_pipeline(224)(image)) == bits(
        MobileNet_V2_Weights.IMAGENET1K_V1.transforms()(image)
    )

    assert same_bits


def test_by_default_a_training_image_is_rotated_by_up_to_30_degrees() -> None:
    """The rotation is bilinear and fills the corners with white."""
    rotation = train_pipeline(8).transforms[1]

    assert (rotation.degrees, rotation.fill) == ([-30, 30], 255)
    assert rotation.interpolation == v2.InterpolationMode.BILINEAR


def test_a_long_strip_is_cut_before_it_is_scaled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip of 1 x 3,000 pixels never takes 32 x 96,000 pixels of memory."""
    sizes, resize = [], Image.Image.resize

    def recorded(image: Image.Image, size: tuple[int, int], *args: Any, **options: Any) -> Any:
        sizes.append(size)
        return resize(image, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    eval_pipeline(28, resize=32)(Image.new("RGB", (1, 3000)))

    assert sizes == [(32, 320)]


@pytest.mark.parametrize("height", [11, 13, 15, 17])
def test_a_long_strip_is_cut_around_its_centre(height: int) -> None:
    """The same length is cut off at both ends."""
    strip = Image.new("L", (1, height))
    strip.putpixel((0, height // 2), 255)

    assert eval_pipeline(1, **RAW)(strip).eq(1).all()


def test_view_augmentations_shows_each_image_and_its_draws() -> None:
    """Each row is an image and its draws, un-normalised, in the order of the draws."""
    images, transform = [places(), picture("RGB", (6, 9), seed=0)], train_pipeline(16)
    torch.manual_seed(0)
    figure = view_augmentations(images, transform, draws=3, mean=MEAN, std=STD)
    torch.manual_seed(0)

    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]

    official = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    for image, row in zip(images, (shown[:4], shown[4:]), strict=True):
        assert (row[0] == np.asarray(image)).all(), "the first of a row is the image"
        for drawn in row[1:]:
            expected = (transform(image) * official[1] + official[0]).permute(1, 2, 0)
            assert np.abs(drawn - expected.numpy()).max() < 1e-6, "the others are the draws"


@pytest.mark.parametrize(("images", "draws"), [([], 1), ([places()], 0)])
def test_view_augmentations_needs_an_image_and_a_draw(
    images: list[Image.Image], draws: int
) -> None:
    """Without an image or a draw there is nothing to show."""
    with pytest.raises(ValueError, match="need at least 1 image and 1 draw"):
        view_augmentations(images, train_pipeline(8), draws=draws, mean=MEAN, std=STD)
