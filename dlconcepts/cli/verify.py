"""`python -m dlconcepts verify`: run the laws, print the verdict on each claim, write a report."""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from dlconcepts.testing.results import Judged, Report
from dlconcepts.testing.run import verify

WIDEST = 120  # columns; a longer row is hard to follow
COLOURS = {
    **{"holds": "green", "holds-if": "yellow", "corrected": "magenta", "opinion": "blue"},
    **{"ok": "green", "FAILED": "bold red", "skipped": "yellow"},
}


def run(arguments: argparse.Namespace) -> int:
    """Run the laws; return 0 if all is well, 1 if anything failed."""
    with progress_of_tests() as progress:
        report, status = verify(
            arguments.device or ["cpu"],
            arguments.lesson or [],
            profile=arguments.profile,
            jobs=arguments.jobs,
            out=arguments.out,
            progress=progress,
        )
    show(report)
    print(f"wrote {arguments.out / 'results.xml'}\nwrote {arguments.out / 'report.html'}")
    return 1 if status or report.failed else 0


@contextmanager
def progress_of_tests() -> Iterator[Callable[[int], None]]:
    """Yield a function that shows a percentage: as a bar, or in a file as a line every 10 %."""
    shown = 0
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("running the laws", total=100)

        def advance(percent: int) -> None:
            nonlocal shown
            bar.update(task, completed=percent)
            if bar.disable and percent >= shown + 10:
                shown = percent
                print(f"{percent} % of the tests have run", flush=True)

        yield advance


def show(report: Report) -> None:
    """Print a table for each lesson, then failures, skips and totals."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDEST
    console = Console(width=min(columns, WIDEST), highlight=False)
    for lesson, claims in report.lessons.items():
        console.print(table(lesson, claims))
    for item in report.failed:
        console.print(Text(f"FAILED {item.function} {item.parameters}", "bold red"))
        console.print(Text(item.details or item.message))
    if report.skipped:
        console.print(Text(f"skipped ({len(report.skipped)})", "bold"))
        console.print(Text("\n".join(f"  {line}" for line in report.skipped)))
    for name, total in report.totals.items():
        console.print(Text(f"{name}: {total}"))


def table(lesson: str, claims: Iterable[Judged]) -> Table:
    rows = Table(
        title=lesson,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        expand=True,
    )
    rows.add_column("claim", ratio=1, overflow="fold")  # on a narrow terminal only this one folds
    rows.add_column("verdict", no_wrap=True, min_width=9)
    rows.add_column("device", no_wrap=True)
    for heading in ("examples", "rejected", "seconds"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("result", no_wrap=True, min_width=7)
    for claim in claims:
        ran = bool(claim.right)
        rows.add_row(
            claim.id,
            Text(claim.verdict, COLOURS[claim.verdict]),
            claim.devices,
            f"{claim.examples:,}" if ran else "",
            f"{claim.rejected}/{len(claim.mistakes)}" if ran else "",
            f"{claim.seconds:.1f}" if ran else "",
            Text(claim.outcome, COLOURS[claim.outcome]),
        )
    return rows
