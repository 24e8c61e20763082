"""Right answers to the exercises of lesson 7, images, as learners write them."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as TF

from dlconcepts.images import (
    ENDINGS,
    MEAN,
    STD,
    ImageFolder,
    Transform,
    _find,
    _find_fault,
    _is_hidden,
    _shorten,
)
from dlconcepts.loading import image_pipeline
from dlconcepts.support.datasets import DataError, as_8_bits, check_regular


def image_folder__with_the_helpers(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Use the library's helpers for finding and judging files."""
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not _is_hidden(path))
    if not folders:
        raise DataError(f"{root} has no folder for a class")
    samples: list[tuple[Path, int]] = []
    damaged: list[Path] = []
    faults: list[str] = []
    for label, folder in enumerate(folders):
        try:
            folder.name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"the name of the class {folder.name!r} is not UTF-8") from error
        whole = 0
        paths = _find(folder, (root.resolve(),))
        for path in paths:
            fault = _find_fault(path)
            if fault is None:
                samples.append((path, label))
                whole += 1
            else:
                damaged.append(path)
                faults.append(f"{path}: {fault}")
        if not paths or (skip_damaged and not whole):
            raise DataError(f"the class {folder.name} has no images")
    if faults and not skip_damaged:
        raise DataError("damaged images:\n" + "\n".join(faults))
    return ImageFolder([folder.name for folder in folders], samples, transform, damaged)


def _images_below(folder: Path, root: Path) -> list[Path]:
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        place = Path(here)
        above = [
            place.resolve(),
            *(up.resolve() for up in place.parents if root in (up, *up.parents)),
        ]
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (place / name).resolve() not in above
        ]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in ENDINGS:
                found.append(place / name)
    return sorted(found)


def image_folder__with_os_walk(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Walk through the folders of each class with os.walk, which can follow links."""
    root = Path(root)
    try:
        names = sorted(name for name in os.listdir(root) if (root / name).is_dir())  # noqa: PTH208
    except OSError as error:
        raise DataError(f"the folder {root} cannot be listed: {error.strerror}") from error
    names = [name for name in names if not name.startswith(".")]
    if len(names) == 0:
        raise DataError(f"no class: {root} needs a folder for each")
    if any("\udc80" <= character <= "\udcff" for name in names for character in name):
        raise DataError("a class has a name that is not UTF-8")
    files = {name: _images_below(root / name, root) for name in names}
    faults = {path: _find_fault(path) for paths in files.values() for path in paths}
    bad = [path for path, fault in faults.items() if fault]
    if bad and not skip_damaged:
        raise DataError(f"{len(bad)} damaged images: " + "; ".join(str(faults[p]) for p in bad))
    good = {name: [path for path in paths if not faults[path]] for name, paths in files.items()}
    for name, paths in good.items():
        if not paths:
            raise DataError(f"no image of the class {name!r} in {root / name}")
    samples = [(path, names.index(name)) for name, paths in good.items() for path in paths]
    return ImageFolder(classes=names, samples=samples, transform=transform, damaged=bad)


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    above = above | {folder.resolve()}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name[0] == ".":
            continue
        path = Path(entry.path)
        if entry.is_dir():
            if path.resolve() not in above:
                yield from _walk(path, above)
        elif path.suffix.lower() in ENDINGS:
            yield path


def image_folder__by_a_generator(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Find the files with a recursive generator, and open each with the library's `read_rgb`."""
    from dlconcepts.images import read_rgb

    folder = Path(root)
    if not folder.exists() or not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    classes = sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."
    )
    if not classes:
        raise DataError(f"{folder} holds no class")
    samples, damaged, reasons = [], [], []
    for label, name in enumerate(classes):
        try:
            name.encode("utf-8")
        except UnicodeError:
            raise DataError(f"rename {name!r}: it is not UTF-8") from None
        before = len(samples), len(damaged)
        for path in _walk(folder / name, frozenset({folder.resolve()})):
            try:
                read_rgb(path)
            except DataError as error:
                damaged.append(path)
                reasons.append(f"{path} ({error})")
            else:
                samples.append((path, label))
        if (len(samples), len(damaged)) == before or (skip_damaged and len(samples) == before[0]):
            raise DataError(f"class {name} is empty")
    if damaged and not skip_damaged:
        raise DataError("these images are damaged: " + ", ".join(reasons))
    return ImageFolder(classes, samples, transform, damaged)


def to_rgb__composited(image: Image.Image) -> Image.Image:
    """Turn it upright, then composite it on a white image."""
    image = as_8_bits(ImageOps.exif_transpose(image))
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def to_rgb__pasted(image: Image.Image) -> Image.Image:
    """Paste only images with transparency, with their alpha channel as the mask."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "La":
        upright = upright.convert("LA")
    upright = as_8_bits(upright)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    with_alpha = upright.convert("RGBA")
    background = Image.new("RGB", with_alpha.size, "white")
    background.paste(with_alpha.convert("RGB"), mask=with_alpha.getchannel("A"))
    return background


def to_rgb__with_numpy(image: Image.Image) -> Image.Image:
    """Turn by the EXIF tag itself, and mix with white in float arithmetic."""
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }
    steps = turns.get(image.getexif().get(0x0112, 1), [])
    if image.mode.startswith("I"):
        image = Image.fromarray(
            np.clip(np.array(image).astype(np.int64) // 256, 0, 255).astype("u1")
        )
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        image = image.convert("RGB")
    pixels = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = pixels[..., 3:] / 255
    mixed = pixels[..., :3] * alpha + 255 * (1 - alpha)
    result = Image.fromarray(np.round(mixed).astype(np.uint8))
    for step in steps:
        result = result.transpose(step)
    return result


def read_rgb__with_a_context_manager(path: str | Path) -> Image.Image:
    """Open the file in a with statement and use the library's `to_rgb`."""
    from dlconcepts.images import to_rgb

    try:
        check_regular(path)
        with Image.open(path) as image:
            return to_rgb(image)
    except Exception as error:
        raise DataError(f"the image {path} cannot be read: {error}") from error


def read_rgb__from_memory(path: str | Path) -> Image.Image:
    """Read all bytes first and decode them afterwards."""
    from dlconcepts.images import to_rgb

    file = Path(path)
    try:
        if not file.is_file():
            raise FileNotFoundError("there is no such file")
        image = Image.open(io.BytesIO(file.read_bytes()))
        image.load()
        return to_rgb(image)
    except Exception as reason:
        message = f"cannot read {file}: {type(reason).__name__}, {reason}"
        raise DataError(message) from reason


def _decode(path: Path) -> tuple[Image.Image | None, str]:
    try:
        check_regular(path)
        with path.open("rb") as file, Image.open(file) as image:
            image.load()
            return image.copy(), ""
    except FileNotFoundError:
        return None, "it does not exist"
    except Exception as error:
        return None, str(error) or repr(error)


def read_rgb__by_a_helper(path: str | Path) -> Image.Image:
    """Let a helper return the image or a reason."""
    from dlconcepts.images import to_rgb

    image, reason = _decode(Path(path))
    if image is not None:
        try:
            return to_rgb(image)
        except Exception as error:
            reason = str(error)
    raise DataError(f"{path}: {reason}")


def train_pipeline__composed(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Image.Image], torch.Tensor]:
    """Compose torchvision's transforms of version 2."""
    from dlconcepts.images import to_rgb

    return v2.Compose(
        [
            to_rgb,
            v2.RandomRotation(degrees, interpolation=InterpolationMode.BILINEAR, fill=255),
            v2.RandomResizedCrop(size, scale=(0.08, 1.0)),
            v2.RandomHorizontalFlip(p=flip),
            image_pipeline(mean, std),
        ]
    )


def train_pipeline__on_tensors(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Image.Image], torch.Tensor]:
    """Convert to a uint8 tensor first and transform that."""
    from dlconcepts.images import to_rgb

    return transforms.Compose(
        [
            to_rgb,
            v2.PILToTensor(),
            v2.RandomRotation((-degrees, degrees), fill=[255, 255, 255]),
            v2.RandomResizedCrop((size, size), antialias=True),
            v2.RandomHorizontalFlip(flip),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=list(mean), std=list(std)),
        ]
    )


def train_pipeline__by_hand(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Image.Image], torch.Tensor]:
    """Draw with torch in a closure, and apply the functional transforms."""
    from dlconcepts.images import to_rgb

    normalise = image_pipeline(mean, std)

    def transform(image: Image.Image) -> torch.Tensor:
        image = to_rgb(image)
        angle = torch.empty(1).uniform_(-degrees, degrees).item()
        image = image.rotate(angle, resample=Image.Resampling.BILINEAR, fillcolor=(255, 255, 255))
        top, left, height, width = transforms.RandomResizedCrop.get_params(
            image, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3]
        )
        image = TF.resized_crop(image, top, left, height, width, [size, size])
        if torch.rand(()) < flip:
            image = ImageOps.mirror(image)
        return normalise(image)

    return transform


def eval_pipeline__composed(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Image.Image], torch.Tensor]:
    """Compose torchvision's transforms of version 2."""
    from dlconcepts.images import to_rgb

    if resize is None:
        resize = round(size * 8 / 7)
    if resize < size:
        raise ValueError(f"resize is {resize}, less than the crop's {size}")
    return v2.Compose(
        [to_rgb, _shorten, v2.Resize(resize), v2.CenterCrop(size), image_pipeline(mean, std)]
    )


def eval_pipeline__with_pillow(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Image.Image], torch.Tensor]:
    """Scale and crop with Pillow, and normalise with tensors."""
    from dlconcepts.images import to_rgb

    short = size * 8 // 7 if resize is None else resize
    if short < size:
        raise ValueError("the crop would be larger than the image")
    means, deviations = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)

    def transform(image: Image.Image) -> torch.Tensor:
        image = _shorten(to_rgb(image))
        width, height = image.size
        if width < height:
            new = short, int(short * height / width)
        else:
            new = int(short * width / height), short
        image = image.resize(new, Image.Resampling.BILINEAR)
        left, top = (round((side - size) / 2) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32)
        return (pixels / 255 - means) / deviations

    return transform


class _EvalTransform:
    """Scale, crop, normalise."""

    def __init__(self, size: int, resize: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size, self.resize = size, resize
        self.mean, self.std = list(mean), list(std)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Transform an image."""
        from dlconcepts.images import to_rgb

        image = TF.resize(to_rgb(image), self.resize)
        image = TF.center_crop(image, [self.size, self.size])
        return TF.normalize(TF.to_tensor(image), self.mean, self.std)


def eval_pipeline__as_a_class(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Image.Image], torch.Tensor]:
    """Return an object that applies the functional transforms when it is called."""
    short_side = round(8 * size / 7) if resize is None else int(resize)
    if short_side < size:
        raise ValueError(f"an image of {short_side} has no square of {size} in it")
    return _EvalTransform(size, short_side, mean, std)
