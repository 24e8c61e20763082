"""What `practice` prints: progress, the first failure, hints and solutions."""

import ast
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from dlconcepts.practice.check import Outcome
from dlconcepts.practice.techniques import Law, Technique

BAR = 20  # characters
LINES = 24  # of one value
HEADING = 15  # characters
COMMAND = "python -m dlconcepts practice"
STATES = {"broken": 0, "failed": 0, "unwritten": 1}  # what a learner should look at first


def console() -> Console:
    """Return what prints: as wide as the terminal, at most 100."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    return Console(width=min(columns, 100), highlight=False)


def show(outcomes: Sequence[Outcome], *, hint: bool, solution: bool, folder: Path) -> None:
    """Print the progress, what has newly passed, and the first technique that does not pass."""
    out = console()
    print_progress(out, outcomes)
    for outcome in outcomes:
        name = outcome.technique.name
        if outcome.new:
            out.print(Text(f"{name} passes. Compare: {COMMAND} --solution {name}"))
        for reason in outcome.skipped:
            out.print(Text(f"{name}: a law was skipped: {reason}", "yellow"))
    failing = [outcome for outcome in outcomes if outcome.state in STATES]
    if not failing:
        out.print(Text("All techniques here pass.", "bold green"))
        return
    first = min(failing, key=lambda outcome: STATES[outcome.state])
    technique = first.technique
    law = next((law for law in technique.laws if law.name == first.law), technique.laws[0])
    out.print()
    print_outcome(out, first, law)
    if hint:
        out.print(Text("\nHint", "bold"))
        print_rows(out, hints(technique, law))
    if solution:
        out.print()
        print_solution(out, technique)
    elif not hint and first.state != "broken":
        out.print(Text(f"\nFor a hint: {COMMAND} --check {folder} --hint", "dim"))


def print_progress(out: Console, outcomes: Sequence[Outcome]) -> None:
    """Print a bar for each lesson, and how many of its techniques have passed."""
    for lesson in dict.fromkeys(outcome.technique.lesson for outcome in outcomes):
        own = [outcome.state for outcome in outcomes if outcome.technique.lesson == lesson]
        passed = own.count("passed")
        full = BAR * passed // len(own)
        bar = (("━" * full, "green"), ("─" * (BAR - full), "dim"))
        out.print(Text.assemble(f"{lesson:<12} ", *bar, f"  {passed} of {len(own)}"))


def print_outcome(out: Console, outcome: Outcome, law: Law) -> None:
    """Print what is known of a technique that does not pass."""
    technique, file = outcome.technique, f"{outcome.technique.lesson}.py"
    if outcome.state == "unwritten":
        out.print(Text(f"Next: write {technique.name} in {file}", "bold"))
    elif outcome.state == "broken":
        out.print(Text(f"Python cannot run {file}", "bold red"))
    else:
        out.print(Text(f"{technique.name} breaks a law", "bold red"))
    if outcome.state != "broken":
        out.print(Text.assemble("  ", (law.claim.id, "cyan"), f" ({law.claim.verdict})"))
        for text in (law.claim.truth or law.claim.notes, f"{law.title}: {law.sentence}"):
            out.print(Text(textwrap.indent(textwrap.fill(text, out.width - 2), "  ")))
    if outcome.rows:
        out.print()
        print_rows(out, outcome.rows)


def print_rows(out: Console, rows: Iterable[Sequence[str]]) -> None:
    """Print texts beside their headings, over as many lines as they need."""
    for heading, text in rows:
        wrapped = [textwrap.wrap(line, out.width - HEADING - 3) for line in text.splitlines()]
        lines = [part for parts in wrapped for part in parts or [""]]
        lines = lines if len(lines) <= LINES else [*lines[:LINES], "..."]
        for i, line in enumerate(lines):
            out.print(Text.assemble((f"  {'' if i else heading:<{HEADING}}", "bold"), line))


def hints(technique: Technique, law: Law) -> Iterable[tuple[str, str]]:
    """Yield the claim, the law, its mistakes, and where to read about the technique."""
    yield "the claim", law.claim.truth or law.claim.notes
    yield "the law", law.sentence
    for sentence in law.mistakes.values():
        yield "a mistake", sentence
    documentation = ast.get_docstring(technique.node) or ""
    source = re.search(r"^Source: (.*?)(?=\n\s*\n|\Z)", documentation, re.MULTILINE | re.DOTALL)
    if source:
        yield "read", " ".join(source[1].split())
    yield "the answer", f"{COMMAND} --solution {technique.name}"


def print_solution(out: Console, technique: Technique) -> None:
    """Print the library's own source of a technique."""
    out.print(Text(f"{technique.module}.{technique.name}", "bold"))
    if out.is_terminal:
        out.print(Syntax(technique.solution, "python", background_color="default"))
    else:
        print(technique.solution, end="")
