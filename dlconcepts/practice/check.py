"""Check a practice folder: which laws hold. A verdict is kept until the learner's code changes.

Each technique runs in its own process, since the learner's code may end it (see
`dlconcepts.practice.process`).
"""

import ast
import json
import linecache
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dlconcepts.practice.process import ask, unheard
from dlconcepts.practice.question import Question, Rows, place_rows
from dlconcepts.practice.sheets import bound_by, fingerprint, is_written
from dlconcepts.practice.techniques import Technique, survey
from dlconcepts.support.atomic import write_atomically
from dlconcepts.support.errors import UserError
from dlconcepts.testing.claims import Definition

PROGRESS = "progress.json"
FAILED = ("broken", "failed", "unfinished")


@dataclass
class Outcome:
    """What is known of a technique: its state, the law that failed, the reasons of skipped laws.

    The state is "passed", "failed", "unwritten", "broken" (Python cannot run the file),
    "unfinished" (it took too long, and nobody knows), or "waiting" before it is judged. `text` is
    what the learner wrote, without its comments.
    """

    technique: Technique
    path: Path
    state: str = "waiting"
    law: str = ""
    rows: Rows = field(default_factory=Rows)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    new: bool = False
    text: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class File:
    """A learner's file that Python can parse."""

    path: Path
    tree: ast.Module

    @property
    def names(self) -> dict[str, ast.stmt]:
        """The statements at the top level, by the names that they bind."""
        return {name: node for node in self.tree.body for name in bound_by(node)}

    def has(self, name: str) -> bool:
        """Return whether a technique is written here."""
        node = self.names.get(name)
        return node is not None and (not isinstance(node, Definition) or is_written(node))


def check(
    folder: Path, techniques: Sequence[Technique], limit: float, **options: Any
) -> list[Outcome]:
    """Judge a folder's techniques, in course order, and remember those that passed.

    The options are those of `judge`.
    """
    passed = read_progress(folder)["passed"]
    outcomes = judge(folder, techniques, limit, passed, **options)
    sure = [each for each in outcomes if each.state == "passed" and not each.skipped]
    new = {outcome.technique.name: outcome.fingerprint for outcome in sure}
    if passed | new != passed:
        write_progress(folder, passed=passed | new)
    return outcomes


def judge(
    folder: Path,
    techniques: Sequence[Technique],
    limit: float,
    passed: Mapping[str, str],
    *,
    before: Mapping[str, str] | None = None,
    told: Callable[[Outcome], object] = unheard,
    running: Callable[[str, str], object] = unheard,
) -> list[Outcome]:
    """Judge those techniques of a folder that have not passed as they are now; write nothing.

    `before` has their texts when the folder was last looked at: what has changed since is judged
    first, and the server prepares for all techniques, since there will be a next time. `told` gets
    each outcome as soon as there is a verdict, `running` the name of a technique and the law that
    judges it now.
    """
    outcomes, files = look(folder, techniques, passed)
    for outcome in outcomes:
        if outcome.state in FAILED:
            told(outcome)

    def urgency(outcome: Outcome) -> tuple[bool, bool]:
        name = outcome.technique.name
        # What has passed before is judged again only since it uses something that was changed.
        return (before or {}).get(name) == outcome.text, name in passed

    waiting = sorted((each for each in outcomes if each.state == "waiting"), key=urgency)
    questions = [question_about(outcome, files, limit) for outcome in waiting]
    ahead = [] if before is None else [outcome.technique for outcome in outcomes]
    for outcome, answer in zip(waiting, ask(questions, ahead, running), strict=True):
        vars(outcome).update(answer)
        outcome.new = outcome.state == "passed"
        told(outcome)
    return outcomes


def look(
    folder: Path, techniques: Sequence[Technique], passed: Mapping[str, str]
) -> tuple[list[Outcome], list[File]]:
    """Return what can be said of the techniques in a folder without running them, and its files.

    Lessons that no file is about are left out.
    """
    linecache.clearcache()  # with --watch, the files have changed
    files, broken = read_files(folder)
    names = {name for file in files for name in file.names}
    stems = {path.stem for path in (*broken, *(file.path for file in files))}
    there = {each.lesson for each in techniques if each.lesson in stems or each.name in names}
    return [
        look_at(each, folder, files, broken, passed) for each in techniques if each.lesson in there
    ], files


def read_progress(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the fingerprints of what has passed, and the hints that were given, by name."""
    path = folder / PROGRESS
    found: dict[str, dict[str, Any]] = {"passed": {}, "hints": {}}
    if path.exists():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            found = {key: dict(saved.get(key, {}).items()) for key in found}
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged; delete it to check everything again") from error
    return found


def write_progress(folder: Path, **changes: Mapping[str, Any]) -> None:
    """Save what has passed, or which hints were given."""
    found = read_progress(folder) | changes
    text = json.dumps({key: dict(sorted(found[key].items())) for key in found}, indent=2) + "\n"
    write_atomically(folder / PROGRESS, text.encode())


def read_files(folder: Path) -> tuple[list[File], dict[Path, Rows]]:
    """Return the learner's files, and those that Python cannot parse, with the errors.

    A file of another name may hold techniques too, so that a file can be renamed.
    """
    files, broken = [], {}
    for path in sorted(folder.glob("*.py")):
        try:
            content = path.read_bytes()
            # compile finds more than parsing does, as a return outside a function
            compile(content, path, "exec", dont_inherit=True)
            files.append(File(path, ast.parse(content, path)))
        except FileNotFoundError:
            continue  # an editor is replacing it
        except SyntaxError as error:
            frame = traceback.FrameSummary(str(path), error.lineno or 1, "", line=error.text)
            broken[path] = place_rows(f"{type(error).__name__}: {error.msg}", [frame])
        except (ValueError, OSError) as error:
            broken[path] = place_rows(f"It cannot be read: {error}", [])
    return files, broken


def look_at(
    technique: Technique,
    folder: Path,
    files: Sequence[File],
    broken: Mapping[Path, Rows],
    passed: Mapping[str, str],
) -> Outcome:
    """Return what can be said of a technique without running it."""
    path, name = folder / f"{technique.lesson}.py", technique.name
    if path in broken:
        return Outcome(technique, path, "broken", rows=broken[path])
    found = next((file for file in in_order(files, path) if name in file.names), None)
    if found is None:
        near = get_close_matches(name, [name for file in files for name in file.names], 1, 0.8)
        rows = [("problem", f"There is no {name}. Is it {near[0]}?")] if near else []
        return Outcome(technique, path, "unwritten", rows=rows)
    if not found.has(name):
        return Outcome(technique, found.path, "unwritten")
    node = found.names[name]
    kinds = {ast.ClassDef: "a class", ast.FunctionDef: "a function"}
    kind, asked = kinds.get(type(node)), kinds[type(technique.node)]
    if kind not in (None, asked):
        frame = traceback.FrameSummary(str(found.path), node.lineno, "")
        rows = place_rows(f"{name} is {kind}; the exercise is {asked}.", [frame])
        return Outcome(technique, found.path, "failed", rows=rows)
    own = fingerprint(found.tree, technique)
    state = "passed" if passed.get(name) == own else "waiting"
    return Outcome(technique, found.path, state, text=ast.unparse(node), fingerprint=own)


def question_about(outcome: Outcome, files: Sequence[File], limit: float) -> Question:
    """Return what another process must know to judge a technique."""
    file = next(file for file in files if file.path == outcome.path)
    lesson = outcome.technique.lesson
    own = (each for each in survey()[0] if each.lesson == lesson)
    unwritten = {each.name: each.module for each in own if not file.has(each.name)}
    return Question(outcome.technique, outcome.path, unwritten, limit)


def in_order(files: Sequence[File], path: Path) -> list[File]:
    """Return the files, one of them first."""
    return sorted(files, key=lambda file: file.path != path)
