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
LIBRARIES = (sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
# Code that is not the user's: PyTorch, installed packages, the standard library and watch itself.
FOREIGN = (
    *(str(Path(torch.__file__).parent), *LIBRARIES, OURS),
    *("<frozen", "<string>", "<eval_with_key>"),
)
VALIDATION = re.compile(
    # Not "valid" alone, which a GAN calls what is real.
    r"(?<![a-z])(eval|evaluat\w*|val|validat\w*|valid_?(loader|data|set|iter|epoch|dl|x)\w*|x_valid|"
    r"test|tests|testing|preds?|predict\w*|infer\w*|dev|accuracy|score|holdout|heldout)(?![a-z])"
)
TRAINING = re.compile(r"train|fit(?![a-z])|pseudo|rollout|act(?![a-z])")
FUNCTIONS, LOOPS = (ast.FunctionDef, ast.AsyncFunctionDef), (ast.For, ast.While)


class Place(NamedTuple):
    """A line of a file of the user."""

    file: str
    line: int

    @property
    def code(self) -> str:
        return linecache.getline(self.file, self.line).strip()


NOWHERE = Place("", 0)


@functools.cache
def is_user_file(name: str) -> bool:
    return not name.startswith(FOREIGN)


def place_of(frame: FrameType) -> Place:
    return Place(frame.f_code.co_filename, frame.f_lineno)


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


def line_of_method(owner: object, method: str) -> Place | None:
    """Return the first line of a method that the user wrote."""
    code = getattr(getattr(type(owner), method, None), "__code__", None)
    is_own = code is not None and is_user_file(code.co_filename)
    return Place(code.co_filename, code.co_firstlineno) if code and is_own else None


# What the code around a line says.


@functools.lru_cache(maxsize=64)
def tree(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):  # a notebook's cell may hold what is not Python
        return ast.Module([], [])


@functools.lru_cache(maxsize=1024)  # a loop asks for the same lines at each step
def innermost(place: Place, kinds: tuple[type[ast.AST], ...]) -> Any:
    """Return the innermost node of some kinds that holds a line, or the module."""
    nodes: list[Any] = [node for node in ast.walk(tree(place.file)) if isinstance(node, kinds)]
    inside = [node for node in nodes if node.lineno <= place.line <= node.end_lineno]
    return max(inside, key=lambda node: node.lineno, default=tree(place.file))


def function_at(place: Place) -> Any:
    """Return the innermost function around a line, or the module."""
    return innermost(place, FUNCTIONS)


def function_name(place: Place) -> tuple[str, ...]:
    return (getattr(function_at(place), "name", ""),)


def loop_at(place: Place) -> Any:
    """Return the innermost loop around a line within its function, or None."""
    found = innermost(place, (*FUNCTIONS, *LOOPS))
    return found if isinstance(found, LOOPS) else None


def nearest(pattern: str, place: Place, inside: Any = None) -> Place:
    """Return the nearest line that matches, inside a function if given, or else the place."""
    first, last = getattr(inside, "lineno", 1), getattr(inside, "end_lineno", None)
    lines = enumerate(linecache.getlines(place.file)[first - 1 : last], first)
    fits = [number for number, text in lines if re.search(pattern, text)]
    line = min(fits, key=lambda number: abs(number - place.line), default=place.line)
    return Place(place.file, line)


def line_of_attribute(owner: object, attribute: str, method: str = "__init__") -> Place | None:
    """Return the first line of a method that names an attribute of its object."""
    first = line_of_method(owner, method)
    return first and nearest(rf"self\.{attribute}\b", first, function_at(first))


def words_at(place: Place, functions: tuple[str, ...] = ()) -> str:
    """Return the words by which people say what a line is for: its code, loop and functions."""
    loop = linecache.getline(place.file, getattr(loop_at(place), "lineno", 0))
    above = [linecache.getline(place.file, place.line - i).strip() for i in range(1, 4)]
    comments = [line for line in above if line.startswith("#")]
    words = " ".join([*functions, loop, *comments, place.code])
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
