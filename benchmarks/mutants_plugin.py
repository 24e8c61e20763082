"""A pytest plugin that lets benchmarks/mutants.py judge a mutant in half a second.

mutmut forks a process for each mutant from one that has imported torch and collected the tests.
This plugin orders the tests there: first those that caught other mutants of the same function, then
of the same module, then the fastest. It runs `ENOUGH` seconds' worth of them in this order, and as
much again of the fastest. A mutant that passes those counts as a survivor, so the reported share of
killed mutants is never too high. The garbage collector skips objects from before the fork. The run
without a mutant, which comes first, skips tests that no mutant will run.
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

# All in the folder where mutmut runs pytest.
STATISTICS = Path("mutmut-stats.json")
NOTICED = Path("noticed.txt")  # lines: a function, and a test that caught a mutant of it
NEEDED = Path("needed.txt")  # lines: a test that some mutant of this run will meet
ENOUGH = 3.0  # seconds, measured with few examples of each law
HANGS = 60  # seconds; a mutant that takes longer counts as an endless loop
PROGRAMMED = "fail"  # a mutant that mutmut makes fail on purpose, to check that failures are seen


@functools.cache
def seconds() -> dict[str, float]:
    """Return the seconds of each test without a mutant. Cached before mutmut forks."""
    if not STATISTICS.exists():
        return {}
    found: dict[str, dict[str, float]] = json.loads(STATISTICS.read_text(encoding="utf-8"))
    return found["duration_by_test"]


def mutated() -> str:
    """Return the name of the mutated function, or an empty string if there is none."""
    function, mutant, _ = os.environ.get("MUTANT_UNDER_TEST", "").partition("__mutmut_")
    return function if mutant else ""


def enough(durations: Iterable[float]) -> int:
    """Return how many tests, from the first on, add up to `ENOUGH` seconds."""
    return 1 + sum(end < ENOUGH for end in itertools.accumulate(durations))


def first(items: list[pytest.Item]) -> list[pytest.Item]:
    return items[: enough(seconds().get(item.nodeid, 0.0) for item in items)]


def pytest_load_initial_conftests() -> None:
    """Exclude existing objects from garbage collection, which saves about a second a run."""
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests first that are likely to catch the mutant, and keep only enough of them."""
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
        # mutmut itself would wait thirty times as long as all tests of the function take.
        signal.alarm(HANGS)
        # A slow test that caught other mutants must not crowd out the fast ones.
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
    """Write down the test that caught the mutant, or that fails without one."""
    report = yield
    if report.failed and os.environ.get("MUTANT_UNDER_TEST") != PROGRAMMED:
        with NOTICED.open("a", encoding="utf-8") as file:
            file.write(f"{mutated()}\t{item.nodeid}\n")
    return report
