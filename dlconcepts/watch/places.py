"""Where something happened in the user's code, and what the code around it says."""

import ast
import functools
import linecache
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

OURS = str(Path(__file__).parent)
# Code that is not the user's: PyTorch, installed packages, the standard library and watch itself.
FOREIGN = tuple(
    {
        str(Path(torch.__file__).parent),
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
        OURS,
        "<frozen",
        "<string>",
        "<eval_with_key>",
    }
)
VALIDATION = re.compile(
    # Not "valid" alone, which a GAN calls what is real.
    r"(?<![a-z])(eval|evaluat\w*|val|validat\w*|valid_?(loader|data|set|iter|epoch|dl|x)\w*|x_valid|"
    r"test|tests|testing|preds?|predict\w*|infer\w*|dev|accuracy|score|holdout|heldout)(?![a-z])"
)
TRAINING = re.compile(r"train|fit(?![a-z])|pseudo|rollout|act(?![a-z])")


class Place(NamedTuple):
    """A line of a file of the user."""

    file: str
    line: int

    @property
    def code(self) -> str:
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


NOWHERE = Place("", 0)


@functools.cache
def is_user_file(name: str) -> bool:
    return not name.startswith(FOREIGN)


def user_frames(frame: FrameType | None = None) -> Iterator[FrameType]:
    """Yield the frames of the user's code, the innermost first."""
    frame = frame or sys._getframe(1)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def here() -> Place:
    """Return the line of the user's code that is running."""
    return next(map(place_of, user_frames(sys._getframe(1))), NOWHERE)


def maker() -> Place:
    """Return the line that made the argument of a call: a caller's, if it is only passed on."""
    for frame in user_frames(sys._getframe(1)):
        place, code = place_of(frame), frame.f_code
        first = re.search(r"\w\(\s*(\w+)\s*[,)]", place.code)
        if first is None or first[1] not in code.co_varnames[: code.co_argcount]:
            return place
    return here()


def place_of(frame: FrameType) -> Place:
    return Place(frame.f_code.co_filename, frame.f_lineno)


@functools.lru_cache(maxsize=64)
def tree(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):  # a notebook's cell may hold what is not Python
        return ast.Module([], [])


@functools.lru_cache(maxsize=1024)  # a loop asks for the same lines at each step
def around(place: Place, *kinds: type[ast.AST]) -> list[Any]:
    """Return the nodes of some kinds that hold a line, the innermost last."""
    nodes: list[Any] = [node for node in ast.walk(tree(place.file)) if isinstance(node, kinds)]
    inside = [node for node in nodes if node.lineno <= place.line <= node.end_lineno]
    return sorted(inside, key=lambda node: node.lineno)


def function_at(place: Place) -> ast.AST:
    """Return the innermost function around a line, or the module."""
    functions = around(place, ast.FunctionDef, ast.AsyncFunctionDef)
    return functions[-1] if functions else tree(place.file)


def function_name(place: Place) -> tuple[str, ...]:
    return (getattr(function_at(place), "name", ""),)


def loops_at(place: Place) -> list[Any]:
    """Return the loops around a line within its function, the innermost last."""
    first = getattr(function_at(place), "lineno", 0)
    return [loop for loop in around(place, ast.For, ast.While) if loop.lineno >= first]


def nearest(pattern: str, place: Place, last: int | None = None) -> Place:
    """Return the line nearest to a place that matches, up to a last one if given, or the place."""
    lines = enumerate(linecache.getlines(place.file), 1)
    fits = [i for i, text in lines if re.search(pattern, text)]
    if last is not None:
        fits = [i for i in fits if place.line <= i <= last]
    return Place(place.file, min(fits, key=lambda i: abs(i - place.line), default=place.line))


def line_of_attribute(owner: object, attribute: str, method: str = "__init__") -> Place | None:
    """Return the first line of a method that names an attribute of its object."""
    code = getattr(getattr(type(owner), method, None), "__code__", None)
    if code is None or not is_user_file(code.co_filename):
        return None
    first = Place(code.co_filename, code.co_firstlineno)
    last = getattr(function_at(first), "end_lineno", None)
    return nearest(rf"self\.{re.escape(attribute)}\b", first, last)


def words_at(place: Place, functions: tuple[str, ...] = ()) -> str:
    """Return the words by which people say what a line is for: its code, loop and functions."""
    loops = [linecache.getline(place.file, loop.lineno) for loop in loops_at(place)[-1:]]
    above = [linecache.getline(place.file, place.line - i).strip() for i in range(1, 4)]
    comments = [line for line in above if line.startswith("#")]
    words = " ".join([*functions, *loops, *comments, place.code])
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", words).lower()


@functools.lru_cache(maxsize=1024)
def says_validation(place: Place, functions: tuple[str, ...] = ()) -> bool:
    """Return whether the names around a line say that it evaluates, and none that it trains.

    >>> says_validation(NOWHERE, ("evaluate",)), says_validation(NOWHERE, ("train_and_eval",))
    (True, False)
    """
    for name in functions:  # the innermost that says anything decides
        words = words_at(NOWHERE, (name,))
        if TRAINING.search(words):
            break
        if VALIDATION.search(words):
            return True
    # A method such as net.eval() on the line itself says nothing about the line.
    words = re.sub(r"\.eval\(", "(", words_at(place))
    return bool(VALIDATION.search(words)) and not TRAINING.search(words)
