"""Checkpoints: a model on disk, with all that is needed to build it again."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import dlconcepts
from dlconcepts.networks import Network

VERSION = 1
PARTS = (
    "format_version",
    "architecture",
    "state_dict",
    "classes",
    "normalization",
    "libraries",
)
GIVE = "give one written by `python -m dlconcepts train`"


class CheckpointError(RuntimeError):
    """A file that is no checkpoint of this library, or a damaged one."""


@dataclass(frozen=True)
class Checkpoint:
    """A model in eval mode, its class names, what normalised its images, and who wrote it.

    classes: one name for each output; normalization: the arguments of `loading.normalize`;
    libraries: versions by name.
    """

    model: Network
    classes: tuple[str, ...]
    normalization: dict[str, float]
    libraries: dict[str, str]


def save(
    path: Path, model: Network, *, classes: Sequence[str], normalization: dict[str, float]
) -> None:
    """Write a model's architecture and state to a file that `torch.load` can open.

    The file appears whole or not at all; one of that name is replaced only by a whole one.

    Raises ValueError if there is not one class name for each output, OSError if the file cannot
    be written.
    Source: PyTorch documentation, "Saving and Loading Models".
    """
    _check_classes(model, classes)
    content = {
        "format_version": VERSION,
        "architecture": model.architecture,
        "state_dict": model.state_dict(),
        "classes": list(classes),
        "normalization": dict(normalization),
        "libraries": {"dlconcepts": dlconcepts.__version__, "torch": str(torch.__version__)},
    }
    # Into memory first: torch.save turns an error of the disk into one about its own format.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> Checkpoint:
    """Build the model of a checkpoint on the CPU, without being told its architecture.

    Raises CheckpointError if the file is missing, damaged, from elsewhere, from a later version,
    or holds pickled code, which is never run.
    Source: PyTorch documentation, `torch.load` with `weights_only`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "checkpoint.pt")
    ...     save(path, Network(4, [3], 2), classes=["cat", "dog"], normalization={"mean": 0.5})
    ...     load(path).classes
    ('cat', 'dog')
    """
    content = _read(path)
    found = content if isinstance(content, dict) else {}
    if found.get("format_version", VERSION) != VERSION:
        raise CheckpointError(
            f"{path} has format version {found['format_version']}, but this dlconcepts "
            f"({dlconcepts.__version__}) reads version {VERSION}; install the one that wrote it"
        )
    if missing := [part for part in PARTS if part not in found]:
        raise CheckpointError(
            f"{path} comes from elsewhere: it has no {', '.join(missing)}; {GIVE}"
        )
    try:
        # A new network draws its weights; the caller's random numbers must not depend on that.
        with torch.random.fork_rng(devices=[]):
            model = Network(**found["architecture"])
        model.load_state_dict(found["state_dict"])
        classes = tuple(found["classes"])
        _check_classes(model, classes)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} has parts that do not fit together: {reason}") from error
    return Checkpoint(model.eval(), classes, found["normalization"], found["libraries"])


def _check_classes(model: Network, classes: Sequence[str]) -> None:
    """Raise ValueError unless there is one class name for each output of the model."""
    if len(classes) != model.out_features:
        raise ValueError(
            f"the model has {model.out_features} outputs, but there are {len(classes)} classes"
        )


def _read(path: Path) -> Any:
    """Return what a file of `torch.save` holds, tensors and plain values only."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: {error.strerror}; {GIVE}"
        ) from error
    if start != b"PK\x03\x04":
        raise CheckpointError(f"{path} is not a checkpoint; {GIVE}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file makes torch raise whatever its bytes happen to lead to.
    except Exception as error:
        if "GLOBAL" in str(error):
            reason = "holds pickled code, which was not run"
        else:
            reason = "is truncated or damaged"
        raise CheckpointError(f"the checkpoint {path} {reason}; {GIVE}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path`, then put it in the place of `path`.

    A process that stops half-way leaves the old file as it was.

    Raises OSError if the file cannot be written; nothing is left behind.
    Source: POSIX rename(2): an existing target is replaced without a moment of absence.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
