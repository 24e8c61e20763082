"""Lesson 7: photographs in folders, and the pipelines that make all of them alike for a network."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from dlconcepts.loading import image_pipeline
from dlconcepts.support.datasets import DataError, as_8_bits, check_regular
from dlconcepts.support.runs import progress_bar

# The statistics of ImageNet, with which torchvision's pretrained networks were trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The endings that torchvision.datasets.ImageFolder knows.
ENDINGS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
# The longest side, in short sides: 1 x 10,000 pixels, scaled to a short side of 256, take 2 GB.
LONGEST = 10

Transform = Callable[[Image.Image], Any]


@dataclass(frozen=True)
class ImageFolder(Dataset[tuple[Any, int]]):
    """Images in class folders: pairs of a transformed image and its label.

    classes: names, sorted; samples: the path and the label, a position in `classes`, of each image;
    damaged: files that were skipped. `dataclasses.replace` gives the same images another transform.
    """

    classes: list[str]
    samples: list[tuple[Path, int]]
    transform: Transform | None = None
    damaged: Sequence[Path] = ()

    @property
    def targets(self) -> list[int]:
        """Label of each image."""
        return [label for _, label in self.samples]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Read and transform an image, again at each call."""
        path, label = self.samples[index]
        image = read_rgb(path)
        return (image if self.transform is None else self.transform(image)), label


def image_folder(
    root: str | Path,
    *,
    skip_damaged: bool = False,
    transform: Transform | None = None,
    progress: bool = False,
) -> ImageFolder:
    """Find the images of a folder that has one folder for each class.

    An image belongs to the class of its topmost folder, however deep it lies, and links are
    followed, except to a folder that they lie in. Hidden files and folders, whose names begin with
    a dot, files directly in `root`, and files whose ending, in any case, is not in ENDINGS are
    ignored. Classes are sorted, and the images of a class by their paths. Each image is decoded
    once to find damage; `progress` draws a bar of that on a terminal. Without a `transform` an
    example is a PIL image as `read_rgb` returns it.

    Raises DataError if there is no such folder, no class or a class without images, and if the name
    of a class is not UTF-8. It also lists all damaged images in a DataError, unless `skip_damaged`
    is true.
    Source: torchvision documentation, `ImageFolder`, which counts hidden files and opens no image.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("dog", "cat"):
    ...         Path(root, name).mkdir()
    ...         Image.new("RGB", (4, 3)).save(f"{root}/{name}/1.png")
    ...     folder = image_folder(root)
    >>> folder.classes, folder.targets
    (['cat', 'dog'], [0, 1])
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give one that has a folder for each class")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not _is_hidden(path))
    if not folders:
        raise DataError(f"{root} has no folders; make one for the images of each class")
    for folder in folders:
        if folder.name != folder.name.encode(errors="ignore").decode():
            raise DataError(f"the name of {str(folder)!r} is not UTF-8; rename the folder")
    above = (root.resolve(), *root.resolve().parents)
    images = [(path, n) for n, folder in enumerate(folders) for path in _find(folder, above)]
    faults = {}
    with progress_bar(len(images), progress) as advance:
        for path, _ in images:
            if fault := _find_fault(path):
                faults[path] = fault
            if advance:
                advance("images")
    if faults and not skip_damaged:
        raise DataError(
            f"{len(faults)} of the {len(images)} images cannot be read; repair, remove or skip "
            "them:\n" + "\n".join(faults.values())
        )
    samples = [(path, label) for path, label in images if path not in faults]
    if empty := sorted({*range(len(folders))} - {label for _, label in samples}):
        names = ", ".join(str(folders[label]) for label in empty)
        raise DataError(f"there is no image in {names}; add some or remove the folder")
    return ImageFolder([folder.name for folder in folders], samples, transform, tuple(faults))


def split(
    folder: ImageFolder, size: float = 0.2, *, seed: int = 0
) -> tuple[ImageFolder, ImageFolder]:
    """Split the images of each class at random into training images and held-out images.

    `size` is the share of each class to hold out, in (0, 1), rounded to whole images: at least one,
    and not all. The same seed gives the same split, whatever the global random state.

    Raises ValueError for another `size`, and for a class with fewer than two images.
    """
    if not 0 < size < 1:
        raise ValueError(f"size must be between 0 and 1, but is {size}; it is the held-out share")
    generator = random.Random(seed)
    parts: tuple[list[tuple[Path, int]], ...] = [], []
    for label, name in enumerate(folder.classes):
        images = [sample for sample in folder.samples if sample[1] == label]
        if len(images) < 2:
            raise ValueError(f"the class {name} has {len(images)} image, but a split needs 2")
        held = min(max(round(size * len(images)), 1), len(images) - 1)
        order = generator.sample(images, len(images))
        parts[0].extend(sorted(order[held:]))
        parts[1].extend(sorted(order[:held]))
    train, held_out = (replace(folder, samples=samples) for samples in parts)
    return train, held_out


def read_rgb(path: str | Path) -> Image.Image:
    """Read an image file as an upright RGB image; see `to_rgb`.

    Raises DataError if it cannot be read; the message names the file and the reason.
    """
    try:
        check_regular(path)
        with Image.open(path) as image:
            return to_rgb(image)
    # Each of Pillow's decoders raises other exceptions for a damaged file.
    except Exception as error:
        raise DataError(f"the image {path} cannot be read: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as people see it: upright, in colour, on white.

    Input: any mode, 1-bit to 32-bit, with a palette, an alpha channel or neither. Output: mode RGB.
    The EXIF orientation of a camera is applied, transparency becomes white, and 16-bit grey keeps
    its upper eight bits.
    Source: Pillow documentation, "Modes" and `ImageOps.exif_transpose`.

    >>> to_rgb(Image.new("LA", (1, 1), (0, 255))).getpixel((0, 0))
    (0, 0, 0)
    >>> to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    image = as_8_bits(ImageOps.exif_transpose(image))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def train_pipeline(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Image.Image], torch.Tensor]:
    """Return the transform for training: rotate, crop and mirror at random, then normalise.

    It takes a PIL image of any mode and size and returns float32 of shape (3, size, size). It
    rotates by up to `degrees` either way, with white corners, crops 8 % to 100 % of the area, and
    mirrors left and right with probability `flip`; use 0 if left and right matter, as in digits
    and letters. The draws come from torch's global generator, which a loader seeds differently in
    each worker. Any interpolation will do.
    Source: torchvision documentation, `RandomRotation`, `RandomResizedCrop`.

    >>> train_pipeline(8)(Image.new("L", (20, 10))).shape
    torch.Size([3, 8, 8])
    """
    bilinear = InterpolationMode.BILINEAR
    steps = [
        to_rgb,
        v2.RandomRotation(degrees, interpolation=bilinear, fill=255),
        v2.RandomResizedCrop(size),
        v2.RandomHorizontalFlip(flip),
        image_pipeline(mean, std),
    ]
    transform: Callable[[Image.Image], torch.Tensor] = v2.Compose(steps)
    return transform


def eval_pipeline(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Image.Image], torch.Tensor]:
    """Return the transform for validation, testing and use: scale, crop the centre, normalise.

    It takes a PIL image of any mode and size and returns float32 of shape (3, size, size). It
    scales the short side to `resize` pixels (by default 8/7 of `size`, 256 for 224, rounded either
    way) with bilinear interpolation, as `v2.Resize` does, keeps the aspect ratio, and crops the
    square in the centre. Nothing is random.

    Raises ValueError if `resize` is less than `size`, which would leave a black border.
    Source: torchvision documentation, the `transforms` of its pretrained weights.

    >>> eval_pipeline(8)(Image.new("L", (20, 10))).shape
    torch.Size([3, 8, 8])
    """
    resize = size * 8 // 7 if resize is None else resize
    if resize < size:
        raise ValueError(f"resize must be at least size, {size}, but is {resize}")
    steps = [to_rgb, _shorten, v2.Resize(resize), v2.CenterCrop(size), image_pipeline(mean, std)]
    transform: Callable[[Image.Image], torch.Tensor] = v2.Compose(steps)
    return transform


def _find(folder: Path, above: tuple[Path, ...]) -> list[Path]:
    """Return the images in a folder and below it, sorted; skip links to a folder above."""
    above = (*above, folder.resolve())
    images: list[Path] = []
    for path in sorted(path for path in folder.iterdir() if not _is_hidden(path)):
        if not path.is_dir():
            images += [path] if path.suffix.lower() in ENDINGS else []
        elif path.resolve() not in above:
            images += _find(path, above)
    return images


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _find_fault(path: Path) -> str | None:
    try:
        read_rgb(path)  # it decodes the whole image; Image.open alone reads only the header
    except DataError as error:
        return str(error)
    return None


def _shorten(image: Image.Image) -> Image.Image:
    """Cut off the ends of a very long strip, which a crop of its centre would not show."""
    longest = LONGEST * min(image.size)
    # The same number at both ends, so that the centre stays in place.
    x, y = (max(side - longest, 0) // 2 for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))
