"""Check a practice folder: which laws hold. A verdict is kept until the learner's code changes.

The laws run in another process (see `dlconcepts.practice.plugin`), since an endless loop or a crash
of the learner's code may end it.
"""

import ast
import json
import linecache
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dlconcepts.practice.sheets import fingerprint, is_written
from dlconcepts.practice.techniques import Technique
from dlconcepts.support.atomic import write_atomically
from dlconcepts.support.errors import UserError
from dlconcepts.testing.claims import TESTS, definitions
from dlconcepts.testing.run import end

PROGRESS = "progress.json"
REQUEST, RESULTS, STUCK = "request.json", "results.json", "stuck.txt"
FRAME = re.compile(r'File "(.*)", line (\d+) in (\S+)')  # as faulthandler writes it
Rows = list[tuple[str, str]]  # what is printed of a failure: headings and texts


@dataclass
class Outcome:
    """What is known of a technique: its state, the law that failed, the reasons of skipped laws.

    The state is "passed", "failed", "unwritten", "broken" (Python cannot run the file) or
    "waiting"; while its laws run, also "loading" or "running".
    """

    technique: Technique
    state: str = "waiting"
    law: str = ""
    rows: Rows = field(default_factory=Rows)
    skipped: list[str] = field(default_factory=list)
    new: bool = False
    fingerprint: str = ""


def check(folder: Path, techniques: Sequence[Technique], limit: float) -> list[Outcome]:
    """Judge a folder's techniques, in course order, and remember those that passed."""
    linecache.clearcache()  # with --watch, the files have changed
    passed = read_progress(folder / PROGRESS)
    outcomes = [look_at(technique, folder, passed) for technique in techniques]
    # A process that ends early leaves some techniques waiting, for another process.
    while any(outcome.state == "waiting" for outcome in outcomes):
        judge(folder, outcomes, limit)
        sure = [each for each in outcomes if each.state == "passed" and not each.skipped]
        passed |= {outcome.technique.name: outcome.fingerprint for outcome in sure}
        text = json.dumps({"passed": dict(sorted(passed.items()))}, indent=2) + "\n"
        write_atomically(folder / PROGRESS, text.encode())
    return outcomes


def read_progress(path: Path) -> dict[str, str]:
    """Return the fingerprints of the techniques that have passed, by name."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["passed"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; delete it to check everything again") from error


def look_at(technique: Technique, folder: Path, passed: dict[str, str]) -> Outcome:
    """Return what can be said of a technique without running it."""
    path = folder / f"{technique.lesson}.py"
    try:
        text = path.read_text(encoding="utf-8")
        compile(text, path, "exec")  # finds more than parsing does, as a return outside a function
    except SyntaxError as error:
        frame = traceback.FrameSummary(str(path), error.lineno or 1, "", line=error.text)
        return Outcome(technique, "broken", rows=place_rows(f"SyntaxError: {error.msg}", [frame]))
    except ValueError as error:
        raise UserError(f"{path} is no Python file in UTF-8: {error}") from error
    tree = ast.parse(text)
    node = definitions(tree).get(technique.name)
    if node is None or not is_written(node):
        return Outcome(technique, "unwritten")
    own = fingerprint(tree, technique)
    state = "passed" if passed.get(technique.name) == own else "waiting"
    return Outcome(technique, state, fingerprint=own)


def judge(folder: Path, outcomes: Sequence[Outcome], limit: float) -> None:
    """Run the laws of the techniques that wait, until all have run or the process ends early."""
    waiting = [outcome for outcome in outcomes if outcome.state == "waiting"]
    results = {each.technique.name: {"state": each.state, "skipped": []} for each in outcomes}
    request = {"folder": str(folder), "results": results, "limit": limit}
    with tempfile.TemporaryDirectory() as name:
        notes = Path(name)
        (notes / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        last_lines = run_pytest([outcome.technique for outcome in waiting], notes)
        stuck = ""
        if (notes / RESULTS).is_file():
            results = json.loads((notes / RESULTS).read_text(encoding="utf-8"))
            stuck = (notes / STUCK).read_text(encoding="utf-8", errors="replace")
    for outcome in waiting:
        vars(outcome).update(results[outcome.technique.name])
        outcome.new = outcome.state == "passed"
        if outcome.state in ("loading", "running"):
            outcome.state = "broken" if outcome.state == "loading" else "failed"
            outcome.rows = early_end(stuck, folder, limit)
    if all(outcome.state == "waiting" for outcome in waiting):
        raise UserError("pytest did not run the laws; its last lines are:", last_lines)


def early_end(stuck: str, folder: Path, limit: float) -> Rows:
    """Describe why the process ended: one example took too long, or Python itself ended."""
    if not stuck:
        return place_rows("It ended the Python process: a crash, or a call of os._exit.", [])
    calls = [traceback.FrameSummary(name, int(line), at) for name, line, at in FRAME.findall(stuck)]
    own = [frame for frame in calls if Path(frame.filename).parent == folder]
    said = f"It ran for more than {limit:g} seconds on one example and was stopped."
    return place_rows(said, own[:1])  # faulthandler writes the innermost call first


def place_rows(said: str, frames: Sequence[traceback.FrameSummary]) -> Rows:
    """Return an error and the last of some lines of the learner's files."""
    if not frames:
        return [("error", said)]
    frame = frames[-1]
    function = f", in {frame.name}" if frame.name.isidentifier() else ""
    where = f"{Path(frame.filename).name}, line {frame.lineno}{function}"
    return [("error", said), ("where", where), ("", (frame.line or "").strip())]


def run_pytest(techniques: Sequence[Technique], notes: Path) -> str:
    """Run the laws of some techniques and return the last lines that pytest printed."""
    files = sorted({str(law.claim.path) for each in techniques for law in each.laws})
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "--tb=short", *files]
    command += ["-p", "dlconcepts.practice.plugin", "-p", "no:faulthandler"]
    command += ["-p", "no:cacheprovider", "--hypothesis-profile=ci", f"--practice={notes}"]
    # A file, not a pipe: processes that the laws have started may keep a pipe open forever.
    with (notes / "output.txt").open("w+b") as output:
        process = subprocess.Popen(
            command,
            cwd=TESTS.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONOPTIMIZE": ""},  # it would remove the assertions
            start_new_session=True,  # so that we can end the processes that it starts, too
        )
        try:
            process.wait()
        finally:
            end(process)
        output.seek(0)
        return "\n".join(output.read().decode(errors="replace").splitlines()[-20:])
