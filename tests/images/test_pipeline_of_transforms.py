"""A pipeline of transforms.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Resize, crop and convert to a tensor, composed into a pipeline, so that all images come out
    alike.
Verdict: holds
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.models import MobileNet_V2_Weights
from torchvision.transforms import v2

from dlconcepts.images import MEAN, STD, eval_pipeline, read_rgb, to_rgb, train_pipeline
from dlconcepts.loading import image_pipeline
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.images.common import HOST, MODES, PALETTE, Transform, picture, profile, ramps, squashes


@st.composite
def pictures(draw: st.DrawFn, max_side: int = 4) -> Image.Image:
    """Draw images of any mode, of any size, some a single row or column of pixels."""
    mode = draw(st.sampled_from(sorted(MODES, key=len)))
    width, height = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    if draw(st.booleans()):
        width, height = draw(st.sampled_from([(1, 50 * height), (50 * width, 1)]))
    return picture(mode, (width, height), draw(st.integers(0, 2**16)))


def on_white(image: Image.Image) -> NDArray[np.float64]:
    """Return the colours that a person sees, (H, W, 3) from 0 to 255, in float64."""
    pixels = np.asarray(image).astype(np.float64)
    if image.mode == "P":
        transparent = np.asarray(image) == image.info.get("transparency")
        return np.where(transparent[..., None], 255.0, PALETTE[np.asarray(image)])
    if image.mode == "CMYK":
        return (255 - pixels[..., :3]) * (255 - pixels[..., 3:]) / 255
    if image.mode == "I;16":
        pixels = pixels // 256
    if image.mode == "1":
        pixels = 255 * pixels
    pixels = np.atleast_3d(pixels)
    if image.mode in ("LA", "RGBA"):
        alpha = pixels[..., -1:] / 255
        pixels = pixels[..., :-1] * alpha + 255 * (1 - alpha)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def drops_transparency(image: Image.Image) -> Image.Image:
    """Convert to RGB alone, as ImageFolder does: what was transparent shows."""
    return to_rgb(image.convert("RGB")) if image.mode in ("LA", "RGBA") else to_rgb(image)


def drops_a_transparent_colour(image: Image.Image) -> Image.Image:
    """Know an alpha channel only, not the transparent colour of a palette."""
    return image.convert("RGB") if image.mode == "P" else to_rgb(image)


def puts_on_black(image: Image.Image) -> Image.Image:
    """Let transparency become black."""
    if image.mode not in ("LA", "RGBA"):
        return to_rgb(image)
    black = Image.new("RGBA", image.size, "black")
    black.alpha_composite(image.convert("RGBA"))
    return black.convert("RGB")


def keeps_the_mode(image: Image.Image) -> Image.Image:
    """Leave grey images grey."""
    return image if image.mode == "L" else to_rgb(image)


def takes_palette_numbers_for_grey(image: Image.Image) -> Image.Image:
    """Make an array of the pixels, which in a palette image are numbers of colours."""
    return to_rgb(Image.fromarray(np.asarray(image))) if image.mode == "P" else to_rgb(image)


def cuts_16_bits_off(image: Image.Image) -> Image.Image:
    """Clip grey with 16 bits at 255, so that almost all of it is white."""
    if image.mode == "I;16":
        image = Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8))
    return to_rgb(image)


@law(
    right=to_rgb,
    wrong={
        drops_transparency: "the colours that a person sees, of LA and RGBA on white",
        drops_a_transparent_colour: "the colours that a person sees, of P",
        puts_on_black: "the colours that a person sees, of LA and RGBA on white",
        keeps_the_mode: "three colours",
        takes_palette_numbers_for_grey: "the colours that a person sees, of P",
        cuts_16_bits_off: "the colours that a person sees, of I;16",
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
    mode = "LA and RGBA on white" if image.mode in ("LA", "RGBA") else image.mode
    difference = np.abs(np.asarray(converted) - on_white(image)).max()
    assert difference <= 1, f"it has the colours that a person sees, of {mode}"


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return the pixels as the EXIF orientation says that they are to be looked at."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }[orientation]


def ignores_orientation(path: Path) -> Image.Image:
    """Open and convert, as ImageFolder does."""
    with Image.open(path) as image:
        return image.convert("RGB")


def turns_the_other_way(path: Path) -> Image.Image:
    """Take the rotation of the camera for that of the picture."""
    with Image.open(path) as image:
        swapped = {6: 8, 8: 6}
        exif = image.getexif()
        exif[0x0112] = swapped.get(exif[0x0112], exif[0x0112])
        return ImageOps.exif_transpose(image).convert("RGB")


def forgets_mirrored_ones(path: Path) -> Image.Image:
    """Know the three rotations only."""
    with Image.open(path) as image:
        angle = {3: 180, 6: 270, 8: 90}.get(image.getexif()[0x0112], 0)
        return image.convert("RGB").rotate(angle, expand=True)


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
    orientation=st.integers(1, 8),
    width=st.integers(2, 4),
    height=st.integers(2, 4),
    mode=st.sampled_from(["L", "RGB", "RGBA"]),
)
def test_an_image_is_read_upright(
    read: Callable[[Path], Image.Image], orientation: int, width: int, height: int, mode: str
) -> None:
    """The orientation that a camera noted in EXIF is applied, mirrored ones too, and once."""
    stored = picture("RGB", (width, height), seed=0).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    with tempfile.TemporaryDirectory() as folder:
        stored.save(Path(folder, "1.png"), exif=exif)

        image = read(Path(folder, "1.png"))

    expected = turned(np.asarray(stored.convert("RGB")), orientation)
    upright = image.size == expected.shape[1::-1] and (np.asarray(image) == expected).all()
    assert upright, f"the image is upright, orientation {orientation}"
    assert to_rgb(image).tobytes() == image.tobytes(), "a second look does not turn it again"


def leaves_grey_in_one_channel(size: int) -> Transform:
    """Convert no colours."""
    return v2.Compose(
        [
            lambda image: image if image.mode == "L" else to_rgb(image),
            v2.RandomResizedCrop(size),
            image_pipeline(),
        ]
    )


def normalises_before_scaling(size: int) -> Transform:
    """Subtract the mean from bytes, and let the conversion see floats, which it does not divide."""
    return v2.Compose(
        [
            to_rgb,
            v2.Resize((size, size)),
            lambda image: (np.asarray(image, np.float32) - MEAN) / np.asarray(STD),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def forgets_the_crop(size: int) -> Transform:
    """Scale the short side and leave the long one."""
    return v2.Compose([to_rgb, v2.Resize(size), image_pipeline(MEAN, STD)])


def leaves_bytes(size: int) -> Transform:
    """Forget the conversion to floats."""
    return v2.Compose([to_rgb, v2.Resize((size, size)), v2.PILToTensor()])


@law(
    right=train_pipeline,
    wrong={
        leaves_grey_in_one_channel: "comes out (3, size, size)",
        forgets_the_crop: "comes out (3, size, size)",
        leaves_bytes: "float32",
        normalises_before_scaling: "black and white are the limits",
    },
    cpu_only=HOST,
)
@given(image=pictures(max_side=12), size=st.integers(1, 12))
def test_a_training_image_comes_out_like_any_other(
    pipeline: Callable[[int], Transform], image: Image.Image, size: int
) -> None:
    """Any size and mode of image gives (3, size, size), float32, between black and white."""
    check_output(pipeline(size)(image), size)


@law(
    right=eval_pipeline,
    wrong={
        leaves_grey_in_one_channel: "comes out (3, size, size)",
        forgets_the_crop: "comes out (3, size, size)",
        leaves_bytes: "float32",
        normalises_before_scaling: "black and white are the limits",
    },
    cpu_only=HOST,
)
@given(image=pictures(max_side=12), size=st.integers(1, 12))
def test_a_test_image_comes_out_like_any_other(
    pipeline: Callable[[int], Transform], image: Image.Image, size: int
) -> None:
    """Any size and mode of image gives (3, size, size), float32, between black and white."""
    check_output(pipeline(size)(image), size)


def check_output(output: Tensor, size: int) -> None:
    """Assert shape, dtype and range of what a pipeline with ImageNet's statistics returns."""
    assert output.shape == (3, size, size), "an image comes out (3, size, size)"
    assert output.dtype == torch.float32, "the values are float32"
    black, white = ((v - torch.tensor(MEAN)) / torch.tensor(STD) for v in (0, 1))
    values = output.flatten(1)
    inside = (values.amin(1) >= black - 1e-6).all() and (values.amax(1) <= white + 1e-6).all()
    assert inside, "black and white are the limits of the values, which are finite"


def crops_before_scaling(size: int, *, resize: int, **statistics: Any) -> Transform:
    """Swap two steps: crop the image as it came, then scale what is left."""
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
    """The pipeline gives to the last bit what the transforms of torchvision's weights give."""
    assume(max(width, height) <= 10 * min(width, height))
    image = picture("RGB", (width, height), seed)
    official = MobileNet_V2_Weights.IMAGENET1K_V1.transforms(
        crop_size=size, resize_size=size + more
    )

    output = pipeline(size, resize=size + more, mean=MEAN, std=STD)(image)

    same_bits = bits(output) == bits(official(image))
    assert same_bits, "an image is what the transforms of torchvision's weights make of it"


@law(
    right=eval_pipeline,
    wrong={squashes: "the aspect ratio is kept"},
    cpu_only=HOST,
)
@given(ramp=ramps(), size=st.integers(6, 16), more=st.integers(0, 16))
def test_the_aspect_ratio_is_kept(
    pipeline: Callable[..., Transform], ramp: tuple[Image.Image, bool], size: int, more: int
) -> None:
    """Along the long side as along the short one, the short side is scaled to `resize` pixels."""
    image, along_x = ramp
    short, long = sorted(image.size)

    output = pipeline(size, resize=size + more, mean=(0,) * 3, std=(1,) * 3)(image)

    levels = profile(output, along_x)
    step = 255 / (long - 1) * short / (size + more)
    # torchvision cuts the scaled long side to whole pixels: up to a pixel in 2 * resize.
    tolerance = 2 + step * size / (2 * (size + more))
    kept = abs((levels[-1] - levels[0]) - (size - 1) * step) <= tolerance
    assert kept, "the aspect ratio is kept"
