"""Shared by several claims of the lesson images."""

import functools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import note
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dlconcepts.images import train_pipeline
from dlconcepts.loading import image_pipeline
from dlconcepts.networks import Network
from dlconcepts.training import fit
from dlconcepts.validation import accuracy, predict

HOST = "PIL images live in the memory of the CPU"
MODES = {"1": 1, "L": 1, "LA": 2, "P": 1, "RGB": 3, "RGBA": 4, "CMYK": 4, "I;16": 2}  # to bytes
PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
TRANSPARENT = "LA", "RGBA"
SIDE = 64  # of `places()`: 4 times 63 is the largest multiple that fits in a byte
# Values stay between 0, black, and 1, white, so that a law can read the colours back.
RAW: dict[str, Any] = {"mean": (0,) * 3, "std": (1,) * 3}

Transform = Callable[[Image.Image], Tensor]


def picture(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """Return an image of noise; in a palette, one of the colours is transparent if seed is odd."""
    count = size[0] * size[1] * MODES[mode]
    noise = np.random.default_rng(seed).integers(0, 256, count, np.uint8).tobytes()
    if mode == "1":
        return Image.frombytes("L", size, noise).convert("1", dither=Image.Dither.NONE)
    image = Image.frombytes(mode, size, noise)
    if mode == "P":
        image.putpalette(PALETTE.tobytes())
        if seed % 2:
            image.info["transparency"] = image.getpixel((0, 0))
    if image.width * image.height <= 4:
        note(f"(the pixels are {np.asarray(image).tolist()})")
    return image


@st.composite
def pictures(draw: st.DrawFn, max_side: int = 4) -> Image.Image:
    """Draw images of any mode and size, some a single row or column of pixels."""
    mode = draw(st.sampled_from(sorted(MODES, key=len)))
    width, height = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    if draw(st.booleans()):
        width, height = draw(st.sampled_from([(1, 50 * height), (50 * width, 1)]))
    return picture(mode, (width, height), draw(st.integers(0, 2**16)))


def on_white(image: Image.Image) -> NDArray[np.float64]:
    """Return the colours that people see, (H, W, 3) from 0 to 255, in float64."""
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
    if image.mode in TRANSPARENT:
        alpha = pixels[..., -1:] / 255
        pixels = pixels[..., :-1] * alpha + 255 * (1 - alpha)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def places() -> Image.Image:
    """Return an image that shows where each pixel is: red is 4x, green is 4y, blue is 128."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return Image.fromarray(np.stack([4 * x, 4 * y, np.full_like(x, 128)], axis=2).astype(np.uint8))


def shapes(count: int, seed: int) -> tuple[list[Image.Image], Tensor]:
    """Return small images of a disc, a cross or a frame, in turn, and their labels."""
    generator = np.random.default_rng(seed)
    images = []
    for label in range(count):
        image = Image.fromarray(generator.integers(200, 256, (24, 24, 3), np.uint8))
        x, y = (int(place) for place in generator.integers(4, 7, 2))
        pen, box = ImageDraw.Draw(image), (x, y, x + 13, y + 13)
        if label % 3 == 0:
            pen.ellipse(box, fill="black")
        elif label % 3 == 1:
            pen.line((x, y + 6, x + 13, y + 6), "black", width=4)
            pen.line((x + 6, y, x + 6, y + 13), "black", width=4)
        else:
            pen.rectangle(box, outline="black", width=3)
        images.append(image)
    return images, torch.arange(count) % 3


def find_steps(output: Tensor) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Return where one step right and one step down in a distorted `places()` lead in the original.

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


class OwnGenerator:
    """A transform that mirrors half of the images, by numbers from a generator of its instance."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng()

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image))
        return pixels.flip(1) if self.generator.random() < 0.5 else pixels


@functools.cache
def right_on_distorted(pipeline: Callable[[int], Transform], seed: int) -> int:
    """Train a network on 30 images, 20 times each; return on how many of 60 others it is right."""
    images, labels = shapes(30, seed)
    torch.manual_seed(seed)
    transform = pipeline(12)
    inputs = torch.stack([transform(image) for _ in range(20) for image in images])
    torch.manual_seed(seed)  # the same initial weights, whatever the pipeline has drawn
    model = Network(inputs[0].numel(), [32], 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    fit(model, (inputs, labels.repeat(20)), epochs=10, batch_size=30, optimizer=optimizer)
    others, answers = shapes(60, seed + 2**33)  # of which no network is trained
    distorted = torch.stack([train_pipeline(12)(image) for image in others])
    return round(60 * accuracy(predict(model, distorted), answers))


@st.composite
def ramps(draw: st.DrawFn) -> tuple[Image.Image, bool]:
    """Draw images that go from black to white along their long side, and whether that is x."""
    short = draw(st.integers(8, 24))
    long = draw(st.integers(2 * short, 4 * short) | st.integers(4 * short, 40 * short))
    ramp = np.rint(np.linspace(0, 255, long)).astype(np.uint8)
    pixels, along_x = np.tile(ramp, (short, 1)), draw(st.booleans())
    return Image.fromarray(pixels if along_x else pixels.T.copy()).convert("RGB"), along_x


def profile(output: Tensor, along_x: bool) -> NDArray[np.float64]:
    """Return the levels, 0 to 255, along a ramp that a RAW pipeline has transformed."""
    levels = output[0].double().numpy() * 255
    return levels.mean(axis=0 if along_x else 1)


def squashes(size: int, *, resize: int, **statistics: Any) -> Transform:
    """Resize to a square with a pair, where the number for the short side was meant."""
    return v2.Compose(
        [v2.Resize((resize, resize)), v2.CenterCrop(size), image_pipeline(**statistics)]
    )


@contextmanager
def saved(images: Mapping[str, Image.Image]) -> Iterator[Path]:
    """Save images, by their paths, in a temporary folder."""
    with tempfile.TemporaryDirectory() as root:
        for name, image in images.items():
            path = Path(root, name)
            path.parent.mkdir(exist_ok=True)
            image.save(path)
        yield Path(root)


def loads(dataset: Any, batch_size: int, num_workers: int, **options: Any) -> DataLoader[Any]:
    """Load batches in worker processes that are forked where the platform can."""
    # To spawn a worker, which imports torch again, would take seconds.
    fork = "fork" if num_workers and "fork" in multiprocessing.get_all_start_methods() else None
    return DataLoader(
        dataset, batch_size, num_workers=num_workers, multiprocessing_context=fork, **options
    )
