"""`verify` that is stopped, or loses a process, keeps what it has judged, and no process."""

import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from dlconcepts.testing.claims import all_claims
from dlconcepts.testing.results import Report, read
from dlconcepts.testing.run import GRACE
from tests.machinery.suites import CLAIM, HEAD, LAW, ROOT

# Each claim takes a fixture of the lesson, as some do that train a network once.
TAKES = LAW.replace("(double, x)", "(double, of_the_lesson, x)")
PASSES = f'@law(right=double, wrong={{squares: "twice"}}){TAKES}'
FIXTURE = """
import pytest

@pytest.fixture(scope="module")
def of_the_lesson(): return 1
"""
# A law that never ends, and one whose process is killed. Each first says where it runs.
BEGINS = """
import os, pathlib, signal, time

HERE = pathlib.Path(__file__).with_name("process")

def doubles_once(x):
    HERE.write_text(str(os.getpid()))
"""
SLEEPS = BEGINS + "    time.sleep(3600)\n" + PASSES.replace("right=double", "right=doubles_once")
DIES = SLEEPS.replace("time.sleep(3600)", "os.kill(os.getpid(), signal.SIGKILL)")
START = """
import sys
from pathlib import Path
from dlconcepts.cli import main, verify
from dlconcepts.testing import run

verify.TESTS = run.TESTS = Path("tests").resolve()
sys.exit(main(sys.argv[1:]))
"""
PATIENCE = 120  # seconds until the law that never ends has surely begun


def write_suite(folder: Path, second: str) -> Path:
    """Write a suite of three claims, of which the second is given, and return its folder."""
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    lesson = folder / "tests" / "tensors"
    lesson.mkdir(parents=True)
    (folder / "tests" / "__init__.py").touch()
    (lesson / "__init__.py").write_text('CLAIMS = ["doubles", "second", "third"]')
    (lesson / "conftest.py").write_text(FIXTURE)
    for name, laws in {"doubles": PASSES, "second": second, "third": PASSES}.items():
        (lesson / f"test_{name}.py").write_text(CLAIM + HEAD + laws)
    return folder


def start(folder: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", START, "verify", "--profile", "dev", *options]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(folder: Path, *options: str) -> int:
    """Run `verify` to its end, and return its status."""
    process = start(folder, *options)
    process.communicate()
    return process.returncode


def report_of(folder: Path) -> Report:
    return read(folder / "verify" / "results.xml", all_claims(folder / "tests", ["tensors"]))


def outcomes(folder: Path) -> list[str]:
    return [claim.outcome for claim in report_of(folder).claims]


def is_running(process: int) -> bool:
    """Return whether a process is there and not only waits to be reaped."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_keeps_what_was_judged(tmp_path: Path, number: int) -> None:
    """Status 130 or 143 within two seconds, no process left, and the command that goes on."""
    folder = write_suite(tmp_path, SLEEPS)
    process = start(folder, "--jobs", "1")
    law = folder / "tests" / "tensors" / "process"
    until = time.monotonic() + PATIENCE
    while not (law.exists() and law.read_text()) and time.monotonic() < until:
        time.sleep(0.1)

    process.send_signal(number)
    printed = process.communicate()[0]

    assert process.returncode == 128 + number, printed
    assert not is_running(int(law.read_text()))
    assert outcomes(folder) == ["ok", "unfinished", "unfinished"]
    assert "did not finish (2)\n  tensors.second\n  tensors.third" in printed
    assert "python -m dlconcepts verify tensors.second tensors.third" in printed
    assert GRACE < 2


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_killed_process_is_no_verdict(tmp_path: Path, jobs: str) -> None:
    """The claim whose process was killed did not finish; another one judges all the rest."""
    folder = write_suite(tmp_path, DIES)
    process = start(folder, "--jobs", jobs)
    printed = process.communicate()[0]

    assert process.returncode == 1, printed
    assert outcomes(folder) == ["ok", "unfinished", "ok"]
    assert [item.outcome for item in report_of(folder).claims[1].mistakes] == ["ok"]
    assert "tensors.second" in printed.partition("did not finish")[2]


def cases_of(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Return the items of a run in their order, without their times."""
    found = []
    for case in ET.parse(folder / "verify" / "results.xml").iter("testcase"):
        record = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        record.pop("seconds", None)
        found.append((f"{case.attrib['classname']}.{case.attrib['name']}", record))
    return found


def test_processes_do_not_change_what_a_run_says(tmp_path: Path) -> None:
    """Two processes write the items of one, in the same order, with the same counterexamples."""
    folder = write_suite(tmp_path, PASSES.replace("twice", "number"))
    found = []
    for jobs in ("1", "2"):
        assert finish(folder, "--jobs", jobs, "--profile", "ci") == 0
        found.append(cases_of(folder))

    assert found[0] == found[1]
    assert len(found[0]) == 9, "a demonstration, a law and a mistake of each claim"


def test_fail_fast_runs_first_what_failed_before(tmp_path: Path) -> None:
    """The run ends with the first failure; the other claims have no verdict."""
    folder = write_suite(tmp_path, PASSES.replace("right=double", "right=crashes"))
    assert finish(folder, "--jobs", "1") == 1
    assert outcomes(folder) == ["ok", "FAILED", "ok"]

    assert finish(folder, "--jobs", "1", "--fail-fast") == 1

    assert outcomes(folder) == ["unfinished", "FAILED", "unfinished"]
    assert len(cases_of(folder)) == 1


def test_fail_fast_runs_laws_before_mistakes(tmp_path: Path) -> None:
    """Without an earlier run the laws come first, so no mistake runs before a law that fails."""
    folder = write_suite(tmp_path, PASSES.replace("right=double", "right=crashes"))

    assert finish(folder, "--jobs", "1", "--fail-fast") == 1

    assert [record["kind"] for _, record in cases_of(folder)] == ["right", "right"]
