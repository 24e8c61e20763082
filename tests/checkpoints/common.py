"""Shared by several claims of the lesson checkpoints, and by the tests of its techniques."""

import io
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.checkpoints import save
from dlconcepts.networks import ACTIVATIONS, Network
from dlconcepts.support.bitwise import bits
from dlconcepts.support.checkpoint_files import load_file, trailer
from dlconcepts.support.runs import seeded

Store = Callable[..., None]
State = dict[str, Any]


@st.composite
def models(draw: st.DrawFn, **fixed: Any) -> Network:
    """Draw networks with 0 to 5 hidden layers; `fixed` holds arguments that are not drawn."""
    size = st.integers(1, 4)
    arguments = {
        "in_features": draw(size),
        "hidden_features": draw(st.lists(size, max_size=5)),
        "out_features": draw(size),
        # relu first: Hypothesis shrinks to the first element.
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS, key=lambda name: name != "relu"))),
        "dropout": draw(st.sampled_from([0.0, 0.5, 0.1, 1.0]) | st.floats(0, 1)),
    }
    with seeded(draw(st.integers(0, 2**16)), torch.get_default_device()):
        return Network(**{**arguments, **fixed})


def parts_of(model: Network) -> dict[str, Any]:
    """Return the other arguments of `save`: class names that fit the model, a normalization."""
    # Not in alphabetical order, which somebody might sort them into.
    classes = [f"class {number}" for number in reversed(range(model.out_features))]
    return {"classes": classes, "normalization": {"mean": 0.5, "std": 0.25}}


def emptied(folder: Path) -> Path:
    """Return a folder that is there and empty, whatever an example before left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def values_of(model: nn.Module) -> dict[str, bytes]:
    return {name: bits(tensor) for name, tensor in model.state_dict().items()}


def train_a_step(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Move every parameter and every running statistic."""
    model.train()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= gradient + 1  # a gradient may be zero


class Gadget:
    """An object that runs code when it is unpickled, through `__setstate__`."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["marker"]).touch()


class Call:
    """An object that calls a function when it is unpickled, through `__reduce__`."""

    def __init__(self, function: Callable[..., Any], *arguments: str) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


# Ways to run code while unpickling; each makes the file or folder `marker`.
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
    """Return the content of a checkpoint with the gadget in one of PLACES."""
    if place == "top":
        return gadget
    if place == "key":
        return {**content, ("key", gadget): 0}
    if place in ("optimizer", "history"):
        return {**content, "training": {place: {"state": {0: {"exp_avg": [gadget]}}}}}
    return {**content, place: {**content[place], "gadget": gadget}}


def forge(content: Any) -> bytes:
    """Return a file with any content and a valid checksum, as an attacker can write it."""
    archive = io.BytesIO()
    torch.save(content, archive)
    content = archive.getvalue()
    return content.removesuffix(b"\0\0") + trailer(zlib.crc32(content))


@contextmanager
def a_trap(folder: Path, gadget: str, place: str) -> Iterator[tuple[Path, Path, Network]]:
    """Yield the path of a malicious checkpoint, the marker that its code makes, and a model."""
    path, marker, model = folder / "malicious.pt", folder / "executed", Network(2, [2], 2)
    save(path, model, **parts_of(model))
    path.write_bytes(forge(plant(load_file(path), place, GADGETS[gadget](str(marker)))))
    try:
        yield path, marker, model
    finally:
        if marker.exists():
            shutil.rmtree(marker) if marker.is_dir() else marker.unlink()
