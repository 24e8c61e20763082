"""What each command does with each input: one row an input, one module a command."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

Given = Callable[[pytest.MonkeyPatch], object]  # prepares the working folder, or a fault


class Row(NamedTuple):
    """A command line, its exit status, and what it says.

    line: the command; `{a b}` is one argument with a space.
    status: the exit status; 2 also means that the error stream has one sentence.
    says: pieces of the error stream, in order, with ` ... ` between them.
    given: what the working folder has, and what is broken.
    files: patterns of the files that are new or different afterwards; no other file may be.
    out: pieces of the output, as those of `says`.
    to: what the output goes to: "", "closed pipe", "full disk", "ascii".
    """

    line: str
    status: int
    says: str = ""
    given: Sequence[Given] = ()
    files: str = ""
    out: str = ""
    to: str = ""
