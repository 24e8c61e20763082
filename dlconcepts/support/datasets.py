"""Fashion-MNIST: the sample in this package, or the full set from a folder or a download."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from dlconcepts.support.errors import UserError

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

SAMPLE = Path(__file__).parents[1] / "data"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")

# Digests of the uncompressed files, which do not depend on the program that compressed them.
SAMPLE_SHA256 = {
    "train-images-idx3-ubyte": "713a0c839b34aca6ddde86bb5e99d5f398d69503faa1f3d2752eb497cdced9b1",
    "train-labels-idx1-ubyte": "e49a1c1d6a4ff808e883f12516722624dccf10ec4b5e7b41c51b9237d6576675",
    "t10k-images-idx3-ubyte": "7877d2aa84754e848d45b2bcffec748cf10aad21fb55f9f9020f22fb85bcc5e2",
    "t10k-labels-idx1-ubyte": "a0e2cc19a5502763e96dd66d28871c172fcd02f0d5ef5bfc94dc7327ecfd27a4",
}
FULL_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class DataError(UserError):
    """A data file or an image is missing, damaged or of the wrong kind."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Grey images with their labels.

    images: uint8 of shape (N, 28, 28), 0 is black; labels: int64 of shape (N,), positions in
    `classes`; source: where the images come from, in words.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    source: str


def fashion_mnist(
    *, train: bool, full: bool = False, root: Path | None = None, download: bool = False
) -> ImageSet:
    """Read the training or the test images of Fashion-MNIST.

    The sample in this package has 600 training and 100 test images of each class. With `full`, read
    the official 60,000 and 10,000 from `root`/FashionMNIST/raw (`root` is the folder `data` by
    default), or else from Debian's package dataset-fashion-mnist. If they are in neither place and
    `download` is true, torchvision downloads them into `root`.

    Raises DataError if a file is missing or damaged; the message names it and says what to do.
    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking
    machine learning algorithms" (2017).

    >>> test = fashion_mnist(train=False)
    >>> test.images.shape, test.images.dtype
    (torch.Size([1000, 28, 28]), torch.uint8)
    >>> test.classes[test.labels[0]]
    'Shirt'
    """
    part = "train" if train else "t10k"
    if full:
        folder = _find_full(part, root or Path("data"), download)
        source, digests = f"the official files in {folder}", FULL_SHA256
    else:
        folder = SAMPLE
        source, digests = "the sample that comes with dlconcepts", SAMPLE_SHA256
    images = _read(folder, f"{part}-images-idx3-ubyte", digests)
    labels = _read(folder, f"{part}-labels-idx1-ubyte", digests)
    # IDX files start with one 32-bit number and one more for each dimension; the bytes follow.
    return ImageSet(
        images=torch.frombuffer(images, dtype=torch.uint8, offset=16).reshape(-1, 28, 28),
        labels=torch.frombuffer(labels, dtype=torch.uint8, offset=8).long(),
        classes=CLASSES,
        source=f"Fashion-MNIST, {source}",
    )


def read_image(path: Path) -> torch.Tensor:
    """Read an image file as a grey image like those of Fashion-MNIST: uint8 of shape (28, 28).

    Colour becomes grey, transparency becomes black, and the image is scaled to fit and centred on
    black. A grey image of 28 x 28 keeps every pixel.

    Raises DataError if the file is missing, or if Pillow cannot read it as an image.
    """
    try:
        check_regular(path)
        with Image.open(path) as image:
            upright = as_8_bits(ImageOps.exif_transpose(image))
            on_black = Image.new("RGBA", upright.size, "black")
            on_black.alpha_composite(upright.convert("RGBA"))
    except FileNotFoundError as error:
        raise DataError(f"there is no image file {path}; check its name") from error
    # Each of Pillow's decoders raises other exceptions for a damaged file.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not an image that can be read; give a PNG or JPEG") from error
    grey = ImageOps.pad(on_black.convert("L"), (28, 28), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(grey))


def check_regular(path: str | Path) -> None:
    """Raise OSError for what is there but no file, such as a FIFO, where opening would wait."""
    if Path(path).exists() and not Path(path).is_file():
        raise OSError("it is not a regular file")


def as_8_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit grey by its upper eight bits, and any other image as it is."""
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image


def _find_full(part: str, root: Path, download: bool) -> Path:
    """Return the folder of the official files, after a download if that is allowed."""
    raw = root / "FashionMNIST" / "raw"
    for folder in (raw, DEBIAN):
        if all(_file(folder, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")):
            return folder
    if not download:
        raise DataError(
            f"the full Fashion-MNIST is neither in {raw} nor in {DEBIAN}: install Debian's package "
            "with `apt-get install dataset-fashion-mnist`, or let torchvision download it with "
            "`python -m dlconcepts train --full --download`"
        )
    # Importing torchvision takes seconds, so only a download does it.
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(root, download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(f"Fashion-MNIST could not be downloaded to {raw}: {error}") from error
    return raw


def _file(folder: Path, name: str) -> Path | None:
    """Return the file of that name, plain or compressed, if there is one."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)


def _read(folder: Path, name: str, digests: dict[str, str]) -> bytearray:
    """Return the uncompressed content of a data file whose digest is right."""
    remedies = {SAMPLE: "reinstall dlconcepts"}
    remedies[DEBIAN] = "run `apt-get install --reinstall dataset-fashion-mnist`"
    remedy = remedies.get(folder, "delete it and run again with --download")
    path = _file(folder, name)
    if path is None:
        raise DataError(f"the data file {folder / name}.gz is missing; {remedy}")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the data file {path} cannot be read: {error}; {remedy}") from error
    if hashlib.sha256(content).hexdigest() != digests[name]:
        raise DataError(f"the data file {path} is damaged: wrong checksum; {remedy}")
    return bytearray(content)
