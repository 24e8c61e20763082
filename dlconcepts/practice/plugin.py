"""The pytest plugin of `practice --check`: the laws, run on a learner's functions.

`dlconcepts.practice.check` starts a pytest with it. Of the suite it keeps each law's run with the
right subject, puts the learner's function in its place, and writes what happens to a file, one
JSON object a line: what the learner prints, or breaks, does not mix with it.
"""

import faulthandler
import functools
import importlib.util
import inspect
import io
import json
import sys
import time
import types
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import settings
from hypothesis.errors import HypothesisException

from dlconcepts.practice.check import EVENTS, STUCK
from dlconcepts.practice.recognise import Enough, Judged, recognise
from dlconcepts.practice.techniques import TESTS, Law, Technique, survey
from dlconcepts.practice.told import Calls, broken, failure_told

PREFIX = "practice_"
MOST = 1_000  # examples of a law
SECONDS = 1.0  # for those beyond what the law is asked for


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `practice --check` tells."""
    group = parser.getgroup("practice")
    group.addoption("--practice", type=Path, help="folder of the learner's files")
    group.addoption("--practice-notes", type=Path, help="folder to write to what happens")
    group.addoption("--practice-only", default="", help="names of the techniques to judge")
    group.addoption("--practice-written", default="", help="names of the techniques written so far")
    group.addoption("--practice-limit", type=float, default=10.0, help="seconds an example")


def pytest_configure(config: pytest.Config) -> None:
    """Begin, once the folder is known."""
    if config.getoption("--practice") is not None:
        config.pluginmanager.register(Practice(config), "practice-run")


class Practice:
    """One run of the laws on what a learner has written."""

    def __init__(self, config: pytest.Config) -> None:
        self.folder = config.getoption("--practice")
        notes = config.getoption("--practice-notes")
        self.limit = config.getoption("--practice-limit")
        techniques, _ = survey(TESTS)
        written = config.getoption("--practice-written").split(",")
        only = config.getoption("--practice-only").split(",")
        self.written = [technique for technique in techniques if technique.name in written]
        self.judged = [technique for technique in techniques if technique.name in only]
        self.events: TextIO = (notes / EVENTS).open("w", encoding="utf-8")
        self.stuck: TextIO = (notes / STUCK).open("w", encoding="utf-8")
        self.failed: set[str] = set()
        self.laws: dict[str, list[pytest.Function]] = {}
        self.seconds = 0.0
        self.learners: dict[str, Any] = {}
        self.calls: dict[str, Calls] = {}
        self.failure: dict[str, Any] | None = None

    def tell(self, event: str, **what: Any) -> None:
        """Write one line about what happened."""
        print(json.dumps({"event": event, **what}), file=self.events, flush=True)

    def watch(self) -> None:
        """Give the learner's function its time, anew: past it, Python says where and ends."""
        faulthandler.dump_traceback_later(self.limit, exit=True, file=self.stuck)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Function]
    ) -> None:
        """Keep the laws that judge what was asked for, with the learner's function as subject."""
        self.load()
        runs = {(Path(item.path).name, item.originalname): item for item in items if is_right(item)}
        kept = []
        for technique in self.judged:
            for law in technique.laws:
                item = runs.get((law.file, law.function))
                if item is not None and technique.name in self.learners:
                    self.swap(item, law, technique)
                    self.laws.setdefault(technique.name, []).append(item)
                    kept.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def load(self) -> None:
        """Import the learner's files; what is not written there yet is the library's."""
        for lesson in dict.fromkeys(technique.lesson for technique in self.written):
            path = self.folder / f"{lesson}.py"
            self.tell("load", lesson=lesson)
            spec = importlib.util.spec_from_file_location(f"{PREFIX}{lesson}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module.__name__] = module  # pickle and dataclasses look there
            self.watch()
            # A file that is saved twice within a second would be taken from its old bytecode.
            before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
            try:
                with redirect_stdout(io.StringIO()):
                    spec.loader.exec_module(module)
            except BaseException as error:  # also sys.exit() in the learner's file
                self.tell("broken", lesson=lesson, **broken(error, self.folder))
            else:
                self.replace(module, lesson)
            finally:
                faulthandler.cancel_dump_traceback_later()
                sys.dont_write_bytecode = before

    def replace(self, module: types.ModuleType, lesson: str) -> None:
        """Take the learner's techniques from a module, and lend it the library's others."""
        written = [technique for technique in self.written if technique.lesson == lesson]
        for technique in survey(TESTS)[0]:
            if technique.lesson == lesson and technique not in written:
                lent = getattr(importlib.import_module(technique.module), technique.name)
                setattr(module, technique.name, lent)
        for technique in written:
            learners = getattr(module, technique.name)
            if isinstance(learners, types.FunctionType):
                self.calls[technique.name] = Calls(learners)
                learners = self.calls[technique.name].recorded
                setattr(module, technique.name, learners)
            self.learners[technique.name] = learners

    def swap(self, item: pytest.Function, law: Law, technique: Technique) -> None:
        """Put the learner's function in the place of the right subject, or of what that calls."""
        case = case_of(item)
        names = [path.rpartition(".")[2] for path in law.techniques]
        learners = {name: self.learners[name] for name in names if name in self.learners}
        case.subject = subject_with(case.claim.right, learners)
        item.callspec.params[subject_of(item)] = case.subject
        item.user_properties.append(("technique", technique.name))
        item.user_properties.append(("law", law.function))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Function) -> None:
        """Leave out the other laws of a technique that has failed one."""
        if technique_of(item) in self.failed:
            pytest.skip("the technique has failed a law")
        self.tell("start", technique=technique_of(item), law=item.originalname)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Generator[None, object, object]:
        """Run a law with the clock on, and tell what came of it."""
        calls = self.calls.get(technique_of(item))
        started = time.perf_counter()
        asked = case_of(item).settings().max_examples
        with examples_seen(item.obj, self.watch, calls, asked) as seen:
            try:
                return (yield)
            except BaseException as error:
                if seen.enough and isinstance(error, Enough | HypothesisException):
                    return None  # what Hypothesis says of examples beyond is no verdict
                self.failure = failure_told(error, subject_of(item), calls, self.folder)
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
                self.seconds = time.perf_counter() - started

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell the outcome of a law, once its setup or its call is over."""
        properties = dict(report.user_properties)
        what = {"technique": properties["technique"], "law": properties["law"]}
        if report.when == "call" and report.passed:
            self.tell("pass", seconds=round(self.seconds, 3), **what)
        elif report.skipped and properties["technique"] not in self.failed:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            self.tell("skip", reason=str(reason).removeprefix("Skipped: "), **what)
        elif report.failed:
            self.failed.add(str(properties["technique"]))
            told = self.failure or {"said": str(report.longrepr), "kind": "error"}
            self.failure = None
            self.tell("fail", printed=report.capstdout, **what, **told)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Function, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Look, once a law has failed, whether the learner's function is a classic mistake."""
        report = yield
        if report.failed and call.excinfo is not None:
            error = call.excinfo.value
            self.failure = self.failure or failure_told(error, subject_of(item), None, self.folder)
            if self.failure["kind"] in ("law", "flaky"):
                laws = self.laws[technique_of(item)]
                laws.sort(key=lambda other: other is not item)  # the law that failed comes first
                self.failure["mistakes"] = recognise([judged(law) for law in laws], self.watch)
                faulthandler.cancel_dump_traceback_later()
        return report


def is_right(item: pytest.Item) -> bool:
    """Return whether an item is a law's run with the right subject."""
    mark = item.get_closest_marker("case")
    return mark is not None and mark.args[0].reason is None


def case_of(item: pytest.Function) -> Any:
    """Return the case that an item runs."""
    mark = item.get_closest_marker("case")
    assert mark is not None
    return mark.args[0]


def technique_of(item: pytest.Function) -> str:
    """Return the name of the technique that an item judges."""
    return str(dict(item.user_properties)["technique"])


def subject_of(item: pytest.Function) -> str:
    """Return the name of the argument that takes the subject."""
    return next(iter(inspect.signature(inspect.unwrap(item.obj.hypothesis.inner_test)).parameters))


def subject_with(right: Any, learners: dict[str, Any]) -> Any:
    """Return the learner's function, or the right subject with it in the place of the library's."""
    if right.__module__.startswith("dlconcepts"):
        return learners[right.__name__]
    inner = inspect.unwrap(right)
    names = {**inner.__globals__, **learners}
    made = types.FunctionType(
        inner.__code__, names, inner.__name__, inner.__defaults__, inner.__closure__
    )
    made.__kwdefaults__ = inner.__kwdefaults__
    return functools.update_wrapper(made, inner)


def judged(item: pytest.Function) -> Judged:
    """Return of a law what recognising a mistake takes."""
    case = case_of(item)
    return Judged(item.obj, subject_of(item), case.subject, case.claim.wrong)


@dataclass
class Seen:
    """How many examples a law has passed, of how many it was asked for, and whether one failed."""

    asked: int
    passed: int = 0
    failed: bool = False

    @property
    def enough(self) -> bool:
        """Whether the law has held on all the examples that it was asked for."""
        return self.passed >= self.asked and not self.failed


@contextmanager
def examples_seen(
    law: Any, watch: Callable[[], None], calls: Calls | None, asked: int
) -> Generator[Seen]:
    """Start the clock before each example of a law, and show the calls once one has failed.

    Some mistakes are found by one example in hundreds. So a law goes on after the examples that
    it is asked for, while nothing fails, for as many as its mistakes get or for a second.
    """
    seen, end = Seen(asked), time.monotonic() + SECONDS
    inner, before = law.hypothesis.inner_test, law._hypothesis_internal_use_settings
    if calls is not None:
        calls.shown, calls.last = False, {}

    @functools.wraps(inner)
    def example(*arguments: Any, **named: Any) -> None:
        if seen.enough and time.monotonic() > end:
            raise Enough
        watch()
        try:
            inner(*arguments, **named)
            seen.passed += 1
        except HypothesisException:
            raise
        except (Exception, pytest.fail.Exception):
            seen.failed = True
            if calls is not None:
                calls.shown = True  # the last run is that of the smallest example
            raise

    law.hypothesis.inner_test = example
    law._hypothesis_internal_use_settings = settings(
        before, max_examples=max(asked, MOST), report_multiple_bugs=False, database=None
    )
    try:
        yield seen
    finally:
        law.hypothesis.inner_test, law._hypothesis_internal_use_settings = inner, before
