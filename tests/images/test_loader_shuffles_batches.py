"""A loader that shuffles puts examples of all classes into a batch.

>>> from torch.utils.data import DataLoader
>>> labels = [0] * 50 + [1] * 50  # all cats, then all dogs, as a folder lists them
>>> [int(batch.sum()) for batch in DataLoader(labels, 50)]
[0, 50]
>>> shuffled = DataLoader(labels, 50, shuffle=True)
>>> all(0 < batch.sum() < 50 for batch in shuffled)
True

Notes: Give the data set to a DataLoader with a batch size and shuffling, so that the order of
    examples does not influence the model.
Verdict: holds
Truth: Each image comes once in an epoch, with its own label, and the number of worker processes
    does not change the order.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from dlconcepts.images import ImageFolder, eval_pipeline, image_folder
from dlconcepts.testing.laws import law
from tests.images.common import HOST, RAW, loads, saved

# 40 cats and 40 dogs, images whose grey level is their number.
IMAGES = {
    f"{'cat' if number < 40 else 'dog'}/{number:02}.ppm": Image.new("RGB", (4, 4), (number,) * 3)
    for number in range(80)
}


def epoch(batches: Iterable[Any]) -> list[list[tuple[int, int]]]:
    """Return, batch by batch, the number that each image shows, and its label."""
    return [
        [(round(float(x.mean()) * 255), int(label)) for x, label in zip(*batch, strict=True)]
        for batch in batches
    ]


def shuffles(folder: ImageFolder, batch_size: int, seed: int, workers: int) -> DataLoader[Any]:
    """Shuffle with a generator that is seeded for this loader."""
    generator = torch.Generator().manual_seed(seed)
    return loads(folder, batch_size, workers, shuffle=True, generator=generator)


def does_not_shuffle(
    folder: ImageFolder, batch_size: int, seed: int, workers: int
) -> DataLoader[Any]:
    """Take one class after the other, as the folder lists them."""
    return DataLoader(folder, batch_size)


def shuffles_within_classes(
    folder: ImageFolder, batch_size: int, seed: int, workers: int
) -> DataLoader[Any]:
    """Shuffle within each class, and take one class after the other."""
    order = random.Random(seed).sample(range(len(folder)), len(folder))
    return DataLoader(folder, batch_size, sampler=sorted(order, key=folder.targets.__getitem__))


def draws_with_replacement(
    folder: ImageFolder, batch_size: int, seed: int, workers: int
) -> DataLoader[Any]:
    """Draw each image from all of them."""
    numbers = random.Random(seed).choices(range(len(folder)), k=len(folder))
    return DataLoader(folder, batch_size, sampler=numbers)


def shuffles_labels_apart(
    folder: ImageFolder, batch_size: int, seed: int, workers: int
) -> DataLoader[Any]:
    """Shuffle the labels without their images."""
    labels = random.Random(seed).sample(folder.targets, len(folder))
    paths = [path for path, _ in folder.samples]
    relabelled = replace(folder, samples=list(zip(paths, labels, strict=True)))
    return shuffles(relabelled, batch_size, seed, 0)


def depends_on_the_workers(
    folder: ImageFolder, batch_size: int, seed: int, workers: int
) -> DataLoader[Any]:
    """Shuffle differently for each number of workers."""
    return shuffles(folder, batch_size, seed + workers, workers)


@law(
    right=shuffles,
    wrong={
        does_not_shuffle: "the first batch has both classes",
        shuffles_within_classes: "the first batch has both classes",
        draws_with_replacement: "each image comes once",
        shuffles_labels_apart: "with its own label",
        depends_on_the_workers: "the number of workers changes nothing",
    },
    share=0.05,
    because="each example reads 160 images, half of them in two worker processes",
    cpu_only=HOST,
)
# From 40 on a batch of 40 cats and 40 dogs has both classes, except with probability
# 2 / binomial(80, 40) < 2e-23.
@given(batch_size=st.integers(40, 80), seed=st.integers(0, 2**32))
# Since Python 3.12 a fork warns if the process has threads, and torch starts some.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_batches_mix_the_classes(
    load: Callable[..., DataLoader[Any]], batch_size: int, seed: int
) -> None:
    """Each image comes once with its label, in batches of both classes, for 0 and 2 workers."""
    with saved(IMAGES) as root:
        folder = image_folder(root, transform=eval_pipeline(2, **RAW))
        found, others = (epoch(load(folder, batch_size, seed, workers)) for workers in (0, 2))

    examples = [example for batch in found for example in batch]
    assert sorted(number for number, _ in examples) == list(range(80)), "each image comes once"
    assert all(label == number // 40 for number, label in examples), "it comes with its own label"
    assert {label for _, label in found[0]} == {0, 1}, "the first batch has both classes"
    unchanged = others == found
    assert unchanged, "the number of workers changes nothing"


def forgets_the_transform(root: Path, *, transform: Any = None) -> ImageFolder:
    """Give out the images as they are."""
    return image_folder(root)


def transforms_once(root: Path, *, transform: Any = None) -> list[tuple[Any, int]]:
    """Transform each image when the folder is opened, so that every epoch gets the same one."""
    return list(image_folder(root, transform=transform))


@law(
    right=image_folder,
    wrong={
        forgets_the_transform: "the transform's result",
        transforms_once: "transformed at each access",
    },
    cpu_only=HOST,
)
@given(index=st.integers(0, 1), transformed=st.just(True) | st.booleans())
def test_an_example_is_a_transformed_image_with_its_label(
    open_folder: Callable[..., Any], index: int, transformed: bool
) -> None:
    """Each access reads and transforms the image; without a transform it is a PIL image."""
    calls: list[Image.Image] = []

    def count(image: Image.Image) -> int:
        calls.append(image)
        return len(calls)

    two = {path: IMAGES[path] for path in ("cat/00.ppm", "dog/40.ppm")}
    with saved(two) as root:
        folder = open_folder(root, transform=count if transformed else None)
        examples = [folder[index] for _ in range(2)]

    assert [label for _, label in examples] == [index] * 2, "an example has its folder's label"
    if transformed:
        numbers = [number for number, _ in examples]
        assert all(isinstance(number, int) for number in numbers), "it is the transform's result"
        assert numbers == [1, 2], "an image is read and transformed at each access"
        seen = calls[0]
    else:
        seen = examples[0][0]
    assert seen.mode == "RGB", "the image is RGB"
    assert seen.getpixel((0, 0)) == (40 * index,) * 3, "the image is the one in the file"
