"""`python -m dlconcepts practice`: write the techniques oneself; the laws judge them."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dlconcepts.practice import check as checking
from dlconcepts.practice import grade as grading
from dlconcepts.practice import show
from dlconcepts.practice.notebook import notebook
from dlconcepts.practice.sheets import reset, sheet
from dlconcepts.practice.techniques import Technique, survey
from dlconcepts.support.atomic import (
    check_report,
    making,
    write_atomically,
    write_json,
    write_report,
)
from dlconcepts.support.errors import UserError, nearest, writing
from dlconcepts.support.signals import Stopped
from dlconcepts.testing.claims import LESSONS
from dlconcepts.testing.run import require_tests

FOLDER = Path("practice")
DAY = 86400  # seconds
POLL = 0.1  # seconds between two looks at the files
WHERE = "`practice --list` has them all"
NAMED = 10  # most failed exercises in the summary of grades


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked and return 0, or 1 if a technique does not pass."""
    check_options(arguments)
    require_tests()
    lesson = arguments.lesson or arguments.only
    techniques = [each for each in survey()[0] if lesson in (None, each.lesson)]
    if arguments.solution:
        show.print_solution(show.console(), named(techniques, arguments.solution))
    elif arguments.reset:
        return reset_one(arguments, named(techniques, arguments.reset))
    elif arguments.list:
        folder = arguments.check or FOLDER
        passed = checking.read_progress(folder)["passed"] if folder.is_dir() else {}
        show.show_list([*known(folder, techniques, passed)])
    elif arguments.grade:
        return grade(arguments, techniques)
    elif arguments.check is None:
        write(arguments.out or FOLDER, techniques, as_notebook=arguments.notebook)
    elif arguments.watch:
        return watch(arguments, techniques)
    else:
        return look(arguments, techniques)[0]
    return 0


def check_options(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that do not belong together."""
    checking = arguments.check is not None
    if arguments.out is not None and checking:
        raise UserError("--out names the folder to write; with --check, use --check FOLDER")
    if not checking and (arguments.watch or arguments.hint or arguments.solution == ""):
        raise UserError("--watch, --hint and --solution without a name need --check")
    if arguments.csv and not arguments.grade:
        raise UserError("--csv needs --grade")
    if arguments.json and not (arguments.grade or checking):
        raise UserError("--json needs --check or --grade")
    check_report(arguments.csv, "--csv")
    check_report(arguments.json, "--json")
    if not 0 < arguments.limit <= DAY:
        raise UserError(
            f"--limit must be more than 0 seconds and at most {DAY}, not {arguments.limit:g}"
        )


def named(techniques: Sequence[Technique], name: str) -> Technique:
    """Return the technique of a name; raise UserError, with the nearest name, if there is none."""
    found = {technique.name: technique for technique in techniques}
    if name not in found:
        raise UserError(f"no technique is named {name}{nearest(name, found, WHERE)}")
    return found[name]


def files_of(folder: Path, techniques: Sequence[Technique], ending: str) -> dict[str, Path]:
    """Return the practice file of each lesson, in course order."""
    return {each.lesson: folder / f"{each.lesson}{ending}" for each in techniques}


def write(folder: Path, techniques: Sequence[Technique], *, as_notebook: bool) -> None:
    """Write the practice files that do not exist yet, and leave the others alone."""
    files = files_of(folder, techniques, ".ipynb" if as_notebook else ".py")
    if all(path.exists() for path in files.values()):
        raise UserError(
            f"{', '.join(map(str, files.values()))} already there; run with --check {folder}, or "
            "choose another folder with --out"
        )
    write_one = notebook if as_notebook else sheet
    for lesson, path in files.items():
        if path.exists():
            print(f"left {path} as it is")
            continue
        own = [technique for technique in techniques if technique.lesson == lesson]
        with making(folder), writing(folder):
            write_atomically(path, write_one(LESSONS.index(lesson) + 1, lesson, own).encode())
        print(f"wrote {path}: {len(own)} techniques")
    if not as_notebook:
        print(f"Write the missing bodies, then run: {show.COMMAND} --check {folder}")


def known(
    folder: Path, techniques: Sequence[Technique], passed: dict[str, str]
) -> Sequence[checking.Outcome]:
    """Return what is known of all techniques without running them."""
    found = {each.technique.name: each for each in checking.look(folder, techniques, passed)[0]}
    return [
        found.get(each.name, checking.Outcome(each, folder, "unwritten")) for each in techniques
    ]


def look(
    arguments: argparse.Namespace,
    techniques: Sequence[Technique],
    before: dict[str, str] | None = None,
) -> tuple[int, dict[str, str]]:
    """Check a folder once, print the verdicts, and return the exit status and the texts.

    `before` has the texts when the folder was last looked at, if it is watched.
    """
    folder, verdicts = arguments.check, Verdicts(arguments)
    outcomes: list[checking.Outcome] = []
    if folder.is_dir():
        with verdicts.out.status("") as status:
            outcomes = checking.check(
                folder.resolve(),
                techniques,
                arguments.limit,
                before=before,
                told=verdicts.tell,
                running=lambda name, law: status.update(f"{name}: {law}"),
            )
    if not outcomes:
        raise UserError(
            f"there is no practice file in {folder}; "
            f"write some with `{show.COMMAND} --out {folder}`"
        )
    write_json(arguments.json, grading.as_record([grading.Grade(str(folder), outcomes)]))
    texts = {outcome.technique.name: outcome.text for outcome in outcomes}
    return verdicts.end(outcomes), texts


class Verdicts:
    """Prints each verdict as soon as it is there; of those that do not pass, the first whole."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.out = arguments, show.console()
        self.failed: list[checking.Outcome] = []
        self.hints = 0

    def tell(self, outcome: checking.Outcome) -> None:
        """Print a verdict."""
        show.show_passed(self.out, outcome)
        if outcome.state in checking.FAILED:
            if not self.failed:
                self.show(outcome)
            self.failed.append(outcome)

    def show(self, outcome: checking.Outcome) -> None:
        """Print all that is known of a technique, with hints or the solution if asked for."""
        if self.arguments.hint:
            self.hints = next_hint(self.arguments.check, outcome)
        show.show_outcome(self.out, outcome, hints=self.hints)
        self.out.print()
        if self.arguments.solution == "":
            show.print_solution(self.out, outcome.technique)

    def end(self, outcomes: Sequence[checking.Outcome]) -> int:
        """Print the progress and how to go on, and return the exit status."""
        show.print_progress(self.out, outcomes)
        left = self.failed or [outcome for outcome in outcomes if outcome.state == "unwritten"]
        if not left:
            self.out.print("[bold green]All techniques here pass.[/]")
            return 0
        if self.failed[1:]:
            names = ", ".join(outcome.technique.name for outcome in self.failed[1:])
            self.out.print(f"Nor does this pass yet: {names}")
        elif not self.failed:
            self.out.print()
            self.show(left[0])
        if left[0].state != "broken" and self.hints < show.HINTS:
            another = "another" if self.hints else "a"
            command = f"{show.COMMAND} --check {self.arguments.check} --hint"
            self.out.print(f"[dim]For {another} hint: {command}[/dim]")
        return 1


def next_hint(folder: Path, outcome: checking.Outcome) -> int:
    """Return how many hints about a technique are shown now, and remember it."""
    given, name = checking.read_progress(folder)["hints"], outcome.technique.name
    hints = min(int(given.get(name, 0)) + 1, show.HINTS)
    checking.write_progress(folder, hints=given | {name: hints})
    return hints


def watch(arguments: argparse.Namespace, techniques: Sequence[Technique]) -> int:
    """Check a folder again whenever one of its files is saved, until Ctrl-C."""
    status, texts = 1, dict[str, str]()
    try:
        while True:
            before = saved(arguments.check)
            try:
                status, texts = look(arguments, techniques, texts)
            except UserError as error:  # an editor may have put a file aside for a moment
                print(f"{error}", file=sys.stderr)
            print("Waiting for the next save; Ctrl-C ends.", flush=True)
            while saved(arguments.check) == before:
                time.sleep(POLL)
    except (KeyboardInterrupt, Stopped) as error:
        if getattr(error, "number", signal.SIGINT) != signal.SIGINT:
            raise
        print()
        return status


def reset_one(arguments: argparse.Namespace, technique: Technique) -> int:
    """Put the empty exercise back into the learner's file, after a question."""
    folder = arguments.check or FOLDER
    files, _ = checking.read_files(folder)
    file = next((file for file in files if technique.name in file.names), None)
    if file is None:
        raise UserError(f"no file in {folder} has {technique.name}, or Python cannot parse it")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise UserError(f"--reset deletes your {technique.name}: confirm it with --yes")
        answer = input(f"Delete your {technique.name} in {file.path}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print("left as it is")
            return 1
    with writing(folder):
        write_atomically(
            file.path, reset(file.path.read_text(encoding="utf-8"), technique).encode()
        )
    print(f"{technique.name} in {file.path} is empty again")
    return 0


def grade(arguments: argparse.Namespace, techniques: Sequence[Technique]) -> int:
    """Judge the folders of many learners, and print and write a table."""
    if not arguments.grade.is_dir():
        raise UserError(f"{arguments.grade} is no folder; give one that has a folder a learner")
    out = show.console()

    def told(each: grading.Grade) -> None:
        show.print_bar(out, each.learner, each.passed, len(each.outcomes))

    grades = grading.grade(arguments.grade, techniques, arguments.limit, told)
    for failed in grading.most_failed(grades)[:NAMED]:
        mistake = next(iter(failed["mistakes"]))
        print(f"{failed['exercise']}: failed by {failed['failed']}, most often: {mistake}")
    if arguments.csv:
        write_report(arguments.csv, grading.as_csv(grades), "--csv")
    write_json(arguments.json, grading.as_record(grades))
    return 0


def saved(folder: Path) -> dict[Path, int]:
    """Return when each of the learner's files was saved."""
    found = {}
    for path in folder.glob("*.py"):
        with suppress(FileNotFoundError):  # an editor is replacing it
            found[path] = path.stat().st_mtime_ns
    return found
