"""The error that every command explains in one sentence, with exit status 2."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class UserError(RuntimeError):
    """An error that the user can fix; the message says how. `details` are printed below it."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a question that names the known names closest to an unknown one.

    >>> nearest("trian", ["train", "verify"])
    '; did you mean train?'
    """
    near = get_close_matches(name, known)
    said = f"did you mean {' or '.join(near)}?" if near else otherwise
    return f"; {said}" if said else ""


@contextmanager
def explaining(
    before: str = "", after: str = "", kinds: tuple[type[Exception], ...] = (ValueError,)
) -> Iterator[None]:
    """Turn an error in a block into a UserError, with text before and after its message."""
    try:
        yield
    except kinds as error:
        raise UserError(f"{before}{error}{after}") from error


@contextmanager
def writing(path: Path, kind: str = "folder", option: str = "--out") -> Iterator[None]:
    """Turn an OSError in a block that writes to a folder, or a file, into a UserError."""
    try:
        yield
    except BrokenPipeError:  # of what is printed meanwhile
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot write to the {kind} {path}: {reason}; choose another with {option}"
        ) from error
