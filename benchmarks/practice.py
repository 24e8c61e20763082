"""Judge the answers in tests/practice/answers: right ones must pass, wrong ones must not.

    python benchmarks/practice.py [LESSON or EXERCISE ...]

It prints what was misjudged, and a table by lesson: right answers accepted, wrong ones rejected,
how many of those with the name of a mistake, and the seconds of an answer.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from dlconcepts.practice.process import ask
from tests.practice.answers import Answer, answers


def main() -> None:
    """Judge, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="lessons or exercises")
    names = set(parser.parse_args().names)
    chosen = [
        answer
        for kind in ("right", "wrong")
        for answer in answers(kind)
        if not names or names & {answer.technique.lesson, answer.technique.name}
    ]
    started = time.perf_counter()
    judged: list[tuple[Answer, dict]] = []
    with TemporaryDirectory() as folder:
        questions = [answer.question(Path(folder)) for answer in chosen]
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
