"""The machinery itself, on tiny suites: what must fail does fail, and says why.

Each test writes a suite of a few lines beside a copy of conftest.py, runs it, and looks at the
outcome and at what was recorded. A machinery that let a vacuous mistake pass would make every
other test of the project worthless.
"""

import platform
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
LEDGER = """
[[claim]]
id = "tensors.doubles"
notes = "Doubling adds a number to itself."
verdict = "holds"
law = "double(x) == x + x"
wrong = ["squares"]

[[claim]]
id = "tensors.taste"
notes = "Doubling is beautiful."
verdict = "opinion"
"""
HEAD = """
import pytest, torch
from hypothesis import assume, given, settings, strategies as st

claim = pytest.mark.claim

def double(x): return x + x
def squares(x): return x * x
def crashes(x): raise RuntimeError("broken")
def also_doubles(x): return 2 * x
"""
LAW = """
@given(x=st.integers(0, 1000))
def test_doubling(double, x):
    assert double(x) == x + x, "twice the number"
"""


class Suite:
    """A tiny suite in a folder of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        """Lay down the machinery and a ledger of two claims."""
        self.pytester = pytester
        shutil.copy(ROOT / "conftest.py", pytester.path)
        shutil.copy(ROOT / "pyproject.toml", pytester.path)
        (pytester.path / "tests").mkdir()
        (pytester.path / "tests" / "claims.toml").write_text(LEDGER)

    def run(self, body: str, *options: str) -> pytest.RunResult:
        """Write the body as a test file and run the suite in the ci profile."""
        (self.pytester.path / "tests" / "test_doubles.py").write_text(HEAD + body)
        profile = settings.get_current_profile_name()
        try:
            return self.pytester.runpytest_inprocess(
                "--hypothesis-profile=ci", "--junitxml=results.xml", *options
            )
        finally:
            settings.load_profile(profile)

    def compare_with_the_ledger(self) -> None:
        """Lay down the tests of the ledger too, under a name that is not imported yet."""
        shutil.copy(
            ROOT / "tests" / "test_claims.py", self.pytester.path / "tests" / "test_ledger.py"
        )

    def records(self) -> list[dict[str, str]]:
        """Return the properties that each item recorded."""
        cases = ET.parse(self.pytester.path / "results.xml").iter("testcase")
        found = [{p.attrib["name"]: p.attrib["value"] for p in c.iter("property")} for c in cases]
        return [record for record in found if record]


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the meta device, which every machine has, a stand-in for an accelerator."""
    monkeypatch.setattr("dlconcepts.support.devices.find_device", torch.device)
    monkeypatch.setattr("dlconcepts.support.devices.DEVICES", ("cpu", "meta"))


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Suite:
    """Return an empty suite."""
    return Suite(pytester)


def test_right_passes_and_the_mistake_is_rejected_with_its_counterexample(suite: Suite) -> None:
    """What the report needs is recorded: examples run, and the smallest input that breaks."""
    mark = "@claim('tensors.doubles', right=double, wrong={squares: 'twice the number'})"

    result = suite.run(mark + LAW)

    result.assert_outcomes(passed=2)
    right, wrong = suite.records()
    assert (right["kind"], right["subject"], right["examples"]) == ("right", "double", "100")
    assert right["claim"] == wrong["claim"] == "tensors.doubles"
    assert right["verdict"] == "holds"
    assert (right["device"], right["torch"]) == ("cpu", torch.__version__)
    assert (wrong["kind"], wrong["subject"]) == ("wrong", "squares")
    assert wrong["reason"] == "twice the number"
    assert "x=1," in wrong["counterexample"]


def test_a_mistake_that_passes_is_an_error(suite: Suite) -> None:
    """A law that a so-called mistake obeys proves nothing."""
    mark = "@claim('tensors.doubles', right=double, wrong={also_doubles: 'twice the number'})"

    result = suite.run(mark + LAW)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*vacuous: also_doubles is a mistake, yet 1000 examples pass*"])


@pytest.mark.parametrize(
    ("mistake", "said"),
    [("squares", "*for another reason than 'thrice'*"), ("crashes", "*RuntimeError: broken*")],
)
def test_a_mistake_that_fails_for_another_reason_is_an_error(
    suite: Suite, mistake: str, said: str
) -> None:
    """Another message, or an exception that is no assertion, is not the stated reason."""
    mark = f"@claim('tensors.doubles', right=double, wrong={{{mistake}: 'thrice'}})"

    result = suite.run(mark + LAW)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([said])


def test_a_right_subject_that_breaks_the_law_fails(suite: Suite) -> None:
    """A failure of the right subject stays a failure, with its counterexample recorded."""
    result = suite.run("@claim('tensors.doubles', right=squares)" + LAW)

    result.assert_outcomes(failed=1)
    assert "x=1," in suite.records()[0]["counterexample"]


def test_too_few_examples_are_an_error(suite: Suite) -> None:
    """A law that ends early, although there was more to try, has not been tested."""
    law = "@given(x=st.integers())\ndef test_it(double, x): assume(abs(x) < 2)\n"

    result = suite.run("@claim('tensors.doubles', right=double)\n" + law)

    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r".*(too few examples: \d+ of 100 ran|Unsatisfiable|filter).*"])


def test_few_examples_are_enough_where_there_are_no_more(suite: Suite) -> None:
    """A law over two inputs runs two examples."""
    law = "@given(x=st.booleans())\ndef test_it(double, x): assert double(x) == x + x\n"

    result = suite.run("@claim('tensors.doubles', right=double)\n" + law)

    result.assert_outcomes(passed=1)
    assert suite.records()[0]["examples"] == "2"


def test_a_share_of_the_examples_needs_a_reason(suite: Suite) -> None:
    """An expensive law runs fewer examples if it says why, and the reason is recorded."""
    bare = suite.run("@claim('tensors.doubles', right=double, share=0.1)" + LAW)
    bare.assert_outcomes(errors=1)
    bare.stdout.fnmatch_lines(["*say why in because=*"])

    told = suite.run(
        "@claim('tensors.doubles', right=double, share=0.1, because='it is slow')" + LAW
    )

    told.assert_outcomes(passed=1)
    assert (suite.records()[0]["examples"], suite.records()[0]["reason"]) == ("10", "it is slow")


@pytest.mark.parametrize(
    ("mark", "law", "said"),
    [
        ("@claim('tensors.triples', right=double)", LAW, "*tensors.triples is not in claims.toml*"),
        ("@claim('tensors.taste', right=double)", LAW, "*is an opinion, which has no law*"),
        ("@claim('tensors.doubles')", LAW, "*missing 1 required*right*"),
        (
            "@claim('tensors.doubles', right=double)\n",
            "def test_two(double): assert double(1) == 2",
            "*it needs @given*",
        ),
    ],
)
def test_a_law_that_proves_no_claim_is_an_error(
    suite: Suite, mark: str, law: str, said: str
) -> None:
    """An unknown claim, an opinion, a law without subject or generated inputs: not collected."""
    result = suite.run(mark + law)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("@claim('tensors.doubles', right=double)", "*tensors.doubles has no mistake*"),
        ("@claim('tensors.halves', right=double)", "*tensors.doubles has no law*"),
    ],
)
def test_a_claim_without_law_or_mistake_is_an_error(suite: Suite, mark: str, said: str) -> None:
    """The ledger and the suite are compared, claim by claim."""
    more = LEDGER + LEDGER.split("[[claim]]")[1].replace("tensors.doubles", "tensors.halves")
    more = more.replace('\nid = "tensors.halves"', '\n[[claim]]\nid = "tensors.halves"')
    (suite.pytester.path / "tests" / "claims.toml").write_text(more)
    suite.compare_with_the_ledger()

    result = suite.run(mark + LAW)

    result.stdout.fnmatch_lines([said])


def test_a_lesson_without_laws_is_pending_and_listed(suite: Suite) -> None:
    """Claims of a lesson that is not built are skipped one by one, with their names."""
    suite.compare_with_the_ledger()

    result = suite.run("def test_nothing(): pass")

    result.stdout.fnmatch_lines(["SKIPPED*pending: tensors.doubles"])


@pytest.mark.usefixtures("meta")
def test_a_law_for_the_cpu_only_runs_there_whatever_the_device(suite: Suite) -> None:
    """A run on another device judges the whole claim: its CPU-only laws on the CPU, with reason."""
    mark = "@claim('tensors.doubles', right=double, wrong={squares: 'twice'}, cpu_only='it is shy')"

    result = suite.run(mark + LAW, "--device", "meta")

    result.assert_outcomes(passed=2)
    assert {record["device"] for record in suite.records()} == {"cpu"}
    assert {record["cpu_only"] for record in suite.records()} == {"it is shy"}


def test_a_skip_is_listed_with_its_reason(suite: Suite) -> None:
    """A law that is skipped is in the summary, and its record says which claim was not judged."""
    marks = "@pytest.mark.skip(reason='it is shy')\n@claim('tensors.doubles', right=double)"

    result = suite.run(marks + LAW)

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*it is shy"])
    assert suite.records()[0]["claim"] == "tensors.doubles"


@pytest.mark.usefixtures("meta")
def test_a_law_runs_on_each_device_and_its_mistakes_on_the_first(suite: Suite) -> None:
    """Tensors made inside a law are on the device of its run."""
    law = """
@claim('tensors.doubles', right=double, wrong={squares: 'is float'})
@given(x=st.integers(0, 9))
def test_device(double, x):
    made = torch.zeros(2)
    assert made.device.type in ("cpu", "meta")
    assert double is not squares, "it is float " + made.device.type
    print("made on", made.device.type)
"""

    result = suite.run(law, "--device", "cpu", "--device", "meta", "-s")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*made on cpu*", "*made on meta*"])
    assert [record["device"] for record in suite.records()] == ["cpu", "meta", "cpu"]


def test_the_results_name_torch_and_the_hardware(suite: Suite) -> None:
    """Results that are kept say what they were found with, beside the items."""
    suite.run("@claim('tensors.doubles', right=double)" + LAW)

    results = ET.parse(suite.pytester.path / "results.xml")
    found = {p.get("name"): p.get("value") for p in results.iterfind("./testsuite/properties/*")}
    assert (found["torch"], found["cpu"]) == (str(torch.__version__), platform.machine())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_ends_the_run(suite: Suite) -> None:
    """A run on CUDA without CUDA says why and exits with status 4: it skips nothing."""
    result = suite.run("@claim('tensors.doubles', right=double)" + LAW, "--device", "cuda")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*device 'cuda' is not available: *"])


def test_the_records_survive_workers(suite: Suite) -> None:
    """With pytest-xdist the properties of every item are in the one results file."""
    pytest.importorskip("xdist", reason="pytest-xdist is not installed (extra `test`)")
    mark = "@claim('tensors.doubles', right=double, wrong={squares: 'twice the number'})"

    result = suite.run(mark + LAW, "-n", "2")

    result.assert_outcomes(passed=2)
    assert {record["kind"] for record in suite.records()} == {"right", "wrong"}


def test_rejecting_a_mistake_ends_in_time(suite: Suite) -> None:
    """A law that is slow to shrink is cut off after the two seconds that shrinking may take."""
    law = """
import time
@claim('tensors.doubles', right=double, wrong={squares: 'twice'}, share=0.01, because='slow')
@given(x=st.lists(st.integers(5, 10**9), min_size=20))
def test_slow(double, x):
    time.sleep(0.02)
    assert all(double(n) == n + n for n in x), "twice"
"""

    suite.run(law).assert_outcomes(passed=2)

    assert float(suite.records()[1]["seconds"]) < 3


def test_torch_draws_the_same_numbers_in_every_example(suite: Suite) -> None:
    """The global generator of torch is seeded for each example and restored after the law."""
    law = """
drawn = set()
@claim('tensors.doubles', right=double)
@given(x=st.integers(0, 1000))
def test_draws(double, x):
    drawn.add(torch.rand(1).item())

def test_one_number():
    assert len(drawn) == 1
"""

    suite.run(law).assert_outcomes(passed=2)
