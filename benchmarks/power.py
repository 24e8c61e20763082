"""Break PyTorch one behaviour at a time and see which law catches it, and how fast.

    python benchmarks/power.py                      # every fault, one process each
    python benchmarks/power.py --lesson tensors     # those of one lesson
    python benchmarks/power.py --fault NAME --show  # one fault, with pytest's output
    python benchmarks/power.py --jobs 2 --json docs/results/power-faults.json

Each fault of benchmarks/faults runs in its own process, forked after torch was imported. There the
laws of its lesson run with the right technique, the fastest law first, 100 examples each, the same
examples every time and without shrinking, until an assertion fails. If a fault makes a law crash,
the other laws still run; it counts as caught by a crash if none of their assertions fails. First
every law must pass without a fault; otherwise the benchmark stops.
"""

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # forking while threads run can deadlock

import pytest
from faults import Fault, collect
from results import write
from rich.console import Console
from rich.table import Table

from dlconcepts.testing.claims import LESSONS

ROOT = Path(__file__).parents[1]
EVERY = "every lesson"
LIMIT = 600  # seconds; a longer run counts as hanging
# Slow imports happen once, before the fork. dlconcepts is imported after it, to get the fault.
HEAVY = (
    *("torch._dynamo", "torch.distributed", "torchvision.transforms.v2", "torchvision.models"),
    *("torchvision.datasets", "scipy.stats", "matplotlib.pyplot", "hypothesis.extra.numpy"),
    *("torch.nn.utils", "rich.progress", "PIL.Image"),
)
FORK = multiprocessing.get_context("fork")
Row = dict[str, Any]


class Watch:
    """A pytest plugin: run the laws on the right technique, fastest first, until one fails."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.laws, self.failure, self.skipped = seconds, 0, dict[str, Any](), 0
        self.measured = dict[str, float]()
        self.started = time.perf_counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the right cases, sorted by the seconds they took without a fault."""
        right = [item for item in items if item.get_closest_marker("right")]
        items[:] = sorted(right, key=lambda item: self.seconds.get(item.name, 0))
        self.laws = len(right)
        self.started = time.perf_counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        report = yield
        if report.when == "call":
            self.measured[item.name] = report.duration
        self.skipped += report.skipped
        if report.failed and call.excinfo is not None:
            error, case = call.excinfo.value, item.get_closest_marker("right").args[0]
            # Hypothesis wraps an error that does not repeat: a fault may depend on earlier calls.
            errors = getattr(error, "exceptions", (error,))
            asserted = all(isinstance(e, (AssertionError, pytest.fail.Exception)) for e in errors)
            if asserted:
                item.session.shouldstop = "a law caught the fault"
            elif self.failure:
                return report
            self.failure = {
                "noticed": "assertion" if asserted else "crash",
                "law": item.name.partition("[")[0],
                "claim": dict(item.user_properties)["claim"],
                "examples": case.examples + 1,
                "seconds": round(time.perf_counter() - self.started, 2),
                "message": f"{type(error).__name__}: {error}".splitlines()[0][:200],
            }
        return report


def examine(
    lesson: str, fault: Fault | None, seconds: dict[str, float], out: Path, show: bool
) -> None:
    """Apply a fault, run the laws of a lesson, write the outcome; the process ends after it."""
    signal.alarm(LIMIT)
    os.chdir(ROOT)
    if fault is not None:
        fault.apply()
    watch = Watch(seconds)
    folders = LESSONS if lesson == EVERY else [lesson]
    arguments = [*(f"tests/{name}" for name in folders), "-q", "-p", "no:cacheprovider"]
    # pytest warns that it cannot rewrite Hypothesis, which was imported before the fork.
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    with contextlib.nullcontext() if show else contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main([*arguments, "--hypothesis-profile=power"], plugins=[watch])
    found = watch.failure or {"noticed": "no" if status == 0 else f"pytest ended with {status}"}
    counts = {"laws": watch.laws, "skipped": watch.skipped, "measured": watch.measured}
    out.write_text(json.dumps({**found, **counts}), encoding="utf-8")


def run_all(
    work: Sequence[tuple[str, Fault | None]],
    seconds: dict[str, dict[str, float]],
    jobs: int,
    show: bool,
) -> Iterator[tuple[str, Fault | None, Row]]:
    """Examine each fault in a forked process, up to `jobs` at a time, and yield each outcome."""
    with tempfile.TemporaryDirectory() as folder:
        ahead, running = list(enumerate(work)), dict[int, Any]()
        while ahead or running:
            while ahead and len(running) < jobs:
                number, (lesson, fault) = ahead.pop(0)
                out = Path(folder, f"{number}.json")
                arguments = (lesson, fault, seconds.get(lesson, {}), out, show)
                process = FORK.Process(target=examine, args=arguments)
                process.start()
                running[process.sentinel] = process, lesson, fault, out
            for sentinel in wait(list(running)):
                process, lesson, fault, out = running.pop(sentinel)
                process.join()
                ended = {"noticed": f"the process ended with {process.exitcode}"}
                yield lesson, fault, json.loads(out.read_text()) if out.exists() else ended


def control(lessons: Sequence[str], jobs: int, show: bool) -> dict[str, dict[str, float]]:
    """Run the laws without a fault; all must pass. Return the seconds of each."""
    seconds = {}
    for lesson, _, row in run_all([(lesson, None) for lesson in lessons], {}, jobs, show):
        if row["noticed"] != "no":
            sys.exit(f"the laws of {lesson} fail without a fault: {row}")
        seconds[lesson] = row["measured"]
        total = sum(row["measured"].values())
        skipped = f", {row['skipped']} skipped" if row["skipped"] else ""
        print(f"{lesson}: {row['laws']} laws pass without a fault in {total:.1f} s{skipped}")
    return seconds


def show_table(rows: Sequence[Row]) -> None:
    table = Table(title="faults in the framework, and the law that catches each")
    for heading in ("lesson", "fault", "law", "examples", "seconds"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        law = row.get("law", "")
        law = law if row["noticed"] == "assertion" else f"{row['noticed']} {law}"
        numbers = (str(row.get(name, "")) for name in ("examples", "seconds"))
        table.add_row(row["lesson"], row["fault"], law, *numbers)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    faults = collect()
    lessons = list(dict.fromkeys(fault.lesson for fault in faults))
    parser.add_argument("--lesson", action="append", choices=lessons)
    parser.add_argument(
        "--fault", action="append", choices=[f.name for f in faults], metavar="NAME"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (%(default)s)")
    parser.add_argument("--show", action="store_true", help="show the output of pytest")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    chosen = [
        fault
        for fault in faults
        if fault.lesson in (options.lesson or lessons)
        and fault.name in (options.fault or [fault.name])
    ]
    for name in HEAVY:
        importlib.import_module(name)
    started = time.perf_counter()
    seconds = control(list(dict.fromkeys(f.lesson for f in chosen)), options.jobs, options.show)
    work = [(fault.lesson, fault) for fault in chosen]
    rows = []
    for lesson, fault, row in run_all(work, seconds, options.jobs, options.show):
        row.pop("measured", None)
        head = {"lesson": lesson, "fault": fault.name, "breaks": list(fault.targets)}
        rows.append({**head, "sentence": fault.sentence, **row})
        law = f"{row.get('law', '')} {row.get('message', '')}"
        print(f"{lesson} {fault.name}: {row['noticed']} {law}", flush=True)
    rows.sort(
        key=lambda row: [(f.lesson, f.name) for f in faults].index((row["lesson"], row["fault"]))
    )
    crashed = sum(row["noticed"] == "crash" for row in rows)
    noticed = sum(row["noticed"] == "assertion" for row in rows) + crashed
    took = time.perf_counter() - started
    show_table(rows)
    share = f"{noticed / len(rows):.1%}, {crashed} of them by a crash"
    print(f"caught: {noticed} of {len(rows)}, {share}, in {took:.0f} s")
    if options.json:
        packages = ("torch", "torchvision", "numpy", "hypothesis")
        counts = {"faults": len(rows), "noticed": noticed, "by_a_crash": crashed}
        write(options.json, rows, packages, seconds=round(took), **counts)


if __name__ == "__main__":
    main()
