"""Judge a technique of a learner: run its laws on the learner's function, in a process of its own.

The process is forked from one that has imported torch and the laws, so that it starts in
milliseconds. It reports each step through a pipe: the learner's code may end it at any time.
"""

import faulthandler
import functools
import importlib
import inspect
import itertools
import os
import sys
import types
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis.errors import HypothesisException

from dlconcepts.practice import failures, loading
from dlconcepts.practice.question import PRINTED, STUCK, Question, Rows
from dlconcepts.practice.techniques import Law, Technique
from dlconcepts.testing.claims import TESTS
from dlconcepts.testing.hypothesis_bridge import limit_shrinking, replaced, subject_argument
from dlconcepts.testing.laws import FAILURES, SHRINKING_RUNS, Case

# Of the mistakes in the tests, the rarest needs 125 examples. An expensive law, which draws fewer
# examples than others, draws no more of them here.
EXAMPLES = 200
MEMORY = 6 << 30  # bytes; torch and the laws take one of them


class SkippedError(Exception):
    """A law cannot run here; the message says why."""


def judge(question: Question, pipe: Connection, notes: Path) -> None:
    """Judge a technique, and send what is known of it whenever that changes."""
    isolate(notes)
    steps, name = loading.Steps(), question.technique.name
    skipped: list[str] = []
    with (notes / STUCK).open("w", encoding="utf-8") as stuck:
        limit = functools.partial(limited, question.limit, stuck)
        prepare(question.technique)
        pipe.send({"state": "loading"})
        try:
            with limit():
                module = loading.load(question.path, steps, question.unwritten)
        except BaseException as error:  # also sys.exit() in the learner's file
            rows = failures.error_rows(error, question.path.parent)
            decide(pipe, state="broken", rows=rows)
            return
        learner = Learner(question.technique, vars(module).get(name), question.path.parent)
        for law in cheapest_first(question.technique):
            pipe.send({"state": "running", "law": law.name})
            try:
                rows = learner.rows(law, steps, limit)
            except SkippedError as error:
                skipped.append(str(error))
                continue
            if rows:
                decide(pipe, state="failed", rows=rows)
                return
    decide(pipe, state="passed", skipped=skipped, law="")


def decide(pipe: Connection, **verdict: Any) -> None:
    """Send a verdict; the asking process then ends this one."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the learner may have replaced it
            stream.flush()
    pipe.send(verdict)


def isolate(notes: Path) -> None:
    """Keep the learner's code from the terminal, the network, and the memory of others."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that all that it starts can be ended with it
    output = os.open(notes / PRINTED, os.O_CREAT | os.O_WRONLY)
    for number in (1, 2):
        os.dup2(output, number)
    sys.addaudithook(forbid)
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    with suppress(ValueError, OSError):  # a system may refuse it
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY))


def forbid(event: str, arguments: Any) -> None:
    """Refuse connections to other machines: neither a law nor an answer needs one."""
    # A loader's workers hand their batches over through a socket whose address is a file.
    to_a_file = event == "socket.connect" and not isinstance(arguments[1], tuple)
    if event in ("socket.connect", "socket.getaddrinfo") and not to_a_file:
        raise OSError("there is no network in practice")


@contextmanager
def limited(seconds: float, stuck: Any) -> Generator[None]:
    """End the process if a block takes too long; Python then writes where it was."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=stuck)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def prepare(technique: Technique) -> None:
    """Import the laws, use the profiles of the suite, and judge no wording."""
    if str(TESTS.parent) not in sys.path:
        sys.path.insert(0, str(TESTS.parent))
    importlib.import_module("conftest")
    settings.load_profile("ci")
    warnings.simplefilter("ignore")  # a call that is deprecated is right all the same
    raises = inspect.unwrap(pytest.raises)

    @functools.wraps(raises)
    def any_wording(*arguments: Any, match: object = None, **named: Any) -> Any:
        """Accept an error of the right type whatever it says."""
        return raises(*arguments, **named)

    pytest.raises = any_wording
    for name in technique.modules:
        importlib.import_module(name)


def mark_of(test: Any) -> Any:
    return next(mark.args[0] for mark in test.pytestmark if mark.name == "law")


def test_of(law: Law) -> Any:
    return getattr(importlib.import_module(law.module), law.name)


def cheapest_first(technique: Technique) -> list[Law]:
    """Return the laws of a technique, those that draw few examples last: each of them takes long.

    Laws of another lesson may need techniques that come later, so they follow those of its own.
    """
    return sorted(technique.laws, key=lambda law: mark_of(test_of(law)).share != 1)


class Learner:
    """A learner's function or class, in place of the library's."""

    def __init__(self, technique: Technique, own: Any, folder: Path) -> None:
        self.technique, self.folder = technique, folder
        self.calls = failures.Calls(own) if isinstance(own, types.FunctionType) else None
        self.own = self.calls.recorded if self.calls else own

    def rows(self, law: Law, steps: loading.Steps, limit: Callable[[], Any]) -> Rows:
        """Return how a law fails, nothing if it holds; raise SkippedError if it cannot run."""
        test = test_of(law)
        mark = mark_of(test)
        case = Case(mark, self.subject(mark.right), torch.device("cpu"))
        changed = settings(
            case.settings(),
            max_examples=EXAMPLES if mark.share == 1 else case.settings().max_examples,
            report_multiple_bugs=False,
            print_blob=True,  # mistakes_like needs it
        )
        limit_shrinking(SHRINKING_RUNS)

        def around(body: Callable[..., None]) -> Callable[..., None]:
            def example(*arguments: Any, **named: Any) -> None:
                steps.start()
                try:
                    with limit():
                        body(*arguments, **named)
                except HypothesisException:
                    raise  # the example does not count
                except FAILURES:
                    if self.calls:
                        self.calls.shown = True  # the last example to run is the smallest
                    raise

            return example

        for given in fixtures_of(test):
            try:
                with replaced(test, around, changed), warnings.catch_warnings():
                    test(**{subject_argument(test): case.subject}, **given)
            except pytest.skip.Exception as error:
                raise SkippedError(str(error)) from error
            except BaseException as error:
                rows = failures.failure_rows(error, test, self.calls, self.technique, self.folder)
                return rows + failures.mistakes_like(error, test, case, law, self.calls)
        return []

    def subject(self, right: Any) -> Any:
        """Return the learner's function, or a helper of the tests that calls it."""
        if right.__module__.startswith("dlconcepts."):
            return self.own
        helper = inspect.unwrap(right)
        names = {**helper.__globals__, self.technique.name: self.own}
        made = types.FunctionType(
            helper.__code__, names, helper.__name__, helper.__defaults__, helper.__closure__
        )
        made.__kwdefaults__ = helper.__kwdefaults__
        return functools.update_wrapper(made, helper)


def fixtures_of(test: Any) -> Iterator[dict[str, Any]]:
    """Yield the other arguments of a law: the values it names, and a folder."""
    marks = {mark.name: mark for mark in test.pytestmark}
    skip = marks.get("skipif")
    if skip and skip.args[0]:
        raise SkippedError(skip.kwargs["reason"])
    named = {
        mark.args[0]: [getattr(value, "values", (value,))[0] for value in mark.args[1]]
        for mark in test.pytestmark
        if mark.name == "parametrize"
    }
    with TemporaryDirectory() as folder:
        rest = list(inspect.signature(test).parameters)[1:]
        choices = [named.get(name, [Path(folder)]) for name in rest]
        for values in itertools.product(*choices):
            yield dict(zip(rest, values, strict=True))
