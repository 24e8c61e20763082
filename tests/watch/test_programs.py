"""Each law accepts every correct script, and rejects each planted bug on its line."""

import functools
from collections import Counter

import pytest

from dlconcepts.watch.laws import LAWS
from tests.watch.mutations import BUGS, Bug, Mutant
from tests.watch.programs import KINDS, sample

POOL = 80  # composed scripts, among which each bug finds some to be planted in


@functools.cache
def candidates() -> list:
    return [*KINDS.values(), *sample(POOL, seed=1)]


@functools.cache
def planted(bug: Bug) -> list[Mutant]:
    return [mutant for program in candidates() if (mutant := bug.plant(program))]


def described(findings: list[dict]) -> str:
    return "; ".join(f"{f['law']}:{f['line']} {f['message']}" for f in findings)


@pytest.mark.parametrize("program", [*KINDS.values(), *sample(12)], ids=lambda p: p.name)
def test_a_correct_script_breaks_no_law(runner, program, tmp_path) -> None:
    """Whatever a correct script is made of, no law is called broken, and it ends with status 0."""
    run = runner.run(program.text, tmp_path)

    assert described(run.broken()) == "", program.text
    assert run.status == 0, run.errors


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.id)
def test_a_planted_bug_is_named_at_its_line(runner, law, tmp_path) -> None:
    """One bug of each law is named, at most three lines from it, with a proof, and status 3.

    `benchmarks/watch.py --laws` runs all bugs in many scripts, and says how many are named.
    """
    bug = next(bug for bug in BUGS if bug.law == law.id)
    mutant = planted(bug)[0]

    run = runner.run(mutant.text, tmp_path)

    found = [finding for finding in run.broken() if finding["law"] == law.id]
    assert found, f"{law.id} says nothing of {mutant}: {described(run.findings())}"
    assert any(mutant.near(finding["line"]) for finding in found), (
        f"{mutant} is at {sorted(mutant.lines)}, not at {described(found)}"
    )
    assert all(finding["proof"] for finding in found)
    assert run.status == 3


def test_each_law_has_two_bugs_at_least() -> None:
    """A law that is tested on one way to break it may know only that way."""
    count = Counter(bug.law for bug in BUGS)

    assert {law.id for law in LAWS} == set(count)
    assert min(count.values()) >= 2


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_planted_where_it_says(bug) -> None:
    """A bug applies to some script, changes it, and marks lines that the script has."""
    mutants = planted(bug)
    texts = {program.name: program.text for program in candidates()}

    assert mutants
    for mutant in mutants:
        compile(mutant.text, "train.py", "exec")
        assert mutant.text != texts[mutant.program]
        assert max(mutant.lines) <= len(mutant.text.splitlines())
