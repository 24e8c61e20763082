"""Checkpoint files with a checksum: loading returns exactly what was saved, or raises an error.

`save_file` writes an ordinary file of `torch.save`, a zip archive, which `torch.load` can read. It
adds one thing: the archive's comment is the CRC-32 of all other bytes. CRC-32 finds every change
within 32 neighboring bits and misses one in four billion of the others. It is the fastest checksum
that comes with Python (benchmarks/checkpoints.py). An attacker can forge the checksum, so pickled
code is never run.
"""

import os
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from dlconcepts.support.atomic import replacing
from dlconcepts.support.errors import UserError

PLAIN = (bool, int, float, str, type(None), torch.Size, torch.dtype, Tensor, nn.Parameter)
MAGIC = b"PK\x03\x04"
# A zip archive ends with the length of its comment, in two bytes, and the comment.
NO_COMMENT = b"\0\0"
LABEL = "CRC-32 "
TRAILER = 2 + len(LABEL) + 8
CHUNK = 2**18  # bytes, so that a large file is not read into memory twice
GIVE = "pass one written by `python -m dlconcepts train`"


class CheckpointError(UserError):
    """Raised for a file that is damaged or is not a checkpoint of this library."""


def save_file(content: Any, path: str | Path) -> None:
    """Write tensors and plain values with a checksum, as `torch.save` but whole or not at all.

    The file is what `torch.save` writes, except its last two bytes, the length of an empty comment:
    `trailer` of the CRC-32 of all that torch.save writes, these two included, replaces them.

    Raises TypeError for a value that `torch.load` would refuse, and OSError if the file cannot be
    written; an old file then stays as it was.
    Source: PyTorch documentation, `torch.save`; the zip format's APPNOTE.TXT, 4.3.16.
    """
    check_plain(content)
    with replacing(path) as file:
        summed = Summed(file)
        try:
            torch.save(content, cast(BinaryIO, summed))  # torch calls only write and flush
        except RuntimeError as error:
            # After a disk error torch fails again while closing the archive; report the cause.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.seek(-len(NO_COMMENT), os.SEEK_END)
        file.write(trailer(summed.checksum))


def load_file(path: str | Path) -> Any:
    """Verify the checksum of a file of `save_file`, and return its content, on the CPU.

    Raises CheckpointError if the file is missing, damaged, not written by `save_file`, or holds
    anything but tensors and plain values. Pickled code is never run.
    Source: PyTorch documentation, `torch.load` with `weights_only`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"weight": torch.ones(2)}, f"{folder}/weights.pt")
    ...     load_file(f"{folder}/weights.pt")
    {'weight': tensor([1., 1.])}
    """
    try:
        with Path(path).open("rb") as file:
            if fault := find_fault(file):
                raise CheckpointError(f"the file {path} {fault}")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        said = f"the checkpoint {path} cannot be read: {error.strerror}; {GIVE}"
        raise CheckpointError(said) from error
    except CheckpointError:
        raise
    # A forged file with a valid checksum can make torch raise anything.
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint {path} holds more than tensors and plain values, perhaps pickled "
            "code, which was not run; do not use it"
        ) from error


class Summed:
    """A file to write to that keeps the CRC-32 of all written bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.checksum, self.flush = file, 0, file.flush

    def write(self, data: bytes) -> int:
        """Write data and return the number of bytes."""
        self.checksum = zlib.crc32(data, self.checksum)
        return self.file.write(data)


def check_plain(value: Any, name: str = "content") -> None:
    """Raise TypeError, with the place, for a value that `torch.load` would refuse.

    >>> check_plain({"lr": complex(1, 0)})
    Traceback (most recent call last):
    ...
    TypeError: content['lr'] is a complex; a checkpoint holds tensors and plain Python values only
    """
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            check_plain(key, f"the key {key!r} of {name}")
            check_plain(item, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{name}[{index}]")
    elif type(value) not in PLAIN:
        raise TypeError(
            f"{name} is a {type(value).__name__}; a checkpoint holds tensors and plain Python "
            "values only"
        )


def find_fault(file: BinaryIO) -> str | None:
    """Return what is wrong with a file, or None if its checksum is valid."""
    if file.read(len(MAGIC)) != MAGIC:
        return f"is not a checkpoint; {GIVE}"
    end = file.seek(0, os.SEEK_END) - TRAILER
    file.seek(max(end, 0))
    found = file.read()
    if not found[2:].startswith(LABEL.encode()):
        return f"has no checksum: it is truncated or was written by something else; {GIVE}"
    if found != trailer(zlib.crc32(NO_COMMENT, crc32(file, end))):
        return "is damaged: its checksum does not match; restore it from a copy"
    return None


def crc32(file: BinaryIO, end: int) -> int:
    """Return the CRC-32 of the first `end` bytes of a file.

    >>> import io
    >>> crc32(io.BytesIO(b"123456789, and the rest"), 9) == 0xCBF43926
    True
    """
    checksum, left = 0, end
    file.seek(0)
    while chunk := file.read(min(CHUNK, left)):
        checksum, left = zlib.crc32(chunk, checksum), left - len(chunk)
    return checksum


def trailer(checksum: int) -> bytes:
    """Return the last bytes of an archive that has the checksum as its comment."""
    comment = f"{LABEL}{checksum:08x}".encode("ascii")
    return len(comment).to_bytes(2, "little") + comment
