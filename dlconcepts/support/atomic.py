"""Lesson 6, the write: a file that is there whole or not at all, whenever the process may die.

PyTorch is not imported here, so that processes that write can be killed by the hundred in a test.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file that takes the place of `path`, whole or not at all; see `replacing`."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file that, once written, takes the place of `path`.

    A process that stops half-way leaves the old file as it was, and perhaps the temporary one
    beside it, whose name begins with a dot and ends with .tmp. Links are followed.

    Raises OSError if the file cannot be written, or `path` is a folder or a device; nothing is left
    behind.
    Source: POSIX rename(2): an existing target is replaced without a moment of absence.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "Not a file that can be replaced", str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
