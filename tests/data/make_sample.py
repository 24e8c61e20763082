"""Make the Fashion-MNIST sample of dlconcepts from the official files.

Run `python -m tests.data.make_sample` where `dlconcepts.support.datasets.fashion_mnist` finds
the full set. It draws the same number of images of each class, keeps them in the official order,
and writes them in the official format.
"""

import argparse
import gzip
import random
import struct
from pathlib import Path

import torch

from dlconcepts.support.datasets import SAMPLE, fashion_mnist

SEED = 0


def stratified(labels: torch.Tensor, per_class: int) -> torch.Tensor:
    """Return the sorted positions of `per_class` random examples of each label.

    >>> stratified(torch.tensor([0, 1, 0, 1, 1, 0]), per_class=3)
    tensor([0, 1, 2, 3, 4, 5])
    """
    # Python's random() keeps its numbers for a seed in every version; numpy and torch may not.
    generator = random.Random(SEED)
    chosen: list[int] = []
    for label in sorted(set(labels.tolist())):
        positions = (labels == label).nonzero().flatten().tolist()
        chosen += sorted(positions, key=lambda _: generator.random())[:per_class]
    return torch.tensor(sorted(chosen))


def write_idx(path: Path, values: torch.Tensor) -> None:
    """Write a uint8 tensor as a compressed IDX file, the same bytes each time."""
    # 0x08 stands for uint8 in the IDX format. Without mtime=0 gzip would write the current time.
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
        compressed.write(header + values.numpy().tobytes())


def make_sample(out: Path, root: Path | None = None) -> None:
    """Write the sample's four files into the folder `out`."""
    for part, train, per_class in (("train", True, 600), ("t10k", False, 100)):
        full = fashion_mnist(train=train, full=True, root=root)
        chosen = stratified(full.labels, per_class)
        write_idx(out / f"{part}-images-idx3-ubyte.gz", full.images[chosen])
        write_idx(out / f"{part}-labels-idx1-ubyte.gz", full.labels[chosen].byte())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with FashionMNIST/raw in it")
    parser.add_argument("--out", type=Path, default=SAMPLE, help="where to write (%(default)s)")
    arguments = parser.parse_args()
    make_sample(arguments.out, arguments.data)
