"""`python -m dlconcepts check package.module:factory`: run the checks on a project."""

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlconcepts.checks.project import PARTS
from dlconcepts.checks.report import check, where
from dlconcepts.support.atomic import check_report, write_report
from dlconcepts.support.errors import UserError, nearest


def run(arguments: argparse.Namespace) -> int:
    """Run the checks and return 0 if none failed, else 1; raise UserError if none could run."""
    check_report(arguments.json, "--json")
    check_report(arguments.junit, "--junit")
    parts = find_parts(arguments.project)
    if arguments.batch is not None:
        parts["batch"] = find_batch(arguments.batch)
    try:
        report = check(except_for=reasons(arguments.except_for), **parts)
    except (TypeError, ValueError) as error:  # the parts or the exceptions are wrong
        raise UserError(str(error)) from error
    if all(result.status == "not checked" for result in report.results):
        raise UserError("nothing could be checked: give --batch, or more parts")
    if not any(result.status in ("passed", "FAILED") for result in report.results):
        raised = report.failed[0].details
        raise UserError(f"no check could run; does the batch fit the model? It raised {raised}")
    print(report, flush=True)  # first, since the files may fail
    if arguments.json:
        write_report(arguments.json, report.to_json(), "--json")
    if arguments.junit:
        write_report(arguments.junit, report.to_junit(), "--junit")
    return 0 if report.ok else 1


def find_parts(project: str) -> dict[str, Any]:
    """Return the parts of a project: a factory returns a dictionary of them, or a model."""
    found = look_up(project)
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
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
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
        return factory()
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise UserError(f"{name}() raised {where(error)}") from error


def find_batch(text: str) -> Any:
    """Return random inputs of a shape such as 4x3x224x224, or the batch that a name refers to."""
    if ":" in text:
        found = look_up(text)
        return call(text, found) if callable(found) else found
    sizes = text.lower().split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise UserError(
            f"--batch {text} is neither a shape such as 4x3x224x224 nor a name such as "
            "package.module:function"
        )
    shape = [int(size) for size in sizes]
    try:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        raise UserError(f"--batch {text} is too large for the memory") from error


def reasons(pairs: list[str]) -> dict[str, str]:
    """Return the laws that do not apply, from texts such as examples-stay-apart=REASON."""
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--except {pair} lacks the reason: --except {pair}=REASON")
    return dict(pair.split("=", 1) for pair in pairs)
