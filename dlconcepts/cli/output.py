"""Shared by the commands: find a device, guard a run's folder, write figures and images."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from dlconcepts.support import devices
from dlconcepts.support.atomic import write_atomically
from dlconcepts.support.checkpoint_files import CheckpointError
from dlconcepts.support.errors import UserError, explaining, writing


def find_device(name: str) -> torch.device:
    with explaining():
        return devices.find_device(name)


def check_folder(folder: Path) -> None:
    """Raise UserError unless files can be written into the folder, which need not exist yet."""
    with writing(folder):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        tempfile.TemporaryFile(dir=existing).close()


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


def denormalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Undo `normalize`: return images (N, C, H, W) as uint8.

    >>> from dlconcepts.loading import normalize
    >>> denormalize(normalize(torch.tensor([[[[7]]]], dtype=torch.uint8)), [0.5], [0.5])
    tensor([[[[7]]]], dtype=torch.uint8)
    """
    by_channel = (-1, 1, 1)
    shares = images * torch.tensor(std).view(by_channel) + torch.tensor(mean).view(by_channel)
    return (255 * shares).round().clamp(0, 255).to(torch.uint8)


def printable(name: str) -> str:
    r"""Return a name without what would move the cursor of a terminal or change its colours.

    >>> printable("red\x1b[31m\n")
    'red?[31m?'
    """
    return "".join(character if character.isprintable() else "?" for character in name)
