"""The law mark, on small suites: what must fail does fail, and says why.

A machinery that let a vacuous mistake pass would make every other test of the project worthless.
"""

import inspect
import platform
import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
import torch

from dlconcepts import testing
from dlconcepts.testing.claims import all_claims
from dlconcepts.testing.results import read
from tests.machinery.suites import LAW, Suite

MARK = "@law(right=double, wrong={squares: 'twice the number'})"


def test_right_passes_and_the_mistake_is_rejected_with_its_counterexample(suite: Suite) -> None:
    """The examples that ran, and the smallest input that breaks the mistake, are recorded."""
    result = suite.run(MARK + LAW)

    result.assert_outcomes(passed=3)
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
    result = suite.run("@law(right=double, wrong={also_doubles: 'twice the number'})" + LAW)

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*vacuous: also_doubles is a mistake, yet 1000 examples pass*"])


@pytest.mark.parametrize(
    ("mistake", "said"),
    [("squares", "*for another reason than 'thrice'*"), ("crashes", "*RuntimeError: broken*")],
)
def test_a_mistake_that_fails_for_another_reason_is_an_error(
    suite: Suite, mistake: str, said: str
) -> None:
    """Another message, or an exception that is not an assertion, is not the stated reason."""
    result = suite.run(f"@law(right=double, wrong={{{mistake}: 'thrice'}})" + LAW)

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([said])


def test_a_right_subject_that_breaks_the_law_fails(suite: Suite) -> None:
    """A failure of the right subject stays a failure, with its counterexample recorded."""
    result = suite.run("@law(right=squares, wrong={squares: 'twice'})" + LAW)

    result.assert_outcomes(passed=2, failed=1)
    assert "x=1," in suite.records()[0]["counterexample"]


def test_too_few_examples_are_an_error(suite: Suite) -> None:
    """A law that ends early, although there was more to try, has not been tested."""
    law = '@given(x=st.integers())\ndef test_it(double, x):\n    "It."\n    assume(abs(x) < 2)\n'

    result = suite.run("@law(right=double, wrong={squares: 'twice'})\n" + law, "-k", "cpu")

    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.re_match_lines([r".*(too few examples: \d+ of 100 ran|Unsatisfiable|filter).*"])


def test_few_examples_are_enough_if_there_are_no_more(suite: Suite) -> None:
    """A law over two inputs runs two examples."""
    law = (
        '@given(x=st.booleans())\ndef test_it(double, x):\n    "It."\n    assert double(x) == x + x'
    )

    result = suite.run(
        "@law(right=double, wrong={squares: ''})\n".replace("''", "'x'") + law, "-k", "cpu"
    )

    result.assert_outcomes(passed=1, deselected=2)
    assert suite.records()[0]["examples"] == "2"


def test_a_share_of_the_examples_is_recorded_with_its_reason(suite: Suite) -> None:
    """An expensive law runs fewer examples, says why, and is marked slow."""
    mark = "@law(right=double, wrong={squares: 'twice'}, share=0.1, because='it is slow')"

    suite.run(mark + LAW, "-m", "right and slow").assert_outcomes(passed=1, deselected=2)

    (record,) = suite.records()
    assert (record["examples"], record["reason"]) == ("10", "it is slow")


@pytest.mark.parametrize(
    ("expression", "passed"),
    [("law", 2), ("right", 1), ("mistake", 1), ("right and not slow", 1), ("demonstration", 1)],
)
def test_items_are_chosen_by_their_markers(suite: Suite, expression: str, passed: int) -> None:
    """`pytest -m right` runs the laws alone; a mistake and a demonstration have a marker each."""
    suite.run(MARK + LAW, "-m", expression).assert_outcomes(passed=passed, deselected=3 - passed)


@pytest.mark.parametrize(
    ("mark", "law", "said"),
    [
        ("@pytest.mark.law", LAW, "has a bare mark; write @law(right=...*"),
        ("@law(right=double, wrong={})", LAW, "has no mistake; name one it rejects*"),
        ("@law(right=double, wrong={squares: ''})", LAW, "gives no reason for squares; quote*"),
        ("@law(right=double, wrong={double: 'x'})", LAW, "rejects double, which has no docstring*"),
        (
            "def other(x):\n    'Be.'\nother.__name__ = 'squares'\n"
            "@law(right=double, wrong={squares: 'twice', other: 'twice'})",
            LAW,
            "has two mistakes named squares; rename one",
        ),
        (MARK[:-1] + ", share=0.1)", LAW, "share=0.1 lowers the examples; say why in because="),
        (MARK, "\ndef test_two(double):\n    'Two.'", "has no generated inputs; add @given"),
        (MARK, LAW.replace('"""', "#"), "has no docstring; say in one sentence what is true"),
    ],
)
def test_a_law_that_proves_nothing_is_not_collected(
    suite: Suite, mark: str, law: str, said: str
) -> None:
    """A fault in a mark names the file, the line, the law and the remedy."""
    result = suite.run(mark + law)

    result.assert_outcomes(errors=1)
    name = "test_two" if "test_two" in law else "test_doubling"
    result.stdout.fnmatch_lines([f"*tests/tensors/test_doubles.py:[0-9]*: the law {name} {said}"])


@pytest.mark.parametrize(
    ("mark", "said"),
    [("@law(right=double)", "*missing 1 required keyword-only argument: 'wrong'*")],
)
def test_a_law_without_right_or_wrong_is_not_collected(suite: Suite, mark: str, said: str) -> None:
    """The mark asks for both."""
    result = suite.run(mark + LAW)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])


@pytest.mark.usefixtures("meta")
def test_a_law_for_the_cpu_runs_there_whatever_the_device(suite: Suite) -> None:
    """A run on another device judges the whole claim: its CPU-only laws on the CPU, with reason."""
    result = suite.run(MARK[:-1] + ", cpu_only='it is shy')" + LAW, "--device", "meta")

    result.assert_outcomes(passed=3)
    assert {record["device"] for record in suite.records()} == {"cpu"}
    assert {record["cpu_only"] for record in suite.records()} == {"it is shy"}


def test_a_skip_is_listed_with_its_reason(suite: Suite) -> None:
    """A law that is skipped is in the summary, and its record says which claim was not judged."""
    result = suite.run("@pytest.mark.skip(reason='it is shy')\n" + MARK + LAW)

    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*it is shy"])
    assert suite.records()[0]["claim"] == "tensors.doubles"


@pytest.mark.usefixtures("meta")
def test_a_law_runs_on_each_device_and_its_mistakes_on_the_first(suite: Suite) -> None:
    """Tensors made inside a law are on the device of its run."""
    law = """
@law(right=double, wrong={squares: 'is float'})
@given(x=st.integers(0, 9))
def test_device(double, x):
    "Made there."
    made = torch.zeros(2)
    assert made.device.type in ("cpu", "meta")
    assert double is not squares, "it is float " + made.device.type
    print("made on", made.device.type)
"""

    result = suite.run(law, "--device", "cpu", "--device", "meta", "-s", "-m", "law")

    result.assert_outcomes(passed=3, deselected=1)
    result.stdout.fnmatch_lines(["*made on cpu*", "*made on meta*"])
    assert [record["device"] for record in suite.records()] == ["cpu", "meta", "cpu"]


def test_the_results_name_torch_and_the_hardware(suite: Suite) -> None:
    """Results that are kept say what they were found with."""
    suite.run(MARK + LAW)

    results = ET.parse(suite.pytester.path / "results.xml")
    found = {p.get("name"): p.get("value") for p in results.iterfind("./testsuite/properties/*")}
    assert (found["torch"], found["cpu"]) == (str(torch.__version__), platform.machine())


def test_the_results_say_which_data_a_law_ran_on(suite: Suite) -> None:
    """Each item of the law has the mark's name, and the totals have each name once."""
    law = LAW.replace("test_doubling(double, x)", "test_doubling(double, album, x)")
    albums = ", ".join(
        f"pytest.param(1, marks=pytest.mark.data('{it}'))" for it in ("drawn", "real")
    )
    suite.run(f"@pytest.mark.parametrize('album', [{albums}])\n{MARK}{law}")

    assert Counter(record["data"] for record in suite.records()) == {"drawn": 2, "real": 2}
    (claim,) = all_claims(suite.tests, ["tensors"])
    report = read(suite.pytester.path / "results.xml", [claim])
    assert report.totals["photographs"] == "drawn; real"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_ends_the_run(suite: Suite) -> None:
    """A run on CUDA without CUDA says why and exits with status 4: it skips nothing."""
    result = suite.run(MARK + LAW, "--device", "cuda")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*device 'cuda' is not available: *"])


def test_the_records_survive_workers(suite: Suite) -> None:
    """With pytest-xdist the properties of every item are in the one results file."""
    pytest.importorskip("xdist", reason="pytest-xdist is not installed (extra `test`)")

    # One worker is enough: what is recorded there must reach the file of the main process.
    suite.run(MARK + LAW, "-n", "1").assert_outcomes(passed=3)

    assert {record["kind"] for record in suite.records()} == {"right", "wrong"}


def test_a_counterexample_is_the_same_on_a_slow_machine(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of the law limit the shrinking, not seconds; `share` lowers their number."""
    law = """
import os, time
RUNS = []
@law(right=double, wrong={squares: 'twice'}, share=SHARE, because='slow')
@given(x=st.lists(st.integers(5, 10**9), min_size=20))
def test_slow(double, x):
    "Slow."
    if double is squares:
        RUNS.append(time.sleep(float(os.environ["SECONDS"])))
    assert all(double(n) == n + n for n in x if n > 1000), "twice"

def test_runs():
    print("runs", len(RUNS))
"""

    def found(share: str, seconds: str) -> tuple[int, str]:
        monkeypatch.setenv("SECONDS", seconds)
        result = suite.run(law.replace("SHARE", share), "-s")
        result.assert_outcomes(passed=4)
        runs = re.search(r"runs (\d+)", result.stdout.str())
        assert runs is not None
        return int(runs[1]), suite.records()[1]["counterexample"]

    assert found("0.05", "0") == found("0.05", "0.02")
    assert found("0.5", "0")[0] > found("0.05", "0")[0]


def test_torch_draws_the_same_numbers_in_every_example(suite: Suite) -> None:
    """The global generator of torch is seeded for each example and restored after the law."""
    law = """
drawn = set()
@law(right=double, wrong={squares: 'thrice'})
@given(x=st.integers(0, 1000))
def test_draws(double, x):
    "Drawn."
    drawn.add(torch.rand(1).item())
    assert double is not squares, "thrice"

def test_one_number():
    assert len(drawn) == 1
"""

    suite.run(law).assert_outcomes(passed=4)


def test_another_project_can_use_the_plugin(pytester: pytest.Pytester) -> None:
    """The law in the documentation of the plugin is collected and judged in an empty project."""
    lines = inspect.getdoc(testing).splitlines()
    code = [line.removeprefix("    ") for line in lines if line.startswith("    ") or not line]
    conftest, _, program = "\n".join(code).strip().partition("\n\n")
    pytester.makeconftest(conftest)
    pytester.makepyfile(test_numbers=program)

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-v")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_doubling*wrong-squares*PASSED*"])
