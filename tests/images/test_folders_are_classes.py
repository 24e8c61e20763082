"""Each folder is a class, and classes are numbered in the order of their names.

>>> from pathlib import Path, PurePath
>>> from tempfile import TemporaryDirectory
>>> from torchvision.datasets import ImageFolder
>>> with TemporaryDirectory() as root:
...     for name in "dog", "cat":
...         Path(root, name).mkdir()
...         Path(root, name, "1.png").touch()
...     ImageFolder(root).class_to_idx
{'cat': 0, 'dog': 1}

Notes: ImageFolder takes each folder as a class and the images inside as its examples.
Verdict: holds-if
Truth: It takes each folder, so every folder must be a class: a hidden `.cache` with an image is
    class 0 and moves all other labels up by one; without an image it raises. An image belongs to
    its topmost folder. torchvision's ImageFolder also takes hidden files for examples, follows
    links in circles, and finds a damaged image only when it is read; the library's `image_folder`
    does none of these, and skips hidden folders.
"""

import functools
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from dlconcepts.images import ImageFolder, image_folder
from dlconcepts.support.datasets import DataError
from dlconcepts.testing.laws import law
from tests.images.common import HOST

FORMATS = {".jpg": "JPEG", ".png": "PNG", ".ppm": "PPM", ".bmp": "BMP", ".tif": "TIFF"}

letters = st.text(st.characters(categories=["Ll", "Lo", "Nd"]), min_size=1, max_size=3)
# Capitals sort before small letters, and "10" before "9"; a folder may be named as an image is.
names = st.sampled_from(["a", "B", "b", "10", "9", "a b", "ä", "猫", "a.png"]) | letters
endings = st.sampled_from([".png", ".PNG", ".jpg", ".JPEG", ".Tif", ".ppm"])
not_images = st.sampled_from(
    ["notes.txt", "no_ending", "png", ".hidden.png", "._1.jpg", ".cache/1.png", "Thumbs.db"]
)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bool]:
    """Draw one to three class folders with images, some nested, and with other files.

    The keys are the paths, in the order to write them; the values say whether they are images.
    """
    # Many file systems take "B" and "b" for the same folder.
    classes = draw(st.lists(names, min_size=1, max_size=3, unique_by=str.lower))
    images, others = set(), set()
    for name in classes:
        inner = [name, f"{name}/{draw(names)}"]
        for number in range(draw(st.integers(1, 3))):
            images.add(f"{draw(st.sampled_from(inner))}/{number}{draw(endings)}")
        others.update(f"{name}/{other}" for other in draw(st.lists(not_images, max_size=2)))
    others.update(draw(st.lists(not_images | st.just("image.png"), max_size=2)))
    folders = {str(parent) for path in images | others for parent in PurePath(path).parents}
    others -= folders  # a folder may be named "png", too
    return {path: path in images for path in draw(st.permutations(sorted(images | others)))}


@functools.cache
def encoded(ending: str) -> bytes:
    """Return the bytes of an image file of noise in the format of an ending."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, FORMATS.get(ending, "PNG"))
    return file.getvalue()


@contextmanager
def written(files: Iterable[str]) -> Iterator[Path]:
    """Write a noise image into each file of a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            path = Path(folder, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(path.suffix))
        yield Path(folder)


def relabelled(folder: ImageFolder, classes: list[str]) -> ImageFolder:
    samples = [(path, classes.index(folder.classes[label])) for path, label in folder.samples]
    return replace(folder, classes=classes, samples=samples)


def numbers_as_listed(root: Path) -> ImageFolder:
    """Keep the order in which the file system lists the classes."""
    folder = image_folder(root)
    return relabelled(folder, [path.name for path in root.iterdir() if path.name in folder.classes])


def numbers_regardless_of_case(root: Path) -> ImageFolder:
    """Sort the classes as a file manager does."""
    folder = image_folder(root)
    return relabelled(folder, sorted(folder.classes, key=str.lower))


def labels_by_inner_folder(root: Path) -> ImageFolder:
    """Take the innermost folder of an image for its class."""
    folder = image_folder(root)
    classes = sorted({path.parent.name for path, _ in folder.samples})
    samples = [(path, classes.index(path.parent.name)) for path, _ in folder.samples]
    return replace(folder, classes=classes, samples=samples)


def counts_text_files(root: Path) -> torchvision.datasets.ImageFolder:
    """Take every file for an image."""
    return torchvision.datasets.ImageFolder(root, is_valid_file=lambda path: True)


def looks_one_level_deep(root: Path) -> ImageFolder:
    """Miss the images in folders below a class folder."""
    folder = image_folder(root)
    return replace(folder, samples=[s for s in folder.samples if s[0].parent.parent == root])


def minds_the_case_of_endings(root: Path) -> ImageFolder:
    """Know the ending .jpg but not .JPG."""
    folder = image_folder(root)
    return replace(folder, samples=[s for s in folder.samples if s[0].suffix.islower()])


@law(
    right=image_folder,
    wrong={
        torchvision.datasets.ImageFolder: "hidden files and folders hold no examples",
        counts_text_files: "a file with another ending is no example",
        numbers_as_listed: "numbered in the order of their names",
        numbers_regardless_of_case: "numbered in the order of their names",
        labels_by_inner_folder: "its topmost folder",
        looks_one_level_deep: "each image comes once",
        minds_the_case_of_endings: "each image comes once",
    },
    cpu_only=HOST,
)
@given(tree=trees())
def test_a_folder_is_a_class(open_folder: Callable[[Path], Any], tree: dict[str, bool]) -> None:
    """Classes are the folders, numbered by name; each image comes once, with its folder's label."""
    images = {path for path, is_image in tree.items() if is_image}
    with written(tree) as root:
        folder = open_folder(root)

        found = [(Path(path).relative_to(root).as_posix(), label) for path, label in folder.samples]
    paths = [path for path, _ in found]
    hidden = {path for path in paths if "/." in f"/{path}"}
    assert not hidden, f"hidden files and folders hold no examples: {hidden}"
    others = {*paths} - images
    assert not others, f"a file with another ending is no example: {others}"
    assert sorted(paths) == sorted(images), "each image comes once"
    for path, label in found:
        name = folder.classes[label]
        assert name == path.split("/")[0], f"the class of {path} is its topmost folder, not {name}"
    classes = sorted({path.split("/")[0] for path in images})
    assert folder.classes == classes, "classes are numbered in the order of their names"
    assert folder.targets == [label for _, label in found], "the targets are the labels"
    assert len(folder) == len(found), "the length is the number of images"


def skips_hidden_folders(root: Path) -> ImageFolder:
    """Skip hidden folders, as one would expect and as `image_folder` does."""
    return image_folder(root)


def puts_hidden_folders_last(root: Path) -> ImageFolder:
    """Give hidden folders the last numbers."""
    folder = torchvision.datasets.ImageFolder(root)
    classes = sorted(folder.classes, key=lambda name: (name[0] == ".", name))
    return relabelled(ImageFolder(folder.classes, folder.samples), classes)


@law(
    right=torchvision.datasets.ImageFolder,
    wrong={
        skips_hidden_folders: "a hidden folder is a class",
        puts_hidden_folders_last: "a hidden folder is a class, the first",
    },
    cpu_only=HOST,
)
@given(
    classes=st.lists(names, min_size=1, max_size=3, unique_by=str.lower),
    hidden=st.sampled_from([".cache", ".ipynb_checkpoints"]),
    empty=st.booleans(),
)
def test_torchvision_counts_hidden_folders(
    open_folder: Callable[[Path], Any], classes: list[str], hidden: str, empty: bool
) -> None:
    """A hidden folder with an image is class 0, and moves the labels; without one it raises."""
    file = f"{hidden}/notes.txt" if empty else f"{hidden}/1.png"
    with written([*(f"{name}/1.png" for name in classes), file]) as root:
        if empty:
            with pytest.raises(FileNotFoundError, match=re.escape(f"the classes {hidden}")):
                open_folder(root)
        else:
            found = open_folder(root)
            first = f"a hidden folder is a class, the first, but they are {found.classes}"
            assert found.classes == [hidden, *sorted(classes)], first
            labels = {Path(path).parent.name: label for path, label in found.samples}
            without = image_folder(root).classes
            moved = {name: label + 1 for label, name in enumerate(without)}
            assert labels == {hidden: 0, **moved}, "every other label moves up by one"


def ignores_links_to_folders(root: Path) -> ImageFolder:
    """Walk with rglob, which does not enter a link to a folder."""
    folder = image_folder(root)
    paths = {path for name in folder.classes for path in Path(root, name).rglob("*")}
    return replace(folder, samples=[sample for sample in folder.samples if sample[0] in paths])


@law(
    right=image_folder,
    wrong={
        ignores_links_to_folders: "links are followed",
        torchvision.datasets.ImageFolder: "does not go round in circles",
    },
    cpu_only=HOST,
)
@given(
    to=st.sampled_from(["image", "folder", "folder above", "class above", "root above"]),
    ending=endings,
)
def test_links_are_followed_but_not_in_circles(
    open_folder: Callable[[Path], Any], to: str, ending: str
) -> None:
    """A link stands for the image or folder it points to, unless it lies in that folder."""
    with written([f"cat/1{ending}", f"store/2{ending}"]) as root:
        store = {"image": f"store/2{ending}", "folder": "store", "root above": "."}
        link = "inner/link" if to == "class above" else "link.png"
        (root / "cat" / "inner").mkdir()
        (root / "cat" / link).symlink_to(root / store.get(to, "cat"))

        folder = open_folder(root)

        cats = [str(path) for path, label in folder.samples if label == 0]
    if "above" in to:
        assert len(cats) == 1, f"the walk does not go round in circles, but it found {len(cats)}"
    else:
        assert len(cats) == 2, f"links are followed, to a {to} too"


def globs(root: Path, skip_damaged: bool = False) -> ImageFolder:
    """Take whatever a pattern matches, even if that is nothing."""
    paths = sorted(Path(root).glob("*/*.png"))
    classes = sorted({path.parent.name for path in paths})
    return ImageFolder(classes, [(path, classes.index(path.parent.name)) for path in paths])


@law(right=image_folder, wrong={globs: "DID NOT RAISE"}, cpu_only=HOST)
@given(
    fault=st.sampled_from(["missing", "a file", "no class", "empty class", "all damaged"]),
    name=names,
)
def test_a_folder_without_classes_or_images_is_refused(
    open_folder: Callable[..., Any], fault: str, name: str
) -> None:
    """A missing root, a file, no class and a class without images are errors with the path."""
    with written(["other/1.png"]) as above:
        root = above / "root" / "inner"
        path = root
        if fault == "a file":
            root.parent.mkdir()
            root.touch()
        elif fault == "no class":
            (root / ".hidden").mkdir(parents=True)
        elif fault != "missing":
            (root / "another").mkdir(parents=True)
            (root / "another" / "1.png").write_bytes(encoded(".png"))
            path = root / f"{name}1"
            path.mkdir()
            (path / ("1.png" if fault == "all damaged" else "1.txt")).touch()

        with pytest.raises(DataError, match=re.escape(str(path))):
            open_folder(root, skip_damaged=True)


def opened(
    root: Path, skip_damaged: bool, check: Callable[[Path], Any], at_most: int | None = None
) -> ImageFolder:
    """Open torchvision's ImageFolder, then look for damaged images with a check."""
    folder = torchvision.datasets.ImageFolder(root)
    samples = [(Path(path), label) for path, label in folder.samples]
    damaged = [path for path, _ in samples if fails(check, path)][:at_most]
    if damaged and not skip_damaged:
        raise DataError(f"{len(damaged)} damaged: {damaged}")
    whole = [sample for sample in samples if sample[0] not in damaged]
    return ImageFolder(folder.classes, whole, damaged=tuple(damaged))


def fails(check: Callable[[Path], Any], path: Path) -> bool:
    try:
        check(path)
    except Exception:  # each decoder of Pillow raises other errors
        return True
    return False


def verifies(path: Path) -> None:
    with Image.open(path) as image:
        image.verify()


def decodes(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def checks_nothing(root: Path, *, skip_damaged: bool = False) -> ImageFolder:
    """Leave a damaged image to the epoch that reads it."""
    return opened(root, skip_damaged, lambda path: None)


def checks_the_header(root: Path, *, skip_damaged: bool = False) -> ImageFolder:
    """Trust an image if Image.open can read its header."""
    return opened(root, skip_damaged, lambda path: Image.open(path).close())


def checks_with_verify(root: Path, *, skip_damaged: bool = False) -> ImageFolder:
    """Trust Image.verify, which checks PNG's checksums but nothing in a JPEG."""
    return opened(root, skip_damaged, verifies)


def stops_at_the_first(root: Path, *, skip_damaged: bool = False) -> ImageFolder:
    """Report one damaged image, so that the next one comes up in the next run."""
    return opened(root, skip_damaged, decodes, at_most=1)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "broken link":
        path.unlink()
        path.symlink_to(path.parent / "nowhere")
    else:
        changed = {"empty": b"", "truncated": content[: len(content) // 2], "text": b"<html>"}
        path.write_bytes(changed[how])


@law(
    right=image_folder,
    wrong={
        checks_nothing: "DID NOT RAISE",
        checks_the_header: "DID NOT RAISE",
        checks_with_verify: "DID NOT RAISE",
        stops_at_the_first: "the error names every damaged image",
    },
    cpu_only=HOST,
)
@given(
    damages=st.lists(
        st.tuples(
            st.sampled_from(sorted(FORMATS)),
            st.sampled_from(["none", "empty", "truncated", "text", "broken link"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_damaged_images_are_all_named_or_all_skipped(
    open_folder: Callable[..., ImageFolder], damages: list[tuple[str, str]]
) -> None:
    """One error names each damaged image and no other; skip_damaged skips and lists them.

    Damage that a decoder does not notice, such as a changed pixel, is no error.
    """
    assume(any(how != "none" for _, how in damages))
    files = {f"cat/{n}{ending}": how for n, (ending, how) in enumerate(damages)}
    with written([*files, "cat/whole.png"]) as root:
        damaged = [root / file for file, how in files.items() if how != "none"]
        for path in damaged:
            damage(path, files[path.relative_to(root).as_posix()])

        with pytest.raises(DataError) as error:
            open_folder(root)
        folder = open_folder(root, skip_damaged=True)

        named = [root / file for file in files if str(root / file) in str(error.value)]
        assert named == damaged, "the error names every damaged image and no other"
        kept = [path for path, _ in folder.samples]
        whole = [root / file for file in [*files, "cat/whole.png"] if root / file not in damaged]
        assert kept == whole, "every other image is kept"
        assert list(folder.damaged) == damaged, "the skipped images are listed"
