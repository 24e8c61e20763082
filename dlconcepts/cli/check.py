"""`python -m dlconcepts check package.module:factory`: run the checks on a project."""

import argparse
import ast
import importlib
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlconcepts.checks.files import left_alone
from dlconcepts.checks.project import PARTS
from dlconcepts.checks.report import check, where
from dlconcepts.support.atomic import check_report, write_report
from dlconcepts.support.errors import UserError, nearest

SHAPE = re.compile(r"([1-9]\d*(?:x[1-9]\d*)*)(?::int64<(\d+))?")


def run(arguments: argparse.Namespace) -> int:
    """Run the checks and return 1 if a law is broken, 2 if a part could not be used, else 0."""
    check_report(arguments.json, "--json")
    check_report(arguments.junit, "--junit")
    parts = find_parts(arguments.project, dict(map(setting, arguments.arg)))
    if arguments.batch is not None:
        parts["batch"] = find_batch(arguments.batch)
    if arguments.loader is not None:
        parts["loader"] = find_batch(arguments.loader)
    try:
        report = check(except_for=reasons(arguments.except_for), **parts)
    except (TypeError, ValueError) as error:  # the parts or the exceptions are wrong
        raise UserError(str(error)) from error
    if all(result.status == "not checked" for result in report.results):
        raise UserError("nothing could be checked: give --batch, or more parts")
    print(report, flush=True)  # first, since the files may fail
    if arguments.json:
        write_report(arguments.json, report.to_json(), "--json")
    if arguments.junit:
        write_report(arguments.junit, report.to_junit(), "--junit")
    if not any(result.status in ("passed", "FAILED") for result in report.results):
        raise UserError("no check could run; does the batch fit the model?")
    return 1 if any(found.status == "FAILED" for found in report.failed) else 2 * (not report.ok)


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
    parts = call(project, found) if callable(found) and not isinstance(found, nn.Module) else found
    if isinstance(parts, nn.Module):
        # The checks want the factory itself, so that they can build the model again.
        parts = {"model": found}
    if not isinstance(parts, Mapping):
        raise UserError(
            f"{project} gives a {type(parts).__name__}; it has to be a model, or a dictionary of "
            f"parts: {', '.join(PARTS)}"
        )
    return dict(parts)


def look_up(name: str) -> Any:
    """Import the object that package.module:name refers to, also from the current folder."""
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise UserError(f"{name!r} does not have the form package.module:factory")
    file = Path(module_name) if module_name.endswith(".py") else None
    folder = str(file.resolve().parent if file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with left_alone():
            found: Any = importlib.import_module(file.stem if file else module_name)
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise UserError(f"{module_name} cannot be imported: {where(error)}") from error
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            near = nearest(attribute, vars(found) if hasattr(found, "__dict__") else ())
            raise UserError(f"{module_name} has no {path}{near}")
        found = getattr(found, attribute)
    return found


def call(name: str, factory: Any) -> Any:
    try:
        with left_alone():
            return factory()
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise UserError(f"{name}() raised {where(error)}") from error


def find_batch(text: str) -> Any:
    """Return random inputs of a shape such as 4x3x224x224, or the batch that a name refers to."""
    if ":" in text and not SHAPE.fullmatch(text.lower()):
        found = look_up(text)
        return call(text, found) if callable(found) else found
    found = SHAPE.fullmatch(text.lower())
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
