"""What is told of a failure: the learner's own line, what was called, what came back."""

import functools
import linecache
import re
import textwrap
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis.errors import Flaky

LONGEST = 600
HEADING = re.compile(r"^(Falsifying example|Failing test case): \w+\(\n", flags=re.MULTILINE)


class Calls:
    """A learner's function, and what its last call was given and gave, once `shown` is set.

    >>> calls = Calls(abs)
    >>> calls.shown = True
    >>> calls.recorded(-1), calls.last
    (1, {'called': 'abs(-1)', 'came_back': '1'})
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.shown, self.last = False, dict[str, str]()

        @functools.wraps(function)
        def recorded(*arguments: Any, **named: Any) -> Any:
            if not self.shown:
                return function(*arguments, **named)
            called = call_told(function.__name__, arguments, named)
            try:
                result = function(*arguments, **named)
            except BaseException as error:
                self.last = {"called": called, "came_back": error_told(error)}
                raise
            self.last = {"called": called, "came_back": short(result)}
            return result

        self.recorded = recorded


def call_told(name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    """Return a call as it is written in Python, an argument a line where one line is too short."""
    parts = [short(value) for value in arguments]
    parts += [f"{key}={short(value)}" for key, value in named.items()]
    line = f"{name}({', '.join(parts)})"
    if len(line) <= 80 and "\n" not in line:
        return line
    return f"{name}(\n{textwrap.indent(''.join(f'{part},{chr(10)}' for part in parts), '    ')})"


def short(value: Any) -> str:
    """Return a value's repr without addresses, cut off where it grows long.

    >>> short([0] * 1000).endswith("0,...")
    True
    """
    if hasattr(value, "param_groups"):  # an optimizer, whose repr fills a screen
        return f"{type(value).__name__}(lr={value.param_groups[0]['lr']})"
    try:
        text = repr(value)
    except Exception as error:  # an object may be half made
        text = f"<{type(value).__name__} that cannot be printed: {type(error).__name__}>"
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def error_told(error: BaseException) -> str:
    """Return the type of an error and what it says.

    >>> error_told(ValueError("too small"))
    'ValueError: too small'
    """
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def failure_told(
    error: BaseException, subject: str, calls: Calls | None, folder: Path
) -> dict[str, Any]:
    """Return what a learner is told of a law that failed.

    `kind` is "law" if the law was broken, "error" if the learner's code raised, "unwritten" if it
    raised NotImplementedError, "flaky" if it does not do the same thing twice.
    """
    where = place_in(error, folder)
    kind = "law"
    if isinstance(error, Flaky):
        kind = "flaky"
    elif where and where["last"]:
        kind = "unwritten" if isinstance(error, NotImplementedError) else "error"
    elif not isinstance(error, AssertionError) and isinstance(error, Exception):
        kind = "error"
    said, _, details = str(error).partition("\n")
    return {
        "kind": kind,
        "said": said if kind == "law" else error_told(error).partition("\n")[0],
        "details": short_text(details) if kind == "law" else "",
        "where": where,
        "counterexample": counterexample(getattr(error, "__notes__", []), subject),
        **(calls.last if calls else {}),
    }


def short_text(text: str) -> str:
    """Return the first lines of what an assertion says of its values, without addresses."""
    text = re.sub(r" at 0x[0-9a-f]+", "", textwrap.dedent(text).strip())
    lines = [line for line in text.splitlines() if line.strip() and "Use -v" not in line]
    return "\n".join(line[:200] for line in lines[:8])


def place_in(error: BaseException, folder: Path) -> dict[str, Any] | None:
    """Return the innermost line of the learner's files that an error went through.

    `last` says whether it was raised there, or in what that line called outside of the laws.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [i for i, frame in enumerate(frames) if Path(frame.filename).parent == folder]
    if not own:
        return None
    frame, deeper = frames[own[-1]], frames[own[-1] + 1 :]
    in_a_law = any(Path(below.filename).name.startswith("test_") for below in deeper)
    return {
        "file": Path(frame.filename).name,
        "line": frame.lineno,
        "function": frame.name,
        "text": linecache.getline(frame.filename, frame.lineno or 0).strip(),
        "last": not (in_a_law and isinstance(error, AssertionError)),
    }


def broken(error: BaseException, folder: Path) -> dict[str, Any]:
    """Return what a learner is told of a file that cannot be imported."""
    return {"said": error_told(error).partition("\n")[0], "where": place_in(error, folder)}


def counterexample(notes: list[str], subject: str) -> str:
    """Return the smallest input that Hypothesis found, without the subject and the law's name.

    >>> counterexample(["Draw 1: 7"], "train_step")
    'Draw 1: 7'
    """
    text = HEADING.sub("", "\n".join(notes))
    lines = [line for line in text.splitlines() if not line.startswith(f"    {subject}=")]
    kept = [line.removeprefix("    ") for line in lines if line != ")"]
    return re.sub(r" at 0x[0-9a-f]+", "", "\n".join(kept))[:2000]
