"""Claims are read from the heads of their files, and a file that breaks a rule is not collected."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlconcepts.testing.claims import (
    LESSONS,
    TESTS,
    Claim,
    ClaimError,
    all_claims,
    claim_of_file,
    listed,
)
from tests.machinery.suites import CLAIM, HEAD, LAW, OPINION, Suite

MARK = "@law(right=double, wrong={squares: 'twice the number'})"

# Every claim that the course has had. Ids are added, never removed or renamed.
IDS = Path(__file__).with_name("ids.txt").read_text(encoding="utf-8").split()


def test_no_claim_of_the_course_was_lost() -> None:
    """Each id in the list has a file; each file is in the list."""
    assert [claim.id for claim in all_claims()] == IDS


@pytest.mark.parametrize("lesson", LESSONS)
def test_each_file_of_a_lesson_is_listed_in_course_order(lesson: str) -> None:
    """CLAIMS of the lesson and the files beside it agree."""
    files = {path.name for path in (TESTS / lesson).glob("test_*.py")}

    assert {f"test_{name.replace('-', '_')}.py" for name in listed(lesson)} == files


@pytest.mark.parametrize("claim", all_claims(), ids=lambda claim: claim.id)
def test_a_claim_has_laws_unless_it_is_an_opinion(claim: Claim) -> None:
    """A testable claim has a law, and each law a sentence and a mistake; an opinion has none."""
    assert bool(claim.laws) == (claim.verdict != "opinion")
    assert all(law.sentence and law.wrong for law in claim.laws)


def test_reading_the_claims_imports_neither_torch_nor_the_tests() -> None:
    """The files are parsed, not imported."""
    program = (
        "import sys; from dlconcepts.cli import main; main(['claims', '--json'])\n"
        "print([n for n in sys.modules if n.partition('.')[0] in ('torch', 'tests', 'pytest')])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_a_head_is_read_in_parts(suite: Suite) -> None:
    """Title, demonstration and fields come out as they stand, folded lines joined."""
    path = suite.write(
        "tests/tensors/test_doubles.py",
        CLAIM.replace("Doubling adds.", "Doubling\n    adds.").replace(
            "Verdict: holds", "Verdict: corrected\nTruth: Only for\n    numbers."
        )
        + HEAD
        + MARK
        + LAW,
    )

    claim = claim_of_file(path, suite.tests)

    assert claim.id == "tensors.doubles"
    assert claim.title == "Doubling adds a number to itself"
    assert claim.demonstration == ">>> x = 3\n>>> y = x + x\n>>> y\n6"
    assert (claim.notes, claim.verdict, claim.truth) == (
        "Doubling adds.",
        "corrected",
        "Only for numbers.",
    )
    assert [law.wrong for law in claim.laws] == [{"squares": "twice the number"}]
    assert claim.laws[0].sentence == "Doubling adds a number to itself."
    assert claim.mistakes == {"squares": "Multiply it by itself."}


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (lambda text: text.split('"""')[2], 1, "has no head; begin with a docstring*"),
        (replaced("Doubling adds a number to itself.\n\n", ""), 1, "has no title; *"),
        (replaced("Notes: Doubling adds.\n", ""), 1, "has no Notes; add a line `Notes: ...`"),
        (replaced("Verdict: holds\n", ""), 1, "has no Verdict; add a line `Verdict: ...`"),
        (
            replaced("Verdict: holds", "Verdict: true"),
            9,
            "unknown verdict 'true'; choose one of holds, holds-if, corrected, opinion",
        ),
        (replaced("Verdict: holds", "Verdict: corrected"), 9, "corrected needs a Truth; *"),
        (
            replaced(">>> x = 3\n>>> y = x + x\n>>> y\n6\n", ""),
            1,
            "the demonstration types 0 lines; write 3 to 8 with >>>, and what they print",
        ),
        (replaced(">>> y\n6\n", ">>> y\n"), 3, "the demonstration types 3 lines; write 3 to 8 *"),
        (replaced("y = x + x", "y = = x"), 4, "the demonstration is no Python: *; mend it"),
        (replaced(">>> x = 3", ">>>x = 3"), 3, "the demonstration does not parse: *"),
        (replaced("def double", "def double double"), 18, "is no Python file in UTF-8: *"),
        (
            replaced("squares: 'twice the number'", "squares: 'a', squares: 'twice'"),
            32,
            "has two mistakes named squares; rename one",
        ),
    ],
)
def test_a_claim_file_that_breaks_a_rule_is_not_collected(
    change: Callable[[str], str], line: int, said: str, suite: Suite
) -> None:
    """The error names the file, the line and the remedy."""
    suite.write("tests/tensors/test_doubles.py", change(CLAIM + HEAD + MARK + LAW))

    result = suite.run_files()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*tests/tensors/test_doubles.py:{line}: {said}"])


def test_a_demonstration_that_prints_something_else_fails(suite: Suite) -> None:
    """The lines are run as they are printed; the failure names the file and the line."""
    result = suite.run(MARK + LAW, head=CLAIM.replace("\n6\n", "\n7\n"))

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*test_doubles.py:5: DocTestFailure"])


def test_a_demonstration_knows_only_torch_and_what_it_imports(suite: Suite) -> None:
    """A reader can type the lines: no name of the test file is there."""
    head = CLAIM.replace(">>> x = 3", ">>> x = 3 if torch.ones(1) == 1 else F.nn.np")
    suite.run(MARK + LAW, head=head).assert_outcomes(passed=3)

    result = suite.run(MARK + LAW, head=CLAIM.replace("x + x", "double(x)"))

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*NameError: name 'double' is not defined*"])


def test_a_law_about_an_opinion_is_not_collected(suite: Suite) -> None:
    """Nothing can test an opinion."""
    result = suite.run(MARK + LAW, head=OPINION)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*: the law test_doubling is about tensors.doubles, an opinion, which has no law; *"]
    )


def test_a_file_that_its_lesson_does_not_list_is_not_collected(suite: Suite) -> None:
    """The list says where in the course a claim stands."""
    suite.write("tests/tensors/__init__.py", 'CLAIMS = ["halves"]')
    suite.write("tests/tensors/test_halves.py", CLAIM + HEAD + MARK + LAW)

    result = suite.run(MARK + LAW)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_doubles.py:1: 'doubles' is not listed; add it to CLAIMS*"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ('CLAIMS = ["doubles", "halves"]', ":1: 'halves' has no file; write test_halves.py *"),
        ('CLAIMS = [\n"doubles",\n"doubles"]', ":3: 'doubles' is listed twice; delete one"),
        ("", ":1: has no list of claims; add CLAIMS = [[]...[]], in course order"),
    ],
)
def test_a_list_that_is_wrong_stops_the_collection(suite: Suite, names: str, said: str) -> None:
    """A name without a file, or twice, and a lesson without a list, are errors."""
    suite.write("tests/tensors/__init__.py", names)

    result = suite.run(MARK + LAW)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*tests/tensors/__init__.py{said}"])


def test_a_law_outside_of_the_lessons_is_not_collected(suite: Suite) -> None:
    """A law proves a claim, so it stands in the folder of a lesson."""
    suite.write("tests/other/test_doubles.py", CLAIM + HEAD + MARK + LAW)

    result = suite.run_files()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*tests/other/test_doubles.py:1: is in no lesson; move it to a folder of *"]
    )


def test_a_name_without_file_is_found_when_the_claims_are_listed(tmp_path: Path) -> None:
    """`all_claims` raises an error that says which file to write."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "__init__.py").write_text('CLAIMS = ["lost"]')

    with pytest.raises(ClaimError, match=re.escape("'lost' has no file; write test_lost.py")):
        all_claims(tmp_path)
