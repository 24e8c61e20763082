"""How many of the classic mistakes `practice` calls by their names, and by no other.

    python benchmarks/recognition.py                    # every lesson: about half an hour
    python benchmarks/recognition.py --lesson tensors
    python benchmarks/recognition.py --json docs/results/recognition.json

Each mistake of each law that judges a technique takes the place of the learner's function, under
the technique's name, and is judged as `practice --check` judges it: the first law that rejects it,
in the course's order, then the search for a name. It may get several names, if no law of the
technique tells these mistakes apart; a name that is not its own is a wrong one only where its own
is not among them.
"""

import argparse
import functools
import importlib
import importlib.util
import inspect
import sys
import time
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from results import write
from rich.console import Console
from rich.table import Table

from dlconcepts.practice.recognise import SECONDS, Judged, examples_of, recognise
from dlconcepts.practice.techniques import TESTS, Technique, survey
from dlconcepts.testing.results import LESSONS

# As in a run of pytest, each example starts from the same random state: conftest registers torch's.
sys.path[:0] = [str(TESTS.parent), str(TESTS)]
importlib.import_module("conftest")


@functools.cache
def laws_in(file: str) -> types.ModuleType:
    """Import a test file."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, TESTS / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def judged_of(technique: Technique) -> list[Judged]:
    """Return the laws of a technique, in order, with the right subject of each."""
    found = []
    for law in technique.laws:
        function = getattr(laws_in(law.file), law.function)
        (mark,) = [mark for mark in function.pytestmark if mark.name == "claim"]
        argument = next(iter(inspect.signature(inspect.unwrap(function)).parameters))
        found.append(Judged(function, argument, mark.kwargs["right"], mark.kwargs.get("wrong", {})))
    return found


def as_learners(mistake: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a copy of a mistake under another name, as a learner would have written it."""
    if not isinstance(mistake, types.FunctionType):
        return mistake
    copy = types.FunctionType(
        mistake.__code__, mistake.__globals__, name, mistake.__defaults__, mistake.__closure__
    )
    copy.__kwdefaults__, copy.__qualname__ = mistake.__kwdefaults__, name
    copy.__module__ = mistake.__module__
    return copy


def row_of(technique: Technique, laws: Sequence[Judged], mistake: Any, law: Judged) -> Any:
    """Return what a mistake is called when a learner has written it in the place of a subject."""
    started = time.perf_counter()
    own = getattr(mistake, "__name__", type(mistake).__name__)
    # Laws of one technique may have subjects of different forms: those of its own law alone.
    alike = [other for other in laws if mistake in other.wrong or other.subject is law.subject]
    subject = as_learners(mistake, technique.name)
    written = [Judged(other.law, other.argument, subject, other.wrong) for other in alike]
    deadline = time.monotonic() + SECONDS
    rejecting = next(
        (j for j in written if any(e.said for e in examples_of(j, deadline, lambda: None))), None
    )
    names: list[str] = []
    if rejecting is not None:
        order = sorted(written, key=lambda other: other is not rejecting)
        names = [name for name, _ in recognise(order, lambda: None)]
    return {
        "lesson": technique.lesson,
        "technique": technique.name,
        "mistake": own,
        "outcome": outcome(own.replace("_", " "), names, rejecting is not None),
        "names": names,
        "seconds": round(time.perf_counter() - started, 1),
    }


def outcome(own: str, names: Sequence[str], rejected: bool) -> str:
    """Return what became of a mistake, as a heading of the table."""
    if not rejected:
        return "not rejected in 25 examples"
    if not names:
        return "no name"
    if own not in names:
        return "wrong name"
    return "its name" if len(names) == 1 else "its name among others"


OUTCOMES = (
    "its name",
    "its name among others",
    "no name",
    "wrong name",
    "not rejected in 25 examples",
)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line a lesson, and each mistake that does not get its name."""
    table = Table("lesson", *OUTCOMES, title="mistakes as a learner's function")
    for lesson in [*dict.fromkeys(row["lesson"] for row in rows), "all"]:
        own = [row["outcome"] for row in rows if lesson in (row["lesson"], "all")]
        table.add_row(lesson, *(str(own.count(kind)) for kind in OUTCOMES))
    Console(width=100).print(table)
    for row in rows:
        if row["outcome"] not in OUTCOMES[:2]:
            print(f"{row['outcome']}: {row['technique']}, {row['mistake']} {row['names'] or ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lesson", action="append", choices=LESSONS)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, started = [], time.perf_counter()
    for technique in survey(TESTS)[0]:
        if technique.lesson in (options.lesson or LESSONS):
            laws = judged_of(technique)
            mistakes = {mistake: law for law in laws for mistake in law.wrong}
            for mistake, law in mistakes.items():
                rows.append(row_of(technique, laws, mistake, law))
                print(*rows[-1].values(), flush=True)
    show(rows)
    if options.json:
        seconds = round(time.perf_counter() - started)
        write(options.json, rows, ("torch", "hypothesis"), seconds=seconds)


if __name__ == "__main__":
    main()
