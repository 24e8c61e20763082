"""`python -m dlconcepts verify` reports what a run of the laws proved, no more and no less."""

import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from dlconcepts.support import devices
from dlconcepts.support.devices import DEVICES, DeviceUnavailableError, find_device
from dlconcepts.testing.claims import all_claims
from dlconcepts.testing.results import Report, read, render
from dlconcepts.testing.run import find_devices
from tests.cli.common import run
from tests.machinery.suites import CLAIM, HEAD, LAW, OPINION, ROOT

# One claim that holds, an opinion, one that is skipped, and one that fails.
DOUBLES = '''
def adds_two(x):
    """Add two."""
    return x + 2

@law(right=double, wrong={squares: "<script>alert(1)</script>", adds_two: "&"})
@given(x=st.integers())
def test_doubling_adds_a_number_to_itself(double, x):
    """Doubling adds a number to itself."""
    assert double(x) == x + x, "& not <script>alert(1)</script>"
'''
SKIPPED = f"""
@pytest.mark.skip(reason="not on this machine: <i>")
@law(right=double, wrong={{squares: "twice"}}){LAW}"""
ADDS = '''
def adds_two(x): return x + 2

@law(right=adds_two, wrong={also_doubles: "twice"})
@given(x=st.integers())
def test_adding_doubles(add, x):
    """Adding two doubles."""
    assert add(x) == 2 * x, "<script>alert(2)</script>"

@pytest.fixture
def broken(): raise OSError("no such thing")

def test_that_cannot_start(broken): pass
'''
HALVES = CLAIM.replace("Verdict: holds", "Verdict: holds-if\nTruth: For even numbers & zero.")
SUITE = {
    "tests/__init__.py": "",
    "tests/tensors/__init__.py": 'CLAIMS = ["doubles", "taste", "halves"]',
    "tests/tensors/test_doubles.py": CLAIM + HEAD + DOUBLES,
    "tests/tensors/test_taste.py": OPINION,
    "tests/tensors/test_halves.py": HALVES + HEAD + SKIPPED,
    "tests/autograd/__init__.py": 'CLAIMS = ["adds"]',
    "tests/autograd/test_adds.py": CLAIM + HEAD + ADDS,
}
REFUSES = """
import pytest

def pytest_addoption(parser): parser.addoption("--device", action="append")

def pytest_configure(config):
    device, profile = config.getoption("--device"), config.getoption("--hypothesis-profile")
    raise pytest.UsageError(f"asked for {device}, {profile}")
"""


class Page(HTMLParser):
    """A page: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, attribute: str) -> list[str]:
        """Return the values of an attribute, in the order of the page."""
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the small suite, and return its folder `tests`."""
    folder = tmp_path_factory.mktemp("suite")
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name, text in SUITE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "tests"


def use(tests: Path, patch: pytest.MonkeyPatch) -> None:
    """Let `verify` find the laws in this folder."""
    for module in ("cli.verify", "testing.run"):
        patch.setattr(f"dlconcepts.{module}.TESTS", tests)


@pytest.fixture
def verifying(suite: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let `verify` find the small suite."""
    use(suite, monkeypatch)
    return suite


@pytest.fixture(scope="module")
def whole(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Verify the whole suite: status, folder, report and page."""
    out = tmp_path_factory.mktemp("out") / "new" / "verify"
    with pytest.MonkeyPatch.context() as patch:
        use(suite, patch)
        status = run(f"verify --profile dev --out {out}")
    report = read(out / "results.xml", all_claims(suite))
    html = (out / "report.html").read_text(encoding="utf-8")
    return SimpleNamespace(status=status, out=out, report=report, html=html)


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every accelerator."""

    def find(name: str) -> object:
        if name in DEVICES and name != "cpu":
            raise DeviceUnavailableError(f"no {name} here")
        return find_device(name)

    monkeypatch.setattr(devices, "find_device", find)


# ------------------------------------------------------------------------ a run


def test_a_run_with_failures_ends_with_status_1(whole: SimpleNamespace) -> None:
    """A law that fails, or a mistake that passes, gives status 1; both files are written."""
    assert whole.status == 1
    assert sorted(path.name for path in whole.out.iterdir()) == ["report.html", "results.xml"]


def test_each_claim_has_the_outcome_of_its_items(whole: SimpleNamespace) -> None:
    """A claim is ok, FAILED, skipped or an opinion."""
    assert outcomes(whole.report) == {
        "autograd.adds": "FAILED",
        "tensors.doubles": "ok",
        "tensors.taste": "opinion",
        "tensors.halves": "skipped",
    }


def test_examples_mistakes_and_other_tests_are_counted(whole: SimpleNamespace) -> None:
    """The totals count examples of right subjects, rejected mistakes, and tests without a law."""
    doubles = next(claim for claim in whole.report.claims if claim.id == "tensors.doubles")
    totals = dict(whole.report.totals)

    assert (doubles.examples, doubles.rejected, len(doubles.mistakes)) == (25, 2, 2)
    assert totals.pop("test time").endswith(" s")
    assert totals.pop("examples") == f"{sum(claim.examples for claim in whole.report.claims)}"
    assert totals == {
        "claims": "1 ok, 1 opinion, 1 skipped, 1 FAILED",
        "laws": "1 of 3 hold",
        "mistakes": "2 of 4 rejected",
        "demonstrations": "4 ok",
        "other tests": "none",
    }


def test_failures_are_listed_with_their_messages(whole: SimpleNamespace) -> None:
    """They are the failing law, the vacuous mistake and the broken test."""
    failed = {item.parameters: item.details for item in whole.report.failed}

    assert "x=0" in failed["cpu-adds_two"]
    assert "vacuous" in failed["wrong-also_doubles"]
    assert "no such thing" in failed[""]


def test_a_skipped_law_is_listed_once_with_its_reason(whole: SimpleNamespace) -> None:
    """Its right subject and its mistakes share the line."""
    assert whole.report.skipped == ["Doubling: not on this machine: <i>"]


@pytest.mark.usefixtures("verifying")
def test_one_lesson_can_be_verified_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No other lesson runs, and a skip is no failure."""
    status = run(f"verify --lesson tensors --profile ci --device cpu --out {tmp_path}")

    printed = capfd.readouterr().out
    assert status == 0
    assert "autograd" not in printed
    rows = [line.split() for line in printed.splitlines()]
    doubles = next(row for row in rows if row[:1] == ["tensors.doubles"])
    assert [*doubles[1:5], doubles[-1]] == ["holds", "cpu", "100", "2/2", "ok"]
    assert "skipped (1)" in printed
    assert "/3  ok          tensors.doubles" in printed
    assert f"wrote {tmp_path / 'report.html'}" in printed


# ------------------------------------------------------------------------ the page


def test_the_page_escapes_markup(whole: SimpleNamespace) -> None:
    """Markup in a counterexample, a reason or a claim is shown as text."""
    page = Page(whole.html)

    assert "<script>alert" not in whole.html
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [tag for tag, _ in page.tags if tag in ("b", "i")]
    assert "squares: <script>alert(1)</script>" in page.text
    assert "Doubling is <b>beautiful</b>." in page.text
    assert "For even numbers & zero." in page.text


def test_the_page_is_self_contained(whole: SimpleNamespace) -> None:
    """No tag of the page refers to another file or address."""
    page = Page(whole.html)

    assert not page.all("src")
    assert all(target.startswith(("#", "data:,")) for target in page.all("href"))
    assert "url(" not in whole.html
    assert "@import" not in whole.html


def test_the_page_is_well_formed(whole: SimpleNamespace) -> None:
    """Ids are unique, every reference has a target, and no level of headings is skipped."""
    page = Page(whole.html)
    ids = page.all("id")
    targets = [target[1:] for target in page.all("href") if target.startswith("#")]
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]

    assert len(ids) == len(set(ids))
    assert set(targets) | set(page.all("aria-labelledby")) <= set(ids)
    assert levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))


def test_the_page_shows_each_claim_with_its_outcome(whole: SimpleNamespace) -> None:
    """Every claim is there in course order, with the attributes that the filter needs."""
    page = Page(whole.html)
    claims = [attributes for tag, attributes in page.tags if tag == "article"]

    assert [(claim["id"], claim["data-result"]) for claim in claims] == [
        ("tensors.doubles", "ok"),
        ("tensors.taste", "opinion"),
        ("tensors.halves", "skipped"),
        ("autograd.adds", "FAILED"),
    ]
    assert "x=1" in page.text, "the counterexample of a mistake"


# ------------------------------------------------------------------------ reading results


def results(suite: Path, folder: Path, *cases: str) -> Report:
    """Write a results.xml with these items and read it for the claims of the suite."""
    path = folder / "results.xml"
    path.write_text(f"<testsuites>{''.join(cases)}</testsuites>")
    return read(path, all_claims(suite))


def case(name: str, fault: str = "", **record: str) -> str:
    """Return an item of a results.xml."""
    lines = [f'<property name="{name}" value="{value}"/>' for name, value in record.items()]
    properties = f"<properties>{''.join(lines)}</properties>"
    return f'<testcase classname="tests.t" name="{name}" time="0.5">{properties}{fault}</testcase>'


def outcomes(report: Report) -> Mapping[str, str]:
    return {claim.id: claim.outcome for claim in report.claims}


def test_a_claim_without_a_law_in_the_results_is_unfinished(suite: Path, tmp_path: Path) -> None:
    """A file that cannot be imported runs no law: its claim is not ok."""
    error = '<error message="collection failure">ImportError</error>'

    report = results(suite, tmp_path, case("tests.tensors.test_doubles", error))

    testable = ["tensors.doubles", "tensors.halves", "autograd.adds"]
    assert [claim.id for claim in report.unfinished] == testable
    assert {outcomes(report)[name] for name in testable} == {"unfinished"}
    assert report.totals["laws"] == "0 of 0 hold"
    assert report.totals["other tests"] == "1 FAILED"
    assert "no verdict on 3 of 4 claims" in Page(render(report, {})).text


def test_an_error_before_a_law_runs_fails_its_claim(suite: Path, tmp_path: Path) -> None:
    """The record of the item names the claim."""
    right = {"claim": "tensors.doubles", "kind": "right", "device": "cpu", "examples": "7"}
    wrong = {**right, "kind": "wrong"}
    broken = '<error message="failed on setup">no file</error>'
    cases = case("test_x[cpu-a]", **right), case("test_x[wrong-b]", broken, **wrong)

    report = results(suite, tmp_path, *cases)

    assert outcomes(report)["tensors.doubles"] == "FAILED"
    assert [item.details for item in report.failed] == ["no file"]


def test_a_failed_demonstration_fails_its_claim(suite: Path, tmp_path: Path) -> None:
    """A claim is ok only if its demonstration prints what the file says."""
    right = {"claim": "tensors.doubles", "kind": "right", "device": "cpu", "examples": "7"}
    demonstration = {"claim": "tensors.doubles", "kind": "demonstration"}
    cases = case("test_x[cpu-a]", **right), case("test_doubles", "<failure/>", **demonstration)

    report = results(suite, tmp_path, *cases)

    assert outcomes(report)["tensors.doubles"] == "FAILED"
    assert report.totals["demonstrations"] == "1 FAILED"


def test_a_law_on_two_devices_holds_if_it_holds_on_both(suite: Path, tmp_path: Path) -> None:
    """The examples of all devices are added, the devices named, and one failure is enough."""
    law = "test_doubling_adds_a_number_to_itself"
    record = {"claim": "tensors.doubles", "examples": "100"}
    cpu = case(f"{law}[cpu-a]", kind="right", device="cpu", **record)
    wrong = (case(f"{law}[wrong-{name}]", kind="wrong", **record) for name in "bc")
    others = cpu, *wrong
    cuda = {"device": "cuda", "kind": "right", **record}

    passed = results(suite, tmp_path, *others, case(f"{law}[cuda-a]", **cuda)).claims[0]
    failed = results(suite, tmp_path, *others, case(f"{law}[cuda-a]", "<failure/>", **cuda))

    assert (passed.outcome, passed.devices, passed.examples) == ("ok", "cpu, cuda", 200)
    assert failed.totals["laws"] == "0 of 1 hold"


# ------------------------------------------------------------------------ user errors


def test_a_failure_of_pytest_is_shown_and_leaves_the_old_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Devices and profile reach pytest; if it runs no law, its last lines are printed."""
    lesson = folder / "tests" / "tensors"
    lesson.mkdir(parents=True)
    (lesson / "__init__.py").write_text('CLAIMS = ["doubles"]')
    (lesson / "test_doubles.py").write_text(CLAIM)
    (folder / "conftest.py").write_text(REFUSES)
    (folder / "verify").mkdir()
    (folder / "verify" / "report.html").write_text("old")
    use(folder / "tests", monkeypatch)
    monkeypatch.setattr(
        "dlconcepts.testing.run.find_devices", lambda names: dict.fromkeys(names, "a name")
    )

    assert run("verify --device cpu cuda --profile thorough") == 2
    assert "asked for ['cpu', 'cuda'], thorough" in capsys.readouterr().err
    assert [path.read_text() for path in (folder / "verify").iterdir()] == ["old"]


@pytest.mark.usefixtures("verifying")
def test_one_claim_can_be_verified_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its laws and mistakes run in one process."""
    assert run(f"verify tensors.doubles --profile ci --out {tmp_path}") == 0

    printed = capsys.readouterr().out
    assert "claims: 1, processes of one thread: 1" in printed
    assert "laws: 1 of 1 hold" in printed


@pytest.mark.usefixtures("only_cpu")
def test_all_means_every_available_device() -> None:
    """A device that is not available is skipped, unless it was asked for by name."""
    assert list(find_devices(["all"])) == ["cpu"]
    with pytest.raises(DeviceUnavailableError, match="no cuda here"):
        find_devices(["all", "cuda"])
