"""Atomic writes: a file is written whole or not at all, even if the process dies.

This module does not import PyTorch, so that a test can start and kill hundreds of writers.
"""

import ctypes
import errno
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from dlconcepts.support.errors import writing
from dlconcepts.support.signals import finishing

PRINTED = Path("-")  # the name of a report that is printed


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all, even if the process is killed.

    It goes to a temporary file first, in the same folder, named `.*.tmp` after `path` and deleted
    after an error or Ctrl-C. Symbolic links are followed, and stay.

    Raises OSError if the file cannot be written, or `path` is a folder or a device.
    """
    with replacing(path) as file:
        file.write(content)


def check_report(path: Path | None, option: str) -> None:
    """Raise UserError, before the work, unless a report can be written to this file."""
    if path not in (None, PRINTED) and (path.is_dir() or not path.exists()):
        existing = next(folder for folder in path.absolute().parents if folder.exists())
        with writing(path, "file", option):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            TemporaryFile(dir=existing).close()


def write_report(path: Path | None, text: str, option: str) -> None:
    """Write a report, if asked for, whole or not at all; raise UserError if that is impossible."""
    if path is None:
        return
    if path == PRINTED:
        print(text, end="", file=sys.__stdout__)  # --quiet mutes sys.stdout
        return
    with writing(path, "file", option):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device, such as /dev/stdout
            path.write_text(text, encoding="utf-8")
        else:
            write_atomically(path, text.encode())


def write_json(path: Path | None, record: object) -> None:
    """Write results to the file of --json, if there is one."""
    write_report(path, json.dumps(record, indent=1) + "\n", "--json")


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a folder for a block, and remove it, and those above it, if they stay empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # something was written
            for path in made:
                path.rmdir()


def exchange(new: Path, old: Path) -> None:
    """Let two folders change places: at once, or in two steps where the system cannot do it.

    Source: Linux renameat2(2), RENAME_EXCHANGE; macOS renamex_np(2), RENAME_SWAP.
    """
    here, swap = -100, 2  # AT_FDCWD, and the flag of both calls
    a, b = os.fsencode(new), os.fsencode(old)
    library = ctypes.CDLL(None) if os.name == "posix" else None
    for name, given in (("renameat2", (here, a, here, b, swap)), ("renamex_np", (a, b, swap))):
        if hasattr(library, name) and getattr(library, name)(*given) == 0:
            return
    aside = old.with_name(f"{old.name}.old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends, as `write_atomically` says.

    A process that dies half-way leaves the old file as it was, and perhaps the temporary one.
    Source: POSIX rename(2): it replaces an existing file at once, so that one is always there.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "Not a file that can be replaced", str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with finishing():  # a signal waits until the file is there
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                # Otherwise a power failure could keep the rename but not the bytes.
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
