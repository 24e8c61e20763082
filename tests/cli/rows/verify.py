"""`verify`."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.rows import Row
from tests.cli.rows.given import Patch, setting, text
from tests.machinery.suites import CLAIM, HEAD, LAW, ROOT

DOUBLES = CLAIM + HEAD + f'@law(right=double, wrong={{squares: "twice"}}){LAW}'
SUITE = Path("..", "suite")  # pytest writes its cache there
BROKEN = "<testsuite><testcase"


def idle(patch: Patch) -> None:
    """No law may run."""
    patch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("it ran"))


def suite(patch: Patch, tests: str = DOUBLES, claims: str = '["doubles"]') -> None:
    """A suite of one claim."""
    SUITE.mkdir()
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, SUITE)
    text(f"{SUITE}/tests/__init__.py", "")(patch)
    text(f"{SUITE}/tests/tensors/__init__.py", f"CLAIMS = {claims}")(patch)
    if tests:
        text(f"{SUITE}/tests/tensors/test_doubles.py", tests)(patch)
    use(patch)


def use(patch: Patch) -> None:
    """The laws are in the folder of the suite."""
    for module in ("cli.verify", "testing.run", "testing.claims"):
        setting(f"dlconcepts.{module}.TESTS", (SUITE / "tests").resolve())(patch)


def lost(patch: Patch) -> None:
    """A claim has no file."""
    suite(patch, "", '["lost"]')


def refused(line: str, says: str, *given) -> Row:
    """One sentence before a law runs."""
    return Row(f"verify {line}", 2, says, [suite, idle, *given])


ROWS = [
    Row("verify --profile dev", 0, given=[suite], files="verify/*.*", out="tensors.doubles"),
    Row("verify --quiet --json r.json --jobs 1", 0, given=[suite], files="verify/*.* r.json"),
    refused("--json .", "the file .: it is a folder ... --json"),
    refused("--device gpu", "unknown device 'gpu'"),
    refused("--device cpu xpu", "device 'xpu' is not available"),
    refused("--jobs 0", "--jobs must be at least 1, not 0"),
    refused("--jobs -4", "--jobs must be at least 1, not -4"),
    refused("--lesson images", "there are no laws for images; choose another --lesson"),
    refused("--out note/verify", "cannot write to the folder note/verify", text("note")),
    refused("--out note", "cannot write to the folder note", text("note")),
    refused("--out /proc/verify", "cannot write to the folder /proc/verify"),
    refused("tensors.double", "did you mean tensors.doubles?"),
    refused("doubles", "did you mean tensors.doubles?"),
    refused("cake", "there is no claim 'cake'; `claims` lists them all"),
    Row("verify", 2, "'lost' has no file; write test_lost.py", [lost, idle]),
    Row("verify", 2, "clone the repository and run `pip install -e .`", [use, idle]),
    *(
        refused("--fail-fast --out .", "cannot read results.xml ... delete it", text(name, broken))
        for name, broken in [("results.xml", each) for each in ("", BROKEN, "\x00", "{}")]
    ),
    Row(
        "verify",
        2,
        "pytest ran no law; its last lines are: ... details",
        [suite, text("../suite/conftest.py", "raise SystemExit('no')")],
    ),
]
