"""Judge the answers in tests/practice/answers: right ones must pass, wrong ones must not.

    python benchmarks/practice.py [LESSON or EXERCISE ...] [--answers FOLDER]
    python benchmarks/practice.py --seconds

The first prints what was misjudged, and a table by lesson: right answers accepted, wrong ones
rejected, how many of those with the name of a mistake, and the seconds of an answer. The second
prints how long a learner waits for a verdict: in a new process, and after a save with --watch.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen, run
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from dlconcepts.practice.process import ask
from dlconcepts.practice.sheets import skeleton
from dlconcepts.testing.claims import LESSONS
from tests.practice.answers import HERE, TECHNIQUES, Answer, answers

COMMAND = [sys.executable, "-u", "-m", "dlconcepts", "practice"]


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="lessons or exercises")
    parser.add_argument("--seconds", action="store_true", help="how long a verdict takes")
    parser.add_argument("--answers", type=Path, default=HERE, help="other answers than the tests'")
    arguments = parser.parse_args()
    if arguments.seconds:
        waits()
    else:
        judge(set(arguments.names), arguments.answers)


def waits() -> None:
    """Write the library's solutions one by one, and print how long each verdict takes.

    With --watch: until the changed exercise has its verdict, and until what passed before has been
    judged again with it.
    """
    cold = []
    for name in ("centre", "flatten", "gradient", "seeded", "correct"):
        with TemporaryDirectory() as folder:
            path = written(TECHNIQUES[name].lesson, folder)
            solve(path, name)
            started = time.perf_counter()
            run([*COMMAND, "--check", folder], stdout=PIPE)
            cold.append(time.perf_counter() - started)
    warm, whole = {}, {}
    with TemporaryDirectory() as folder:
        paths = {lesson: written(lesson, folder) for lesson in LESSONS}
        with Popen([*COMMAND, "--check", folder, "--watch"], stdout=PIPE, text=True) as process:
            read_until(process, "Waiting")
            time.sleep(20)  # as a learner who writes the first line
            for name, technique in TECHNIQUES.items():
                started = time.perf_counter()
                solve(paths[technique.lesson], name)
                assert read_until(process, f"{name} passes"), name
                warm[name] = time.perf_counter() - started
                read_until(process, "Waiting")
                whole[name] = time.perf_counter() - started
            process.terminate()
    print(f"load {os.getloadavg()[0]:.1f}")
    print("cold: " + ", ".join(f"{each:.1f} s" for each in cold))
    for heading, found in (("the verdict", warm), ("all that uses it", whole)):
        seconds = sorted(found.values())
        slow = seconds[len(seconds) * 9 // 10]
        print(f"{heading}: median {statistics.median(seconds):.1f} s, 90 % within {slow:.1f} s")
        print(f"{sum(each <= 2 for each in seconds)} of {len(seconds)} in 2 s; the slowest:")
        for name, each in sorted(found.items(), key=lambda pair: -pair[1])[:10]:
            print(f"    {name:<20} {each:.1f} s")


def written(lesson: str, folder: str) -> Path:
    """Write the practice file of a lesson, and return it."""
    run([*COMMAND, lesson, "--out", folder], stdout=PIPE, check=True)
    return Path(folder, f"{lesson}.py")


def solve(path: Path, name: str) -> None:
    """Replace an exercise by the library's solution."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(skeleton(TECHNIQUES[name]), TECHNIQUES[name].solution))


def read_until(process: Popen, words: str) -> bool:
    """Read what the command prints up to a line that begins so; return whether there is one."""
    return any(line.startswith(words) for line in process.stdout)


def judge(names: set[str], folder: Path) -> None:
    """Judge the answers, and print the table."""
    chosen = [
        answer
        for kind in ("right", "wrong")
        for answer in answers(kind, folder)
        if not names or names & {answer.technique.lesson, answer.technique.name}
    ]
    started = time.perf_counter()
    judged: list[tuple[Answer, dict]] = []
    with TemporaryDirectory() as place:
        questions = [answer.question(Path(place)) for answer in chosen]
        for answer, known in zip(chosen, ask(questions), strict=True):
            judged.append((answer, known))
            if (known["state"] == "passed") != (answer.kind == "right"):
                show(answer, known)
    heads = ("right accepted", "wrong rejected")
    print(f"\n{'lesson':<12} {heads[0]:>15} {heads[1]:>15} {'named':>6} {'median s':>9}")
    for lesson in [*dict.fromkeys(answer.technique.lesson for answer in chosen), "all"]:
        own = [pair for pair in judged if lesson in ("all", pair[0].technique.lesson)]
        print(f"{lesson:<12} " + row(own))
    print(f"{time.perf_counter() - started:.0f} s in all")
    if any((known["state"] == "passed") != (answer.kind == "right") for answer, known in judged):
        sys.exit(1)


def show(answer: Answer, known: dict) -> None:
    """Print an answer that was misjudged."""
    print(f"{answer.kind} answer {known['state']}: {answer.name}: {answer.sentence}", flush=True)
    for heading, text in known.get("rows", []):
        print(f"    {heading:<14} {text[:300]}")


def row(judged: list[tuple[Answer, dict]]) -> str:
    """Return the figures of some answers."""
    right = [known for answer, known in judged if answer.kind == "right"]
    wrong = [known for answer, known in judged if answer.kind == "wrong"]
    accepted = sum(known["state"] == "passed" for known in right)
    rejected = [known for known in wrong if known["state"] != "passed"]
    named = sum(any(h == "fails like" for h, _ in known.get("rows", [])) for known in rejected)
    seconds = statistics.median(known["seconds"] for _, known in judged)
    accepted_of, rejected_of = f"{accepted} of {len(right)}", f"{len(rejected)} of {len(wrong)}"
    return f"{accepted_of:>15} {rejected_of:>15} {named:>6} {seconds:>9.2f}"


if __name__ == "__main__":
    main()
