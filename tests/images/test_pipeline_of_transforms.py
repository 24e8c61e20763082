"""A pipeline of transforms makes images alike, and the order of its steps matters.

>>> from PIL import Image
>>> from torchvision.transforms import v2
>>> wide, tall = Image.new("RGB", (20, 10)), Image.new("RGB", (9, 30))
>>> resize, crop = v2.Resize(8), v2.CenterCrop(4)
>>> [v2.Compose([resize, crop])(image).size for image in (wide, tall)]
[(4, 4), (4, 4)]
>>> [v2.Compose([crop, resize])(image).size for image in (wide, tall)]
[(8, 8), (8, 8)]

Notes: Resize, crop and convert to a tensor, composed into a pipeline, so that all images come out
    alike.
Verdict: holds
Truth: An image of any size and mode comes out upright, in RGB on white, as float32 of shape
    (3, size, size). Resize(s) keeps the aspect ratio, Resize((s, s)) squashes.
"""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from torchvision.models import MobileNet_V2_Weights
from torchvision.transforms import v2

from dlconcepts.images import MEAN, STD, eval_pipeline, read_rgb, to_rgb, train_pipeline
from dlconcepts.loading import image_pipeline
from dlconcepts.support.bitwise import bits
from dlconcepts.support.datasets import DataError
from dlconcepts.testing.laws import law
from tests.images.common import (
    HOST,
    RAW,
    TRANSPARENT,
    Transform,
    on_white,
    picture,
    pictures,
    profile,
    ramps,
    squashes,
)

ORIENTATION = 0x0112  # the EXIF tag


def drops_transparency(image: Image.Image) -> Image.Image:
    """Convert to RGB alone, as ImageFolder does, so that transparent pixels show."""
    return to_rgb(image.convert("RGB")) if image.mode in TRANSPARENT else to_rgb(image)


def drops_a_transparent_colour(image: Image.Image) -> Image.Image:
    """Handle an alpha channel but not the transparent colour of a palette."""
    return image.convert("RGB") if image.mode == "P" else to_rgb(image)


def puts_on_black(image: Image.Image) -> Image.Image:
    """Turn transparent pixels black."""
    if image.mode not in TRANSPARENT:
        return to_rgb(image)
    black = Image.new("RGBA", image.size, "black")
    black.alpha_composite(image.convert("RGBA"))
    return black.convert("RGB")


def keeps_the_mode(image: Image.Image) -> Image.Image:
    """Leave grey images grey."""
    return image if image.mode == "L" else to_rgb(image)


def takes_palette_numbers_for_grey(image: Image.Image) -> Image.Image:
    """Use the pixels of a palette image, which number its colours, as grey levels."""
    return to_rgb(Image.fromarray(np.asarray(image))) if image.mode == "P" else to_rgb(image)


def clips_16_bits(image: Image.Image) -> Image.Image:
    """Clip 16-bit grey at 255, so that almost all of it is white."""
    if image.mode == "I;16":
        image = Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8))
    return to_rgb(image)


@law(
    right=to_rgb,
    wrong={
        drops_transparency: "the colours that people see, of LA and RGBA on white",
        drops_a_transparent_colour: "the colours that people see, of P",
        puts_on_black: "the colours that people see, of LA and RGBA on white",
        keeps_the_mode: "three colours",
        takes_palette_numbers_for_grey: "the colours that people see, of P",
        clips_16_bits: "the colours that people see, of I;16",
    },
    cpu_only=HOST,
)
@given(image=pictures())
def test_any_image_becomes_three_colours_on_white(
    convert: Callable[[Image.Image], Image.Image], image: Image.Image
) -> None:
    """Grey, palettes, print colours, 16 bits and transparency become the RGB that people see."""
    converted = convert(image)

    assert converted.mode == "RGB", f"an image of mode {image.mode} gets three colours"
    mode = "LA and RGBA on white" if image.mode in TRANSPARENT else image.mode
    difference = np.abs(np.asarray(converted) - on_white(image)).max()
    # Pillow blends in whole numbers, which rounds once.
    assert difference <= 1, f"it has the colours that people see, of {mode}"


def ignores_orientation(path: Path) -> Image.Image:
    """Open and convert, as ImageFolder does."""
    with Image.open(path) as image:
        return image.convert("RGB")


def turns_the_other_way(path: Path) -> Image.Image:
    """Mistake how the camera was turned for how to turn the image."""
    with Image.open(path) as image:
        swapped = {6: 8, 8: 6}
        exif = image.getexif()
        exif[ORIENTATION] = swapped.get(exif[ORIENTATION], exif[ORIENTATION])
        return ImageOps.exif_transpose(image).convert("RGB")


def forgets_mirrored_ones(path: Path) -> Image.Image:
    """Handle the three rotations only."""
    with Image.open(path) as image:
        angle = {3: 180, 6: 270, 8: 90}.get(image.getexif()[ORIENTATION], 0)
        return image.convert("RGB").rotate(angle, expand=True)


# What the EXIF standard says how to display each orientation.
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@law(
    right=read_rgb,
    wrong={
        ignores_orientation: "the image is upright",
        turns_the_other_way: "the image is upright",
        forgets_mirrored_ones: "the image is upright",
    },
    cpu_only=HOST,
)
@given(
    orientation=st.sampled_from(list(UPRIGHT)),
    width=st.integers(2, 4),
    height=st.integers(2, 4),
    mode=st.sampled_from(["L", "RGB", "RGBA"]),
)
def test_an_image_is_read_upright(
    read: Callable[[Path], Image.Image], orientation: int, width: int, height: int, mode: str
) -> None:
    """The EXIF orientation is applied once, whether it rotates or mirrors."""
    stored = picture("RGB", (width, height), seed=0).convert(mode)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    with tempfile.TemporaryDirectory() as folder:
        stored.save(Path(folder, "1.png"), exif=exif)

        image = read(Path(folder, "1.png"))

    expected = UPRIGHT[orientation](np.asarray(stored.convert("RGB")))
    upright = image.size == expected.shape[1::-1] and (np.asarray(image) == expected).all()
    assert upright, f"the image is upright, orientation {orientation}"
    assert to_rgb(image).tobytes() == image.tobytes(), "a second call does not turn it again"


def loses_the_orientation(image: Image.Image) -> Image.Image:
    """Copy the pixels without what the camera noted."""
    return to_rgb(Image.fromarray(np.asarray(image)))


def turns_to_the_wrong_side(image: Image.Image) -> Image.Image:
    """Turn left where the camera was turned right."""
    sideways = image.getexif().get(ORIENTATION) in (6, 8)
    return to_rgb(image).rotate(180 if sideways else 0)


@law(
    right=to_rgb,
    wrong={loses_the_orientation: "is upright", turns_to_the_wrong_side: "is upright"},
    cpu_only=HOST,
)
@given(orientation=st.sampled_from(list(UPRIGHT)), seed=st.integers(0, 99))
def test_an_image_becomes_upright(
    convert: Callable[[Image.Image], Image.Image], orientation: int, seed: int
) -> None:
    """The EXIF orientation that an image carries is applied."""
    image, exif = picture("RGB", (3, 2), seed), Image.Exif()
    exif[ORIENTATION] = orientation
    image.info["exif"] = exif.tobytes()

    converted = np.asarray(convert(image))

    assert np.array_equal(converted, UPRIGHT[orientation](np.asarray(image))), "it is upright"


def white_instead(path: Path) -> Image.Image:
    """Go on with a white image."""
    try:
        return read_rgb(path)
    except DataError:
        return Image.new("RGB", (1, 1), "white")


def grey_where_it_ends(path: Path) -> Image.Image:
    """Let Pillow accept a file that is cut off, and fill the rest with grey."""
    with patch.object(ImageFile, "LOAD_TRUNCATED_IMAGES", True):
        return read_rgb(path)


@law(
    right=read_rgb,
    wrong={white_instead: "DID NOT RAISE", grey_where_it_ends: "DID NOT RAISE"},
    cpu_only=HOST,
)
@given(
    fault=st.sampled_from(["cut off", "no file", "a folder", "empty", "text"]),
    ending=st.sampled_from([".jpg", ".png"]),
)
def test_an_image_that_cannot_be_read_is_named(
    read: Callable[[Path], Image.Image], fault: str, ending: str
) -> None:
    """A missing file, a folder or a damaged image is an error that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"1{ending}")
        if fault == "a folder":
            path.mkdir()
        elif fault != "no file":
            picture("RGB", (64, 64), seed=0).save(path)
            half = path.read_bytes()[: path.stat().st_size // 2]
            path.write_bytes({"cut off": half, "empty": b"", "text": b"<html>"}[fault])

        with pytest.raises(DataError) as error:
            read(path)

    assert str(path) in str(error.value), "the error names the file"


def leaves_grey_in_one_channel(size: int) -> Transform:
    """Leave a grey image with one channel."""
    colours = v2.Lambda(lambda image: image if image.mode == "L" else to_rgb(image))
    return v2.Compose([colours, v2.RandomResizedCrop(size), image_pipeline()])


def normalises_before_scaling(size: int) -> Transform:
    """Subtract the mean from bytes; the conversion then sees floats and does not divide by 255."""
    normalize = v2.Lambda(lambda image: (np.asarray(image, np.float32) - MEAN) / np.asarray(STD))
    scale = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([to_rgb, v2.Resize((size, size)), normalize, v2.ToImage(), scale])


def forgets_the_crop(size: int) -> Transform:
    """Scale the short side and keep all of the long one."""
    return v2.Compose([to_rgb, v2.Resize(size), image_pipeline(MEAN, STD)])


def leaves_bytes(size: int) -> Transform:
    """Forget the conversion to floats."""
    return v2.Compose([to_rgb, v2.Resize((size, size)), v2.PILToTensor()])


def rotates_by_pythons_generator(size: int) -> Transform:
    """Draw the angle from Python's generator, which torch's seed does not reach."""
    rotate = v2.Lambda(lambda image: image.rotate(random.uniform(-90, 90)))
    return v2.Compose([rotate, train_pipeline(size, degrees=0)])


NOT_ALIKE = {
    leaves_grey_in_one_channel: "comes out (3, size, size)",
    forgets_the_crop: "comes out (3, size, size)",
    leaves_bytes: "float32",
    normalises_before_scaling: "black and white are the limits",
    rotates_by_pythons_generator: "torch's seed repeats",
}


@law(right=train_pipeline, wrong=NOT_ALIKE, cpu_only=HOST)
@given(image=pictures(max_side=12), size=st.integers(1, 12))
def test_a_training_image_comes_out_like_any_other(
    pipeline: Callable[[int], Transform], image: Image.Image, size: int
) -> None:
    """An image of any size and mode gives (3, size, size), float32, between black and white."""
    check_output(pipeline, image, size)


@law(right=eval_pipeline, wrong=NOT_ALIKE, cpu_only=HOST)
@given(image=pictures(max_side=12), size=st.integers(1, 12))
def test_a_test_image_comes_out_like_any_other(
    pipeline: Callable[[int], Transform], image: Image.Image, size: int
) -> None:
    """An image of any size and mode gives (3, size, size), float32, between black and white."""
    check_output(pipeline, image, size)


def check_output(pipeline: Callable[[int], Transform], image: Image.Image, size: int) -> None:
    torch.manual_seed(0)
    output = pipeline(size)(image)

    assert output.shape == (3, size, size), "an image comes out (3, size, size)"
    assert output.dtype == torch.float32, "the values are float32"
    black, white = ((v - torch.tensor(MEAN)) / torch.tensor(STD) for v in (0, 1))
    values = output.flatten(1)
    # 1e-6 is four units in the last place of the largest value, 2.64.
    inside = (values.amin(1) >= black - 1e-6).all() and (values.amax(1) <= white + 1e-6).all()
    assert inside, "black and white are the limits of the values, which are finite"
    torch.manual_seed(0)
    assert pipeline(size)(image).equal(output), "torch's seed repeats all that is drawn"


def crops_before_scaling(size: int, *, resize: int, **statistics: Any) -> Transform:
    """Swap two steps: crop the image at its own size, then scale the crop."""
    return v2.Compose([v2.CenterCrop(size), v2.Resize(size), image_pipeline(**statistics)])


def scales_to_the_crop(size: int, *, resize: int, **statistics: Any) -> Transform:
    """Scale the short side to the size of the crop at once."""
    return eval_pipeline(size, resize=size, **statistics)


def interpolates_nothing(size: int, *, resize: int, **statistics: Any) -> Transform:
    """Take the nearest pixel."""
    nearest = v2.Resize(resize, interpolation=v2.InterpolationMode.NEAREST)
    return v2.Compose([nearest, v2.CenterCrop(size), image_pipeline(**statistics)])


@law(
    right=eval_pipeline,
    wrong={
        squashes: "the transforms of torchvision's weights",
        crops_before_scaling: "the transforms of torchvision's weights",
        scales_to_the_crop: "the transforms of torchvision's weights",
        interpolates_nothing: "the transforms of torchvision's weights",
    },
    cpu_only=HOST,
)
@given(
    width=st.integers(1, 30),
    height=st.integers(1, 30),
    size=st.integers(1, 12),
    more=st.integers(0, 6),
    seed=st.integers(0, 2**16),
)
def test_a_network_sees_what_it_was_trained_to_see(
    pipeline: Callable[..., Transform], width: int, height: int, size: int, more: int, seed: int
) -> None:
    """The pipeline gives, bit for bit, what the transforms of torchvision's weights give."""
    # Of a longer strip the pipeline cuts off the ends first, which can change the last bit.
    assume(max(width, height) <= 10 * min(width, height))
    image = picture("RGB", (width, height), seed)
    weights = MobileNet_V2_Weights.IMAGENET1K_V1
    official = weights.transforms(crop_size=size, resize_size=size + more)

    output = pipeline(size, resize=size + more, mean=MEAN, std=STD)(image)

    same_bits = bits(output) == bits(official(image))
    assert same_bits, "an image is what the transforms of torchvision's weights make of it"


@law(right=eval_pipeline, wrong={squashes: "the aspect ratio is kept"}, cpu_only=HOST)
@given(ramp=ramps(), size=st.integers(6, 16), more=st.integers(0, 16))
def test_the_aspect_ratio_is_kept(
    pipeline: Callable[..., Transform], ramp: tuple[Image.Image, bool], size: int, more: int
) -> None:
    """The long side is scaled by the same factor as the short one, which gets `resize` pixels."""
    image, along_x = ramp
    short, long = sorted(image.size)

    output = pipeline(size, resize=size + more, **RAW)(image)

    levels = profile(output, along_x)
    # The ramp climbs by this much from one output pixel to the next.
    step = 255 / (long - 1) * short / (size + more)
    # torchvision cuts the scaled long side to whole pixels: up to a pixel in 2 * resize. The first
    # and the last level are rounded to whole numbers.
    tolerance = 2 + step * size / (2 * (size + more))
    kept = abs((levels[-1] - levels[0]) - (size - 1) * step) <= tolerance
    assert kept, "the aspect ratio is kept"
