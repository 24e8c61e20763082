"""Shared by several claims of the lesson checkpoints."""

import io
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.checkpoints import save
from dlconcepts.networks import ACTIVATIONS, Network
from dlconcepts.support.bitwise import bits
from dlconcepts.support.checkpoint_files import load_file, trailer
from dlconcepts.training import seeded

Store = Callable[..., None]


State = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for the files of all examples, each of which replaces those before it."""
    return tmp_path_factory.mktemp("checkpoints")


@st.composite
def models(draw: st.DrawFn, **fixed: Any) -> Network:
    """Draw networks with 0 to 5 hidden layers; `fixed` are arguments that are not drawn."""
    size = st.integers(1, 4)
    arguments = {
        "in_features": draw(size),
        "hidden_features": draw(st.lists(size, max_size=5)),
        "out_features": draw(size),
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS, key=lambda name: name != "relu"))),
        "dropout": draw(st.sampled_from([0.0, 0.5, 0.1, 1.0]) | st.floats(0, 1)),
    }
    with seeded(draw(st.integers(0, 2**16)), torch.get_default_device()):
        return Network(**{**arguments, **fixed})


def parts_of(model: Network) -> dict[str, Any]:
    """Return what `save` wants to know beside a model."""
    classes = [f"class {number}" for number in range(model.out_features)]
    return {"classes": classes, "normalization": {"mean": 0.5, "std": 0.25}}


def values_of(model: nn.Module) -> dict[str, bytes]:
    """Return the bits of each parameter and persistent buffer."""
    return {name: bits(tensor) for name, tensor in model.state_dict().items()}


def train_a_step(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Let every parameter and every running statistic move."""
    model.train()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= gradient + 1


class Gadget:
    """An object that acts when it is unpickled: `__setstate__` is called with what was pickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __setstate__(self, state: dict[str, str]) -> None:
        """Leave a trace."""
        Path(state["marker"]).touch()


class Call:
    """An object that is unpickled by calling a function."""

    def __init__(self, function: Callable[..., Any], *arguments: str) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        """Say which function."""
        return self.function, self.arguments


GADGETS: dict[str, Callable[[str], Any]] = {
    "__setstate__": Gadget,
    "os.system": lambda marker: Call(os.system, f"touch {marker}"),
    "builtins.eval": lambda marker: Call(eval, f"open({marker!r}, 'w').close()"),
    "builtins.exec": lambda marker: Call(exec, f"open({marker!r}, 'w').close()"),
    "os.mkdir": lambda marker: Call(os.mkdir, marker),
    "subprocess": lambda marker: Call(subprocess.check_call, ("touch", marker)),
}


PLACES = ("state_dict", "architecture", "optimizer", "history", "top", "key")


def plant(content: State, place: str, gadget: Any) -> Any:
    """Return the content of a checkpoint with the gadget in some place."""
    if place == "top":
        return gadget
    if place == "key":
        return {**content, ("key", gadget): 0}
    if place in ("optimizer", "history"):
        return {**content, "training": {place: {"state": {0: {"exp_avg": [gadget]}}}}}
    return {**content, place: {**content[place], "gadget": gadget}}


def forge(content: Any) -> bytes:
    """Return a file with any content and a right checksum, as an enemy can write it."""
    archive = io.BytesIO()
    torch.save(content, archive)
    content = archive.getvalue()
    return content.removesuffix(b"\0\0") + trailer(zlib.crc32(content))


@contextmanager
def a_trap(folder: Path, gadget: str, place: str) -> Iterator[tuple[Path, Path, Network]]:
    """Give the path of a malicious checkpoint, the marker that its code makes, and a model."""
    path, marker, model = folder / "malicious.pt", folder / "executed", Network(2, [2], 2)
    save(path, model, **parts_of(model))
    path.write_bytes(forge(plant(load_file(path), place, GADGETS[gadget](str(marker)))))
    try:
        yield path, marker, model
    finally:
        if marker.exists():
            shutil.rmtree(marker) if marker.is_dir() else marker.unlink()


CAN_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="what dies is a fork of this process")


MODEL = Network(2, [2], 2)
