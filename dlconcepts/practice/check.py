"""The checking of a practice folder: which laws hold, remembered until the learner's code changes.

The laws run in a pytest of their own (`dlconcepts.practice.plugin`), so that an endless loop or a
crash of the learner's code ends that process and not this one.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlconcepts.practice.sheets import fingerprint, written
from dlconcepts.practice.techniques import TESTS, Technique
from dlconcepts.support.atomic import write_atomically

PROGRESS = "progress.json"
EVENTS, STUCK = "events.jsonl", "stuck.txt"
FRAME = re.compile(r'File "(.*)", line (\d+) in (\S+)')


class PracticeError(Exception):
    """Something that the person at the command line can put right."""


@dataclass
class Outcome:
    """What is known of a technique: its state, and what failed, if something did.

    The state is "passed", "failed", "unwritten", "missing" (the file no longer defines it),
    "broken" (its file cannot be read) or "waiting".
    """

    technique: Technique
    state: str = "waiting"
    failure: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    new: bool = False

    @property
    def laws(self) -> int:
        """How many laws judge the technique."""
        return len(self.technique.laws)


def check(folder: Path, techniques: Sequence[Technique], limit: float) -> list[Outcome]:
    """Judge a folder's techniques, in the course's order, and remember those that passed."""
    progress = read_progress(folder / PROGRESS)
    outcomes = [Outcome(technique) for technique in techniques]
    prints: dict[str, str] = {}
    for outcome in outcomes:
        look_at(outcome, folder, prints, progress)
    while waiting := [outcome for outcome in outcomes if outcome.state == "waiting"]:
        lent = ("unwritten", "missing", "broken")  # the library's take their place
        names = [outcome.technique.name for outcome in outcomes if outcome.state not in lent]
        judge(folder, waiting, names, limit)
        for outcome in waiting:
            if outcome.state == "passed" and not outcome.skipped:
                progress[outcome.technique.name] = prints[outcome.technique.name]
        write_progress(folder / PROGRESS, progress)
    return outcomes


def look_at(
    outcome: Outcome, folder: Path, prints: dict[str, str], progress: dict[str, str]
) -> None:
    """Find out what can be said of a technique without running it."""
    technique, path = outcome.technique, folder / f"{outcome.technique.lesson}.py"
    try:
        is_written = written(path, [technique]).get(technique.name)
        prints[technique.name] = fingerprint(path.read_text(encoding="utf-8"), technique)
    except SyntaxError as error:
        place = {"file": path.name, "line": error.lineno, "function": "", "text": error.text or ""}
        said = f"{type(error).__name__}: {error.msg}"
        outcome.state, outcome.failure = "broken", {"said": said, "where": place}
    except (UnicodeDecodeError, ValueError) as error:
        raise PracticeError(f"{path} is no Python file in UTF-8: {error}") from error
    else:
        if is_written is None:
            outcome.state = "missing"
        elif not is_written:
            outcome.state = "unwritten"
        elif progress.get(technique.name) == prints[technique.name]:
            outcome.state = "passed"


def judge(folder: Path, waiting: Sequence[Outcome], written: Sequence[str], limit: float) -> None:
    """Run the laws of the techniques that wait, until none is left or the process ends early."""
    with tempfile.TemporaryDirectory() as name:
        notes = Path(name)
        options = [f"--practice={folder}", f"--practice-notes={notes}", f"--practice-limit={limit}"]
        options += [f"--practice-only={','.join(each.technique.name for each in waiting)}"]
        options += [f"--practice-written={','.join(written)}"]
        last_lines = run_pytest([each.technique for each in waiting], options, notes)
        told = list(events(notes / EVENTS))
        stuck = (notes / STUCK).read_text(encoding="utf-8", errors="replace") if told else ""
    if not told:
        raise PracticeError(f"pytest did not start, its last lines are:\n{last_lines}")
    for event in told:
        note(event, waiting)
    passed = Counter(event.get("technique") for event in told if event["event"] in ("pass", "skip"))
    for outcome in waiting:
        if outcome.state == "waiting" and passed[outcome.technique.name] == outcome.laws:
            outcome.state, outcome.new = "passed", True
    if told[-1]["event"] in ("start", "load"):
        end_early(folder, told[-1], waiting, stuck, limit)
    elif any(outcome.state == "waiting" for outcome in waiting):
        raise PracticeError(f"pytest did not run every law, its last lines are:\n{last_lines}")


def note(event: dict[str, Any], waiting: Sequence[Outcome]) -> None:
    """Note what the plugin has told with those whom it concerns."""
    for outcome in concerned(event, waiting):
        if event["event"] == "broken":
            outcome.state, outcome.failure = "broken", event
        elif event["event"] == "fail":
            outcome.state, outcome.failure = "failed", event
        elif event["event"] == "skip":
            outcome.skipped.append(event["reason"])


def concerned(event: dict[str, Any], waiting: Sequence[Outcome]) -> list[Outcome]:
    """Return the technique that an event names, or all those of the lesson that it names."""
    if "technique" in event:
        return [each for each in waiting if each.technique.name == event["technique"]]
    return [each for each in waiting if each.technique.lesson == event["lesson"]]


def end_early(
    folder: Path, running: dict[str, Any], waiting: Sequence[Outcome], stuck: str, limit: float
) -> None:
    """Note what was running when the process ended: too slow, or the end of Python itself."""
    said = f"ran for more than {limit:g} seconds on one example, and was stopped"
    if not stuck:
        said = "ended Python itself: a crash, or a call of os._exit"
    failure = {**running, "kind": "ended", "said": said, "where": place_in(stuck, folder)}
    for outcome in concerned(running, waiting):
        outcome.state = "broken" if running["event"] == "load" else "failed"
        outcome.failure = failure


def place_in(stuck: str, folder: Path) -> dict[str, Any] | None:
    """Return the innermost line of the learner's files in what faulthandler has written."""
    for name, line, function in FRAME.findall(stuck):
        file = Path(name)
        if file.parent == folder:
            lines = file.read_text(encoding="utf-8").splitlines()
            text = dict(enumerate(lines, 1)).get(int(line), "")
            return {"file": file.name, "line": int(line), "function": function, "text": text}
    return None


def run_pytest(techniques: Sequence[Technique], options: Sequence[str], notes: Path) -> str:
    """Run the laws of some techniques and return the last lines that pytest printed."""
    files = sorted({str(TESTS / law.file) for each in techniques for law in each.laws})
    plugins = ("dlconcepts.practice.plugin", "no:faulthandler", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "--tb=short", *files, *options]
    command += [f"-p{plugin}" for plugin in plugins] + ["--hypothesis-profile=ci"]
    # A file, not a pipe: what the laws have started may hold a pipe open for ever.
    with (notes / "output.txt").open("w+b") as output:
        process = subprocess.Popen(
            command,
            cwd=TESTS.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all that it has started can be ended with it
        )
        try:
            status = process.wait()
        finally:
            end_group(process)
            process.wait()
        output.seek(0)
        last_lines = "\n".join(output.read().decode(errors="replace").splitlines()[-20:])
    if status == pytest.ExitCode.INTERNAL_ERROR:
        raise PracticeError(f"pytest broke down, its last lines are:\n{last_lines}")
    return last_lines


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what the plugin has told, up to a line that it could not finish."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def read_progress(path: Path) -> dict[str, str]:
    """Return the fingerprints of the techniques that have passed, by name."""
    if not path.exists():
        return {}
    try:
        passed = json.loads(path.read_text(encoding="utf-8"))["passed"]
        return {str(name): str(value) for name, value in passed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PracticeError(
            f"{path} is damaged; delete it, and the laws will judge everything anew"
        ) from error


def write_progress(path: Path, passed: dict[str, str]) -> None:
    """Keep the fingerprints, whole or not at all."""
    text = json.dumps({"passed": dict(sorted(passed.items()))}, indent=2) + "\n"
    write_atomically(path, text.encode())
