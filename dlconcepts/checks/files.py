"""Leave a project's files, arguments and screen alone while its code runs."""

import builtins
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch

OURS = "dlconcepts-"  # how our own temporary folders begin
OPEN, SAVE, RENAME, REMOVE = builtins.open, torch.save, os.replace, os.remove


class Overlay:
    """Writes go to copies in a folder, and what was written is read from there."""

    def __init__(self, folder: str) -> None:
        self.folder, self.written = Path(folder), dict[Path, Path]()

    def place(self, file: Any, mode: str = "r") -> Any:
        """Return where a file is to be opened."""
        if not isinstance(file, (str, os.PathLike)):
            return file
        path = Path(file).absolute()
        if path.is_relative_to("/dev") or OURS in str(path):
            return file
        if set(mode) & set("wax+") and path not in self.written:
            copy = self.folder / str(len(self.written))
            if "w" not in mode and path.is_file():
                shutil.copyfile(path, copy)
            self.written[path] = copy
        return self.written.get(path, file)

    def open(self, file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        return OPEN(self.place(file, mode), mode, *rest, **named)

    def save(self, what: Any, f: Any, *rest: Any, **named: Any) -> None:
        SAVE(what, self.place(f, "w"), *rest, **named)

    def rename(self, old: Any, new: Any, **named: Any) -> None:
        source = self.place(old)
        if named or source is old:
            RENAME(old, new, **named)
        else:
            shutil.copyfile(source, self.place(new, "w"))

    def remove(self, file: Any, **named: Any) -> None:
        if named or self.place(file) is file:
            REMOVE(file, **named)
        else:
            del self.written[Path(file).absolute()]


@contextmanager
def left_alone() -> Iterator[None]:
    """Keep what the project writes, prints and reads of the command line apart.

    A library that writes files without `open` and `torch.save` still does.
    """
    with tempfile.TemporaryDirectory(prefix=OURS) as folder:
        overlay = Overlay(folder)
        replaced: list[tuple[Any, str, Any]] = [
            *((builtins, "open", overlay.open), (io, "open", overlay.open)),
            *((os, "replace", overlay.rename), (os, "rename", overlay.rename)),
            *((os, "remove", overlay.remove), (os, "unlink", overlay.remove)),
            *((torch, "save", overlay.save), (sys, "argv", sys.argv[:1])),
        ]
        before = [getattr(module, name) for module, name, _ in replaced]
        try:
            for module, name, value in replaced:
                setattr(module, name, value)
            with redirect_stdout(io.StringIO()):
                yield
        finally:
            for (module, name, _), value in zip(replaced, before, strict=True):
                setattr(module, name, value)
