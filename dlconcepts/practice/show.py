"""What `practice` prints: progress, the first failure, hints and solutions."""

import ast
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from dlconcepts.practice.check import Outcome
from dlconcepts.practice.question import Rows
from dlconcepts.practice.techniques import Law, Technique
from dlconcepts.testing.claims import LESSONS

BAR = 20  # characters
LINES = 24  # of one value
HEADING = 15  # characters
HINTS = 5
COMMAND = "python -m dlconcepts practice"


def console() -> Console:
    """Return what prints: as wide as the terminal, at most 100."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    # In a notebook, one text; rich would show each line as a cell of its own.
    return Console(width=min(columns, 100), highlight=False, force_jupyter=False)


def show_passed(out: Console, outcome: Outcome) -> None:
    """Print that a technique has newly passed, and which of its laws could not run."""
    name = outcome.technique.name
    if outcome.new:
        out.print(Text(f"{name} passes. Compare: {COMMAND} --solution {name}"))
    for reason in outcome.skipped:
        out.print(Text(f"{name}: a law was skipped: {reason}", "yellow"))


def show_outcome(out: Console, outcome: Outcome, *, hints: int) -> None:
    """Print what is known of a technique, and so many hints."""
    technique = outcome.technique
    if outcome.state == "passed":
        out.print(Text(f"{technique.name} passes.", "bold green"))
        return
    law = next((law for law in technique.laws if law.name == outcome.law), technique.laws[0])
    print_outcome(out, outcome, law)
    for number, rows in enumerate(list(hints_about(technique, law))[:hints], 1):
        out.print(Text(f"\nHint {number} of {HINTS}", "bold"))
        print_rows(out, rows)


def show_list(outcomes: Sequence[Outcome]) -> None:
    """Print all exercises with their claims, and what is known of each."""
    out, lesson = console(), ""
    for outcome in outcomes:
        technique = outcome.technique
        if technique.lesson != lesson:
            lesson = technique.lesson
            out.print(Text(f"{LESSONS.index(lesson) + 1}. {lesson}", "bold"))
        title = technique.laws[0].claim.title
        sign = {"passed": "✓", "unwritten": " "}.get(outcome.state, "…")
        out.print(Text(f"  {sign} {technique.name:<22} {title}"), overflow="ellipsis", no_wrap=True)


def print_progress(out: Console, outcomes: Sequence[Outcome]) -> None:
    """Print a bar for each lesson, and how many of its techniques have passed."""
    for lesson in dict.fromkeys(outcome.technique.lesson for outcome in outcomes):
        own = [outcome.state for outcome in outcomes if outcome.technique.lesson == lesson]
        print_bar(out, lesson, own.count("passed"), len(own))


def print_bar(out: Console, name: str, passed: int, total: int) -> None:
    """Print a name, a bar, and how many of some techniques have passed."""
    full = BAR * passed // total
    bar = (("━" * full, "green"), ("─" * (BAR - full), "dim"))
    out.print(Text.assemble(f"{name:<12} ", *bar, f"  {passed} of {total}"))


def print_outcome(out: Console, outcome: Outcome, law: Law) -> None:
    """Print what is known of a technique that does not pass."""
    technique, file = outcome.technique, outcome.path.name
    if outcome.state == "unwritten":
        out.print(Text(f"Next: write {technique.name} in {file}", "bold"))
    elif outcome.state == "broken":
        out.print(Text(f"Python cannot run {file}", "bold red"))
    elif outcome.state == "unfinished":
        out.print(Text(f"{technique.name} did not finish", "bold yellow"))
    else:
        out.print(Text(f"{technique.name} breaks a law", "bold red"))
    if outcome.state != "broken":
        out.print(Text.assemble("  ", (law.claim.id, "cyan"), f" ({law.claim.verdict})"))
        for text in (law.claim.truth or law.claim.notes, f"{law.title}: {law.sentence}"):
            out.print(Text(textwrap.indent(textwrap.fill(text, out.width - 2), "  ")))
    if outcome.state == "unwritten":
        out.print(Text("\n" + textwrap.indent(law.claim.demonstration, "  ")))
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


def hints_about(technique: Technique, law: Law) -> Iterable[Rows]:
    """Yield hints, each says more: the law, where to read, its mistakes, the parts, the answer."""
    yield [("the claim", law.claim.truth or law.claim.notes), ("the law", law.sentence)]
    documentation = ast.get_docstring(technique.node) or ""
    source = re.search(r"^Source: (.*?)(?=\n\s*\n|\Z)", documentation, re.MULTILINE | re.DOTALL)
    examples = documentation.partition(">>>")
    read = " ".join(source[1].split()) if source else f"the docstring of {technique.name}"
    yield [("read", read), ("an example", examples[1] + examples[2].partition("\n\n")[0])]
    yield [("a mistake", sentence) for sentence in law.mistakes.values()]
    calls = [node.func for node in ast.walk(technique.node) if isinstance(node, ast.Call)]
    yield [("the answer calls", ", ".join(dict.fromkeys(map(ast.unparse, calls))) or "nothing")]
    yield [("the answer", f"{COMMAND} --solution {technique.name}")]


def print_solution(out: Console, technique: Technique) -> None:
    """Print the library's own source of a technique."""
    out.print(Text(f"{technique.module}.{technique.name}", "bold"))
    if out.is_terminal:
        out.print(Syntax(technique.solution, "python", background_color="default"))
    else:
        print(technique.solution, end="")
