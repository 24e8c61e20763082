"""The pytest plugin of `practice --check`: the laws, run on a learner's functions.

`dlconcepts.practice.check` starts pytest with it. The plugin keeps the run of each law on the right
subject, replaces that subject by the learner's function, and writes the state of each technique to
a file before and after each law: the learner's code may end the process at any time.
"""

import faulthandler
import functools
import importlib
import inspect
import json
import sys
import time
import types
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.errors import HypothesisException

from dlconcepts.practice import failures
from dlconcepts.practice.check import REQUEST, RESULTS, STUCK, Rows
from dlconcepts.practice.techniques import Law, Technique, survey
from dlconcepts.testing.hypothesis_bridge import replaced, subject_argument
from dlconcepts.testing.laws import FAILURES, MISTAKE_EXAMPLES, Case, case_of

# Some mistakes are found by one example in hundreds. So a law that holds on the examples it asks
# for continues for this many seconds, or up to as many examples as its mistakes get.
SECONDS = 1.0


class EnoughError(BaseException):
    """Ends the run of a law that has held on enough examples."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--practice", type=Path, help="folder of the request and the results")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Practice(config.getoption("--practice")), "practice-run")


class Practice:
    """One run of the laws on what a learner has written."""

    def __init__(self, notes: Path) -> None:
        request = json.loads((notes / REQUEST).read_text(encoding="utf-8"))
        self.folder, self.limit = Path(request["folder"]), request["limit"]
        self.results: dict[str, dict[str, Any]] = request["results"]
        self.file = notes / RESULTS
        self.stuck = (notes / STUCK).open("w", encoding="utf-8")
        self.learners: dict[str, Any] = {}
        self.calls: dict[str, failures.Calls] = {}
        self.runs: dict[str, tuple[Technique, Law, Case]] = {}
        self.rows = Rows()

    def note(self, names: Sequence[str], state: str, **what: Any) -> None:
        """Write the new state of some techniques."""
        for name in names:
            self.results[name] |= {"state": state, **what}
        self.file.write_text(json.dumps(self.results), encoding="utf-8")

    @contextmanager
    def limited(self) -> Generator[None]:
        """End the process if a block takes too long; Python then writes where it was."""
        faulthandler.dump_traceback_later(self.limit, exit=True, file=self.stuck)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Function]
    ) -> None:
        """Keep the laws that judge the techniques that wait, on the learner's functions."""
        techniques = [each for each in survey()[0] if each.name in self.results]
        for lesson in dict.fromkeys(technique.lesson for technique in techniques):
            self.load(lesson, [each for each in techniques if each.lesson == lesson])
        found = {(i.path, i.originalname): i for i in items if i.get_closest_marker("right")}
        kept = []
        for technique in techniques:
            waits = self.results[technique.name]["state"] == "waiting"
            for law in technique.laws if waits else ():
                item = found.get((law.claim.path, law.name))
                if item and (case := case_of(item)):
                    case.subject = subject_with(case.law.right, law, self.learners)
                    item.callspec.params[subject_argument(item.obj)] = case.subject
                    self.runs[item.nodeid] = technique, law, case
                    kept.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def load(self, lesson: str, techniques: Sequence[Technique]) -> None:
        """Run a learner's file; calls to what is unwritten there reach the library's version."""
        states = {each.name: self.results[each.name]["state"] for each in techniques}
        waiting = [name for name, state in states.items() if state == "waiting"]
        if set(states.values()) <= {"unwritten", "broken"}:
            return
        module = types.ModuleType(f"practice_{lesson}")
        sys.modules[module.__name__] = module  # pickle and dataclasses look there
        path = self.folder / f"{lesson}.py"
        self.note(waiting, "loading")
        try:
            with self.limited():
                exec(compile(path.read_bytes(), path, "exec"), vars(module))
        except BaseException as error:  # also sys.exit() in the learner's file
            self.note(waiting, "broken", rows=failures.error_rows(error, self.folder))
            return
        self.note(waiting, "waiting")
        for technique in techniques:
            name = technique.name
            if states[name] == "unwritten":
                library = importlib.import_module(technique.module)
                setattr(module, name, getattr(library, name))
                continue
            self.learners[name] = getattr(module, name)
            if isinstance(self.learners[name], types.FunctionType):
                self.calls[name] = failures.Calls(self.learners[name])
                self.learners[name] = self.calls[name].recorded
                setattr(module, name, self.learners[name])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Function) -> None:
        """Skip the other laws of a technique that has failed one."""
        technique, law, _ = self.runs[item.nodeid]
        if self.results[technique.name]["state"] == "failed":
            pytest.skip("the technique has failed a law")
        self.note([technique.name], "running", law=law.name)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Generator[None, object, object]:
        """Run a law with a time limit for each example, and describe how it fails."""
        technique, law, case = self.runs[item.nodeid]
        calls = self.calls.get(technique.name)
        asked, end, failing = case.settings().max_examples, time.monotonic() + SECONDS, False

        def held() -> bool:
            return case.examples >= asked and not failing

        def around(body: Callable[..., None]) -> Callable[..., None]:
            def example(*arguments: Any, **named: Any) -> None:
                nonlocal failing
                if held() and time.monotonic() > end:
                    raise EnoughError
                try:
                    with self.limited():
                        body(*arguments, **named)
                except HypothesisException:
                    raise  # the example does not count
                except FAILURES:
                    failing = True
                    if calls is not None:
                        calls.shown = True  # the last example to run is the smallest
                    raise

            return example

        changed = settings(
            case.settings(),
            max_examples=max(asked, MISTAKE_EXAMPLES),
            report_multiple_bugs=False,
            database=None,
            print_blob=True,  # mistakes_like needs it
        )
        try:
            with replaced(item.obj, around, changed):
                return (yield)
        except BaseException as error:
            # Hypothesis may find a run flaky that ends in the middle of an example.
            if held() and isinstance(error, EnoughError | HypothesisException):
                return None
            self.rows = failures.failure_rows(error, item.obj, calls, self.folder)
            self.rows += failures.mistakes_like(error, item.obj, case, law)
            raise

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a law."""
        technique, law, _ = self.runs[report.nodeid]
        name, state = technique.name, "passed" if law is technique.laws[-1] else "waiting"
        if self.results[name]["state"] == "failed":
            return
        if report.failed:
            rows = self.rows or [("error", report.longreprtext)]
            self.note([name], "failed", rows=[*rows, ("printed", report.capstdout)])
            self.rows = []
        elif report.skipped:
            assert isinstance(report.longrepr, tuple)
            reason = report.longrepr[2].removeprefix("Skipped: ")
            self.note([name], state, skipped=[*self.results[name]["skipped"], reason])
        elif report.when == "call":
            self.note([name], state)


def subject_with(right: Any, law: Law, learners: dict[str, Any]) -> Any:
    """Return the learner's function, or a helper of the tests that calls it."""
    if right.__module__.startswith("dlconcepts."):
        return learners[right.__name__]
    helper, techniques = inspect.unwrap(right), [path.rpartition(".")[2] for path in law.techniques]
    own = {name: learners[name] for name in techniques if name in learners}
    names = {**helper.__globals__, **own}
    made = types.FunctionType(
        helper.__code__, names, helper.__name__, helper.__defaults__, helper.__closure__
    )
    made.__kwdefaults__ = helper.__kwdefaults__
    return functools.update_wrapper(made, helper)
