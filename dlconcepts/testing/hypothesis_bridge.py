"""Everything here that Hypothesis does not document; no other module touches such a part.

Each part is looked up at import. If Hypothesis renames one, the error names it at once, instead of
a law that silently stops counting its examples.
"""

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from operator import attrgetter
from typing import Any

import hypothesis
import hypothesis.internal.conjecture.engine as engine
import hypothesis.internal.escalation as escalation
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import shrinker as shrinking

NEVER = 10**6  # seconds
TRIED = "6.150 to 6.170"  # the versions that CI and `tox -e oldest` run
EXHAUSTED = "nothing left to do"


def missing_parts() -> list[str]:
    """Return the parts that this version of Hypothesis lacks, by their full names."""

    @settings(max_examples=1)
    @given(st.none())
    def any_test(_: None) -> None: ...

    places = (
        (engine, "MAX_SHRINKING_SECONDS"),
        (engine, "ExitReason.very_slow_shrinking"),
        (engine, "ConjectureRunner.generate_mutations_from"),
        (shrinking, "Shrinker.check_calls"),
        (escalation, "current_pytest_item.with_value"),
        (any_test, "hypothesis.inner_test"),
        (any_test, "_hypothesis_internal_use_settings"),
    )
    missing = []
    for owner, name in places:
        try:
            attrgetter(name)(owner)
        except AttributeError:
            missing.append(f"{owner.__name__}.{name}")
    return missing


def check() -> None:
    """Raise ImportError, naming what is missing, unless this version of Hypothesis will do."""
    if missing := missing_parts():
        raise ImportError(
            f"hypothesis {hypothesis.__version__} lacks {' and '.join(missing)}, which "
            f"dlconcepts.testing needs; install a version from {TRIED}"
        )


check()
OWN_CHECK = shrinking.Shrinker.check_calls


def limit_shrinking(runs: int) -> None:
    """Stop the search for a smaller counterexample, and its explanation, after so many runs.

    Hypothesis limits them by seconds, so that a busy machine would show a larger counterexample.
    """

    def check_calls(shrinker: Any) -> None:
        if shrinker.calls - shrinker.initial_calls >= runs:
            # What Hypothesis does once its seconds are over, in both phases.
            shrinker.engine.exit_with(engine.ExitReason.very_slow_shrinking)
        OWN_CHECK(shrinker)

    engine.MAX_SHRINKING_SECONDS = NEVER
    shrinking.Shrinker.check_calls = check_calls  # type: ignore[assignment,method-assign]


def draw_every_example_anew() -> None:
    """Turn off the variants that Hypothesis tries of each example it draws.

    Of 100 examples only a few are otherwise draws of their own: of the 20 valid combinations of
    SGD's settings a law met 8, and 19 without variants.
    """

    def no_mutations(runner: Any, data: Any) -> None: ...

    engine.ConjectureRunner.generate_mutations_from = no_mutations  # type: ignore[assignment,method-assign]


def is_law(test: Callable[..., Any]) -> bool:
    return hasattr(test, "hypothesis")


def subject_argument(test: Any) -> str:
    """Return the name of a test's first argument, which takes the subject of a law."""
    return next(iter(inspect.signature(inspect.unwrap(test.hypothesis.inner_test)).parameters))


@contextmanager
def replaced(
    test: Any, around: Callable[[Callable[..., None]], Callable[..., None]], asked: settings
) -> Generator[None]:
    """Run a test with other settings, and `around(body)` in place of its body, for a block."""
    body, before = test.hypothesis.inner_test, settings_of(test)
    # Hypothesis reads the names of the arguments from the body.
    test.hypothesis.inner_test = functools.wraps(body)(around(body))
    test._hypothesis_internal_use_settings = asked
    try:
        yield
    finally:
        test.hypothesis.inner_test, test._hypothesis_internal_use_settings = body, before


def plain_tracebacks() -> AbstractContextManager[object]:
    """Let Hypothesis format tracebacks as Python does, and not as pytest does, for a block."""
    return escalation.current_pytest_item.with_value(None)


def settings_of(test: Any) -> settings:
    found: settings = test._hypothesis_internal_use_settings
    return found


def statistics_of(item: object) -> str:
    """Return what Hypothesis says of the examples of an item that has run.

    It has EXHAUSTED if Hypothesis stopped because there was no other example to try.
    """
    return str(getattr(item, "hypothesis_statistics", ""))
