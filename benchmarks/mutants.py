"""Mutation testing with mutmut: find small changes of the library that no test catches.

    tox -e mutants                                       # a sample of 100 mutants
    tox -e mutants -- --lesson tensors                   # all of one lesson
    tox -e mutants -- --all
    tox -e mutants -- --again --json docs/results/power-mutants.json  # the survivors again

mutmut changes one operator, number, argument or name of a lesson at a time. It runs the tests that
call the changed function, including the laws on the right technique, until one fails. Of the
maintained tools, only mutmut forks each run from a process that has imported torch and collected
the tests. cosmic-ray and pytest-gremlins start an interpreter for each mutant: importing torch
2,000 times would take an hour and a half. mutants_plugin.py shortens the runs further. mutmut does
not change decorated functions: properties, context managers, cached functions.

benchmarks/equivalent.toml lists survivors that change no behaviour, by function and changed lines,
with the reason. Two kinds of mutants are counted separately and not run. Wording: XX around the
words of a message, or other capitals, since the tests check only the words that matter. A single
word may be a key or a mode, so it does run; so does a missing message. Device: a removed or changed
device, since few of those show on a CPU.
"""

import argparse
import difflib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import tomllib  # Python 3.11, the one CI runs
from mutants_plugin import NEEDED, NOTICED, STATISTICS, enough
from results import write
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
MUTANTS = ROOT / "mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
TEXT = re.compile(r'"[^"]*"|\'[^\']*\'')
HEADINGS = ("killed", "wording", "device", "equivalent", "survived", "no tests", "not run")
# A mutant's status by pytest's exit status; any other status, a hang or a crash, is a kill.
STATUS = {0: "survived", 1: "killed", 3: "killed", 5: "no tests", 33: "no tests", None: "not run"}


def mutmut(*arguments: str, profile: str = "power", quiet: bool = False) -> str:
    """Run mutmut in the root of the repository, and return its output if `quiet`.

    The Hypothesis profile sets how many examples the laws run.
    """
    command = [sys.executable, "-m", "mutmut", *arguments]
    path = [os.fspath(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTEST_ADDOPTS": f"--hypothesis-profile={profile} -p mutants_plugin",
    }
    where: dict[str, Any] = {"cwd": ROOT, "env": environment}
    if quiet:
        found = subprocess.run(command, **where, capture_output=True, encoding="utf-8")
        return found.stdout
    if subprocess.run(command, **where).returncode:
        sys.exit(failing() or "mutmut failed: see above")
    return ""


def failing() -> str:
    """Name the test that failed without a mutant, if any."""
    noticed = MUTANTS / NOTICED
    lines = noticed.read_text(encoding="utf-8").splitlines() if noticed.exists() else []
    tests = [test for function, _, test in (line.partition("\t") for line in lines) if not function]
    return f"every test must pass without a mutant, but {tests[-1]} fails" if tests else ""


def statuses() -> dict[str, str]:
    """Return the status of each mutant by name."""
    found = {}
    for path in sorted(MUTANTS.glob("dlconcepts/**/*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        found.update({name: STATUS.get(code, "killed") for name, code in codes.items()})
    return found


def generate() -> list[str]:
    """Make all mutants, record which tests call which function, and return the mutants' names."""
    for path in (NOTICED, NEEDED):
        (MUTANTS / path).unlink(missing_ok=True)
    # mutmut has no command for this. If no mutant matches, it stops after these two steps. A few
    # examples of a law are enough to see what it calls.
    printed = mutmut("run", "no-such-mutant*", profile="dev", quiet=True)
    names = list(statuses())
    if not names or not (MUTANTS / STATISTICS).exists():
        shown = "\n".join(line for line in printed.splitlines() if "Running stats" not in line)
        sys.exit(f"{shown}\nmutmut could not start: {failing()}")
    return names


def note_needed(names: list[str]) -> None:
    """Write down which tests these mutants will meet: for each function, its fastest callers."""
    # Tests that caught another mutant run first, but they are also needed for that other mutant.
    found = json.loads((MUTANTS / STATISTICS).read_text(encoding="utf-8"))
    durations, needed = found["duration_by_test"], set()
    for function in {name.partition("__mutmut_")[0] for name in names}:
        tests = sorted(found["tests_by_mangled_function_name"].get(function, []), key=durations.get)
        needed.update(tests[: enough(durations[test] for test in tests)])
    (MUTANTS / NEEDED).write_text("\n".join(sorted(needed)), encoding="utf-8")


def changes() -> dict[str, tuple[str, str]]:
    """Return the lines that each mutant changes, before and after, by the mutant's name.

    `mutmut show` does the same, but takes most of a second for each mutant.
    """
    found = {}
    for path in sorted(MUTANTS.glob("dlconcepts/**/*.py")):
        noted, known = path.with_suffix(".py.spans"), path.with_suffix(".py.meta")
        if not noted.exists():
            continue
        spans = json.loads(noted.read_text(encoding="utf-8"))["spans"]
        lines = path.read_text(encoding="utf-8").splitlines()
        for name in json.loads(known.read_text(encoding="utf-8"))["exit_code_by_key"]:
            mutant = name.rpartition(".")[2]
            original = f"{mutant.partition('__mutmut_')[0]}__mutmut_orig"
            before, after = (lines[spans[it][0] - 1 : spans[it][1]] for it in (original, mutant))
            diff = list(difflib.ndiff(before, [line.replace(mutant, original) for line in after]))
            changed = ([s[2:].strip() for s in diff if s.startswith(sign)] for sign in ("- ", "+ "))
            found[name] = ("\n".join(next(changed)), "\n".join(next(changed)))
    return found


def apart(before: str, after: str) -> str | None:
    """Return "wording" or "device" for a mutant that is counted separately, else None."""
    if is_wording(before, after):
        return "wording"
    return "device" if without_device(after) == without_device(before) else None


def describe(
    name: str, status: str, change: tuple[str, str], equivalents: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the row of a mutant: its change, its status and, if equivalent, the reason."""
    lesson = name.removeprefix("dlconcepts.").partition(".x")[0]
    status = apart(*change) or status
    row = {"lesson": lesson, "mutant": name, "status": status, "before": change[0]}
    row["after"] = change[1]
    if status in ("survived", "no tests"):
        for known in equivalents:
            if means(known, row):
                row |= {"status": "equivalent", "because": known["because"]}
    return row


def means(known: dict[str, Any], row: dict[str, Any]) -> bool:
    """Return whether an entry of equivalent.toml matches a mutant."""
    name = row["mutant"].partition("__mutmut_")[0]
    if not any(name.endswith(function) for function in listed(known["function"])):
        return False
    if argument := known.get("argument"):
        return without_argument(row["after"], argument) == without_argument(row["before"], argument)
    return row["after"] in listed(known["after"])


def without_argument(lines: str, name: str) -> str:
    """Return code without a keyword argument, ignoring commas and spaces."""
    return re.sub(r"[\s,]+", " ", re.sub(rf"\b{name}=\w+", "", lines)).replace(" )", ")").strip()


def listed(one_or_more: str | list[str]) -> list[str]:
    return one_or_more if isinstance(one_or_more, list) else [one_or_more]


def is_wording(before: str, after: str) -> bool:
    """Return whether two lines differ only in XX or capitals inside texts of several words."""
    if after.replace("XX", "").lower() != before.lower():
        return False
    texts = zip(TEXT.findall(before), TEXT.findall(after), strict=True)
    return all(" " in one.strip() for one, other in texts if one != other)


def without_device(line: str) -> str:
    """Return a line of code with everything about devices removed."""
    # Only single targets: in `a, device = ...` the other name matters.
    line = re.sub(r"^(?:self\.)?(?:device|generators)(?:: [\w.]+)? = .*", "", line)
    line = line.replace("find_model_device(model)", "None")
    line = re.sub(r",? *(?:map_location|devices?|device_type)=(?:[^,()]|\([^()]*\))+", "", line)
    line = re.sub(r"\.to\(((?:[^()]|\([^()]*\))*)\)", moved_nowhere, line)
    return re.sub(r", *\)", ")", line)


def moved_nowhere(call: re.Match[str]) -> str:
    """Return a call of `to` without device arguments and None."""
    arguments = [part.strip() for part in call[1].split(",")]
    kept = [part for part in arguments if part not in ("", "None") and "device" not in part]
    return f".to({', '.join(kept)})" if kept else ""


def by_lesson(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per lesson: the number of mutants of each status, and the share killed."""
    found = []
    for lesson in dict.fromkeys(row["lesson"] for row in rows):
        counts = Counter(row["status"] for row in rows if row["lesson"] == lesson)
        figures = {heading: counts[heading] for heading in HEADINGS}
        found.append({"lesson": lesson, **figures, "share": f"{share(counts):.1%}"})
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of the lessons, and each survivor with its change."""
    table = Table(title="mutants of the library")
    for heading in ("lesson", *HEADINGS, "%"):
        table.add_column(heading, justify="left" if heading == "lesson" else "right")
    for row in by_lesson(rows):
        table.add_row(*(str(value) for value in row.values()))
    Console(width=100).print(table)
    for row in rows:
        if row["status"] in ("survived", "no tests"):
            print(f"{row['status']}: {row['mutant']}\n  - {row['before']}\n  + {row['after']}")


def share(counts: Counter[str]) -> float:
    """Return the share of killed mutants among those that count; 1 if there are none."""
    return counts["killed"] / tried(counts) if tried(counts) else 1.0


def tried(counts: Counter[str]) -> int:
    """Return how many mutants count: those that change behaviour on a CPU."""
    return counts["killed"] + counts["survived"] + counts["no tests"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every mutant, instead of a sample")
    parser.add_argument("--lesson", action="append", help="only mutants of this module")
    parser.add_argument("--sample", type=int, help="number of random mutants (100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--again", action="store_true", help="run only earlier survivors")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    started = time.perf_counter()
    chosen = generate()
    if options.lesson:
        chosen = [
            n for n in chosen if any(n.startswith(f"dlconcepts.{m}.") for m in options.lesson)
        ]
    whole = not options.sample and bool(options.all or options.again or options.lesson)
    size = len(chosen) if whole else options.sample or 100
    chosen = sorted(random.Random(options.seed).sample(chosen, min(size, len(chosen))))
    if not chosen:
        sys.exit(f"there are no mutants of {options.lesson}")
    equivalents = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]
    changed = changes()

    def rows_of(found: dict[str, str]) -> list[dict[str, Any]]:
        return [describe(n, found.get(n, "not run"), changed[n], equivalents) for n in chosen]

    # mutmut forgets its results for a function that has changed.
    before = rows_of(statuses() if options.again else {})
    killed = sum(row["status"] == "killed" for row in before)
    if run := [r["mutant"] for r in before if r["status"] in ("not run", "survived", "no tests")]:
        note_needed(run)
        mutmut("run", "--max-children", str(options.jobs), *run)
    took = time.perf_counter() - started
    rows = rows_of(statuses())
    show(rows)
    counts = Counter(row["status"] for row in rows)
    for known in equivalents:
        met = any(f in name for f in listed(known["function"]) for name in chosen)
        if met and whole and not any(r.get("because") == known["because"] for r in rows):
            print(f"equivalent.toml lists a mutant that does not survive: {known['function']}")
    earlier = f", {killed} of them in an earlier run" if killed else ""
    result = f"killed: {counts['killed']} of {tried(counts)}, {share(counts):.1%}"
    print(f"{result}{earlier}, in {took:.0f} s")
    if options.json:
        packages = ("torch", "mutmut", "hypothesis")
        head: dict[str, Any] = {"seconds": round(took), **counts, "killed earlier": killed}
        lived = [row for row in rows if row["status"] in ("equivalent", "survived", "no tests")]
        head |= {"share": f"{share(counts):.1%}", "lived": lived}
        write(options.json, by_lesson(rows), packages, **head)


if __name__ == "__main__":
    main()
