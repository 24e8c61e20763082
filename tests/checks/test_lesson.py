"""The lesson of a check: what it needs, what it says, and how a function becomes a check."""

import random
import warnings

import pytest
import torch
from torch import nn

from dlconcepts.checks import registry as lesson
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import (
    CheckFailedError,
    Lesson,
    NotCheckedError,
    broken,
)

PARTS = {
    "claim": "networks.a-claim",
    "concept": "A concept",
    "why": "the reason",
    "fix": "the fix",
    "reproducer": "\nx = 1\nassert x\n",
    "needs": ("model",),
}

TOLD = """\
A concept
    observed   2 of 3 were wrong
    why        the reason
    fix        the fix
    claim      networks.a-claim (python -m dlconcepts claims networks.a-claim)
    reproduce  with your parts, named as in the table of dlconcepts.checks
        x = 1
        assert x"""


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(lesson, "REGISTRY", {})
    return lesson.REGISTRY


def check_a_small_law(project):
    """Check nothing."""


# ------------------------------------------------------------------------ the lesson


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "model, loss_fn, fit or evaluate"),
        ({"model": nn.Identity()}, "loss_fn, fit or evaluate"),
        ({"model": nn.Identity(), "loss_fn": print}, "fit or evaluate"),
        ({"model": nn.Identity(), "fit": print}, "loss_fn"),
        ({"loss_fn": print, "evaluate": print}, "model"),
        ({"model": nn.Identity(), "loss_fn": print, "evaluate": print}, ""),
    ],
)
def test_a_lesson_names_every_part_that_is_missing(given, says):
    """A check needs all parts in `needs`, and one of those in `any_of`."""
    law = Lesson("a", "A", "w", "f", "c.d", "x", ("model", "loss_fn"), ("fit", "evaluate"))

    assert law.missing(Project(**given)) == says


def test_what_a_failing_check_says_is_the_whole_lesson():
    """The message has the observation, the reason, the fix, the claim and a reproducer."""
    law = Lesson(name="a-law", **PARTS)

    error = CheckFailedError(law, "2 of 3 were wrong")

    assert str(error) == TOLD
    assert (error.lesson, error.observed) == (law, "2 of 3 were wrong")


# ------------------------------------------------------------------------ the law


def test_a_law_has_the_name_of_its_function_and_the_lesson_it_was_given(registry):
    """The registry has the check under the name that users type."""
    check = lesson.law(**PARTS, any_of=("fit", "evaluate"))(check_a_small_law)

    assert registry == {"a-small-law": check}
    assert check.lesson == Lesson(
        name="a-small-law",
        concept="A concept",
        why="the reason",
        fix="the fix",
        claim="networks.a-claim",
        reproducer=PARTS["reproducer"],
        needs=("model",),
        any_of=("fit", "evaluate"),
    )
    assert (check.__name__, check.__doc__) == ("check_a_small_law", "Check nothing.")


def test_a_law_that_lacks_a_part_does_not_run(registry):
    """The error names the missing part."""
    check = lesson.law(**PARTS)(lambda project: broken("it ran"))

    with pytest.raises(NotCheckedError, match=r"^needs model$"):
        check()


def test_a_broken_law_raises_its_lesson_with_what_was_seen(registry):
    """The observation of the body becomes part of the lesson."""

    def check_all(project):
        broken("2 of 3 were wrong")

    check = lesson.law(**PARTS)(check_all)

    with pytest.raises(CheckFailedError) as caught:
        check(model=nn.Identity())
    assert str(caught.value) == TOLD
    assert caught.value.lesson is check.lesson
    assert caught.value.__context__ is None, "nobody reads of two errors"


def test_a_law_takes_the_parts_or_the_project_that_has_them(registry):
    """A report runs all checks on one project."""
    seen = []
    check = lesson.law(**PARTS)(lambda project: seen.append(project))
    project = Project(model=nn.Identity())

    check(project)
    check(model=project.model)

    assert seen[0] is project
    assert seen[1].model is project.model


def test_what_the_projects_code_raises_passes_through(registry):
    """An error in the project's code is not wrapped."""

    def check_all(project):
        project.model(torch.ones(1))

    def fail(inputs):
        raise KeyError("mine")

    check = lesson.law(**PARTS)(check_all)

    with pytest.raises(KeyError, match="mine"):
        check(model=CallsBack(fail))


class CallsBack(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs)


def test_a_law_leaves_settings_random_states_and_the_model_as_they_were(registry):
    """A check restores everything, even if it fails."""

    def check_all(project):
        torch.set_grad_enabled(False)
        torch.manual_seed(5)
        random.seed(5)
        project.model.weight.data.zero_()
        warnings.warn("told to nobody", stacklevel=1)
        broken("it is")

    model = nn.Linear(1, 1)
    before = model.weight.item(), torch.get_rng_state().tolist(), random.getstate()
    check = lesson.law(**PARTS)(check_all)

    with pytest.raises(CheckFailedError):
        check(model=model)

    assert torch.is_grad_enabled()
    assert (model.weight.item(), torch.get_rng_state().tolist(), random.getstate()) == before


def test_a_law_counts_the_passes_of_the_model_that_it_made(registry):
    """Every pass of a copy of the project's model counts."""

    def check_all(project):
        model = project.fresh()
        model(torch.ones(1)), model(torch.ones(1))

    project = Project(model=nn.Identity())
    lesson.law(**PARTS)(check_all)(project)

    assert project.passes == 2
