"""Wrong answers to the exercises of lesson 7, images, as learners write them."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torchvision.datasets.folder import find_classes, make_dataset
from torchvision.transforms import InterpolationMode, v2

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


def _to_rgb(image: Image.Image) -> Image.Image:
    image = as_8_bits(ImageOps.exif_transpose(image))
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _read_rgb(path: str | Path) -> Image.Image:
    try:
        check_regular(path)
        with Image.open(path) as image:
            return _to_rgb(image)
    except Exception as error:
        raise DataError(f"the image {path} cannot be read: {error}") from error


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not _is_hidden(path))
    if not folders:
        raise DataError(f"{root} has no classes")
    for folder in folders:
        try:
            folder.name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{folder.name!r} is not UTF-8") from error
    return folders


def _collect(
    found: dict[str, list[Path]], skip_damaged: bool, transform: Transform | None
) -> ImageFolder:
    faults = {path: _find_fault(path) for paths in found.values() for path in paths}
    damaged = [path for path, fault in faults.items() if fault]
    if damaged and not skip_damaged:
        raise DataError("damaged: " + ", ".join(str(faults[path]) for path in damaged))
    samples = []
    for label, (name, paths) in enumerate(found.items()):
        whole = [path for path in paths if not faults[path]]
        if not whole:
            raise DataError(f"the class {name} has no images")
        samples += [(path, label) for path in whole]
    return ImageFolder(list(found), samples, transform, damaged)


def image_folder__of_torchvision(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Take torchvision's list of files, which counts hidden ones."""
    root = Path(root)
    _class_folders(root)
    try:
        classes, numbers = find_classes(root)
        samples = make_dataset(root, numbers, tuple(ENDINGS))
    except FileNotFoundError as error:
        raise DataError(str(error)) from error
    found = {name: [Path(p) for p, label in samples if label == numbers[name]] for name in classes}
    return _collect(found, skip_damaged, transform)


def image_folder__one_level(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Look only at the files that lie directly in a class folder."""
    found = {}
    for folder in _class_folders(Path(root)):
        files = sorted(path for path in folder.iterdir() if not path.is_dir())
        found[folder.name] = [p for p in files if p.suffix.lower() in ENDINGS and not _is_hidden(p)]
    return _collect(found, skip_damaged, transform)


def image_folder__named_by_the_parent(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Name the class after the folder that directly holds the image."""
    root = Path(root)
    found: dict[str, list[Path]] = {}
    for folder in _class_folders(root):
        paths = _find(folder, (root.resolve(),))
        if not paths:
            raise DataError(f"{folder.name} has no images")
        for path in paths:
            found.setdefault(path.parent.name, []).append(path)
    return _collect(dict(sorted(found.items())), skip_damaged, transform)


def image_folder__decodes_nothing(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Trust that every file is whole."""
    folders = _class_folders(Path(root))
    samples = []
    for label, folder in enumerate(folders):
        paths = _find(folder, (Path(root).resolve(),))
        if not paths:
            raise DataError(f"{folder.name} has no images")
        samples += [(path, label) for path in paths]
    return ImageFolder([folder.name for folder in folders], samples, transform)


def image_folder__reads_the_header(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Open each image but decode none, so a truncated one counts as whole."""
    folders = _class_folders(Path(root))
    samples, damaged = [], []
    for label, folder in enumerate(folders):
        paths = _find(folder, (Path(root).resolve(),))
        if not paths:
            raise DataError(f"{folder.name} has no images")
        for path in paths:
            try:
                check_regular(path)
                with Image.open(path):
                    samples.append((path, label))
            except Exception:
                damaged.append(path)
    if damaged and not skip_damaged:
        raise DataError("damaged: " + ", ".join(map(str, damaged)))
    return ImageFolder([folder.name for folder in folders], samples, transform, damaged)


def image_folder__names_the_first(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Stop at the first damaged image instead of listing all."""
    found = {f.name: _find(f, (Path(root).resolve(),)) for f in _class_folders(Path(root))}
    if not skip_damaged:
        for path in (path for paths in found.values() for path in paths):
            if fault := _find_fault(path):
                raise DataError(f"{path} is damaged: {fault}")
    return _collect(found, skip_damaged, transform)


def image_folder__always_skips(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Skip damaged images whether or not it is told to."""
    found = {f.name: _find(f, (Path(root).resolve(),)) for f in _class_folders(Path(root))}
    return _collect(found, True, transform)


def image_folder__another_error(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Let FileNotFoundError of a missing folder through."""
    if not list(Path(root).iterdir()):
        raise DataError(f"{root} is empty")
    found = {f.name: _find(f, (Path(root).resolve(),)) for f in _class_folders(Path(root))}
    return _collect(found, skip_damaged, transform)


def image_folder__drops_empty_classes(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Leave out a class without images silently."""
    found = {f.name: _find(f, (Path(root).resolve(),)) for f in _class_folders(Path(root))}
    found = {name: paths for name, paths in found.items() if paths}
    return _collect(found, skip_damaged, transform)


def image_folder__forgets_the_transform(
    root: str | Path, *, skip_damaged: bool = False, transform: Transform | None = None
) -> ImageFolder:
    """Ignore the transform."""
    found = {f.name: _find(f, (Path(root).resolve(),)) for f in _class_folders(Path(root))}
    return _collect(found, skip_damaged, None)


def to_rgb__converts_only(image: Image.Image) -> Image.Image:
    """Leave it to `convert`, which drops the alpha channel and clips 16 bits."""
    if image.mode == "La":
        image = image.convert("LA")
    return ImageOps.exif_transpose(image).convert("RGB")


def to_rgb__not_upright(image: Image.Image) -> Image.Image:
    """Ignore the orientation that the camera noted."""
    plain = image.copy()
    plain.info.pop("exif", None)
    plain.getexif().clear()
    return _to_rgb(plain)


def to_rgb__on_black(image: Image.Image) -> Image.Image:
    """Composite on black."""
    image = as_8_bits(ImageOps.exif_transpose(image))
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    black = Image.new("RGBA", image.size, "black")
    return Image.alpha_composite(black, image).convert("RGB")


def to_rgb__only_rgba(image: Image.Image) -> Image.Image:
    """Look for transparency in mode RGBA alone, not in LA or a palette."""
    image = as_8_bits(ImageOps.exif_transpose(image))
    if image.mode == "RGBA":
        return _to_rgb(image)
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")


def to_rgb__clips_16_bits(image: Image.Image) -> Image.Image:
    """Let Pillow clip 16-bit grey at 255, so almost everything is white."""
    if image.mode.startswith("I"):
        image = ImageOps.exif_transpose(image)
        grey = np.asarray(image).astype(np.int64).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return _to_rgb(image)


def to_rgb__lower_bits(image: Image.Image) -> Image.Image:
    """Keep the lower eight of 16 bits."""
    if image.mode.startswith("I"):
        image = ImageOps.exif_transpose(image)
        return Image.fromarray((np.asarray(image) & 0xFF).astype(np.uint8)).convert("RGB")
    return _to_rgb(image)


def to_rgb__turns_the_other_way(image: Image.Image) -> Image.Image:
    """Turn left where the camera was turned right, and the reverse."""
    orientation = image.getexif().get(0x0112)
    upright = _to_rgb(image)
    return upright.rotate(180) if orientation in (6, 8) else upright


def to_rgb__all_or_nothing(image: Image.Image) -> Image.Image:
    """Make a pixel white or opaque, so half-transparent ones are not mixed."""
    upright = as_8_bits(ImageOps.exif_transpose(image))
    upright = (upright.convert("LA") if upright.mode == "La" else upright).convert("RGBA")
    opaque = upright.getchannel("A").point(lambda value: 255 if value > 127 else 0)
    white = Image.new("RGB", upright.size, "white")
    white.paste(upright.convert("RGB"), mask=opaque)
    return white


def to_rgb__grey_stays_grey(image: Image.Image) -> Image.Image:
    """Return grey images in mode L."""
    rgb = _to_rgb(image)
    return rgb.convert("L") if image.mode in ("1", "L", "LA") else rgb


def read_rgb__unguarded(path: str | Path) -> Image.Image:
    """Let every error of Pillow through."""
    with Image.open(path) as image:
        return _to_rgb(image)


def read_rgb__missing_files_only(path: str | Path) -> Image.Image:
    """Catch FileNotFoundError alone, so a damaged image raises something else."""
    try:
        with Image.open(path) as image:
            return _to_rgb(image)
    except FileNotFoundError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def read_rgb__nameless(path: str | Path) -> Image.Image:
    """Leave the file's name out of the message."""
    try:
        check_regular(path)
        with Path(path).open("rb") as file, Image.open(file) as image:
            return _to_rgb(image)
    except Exception as error:
        raise DataError("an image cannot be read: it is missing or damaged") from error


def read_rgb__white_if_damaged(path: str | Path) -> Image.Image:
    """Return a white image instead of raising."""
    try:
        return _read_rgb(path)
    except DataError:
        return Image.new("RGB", (224, 224), "white")


def read_rgb__truncated_is_fine(path: str | Path) -> Image.Image:
    """Tell Pillow, for the whole process, to accept truncated files."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    return _read_rgb(path)


def read_rgb__on_its_side(path: str | Path) -> Image.Image:
    """Convert to RGB without a look at the orientation or the alpha channel."""
    try:
        check_regular(path)
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:
        raise DataError(f"the image {path} cannot be read: {error}") from error


def read_rgb__lazily(path: str | Path) -> Image.Image:
    """Return an RGB image before it is decoded, so damage shows only later."""
    try:
        check_regular(path)
        image = Image.open(path)
        return image if image.mode == "RGB" else _to_rgb(image)
    except Exception as error:
        raise DataError(f"the image {path} cannot be read: {error}") from error


def read_rgb__value_error(path: str | Path) -> Image.Image:
    """Raise ValueError, though with a good message."""
    try:
        return _read_rgb(path)
    except DataError as error:
        raise ValueError(str(error)) from error


_Pipeline = Callable[[Image.Image], torch.Tensor]
_BILINEAR = InterpolationMode.BILINEAR


def train_pipeline__black_corners(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Leave the corners of a rotated image black."""
    rotate = v2.RandomRotation(degrees, _BILINEAR)
    crop, mirror = v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(flip)
    return v2.Compose([_to_rgb, rotate, crop, mirror, image_pipeline(mean, std)])


def train_pipeline__always_flips_half(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Ignore `flip`, so digits are mirrored."""
    rotate = v2.RandomRotation(degrees, _BILINEAR, fill=255)
    crop, mirror = v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()
    return v2.Compose([_to_rgb, rotate, crop, mirror, image_pipeline(mean, std)])


def train_pipeline__fixed_normalisation(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Normalise by ImageNet's figures whatever `mean` and `std` are."""
    rotate = v2.RandomRotation(degrees, _BILINEAR, fill=255)
    crop, mirror = v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(flip)
    return v2.Compose([_to_rgb, rotate, crop, mirror, image_pipeline(MEAN, STD)])


def train_pipeline__of_pythons_random(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Draw the angle and the mirror from Python's generator, which no loader seeds."""
    crop, normalise = v2.RandomResizedCrop(size), image_pipeline(mean, std)

    def transform(image: Image.Image) -> torch.Tensor:
        angle = random.uniform(-degrees, degrees)
        image = _to_rgb(image).rotate(angle, Image.Resampling.BILINEAR, fillcolor="white")
        image = crop(image)
        return normalise(ImageOps.mirror(image) if random.random() < flip else image)

    return transform


def train_pipeline__keeps_the_mode(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Convert no image to RGB, so a grey one fails or has one channel."""
    rotate = v2.RandomRotation(degrees, fill=255)
    crop, mirror = v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(flip)
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    return v2.Compose([rotate, crop, mirror, *tensor])


def train_pipeline__upside_down(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Mirror top and bottom."""
    rotate = v2.RandomRotation(degrees, _BILINEAR, fill=255)
    crop, mirror = v2.RandomResizedCrop(size), v2.RandomVerticalFlip(flip)
    return v2.Compose([_to_rgb, rotate, crop, mirror, image_pipeline(mean, std)])


def train_pipeline__turns_one_way(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Rotate to the left only."""
    rotate = v2.RandomRotation((0, degrees), _BILINEAR, fill=255)
    crop, mirror = v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(flip)
    return v2.Compose([_to_rgb, rotate, crop, mirror, image_pipeline(mean, std)])


def train_pipeline__draws_once(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Draw one angle when the pipeline is made, the same for all images."""
    angle = torch.empty(1).uniform_(-degrees, degrees).item()
    rotate = v2.RandomRotation((angle, angle), _BILINEAR, fill=255)
    crop, mirror = v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(flip)
    return v2.Compose([_to_rgb, rotate, crop, mirror, image_pipeline(mean, std)])


def train_pipeline__seeds_each_image(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Seed the global generator at each call, so nothing is random any more."""
    rotate = v2.RandomRotation(degrees, _BILINEAR, fill=255)
    crop, mirror = v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(flip)
    steps = v2.Compose([_to_rgb, rotate, crop, mirror, image_pipeline(mean, std)])

    def transform(image: Image.Image) -> torch.Tensor:
        torch.manual_seed(0)
        return steps(image)

    return transform


def train_pipeline__never_crops(
    size: int,
    *,
    degrees: float = 30,
    flip: float = 0.5,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Squeeze the whole image into the square instead of cropping at random."""
    rotate = v2.RandomRotation(degrees, _BILINEAR, fill=255)
    squeeze, mirror = v2.Resize((size, size)), v2.RandomHorizontalFlip(flip)
    return v2.Compose([_to_rgb, rotate, squeeze, mirror, image_pipeline(mean, std)])


def _short_side(size: int, resize: int | None) -> int:
    resize = round(size * 8 / 7) if resize is None else resize
    if resize < size:
        raise ValueError("resize is less than size")
    return resize


def eval_pipeline__squeezes(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Scale both sides to the same length, so the aspect ratio is lost."""
    side = _short_side(size, resize)
    scale, crop = v2.Resize((side, side)), v2.CenterCrop(size)
    return v2.Compose([_to_rgb, scale, crop, image_pipeline(mean, std)])


def eval_pipeline__always_256(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Scale to 256 by default, whatever the size is."""
    scale = v2.Resize(_short_side(size, max(256, size) if resize is None else resize))
    return v2.Compose([_to_rgb, _shorten, scale, v2.CenterCrop(size), image_pipeline(mean, std)])


def eval_pipeline__black_borders(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Accept a `resize` below the size, which CenterCrop pads with black."""
    scale = v2.Resize(round(size * 8 / 7) if resize is None else resize)
    return v2.Compose([_to_rgb, _shorten, scale, v2.CenterCrop(size), image_pipeline(mean, std)])


def eval_pipeline__crops_at_random(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Crop anywhere, so two evaluations differ."""
    scale, crop = v2.Resize(_short_side(size, resize)), v2.RandomCrop(size)
    return v2.Compose([_to_rgb, _shorten, scale, crop, image_pipeline(mean, std)])


def eval_pipeline__crops_the_corner(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Crop the upper left corner."""
    scale, normalise = v2.Resize(_short_side(size, resize)), image_pipeline(mean, std)
    return lambda image: normalise(scale(_shorten(_to_rgb(image))).crop((0, 0, size, size)))


def eval_pipeline__keeps_the_mode(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Convert no image to RGB, so a grey one fails or has one channel."""
    scale, crop = v2.Resize(_short_side(size, resize)), v2.CenterCrop(size)
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    return v2.Compose([scale, crop, *tensor])


def eval_pipeline__not_normalised(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Return values from 0 to 1 without subtracting the mean."""
    scale, crop = v2.Resize(_short_side(size, resize)), v2.CenterCrop(size)
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([_to_rgb, _shorten, scale, crop, *tensor])


def eval_pipeline__forgets_to_divide(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Normalise values from 0 to 255 as if they were from 0 to 1."""
    scale, crop = v2.Resize(_short_side(size, resize)), v2.CenterCrop(size)
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32), v2.Normalize(mean, std)]
    return v2.Compose([_to_rgb, _shorten, scale, crop, *tensor])


def eval_pipeline__asserts(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Assert where a ValueError is promised."""
    side = round(size * 8 / 7) if resize is None else resize
    assert side >= size, "the crop is larger than the image"
    scale, crop = v2.Resize(side), v2.CenterCrop(size)
    return v2.Compose([_to_rgb, _shorten, scale, crop, image_pipeline(mean, std)])


def eval_pipeline__scales_the_long_side(
    size: int,
    *,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> _Pipeline:
    """Scale the long side, so the short one may not fill the square."""
    side, normalise = _short_side(size, resize), image_pipeline(mean, std)

    def transform(image: Image.Image) -> torch.Tensor:
        image = _to_rgb(image)
        factor = side / max(image.size)
        width, height = (max(1, round(length * factor)) for length in image.size)
        return normalise(v2.CenterCrop(size)(image.resize((width, height))))

    return transform
