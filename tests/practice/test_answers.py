"""Answers that learners wrote: right ones pass, wrong ones do not; here some of each exercise.

`tox -e practice` judges all of them.
"""

from collections import Counter

import pytest

from dlconcepts.practice.process import ask
from dlconcepts.testing.claims import LESSONS
from tests.practice.answers import TECHNIQUES, answers

RIGHT, WRONG = list(answers("right")), list(answers("wrong"))


def test_every_exercise_has_answers():
    """Each has at least three right ones, written differently, and five wrong ones."""
    right = Counter(answer.technique.name for answer in RIGHT)
    wrong = Counter(answer.technique.name for answer in WRONG)

    assert set(right) == set(wrong) == set(TECHNIQUES)
    assert min(right.values()) >= 3
    assert min(wrong.values()) >= 5
    assert len({(answer.kind, answer.name) for answer in RIGHT + WRONG}) == len(RIGHT + WRONG)
    assert all(answer.sentence for answer in RIGHT + WRONG)


@pytest.mark.parametrize("lesson", LESSONS)
def test_right_answers_pass_and_wrong_ones_do_not(lesson, tmp_path):
    """Of each exercise the first right answer and the first wrong one are judged."""
    names = [name for name, technique in TECHNIQUES.items() if technique.lesson == lesson]
    chosen = [next(each for each in RIGHT if each.technique.name == name) for name in names]
    chosen += [next(each for each in WRONG if each.technique.name == name) for name in names]

    known = ask([answer.question(tmp_path) for answer in chosen])

    for answer, found in zip(chosen, known, strict=True):
        assert (found["state"] == "passed") == (answer.kind == "right"), (answer.name, found)
