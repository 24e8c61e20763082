"""Read the suite: lessons, claims, laws and mistakes.

The head of a claim is parsed. The law marks are read from the imported module, so their arguments
can be any expression. Code is cut from the source.
"""

import ast
import importlib
import inspect
import re
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import torch
import torchvision.transforms.v2
from torch import nn

from dlconcepts.testing import laws as testing
from dlconcepts.testing.claims import LESSONS, TESTS, Claim, all_claims, title_of

# The public names of torch and torchvision, which people use instead of the defining module.
PUBLIC = (
    *(torch, torch.Tensor, nn, nn.Module, nn.functional, torch.optim, torch.utils.data),
    *(torchvision.datasets, torchvision.transforms, torchvision.transforms.v2),
)
# Modules that laws are written with; no law is about them.
TOOLS = ("strategies", "testing", "support.bitwise", "support.devices")


@dataclass(frozen=True)
class Subject:
    """The argument of a law: the right technique, which has no reason to fail, or a mistake."""

    name: str
    value: Any
    reason: str
    code: str
    sentence: str

    @property
    def title(self) -> str:
        """The name in words, or the qualified name of something from another package.

        >>> Subject("NeverClearsGradients", None, "", "class ...", "").title
        'Never clears gradients'
        """
        if not self.code:
            return self.qualified
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", self.name)
        words = words.lower() if words != self.name else words
        return words[:1].upper() + words[1:].replace("_", " ")

    @property
    def qualified(self) -> str:
        """The name with its module, as a program would write it."""
        for place in PUBLIC:
            if getattr(place, self.name, None) is self.value:
                return f"{place.__name__}.{self.name}".replace("Tensor", "torch.Tensor", 1)
        if not hasattr(self.value, "__qualname__"):
            return " ".join(repr(self.value).split())
        return full_name(self.value).removeprefix("builtins.").removeprefix("_")

    @property
    def api(self) -> str:
        """The qualified name, if it belongs to this library, else an empty string."""
        return self.qualified if self.qualified.startswith("dlconcepts.") else ""


@dataclass(frozen=True)
class Law:
    """A test that carries a law mark."""

    claim: Claim
    name: str
    right: Subject
    mistakes: list[Subject]
    code: str
    sentence: str
    techniques: list[str]

    @property
    def title(self) -> str:
        """The name of the test as a sentence."""
        return title_of(self.name)

    @property
    def function(self) -> str:
        """The full name of the test in a recorded run."""
        return f"tests.{self.claim.lesson}.{self.claim.path.stem}.{self.name}"

    @property
    def label(self) -> str:
        return f"law-{self.claim.lesson}-{self.name}".replace("_", "-")

    def label_of(self, mistake: Subject) -> str:
        return f"{self.label}--{mistake.name}".replace("_", "-").lower()


@dataclass(frozen=True)
class Section:
    """A claim with its laws and their shared helpers."""

    claim: Claim
    source: "Source"
    laws: list[Law]
    helpers: list[str]


@dataclass(frozen=True)
class Chapter:
    """A lesson."""

    name: str
    sections: list[Section]

    @cached_property
    def docstring(self) -> str:
        text = (TESTS / self.name / "__init__.py").read_text(encoding="utf-8")
        return ast.get_docstring(ast.parse(text)) or self.name

    @property
    def title(self) -> str:
        return f"Lesson {LESSONS.index(self.name) + 1}: {self.name}"

    @property
    def prose(self) -> str:
        """The introduction without its first line."""
        return self.docstring.partition("\n\n")[2]

    @property
    def claims(self) -> list[Claim]:
        return [section.claim for section in self.sections]

    @property
    def laws(self) -> list[Law]:
        return [law for section in self.sections for law in section.laws]


class Source:
    """The text of a claim file, and its statements by name."""

    def __init__(self, claim: Claim) -> None:
        self.tree, self.lines = claim.trees[-1], claim.path.read_text(encoding="utf-8").splitlines()
        self.nodes = {name: node for node in self.tree.body for name in names_of(node)}

    def code(self, node: ast.stmt) -> str:
        """Return the lines of a statement, including decorators."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        return "\n".join(self.lines[first - 1 : node.end_lineno])

    def techniques_in(self, code: str, module: ModuleType) -> list[str]:
        """Return the full names of the library's techniques that some code uses."""
        used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
        values = [value for name, value in vars(module).items() if name in used]
        return [full_name(value) for value in values if is_technique(value)]


def is_technique(value: Any) -> bool:
    """Return whether a value is a public function or class that laws test."""
    home = str(getattr(value, "__module__", ""))
    public = (inspect.isroutine(value) or inspect.isclass(value)) and value.__name__[0] != "_"
    tools = tuple(f"dlconcepts.{name}" for name in TOOLS)
    return home.startswith("dlconcepts.") and public and not home.startswith(tools)


def full_name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def names_of(node: ast.stmt) -> list[str]:
    """Return the names that a top-level statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def sentence_of(thing: Any) -> str:
    """Return the first paragraph of a docstring as one line."""
    doc = inspect.getdoc(thing) if inspect.isroutine(thing) or inspect.isclass(thing) else ""
    return " ".join((doc or "").partition("\n\n")[0].split())


def read_subject(value: Any, reason: str, source: Source, module: ModuleType) -> Subject:
    """Read a subject of a law, with its code if it is from the suite or the library."""
    name, home = testing.name_of(value), str(getattr(value, "__module__", ""))
    # By identity: a decorated function or an instance is in the file under its variable.
    variable = next((key for key in source.nodes if vars(module).get(key) is value), "")
    code, sentence = "", ""
    if variable:
        code, sentence = source.code(source.nodes[variable]), sentence_of(value)
    elif home.startswith(("dlconcepts.", "tests.")) and (
        inspect.isroutine(value) or inspect.isclass(value)
    ):
        code, sentence = inspect.getsource(value).rstrip(), sentence_of(value)
    return Subject(name, value, reason, code, sentence)


def read_law(claim: Claim, name: str, source: Source, module: ModuleType) -> Law:
    function = getattr(module, name)
    (mark,) = (mark.args[0] for mark in function.pytestmark if mark.name == "law")
    right = read_subject(mark.right, "", source, module)
    mistakes = [read_subject(value, why, source, module) for value, why in mark.wrong.items()]
    code = source.code(source.nodes[name])
    body = code[code.index("def ") :]
    own = right.code if not right.api else ""
    used = [*filter(None, [right.api]), *source.techniques_in(f"{own}\n\n{body}", module)]
    return Law(claim, name, right, mistakes, code, sentence_of(function), list(dict.fromkeys(used)))


def read_section(claim: Claim) -> Section:
    source = Source(claim)
    module = importlib.import_module(f"tests.{claim.lesson}.{claim.path.stem}")
    laws = [read_law(claim, law.name, source, module) for law in claim.laws]
    shown = {law.code for law in laws}
    shown |= {subject.code for law in laws for subject in (law.right, *law.mistakes)}
    parts = dict.fromkeys(source.code(node) for node in source.nodes.values())
    return Section(claim, source, laws, [code for code in parts if code not in shown])


@cache
def chapters() -> list[Chapter]:
    """Return the lessons in course order."""
    claims = all_claims()
    return [
        Chapter(lesson, [read_section(claim) for claim in claims if claim.lesson == lesson])
        for lesson in LESSONS
    ]
