"""What a failing check says: a lesson, with the observation that it rests on."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dlconcepts.checks.project import Project, watched
from dlconcepts.checks.settings import settings_kept

LEDGER = "tests/claims.toml"


@dataclass(frozen=True)
class Lesson:
    """What a check has to teach: the concept, why it matters, the fix, a reproducer, the claim.

    The reproducer is plain PyTorch over names of the reader's own parts; its last assertion fails
    where the law is broken. `needs` names the parts without which the check cannot run; of
    those in `any_of` one is enough.
    """

    name: str
    concept: str
    why: str
    fix: str
    claim: str
    reproducer: str = field(repr=False)
    needs: tuple[str, ...]
    any_of: tuple[str, ...] = ()

    def missing(self, project: Project) -> str:
        """Return which parts a project lacks for the check, empty if it lacks none."""
        lacks = [part for part in self.needs if not project.has(part)]
        if self.any_of and not any(project.has(part) for part in self.any_of):
            lacks.append(" or ".join(self.any_of))
        return ", ".join(lacks)


class CheckFailedError(AssertionError):
    """A law that a project breaks: `lesson` says what it is about, `observed` what was seen."""

    def __init__(self, lesson: Lesson, observed: str) -> None:
        """Tell the lesson."""
        self.lesson, self.observed = lesson, observed
        code = "\n".join(f"        {line}" for line in lesson.reproducer.strip().splitlines())
        super().__init__(
            f"{lesson.concept}\n"
            f"    observed   {observed}\n"
            f"    why        {lesson.why}\n"
            f"    fix        {lesson.fix}\n"
            f"    claim      {lesson.claim} ({LEDGER})\n"
            f"    reproduce  with your parts, named as in the table of dlconcepts.checks\n{code}"
        )


class NotCheckedError(Exception):
    """A check that does not apply to a project, or lacks a part of it; the message says which."""


class BrokenLawError(Exception):
    """What the body of a check saw; the check makes a lesson of it."""


def broken(observed: str) -> NoReturn:
    """End a check with what it saw."""
    raise BrokenLawError(observed)


def not_checked(why: str) -> NoReturn:
    """End a check that cannot say anything about the project."""
    raise NotCheckedError(why)


Check = Callable[..., None]
REGISTRY: dict[str, Check] = {}


def law(
    *,
    claim: str,
    concept: str,
    why: str,
    fix: str,
    reproducer: str,
    needs: tuple[str, ...],
    any_of: tuple[str, ...] = (),
) -> Callable[[Callable[[Project], None]], Check]:
    """Make a public check of a function that looks at a project and calls `broken`.

    The check takes the parts of a project by keyword, as `dlconcepts.checks.check` does, and
    raises CheckFailedError with the lesson, NotCheckedError, or whatever the project's own code
    raises. Everything that it was given is as before afterwards.
    """

    def register(body: Callable[[Project], None]) -> Check:
        name = body.__name__.removeprefix("check_").replace("_", "-")
        lesson = Lesson(name, concept, why, fix, claim, reproducer, needs, any_of)

        @functools.wraps(body)
        def check(project: Project | None = None, /, **parts: Any) -> None:
            project = Project(**parts) if project is None else project
            try:
                with settings_kept(), warnings.catch_warnings(), watched(project):
                    warnings.simplefilter("ignore")  # a check runs code in unusual ways
                    if lacks := lesson.missing(project):
                        raise NotCheckedError(f"needs {lacks}")
                    body(project)
            except BrokenLawError as observation:
                failure = CheckFailedError(lesson, str(observation))
            else:
                return
            raise failure

        check.lesson = lesson  # type: ignore[attr-defined]
        REGISTRY[name] = check
        return check

    return register
