"""Run a learner's file, and count its steps: an endless loop ends at the same step everywhere."""

import ast
import importlib
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Turns of loops and calls of functions in one example of a law. The answers in the tests need fewer
# than 20,000; a million takes an empty loop a tenth of a second.
STEPS = 1_000_000
COUNT = "_dlconcepts_count"


class EndlessError(BaseException):
    """The learner's code has taken too many steps; `except Exception` does not catch it."""


class Steps:
    """Count steps, and raise EndlessError once there are too many."""

    def __init__(self) -> None:
        self.left = STEPS

    def __call__(self) -> bool:
        self.left -= 1
        if self.left < 0:
            raise EndlessError
        return True

    def start(self) -> None:
        """Begin another example."""
        self.left = STEPS


class _Counting(ast.NodeTransformer):
    """Count each turn of a loop, each element of a comprehension and each call of a function."""

    def visit(self, node: ast.AST) -> Any:
        super().generic_visit(node)
        if isinstance(node, ast.comprehension):
            node.ifs.insert(0, call_at(node.iter))
        elif isinstance(node, ast.For | ast.While | ast.FunctionDef):
            first = isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None
            node.body.insert(int(first), ast.copy_location(ast.Expr(call_at(node)), node))
        return node


def call_at(node: ast.AST) -> ast.Call:
    return ast.copy_location(ast.Call(ast.Name(COUNT, ast.Load()), [], []), node)


def load(path: Path, steps: Steps, unwritten: Mapping[str, str]) -> types.ModuleType:
    """Return a learner's file as a module; raise whatever it raises.

    `unwritten` maps each technique that is not written yet to its module: calls to it run the
    library's version.
    """
    module = types.ModuleType(f"practice_{path.stem}")
    sys.modules[module.__name__] = module  # pickle and dataclasses look there
    sys.path.append(str(path.parent))  # for a learner's own modules; last, so that it hides none
    vars(module).update({"__file__": str(path), COUNT: steps})
    tree = _Counting().visit(ast.parse(path.read_bytes(), path))
    exec(compile(ast.fix_missing_locations(tree), path, "exec"), vars(module))
    for name, where in unwritten.items():
        setattr(module, name, getattr(importlib.import_module(where), name))
    return module
