"""What `practice` prints: how far a learner has come, the first failure, hints and solutions."""

import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from dlconcepts.practice.check import Outcome
from dlconcepts.practice.sheets import is_text
from dlconcepts.practice.techniques import TESTS, Law, Technique, definitions, ledger, parsed

BAR = 20  # characters
LINES = 24  # of one value
INDENT: Any = {"initial_indent": "  ", "subsequent_indent": "  "}
CHECK = "python -m dlconcepts practice"


def console() -> Console:
    """Return what prints: as wide as the terminal, at most 100."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    return Console(width=min(columns, 100), highlight=False)


def show(outcomes: Sequence[Outcome], *, hint: bool, solution: bool, folder: Path) -> None:
    """Print the progress, what has newly passed, and the first technique that does not pass."""
    out = console()
    out.print(progress(outcomes))
    for outcome in outcomes:
        name = outcome.technique.name
        if outcome.new:
            out.print(Text(f"{name} passes. Compare: {CHECK} --solution {name}"))
        for reason in outcome.skipped:
            out.print(Text(f"{name}: a law was skipped: {reason}", "yellow"))
    first = first_of(outcomes)
    if first is None:
        out.print(Text("All that is here passes.", "bold green"))
        return
    out.print()
    tell(out, first)
    if hint:
        out.print()
        tell_hint(out, first)
    if solution:
        out.print()
        tell_solution(out, first.technique)
    elif not hint and first.state in ("failed", "unwritten"):
        more = f"For a hint: {CHECK} --check {folder} --hint"
        out.print(Text(f"\n{more}", "dim"))


def first_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return what a learner should look at: a failure of what is written, else what is next."""
    for states in (("broken", "failed"), ("missing", "unwritten")):
        for outcome in outcomes:
            if outcome.state in states:
                return outcome
    return None


def progress(outcomes: Sequence[Outcome]) -> Text:
    """Return a line for each lesson: a bar, and how many of its techniques have passed."""
    lessons: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        lessons.setdefault(outcome.technique.lesson, []).append(outcome)
    text = Text()
    for lesson, own in lessons.items():
        passed = sum(outcome.state == "passed" for outcome in own)
        full = BAR * passed // len(own)
        text.append(f"{lesson:<12} ")
        text.append("━" * full, "green")
        text.append("─" * (BAR - full), "dim")
        text.append(f"  {passed} of {len(own)}\n")
    text.rstrip()
    return text


def tell(out: Console, outcome: Outcome) -> None:
    """Print what is the matter with one technique."""
    technique, failure = outcome.technique, outcome.failure
    if outcome.state == "missing":
        text = f"{technique.lesson}.py has no {technique.name} any more: write it, or get the file"
        out.print(Text(f"{text} anew by moving it away and running {CHECK}."))
    elif outcome.state == "unwritten":
        out.print(Text(f"Next: write {technique.name} in {technique.lesson}.py", "bold"))
        tell_claim(out, technique.laws[0])
    elif outcome.state == "broken":
        out.print(Text(f"{technique.lesson}.py cannot be read", "bold red"))
        tell_error(out, failure)
    else:
        tell_failure(out, technique, failure)


def tell_failure(out: Console, technique: Technique, failure: Mapping[str, Any]) -> None:
    """Print a law that failed: its claim, what was called, what came back, what was expected."""
    law = next(law for law in technique.laws if law.function == failure["law"])
    out.print(Text(f"{technique.name} breaks a law", "bold red"))
    tell_claim(out, law)
    out.print()
    if failure["kind"] == "law":
        rows = [("called", failure.get("called")), ("came back", failure.get("came_back"))]
        tell_rows(out, [*rows, ("the law", failure["said"]), ("", failure["details"])])
    elif failure["kind"] == "unwritten":
        out.print(Text(f"  A part of {technique.name} is not written yet."))
        tell_error(out, failure)
    else:
        if failure["kind"] == "flaky":
            out.print(Text("  Called twice with the same, it does not do the same."))
        tell_rows(out, [("called", failure.get("called"))])
        tell_error(out, failure)
    tell_rows(
        out,
        [("smallest input", failure.get("counterexample")), ("printed", failure.get("printed"))],
    )
    tell_mistakes(out, failure.get("mistakes", []))


def tell_claim(out: Console, law: Law) -> None:
    """Print a law's claim with its verdict, and the law as a sentence."""
    claim = ledger(TESTS)[law.claim]
    title = law.function.removeprefix("test_").replace("_", " ")
    out.print(Text.assemble("  ", (law.claim, "cyan"), f" ({claim['verdict']})"))
    for text in (claim.get("truth") or claim["notes"], f"{title.capitalize()}: {sentence(law)}"):
        out.print(Text("\n".join(textwrap.wrap(text, out.width - 2, **INDENT))))


def sentence(law: Law) -> str:
    """Return the docstring of a law."""
    tree = parsed((TESTS / law.file).read_text(encoding="utf-8"))
    body = definitions(tree)[law.function].body
    text = getattr(getattr(body[0], "value", None), "value", "") if is_text(body[0]) else ""
    return " ".join(text.split())


def tell_rows(out: Console, rows: Iterable[tuple[str, str | None]]) -> None:
    """Print values under their headings."""
    for heading, value in rows:
        if value:
            lines = [part for line in value.rstrip("\n").splitlines() for part in folded(line, out)]
            lines = lines if len(lines) <= LINES else [*lines[:LINES], "..."]
            for i, line in enumerate(lines):
                out.print(Text.assemble((f"  {'' if i else heading:<15}", "bold"), line))


def folded(line: str, out: Console) -> list[str]:
    """Return a line cut into as many as its place beside a heading asks for."""
    return textwrap.wrap(line, out.width - 17, drop_whitespace=False) or [""]


def tell_error(out: Console, failure: Mapping[str, Any]) -> None:
    """Print an error with the line of the learner's file that it comes from."""
    out.print(Text(f"  {failure['said']}", "red"))
    where = failure.get("where")
    if where:
        function = f", in {where['function']}" if where["function"].isidentifier() else ""
        out.print(Text(f"  {where['file']}, line {where['line']}{function}"))
        out.print(Text(f"      {where['text'].strip()}"))


def tell_mistakes(out: Console, mistakes: Sequence[Sequence[str]]) -> None:
    """Print the names of the classic mistakes that a function behaves as."""
    if mistakes:
        names = " or ".join(f"'{name}'" for name, _ in mistakes)
        out.print(Text(f"\n  This is {names}.", "bold yellow"))
        for _, text in mistakes:
            out.print(Text(f"  {text}"))


def tell_hint(out: Console, outcome: Outcome) -> None:
    """Print what the ledger and the technique's documentation say about the law that failed."""
    technique = outcome.technique
    named = [law for law in technique.laws if law.function == outcome.failure.get("law")]
    claim = ledger(TESTS)[(named or list(technique.laws))[0].claim]
    source = re.search(r"^Source: .*?(?=\n\s*\n|\Z)", documentation(technique), re.M | re.S)
    out.print(Text("Hint", "bold"))
    tell_wrapped(out, "the law", claim["law"])
    for mistake in claim["wrong"]:
        tell_wrapped(out, "a mistake", mistake)
    if source:
        tell_wrapped(out, "read", " ".join(source[0].removeprefix("Source: ").split()))
    tell_wrapped(out, "the answer", f"{CHECK} --solution {technique.name}")


def documentation(technique: Technique) -> str:
    """Return a technique's docstring."""
    first = technique.node.body[0]
    return inspect.cleandoc(getattr(getattr(first, "value", None), "value", ""))


def tell_wrapped(out: Console, heading: str, text: str) -> None:
    """Print a sentence beside its heading, over as many lines as it takes."""
    tell_rows(out, [(heading, "\n".join(textwrap.wrap(text, out.width - 18)))])


def show_solution(technique: Technique) -> int:
    """Print the library's own source of a technique and return the exit status 0."""
    tell_solution(console(), technique)
    return 0


def tell_solution(out: Console, technique: Technique) -> None:
    """Print the library's own source of a technique."""
    out.print(Text(f"{technique.module}.{technique.name}", "bold"))
    if out.is_terminal:
        out.print(Syntax(technique.solution, "python", background_color="default"))
    else:
        print(technique.solution, end="")
