"""The techniques that can be practised: found in the laws and in the library, listed nowhere.

A technique is what a law takes as `right`, where that lives in the library, or what the law's
right subject calls, where that is a function of the test file.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dlconcepts.testing.results import LESSONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(__file__).parents[1]
TESTS = PACKAGE.parent / "tests"
# What the laws are made of is no technique: their inputs, their comparisons, their data.
TOOLS = (
    "dlconcepts.strategies",
    "dlconcepts.support.bitwise",
    "dlconcepts.support.datasets",
    "dlconcepts.data",
)
Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Law:
    """A test marked with a claim, and the techniques of the library that its right subject is."""

    claim: str
    file: str
    function: str
    techniques: tuple[str, ...]


@dataclass(frozen=True)
class Technique:
    """A function or class of the library, and the laws that judge it, in the course's order."""

    name: str
    module: str
    lesson: str
    laws: tuple[Law, ...]

    @property
    def node(self) -> Definition:
        """Its definition in the library."""
        return definitions(parsed(source_of(self.module)))[self.name]

    @property
    def solution(self) -> str:
        """Its source in the library, decorators included."""
        return segment(source_of(self.module), self.node)


def survey(tests: Path) -> tuple[list[Technique], list[Law]]:
    """Return the techniques in the course's order, and the laws that judge none of them."""
    laws = sorted(find_laws(tests), key=course_order(tests))
    judged: dict[str, list[Law]] = {}
    for law in laws:
        for name in law.techniques:
            judged.setdefault(name, [])
    order = list(judged)
    for law in laws:
        if law.techniques:
            # A law of several techniques judges the last of them: by then, all can be written.
            judged[max(law.techniques, key=order.index)].append(law)
    techniques = [technique_at(path, own) for path, own in judged.items() if own]
    techniques.sort(
        key=lambda technique: (LESSONS.index(technique.lesson), laws.index(technique.laws[0]))
    )
    return techniques, [law for law in laws if not law.techniques]


def technique_at(path: str, laws: Sequence[Law]) -> Technique:
    """Return the technique of a qualified name: its lesson is its module's, or its first law's."""
    module, _, name = path.rpartition(".")
    lesson = module.rpartition(".")[2]
    lesson = lesson if lesson in LESSONS else laws[0].claim.partition(".")[0]
    # Laws of its own lesson come first: those of another may ask for more than one knows by then.
    order = sorted(laws, key=lambda law: not law.claim.startswith(f"{lesson}."))
    return Technique(name, module, lesson, tuple(order))


def course_order(tests: Path) -> Any:
    """Return a key that sorts laws by their claim's place in the ledger, lesson by lesson."""
    places = {claim: place for place, claim in enumerate(ledger(tests))}

    def place(law: Law) -> tuple[int, int]:
        return LESSONS.index(law.claim.partition(".")[0]), places[law.claim]

    return place


@cache
def ledger(tests: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the claims by their ids."""
    text = (tests / "claims.toml").read_text(encoding="utf-8")
    return {claim["id"]: claim for claim in tomllib.loads(text)["claim"]}


def find_laws(tests: Path) -> Iterator[Law]:
    """Read the claim marks of every test file, without importing it."""
    for path in sorted(tests.glob("test_*.py")):
        tree = parsed(path.read_text(encoding="utf-8"))
        imported, defined = imports_from_library(tree), definitions(tree)
        for function in tree.body:
            if isinstance(function, ast.FunctionDef) and (mark := claim_mark(function)):
                right = next(word.value for word in mark.keywords if word.arg == "right")
                techniques = tuple(techniques_of(right, imported, defined))
                yield Law(ast.literal_eval(mark.args[0]), path.name, function.name, techniques)


def claim_mark(function: ast.FunctionDef) -> ast.Call | None:
    """Return the claim mark among a function's decorators."""
    for mark in function.decorator_list:
        if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "claim":
            return mark
    return None


def techniques_of(
    right: ast.expr, imported: Mapping[str, str], defined: Mapping[str, Definition]
) -> Iterator[str]:
    """Yield the library's objects that a right subject is, or calls."""
    if not isinstance(right, ast.Name):
        return
    if right.id in imported:
        yield imported[right.id]
    elif isinstance(subject := defined.get(right.id), ast.FunctionDef):
        calls = [node for node in ast.walk(subject) if isinstance(node, ast.Call)]
        names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
        yield from dict.fromkeys(imported[name] for name in names if name in imported)


def imports_from_library(tree: ast.Module) -> dict[str, str]:
    """Return where each name that a test file imports from the library's lessons comes from."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dlconcepts.")
        if not (node.module or "").startswith(TOOLS)
        for alias in node.names
    }


def definitions(tree: ast.Module) -> dict[str, Definition]:
    """Return the functions and classes at the top of a file by their names."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return {node.name: node for node in found}


@cache
def parsed(text: str) -> ast.Module:
    """Parse a source once."""
    return ast.parse(text)


@cache
def source_of(module: str) -> str:
    """Return the source of a module of the library."""
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path.read_text(encoding="utf-8")


def first_line(node: Definition | ast.stmt) -> int:
    """Return the line that a definition begins on, that of its first decorator if it has one."""
    decorators: Sequence[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def segment(source: str, node: Definition) -> str:
    """Return a definition's source, with the decorators."""
    lines = source.splitlines()[first_line(node) - 1 : node.end_lineno]
    return "\n".join(lines) + "\n"
