"""A script computes, prints and writes the same, bit for bit, with `watch` and without."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlconcepts.watch import watching
from tests.watch.mutations import BUGS, Mutant
from tests.watch.programs import programs
from tests.watch.running import EPILOGUE, ROOT
from tests.watch.scripts import controls, mistakes, script
from tests.watch.test_programs import planted

# Each example is two runs of a script, so there are a tenth as many as elsewhere.
few = settings(max_examples=max(2, settings.default.max_examples // 10))
# Which draw numbers from generators that nobody seeds, so that no two runs are alike.
NEVER_TWICE_THE_SAME = {"a_generator_that_nobody_seeds", "figures_that_are_no_means"}
PROJECTS = [
    make
    for make in [*controls().values(), *(mistake.wrong for mistake in mistakes())]
    if make.__name__ not in NEVER_TWICE_THE_SAME
]
MUTANTS: st.SearchStrategy[Mutant] = st.sampled_from(BUGS).flatmap(
    lambda bug: st.sampled_from(planted(bug))
)
OURS = {"train.py", "printed.txt", "errors.txt", "report.json"}


def left_behind(runner, text, *, watched, root=None):
    """Return what a run prints, and the bytes of each file it writes, by name.

    One of the files holds what it computed: tensors, modes, gradients and random state.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = runner.run(text + EPILOGUE, folder, watched=watched, root=root)
        written = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name not in OURS
        }
    assert run.status in (0, 3), run.errors
    return run.printed, written


def assert_unchanged(runner, text, root=None) -> None:
    plain, seen = (left_behind(runner, text, watched=w, root=root) for w in (False, True))
    assert seen[0] == plain[0], "prints the same"
    assert seen[1].keys() == plain[1].keys(), "writes the same files"
    for name, content in plain[1].items():
        assert seen[1][name] == content, f"{name} has the same bytes"


@few
@given(program=programs())
def test_a_correct_script_computes_the_same_when_it_is_watched(runner, program) -> None:
    """Weights, losses, random state and files of a watched run are those of a plain one."""
    assert_unchanged(runner, program.text)


@few
@given(mutant=MUTANTS)
def test_a_script_with_a_bug_computes_the_same_when_it_is_watched(runner, mutant) -> None:
    """A proof recomputes things, but a bug still does what it did."""
    assert_unchanged(runner, mutant.text)


@few
@given(make=st.sampled_from(PROJECTS))
def test_a_project_of_the_gallery_computes_the_same_when_it_is_watched(runner, make) -> None:
    """The projects of the gallery compute the same, too."""
    assert_unchanged(runner, script(make), root=ROOT)


def test_no_hook_stays_behind() -> None:
    """torch.compile warns of global hooks, also of one that forgot only its arguments."""
    with watching():
        torch.nn.Linear(2, 2)(torch.ones(1, 2))

    assert not torch.nn.modules.module._has_any_global_hook()
