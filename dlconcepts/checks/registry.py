"""A check and its lesson: what a failure says, and how a function becomes a check."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dlconcepts.checks.batches import NotCheckedError as NotCheckedError
from dlconcepts.checks.batches import not_checked as not_checked
from dlconcepts.checks.project import Project, watched
from dlconcepts.checks.settings import settings_kept

__all__ = ["REGISTRY", "CheckFailedError", "Lesson", "NotCheckedError"]


@dataclass(frozen=True)
class Lesson:
    """What a check teaches: the concept, why it matters, the fix, the claim, a reproducer.

    The reproducer is plain PyTorch that uses the parts by name; its last assertion fails if the law
    is broken. The check needs all parts in `needs`, and at least one of those in `any_of`.
    """

    name: str
    claim: str
    concept: str
    why: str
    fix: str
    reproducer: str = field(repr=False)
    needs: tuple[str, ...] = ("model", "batch")
    any_of: tuple[str, ...] = ()

    def missing(self, project: Project) -> str:
        """Return the parts that a project lacks for the check, empty if it lacks none."""
        lacks = [part for part in self.needs if not project.has(part)]
        if self.any_of and not any(project.has(part) for part in self.any_of):
            lacks.append(" or ".join(self.any_of))
        return ", ".join("loss_fn" if part == "loss" else part for part in lacks)


class CheckFailedError(AssertionError):
    """A project breaks a law: `lesson` explains the law, `observed` says what happened."""

    def __init__(self, lesson: Lesson, observed: str) -> None:
        self.lesson, self.observed = lesson, observed
        code = "\n".join(f"        {line}" for line in lesson.reproducer.strip().splitlines())
        super().__init__(
            f"{lesson.concept}\n"
            f"    observed   {observed}\n"
            f"    why        {lesson.why}\n"
            f"    fix        {lesson.fix}\n"
            f"    claim      {lesson.claim} (python -m dlconcepts claims {lesson.claim})\n"
            f"    reproduce  with your parts, named as in the table of dlconcepts.checks\n{code}"
        )


class BrokenLawError(Exception):
    """What the body of a check observed; the check adds its lesson."""


def broken(observed: str) -> NoReturn:
    raise BrokenLawError(observed)


Check = Callable[..., None]
REGISTRY: dict[str, Check] = {}


def law(**lesson_fields: Any) -> Callable[[Callable[[Project], None]], Check]:
    """Make a public check of a function that inspects a project and calls `broken`.

    The check takes the parts of a project by keyword, as `dlconcepts.checks.check` does. It raises
    CheckFailedError with the lesson, NotCheckedError, or whatever the project's own code raises,
    and restores everything that it was given.
    """

    def register(body: Callable[[Project], None]) -> Check:
        name = body.__name__.removeprefix("check_").replace("_", "-")
        lesson = Lesson(name, **lesson_fields)

        @functools.wraps(body)
        def check(project: Project | None = None, /, **parts: Any) -> None:
            project = Project(**parts) if project is None else project
            try:
                with settings_kept(), warnings.catch_warnings(), watched(project):
                    warnings.simplefilter("ignore")  # a check runs code in unusual ways
                    if lacks := lesson.missing(project):
                        not_checked(f"needs {lacks}")
                    project.rearranged = False
                    try:
                        body(project)
                    except (BrokenLawError, NotCheckedError):
                        raise
                    except Exception as error:
                        if project.rearranged and project.works():
                            said = f"{type(error).__name__}: {str(error)[:80]}"
                            not_checked(f"needs a batch that can be taken apart ({said})")
                        raise
            except BrokenLawError as observation:
                failure = CheckFailedError(lesson, str(observation))
            else:
                return
            raise failure  # outside the except clause, so that nobody reads two tracebacks

        check.lesson = lesson  # type: ignore[attr-defined]
        REGISTRY[name] = check
        body.__globals__.setdefault("__all__", []).append(body.__name__)  # the checks are public
        return check

    return register
