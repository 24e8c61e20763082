"""Reports of `check` and `parity` are written whole, or a sentence says why not."""

import os
from pathlib import Path

import pytest

from tests.cli.common import assert_explained, run

PROJECT = """
import torch
from torch import nn

def project():
    batch = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    return {"model": nn.Sequential(nn.Linear(4, 3)), "batch": batch}
"""
CHECK = "check own_project:project"
REPORTS = [f"{CHECK} --json", f"{CHECK} --junit", "parity --eager --json"]


@pytest.fixture
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a project to check."""
    (folder / "own_project.py").write_text(PROJECT)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("line", REPORTS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [(".", "file .: it is a folder"), ("own_project.py/report", "cannot write to")],
)
def test_a_report_that_cannot_be_written_is_explained_before_the_work(
    line: str, name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder, and a file in the place of a folder."""
    if line.startswith("parity") and name != ".":
        reason = "there is no folder own_project.py"
    assert_explained(f"{line} {name}", capsys, reason)

    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("option", ["--json", "--junit"])
def test_a_full_disk_loses_neither_the_old_report_nor_the_new_one(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new report is printed, and the old file stays."""
    Path("report").write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)

    assert run(f"{CHECK} {option} report") == 2

    printed = capsys.readouterr()
    assert "passed" in printed.out
    assert (
        f"cannot write to the file report: No space left on device; choose another with {option}"
        in printed.err
    )
    assert printed.err.count("\n") == 1
    assert Path("report").read_text() == "old"


@pytest.mark.usefixtures("project")
def test_a_batch_too_large_for_memory_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever PyTorch raises for it."""
    for shape in ("4x3x9999999999", "9999999999999x9999999999999", f"4x{'9' * 30}"):
        line = f"check torch.nn:Identity --batch {shape}"
        assert_explained(line, capsys, f"--batch {shape} is too large for the memory")
