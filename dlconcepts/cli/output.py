"""Shared by the commands: find a device, guard a run's folder, write figures and images."""

import argparse
import io
import math
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import nn

from dlconcepts import checkpoints
from dlconcepts.support import devices, signals
from dlconcepts.support.atomic import making, write_atomically
from dlconcepts.support.checkpoint_files import CheckpointError
from dlconcepts.support.errors import UserError, explaining, writing
from dlconcepts.support.runs import Epoch
from dlconcepts.training import DivergedError


def find_device(name: str) -> torch.device:
    """Return the device of that name; raise UserError if it is unknown or unavailable."""
    with explaining():
        return devices.find_device(name)


def check_folder(folder: Path) -> None:
    """Raise UserError unless files can be written into the folder, which need not exist yet."""
    with writing(folder):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        tempfile.TemporaryFile(dir=existing).close()


class RunFolder:
    """The folder of a run; it says what of the run is on disk, as read from there.

    Raises UserError, before any work, if the folder cannot be written or has an earlier run.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.folder = arguments, arguments.out
        self.path = self.folder / "checkpoint.pt"
        check_folder(self.folder)
        resume = getattr(arguments, "resume", None)
        goes_on = resume and resume.exists() and self.path.exists() and self.path.samefile(resume)
        if self.path.exists() and not (arguments.force or goes_on):
            continued = f"resume it with --resume {self.path}, " if "resume" in arguments else ""
            raise UserError(
                f"{self.folder} has an earlier run: {self.path}; replace it with --force, "
                f"{continued}or choose another folder with --out"
            )
        self.before = self.state()
        arguments.keep = lambda stopped: self.kept(0, stopped=stopped)

    def state(self) -> tuple[int, int] | None:
        """Return what changes whenever a checkpoint is written, None if there is none."""
        if not self.path.exists():
            return None
        found = self.path.stat()
        return found.st_ino, found.st_mtime_ns

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refuse other runs into this folder, and remove it if nothing was written."""
        with making(self.folder), locked(self.folder):
            yield

    def kept(self, epochs: int, *, stopped: bool) -> str:
        """Say how many epochs are on disk, and how a run that was stopped goes on."""
        if self.state() == self.before:
            nothing = "nothing was written" if stopped else ""
            return f"{self.path} is as it was before" if self.before else nothing
        training = checkpoints.load(self.path).training
        epochs = training.epoch if training else epochs
        said = f"{self.path} keeps {epochs} of {self.arguments.epochs} epochs"
        if epochs == self.arguments.epochs:
            return f"{said}, but pictures may be missing"
        if training and stopped:
            line = shlex.join([*self.arguments.line, "--resume", str(self.path)])
            return f"{said}; resume with `python -m dlconcepts {line}`"
        return said


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder; raise UserError if another process has. A killed process leaves no lock."""
    try:
        import fcntl
    except ImportError:  # on Windows, where two runs are not kept apart
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another run is writing to {folder}; wait for it, or choose another with --out"
            ) from error
        except OSError:  # this file system has no locks
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Turn what a checkpoint with wrong values raises in a block into a CheckpointError."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if "allocate" in str(error):
            raise
        raise CheckpointError(
            f"the checkpoint {path} cannot be used: {type(error).__name__}: {error}"
        ) from error


def print_epoch(record: Epoch) -> None:
    print(
        f"epoch {record.epoch:3d}: training loss {record.train_loss:.4f}, "
        f"held-out loss {record.held_out_loss:.4f}, accuracy {record.held_out_accuracy:.1%}",
        flush=True,
    )
    signals.check()


def check_finite(record: Epoch, model: nn.Module) -> None:
    """Raise DivergedError unless the losses of an epoch and all weights are finite numbers."""
    losses = [loss for loss in (record.train_loss, record.held_out_loss) if loss is not None]
    weights = all(bool(value.isfinite().all()) for value in model.state_dict().values())
    if not (weights and all(map(math.isfinite, losses))):
        what = (
            f"the held-out loss is {record.held_out_loss}" if weights else "weights are not finite"
        )
        raise DivergedError(f"epoch {record.epoch}: {what}; lower the learning rate")


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class may be named $1
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())


def write_image(path: Path, image: torch.Tensor) -> None:
    """Write a uint8 tensor of shape (H, W) as a grey PNG file, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def slug(name: str) -> str:
    """Return a name that is safe as a file name.

    >>> slug("T-shirt/top")
    't-shirt-top'
    """
    return re.sub("[^a-z0-9]+", "-", name.lower())


def denormalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Undo `normalize`: return images (N, C, H, W) as uint8.

    >>> from dlconcepts.loading import normalize
    >>> denormalize(normalize(torch.tensor([[[[7]]]], dtype=torch.uint8)), [0.5], [0.5])
    tensor([[[[7]]]], dtype=torch.uint8)
    """
    by_channel = (-1, 1, 1)
    shares = images * torch.tensor(std).view(by_channel) + torch.tensor(mean).view(by_channel)
    return (255 * shares).round().clamp(0, 255).to(torch.uint8)
