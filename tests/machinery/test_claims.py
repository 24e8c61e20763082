"""The ledger of claims and the suite agree, in both directions.

That every law names a claim of the ledger is checked when the laws are collected (conftest.py).
Here, every testable claim has a law, and every law has a mistake that it rejects. Claims of a
lesson that has no law at all yet are skipped as pending, one by one, so that a run lists them.
"""

import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TESTS = Path(__file__).parent
LEDGER = tomllib.loads((TESTS / "claims.toml").read_text(encoding="utf-8"))["claim"]
TESTABLE = [claim["id"] for claim in LEDGER if claim["verdict"] != "opinion"]
LESSONS = {
    *("tensors", "networks", "autograd", "training", "validation"),
    *("checkpoints", "images", "transfer", "devices"),
}


@pytest.fixture(scope="module")
def marks(request: pytest.FixtureRequest) -> list[pytest.Mark]:
    """Return the claim mark of each law, in runs that collect every file with laws."""
    items = request.session.items
    chosen = request.config.option.keyword or request.config.option.markexpr
    laws = {path for path in TESTS.glob("test_*.py") if "@claim(" in path.read_text("utf-8")}
    if chosen or not laws <= {item.path for item in items}:
        pytest.skip("the ledger is compared with whole runs only")
    return [mark for item in items for mark in item.iter_markers("claim")]


@pytest.mark.parametrize("claim", TESTABLE)
def test_a_testable_claim_has_a_law_and_a_mistake(claim: str, marks: list[pytest.Mark]) -> None:
    """Each claim that can be tested has a law, and one of its laws rejects a mistake."""
    lesson = claim.split(".")[0]
    if not any(mark.args[0].startswith(f"{lesson}.") for mark in marks):
        pytest.skip(f"pending: {claim}")
    laws = [mark for mark in marks if mark.args[0] == claim]

    assert laws, f"{claim} has no law"
    assert any(mark.kwargs.get("wrong") for mark in laws), f"{claim} has no mistake"


@pytest.mark.parametrize("claim", LEDGER, ids=lambda claim: claim["id"])
def test_a_claim_of_the_ledger_is_complete(claim: dict[str, object]) -> None:
    """Each claim says what the notes say, its verdict, and, unless an opinion, its law."""
    verdict = claim["verdict"]

    assert str(claim["id"]).split(".")[0] in LESSONS, "the id begins with its lesson"
    assert claim["notes"], "a claim says what the notes say"
    assert verdict in ("holds", "holds-if", "corrected", "opinion"), "the verdict is a known one"
    if verdict != "opinion":
        assert claim["law"], "a testable claim states its law"
        assert claim["wrong"], "a testable claim names its mistakes"
    if verdict in ("holds-if", "corrected"):
        assert claim["truth"], "a claim that does not hold as it stands says what is true"


def test_the_ids_are_unique() -> None:
    """No id stands twice in the ledger."""
    ids = [claim["id"] for claim in LEDGER]

    assert len(ids) == len(set(ids))
