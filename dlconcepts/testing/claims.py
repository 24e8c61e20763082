'''The claims of the course, read from the heads of their test files without importing them.

A claim is a file, `tests/<lesson>/test_<claim>.py`. Its docstring is the head:

    """A view is a new tensor over the same memory.

    (three to eight lines to type, and what they print, as a doctest)

    Notes: `view` is like `resize` but immutable: it returns a new, resized tensor.
    Verdict: corrected
    Truth: The tensor object is new, its memory is not: a write through either shows in both.
    """

`CLAIMS` in the `__init__.py` of the lesson lists the claims in course order.
'''

from __future__ import annotations

import ast
import doctest
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

from dlconcepts.support.errors import UserError

LESSONS = (
    *("tensors", "networks", "autograd", "training", "validation"),
    *("checkpoints", "images", "transfer", "devices"),
)
# holds: true for every valid input; holds-if: true under the condition that Truth states;
# corrected: the notes are wrong or misleading, Truth is right; opinion: nothing can test it.
VERDICTS = ("holds", "holds-if", "corrected", "opinion")
HEAD = re.compile(r'r?""".*?"""', re.DOTALL)
FIELDS = re.compile(r"^(Notes|Verdict|Truth):[ \n]", re.MULTILINE)
TESTS = Path(__file__).parents[2] / "tests"
TYPED_LINES = range(3, 9)  # fewer show no point, more is not typed
Definition = ast.FunctionDef | ast.ClassDef


class ClaimError(UserError):
    """A claim file that breaks a rule; the message has its path, the line and the remedy."""

    def __init__(self, path: Path, line: int, said: str) -> None:
        super().__init__(f"{path}:{line}: {said}")


@dataclass(frozen=True)
class Law:
    """A law as its file says it; `wrong` has the reason of each mistake by its name."""

    name: str
    sentence: str
    right: str
    wrong: dict[str, str]

    @property
    def title(self) -> str:
        return title_of(self.name)


@dataclass(frozen=True)
class Claim:
    """A claim of the notes: what its head says, and the laws below it."""

    path: Path
    lesson: str
    title: str
    demonstration: str
    notes: str
    verdict: str
    truth: str

    @property
    def id(self) -> str:
        """The lesson and the name, as in `tensors.view-is-a-new-tensor`."""
        return f"{self.lesson}.{name_of_file(self.path)}"

    @property
    def file(self) -> str:
        """Path from the folder of the project."""
        return f"tests/{self.lesson}/{self.path.name}"

    @property
    def trees(self) -> list[ast.Module]:
        """The syntax trees of the lesson's `common.py`, if there is one, and of the file."""
        common = self.path.with_name("common.py")
        return [parsed(path) for path in (common, self.path) if path.is_file()]

    @cached_property
    def laws(self) -> list[Law]:
        """The laws, in the order of the file; ClaimError if a mark has one mistake twice."""
        constants = dict(pair for tree in self.trees for pair in constants_of(tree).items())
        return [law_of(node, mark, constants, self.path) for node, mark in marked(self.trees[-1])]

    @cached_property
    def mistakes(self) -> dict[str, str]:
        """The first sentence of each mistake, by its name."""
        found = dict(pair for tree in self.trees for pair in definitions(tree).items())
        names = dict.fromkeys(name for law in self.laws for name in law.wrong)
        return {name: sentence_of(found[name]) if name in found else "" for name in names}


def title_of(test: str) -> str:
    """Return the name of a test as a sentence.

    >>> title_of("test_backward_adds")
    'Backward adds'
    """
    words = test.removeprefix("test_").replace("_", " ")
    return words[:1].upper() + words[1:]


def name_of_file(path: Path) -> str:
    """Return the claim's name without its lesson.

    >>> name_of_file(Path("tests/tensors/test_to_numpy.py"))
    'to-numpy'
    """
    return path.stem.removeprefix("test_").replace("_", "-")


def file_of(claim: str, tests: Path = TESTS) -> Path:
    """Return the file of a claim's id, whether or not it exists."""
    lesson, _, name = claim.partition(".")
    return tests / lesson / f"test_{name.replace('-', '_')}.py"


def is_claim_file(path: Path) -> bool:
    """Return whether a path looks like that of a claim: a test file in the folder of a lesson."""
    return path.parent.name in LESSONS and path.name.startswith("test_") and path.suffix == ".py"


def all_claims(tests: Path = TESTS, lessons: Sequence[str] = LESSONS) -> list[Claim]:
    """Return the claims of these lessons, in course order.

    Raises ClaimError for a claim that is listed but has no file, or a file that breaks a rule.
    """
    names = [f"{lesson}.{name}" for lesson in lessons for name in listed(lesson, tests)]
    return [claim_of_file(file_of(name, tests), tests) for name in names]


def listed(lesson: str, tests: Path = TESTS) -> list[str]:
    """Return the names in CLAIMS of a lesson's `__init__.py`; none if the lesson is not there.

    Raises ClaimError if a name has no file, or stands there twice.
    """
    path = tests / lesson / "__init__.py"
    if not path.is_file():
        return []
    node = constants_of(parsed(path)).get("CLAIMS")
    if not isinstance(node, ast.List | ast.Tuple):
        raise ClaimError(path, 1, "has no list of claims; add CLAIMS = [...], in course order")
    names: list[str] = []
    for part in node.elts:
        name = ast.literal_eval(part)
        file = file_of(f"{lesson}.{name}", tests)
        if name in names:
            raise ClaimError(path, part.lineno, f"{name!r} is listed twice; delete one")
        if not file.is_file():
            said = f"{name!r} has no file; write {file.name} beside this"
            raise ClaimError(path, part.lineno, said)
        names.append(name)
    return names


def claim_of_file(path: Path, tests: Path = TESTS) -> Claim:
    """Return the claim of a test file; raise ClaimError unless it follows the rules."""
    if not is_claim_file(path) or path.parents[1] != tests:
        lessons = ", ".join(LESSONS)
        raise ClaimError(path, 1, f"is in no lesson; move it to a folder of {tests}: {lessons}")
    return _read_claim(path, tests, path.stat().st_mtime_ns)


@cache
def _read_claim(path: Path, tests: Path, saved: int) -> Claim:
    """Read a claim file, once for each time it is saved."""
    # The head alone: to parse the whole files of all claims takes longer.
    head = HEAD.match(path.read_text(encoding="utf-8"))
    if head is None:
        raise ClaimError(path, 1, "has no head; begin with a docstring, as CONTRIBUTING.md shows")
    docstring = inspect.cleandoc(ast.literal_eval(head[0]))
    above, *rest = FIELDS.split(docstring)
    title, prompt, typed = above.partition(">>>")
    texts = [" ".join(text.split()) for text in rest[1::2]]
    values = dict(zip(rest[::2], texts, strict=True))
    claim = Claim(
        path,
        path.parent.name,
        " ".join(title.split()).rstrip("."),
        (prompt + typed).strip(),
        *(values.get(name, "") for name in ("Notes", "Verdict", "Truth")),
    )
    for sign, said in faults_of(claim):
        lines = docstring.splitlines()
        line = next((n for n, text in enumerate(lines, 1) if text.startswith(sign)), 1)
        raise ClaimError(path, line, said)
    if (name := name_of_file(path)) not in listed(claim.lesson, tests):
        where = path.with_name("__init__.py")
        raise ClaimError(path, 1, f"{name!r} is not listed; add it to CLAIMS in {where}")
    return claim


def faults_of(claim: Claim) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a head, each with how the line begins on which it stands."""
    if not claim.title:
        yield "", "has no title; begin the docstring with one sentence"
    for name in ("Notes", "Verdict"):
        if not getattr(claim, name.lower()):
            yield "", f"has no {name}; add a line `{name}: ...`"
    if claim.verdict not in VERDICTS:
        known = ", ".join(VERDICTS)
        yield "Verdict:", f"unknown verdict {claim.verdict!r}; choose one of {known}"
    if claim.verdict in ("holds-if", "corrected") and not claim.truth:
        yield "Verdict:", f"{claim.verdict} needs a Truth; say what the laws prove"
    try:
        examples = doctest.DocTestParser().get_examples(claim.demonstration)
    except ValueError as error:
        yield ">>>", f"the demonstration does not parse: {error}"
        return
    typed = sum(example.source.count("\n") for example in examples)
    if typed not in TYPED_LINES or not any(example.want for example in examples):
        lines = f"write {TYPED_LINES[0]} to {TYPED_LINES[-1]} with >>>, and what they print"
        yield ">>>", f"the demonstration types {typed} lines; {lines}"
    for example in examples:
        try:
            compile(example.source, str(claim.path), "single")
        except SyntaxError as error:
            first = example.source.splitlines()[0]
            yield f">>> {first}", f"the demonstration is no Python: {error.msg}; mend it"


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file; raise ClaimError if it is not Python."""
    return _parsed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)  # a file, its lesson's two, one more: to keep all trees takes longer
def _parsed(path: Path, saved: int) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ClaimError(path, line, f"is no Python file in UTF-8: {error}; mend it") from None


def marked(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, ast.Call]]:
    """Yield each function that carries a law mark, with the mark."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "law":
                    yield node, mark


def law_of(
    node: ast.FunctionDef, mark: ast.Call, constants: dict[str, ast.expr], path: Path
) -> Law:
    """Return the law of a marked function; the mark may use constants of the file."""

    def resolved(value: ast.expr) -> ast.expr:
        return constants.get(value.id, value) if isinstance(value, ast.Name) else value

    options = {word.arg: word.value for word in mark.keywords}
    right = ast.unparse(options["right"]) if "right" in options else ""
    law = Law(node.name, sentence_of(node), right, {})
    wrong = resolved(options["wrong"]) if "wrong" in options else None
    if isinstance(wrong, ast.Dict):
        for key, value in zip(wrong.keys, map(resolved, wrong.values), strict=True):
            if key is None:  # of **others
                continue
            name = ast.unparse(key)
            if name in law.wrong:  # Python keeps one of the two
                raise ClaimError(path, mark.lineno, f"has two mistakes named {name}; rename one")
            reason = value.value if isinstance(value, ast.Constant) else ast.unparse(value)
            law.wrong[name] = str(reason)
    return law


def constants_of(tree: ast.Module | Definition) -> dict[str, ast.expr]:
    """Return the values that a file, or a function, assigns to single names at its top level."""
    return {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def definitions(tree: ast.Module) -> dict[str, Definition]:
    """Return the functions and classes at the top level of a file by their names."""
    return {node.name: node for node in tree.body if isinstance(node, Definition)}


def sentence_of(node: Definition) -> str:
    """Return the first paragraph of a docstring as one line."""
    return " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
