"""The laws of `watch` as a list: their names, texts and claims."""

import pytest

from dlconcepts.checks import REGISTRY
from dlconcepts.testing.claims import all_claims
from dlconcepts.watch.law import Law
from dlconcepts.watch.laws import LAWS
from dlconcepts.watch.trace import Trace


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.id)
def test_a_law_explains_itself_and_belongs_to_a_claim(law: type[Law]) -> None:
    """Where a check has the law, the texts are the check's; each names a claim of the course."""
    lesson = law.lesson

    assert (law.id in REGISTRY) == (lesson is not law)
    assert lesson.claim in {claim.id for claim in all_claims()}
    assert lesson.concept
    assert lesson.why
    assert lesson.fix


def test_each_law_has_a_name_of_its_own() -> None:
    """A report names 32 laws, each by one name."""
    assert len({law.id for law in LAWS}) == len(LAWS) == 32


class Fails(Law):
    def on_finished(self) -> None:
        raise ValueError("an object of a kind that nobody thought of")


class Hears(Law):
    def on_finished(self) -> None:
        self.seen = True


def test_an_error_in_one_law_leaves_the_others_alone() -> None:
    """The script goes on, the others hear of the event, and the law that failed kept nothing."""
    trace = Trace([Fails, Hears])

    trace.tell("finished")

    assert trace.errors == ["fails: ValueError: an object of a kind that nobody thought of"]
    assert [law.gave_up for law in trace.laws] == [True, False]
    assert trace.laws[1].seen
