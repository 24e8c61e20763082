"""The suite as a text: lessons, claims, laws and mistakes.

The head of a claim is parsed. The marks of its laws are read from the imported module, so that they
may be written in any way; code is cut from the source.
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

# The modules under whose names people use the parts of other packages.
PUBLIC = (
    *(torch, torch.Tensor, nn, nn.Module, nn.functional, torch.optim, torch.utils.data),
    *(torchvision.datasets, torchvision.transforms, torchvision.transforms.v2),
)
# Parts of the library that laws are written with, and that no law is about.
TOOLS = ("strategies", "testing", "support.bitwise", "support.devices")


@dataclass(frozen=True)
class Subject:
    """What a law runs on: the right technique (no reason to fail), or a mistake."""

    name: str
    value: Any
    reason: str
    code: str
    sentence: str

    @property
    def title(self) -> str:
        """Name in words, or with its module if it is a part of another package.

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
        """Name with the module, as one would write it in a program."""
        for place in PUBLIC:
            if getattr(place, self.name, None) is self.value:
                return f"{place.__name__}.{self.name}".replace("Tensor", "torch.Tensor", 1)
        if not hasattr(self.value, "__qualname__"):
            return " ".join(repr(self.value).split())
        return full_name(self.value).removeprefix("builtins.").removeprefix("_")

    @property
    def api(self) -> str:
        """Full name in the library, if it comes from there."""
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
        """Name of the test as a sentence."""
        return title_of(self.name)

    @property
    def function(self) -> str:
        """Full name of the test, as a recorded run has it."""
        return f"tests.{self.claim.lesson}.{self.claim.path.stem}.{self.name}"

    @property
    def label(self) -> str:
        """Label to link to."""
        return f"law-{self.claim.lesson}-{self.name}".replace("_", "-")

    def label_of(self, mistake: Subject) -> str:
        """Label of a mistake to link to."""
        return f"{self.label}--{mistake.name}".replace("_", "-").lower()


@dataclass(frozen=True)
class Section:
    """A claim, with its laws and with the code that they share."""

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
        """The lesson's introduction."""
        text = (TESTS / self.name / "__init__.py").read_text(encoding="utf-8")
        return ast.get_docstring(ast.parse(text)) or self.name

    @property
    def title(self) -> str:
        """Number and name of the lesson."""
        return f"Lesson {LESSONS.index(self.name) + 1}: {self.name}"

    @property
    def prose(self) -> str:
        """The paragraphs below the first line of the introduction."""
        return self.docstring.partition("\n\n")[2]

    @property
    def claims(self) -> list[Claim]:
        """The claims, in course order."""
        return [section.claim for section in self.sections]

    @property
    def laws(self) -> list[Law]:
        """All laws of the lesson."""
        return [law for section in self.sections for law in section.laws]


class Source:
    """The text of a claim file, and what stands where in it."""

    def __init__(self, claim: Claim) -> None:
        self.tree, self.lines = claim.tree, claim.path.read_text(encoding="utf-8").splitlines()
        self.nodes = {name: node for node in self.tree.body for name in names_of(node)}

    def code(self, node: ast.stmt) -> str:
        """Return the lines of a statement, with its decorators."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        return "\n".join(self.lines[first - 1 : node.end_lineno])

    def techniques_in(self, code: str, module: ModuleType) -> list[str]:
        """Return the full names of the library's techniques that a piece of code uses."""
        used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
        values = [value for name, value in vars(module).items() if name in used]
        return [full_name(value) for value in values if is_technique(value)]


def is_technique(value: Any) -> bool:
    """Return whether a value is a function or a class of the library that laws are about."""
    home = str(getattr(value, "__module__", ""))
    public = (inspect.isroutine(value) or inspect.isclass(value)) and value.__name__[0] != "_"
    tools = tuple(f"dlconcepts.{name}" for name in TOOLS)
    return home.startswith("dlconcepts.") and public and not home.startswith(tools)


def full_name(value: Any) -> str:
    """Return the name of a function or class with its module."""
    return f"{value.__module__}.{value.__qualname__}"


def names_of(node: ast.stmt) -> list[str]:
    """Return the names that a statement at the top of a module binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def sentence_of(thing: Any) -> str:
    """Return the first paragraph of a docstring as one line."""
    doc = inspect.getdoc(thing) if inspect.isroutine(thing) or inspect.isclass(thing) else ""
    return " ".join((doc or "").partition("\n\n")[0].split())


def read_subject(value: Any, reason: str, source: Source, module: ModuleType) -> Subject:
    """Read a subject of a law; it has code if it is written in the suite or in the library."""
    name, home = testing.name_of(value), str(getattr(value, "__module__", ""))
    # A decorated function stands in the file under its name; an instance, under its variable.
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
    """Read the law of that name."""
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
    """Read a claim file."""
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
