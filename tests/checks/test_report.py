"""The report of the checks: what it says, what it writes, and how pytest runs it."""

import inspect
import sysconfig
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from dlconcepts import checks
from dlconcepts.checks import CheckFailedError
from dlconcepts.checks.report import Report, Result, foreign, judge, project_of, wrapped

MODEL, BATCH = nn.Linear(2, 1), torch.ones(3, 2)


def result(status, details="", *, check="a-law", passes=2, seconds=0.25):
    return Result(check, status, details, "A concept", "lesson.claim", passes, seconds)


EVERY_STATUS = Report(
    (
        result("not checked", "needs targets", check="a"),
        result("excepted", "on purpose", check="b"),
        result("error", "KeyError: <é>\n    at net.py:3, in step: d[x]", check="c"),
        result("passed", check="d", seconds=1.23456),
        result("FAILED", "A concept\n    observed   2 & 3", check="e"),
        result("not checked", "needs fit", check="f"),
        result("FAILED", "Another", check="g"),
        result("FAILED", "A third", check="h"),
    )
)

AS_JUNIT = """\
<?xml version='1.0' encoding='utf-8'?>
<testsuite name="dlconcepts.checks" tests="8" failures="3" errors="1" skipped="3">
  <testcase classname="lesson.claim" name="a" time="0.250">
    <skipped message="not checked: needs targets">needs targets</skipped>
  </testcase>
  <testcase classname="lesson.claim" name="b" time="0.250">
    <skipped message="excepted: on purpose">on purpose</skipped>
  </testcase>
  <testcase classname="lesson.claim" name="c" time="0.250">
    <error message="error: KeyError: &lt;é&gt;">KeyError: &lt;é&gt;
    at net.py:3, in step: d[x]</error>
  </testcase>
  <testcase classname="lesson.claim" name="d" time="1.235" />
  <testcase classname="lesson.claim" name="e" time="0.250">
    <failure message="FAILED: A concept">A concept
    observed   2 &amp; 3</failure>
  </testcase>
  <testcase classname="lesson.claim" name="f" time="0.250">
    <skipped message="not checked: needs fit">needs fit</skipped>
  </testcase>
  <testcase classname="lesson.claim" name="g" time="0.250">
    <failure message="FAILED: Another">Another</failure>
  </testcase>
  <testcase classname="lesson.claim" name="h" time="0.250">
    <failure message="FAILED: A third">A third</failure>
  </testcase>
</testsuite>
"""

AS_JSON = """\
{
  "ok": false,
  "results": [
    {
      "check": "a-law",
      "status": "FAILED",
      "details": "2 < 3",
      "concept": "A concept",
      "claim": "lesson.claim",
      "passes": 2,
      "seconds": 0.25
    }
  ]
}
"""

AS_TEXT = """\
error  KeyError: <é>
    at net.py:3, in step: d[x]
    blocks     c

FAILED  e: A concept
    observed   2 & 3

FAILED  g: Another

FAILED  h: A third

passed       d
FAILED       e
FAILED       g
FAILED       h
error        c
excepted     b: on purpose
not checked  a: needs targets
not checked  f: needs fit

8 checks: 1 passed, 3 FAILED, 1 error, 1 excepted, 2 not checked; 16 forward passes
Give targets, and 1 more can run"""


# ------------------------------------------------------------------------ what is written


def test_the_junit_document_has_each_result_with_its_reason():
    """It counts the statuses, and gives the reason of each check that did not pass."""
    assert EVERY_STATUS.to_junit() == AS_JUNIT


@pytest.mark.parametrize("character", ["\x1b", "\0", "\ud800", "\ufffe"])
def test_what_xml_cannot_hold_is_replaced_in_the_junit_document(character):
    """An error with a terminal's escape sequence still gives valid XML."""
    report = Report((result("error", f"it said {character}[31m\u00e9 \U0001f525\n\tonce"),))

    part = ET.fromstring(report.to_junit())[0][0]

    assert part.text == "it said \ufffd[31m\u00e9 \U0001f525\n\tonce"
    assert part.get("message") == "error: it said \ufffd[31m\u00e9 \U0001f525"


def test_the_json_document_has_every_field_of_a_result():
    """It is indented, and ends with a newline."""
    assert Report((result("FAILED", "2 < 3"),)).to_json() == AS_JSON


def test_the_text_has_the_failures_first_and_then_each_check_by_status():
    """The lessons of the failures come before the list of all checks."""
    assert str(EVERY_STATUS) == AS_TEXT


@pytest.mark.parametrize(
    ("status", "ok"),
    [
        ("passed", True),
        ("excepted", True),
        ("not checked", True),
        ("FAILED", False),
        ("error", False),
    ],
)
def test_a_report_is_ok_unless_a_check_failed_or_raised(status, ok):
    """A check that could not run is not a failure."""
    report = Report((result("passed", check="another"), result(status, "why")))

    assert report.ok is ok
    assert [each.check for each in report.failed] == ([] if ok else ["a-law"])


def test_what_is_raised_for_failures_is_the_report_on_lines_of_its_own():
    """The report starts on a new line, below the name of the error."""
    with pytest.raises(AssertionError) as caught:
        EVERY_STATUS.raise_for_failures()

    assert str(caught.value) == f"\n{AS_TEXT}"


def test_a_long_reason_is_continued_under_its_beginning():
    """Lines have at most 96 characters, and continue below the name of the check."""
    report = Report((result("not checked", "needs " + "parts " * 20),))

    first, second, *_ = str(report).splitlines()[:2]

    assert first == "not checked  a-law: needs " + "parts " * 10 + "parts"
    assert second == " " * 13 + "parts " * 8 + "parts"


# ------------------------------------------------------------------------ wrapping


def test_a_long_line_of_a_lesson_is_continued_below_its_words():
    """The text of `why` and `fix` starts and continues at column 15."""
    line = "    why        " + "word " * 30

    assert wrapped(line) == [
        "    why        " + "word " * 15 + "word",
        " " * 15 + "word " * 13 + "word",
    ]


@pytest.mark.parametrize(
    "line", [" " * 8 + "x = 1; " * 30, "    claim      lesson." + "word " * 40 + "end"]
)
def test_code_and_the_claim_are_not_wrapped(line):
    """Both are there to be copied."""
    assert wrapped(line) == [line]


# ------------------------------------------------------------------------ whose code raised


@pytest.mark.parametrize(
    ("file", "is_foreign"),
    [
        ("/home/me/net.py", False),
        ("/home/me/checks/report.py", False),
        ("/venv/lib/site-packages/lib/net.py", True),
        (Path(sysconfig.get_path("stdlib")) / "json" / "decoder.py", True),
        (checks.report.__file__, True),
        ("<frozen importlib._bootstrap>", True),
        ("/home/me/<string>", True),
    ],
    ids=["own", "of our name", "installed", "standard library", "ours", "frozen", "no file"],
)
def test_a_file_is_foreign_if_it_is_installed_ours_or_no_file(file, is_foreign):
    """An error shows a line of the project, not of PyTorch or the checks."""
    assert foreign(Path(file)) is is_foreign


def raises(error):
    raise error


def judged_forward(error):
    project = project_of({"model": MODEL, "batch": BATCH, "forward": lambda *_: raises(error)})
    return judge("examples-stay-apart", project)


def test_an_error_is_told_with_the_innermost_line_of_the_project():
    """The details have the error, file, line, function and code."""
    line = inspect.getsourcelines(raises)[1] + 1

    found = judged_forward(ValueError("too small"))

    assert found.status == "error"
    assert found.details == (
        f"forward raised ValueError: too small\n    at {__file__}:{line}, in raises: raise error"
    )


@dataclass
class Unhashable:
    """A loss that is a data class, which has no hash."""

    def __call__(self, outputs, targets):
        raise ValueError("too small")


def test_an_error_of_a_part_without_a_hash_is_told_too():
    """Its place is named, as that of any other part."""
    given = project_of({"model": MODEL, "batch": (BATCH, BATCH), "loss_fn": Unhashable()})

    found = judge("every-parameter-gets-a-gradient", given)

    assert found.details.startswith("ValueError: too small\n    at ")


def test_an_error_in_no_line_of_the_project_is_told_without_a_place():
    """A model that does not fit its batch raises inside PyTorch."""
    found = judge("examples-stay-apart", project_of({"model": MODEL, "batch": torch.ones(3, 5)}))

    assert found.status == "error"
    assert "\n" not in found.details
    assert found.details.startswith("model raised RuntimeError: mat1 and mat2 shapes")


# ------------------------------------------------------------------------ running


def softmaxed():
    model = nn.Sequential(nn.Linear(2, 3), nn.Softmax(dim=1))
    batch = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    return {"model": model, "batch": batch, "loss_fn": nn.CrossEntropyLoss()}


def test_a_check_is_reported_with_its_lesson_its_passes_and_its_time():
    """A result needs no other table to be understood."""
    found = checks.check(model=MODEL, batch=BATCH)["examples-stay-apart"]

    lesson = checks.REGISTRY["examples-stay-apart"].lesson
    assert (found.check, found.status, found.details) == ("examples-stay-apart", "passed", "")
    assert (found.concept, found.claim) == (lesson.concept, lesson.claim)
    assert found.passes > 0
    assert 0 < found.seconds < 60


def test_the_passes_of_each_check_are_counted_anew():
    """A check does not count the passes of the one before."""
    project = project_of({"model": MODEL, "batch": BATCH})

    first, again = (judge("examples-stay-apart", project) for _ in range(2))

    assert first.passes == again.passes


def test_an_excepted_check_does_not_run():
    """It makes no pass, and its details are the caller's reason."""
    project = project_of({"model": MODEL, "batch": BATCH})
    project.passes = 9

    found = judge("examples-stay-apart", project, "on purpose")

    assert (found.status, found.details, found.passes) == ("excepted", "on purpose", 0)


def test_a_failure_is_reported_with_the_whole_lesson():
    """The details are the message of the check called directly."""
    parts, name = softmaxed(), "cross-entropy-is-given-logits"

    with pytest.raises(CheckFailedError) as caught:
        checks.REGISTRY[name](**parts)

    found = checks.check(**parts)[name]
    assert (found.status, found.details) == ("FAILED", str(caught.value))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("modle", "a project has no part 'modle': did you mean 'model'?"),
        ("zzz", "a project has no part 'zzz'; choose from model, batch, data, loader"),
    ],
)
def test_a_part_that_does_not_exist_is_refused_with_the_names_there_are(name, says):
    """The message suggests the nearest name, or lists all of them."""
    with pytest.raises(TypeError) as caught:
        checks.check(**{name: MODEL})

    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("except_for", "says"),
    [
        (
            {"examples-stay-appart": "why"},
            "except_for names 'examples-stay-appart', which is no check: "
            "did you mean 'examples-stay-apart'?",
        ),
        (
            {"zzz": "why"},
            "except_for names 'zzz', which is no check; choose from",
        ),
        (
            {"examples-stay-apart": ""},
            "except_for['examples-stay-apart'] needs the reason why the check does not apply",
        ),
    ],
)
def test_an_exception_is_refused_with_what_is_wrong_about_it(except_for, says):
    """The message suggests the nearest check, or lists all of them."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        checks.check(model=MODEL, except_for=except_for)

    assert str(caught.value).startswith(says)


# ------------------------------------------------------------------------ pytest


def items_of(mark):
    argument, values = mark.mark.args
    assert (mark.name, argument) == ("parametrize", "check"), "the test takes the check by name"
    return {value.id: value.values[0] for value in values}


def ran(item):
    try:
        item()
    except pytest.skip.Exception as reason:
        return f"skipped, {reason}"
    return "passed"


def test_every_check_becomes_an_item_under_its_name():
    """The id is the name of the check, which works with -k."""
    items = items_of(checks.parametrize(model=MODEL, batch=BATCH))

    assert list(items) == list(checks.REGISTRY)
    assert ran(items["examples-stay-apart"]) == "passed"


def test_an_item_is_skipped_with_what_is_missing():
    """A test that could not run must not pass."""
    items = items_of(checks.parametrize(model=MODEL, batch=BATCH))

    found = ran(items["the-mode-is-restored"])

    assert found == "skipped, not checked: needs evaluate"


def test_an_excepted_item_is_skipped_with_the_reason_of_the_caller():
    """An excepted check is skipped even if the law is broken; the others run."""
    excepted = {"cross-entropy-is-given-logits": "on purpose"}
    items = items_of(checks.parametrize(**softmaxed(), except_for=excepted))

    found = ran(items["cross-entropy-is-given-logits"])

    assert found == "skipped, excepted: on purpose"
    assert ran(items["examples-stay-apart"]) == "passed"


@pytest.mark.parametrize("by", ["parts", "function"])
def test_an_item_fails_with_the_lesson(by):
    """Parts, and a function that returns them, give the same failure."""
    mark = checks.parametrize(softmaxed) if by == "function" else checks.parametrize(**softmaxed())

    with pytest.raises(CheckFailedError, match="Softmax before cross-entropy") as caught:
        ran(items_of(mark)["cross-entropy-is-given-logits"])

    ours = [entry for entry in caught.traceback if entry.name == "run"]
    assert all(entry.ishidden(caught) for entry in ours), "pytest shows the lesson, not our code"
    assert len(ours) == 1


def test_a_function_for_the_project_is_called_when_an_item_runs():
    """Collecting builds no model, and each test gets a new project."""
    calls = []

    def parts():
        calls.append(1)
        return {"model": MODEL, "batch": BATCH}

    items = items_of(checks.parametrize(parts))
    at_collection = len(calls)
    found = [ran(items["examples-stay-apart"]) for _ in range(2)]

    assert found == ["passed", "passed"]
    assert (at_collection, len(calls)) == (0, 2)


def test_what_a_function_for_the_project_returns_is_refused_like_parts():
    """A misspelt part is an error in each test."""
    items = items_of(checks.parametrize(lambda: {"modle": MODEL}))

    with pytest.raises(TypeError, match="did you mean 'model'"):
        ran(items["examples-stay-apart"])
