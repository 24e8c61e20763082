"""Describe a failed law to the learner: the call, the result, the line, the mistakes like it."""

import ast
import copy
import functools
import io
import re
import textwrap
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import reproduce_failure
from hypothesis.errors import Flaky

from dlconcepts.practice.loading import STEPS, EndlessError
from dlconcepts.practice.question import Rows, place_rows
from dlconcepts.practice.techniques import Law, Technique
from dlconcepts.testing.claims import TESTS
from dlconcepts.testing.hypothesis_bridge import subject_argument
from dlconcepts.testing.laws import FAILURES, Case, name_of

LONGEST = 600  # characters of one value
LAYERS = 5  # lines of a network
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# Hypothesis adds these notes to an error: the first names the law, the last can repeat the example.
HEADING = re.compile(r"^(Falsifying example|Failing test case): \w+\(\n", flags=re.MULTILINE)
REFUSED = re.compile(r"DID NOT RAISE (?:<class ')?(?:\w+\.)*(\w+)(?:'>)?")  # pytest.raises says so
REPEAT = re.compile(r"\n?^You can reproduce .*@reproduce_failure\((.+, b.+)\).*$", re.MULTILINE)


class Calls:
    """A function, and its last call and result, recorded once `shown` is set.

    >>> calls = Calls(abs)
    >>> calls.shown = True
    >>> calls.recorded(-1), calls.called, calls.back
    (1, 'abs(-1)', '1')
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.shown, self.called, self.back = False, "", ""
        self.unprinted: Rows = []
        self.result: Any = None
        self.expected: Any = None
        self.arguments: tuple[Any, Any] | None = None  # a copy from before the call

        @functools.wraps(function)
        def recorded(*arguments: Any, **named: Any) -> Any:
            if not self.shown:
                return function(*arguments, **named)
            # The call is described before it runs, since it may change its arguments.
            parts = [short(value) for value in arguments]
            parts += [f"{name}={short(value)}" for name, value in named.items()]
            self.called, self.arguments = call_told(function.__name__, parts), None
            self.unprinted = unprinted(arguments, named)
            with suppress(Exception):  # not everything can be copied, as a generator or a file
                self.arguments = copy.deepcopy((arguments, named))
            try:
                self.result = function(*arguments, **named)
            except BaseException as error:
                self.result, self.back = error, error_told(error)
                raise
            self.back = short(self.result)
            return self.result

        self.recorded = recorded

    def rows(self, original: Callable[..., Any]) -> Rows:
        """Return the last call, what came back, and what the library returns for it."""
        if not self.called:
            return []
        rows = [("called", self.called), *self.unprinted, ("came back", self.back)]
        if self.arguments is not None:
            try:
                self.expected = original(*self.arguments[0], **self.arguments[1])
                expected = short(self.expected)
            except Exception as error:
                self.expected, expected = error, error_told(error)
            rows += [("expected", expected)] if expected != self.back else []
        return rows

    def difference(self) -> str:
        """Return how what came back differs in kind from the library's result, if it does."""
        if not isinstance(self.expected, torch.Tensor | np.ndarray):
            return ""
        if not isinstance(self.result, type(self.expected)):
            return f"is of type {type(self.result).__name__}, not {type(self.expected).__name__}"
        own, asked = (
            {"shape": tuple(each.shape), "dtype": each.dtype}
            for each in (self.result, self.expected)
        )
        for name in own:
            if own[name] != asked[name]:
                return f"has {name} {own[name]}, not {asked[name]}"
        return ""


def call_told(name: str, arguments: list[str]) -> str:
    """Return a call as Python writes it, with one argument a line if one line is too short."""
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= 80 and "\n" not in line:
        return line
    return f"{name}(\n" + textwrap.indent(",\n".join(arguments), "    ") + ",\n)"


def unprinted(arguments: tuple[Any, ...], named: dict[str, Any]) -> Rows:
    """Return the strides and flags of arguments that matter to a law and that no repr shows.

    >>> unprinted((torch.zeros(2, 3).t(), np.zeros(2)), {"out": np.zeros(4)[::-1]})
    [('argument 1', 'has strides (1, 3)'), ('out', 'has strides (-8,) in bytes')]
    """
    rows = []
    numbered = {f"argument {number}": value for number, value in enumerate(arguments, 1)}
    for name, value in (numbered | named).items():
        said = []
        if isinstance(value, np.ndarray):
            said += [] if value.flags.writeable else ["is read-only"]
            said += [] if value.flags.c_contiguous else [f"has strides {value.strides} in bytes"]
        elif isinstance(value, torch.Tensor) and value.layout == torch.strided:
            said += [] if value.is_contiguous() else [f"has strides {value.stride()}"]
        rows += [(name, " and ".join(said))] if said else []
    return rows


def short(value: Any) -> str:
    """Return a value's repr, without addresses and cut off if it is long.

    >>> short([0] * 1000).endswith("0,...")
    True
    """
    if hasattr(value, "param_groups"):  # the repr of an optimizer fills a screen
        return f"{type(value).__name__}(lr={value.param_groups[0]['lr']})"
    try:
        text = ADDRESS.sub("", repr(value))
    except Exception as error:  # the learner's __init__ may have stopped halfway
        text = f"<{type(value).__name__} that cannot be printed: {type(error).__name__}>"
    lines = text.splitlines()
    if isinstance(value, torch.nn.Module) and len(lines) > LAYERS:
        count = sum(1 for _ in value.modules()) - 1
        text = "\n".join([*lines[:LAYERS], f"  ... {count} modules in all", ")"])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def error_told(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")


def error_rows(error: BaseException, folder: Path) -> Rows:
    """Return an error and the line of the learner's files where it was raised."""
    said = error_told(error)
    if isinstance(error, SystemExit):
        said = "It calls exit()."
    elif isinstance(error, EndlessError):
        said = f"It took more than {STEPS:,} steps (turns of loops and calls) and was stopped."
    return place_rows(said, own_frames(error, folder))


def own_frames(error: BaseException, folder: Path) -> list[traceback.FrameSummary]:
    """Return the lines of the learner's files that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if Path(frame.filename).parent == folder]


def failure_rows(
    error: BaseException, test: Any, calls: Calls | None, technique: Technique, folder: Path
) -> Rows:
    """Describe how a law failed on a learner's function."""
    rows = calls.rows(technique.original) if calls else []
    if isinstance(error, EndlessError):
        return [*rows[:1], *error_rows(error, folder)]
    if isinstance(error, Flaky):
        return [*rows[:1], ("problem", "It gives different results for the same input.")]
    if not rows:
        notes = getattr(error, "__notes__", [])
        rows.append(("smallest input", smallest_input(notes, subject_argument(test))))
    if is_of_law(error, folder):
        said, _, details = str(error).partition("\n")
        said = REFUSED.sub(r"a call like this raises \1", said)
        return [*rows, ("the law", said), ("", short_text(details))]
    if isinstance(error, NotImplementedError):
        rows.append(("problem", "This part is not written yet."))
    elif not own_frames(error, folder):
        difference = calls.difference() if calls else ""
        if difference:
            return [*rows, ("problem", f"What came back {difference}.")]
        rows.append(("problem", "The law cannot use what came back."))
    return [*rows, *error_rows(error, folder)]


def is_of_law(error: BaseException, folder: Path) -> bool:
    """Return whether an assertion of a law failed, not one in the learner's code.

    The learner's function may call a function of the law, so the innermost of both decides.
    """
    folders = [Path(place.filename).parents for place in traceback.extract_tb(error.__traceback__)]
    known = [folder in parents for parents in folders if folder in parents or TESTS in parents]
    return isinstance(error, AssertionError | pytest.fail.Exception) and known[-1:] != [True]


def short_text(text: str) -> str:
    """Return the first lines of what pytest adds to an assertion's message."""
    lines = ADDRESS.sub("", textwrap.dedent(text).strip()).splitlines()
    return "\n".join([line[:200] for line in lines if line.strip() and "Use -v" not in line][:8])


def smallest_input(notes: list[str], subject: str) -> str:
    r"""Return the smallest input that Hypothesis found, without the subject and the law's name.

    >>> smallest_input(["Falsifying example: test(\n    fit=...,\n    x=3,\n)"], "fit")
    'x=3,'
    """
    text = HEADING.sub("", REPEAT.sub("", "\n".join(notes)))
    useless = (f"    {subject}=", "    data=data(...)")
    lines = [line for line in text.splitlines() if not line.startswith(useless) and line != ")"]
    return ADDRESS.sub("", "\n".join(line.removeprefix("    ") for line in lines))[:2000]


def mistakes_like(
    error: BaseException, test: Any, case: Case, law: Law, calls: Calls | None
) -> Rows:
    """Return the mistakes that fail like an error, on the example that raised it.

    They fail for their stated reason, with the same message, and the same came back. Hypothesis
    runs the example again, since only Hypothesis can repeat what a law draws while it runs. In this
    process, the law then runs on no other example.
    """
    found = REPEAT.search("\n".join(getattr(error, "__notes__", [])))
    if found is None:
        return []
    repeated = reproduce_failure(*ast.literal_eval(f"({found[1]})"))(test)
    rows = []
    for mistake, reason in case.law.wrong.items():
        name, other = name_of(mistake), Calls(mistake)
        other.shown = True
        # A helper of the tests calls the technique; what the technique returns there is unknown.
        is_compared = calls is not None and case.subject is calls.recorded
        try:
            with redirect_stdout(io.StringIO()):  # Hypothesis prints the example again
                subject = other.recorded if is_compared else mistake
                repeated(**{subject_argument(test): subject})
        except FAILURES as failure:
            is_alike = reason in str(failure) and without_names(failure) == without_names(error)
            if is_alike and not (is_compared and calls and other.back != calls.back):
                said = law.mistakes.get(name, "")  # PyTorch's own functions have no sentence
                rows.append(("fails like", f"'{name.replace('_', ' ')}': {said}".rstrip(": ")))
    return rows


def without_names(error: BaseException) -> str:
    # A message may show a function, as <function fit at 0x7f00>.
    return re.sub(r"(?<=<function) \S+ at 0x\w+>|0x\w+", "", str(error))
