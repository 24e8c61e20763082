"""A loader of shuffled batches.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Give the data set to a DataLoader with a batch size and shuffling, so that the order of
    examples does not influence the model.
Verdict: holds
"""

import multiprocessing
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
from tests.images.common import HOST


@contextmanager
def numbered() -> Iterator[ImageFolder]:
    """Write 40 cats and 40 dogs, as images whose colour is their number."""
    with tempfile.TemporaryDirectory() as root:
        for number in range(80):
            path = Path(root, "cat" if number < 40 else "dog", f"{number:02}.ppm")
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (number,) * 3).save(path)
        yield image_folder(root, transform=eval_pipeline(2, mean=(0,) * 3, std=(1,) * 3))


def epoch(batches: Iterable[Any]) -> list[list[tuple[int, int]]]:
    """Return, batch by batch, the number that each image shows, and its label."""
    return [
        [
            (round(float(image.mean()) * 255), int(label))
            for image, label in zip(*batch, strict=True)
        ]
        for batch in batches
    ]


def loads(folder: ImageFolder, batch_size: int, seed: int, num_workers: int) -> DataLoader[Any]:
    """Shuffle with a generator of its own, in processes that are forked where that can be."""
    fork = "fork" if num_workers and "fork" in multiprocessing.get_all_start_methods() else None
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        folder,
        batch_size,
        shuffle=True,
        generator=generator,
        num_workers=num_workers,
        multiprocessing_context=fork,
    )


def does_not_shuffle(
    folder: ImageFolder, batch_size: int, seed: int, num_workers: int
) -> DataLoader[Any]:
    """Take the classes one after the other, as the folder lists them."""
    return DataLoader(folder, batch_size)


def shuffles_the_classes(
    folder: ImageFolder, batch_size: int, seed: int, num_workers: int
) -> DataLoader[Any]:
    """Shuffle within the classes, and take one class after the other."""
    order = random.Random(seed).sample(range(len(folder)), len(folder))
    return DataLoader(folder, batch_size, sampler=sorted(order, key=folder.targets.__getitem__))


def draws_with_replacement(
    folder: ImageFolder, batch_size: int, seed: int, num_workers: int
) -> DataLoader[Any]:
    """Draw each image from all of them."""
    numbers = random.Random(seed).choices(range(len(folder)), k=len(folder))
    return DataLoader(folder, batch_size, sampler=numbers)


def shuffles_labels_apart(
    folder: ImageFolder, batch_size: int, seed: int, num_workers: int
) -> DataLoader[Any]:
    """Shuffle the labels, and not the images with them."""
    labels = random.Random(seed).sample(folder.targets, len(folder))
    paths = [path for path, _ in folder.samples]
    return loads(
        replace(folder, samples=list(zip(paths, labels, strict=True))), batch_size, seed, 0
    )


def depends_on_the_workers(
    folder: ImageFolder, batch_size: int, seed: int, num_workers: int
) -> DataLoader[Any]:
    """Give each number of workers another order."""
    return loads(folder, batch_size, seed + num_workers, num_workers)


@law(
    right=loads,
    wrong={
        does_not_shuffle: "the first batch has both classes",
        shuffles_the_classes: "the first batch has both classes",
        draws_with_replacement: "each image comes once",
        shuffles_labels_apart: "with its own label",
        depends_on_the_workers: "the number of workers changes nothing",
    },
    share=0.05,
    because="each example reads 160 images, half of them in two worker processes",
    cpu_only=HOST,
)
@given(batch_size=st.integers(40, 80), seed=st.integers(0, 2**32))
# Python 3.12 warns whoever forks while threads run, as torch's loader does on Linux.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_batches_mix_the_classes(
    load: Callable[..., DataLoader[Any]], batch_size: int, seed: int
) -> None:
    """Each image comes once with its label, in batches of both classes, whoever loads them.

    That 40 or more of 40 cats and 40 dogs are all of one class has probability
    2 / binomial(80, 40) < 2e-23.
    """
    with numbered() as folder:
        found, others = (epoch(load(folder, batch_size, seed, workers)) for workers in (0, 2))

    examples = [example for batch in found for example in batch]
    assert sorted(number for number, _ in examples) == list(range(80)), "each image comes once"
    assert all(label == number // 40 for number, label in examples), "it comes with its own label"
    assert {label for _, label in found[0]} == {0, 1}, "the first batch has both classes"
    unchanged = others == found
    assert unchanged, "the number of workers changes nothing"
