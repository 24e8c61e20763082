"""Run every check on one project and report the results as text, JSON or JUnit XML."""

import difflib
import json
import re
import sysconfig
import textwrap
import time
import traceback
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from dlconcepts.checks.files import left_alone
from dlconcepts.checks.project import CALLABLES, PARTS, Project
from dlconcepts.checks.registry import REGISTRY, CheckFailedError, NotCheckedError

__all__ = ["Report", "Result", "check", "parametrize"]

STATUSES = ("passed", "FAILED", "error", "excepted", "not checked")
OUR_FOLDER = Path(__file__).parent
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
WIDTH = 96
LINES, LONGEST = 3, 200  # of a message
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Result:
    """The result of one check: its status, the details, the passes and the seconds it took.

    `status` is "passed", "FAILED", "error" (the project's own code raised), "excepted" (`details`
    is the caller's reason) or "not checked" (`details` says what is missing). `passes` counts the
    forward passes, each with one backward at most.
    """

    check: str
    status: str
    details: str
    concept: str
    claim: str
    passes: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """The results of all checks on a project, in the order of the course.

    >>> report = Report((Result("a", "passed", "", "A", "x.y", 2, 0.1),))
    >>> report.ok, len(report.failed)
    (True, 0)
    """

    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed and no code of the project raised."""
        return not self.failed

    @property
    def failed(self) -> tuple[Result, ...]:
        """The checks that failed, or in which the project's code raised."""
        return tuple(result for result in self.results if result.status in ("FAILED", "error"))

    @property
    def errors(self) -> dict[str, str]:
        """Each error of the project's code once, with the checks that it blocked."""
        found: dict[str, list[str]] = {}
        for result in self.failed:
            if result.status == "error":
                found.setdefault(result.details, []).append(result.check)
        return {details: ", ".join(names) for details, names in found.items()}

    @property
    def passes(self) -> int:
        """The number of forward passes in all checks."""
        return sum(result.passes for result in self.results)

    def __getitem__(self, name: str) -> Result:
        """Return the result of a check by its name."""
        return {result.check: result for result in self.results}[name]

    def raise_for_failures(self) -> None:
        """Raise AssertionError, with the whole report, if a check failed or raised."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def __str__(self) -> str:
        """Return the lesson of each failure, then one line per check."""
        errors = self.errors.items()
        lessons = [f"error  {error}\n    blocks     {blocked}" for error, blocked in errors]
        broken = [result for result in self.failed if result.status == "FAILED"]
        lessons += [f"FAILED  {result.check}: {result.details}" for result in broken]
        lines = [line for lesson in lessons for line in [*wrapped(lesson), ""]]
        for result in sorted(self.results, key=lambda result: STATUSES.index(result.status)):
            reason = f": {result.details}" if result.status in ("excepted", "not checked") else ""
            line = f"{result.status:11}  {result.check}{reason}"
            lines += textwrap.wrap(line, WIDTH, subsequent_indent=" " * 13)
        return "\n".join([*lines, "", self.summary(), *self.next_part()])

    def next_part(self) -> list[str]:
        """Return the line that names the part with which most further checks could run, if any."""
        alone: Counter[str] = Counter()
        for result in self.results:
            missing = result.details.removeprefix("needs ").split(" or ")
            if result.status == "not checked" and all(part in PARTS for part in missing):
                alone.update(missing)
        return [f"Give {part}, and {n} more can run" for part, n in alone.most_common(1)]

    def summary(self) -> str:
        """Return how many checks have each status."""
        counts = Counter(result.status for result in self.results)
        said = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        return f"{len(self.results)} checks: {said}; {self.passes} forward passes"

    def to_json(self) -> str:
        """Return the report as JSON."""
        content = {"ok": self.ok, "results": [asdict(result) for result in self.results]}
        return json.dumps(content, indent=2) + "\n"

    def to_junit(self) -> str:
        """Return the report as JUnit XML; excepted and not checked count as skipped."""
        return junit("dlconcepts.checks", self.results)


def junit(name: str, results: Iterable[Result]) -> str:
    suite = ET.Element("testsuite", name=name, tests="0")
    for result in results:
        case = ET.SubElement(suite, "testcase", classname=result.claim, name=result.check)
        case.set("time", f"{result.seconds:.3f}")
        if result.status != "passed":
            details = NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", result.details)
            message, *_ = f"{result.status}: {details}".splitlines()
            tag = {"FAILED": "failure", "error": "error"}.get(result.status, "skipped")
            ET.SubElement(case, tag, message=message).text = details
    counted = {"failures": "*/failure", "errors": "*/error", "skipped": "*/skipped"}
    for what, path in {"tests": "*", **counted}.items():
        suite.set(what, str(len(suite.findall(path))))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def wrapped(lesson: str) -> list[str]:
    lines: list[str] = []
    for line in lesson.splitlines():
        # Code and the claim's command are there to be copied, so they stay on one line.
        is_literal = line.startswith(" " * 8) or line.lstrip().startswith("claim")
        indent = " " * 15 if line.startswith("    ") else " " * 4
        lines += [line] if is_literal else textwrap.wrap(line, WIDTH, subsequent_indent=indent)
    return lines


def check(*, except_for: Mapping[str, str] | None = None, **parts: Any) -> Report:
    """Run every check whose parts are given, and report the results.

    All parts are given by keyword, and each is optional; the table in `dlconcepts.checks` says how
    the checks call it. `except_for` names the laws that do not apply, each with the reason:
    `except_for={"examples-stay-apart": "a contrastive model"}`.

    Model, optimizer, data, random states and PyTorch's settings are restored afterwards, even if
    the project's code raises; that is reported as an error of the check that called it. The same
    parts give the same report.

    Raises TypeError if a part does not exist or has the wrong type, and ValueError if a check in
    `except_for` does not exist or has no reason.

    >>> import torch
    >>> from torch import nn
    >>> report = check(model=nn.Linear(2, 1), batch=torch.ones(3, 2))
    >>> report.ok, report["examples-stay-apart"].status
    (True, 'passed')
    """
    project, reasons = project_of(parts), reasons_of(except_for)
    return Report(tuple(judge(name, project, reasons.get(name, "")) for name in REGISTRY))


def reasons_of(except_for: Mapping[str, str] | None) -> dict[str, str]:
    reasons = dict(except_for or {})
    for name, reason in reasons.items():
        if name not in REGISTRY:
            raise ValueError(f"except_for names {name!r}, which is no check{hint(name, REGISTRY)}")
        if not reason:
            raise ValueError(f"except_for[{name!r}] needs the reason why the check does not apply")
    return reasons


def project_of(parts: Mapping[str, Any]) -> Project:
    for name in parts:
        if name not in PARTS:
            raise TypeError(f"a project has no part {name!r}{hint(name, PARTS)}")
    return Project(**parts)


def hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]!r}?" if near else f"; choose from {', '.join(known)}"


def judge(name: str, project: Project, excepted: str = "") -> Result:
    run: Any = REGISTRY[name]
    status, details, started = "passed", "", time.perf_counter()
    project.passes = 0
    try:
        if excepted:
            status, details = "excepted", excepted
        else:
            with left_alone():
                run(project)
    except NotCheckedError as reason:
        status, details = "not checked", str(reason)
    except CheckFailedError as failure:
        status, details = "FAILED", str(failure)
    except Exception as error:  # the project's own code may raise anything
        part = part_of(error, project)
        status, details = "error", f"{part} raised {where(error)}" if part else where(error)
    seconds, lesson = time.perf_counter() - started, run.lesson
    return Result(name, status, details, lesson.concept, lesson.claim, project.passes, seconds)


def where(error: BaseException) -> str:
    """Return an error's message with the innermost line of the project's own code."""
    lines = [line[:LONGEST] for line in str(error).splitlines()[:LINES]]  # it may print a model
    message = f"{type(error).__name__}: " + " ".join(lines)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not foreign(Path(frame.filename)):
            place = f"{frame.filename}:{frame.lineno}, in {frame.name}"
            return f"{message}\n    at {place}: {frame.line}"
    return message


def part_of(error: BaseException, project: Project) -> str:
    """Return the part of a project whose code raised an error, empty if it was none."""
    codes = {getattr(getattr(project, name), "__code__", None): name for name in CALLABLES}
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        owner = frame.f_locals.get("self")
        if frame.f_code in codes:
            return codes[frame.f_code]
        if isinstance(owner, nn.Module):
            return "loss_fn" if owner is project.loss_fn else "model"
        if isinstance(owner, Dataset):
            return "data"
    return ""


def foreign(file: Path) -> bool:
    installed = "site-packages" in file.parts or STANDARD_LIBRARY in file.parents
    return installed or OUR_FOLDER in file.parents or "<" in file.name


def parametrize(
    project: Any = None, /, *, except_for: Mapping[str, str] | None = None, **parts: Any
) -> Any:
    """Parametrize a test with every check; the test calls it: `def test_it(check): check()`.

    Give the parts of a project as to `check`, or a function that returns them as a dictionary,
    which each test calls. A check that is excepted, or lacks a part, is skipped with the reason.

        @checks.parametrize(model=Net, batch=batch, except_for={"examples-stay-apart": "why"})
        def test_my_project(check):
            check()

    Needs pytest.
    """
    import pytest

    reasons = reasons_of(except_for)

    def item(name: str) -> Any:
        def run() -> None:
            __tracebackhide__ = True
            if name in reasons:
                pytest.skip(f"excepted: {reasons[name]}")
            try:
                REGISTRY[name](project_of(project() if project else parts))
            except NotCheckedError as reason:
                pytest.skip(f"not checked: {reason}")

        return pytest.param(run, id=name)

    if not project:  # report a misspelt part when pytest collects, not in every test
        project_of(parts)
    return pytest.mark.parametrize("check", [item(name) for name in REGISTRY])
