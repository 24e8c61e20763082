"""The techniques that can be practised: found in the laws and in the library, listed nowhere.

A technique is what a law takes as `right`, if the library defines it. If `right` is a helper in the
tests, the techniques are the functions of the library that the helper calls.
"""

import ast
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dlconcepts.testing import claims
from dlconcepts.testing.claims import LESSONS, Claim, Definition, definitions, parsed

PACKAGE = Path(__file__).parents[1]
# Laws take their inputs, comparisons and data from these; there is nothing to practise in them.
TOOLS = (
    *("dlconcepts.strategies", "dlconcepts.testing", "dlconcepts.parity"),
    *("dlconcepts.support.bitwise", "dlconcepts.support.datasets"),
)


@dataclass(frozen=True)
class Law(claims.Law):
    """A law, its claim, and the techniques that its right subject is or calls."""

    claim: Claim
    techniques: tuple[str, ...]

    @property
    def module(self) -> str:
        """Name of its test module."""
        return f"tests.{self.claim.lesson}.{self.claim.path.stem}"

    @property
    def mistakes(self) -> dict[str, str]:
        """The sentences of the mistakes that the law rejects, by their names."""
        return {name: self.claim.mistakes[name] for name in self.wrong}


@dataclass(frozen=True)
class Technique:
    """A function or class of the library, and the laws that judge it, in course order."""

    name: str
    module: str
    lesson: str
    laws: tuple[Law, ...]

    @property
    def path(self) -> Path:
        return PACKAGE.joinpath(*self.module.split(".")[1:]).with_suffix(".py")

    @property
    def modules(self) -> list[str]:
        """The modules to import before its laws run."""
        found = dict.fromkeys(law.module for law in self.laws)
        if any("optim" in law.claim.path.read_text(encoding="utf-8") for law in self.laws):
            found["torch._dynamo"] = None  # the first optimizer takes a second to import it
        return list(found)

    @property
    def node(self) -> Definition:
        return definitions(parsed(self.path))[self.name]

    @property
    def original(self) -> Any:
        """The library's own function or class."""
        return getattr(importlib.import_module(self.module), self.name)

    @property
    def solution(self) -> str:
        return self.source(self.node, self.node.end_lineno)

    def source(self, node: Definition, last: int | None) -> str:
        """Return the library's lines from a definition's first decorator down to a last line."""
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return "\n".join(lines[first - 1 : last]) + "\n"


@cache
def survey() -> tuple[list[Technique], list[Law]]:
    """Return the techniques in course order, and the laws that judge none of them."""
    laws = [law for claim in claims.all_claims() for law in laws_of(claim)]
    judged: dict[str, list[Law]] = {path: [] for law in laws for path in law.techniques}
    order = list(judged)
    for law in laws:
        if law.techniques:
            # A law of several techniques judges the last one: a learner has written all by then.
            judged[max(law.techniques, key=order.index)].append(law)
    techniques = [technique_at(path, own) for path, own in judged.items() if own]
    techniques.sort(key=lambda each: (LESSONS.index(each.lesson), laws.index(each.laws[0])))
    return techniques, [law for law in laws if not law.techniques]


def technique_at(path: str, laws: Sequence[Law]) -> Technique:
    """Return the technique of a qualified name, in the lesson of its module or its first law."""
    module, _, name = path.rpartition(".")
    lesson = module.rpartition(".")[2]
    lesson = lesson if lesson in LESSONS else laws[0].claim.lesson
    # Laws of its own lesson come first: those of another may need techniques of later lessons.
    own_first = sorted(laws, key=lambda law: law.claim.lesson != lesson)
    return Technique(name, module, lesson, tuple(own_first))


def laws_of(claim: Claim) -> Iterator[Law]:
    """Yield the laws of a claim with their techniques; read the test files, import none."""
    trees = claim.trees
    imported = {name: path for tree in trees for name, path in imports_from_library(tree)}
    helpers = {name: node for tree in trees for name, node in definitions(tree).items()}
    for law in claim.laws:
        names = [law.right]
        if isinstance(helper := helpers.get(law.right), ast.FunctionDef):
            calls = [node.func for node in ast.walk(helper) if isinstance(node, ast.Call)]
            names = [function.id for function in calls if isinstance(function, ast.Name)]
        found = dict.fromkeys(imported[name] for name in names if name in imported)
        yield Law(**vars(law), claim=claim, techniques=tuple(found))


def imports_from_library(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield each name that a test file imports from the library, and its qualified name there."""
    for node in tree.body:
        module = getattr(node, "module", None) or ""
        if module.startswith("dlconcepts.") and not module.startswith(TOOLS):
            for alias in getattr(node, "names", []):
                yield alias.asname or alias.name, f"{module}.{alias.name}"
