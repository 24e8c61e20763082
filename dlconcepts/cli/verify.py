"""`python -m dlconcepts verify`: run the laws, print the verdict on each claim, write a report."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dlconcepts.cli.claims import unknown
from dlconcepts.support.atomic import write_json
from dlconcepts.support.errors import UserError
from dlconcepts.support.signals import Stopped
from dlconcepts.testing.claims import LESSONS, TESTS, Claim, all_claims, name_of_file
from dlconcepts.testing.results import Item, Judged, Report
from dlconcepts.testing.run import Run, require_tests, verify

WIDEST = 120  # columns; a longer row is hard to follow
COLOURS = {
    **{"holds": "green", "holds-if": "yellow", "corrected": "magenta", "opinion": "blue"},
    **{"ok": "green", "FAILED": "bold red", "skipped": "yellow", "unfinished": "yellow"},
}
FEW = 5  # claims to name one by one; of more, the lessons


def run(arguments: argparse.Namespace) -> int:
    """Run the laws; return 0 if all is well, 1 if anything failed."""
    claims, out = chosen(arguments), arguments.out
    jobs = processes(len(claims)) if arguments.jobs is None else arguments.jobs
    # Each process computes with one thread: the tensors of the laws are small.
    print(f"claims: {len(claims)}, processes of one thread: {jobs}")
    display = Display(claims)
    found = Run(claims, watch=display)
    options = {name: getattr(arguments, name) for name in ("profile", "out", "fail_fast")}
    with display.bar:
        verify(found, arguments.device or ["cpu"], jobs=jobs, **options)
    show(found.report)
    print(f"wrote {out / 'results.xml'}\nwrote {out / 'report.html'}")
    write_json(arguments.json, record(found))
    if found.stopped_by is not None:
        kept = f"{out} has what was judged; resume with `{rest_of(found)}`"
        arguments.keep = lambda stopped: kept
        raise Stopped(found.stopped_by)
    return 1 if found.status or found.report.failed or found.report.unfinished else 0


def chosen(arguments: argparse.Namespace) -> list[Claim]:
    """Return the claims that the arguments name, in course order."""
    lessons = arguments.lesson or LESSONS
    claims = all_claims(TESTS, lessons)
    if not claims:
        require_tests()
        raise UserError(f"there are no laws for {', '.join(lessons)}; choose another --lesson")
    for name in arguments.claim:
        if name not in {claim.id for claim in claims}:
            raise UserError(unknown(name, claims))
    return [claim for claim in claims if claim.id in arguments.claim or not arguments.claim]


def processes(claims: int) -> int:
    """Return how many processes to use: one for each core, and no more than claims."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, claims)


def record(run: Run) -> dict[str, Any]:
    names = ("id", "verdict", "outcome", "devices", "examples", "rejected", "seconds")
    report, environment = run.report, dict(run.environment)
    claims = [
        {name: getattr(claim, name) for name in names} | {"mistakes": len(claim.mistakes)}
        for claim in report.claims
    ]
    failures = [
        {"law": item.function, "case": item.parameters, "message": item.details or item.message}
        for item in report.failed
    ]
    return {"schema": 1, "environment": environment, "claims": claims, "failures": failures}


def rest_of(run: Run) -> str:
    """Return the command that runs the claims of an interrupted run that it did not finish."""
    names = [claim.id for claim in run.report.unfinished]
    if len(names) > FEW:
        names = ["--lesson", *dict.fromkeys(name.partition(".")[0] for name in names)]
    return f"python -m dlconcepts verify {' '.join(names)}"


class Display:
    """Show a bar, the current claim, and each failure at once; in a file, a line for each claim."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.items: dict[str, list[Item]] = {claim.id: [] for claim in claims}
        self.claims = {claim.id: claim for claim in claims}
        console = Console(highlight=False, soft_wrap=True)
        columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        no_bar = not console.is_terminal or console.is_dumb_terminal
        text = TextColumn("{task.description}")
        self.bar = Progress(*columns, text, console=console, transient=True, disable=no_bar)
        self.task = self.bar.add_task("starting", total=len(claims))

    def __call__(self, event: Item | str) -> None:
        """Show that an item started, by its id, or ended."""
        if isinstance(event, str):
            path = Path(event.partition("::")[0])
            self.bar.update(self.task, description=f"{path.parent.name}.{name_of_file(path)}")
            return
        if event.outcome == "FAILED":
            said = event.message.partition("\n")[0]
            self.say(f"FAILED {event.title} [{event.parameters}]: {said}", "bold red")
        name = event.record.get("claim", "")
        if name not in self.items:
            return
        self.items[name].append(event)
        claim = Judged(self.claims[name], self.items[name])
        if claim.is_complete and any(item.kind == "demonstration" for item in claim.items):
            del self.items[name]
            total, done = len(self.claims), len(self.claims) - len(self.items)
            self.bar.update(self.task, completed=done)
            if self.bar.disable:
                place = f"{done:>{len(str(total))}}/{total}"
                self.say(f"{place}  {claim.outcome:<10}  {claim.id}  {claim.seconds:.1f} s")

    def say(self, line: str, style: str = "") -> None:
        self.bar.console.print(Text(line, style))


def show(report: Report) -> None:
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDEST
    console = Console(width=min(columns, WIDEST), highlight=False)
    for lesson, claims in report.lessons.items():
        console.print(table(lesson, claims))
    for item in report.failed:
        console.print(Text(f"FAILED {item.function} {item.parameters}", "bold red"))
        console.print(Text(item.details or item.message))
    unfinished = [claim.id for claim in report.unfinished]
    for heading, lines in (("did not finish", unfinished), ("skipped", report.skipped)):
        if lines:
            console.print(Text(f"{heading} ({len(lines)})", "bold"))
            console.print(Text("\n".join(f"  {line}" for line in lines)))
    for name, total in report.totals.items():
        console.print(Text(f"{name}: {total}"))


def table(lesson: str, claims: Iterable[Judged]) -> Table:
    style: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": SIMPLE_HEAD}
    rows = Table(title=lesson, collapse_padding=True, pad_edge=False, expand=True, **style)
    rows.add_column("claim", ratio=1, overflow="fold")  # on a narrow terminal only this one folds
    rows.add_column("verdict", no_wrap=True, min_width=9)
    rows.add_column("device", no_wrap=True)
    for heading in ("examples", "rejected", "seconds"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("result", no_wrap=True, min_width=7)
    for claim in claims:
        rejected = f"{claim.rejected}/{len(claim.mistakes)}"
        counts = f"{claim.examples:,}", rejected, f"{claim.seconds:.1f}"
        rows.add_row(
            claim.id,
            Text(claim.verdict, COLOURS[claim.verdict]),
            claim.devices,
            *(counts if claim.right else ("", "", "")),
            Text(claim.outcome, COLOURS[claim.outcome]),
        )
    return rows
