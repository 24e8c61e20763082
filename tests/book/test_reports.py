"""The public reports behind the page "What people get wrong"."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dlconcepts.checks import REGISTRY
from dlconcepts.watch.laws import LAWS

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
FILE = Path(__file__).parents[2] / "docs" / "reports.toml"


@pytest.fixture(scope="module")
def kinds() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))["kind"]
    return found


def repeated(values: list[str]) -> list[str]:
    return [value for value, number in Counter(values).items() if number > 1]


def test_each_report_is_listed_once(kinds: list[dict[str, Any]]) -> None:
    """At least 150 reports are listed, each as owner/name#number and under one kind."""
    reports = [report for kind in kinds for report in kind["reports"]]

    assert len(reports) >= 150
    assert repeated([report.lower() for report in reports]) == []
    assert [x for x in reports if not re.fullmatch(r"[\w.-]+/[\w.-]+#[1-9]\d*", x)] == []


@pytest.mark.parametrize("name", ["id", "title", "law"])
def test_each_kind_has_its_own(name: str, kinds: list[dict[str, Any]]) -> None:
    """No two kinds have the same id, title or law, and none is empty."""
    texts = [kind[name] for kind in kinds]

    assert all(texts)
    assert repeated(texts) == []


def test_titles_are_short(kinds: list[dict[str, Any]]) -> None:
    """A title has at most 60 characters."""
    assert [kind["title"] for kind in kinds if len(kind["title"]) > 60] == []


def test_frequent_kinds_come_first(kinds: list[dict[str, Any]]) -> None:
    """The kinds are sorted by their number of reports."""
    numbers = [len(kind["reports"]) for kind in kinds]

    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] > 0


def test_every_check_and_law_exists(kinds: list[dict[str, Any]]) -> None:
    """What a kind is seen by is the id of a check, and of a law of watch."""
    assert {kind["checks"] for kind in kinds} - {"", *REGISTRY} == set()
    assert {kind["watch"] for kind in kinds} - {"", *(law.id for law in LAWS)} == set()
