"""The law mark: a test over a subject, run on the right subject and on each classic mistake."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings

from dlconcepts.testing import hypothesis_bridge

# The search for a mistake's counterexample ends with the first one found, so many cost little.
MISTAKE_EXAMPLES = 1_000
# Runs of a law to make a counterexample smaller and to explain it; most need fewer than 200.
SHRINKING_RUNS, FEWEST_RUNS = 250, 10
# Of a mistake only the rejection counts, unless the profile explains counterexamples, for the book.
MISTAKE_SHRINKING_RUNS = 50
FAILURES = (Exception, pytest.fail.Exception)  # the second is what pytest.raises fails with
Subject = Callable[..., Any]
Mistakes = Mapping[Subject, str]  # each with a piece of the message that it must fail with


@dataclass(frozen=True)
class Law:
    """The arguments of the law mark."""

    right: Subject
    wrong: Mistakes
    share: float = 1.0
    because: str = ""
    cpu_only: str = ""

    def faults(self) -> Generator[str]:
        """Yield what is wrong with the mark, each with what to do."""
        if not self.wrong:
            yield "has no mistake; name one it rejects: wrong={mistake: 'reason'}"
        for mistake, reason in self.wrong.items():
            if not reason:
                yield f"gives no reason for {name_of(mistake)}; quote a piece of the law's message"
            if not inspect.getdoc(mistake):
                yield f"rejects {name_of(mistake)}, which has no docstring; say what it does wrong"
        names = [name_of(mistake) for mistake in self.wrong]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"has two mistakes named {name}; rename one"
        if self.share != 1 and not self.because:
            yield f"share={self.share} lowers the examples; say why in because="


def law(
    *, right: Subject, wrong: Mistakes, share: float = 1.0, because: str = "", cpu_only: str = ""
) -> pytest.MarkDecorator:
    """Mark a test as a law: it must accept `right` and reject every mistake in `wrong`.

    The test takes the subject as its first argument and draws its inputs with `@given`. Each
    assertion has a message. `wrong` gives for each mistake a piece of the message it must fail
    with. `share`, with `because`, lowers the number of examples of an expensive law and of the runs
    that make a counterexample smaller, and marks the law slow. `cpu_only` says why a law applies to
    the CPU alone; it then runs there whatever devices are chosen.

    Errors in the mark stop the collection of the test's file, with the line and the remedy.
    Source: pytest documentation, "Working with custom markers".
    """
    return pytest.mark.law(Law(right, wrong, share, because, cpu_only))


def name_of(subject: Subject) -> str:
    return getattr(subject, "__name__", None) or type(subject).__name__


@dataclass
class Case:
    """One run of a law: on the right subject (no reason to fail), or on a mistake."""

    law: Law
    subject: Subject
    device: torch.device
    reason: str = ""
    examples: int = 0

    @property
    def name(self) -> str:
        return name_of(self.subject)

    @property
    def id(self) -> str:
        """The brackets behind the name of the law, as in `cpu-relu` and `wrong-leaks`."""
        return f"{'wrong' if self.reason else self.device}-{self.name}"

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        """The markers of the item that runs the case."""
        kind = pytest.mark.mistake(self) if self.reason else pytest.mark.right(self)
        return [kind] if self.law.share == 1 else [kind, pytest.mark.slow]

    def settings(self) -> settings:
        """Return the profile's settings, as this case changes them."""
        asked = settings.get_profile(settings.get_current_profile_name())
        if not self.reason:
            return settings(asked, max_examples=max(1, round(asked.max_examples * self.law.share)))
        most = max(MISTAKE_EXAMPLES, asked.max_examples)
        # Derandomized: a mistake that is found by luck is not proven to be found.
        always_the_same = settings(asked, max_examples=most, derandomize=True, database=None)
        return settings(always_the_same, report_multiple_bugs=False)

    @contextmanager
    def running(self, test: Any) -> Generator[None]:
        """Run a test under the settings of the case, and count the examples that reach its end."""

        def counted(body: Callable[..., None]) -> Callable[..., None]:
            def example(*args: Any, **kwargs: Any) -> None:
                body(*args, **kwargs)
                self.examples += 1

            return example

        # A device as a context is the default of every factory function. It costs a Python call
        # for each operator, which a run on the CPU need not pay.
        device = nullcontext() if self.device.type == "cpu" else self.device
        asked = self.settings()
        few = self.reason and Phase.explain not in asked.phases
        most = MISTAKE_SHRINKING_RUNS if few else SHRINKING_RUNS
        hypothesis_bridge.limit_shrinking(max(FEWEST_RUNS, round(most * self.law.share)))
        # Nobody reads the traceback of a mistake; pytest would parse whole files to show it.
        report = hypothesis_bridge.plain_tracebacks() if self.reason else nullcontext()
        with hypothesis_bridge.replaced(test, counted, asked), report, device:
            yield

    def judge(self, failure: BaseException | None, item: object) -> None:
        """Raise unless the right subject passed, or the mistake failed for the stated reason."""
        __tracebackhide__ = True
        if not self.reason:
            if failure is not None:
                raise failure
            asked = self.settings().max_examples
            said = hypothesis_bridge.statistics_of(item)
            if self.examples < asked and hypothesis_bridge.EXHAUSTED not in said:
                pytest.fail(f"too few examples: {self.examples} of {asked} ran. {said}")
        elif failure is None:
            pytest.fail(f"vacuous: {self.name} is a mistake, yet {self.examples} examples pass")
        elif not isinstance(failure, (AssertionError, pytest.fail.Exception)):
            raise failure
        elif self.reason not in str(failure):
            text = f"the mistake {self.name} fails for another reason than {self.reason!r}"
            raise pytest.fail.Exception(f"{text}: {failure}") from failure


def case_of(item: pytest.Item) -> Case | None:
    """Return the case that an item runs, None if it runs no law."""
    mark = item.get_closest_marker("right") or item.get_closest_marker("mistake")
    return mark.args[0] if mark and mark.args else None


def cases_of(law: Law, devices: list[torch.device]) -> list[Case]:
    """Return the runs of a law: on each device, and of each mistake on the first one."""
    devices = [torch.device("cpu")] if law.cpu_only else devices
    right = [Case(law, law.right, device) for device in devices]
    return right + [Case(law, wrong, devices[0], reason) for wrong, reason in law.wrong.items()]
