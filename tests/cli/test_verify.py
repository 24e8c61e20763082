"""`python -m dlconcepts verify` tells what a run of the laws proved, no more and no less."""

import importlib.util
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from dlconcepts.__main__ import main
from dlconcepts.cli import verify
from dlconcepts.support import devices
from dlconcepts.support.devices import DEVICES, DeviceUnavailableError, find_device
from dlconcepts.testing.results import LESSONS, read, render

ROOT = Path(__file__).parents[2]
LEDGER = """
[[claim]]
id = "autograd.adds"
notes = "Adding two is doubling."
verdict = "corrected"
truth = "Only for two."
law = "add(2) == 2 * 2"

[[claim]]
id = "tensors.doubles"
notes = "Doubling adds a number to itself."
verdict = "holds"
law = "double(x) == x + x"

[[claim]]
id = "tensors.taste"
notes = "Doubling is <b>beautiful</b>."
verdict = "opinion"

[[claim]]
id = "tensors.halves"
notes = "Halving undoes doubling."
verdict = "holds-if"
truth = "For even numbers & zero."
law = "halve(double(x)) == x"
"""
HEAD = """
import pytest
from hypothesis import given, strategies as st

claim = pytest.mark.claim

def double(x): return x + x
def squares(x): return x * x
def adds_two(x): return x + 2
"""
TENSORS = """
@claim("tensors.doubles", right=double, wrong={squares: "<script>alert(1)</script>", adds_two: "&"})
@given(x=st.integers())
def test_doubling_adds_a_number_to_itself(double, x):
    assert double(x) == x + x, "& not <script>alert(1)</script>"

def test_that_is_no_law(): pass

@pytest.mark.skip(reason="tensors.halves on the CPU only: <i>")
@claim("tensors.halves", right=double, wrong={squares: "twice"})
@given(x=st.integers())
def test_halving_undoes_doubling(halve, x): pass
"""
AUTOGRAD = """
@claim("autograd.adds", right=adds_two, wrong={double: "twice"})
@given(x=st.integers())
def test_adding_doubles(add, x):
    assert add(x) == 2 * x, "<script>alert(2)</script>"

@pytest.fixture
def broken(): raise OSError("no such thing")

def test_that_cannot_start(broken): pass
"""
REFUSES = """
import pytest

def pytest_addoption(parser): parser.addoption("--device", action="append")

def pytest_configure(config):
    device, profile = config.getoption("--device"), config.getoption("--hypothesis-profile")
    raise pytest.UsageError(f"told of {device}, {profile}")
"""


class Page(HTMLParser):
    """What a test looks for in a page: tags with their attributes, and text."""

    def __init__(self, html):
        """Read the page."""
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        """Keep a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        """Keep text."""
        self.text += data

    def all(self, attribute):
        """Return the values of an attribute, in the page's order."""
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Lay down a tiny suite: one claim that holds, one that fails, one skipped, an opinion."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "conftest.py", folder)
    (folder / "tests" / "claims.toml").write_text(LEDGER)
    (folder / "tests" / "test_tensors.py").write_text(HEAD + TENSORS)
    (folder / "tests" / "test_autograd.py").write_text(HEAD + AUTOGRAD)
    return folder / "tests"


@pytest.fixture(scope="module")
def whole(suite, tmp_path_factory):
    """Verify the whole suite: status, folder, report and page."""
    out = tmp_path_factory.mktemp("out") / "new" / "verify"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "TESTS", suite)
        status = main(["verify", "--profile", "dev", "--out", str(out)])
    report = read(out / "results.xml", suite / "claims.toml")
    html = (out / "report.html").read_text(encoding="utf-8")
    return SimpleNamespace(status=status, out=out, report=report, html=html)


@pytest.fixture
def only_cpu(monkeypatch):
    """Take every accelerator away."""

    def find(name):
        if name in DEVICES and name != "cpu":
            raise DeviceUnavailableError(f"no {name} here")
        return find_device(name)

    monkeypatch.setattr(devices, "find_device", find)


def results(folder, *cases):
    """Write a results.xml of these items and read it with the tiny ledger."""
    (folder / "claims.toml").write_text(LEDGER)
    (folder / "results.xml").write_text(f"<testsuites>{''.join(cases)}</testsuites>")
    return read(folder / "results.xml", folder / "claims.toml")


def case(name, fault="", **properties):
    """Return an item of a results.xml."""
    lines = [f'<property name="{name}" value="{value}"/>' for name, value in properties.items()]
    properties = f"<properties>{''.join(lines)}</properties>"
    return f'<testcase classname="tests.t" name="{name}" time="0.5">{properties}{fault}</testcase>'


def outcomes(report):
    """Return the outcome of each claim."""
    return {claim.id: claim.outcome for claim in report.claims}


def test_a_run_that_fell_short_ends_with_status_1(whole):
    """A law that fails, and a mistake that passes, make the status 1; the files are whole."""
    assert whole.status == 1
    assert sorted(path.name for path in whole.out.iterdir()) == ["report.html", "results.xml"]


def test_each_claim_has_the_outcome_that_the_run_proved(whole):
    """A claim is ok, FAILED, skipped or an opinion, as its items ended."""
    assert outcomes(whole.report) == {
        "autograd.adds": "FAILED",
        "tensors.doubles": "ok",
        "tensors.taste": "opinion",
        "tensors.halves": "skipped",
    }


def test_examples_mistakes_and_other_tests_are_counted(whole):
    """The totals count right subjects' examples, rejected mistakes, and what is no law."""
    doubles = next(claim for claim in whole.report.claims if claim.id == "tensors.doubles")

    assert (doubles.examples, doubles.rejected, len(doubles.mistakes)) == (25, 2, 2)
    assert whole.report.totals["laws"] == "1 of 3 hold"
    assert whole.report.totals["mistakes"] == "2 of 4 rejected"
    assert whole.report.totals["other tests"] == "1 ok, 1 FAILED"


def test_what_fell_short_is_listed_with_its_message(whole):
    """The failing law, the vacuous mistake and the broken test are listed, each with its reason."""
    failed = {item.parameters: item.details for item in whole.report.failed}

    assert "x=0" in failed["cpu-adds_two"]
    assert "vacuous" in failed["wrong-double"]
    assert "no such thing" in failed[""]


def test_what_was_skipped_is_listed_with_its_reason(whole):
    """A skipped law is listed once, not once a subject."""
    reason = "tensors.halves on the CPU only: <i>"

    assert whole.report.skipped == [f"Halving undoes doubling: {reason}"]


def test_a_lesson_alone_is_verified_alone(suite, monkeypatch, tmp_path, capfd):
    """The laws of a lesson run without the others, a skip does not fail, and all of it is told."""
    monkeypatch.setattr(verify, "TESTS", suite)
    line = ["verify", "--lesson", "tensors", "--profile", "ci", "--device", "cpu"]

    status = main([*line, "--out", str(tmp_path)])

    printed = capfd.readouterr().out
    assert status == 0
    assert "autograd" not in printed
    rows = [line.split() for line in printed.splitlines()]
    doubles = next(row for row in rows if row[:1] == ["tensors.doubles"])
    assert [*doubles[1:5], doubles[-1]] == ["holds", "cpu", "100", "2/2", "ok"]
    assert "skipped (1)" in printed
    assert "100 % of the tests have run" in printed
    assert f"wrote {tmp_path / 'report.html'}" in printed


def test_the_page_escapes_what_it_shows(whole):
    """A counterexample, a reason or a claim with markup is shown as it is, and never obeyed."""
    page = Page(whole.html)

    assert "<script>alert" not in whole.html
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [tag for tag, _ in page.tags if tag in ("b", "i")]
    assert "squares: <script>alert(1)</script>" in page.text
    assert "Doubling is <b>beautiful</b>." in page.text
    assert "For even numbers & zero." in page.text


def test_the_page_needs_nothing_but_itself(whole):
    """No tag of the page refers to another file or address."""
    page = Page(whole.html)

    assert not page.all("src")
    assert all(target.startswith(("#", "data:,")) for target in page.all("href"))
    assert "url(" not in whole.html
    assert "@import" not in whole.html


def test_the_page_is_sound(whole):
    """Ids are unique, every reference finds its target, and no level of heading is left out."""
    page = Page(whole.html)
    ids = page.all("id")
    targets = [target[1:] for target in page.all("href") if target.startswith("#")]
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]

    assert len(ids) == len(set(ids))
    assert set(targets) | set(page.all("aria-labelledby")) <= set(ids)
    assert levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))


def test_the_page_shows_each_claim_with_its_outcome(whole):
    """Every claim is there in the course's order, marked for the filter."""
    page = Page(whole.html)
    claims = [attributes for tag, attributes in page.tags if tag == "article"]

    assert [(claim["id"], claim["data-result"]) for claim in claims] == [
        ("tensors.doubles", "ok"),
        ("tensors.taste", "opinion"),
        ("tensors.halves", "skipped"),
        ("autograd.adds", "FAILED"),
    ]
    assert "double=squares" in page.text, "the counterexample of a mistake"


def test_a_claim_without_a_law_is_pending(tmp_path):
    """A claim that no item names is pending, and its skip in test_claims.py is not told twice."""
    skip = '<skipped message="pending: tensors.halves"/>'

    report = results(tmp_path, case("test_a_claim_has_a_law[tensors.halves]", skip))

    assert report.pending == ["autograd.adds", "tensors.doubles", "tensors.halves"]
    assert report.skipped == []
    assert report.totals["laws"] == "0 of 0 hold"
    assert "3 with no law yet" in Page(render(report, {})).text


def test_a_law_that_breaks_before_it_begins_fails_its_claim(tmp_path):
    """An error before the law runs counts against the claim that the item names."""
    right = {"claim": "tensors.doubles", "kind": "right", "device": "cpu", "examples": "7"}
    wrong = {**right, "kind": "wrong"}
    broken = '<error message="failed on setup">no file</error>'

    report = results(
        tmp_path, case("test_x[cpu-a]", **right), case("test_x[wrong-b]", broken, **wrong)
    )

    assert outcomes(report)["tensors.doubles"] == "FAILED"
    assert [item.details for item in report.failed] == ["no file"]


def test_a_law_on_two_devices_holds_if_it_holds_on_both(tmp_path):
    """The examples of all devices are summed, the devices named, and one failure is enough."""
    record = {"claim": "tensors.doubles", "kind": "right", "examples": "100"}
    cpu = case("test_x[cpu-a]", device="cpu", **record)
    cuda = {"device": "cuda", **record}

    passed = results(tmp_path, cpu, case("test_x[cuda-a]", **cuda)).claims[1]
    failed = results(tmp_path, cpu, case("test_x[cuda-a]", "<failure/>", **cuda))

    assert (passed.outcome, passed.devices, passed.examples) == ("ok", "cpu, cuda", 200)
    assert failed.totals["laws"] == "0 of 1 hold"


def test_the_lessons_stand_in_the_order_of_the_course(tmp_path):
    """The order of the ledger does not matter."""
    assert list(results(tmp_path).lessons) == ["tensors", "autograd"]
    assert {"tensors", "autograd"} <= set(LESSONS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--device gpu", "unknown device 'gpu'"),
        ("--device cpu xpu", "no xpu here"),
        ("--jobs 0", "--jobs must be at least 1, not 0"),
        ("--jobs 2", "pip install pytest-xdist"),
        ("--lesson images", "no laws yet for images"),
        ("--out claims.toml/verify", "cannot write to the folder claims.toml"),
    ],
)
def test_bad_input_is_explained_before_the_laws_run(
    line, words, suite, only_cpu, monkeypatch, capsys
):
    """What cannot work is answered with one sentence and the status 2, and leaves nothing."""
    monkeypatch.chdir(suite)
    monkeypatch.setattr(verify, "TESTS", suite)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: pytest.fail("it ran"))
    before = sorted(suite.iterdir())

    status = main(["verify", *line.split()])

    error = capsys.readouterr().err
    assert status == 2
    assert words in error
    assert error.count("\n") == 1
    assert sorted(suite.iterdir()) == before


def test_an_installed_package_without_laws_says_where_they_are(monkeypatch, tmp_path, capsys):
    """Without the repository there is nothing to run, and the error says how to get it."""
    monkeypatch.setattr(verify, "TESTS", tmp_path / "tests")

    assert main(["verify"]) == 2
    assert "clone the repository and run `pip install -e .`" in capsys.readouterr().err


def test_pytest_is_told_all_and_its_breakdown_leaves_the_old_report_alone(
    monkeypatch, tmp_path, capsys
):
    """Devices and profile reach pytest; without results its last lines are shown, no more."""
    tests, out = tmp_path / "tests", tmp_path / "verify"
    tests.mkdir()
    out.mkdir()
    (tests / "claims.toml").write_text(LEDGER)
    (tmp_path / "conftest.py").write_text(REFUSES)
    (out / "report.html").write_text("old")
    monkeypatch.setattr(verify, "TESTS", tests)
    monkeypatch.setattr(verify, "find_devices", lambda names: dict.fromkeys(names, "a name"))
    line = ["verify", "--device", "cpu", "cuda", "--profile", "thorough", "--out", str(out)]

    assert main(line) == 2
    assert "told of ['cpu', 'cuda'], thorough" in capsys.readouterr().err
    assert [path.read_text() for path in out.iterdir()] == ["old"]


def test_all_means_every_device_that_is_there(only_cpu):
    """Devices that are not there are left out, unless they were asked for by name."""
    assert list(verify.find_devices(["all"])) == ["cpu"]
    with pytest.raises(verify.VerifyError, match="no cuda here"):
        verify.find_devices(["all", "cuda"])
