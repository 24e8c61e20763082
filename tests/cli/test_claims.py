"""`python -m dlconcepts claims` prints the claims of the course from the heads of their files."""

import json
from pathlib import Path

import pytest

from dlconcepts.testing.claims import LESSONS, TESTS, all_claims
from tests.cli.common import assert_explained, run

CLAIM = "tensors.view-is-a-new-tensor"


def test_the_list_has_each_claim_in_course_order(capsys: pytest.CaptureFixture[str]) -> None:
    """A line has the verdict, the id and the title of a claim."""
    assert run("claims") == 0

    lines = capsys.readouterr().out.splitlines()
    claims = all_claims()
    assert [line.split()[:2] for line in lines] == [[claim.verdict, claim.id] for claim in claims]
    assert all(line.endswith(claim.title) for line, claim in zip(lines, claims, strict=True))


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_lists_its_own_claims(lesson: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--lesson prints the claims of one lesson."""
    assert run(f"claims --lesson {lesson}") == 0

    ids = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert ids == [claim.id for claim in all_claims(lessons=[lesson])]


def test_an_id_prints_the_whole_claim(capsys: pytest.CaptureFixture[str]) -> None:
    """Title, demonstration, notes, verdict, truth, laws, mistakes, and the command that runs it."""
    assert run(f"claims {CLAIM}") == 0

    printed = capsys.readouterr().out
    text = " ".join(printed.split())
    (claim,) = (claim for claim in all_claims() if claim.id == CLAIM)
    assert printed.startswith(f"{claim.title}.\n\n    >>> ")
    assert printed.endswith(f"\n\npython -m pytest {claim.file}\n")
    assert max(map(len, printed.splitlines())) <= 100
    for part in (f"Notes: {claim.notes}", f"Verdict: {claim.verdict}", f"Truth: {claim.truth}"):
        assert part in text
    for law in claim.laws:
        assert f"Law: {law.sentence}" in text
        for name, reason in law.wrong.items():
            assert f"rejects {name}: {claim.mistakes[name]} Fails with {reason!r}." in text


def test_json_has_the_parts_of_each_claim(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints a list of objects, with the laws and mistakes of each claim."""
    assert run("claims --json") == 0

    found = json.loads(capsys.readouterr().out)
    assert [record["id"] for record in found] == [claim.id for claim in all_claims()]
    keys = {"id", "lesson", "title", "notes", "verdict", "truth", "laws", "mistakes", "file"}
    assert all(record.keys() >= keys for record in found)
    assert all(Path(TESTS.parent, record["file"]).is_file() for record in found)


def test_json_of_an_id_is_a_list_of_one_claim(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake names the law that rejects it, and the reason."""
    assert run(f"claims {CLAIM} --json") == 0

    (record,) = json.loads(capsys.readouterr().out)
    (claim,) = (claim for claim in all_claims() if claim.id == CLAIM)
    assert (record["id"], record["lesson"], record["title"]) == (CLAIM, "tensors", claim.title)
    assert [law["name"] for law in record["laws"]] == [law.name for law in claim.laws]
    assert [(m["law"], m["name"], m["reason"]) for m in record["mistakes"]] == [
        (law.name, name, reason) for law in claim.laws for name, reason in law.wrong.items()
    ]


def test_a_broken_claim_file_is_explained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the file, the line and the remedy."""
    lesson = folder / "tests" / "tensors"
    lesson.mkdir(parents=True)
    (lesson / "__init__.py").write_text('CLAIMS = ["doubles"]')
    (lesson / "test_doubles.py").write_text("x = 1\n")
    monkeypatch.setattr("dlconcepts.cli.claims.TESTS", folder / "tests")

    assert_explained("claims", capsys, f"{lesson / 'test_doubles.py'}:1: has no head; begin")
