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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlconcepts.practice.sheets import fingerprint, written
from dlconcepts.practice.techniques import TESTS, Technique

PROGRESS = "progress.json"
EVENTS, STUCK = ".events.jsonl", ".stuck.txt"
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


def check(folder: Path, techniques: Sequence[Technique], limit: float) -> list[Outcome]:
    """Judge a folder's techniques, in the course's order, and remember those that passed."""
    progress = read_progress(folder / PROGRESS)
    outcomes = [Outcome(technique) for technique in techniques]
    prints: dict[str, str] = {}
    for outcome in outcomes:
        look_at(outcome, folder, prints, progress)
    while waiting := [outcome for outcome in outcomes if outcome.state == "waiting"]:
        written = [o.technique.name for o in outcomes if o.state in ("waiting", "passed", "failed")]
        judge(folder, waiting, written, limit)
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
    by_name = {outcome.technique.name: outcome for outcome in waiting}
    (folder / EVENTS).unlink(missing_ok=True)
    last_lines = run_pytest(folder, [outcome.technique for outcome in waiting], written, limit)
    running: dict[str, Any] | None = None
    done: Counter[str] = Counter()
    judged = False
    for event in events(folder / EVENTS):
        judged = True
        running = event if event["event"] in ("start", "load") else None
        if event["event"] == "broken":
            for outcome in waiting:
                if outcome.technique.lesson == event["lesson"]:
                    outcome.state, outcome.failure = "broken", event
        elif event["event"] == "fail":
            by_name[event["technique"]].state = "failed"
            by_name[event["technique"]].failure = event
        elif event["event"] == "skip":
            by_name[event["technique"]].skipped.append(event["reason"])
        if event["event"] in ("pass", "skip"):
            done[event["technique"]] += 1
    if not judged:
        raise PracticeError(f"pytest did not start, its last lines are:\n{last_lines}")
    for outcome in waiting:
        if outcome.state == "waiting" and done[outcome.technique.name] == len(
            outcome.technique.laws
        ):
            outcome.state, outcome.new = "passed", True
    if running is not None:
        end_early(folder, running, waiting, limit)
    elif any(outcome.state == "waiting" for outcome in waiting):
        raise PracticeError(f"pytest did not run every law, its last lines are:\n{last_lines}")
    for name in (STUCK,):
        (folder / name).unlink(missing_ok=True)


def end_early(
    folder: Path, running: dict[str, Any], waiting: Sequence[Outcome], limit: float
) -> None:
    """Note what was running when the process ended: too slow, or the end of Python itself."""
    place, text = None, (folder / STUCK).read_text(encoding="utf-8", errors="replace")
    for file, line, function in FRAME.findall(text):
        if Path(file).parent == folder:
            place = {"file": Path(file).name, "line": int(line), "function": function, "text": ""}
            lines = Path(file).read_text(encoding="utf-8").splitlines()
            place["text"] = lines[int(line) - 1].strip() if int(line) <= len(lines) else ""
            break
    said = f"ran for more than {limit:g} seconds on one example, and was stopped"
    if not text:
        said = "ended Python itself: a crash, or a call of os._exit"
    kind = "slow" if text else "crash"
    failure = {**running, "kind": kind, "said": said, "where": place}
    for outcome in waiting:
        if running["event"] == "load" and outcome.technique.lesson == running["lesson"]:
            outcome.state, outcome.failure = "broken", failure
        elif outcome.technique.name == running.get("technique"):
            outcome.state, outcome.failure = "failed", failure


def run_pytest(
    folder: Path, techniques: Sequence[Technique], written: Sequence[str], limit: float
) -> str:
    """Run the laws of some techniques and return the last lines that pytest printed."""
    files = sorted({str(TESTS / law.file) for each in techniques for law in each.laws})
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "--tb=no", *files]
    command += [
        "-p",
        "dlconcepts.practice.plugin",
        "-p",
        "no:faulthandler",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--hypothesis-profile=ci", f"--practice={folder}", f"--practice-limit={limit}"]
    command += [f"--practice-only={','.join(each.name for each in techniques)}"]
    command += [f"--practice-written={','.join(written)}"]
    with subprocess.Popen(
        command,
        cwd=TESTS.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # the laws start processes too, which must end with it
    ) as process:
        try:
            output, _ = process.communicate()
        finally:
            end_group(process)
    last_lines = "\n".join(output.splitlines()[-20:])
    if process.returncode == pytest.ExitCode.INTERNAL_ERROR:
        raise PracticeError(f"pytest broke down, its last lines are:\n{last_lines}")
    return last_lines


def end_group(process: subprocess.Popen[str]) -> None:
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
    from dlconcepts.atomic import write_atomically

    text = json.dumps({"passed": dict(sorted(passed.items()))}, indent=2) + "\n"
    write_atomically(path, text.encode())
