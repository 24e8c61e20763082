"""The suite as a text: chapters, sections, laws and mistakes, read from the test files.

A test file that holds a claim mark is a chapter. Its docstring is the prose, its section comments
are the headings. The marks are read from the imported module, so that they may be written in any
way; the code is cut from the source.
"""

import ast
import importlib.util
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision.transforms.v2
from torch import nn

from dlconcepts.testing.results import LESSONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
ORDINALS = ("first", "second", "third", "fourth", "fifth")
# Where the parts of other packages are found by those who use them.
PUBLIC = (
    *(torch, torch.Tensor, nn, nn.Module, nn.functional, torch.optim, torch.utils.data),
    *(torchvision.datasets, torchvision.transforms, torchvision.transforms.v2),
)
HEADING = re.compile(r"# -{3,} (\S.*)")
Ledger = dict[str, dict[str, Any]]


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
    """A test that carries a claim mark."""

    chapter: str
    name: str
    claim: str
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
    def label(self) -> str:
        """Label to link to."""
        return f"law-{self.chapter}-{self.name}".replace("_", "-")

    def label_of(self, mistake: Subject) -> str:
        """Label of a mistake to link to."""
        return f"{self.label}--{mistake.name}".replace("_", "-").lower()


@dataclass(frozen=True)
class Plain:
    """A function of a section that belongs to no claim: a test, or what the laws draw on."""

    name: str
    code: str
    sentence: str

    @property
    def title(self) -> str:
        """Name of the test as a sentence."""
        return title_of(self.name)


@dataclass
class Section:
    """What stands under one section comment."""

    title: str
    prose: str = ""
    laws: list[Law] = field(default_factory=list)
    tests: list[Plain] = field(default_factory=list)
    helpers: list[Plain] = field(default_factory=list)

    @property
    def claims(self) -> dict[str, list[Law]]:
        """Laws of each claim, in the order of the file."""
        found: dict[str, list[Law]] = {}
        for law in self.laws:
            found.setdefault(law.claim, []).append(law)
        return found


@dataclass(frozen=True)
class Chapter:
    """A test file that proves claims."""

    path: Path
    module: ModuleType
    title: str
    prose: str
    sections: list[Section]

    @property
    def name(self) -> str:
        """Name of its page."""
        return self.path.stem.removeprefix("test_")

    @property
    def laws(self) -> list[Law]:
        """All laws of the chapter."""
        return [law for section in self.sections for law in section.laws]

    @property
    def claims(self) -> list[str]:
        """Ids of the claims that it proves, in its order."""
        return list(dict.fromkeys(law.claim for law in self.laws))

    @property
    def place(self) -> tuple[int, int, str]:
        """Place in the course: its lesson, and which part of the lesson it is."""
        number = re.match(r"Lesson (\d+)", self.title)
        part = next((n for n, word in enumerate(ORDINALS) if f"{word} part" in self.title), 0)
        return int(number[1]) if number else 99, part, self.name


class Source:
    """The text of a test file, and what stands where in it."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)
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

    def headings(self) -> Iterator[tuple[int, str, str]]:
        """Yield line, title and prose of each section comment."""
        for number, line in enumerate(self.lines, 1):
            if found := HEADING.fullmatch(line):
                rest = self.lines[number:]
                end = next((n for n, text in enumerate(rest) if not text.startswith("# ")), 0)
                yield number, found[1], " ".join(text[2:] for text in rest[:end])


def is_technique(value: Any) -> bool:
    """Return whether a value is a function or a class of a lesson in the library."""
    home = str(getattr(value, "__module__", ""))
    part = home.removeprefix("dlconcepts.").partition(".")[0]
    public = (inspect.isroutine(value) or inspect.isclass(value)) and value.__name__[0] != "_"
    return home.startswith("dlconcepts.") and part not in ("strategies", "compare") and public


def full_name(value: Any) -> str:
    """Return the name of a function or class with its module."""
    return f"{value.__module__}.{value.__qualname__}"


def names_of(node: ast.stmt) -> list[str]:
    """Return the names that a statement at the top of a module binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def title_of(test: str) -> str:
    """Return the name of a test as a sentence.

    >>> title_of("test_backward_adds")
    'Backward adds'
    """
    words = test.removeprefix("test_").replace("_", " ")
    return words[:1].upper() + words[1:]


def sentence_of(thing: Any) -> str:
    """Return the first paragraph of a docstring as one line."""
    doc = inspect.getdoc(thing) if inspect.isroutine(thing) or inspect.isclass(thing) else ""
    return " ".join((doc or "").partition("\n\n")[0].split())


def load(path: Path) -> ModuleType:
    """Import a test file, whose claim marks do nothing here."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)
        spec.loader.exec_module(module)
    return module


def read_subject(value: Any, reason: str, source: Source, module: ModuleType) -> Subject:
    """Read a subject of a law; it has code if it is written in the test file or in the library."""
    name = getattr(value, "__name__", None) or type(value).__name__
    home = str(getattr(value, "__module__", ""))
    # A decorated function stands in the file under its name; an instance, under its variable.
    variable = next((key for key in source.nodes if vars(module).get(key) is value), "")
    code, sentence = "", ""
    if variable:
        code, sentence = source.code(source.nodes[variable]), sentence_of(value)
    elif home.startswith("dlconcepts.") and (inspect.isroutine(value) or inspect.isclass(value)):
        code, sentence = inspect.getsource(value).rstrip(), sentence_of(value)
    return Subject(name, value, reason, code, sentence)


def read_law(chapter: Path, name: str, source: Source, module: ModuleType) -> Law | None:
    """Read the law of that name, or None if the function is no law."""
    function = getattr(module, name)
    marks = [m for m in getattr(function, "pytestmark", ()) if m.name == "claim"]
    if not marks:
        return None
    options = marks[0].kwargs
    right = read_subject(options["right"], "", source, module)
    wrong = options.get("wrong", {}).items()
    mistakes = [read_subject(value, reason, source, module) for value, reason in wrong]
    code = source.code(source.nodes[name])
    body = code[code.index("def ") :]
    own = right.code if not right.api else ""
    used = [*filter(None, [right.api]), *source.techniques_in(f"{own}\n\n{body}", module)]
    stem = chapter.stem.removeprefix("test_")
    return Law(
        chapter=stem,
        name=name,
        claim=marks[0].args[0],
        right=right,
        mistakes=mistakes,
        code=code,
        sentence=sentence_of(function),
        techniques=list(dict.fromkeys(used)),
    )


def read_chapter(path: Path) -> Chapter:
    """Read a test file."""
    source, module = Source(path), load(path)
    title, _, prose = (ast.get_docstring(source.tree) or path.stem).partition("\n\n")
    headings = list(source.headings())
    sections = [Section("Before the laws"), *(Section(text, prose) for _, text, prose in headings)]
    for name, node in source.nodes.items():
        section = sections[sum(line < node.lineno for line, _, _ in headings)]
        value = getattr(module, name, None)
        law = read_law(path, name, source, module) if name.startswith("test_") else None
        if law is not None:
            section.laws.append(law)
            continue
        plain = Plain(name, source.code(node), sentence_of(value))
        (section.tests if name.startswith("test_") else section.helpers).append(plain)
    subjects = {s.code for x in sections for law in x.laws for s in (law.right, *law.mistakes)}
    for section in sections:
        section.helpers = [each for each in section.helpers if each.code not in subjects]
    return Chapter(path, module, " ".join(title.split()).rstrip("."), prose, sections)


@cache
def chapters() -> list[Chapter]:
    """Return the chapters in the order of the course."""
    paths = [
        path
        for path in sorted(TESTS.glob("test_*.py"))
        if re.search(rf'^@claim\(\s*"(?:{"|".join(LESSONS)})\.', path.read_text("utf-8"), re.M)
    ]
    found = [chapter for chapter in map(read_chapter, paths) if chapter.laws]
    return sorted(found, key=lambda chapter: chapter.place)


@cache
def ledger() -> Ledger:
    """Return the claims by id."""
    text = (TESTS / "claims.toml").read_text(encoding="utf-8")
    return {claim["id"]: claim for claim in tomllib.loads(text)["claim"]}
