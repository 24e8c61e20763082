"""`python -m dlconcepts practice`: write a folder of practice files, check it, show a solution."""

import argparse
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from dlconcepts.practice.check import check
from dlconcepts.practice.sheets import sheet
from dlconcepts.practice.show import console, print_solution, show
from dlconcepts.practice.techniques import Technique, survey
from dlconcepts.support.atomic import write_atomically
from dlconcepts.support.errors import UserError, writing
from dlconcepts.support.signals import Stopped
from dlconcepts.testing.claims import LESSONS
from dlconcepts.testing.run import require_tests

FOLDER = Path("practice")
DAY = 86400  # seconds
POLL = 0.3  # seconds between two looks at the files


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked and return 0, or 1 if a technique does not pass."""
    checking = arguments.check is not None
    if arguments.out is not None and checking:
        raise UserError("--out names the folder to write; with --check, use --check FOLDER")
    if not checking and (arguments.watch or arguments.hint or arguments.solution == ""):
        raise UserError("--watch, --hint and --solution without a name need --check")
    if not 0 < arguments.limit <= DAY:
        raise UserError(
            f"--limit must be more than 0 seconds and at most {DAY}, not {arguments.limit:g}"
        )
    require_tests()
    techniques, _ = survey()
    own = [each for each in techniques if arguments.lesson in (None, each.lesson)]
    named = {technique.name: technique for technique in own}
    if arguments.solution:
        if arguments.solution not in named:
            names = ", ".join(named)
            raise UserError(f"no technique is named {arguments.solution}; choose one of {names}")
        print_solution(console(), named[arguments.solution])
    elif not checking:
        write(arguments.out or FOLDER, own)
    else:
        return watch(arguments, own) if arguments.watch else look(arguments, own)
    return 0


def files_of(folder: Path, techniques: Sequence[Technique]) -> dict[str, Path]:
    """Return the practice file of each lesson, in course order."""
    return {each.lesson: folder / f"{each.lesson}.py" for each in techniques}


def write(folder: Path, techniques: Sequence[Technique]) -> None:
    """Write the practice files that do not exist yet, and leave the others alone."""
    files = files_of(folder, techniques)
    if all(path.exists() for path in files.values()):
        raise UserError(
            f"{', '.join(map(str, files.values()))} already there; run with --check {folder}, or "
            "choose another folder with --out"
        )
    for lesson, path in files.items():
        if path.exists():
            print(f"left {path} as it is")
            continue
        own = [technique for technique in techniques if technique.lesson == lesson]
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, sheet(LESSONS.index(lesson) + 1, lesson, own).encode())
        print(f"wrote {path}: {len(own)} techniques")
    print(f"Write the missing bodies, then run: python -m dlconcepts practice --check {folder}")


def look(arguments: argparse.Namespace, techniques: Sequence[Technique]) -> int:
    """Check a folder once, print the outcome, and return the exit status."""
    folder = arguments.check
    files = files_of(folder, techniques)
    there = [technique for technique in techniques if files[technique.lesson].is_file()]
    if not there:
        raise UserError(
            f"there is no practice file in {folder}; "
            f"write some with `python -m dlconcepts practice --out {folder}`"
        )
    outcomes = check(folder.resolve(), there, arguments.limit)
    show(outcomes, hint=arguments.hint, solution=arguments.solution == "", folder=folder)
    return 0 if all(outcome.state == "passed" for outcome in outcomes) else 1


def watch(arguments: argparse.Namespace, techniques: Sequence[Technique]) -> int:
    """Check a folder again whenever one of its files is saved, until Ctrl-C."""
    status = 1
    try:
        while True:
            before = saved(arguments.check)
            status = look(arguments, techniques)
            print("Waiting for the next save; Ctrl-C ends.", flush=True)
            while saved(arguments.check) == before:
                time.sleep(POLL)
    except (KeyboardInterrupt, Stopped) as error:
        if getattr(error, "number", signal.SIGINT) != signal.SIGINT:
            raise
        print()
        return status


def saved(folder: Path) -> dict[Path, int]:
    """Return when each of the learner's files was saved."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.py") if path.is_file()}
