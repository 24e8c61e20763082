"""Grade the folders of many learners: who passes what, and which mistakes are made most often."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlconcepts.practice.check import FAILED, Outcome, judge
from dlconcepts.practice.techniques import Technique
from dlconcepts.support.errors import UserError

FIELDS = ("learner", "lesson", "exercise", "state", "law", "mistake", "said")


@dataclass(frozen=True)
class Grade:
    """A learner, and the outcome of each exercise."""

    learner: str
    outcomes: list[Outcome]

    @property
    def passed(self) -> int:
        """How many exercises pass."""
        return sum(outcome.state == "passed" for outcome in self.outcomes)


def grade(
    folder: Path, techniques: Sequence[Technique], limit: float, told: Callable[[Grade], object]
) -> list[Grade]:
    """Judge each folder in a folder; nothing is written there, and no progress file is believed.

    Raises UserError if no folder has a practice file.
    """
    grades = []
    for learner in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = Grade(learner.name, judge(learner.resolve(), techniques, limit, {}))
        if found.outcomes:
            grades.append(found)
            told(found)
    if not grades:
        raise UserError(f"no folder in {folder} has a practice file; give each learner a folder")
    return grades


def row(learner: str, outcome: Outcome) -> dict[str, str]:
    """Return what is known of an answer, by the names of the columns."""
    texts: dict[str, str] = {}
    for heading, text in outcome.rows:
        texts.setdefault(heading, text)
    mistake = texts.get("fails like", "").partition("':")[0].strip("'")
    said = texts.get("the law") or texts.get("error") or texts.get("problem", "")
    technique = outcome.technique
    values = (learner, technique.lesson, technique.name, outcome.state, outcome.law, mistake, said)
    return dict(zip(FIELDS, values, strict=True))


def rows(grades: Sequence[Grade]) -> list[dict[str, str]]:
    """Return a row for each answer of each learner."""
    return [row(each.learner, outcome) for each in grades for outcome in each.outcomes]


def most_failed(grades: Sequence[Grade]) -> list[dict[str, Any]]:
    """Return the exercises that some learner failed, the most failed first, with the mistakes."""
    failed = [each for each in rows(grades) if each["state"] in FAILED]
    counts = Counter(each["exercise"] for each in failed)
    return [
        {
            "exercise": name,
            "failed": count,
            "mistakes": dict(
                Counter(
                    each["mistake"] or each["said"] for each in failed if each["exercise"] == name
                ).most_common()
            ),
        }
        for name, count in counts.most_common()
    ]


def as_csv(grades: Sequence[Grade]) -> str:
    """Return the rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(grades))
    return text.getvalue()


def as_record(grades: Sequence[Grade]) -> dict[str, Any]:
    """Return the rows, the sums for each learner, and the most failed exercises, for --json."""
    learners = [
        {"learner": each.learner, "passed": each.passed, "of": len(each.outcomes)}
        for each in grades
    ]
    found = {"schema": 1, "learners": learners, "most_failed": most_failed(grades)}
    return found | {"answers": rows(grades)}
