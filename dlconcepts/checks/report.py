"""Every check on one project, and what came of it: for a person, as JSON, as JUnit XML."""

import difflib
import json
import re
import sysconfig
import textwrap
import time
import traceback
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlconcepts.checks.project import PARTS, Project
from dlconcepts.checks.registry import REGISTRY, Check, CheckFailedError, Lesson, NotCheckedError

STATUSES = ("passed", "FAILED", "error", "excepted", "not checked")
OUR_FOLDER = Path(__file__).parent
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
WIDTH = 96
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Result:
    """What one check came to: its status, the details, the passes and the seconds it took.

    `status` is "passed", "FAILED", "error" (the project's own code raised), "excepted" (by the
    caller, whose reason `details` is) or "not checked" (`details` says what is missing). `passes`
    counts the forward passes, each followed by one backward at most.
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
        """Whether nothing failed and nothing raised."""
        return not self.failed

    @property
    def failed(self) -> tuple[Result, ...]:
        """The checks that failed, and those in which the project's code raised."""
        return tuple(result for result in self.results if result.status in ("FAILED", "error"))

    @property
    def passes(self) -> int:
        """Forward passes of all checks."""
        return sum(result.passes for result in self.results)

    def __getitem__(self, name: str) -> Result:
        """Return the result of the check of that name."""
        return {result.check: result for result in self.results}[name]

    def raise_for_failures(self) -> None:
        """Raise AssertionError, with the whole report, if a check failed or raised."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def __str__(self) -> str:
        """Return the failures as lessons, and then one line for each check."""
        lessons = [f"{result.status}  {result.check}: {result.details}" for result in self.failed]
        lines = [line for lesson in lessons for line in [*wrapped(lesson), ""]]
        for status in STATUSES:
            for result in self.results:
                if result.status == status:
                    lines += textwrap.wrap(line_of(result), WIDTH, subsequent_indent=" " * 13)
        return "\n".join([*lines, "", self.summary()])

    def summary(self) -> str:
        """Return how many checks came to what."""
        counts = Counter(result.status for result in self.results)
        said = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        return f"{len(self.results)} checks: {said}; {self.passes} forward passes"

    def to_json(self) -> str:
        """Return the report as JSON."""
        content = {"ok": self.ok, "results": [asdict(result) for result in self.results]}
        return json.dumps(content, indent=2) + "\n"

    def to_junit(self) -> str:
        """Return the report as JUnit XML: excepted and not checked are skipped, with the reason."""
        counts = Counter(result.status for result in self.results)
        suite = ET.Element(
            "testsuite",
            name="dlconcepts.checks",
            tests=str(len(self.results)),
            failures=str(counts["FAILED"]),
            errors=str(counts["error"]),
            skipped=str(counts["not checked"] + counts["excepted"]),
        )
        tags = {"FAILED": "failure", "error": "error"}
        for result in self.results:
            case = ET.SubElement(suite, "testcase", classname=result.claim, name=result.check)
            case.set("time", f"{result.seconds:.3f}")
            if result.status != "passed":
                details = NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", result.details)
                message, *_ = f"{result.status}: {details}".splitlines()
                tag = tags.get(result.status, "skipped")
                ET.SubElement(case, tag, message=message).text = details
        ET.indent(suite)
        return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def line_of(result: Result) -> str:
    """Return a check's status, its name, and why it did not run."""
    reason = f": {result.details}" if result.status in ("excepted", "not checked") else ""
    return f"{result.status:11}  {result.check}{reason}"


def wrapped(lesson: str) -> list[str]:
    """Break the long lines of a lesson, with their indent, and leave its code as it is."""
    lines: list[str] = []
    for line in lesson.splitlines():
        code = line.startswith(" " * 8) or line.lstrip().startswith("claim")
        indent = " " * 15 if line.startswith("    ") else " " * 4
        lines += [line] if code else textwrap.wrap(line, WIDTH, subsequent_indent=indent)
    return lines


def check(*, except_for: Mapping[str, str] | None = None, **parts: Any) -> Report:
    """Run every check whose parts are given on a project, and report what came of it.

    All is by keyword, and all but `model` (or `data`, `accuracy`) optional; the table in
    `dlconcepts.checks` says how each part is called. `except_for` names the laws that do not
    apply, each with the reason: `except_for={"examples-stay-apart": "a contrastive model"}`.

    Model, optimizer, data, random states and PyTorch's settings are as before afterwards, also
    when the project's code raises; that is reported as the error of the check that called it. The
    same parts give the same report.

    Raises TypeError for a part that does not exist or cannot be what it is given as, and ValueError
    for a check in `except_for` that does not exist or has no reason.

    >>> import torch
    >>> from torch import nn
    >>> report = check(model=nn.Linear(2, 1), batch=torch.ones(3, 2))
    >>> report.ok, report["examples-stay-apart"].status
    (True, 'passed')
    """
    project, reasons = project_of(parts), reasons_of(except_for)
    return Report(tuple(judge(name, project, reasons.get(name, "")) for name in REGISTRY))


def reasons_of(except_for: Mapping[str, str] | None) -> dict[str, str]:
    """Return the reasons for which checks do not apply, by the names of the checks."""
    reasons = dict(except_for or {})
    for name, reason in reasons.items():
        if name not in REGISTRY:
            near = difflib.get_close_matches(name, REGISTRY, 1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"except_for names {name!r}, which is no check{hint}")
        if not reason:
            raise ValueError(f"except_for[{name!r}] needs the reason for which it does not apply")
    return reasons


def project_of(parts: Mapping[str, Any]) -> Project:
    """Return the project that has these parts."""
    for name in parts:
        if name not in PARTS:
            near = difflib.get_close_matches(name, PARTS, 1)
            hint = f": did you mean {near[0]!r}?" if near else f": there are {', '.join(PARTS)}"
            raise TypeError(f"a project has no part {name!r}{hint}")
    return Project(**parts)


def judge(name: str, project: Project, excepted: str = "") -> Result:
    """Run one check on a project, whatever it raises."""
    run: Check = REGISTRY[name]
    lesson: Lesson = run.lesson  # type: ignore[attr-defined]
    status, details, started = "passed", "", time.perf_counter()
    project.passes = 0
    try:
        if excepted:
            status, details = "excepted", excepted
        else:
            run(project)
    except NotCheckedError as reason:
        status, details = "not checked", str(reason)
    except CheckFailedError as failure:
        status, details = "FAILED", str(failure)
    except Exception as error:  # the project's own code may raise anything
        status, details = "error", where(error)
    seconds = time.perf_counter() - started
    return Result(name, status, details, lesson.concept, lesson.claim, project.passes, seconds)


def where(error: BaseException) -> str:
    """Return an error with the line of the project's own code that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not foreign(Path(frame.filename))]
    message = f"{type(error).__name__}: {error}"
    if own:
        frame = own[-1]
        message += f"\n    at {frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"
    return message


def foreign(file: Path) -> bool:
    """Return whether a file is ours or an installed package's, not the project's."""
    installed = "site-packages" in file.parts or STANDARD_LIBRARY in file.parents
    return installed or OUR_FOLDER in file.parents or "<" in file.name


def parametrize(
    project: Any = None, /, *, except_for: Mapping[str, str] | None = None, **parts: Any
) -> Any:
    """Make one pytest item of each check, whose test calls it: `def test_it(check): check()`.

    Give the parts of a project as to `check`, or a function that returns them as a dictionary,
    which is called when a test runs. What is not checked, or excepted, is skipped with the reason.

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

    if not project:  # a part that does not exist is an error at once
        project_of(parts)
    return pytest.mark.parametrize("check", [item(name) for name in REGISTRY])
