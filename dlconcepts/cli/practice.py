"""The command line of `practice`: write a folder of practice files, check it, show a solution."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dlconcepts.practice.check import Outcome, PracticeError, check
from dlconcepts.practice.sheets import sheet
from dlconcepts.practice.show import show, show_solution
from dlconcepts.practice.techniques import TESTS, Technique, survey
from dlconcepts.testing.results import LESSONS

FOLDER = Path("practice")
POLL = 0.3  # seconds between two looks at the files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `practice` can be told."""
    parser.description = (
        "Write the techniques of the course yourself. Without --check: write a folder with a file "
        "for each lesson, the techniques without their bodies. With --check: run the laws on what "
        "you have written."
    )
    add = parser.add_argument
    add("lesson", nargs="?", choices=LESSONS, metavar="LESSON", help="only this lesson")
    add("--out", type=Path, metavar="FOLDER", help=f"folder to write ({FOLDER})")
    checked = f"judge the functions of a folder ({FOLDER})"
    add("--check", type=Path, nargs="?", const=FOLDER, metavar="FOLDER", help=checked)
    add("--watch", action="store_true", help="with --check: again after each save, until Ctrl-C")
    add("--hint", action="store_true", help="with --check: say more about the first failure")
    wanted = "show the library's own; with --check and without NAME, of the first failure"
    add("--solution", nargs="?", const="", metavar="NAME", help=wanted)
    limit = "with --check: seconds for one example of a law (%(default)g)"
    add("--limit", type=float, default=20.0, metavar="SECONDS", help=limit)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked and return 0 if all is well, 1 if a law fails, 2 for bad input."""
    try:
        techniques = find_techniques(arguments)
        if arguments.solution:
            return show_solution(find(techniques, arguments.solution))
        if arguments.check is None:
            write(arguments.out or FOLDER, techniques)
            return 0
        if arguments.watch:
            return watch(arguments, techniques)
        return look(arguments, techniques)
    except (PracticeError, OSError) as error:
        print(f"dlconcepts practice: {error}", file=sys.stderr)
        return 2


def find_techniques(arguments: argparse.Namespace) -> list[Technique]:
    """Return the techniques that were asked for, once it is known that the arguments fit."""
    if not (TESTS / "claims.toml").is_file():
        raise PracticeError(
            f"there are no laws in {TESTS}, since an installed package does not hold them; clone "
            "the repository and run `pip install -e .` there"
        )
    checking = arguments.check is not None
    if arguments.out is not None and checking:
        raise PracticeError(
            "--out is for writing a folder; with --check, give it as --check FOLDER"
        )
    if not checking and (arguments.watch or arguments.hint or arguments.solution == ""):
        raise PracticeError("--watch, --hint and --solution without a name go with --check")
    if not arguments.limit > 0:
        raise PracticeError(f"--limit is a number of seconds above 0, not {arguments.limit:g}")
    lessons = [arguments.lesson] if arguments.lesson else LESSONS
    return [technique for technique in survey(TESTS)[0] if technique.lesson in lessons]


def find(techniques: Sequence[Technique], name: str) -> Technique:
    """Return the technique of that name."""
    for technique in techniques:
        if technique.name == name:
            return technique
    names = ", ".join(technique.name for technique in techniques)
    raise PracticeError(f"there is no technique {name!r}; choose one of {names}")


def lessons_of(techniques: Sequence[Technique]) -> dict[str, list[Technique]]:
    """Return the techniques of each lesson, in the course's order."""
    lessons: dict[str, list[Technique]] = {}
    for technique in techniques:
        lessons.setdefault(technique.lesson, []).append(technique)
    return lessons


def write(folder: Path, techniques: Sequence[Technique]) -> None:
    """Write the file of each lesson that is not there yet; a file that is there is left alone."""
    lessons = lessons_of(techniques)
    missing = [lesson for lesson in lessons if not (folder / f"{lesson}.py").exists()]
    if not missing:
        there = ", ".join(str(folder / f"{lesson}.py") for lesson in lessons)
        raise PracticeError(
            f"nothing is written over: {there} is there already. Go on with --check {folder}, move "
            "it away, or choose another folder with --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for lesson, own in lessons.items():
        path = folder / f"{lesson}.py"
        if lesson not in missing:
            print(f"left {path} as it is")
            continue
        with path.open("x", encoding="utf-8") as file:
            file.write(sheet(LESSONS.index(lesson) + 1, lesson, own))
        print(f"wrote {path}: {len(own)} techniques")
    print(f"Write what is missing there, and run: python -m dlconcepts practice --check {folder}")


def look(arguments: argparse.Namespace, techniques: Sequence[Technique]) -> int:
    """Judge a folder once, tell the outcome, and return the exit status."""
    folder = find_folder(arguments.check)
    there = [each for each in techniques if (folder / f"{each.lesson}.py").is_file()]
    if not there:
        names = ", ".join(f"{lesson}.py" for lesson in lessons_of(techniques))
        raise PracticeError(
            f"there is no practice file in {arguments.check}: none of {names}; "
            "`python -m dlconcepts practice --out FOLDER` writes them"
        )
    outcomes = check(folder, there, arguments.limit)
    show(outcomes, hint=arguments.hint, solution=arguments.solution == "", folder=arguments.check)
    return status_of(outcomes)


def status_of(outcomes: Sequence[Outcome]) -> int:
    """Return 0 if every technique has passed, else 1."""
    return 0 if all(outcome.state == "passed" for outcome in outcomes) else 1


def find_folder(folder: Path) -> Path:
    """Return where a practice folder is, if it is there."""
    if not folder.is_dir():
        raise PracticeError(
            f"there is no folder {folder}; `python -m dlconcepts practice --out {folder}` writes it"
        )
    return folder.resolve()


def watch(arguments: argparse.Namespace, techniques: Sequence[Technique]) -> int:
    """Judge a folder again whenever a file in it is saved, until Ctrl-C."""
    folder, status = find_folder(arguments.check), 1
    try:
        while True:
            before = saved(folder)
            status = look(arguments, techniques)
            print("Waiting for the next save; Ctrl-C ends.", flush=True)
            while saved(folder) == before:
                time.sleep(POLL)
    except KeyboardInterrupt:
        print()
        return status


def saved(folder: Path) -> dict[Path, int]:
    """Return when each of the learner's files was saved."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.py") if path.is_file()}
