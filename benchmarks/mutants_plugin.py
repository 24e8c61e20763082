"""A pytest plugin for the runs of benchmarks/mutants.py: what makes one mutant take half a second.

mutmut forks a process for each mutant from one that has imported torch and collected the tests.
There the tests run first that noticed other mutants of the same function, then of the same module,
then the quickest. As many run as take `ENOUGH` seconds without a mutant, and of the quickest as
many again: what they let pass counts as let pass by all, so that the share of mutants killed is
never too high. And the garbage collector leaves alone what the process was born with. The run
without a mutant, before them, leaves out the tests that none of them will run.
"""

import functools
import gc
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

# All in the folder where mutmut works, in which it also runs pytest.
STATISTICS = Path("mutmut-stats.json")
NOTICED = Path("noticed.txt")  # a function and a test that noticed one of its mutants, a line each
NEEDED = Path("needed.txt")  # the tests that some mutant of a run will meet, a line each
ENOUGH = 3.0  # seconds, of a few examples of each law
HANGS = 60  # seconds after which a mutant counts as one that never ends
PROGRAMMED = "fail"  # what mutmut has fail once, to see that a failure is seen


@functools.cache
def seconds() -> dict[str, float]:
    """Return how long each test took without a mutant; read once, before mutmut forks."""
    if not STATISTICS.exists():
        return {}
    found: dict[str, dict[str, float]] = json.loads(STATISTICS.read_text(encoding="utf-8"))
    return found["duration_by_test"]


def mutated() -> str:
    """Return the name of the function of which a mutant is on trial, empty if none is."""
    function, mutant, _ = os.environ.get("MUTANT_UNDER_TEST", "").partition("__mutmut_")
    return function if mutant else ""


def enough(durations: Iterable[float]) -> int:
    """Return how many tests, from the first on, it takes to come to `ENOUGH` seconds."""
    return 1 + sum(end < ENOUGH for end in itertools.accumulate(durations))


def first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests, from the first on, that take enough seconds."""
    return items[: enough(seconds().get(item.nodeid, 0.0) for item in items)]


def pytest_load_initial_conftests() -> None:
    """Take what is there already out of every collection: three in a run, 0.3 s each with torch."""
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests first that are likely to notice the mutant, and leave out the last of many."""
    durations, function = seconds(), mutated()
    same_function: Counter[str] = Counter()
    same_module: Counter[str] = Counter()
    if function and NOTICED.exists():
        for line in NOTICED.read_text(encoding="utf-8").splitlines():
            other, _, test = line.partition("\t")
            same_function[test] += other == function
            same_module[test] += other.partition(".x")[0] == function.partition(".x")[0]
    items.sort(
        key=lambda item: (
            -same_function[item.nodeid],
            -same_module[item.nodeid],
            durations.get(item.nodeid, 0.0),
        )
    )
    kept = {item.nodeid for item in items}
    if function:
        # mutmut would wait for thirty times what all tests take that call the function.
        signal.alarm(HANGS)
        # Of those that noticed others one may be slow: it must not keep the quickest from running.
        quickest = sorted(items, key=lambda item: durations.get(item.nodeid, 0.0))
        kept = {item.nodeid for order in (items, quickest) for item in first(order)}
    elif NEEDED.exists() and not config.option.collectonly:
        kept = set(NEEDED.read_text(encoding="utf-8").splitlines())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
    items[:] = [item for item in items if item.nodeid in kept]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note the test that noticed the mutant, or that fails without one."""
    report = yield
    if report.failed and os.environ.get("MUTANT_UNDER_TEST") != PROGRAMMED:
        with NOTICED.open("a", encoding="utf-8") as file:
            file.write(f"{mutated()}\t{item.nodeid}\n")
    return report
