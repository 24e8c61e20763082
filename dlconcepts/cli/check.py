"""`python -m dlconcepts check package.module:factory`: run the checks on a project."""

import argparse
import ast
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlconcepts.checks.files import left_alone
from dlconcepts.checks.project import PARTS
from dlconcepts.checks.report import check, where
from dlconcepts.support.atomic import write_report
from dlconcepts.support.errors import UserError, explaining, nearest

SHAPE = re.compile(r"([1-9]\d*(?:x[1-9]\d*)*)(?::int64<(\d+))?")


def run(arguments: argparse.Namespace) -> int:
    """Run the checks and return 1 if a law is broken, 2 if a part could not be used, else 0."""
    parts = find_parts(arguments.project, dict(map(setting, arguments.arg)))
    for part in ("batch", "loader"):
        if getattr(arguments, part) is not None:
            parts[part] = find_batch(getattr(arguments, part))
    with explaining(kinds=(TypeError, ValueError)):  # the parts or the exceptions are wrong
        report = check(except_for=reasons(arguments.except_for), **parts)
    statuses = {result.status for result in report.results}
    if statuses <= {"not checked"}:
        raise UserError("nothing could be checked: give --batch, or more parts")
    print(report, flush=True)  # first, since the files may fail
    write_report(arguments.json, report.to_json(), "--json")
    write_report(arguments.junit, report.to_junit(), "--junit")
    if not statuses & {"passed", "FAILED"}:
        raise UserError("no check could run; does the batch fit the model?")
    return 1 if "FAILED" in statuses else 2 * (not report.ok)


def setting(text: str) -> tuple[str, Any]:
    """Split width=10 into its name and value; a value that is no Python literal stays text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"--arg {text} does not have the form NAME=VALUE")
    with suppress(ValueError, SyntaxError):
        return name, ast.literal_eval(value)
    return name, value


def find_parts(project: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a project: a factory returns a dictionary of them, or a model."""
    found = look_up(project)
    found = partial(found, **settings) if settings else found
    parts = found if isinstance(found, nn.Module) else called(project, found)
    if isinstance(parts, nn.Module):
        # The checks want the factory itself, so that they can build the model again.
        parts = {"model": found}
    if not isinstance(parts, Mapping):
        raise UserError(
            f"{project} gives a {type(parts).__name__}; it has to be a model, or a dictionary of "
            f"parts: {', '.join(PARTS)}"
        )
    return dict(parts)


@contextmanager
def foreign(said: str) -> Iterator[None]:
    """Raise UserError for any error of the user's code in the block."""
    try:
        with left_alone():
            yield
    except (Exception, SystemExit) as error:
        raise UserError(f"{said} {where(error)}") from error


def look_up(name: str) -> Any:
    """Import the object that package.module:name refers to, also from the current folder."""
    module, colon, path = name.partition(":")
    if not colon or not module or not path:
        raise UserError(f"{name!r} does not have the form package.module:factory")
    file = Path(module).resolve() if module.endswith(".py") else None
    folder = str(file.parent if file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with foreign(f"{module} cannot be imported:"):
        found: Any = importlib.import_module(file.stem if file else module)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            near = nearest(attribute, vars(found) if hasattr(found, "__dict__") else ())
            raise UserError(f"{module} has no {path}{near}")
        found = getattr(found, attribute)
    return found


def called(name: str, found: Any) -> Any:
    """Return what a function of the user returns, and anything else as it is."""
    with foreign(f"{name}() raised"):
        return found() if callable(found) else found


def find_batch(text: str) -> Any:
    """Return random inputs of a shape such as 4x3x224x224, or the batch that a name refers to."""
    found = SHAPE.fullmatch(text.lower())
    if ":" in text and not found:
        return called(text, look_up(text))
    if not found:
        raise UserError(
            f"--batch {text} is neither a shape such as 4x3x224x224, or 4x10:int64<100, nor a "
            "name such as package.module:function"
        )
    shape, generator = [*map(int, found[1].split("x"))], torch.Generator().manual_seed(0)
    try:
        if found[2]:
            return torch.randint(int(found[2]), shape, generator=generator)
        return torch.randn(shape, generator=generator)
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        raise UserError(f"--batch {text} is too large for the memory") from error


def reasons(pairs: list[str]) -> dict[str, str]:
    """Return the laws that do not apply, from texts such as examples-stay-apart=REASON."""
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--except {pair} lacks the reason: --except {pair}=REASON")
    return dict(pair.split("=", 1) for pair in pairs)
