"""How long a verdict takes, and whether a busy machine changes it.

    python benchmarks/verdict.py                     # verify, each lesson, one claim
    python benchmarks/verdict.py pytest              # all tests, in two processes
    python benchmarks/verdict.py load                # alone, beside 8 busy processes, other threads
    python benchmarks/verdict.py notice --faults 40  # how soon a fault of the framework shows
    python benchmarks/verdict.py notice --json FILE  # write the rows to a file, too

Wall and CPU seconds of whole commands, started as a user would. `notice` draws faults of
benchmarks/faults at random, with a fixed seed. For each it runs the laws of all lessons in one
process, in the order of `verify --fail-fast`, until one fails; start-up is not counted.
"""

import argparse
import importlib
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import write
from rich.console import Console
from rich.table import Table

from dlconcepts.testing.claims import LESSONS
from dlconcepts.testing.records import clean_case
from dlconcepts.testing.run import processor

ROOT = Path(__file__).parents[1]

CLAIM = "networks.relu"
DEAREST = 10  # laws to list
BUSY = 8  # processes beside the run under load
SEED = 29  # of the faults that are drawn
# The array API standard's suite, by its own README; other laws on another machine.
ARRAY_API_TESTS = 68  # examples a second


@dataclass
class Measured:
    """A command that ran: its wall and CPU seconds, first verdict, status and output."""

    wall: float
    cpu: float
    first: float | None
    status: int
    output: str


def measure(*arguments: str, **variables: str | None) -> Measured:
    """Run a command of this Python to its end."""
    env = {**os.environ, **{k: v for k, v in variables.items() if v is not None}}
    for name in (name for name, value in variables.items() if value is None):
        env.pop(name, None)
    before, started, first, lines = children_cpu(), time.monotonic(), None, []
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if first is None and "  ok  " in line:
                first = time.monotonic() - started
    wall = time.monotonic() - started
    return Measured(wall, children_cpu() - before, first, process.returncode, "".join(lines))


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def verify(out: Path, *options: str, **variables: str | None) -> Measured:
    """Run `verify`, which must end with status 0."""
    found = measure("-m", "dlconcepts", "verify", *options, "--out", str(out), **variables)
    if found.status:
        sys.exit(found.output)
    return found


def machine() -> str:
    cores = len(os.sched_getaffinity(0))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = " ".join(f"{name} {importlib.import_module(name).__version__}" for name in VERSIONS)
    return (
        f"{processor()}, {cores} cores, load {load}; Python {platform.python_version()}, {versions}"
    )


VERSIONS = ("torch", "numpy", "hypothesis", "pytest")


def time_verify(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time verify, each of its lessons, and one claim; list the dearest laws."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        commands = [("verify", ()), *((f"verify --lesson {x}", ("--lesson", x)) for x in LESSONS)]
        for name, arguments in [*commands, (f"verify {CLAIM}", (CLAIM,))]:
            found = verify(out / name.replace(" ", "-"), *arguments)
            rows.append(row(name, found))
            print(f"{name}: {found.wall:.1f} s", flush=True)
        cases = list(ET.parse(out / "verify" / "results.xml").iter("testcase"))
    totals = [line for line in rows[0].pop("output").splitlines() if line.startswith("claims:")]
    show("time to a verdict", rows)
    print(*totals, sep="\n")
    laws: Counter[str] = Counter()
    for case in cases:
        laws[case.get("name", "").partition("[")[0]] += float(case.get("time", 0))
    show(
        "dearest laws, with their mistakes",
        [{"law": law, "seconds": f"{seconds:.1f}"} for law, seconds in laws.most_common(DEAREST)],
    )
    examples = sum(
        int(p.get("value", 0))
        for c in cases
        for p in c.iter("property")
        if p.get("name") == "examples"
    )
    wall = float(rows[0]["wall s"])
    print(
        f"{examples} examples, mistakes included, in {wall:.1f} s: {examples / wall:.0f} a second"
    )
    print(
        f"(array-api-tests: {ARRAY_API_TESTS} a second by its README, other laws, another machine)"
    )
    return rows


def row(name: str, found: Measured) -> dict[str, Any]:
    first = "" if found.first is None else f"{found.first:.1f}"
    return {
        "command": name,
        "wall s": f"{found.wall:.1f}",
        "CPU s": f"{found.cpu:.1f}",
        "first verdict s": first,
        "output": found.output,
    }


def time_pytest(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all tests in two processes."""
    found = measure("-m", "pytest", "-q", "-n", "2", CI="1")
    rows = [row("pytest -n 2", found)]
    print(rows[0].pop("output")[-2000:])
    show("all tests", rows)
    return rows


def compare_loads(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run verify alone, beside busy processes, and with other threads; compare what they say."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        alone = verify(out)
        expected = said(out)
        rows.append({**row("alone", alone), "items that differ": ""})
        for name, busy, threads in (
            (f"beside {BUSY} busy processes", BUSY, None),
            *((f"{n} threads", 0, str(n)) for n in (1, 2, 4)),
        ):
            with busy_processes(busy):
                found = verify(out, OMP_NUM_THREADS=threads)
            other = said(out)
            differ = [key for key in expected | other if expected.get(key) != other.get(key)]
            rows.append({**row(name, found), "items that differ": str(len(differ))})
            for key in differ:
                print(f"{name}: {key}\n  {expected.get(key)}\n  {other.get(key)}")
            print(f"{name}: {len(differ)} of {len(expected)} items differ", flush=True)
    for found_row in rows:
        found_row.pop("output")
    show("verify under load", rows)
    return rows


def said(out: Path) -> dict[str, str]:
    """Return what a run says of each item: all of its record but times and paths."""
    cases = ET.parse(out / "results.xml").iter("testcase")
    texts = ((f"{c.get('classname')}.{c.get('name')}", clean_case(c)) for c in cases)
    return {name: ET.tostring(case, encoding="unicode") for name, case in texts}


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    command = [sys.executable, "-c", "while True: sum(range(10**6))"]
    processes = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def time_to_notice(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Draw faults; measure how soon the first law of the whole suite fails for each."""
    import power

    for name in power.HEAVY:
        importlib.import_module(name)
    faults = power.collect()
    drawn = random.Random(SEED).sample(faults, min(options.faults, len(faults)))
    seconds = power.control([power.EVERY], 1, show=False)
    rows = []
    for _, fault, found in power.run_all([(power.EVERY, f) for f in drawn], seconds, 1, show=False):
        took = found.get("seconds")
        lesson = found.get("claim", "").partition(".")[0]
        rows.append(
            {
                "fault": fault.name,
                "lesson": fault.lesson,
                "noticed": found["noticed"],
                "seconds": "" if took is None else f"{took:.1f}",
                "by a law of": lesson,
                "law": found.get("law", ""),
            }
        )
        print(*rows[-1].values(), flush=True)
    show("time to notice, one process", rows)
    took = sorted(float(row["seconds"]) for row in rows if row["seconds"])
    tenths = statistics.quantiles(took, n=10)
    soon = sum(value <= 10 for value in took)
    same = sum(row["lesson"] == row["by a law of"] for row in rows)
    print(
        f"{len(took)} of {len(rows)} noticed; median {statistics.median(took):.1f} s, "
        f"90th percentile {tenths[-1]:.1f} s, {soon} within 10 s; "
        f"first by a law of the fault's lesson: {same}"
    )
    return rows


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left")
    names = [name for name in rows[0] if name != "output"]
    for name in names:
        table.add_column(name, overflow="fold")
    for found in rows:
        table.add_row(*(str(found[name]) for name in names))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


PARTS = {
    "verify": time_verify,
    "pytest": time_pytest,
    "load": compare_loads,
    "notice": time_to_notice,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=PARTS, default="verify")
    parser.add_argument("--faults", type=int, default=40, help="faults to draw (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    print(machine())
    rows = PARTS[options.part](options)
    if options.json:
        kept = [{key: value for key, value in row.items() if key != "output"} for row in rows]
        write(options.json, kept, VERSIONS, machine=machine())


if __name__ == "__main__":
    main()
