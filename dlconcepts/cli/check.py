"""What `python -m dlconcepts check package.module:factory` does."""

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlconcepts.checks.project import PARTS
from dlconcepts.checks.report import Report, check, where


class CommandError(Exception):
    """Something that the person at the command line can put right."""


def run(arguments: argparse.Namespace) -> int:
    """Run the checks; return 0 if none failed, 1 if one did, 2 after an explained error."""
    try:
        parts = find_parts(arguments.project, arguments.batch)
        report = checked(parts, excepted(arguments.except_for))
        if all(result.status == "not checked" for result in report.results):
            raise CommandError("nothing could be checked: give --batch, or more parts")
        write(report, arguments.json, arguments.junit)
    except CommandError as error:
        print(f"dlconcepts check: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.ok else 1


def find_parts(project: str, batch: str | None) -> dict[str, Any]:
    """Return the parts of a project: a factory gives a dictionary of them, or a model."""
    found = look_up(project)
    parts = call(project, found) if callable(found) and not isinstance(found, nn.Module) else found
    if isinstance(parts, nn.Module):
        # A factory that gives a model is a part by itself, which the checks call again.
        parts = {"model": parts if parts is found else found}
    if not isinstance(parts, Mapping):
        kind = type(parts).__name__
        raise CommandError(
            f"{project} gives a {kind}; it has to be a model, or a dictionary of parts: "
            f"{', '.join(PARTS)}"
        )
    parts = dict(parts)
    if batch is not None:
        parts["batch"] = find_batch(batch)
    return parts


def look_up(name: str) -> Any:
    """Import what a name as package.module:factory stands for, from the current folder too."""
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise CommandError(f"{name!r} is no name of the form package.module:factory")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything
        raise CommandError(f"{module_name} cannot be imported: {where(error)}") from error
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise CommandError(f"{module_name} has no {path}")
        found = getattr(found, attribute)
    return found


def call(name: str, factory: Any) -> Any:
    """Call a factory, which takes no arguments."""
    try:
        return factory()
    except Exception as error:  # so may a factory
        raise CommandError(f"{name}() raised {where(error)}") from error


def find_batch(text: str) -> Any:
    """Return the batch of a shape such as 4x3x224x224, or of a name as package.module:function."""
    if ":" in text:
        found = look_up(text)
        return call(text, found) if callable(found) else found
    try:
        shape = [int(size) for size in text.lower().split("x")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise CommandError(f"--batch {text} is no shape such as 4x3x224x224, and no name with a :")
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator)


def excepted(pairs: list[str]) -> dict[str, str]:
    """Return the laws that do not apply, of texts such as examples-stay-apart=REASON."""
    reasons = {}
    for pair in pairs:
        name, equals, reason = pair.partition("=")
        if not equals:
            raise CommandError(f"--except {pair} lacks the reason: --except {pair}=REASON")
        reasons[name] = reason
    return reasons


def checked(parts: dict[str, Any], reasons: dict[str, str]) -> Report:
    """Run the checks; what they say about the parts themselves is for the person who gave them."""
    try:
        return check(except_for=reasons, **parts)
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error


def write(report: Report, json: Path | None, junit: Path | None) -> None:
    """Write the report to the files that are asked for."""
    for path, text in ((json, report.to_json), (junit, report.to_junit)):
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text(), encoding="utf-8")
            except OSError as error:
                raise CommandError(f"{path} cannot be written: {error.strerror}") from error
