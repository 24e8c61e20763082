"""What the rows find in the working folder, and what is broken there."""

import functools
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dlconcepts.checkpoints import save
from dlconcepts.cli import main
from dlconcepts.networks import Network
from dlconcepts.support import checkpoint_files as files
from dlconcepts.support import datasets
from dlconcepts.transfer import untrained
from tests.cli.rows import Given

Patch = pytest.MonkeyPatch
TRAIN = "train --hidden 4 --batch-size 1000 --epochs"
TRANSFER = "transfer pets --model squeezenet1_1 --weights none --epochs"


def text(name: str, content: str = "precious") -> Given:
    """A text file."""
    return lambda patch: (
        Path(name).parent.mkdir(parents=True, exist_ok=True),
        Path(name).write_text(content, encoding="utf-8"),
    )


def setting(name: str, value: object) -> Given:
    """An attribute of ours has another value."""
    return lambda patch: patch.setattr(name, value)


def variable(name: str, value: str) -> Given:
    """A variable of the environment."""
    return lambda patch: patch.setenv(name, value)


def picture(name: str, mode: str = "RGB", size: tuple[int, int] = (8, 8), **options: Any) -> Given:
    """An image file."""

    def make(patch: Patch) -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        color = 40_000 if mode.startswith("I") else 90
        Image.new(mode, size, color).save(name, **options)

    return make


def album(*classes: str, images: int = 2, root: str = "pets") -> Given:
    """A folder with a folder of images for each class."""

    def make(patch: Patch) -> None:
        for name in classes or ("cat", "dog"):
            for number in range(images):
                picture(f"{root}/{name}/{number}.png")(patch)

    return make


def half_full_disk(patch: Patch) -> None:
    """There is room for nothing but temporary files."""
    real = files.save_file

    def save_file(content: Any, path: Path) -> None:
        if not Path(path).is_relative_to(tempfile.gettempdir()):
            raise OSError(28, "No space left on device")
        real(content, path)

    patch.setattr("dlconcepts.checkpoints.save_file", save_file)


def full_disk(patch: Patch) -> None:
    """No byte can be written any more, as `fsync` notices."""

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(os, "fsync", fail)


def no_pictures(patch: Patch) -> None:
    """Pictures are empty: they take most of the time of a short training."""
    patch.setattr("dlconcepts.cli.output.write_figure", lambda path, figure: path.touch())
    for module in ("train", "transfer"):
        patch.setattr(f"dlconcepts.cli.{module}.view_predictions", lambda *arguments: None)


# ------------------------------------------------------------------------ checkpoints


@functools.cache
def kept(line: str) -> dict[str, bytes]:
    """Return the files that a command writes, which it does once for all rows."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        os.chdir(name)
        try:
            no_pictures(patch)
            album()(patch)
            with redirect_stdout(io.StringIO()):
                assert main(line.split()) == 0
            return {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}
        finally:
            os.chdir(here)


def after(line: str) -> Given:
    """The files of an earlier command."""

    def make(patch: Patch) -> None:
        for name, content in kept(line).items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content)

    return make


trained = after(f"{TRAIN} 1 --out run")
transferred = after(f"{TRANSFER} 1 --out run")


@functools.cache
def network() -> bytes:
    """Return the bytes of a checkpoint of a small network for Fashion-MNIST."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "good.pt")
        torch.manual_seed(0)
        parts = {"classes": datasets.CLASSES, "normalization": {"mean": 0.5, "std": 0.5}}
        save(path, Network(784, [3], 10), **parts)
        return path.read_bytes()


def good(patch: Patch) -> None:
    """A checkpoint without a training state."""
    Path("good.pt").write_bytes(network())


def cut(length: int) -> Given:
    """The first bytes of a checkpoint."""
    return lambda patch: Path("bad.pt").write_bytes(network()[:length])


def flipped(patch: Patch) -> None:
    """A checkpoint with one other bit."""
    content = bytearray(network())
    content[len(content) // 2] ^= 4
    Path("bad.pt").write_bytes(content)


def foreign(content: object) -> Given:
    """A file of torch.save."""
    return lambda patch: torch.save(content, "bad.pt")


def changed(**parts: object) -> Given:
    """A checkpoint with other parts and a valid checksum."""

    def make(patch: Patch) -> None:
        good(patch)
        files.save_file({**files.load_file("good.pt"), **parts}, "bad.pt")
        Path("good.pt").unlink()

    return make


def bias(change: Callable[[torch.Tensor], object]) -> Given:
    """A checkpoint with another bias in its last layer."""

    def make(patch: Patch) -> None:
        good(patch)
        content = files.load_file("good.pt")
        content["state_dict"]["output.bias"] = change(content["state_dict"]["output.bias"])
        files.save_file(content, "bad.pt")
        Path("good.pt").unlink()

    return make


def weight_of(value: float) -> Given:
    """A checkpoint with one weight of that value."""
    return bias(lambda old: torch.cat([torch.tensor([value]), old[1:]]))


def forged(content: object) -> Given:
    """A file of torch.save with a valid checksum."""

    def make(patch: Patch) -> None:
        archive = io.BytesIO()
        torch.save(content, archive)
        data = archive.getvalue()
        Path("bad.pt").write_bytes(data[:-2] + files.trailer(zlib.crc32(data)))

    return make


def training(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Given:
    """The checkpoint of a run of one epoch whose training state has wrong values."""

    def make(patch: Patch) -> None:
        trained(patch)
        content = files.load_file("run/checkpoint.pt")
        content["training"] |= change(content["training"])
        files.save_file(content, "bad.pt")
        shutil.rmtree("run")

    return make


class Payload:
    """A pickle that creates a folder when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def small(patch: Patch) -> None:
    """A checkpoint of a network that takes four values."""
    model = Network(4, [3], 2)
    save("bad.pt", model, classes=["a", "b"], normalization={"mean": 0.5, "std": 0.5})


def weights(name: str, file: str) -> Given:
    """The weights of a classifier of torchvision."""
    return lambda patch: torch.save(untrained(name).state_dict(), file)


# ------------------------------------------------------------------------ projects and scripts

PROJECT = """
import torch
from torch import nn

torch.manual_seed(0)
inputs, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])

def good():
    return {"model": nn.Sequential(nn.Linear(4, 3)), "batch": (inputs, targets)}

def wrong():
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    return {"model": model, "batch": (inputs, targets), "loss_fn": nn.CrossEntropyLoss()}

def narrow():
    return {**good(), "batch": (torch.randn(6, 5), targets)}

def raises():
    raise KeyError("no such layer")

def model():
    return nn.Linear(4, 3)

def number():
    return 3

batch = inputs, targets
"""
SCRIPT = """
import torch
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(60, 4), torch.arange(60) % 3
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for batch in torch.arange(60).split(6):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
    optimizer.step()
"""
WRONG_SCRIPT = SCRIPT.replace("    optimizer.zero_grad()\n", "")
project = text("project.py", PROJECT)
script = text("script.py", SCRIPT)
wrong_script = text("script.py", WRONG_SCRIPT)


def chain(*given: Given) -> Sequence[Given]:
    return given
