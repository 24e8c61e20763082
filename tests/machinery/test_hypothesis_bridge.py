"""What Hypothesis does not document is checked at import, and a missing part is named."""

import hypothesis.internal.conjecture.engine as engine
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import shrinker as shrinking

from dlconcepts.testing import hypothesis_bridge as bridge


def test_this_version_of_hypothesis_has_every_part() -> None:
    """Nothing is missing in the installed version."""
    assert bridge.missing_parts() == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (engine, "MAX_SHRINKING_SECONDS"),
        (engine.ConjectureRunner, "generate_mutations_from"),
        (shrinking.Shrinker, "check_calls"),
    ],
)
def test_a_renamed_part_is_named_with_the_versions_that_work(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error says what is missing and which versions have it."""
    monkeypatch.delattr(owner, name)

    with pytest.raises(
        ImportError, match=rf"lacks hypothesis\.internal\.\S*{name}.*{bridge.TRIED}"
    ):
        bridge.check()


def test_a_block_replaces_the_body_and_the_settings_of_a_test() -> None:
    """Inside the block the test runs the other body with other settings; afterwards its own."""
    seen = []

    @settings(max_examples=2, database=None)
    @given(st.integers())
    def numbers(n: int) -> None:
        seen.append("own")

    def other(body: object) -> object:
        def example(n: int) -> None:
            seen.append("other")

        return example

    with bridge.replaced(numbers, other, settings(max_examples=7, database=None)):
        numbers()
    assert seen == ["other"] * 7

    numbers()
    assert seen[7:] == ["own"] * 2
    assert bridge.settings_of(numbers).max_examples == 2
    assert bridge.subject_argument(numbers) == "n"
