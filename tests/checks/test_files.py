"""What a project writes, prints and reads of the command line stays apart."""

import os
import sys
from pathlib import Path

import pytest
import torch

from dlconcepts import checks
from dlconcepts.checks.files import left_alone
from tests.gallery.base import evaluate, project


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.txt").write_text("kept")
    return tmp_path


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def saves(path):
    torch.save(torch.ones(2), path)
    assert torch.load(path).tolist() == [1, 1]


def appends(path):
    with Path(path).open("a") as file:
        file.write(" and more")
    assert Path(path).read_text() == "kept and more"


def replaces(path):
    Path("new.txt").write_text("new")
    os.replace("new.txt", path)  # noqa: PTH105 - as programs do
    assert Path(path).read_text() == "new"


def writes_and_removes(path):
    Path(path).write_text("other")
    Path(path).unlink()


@pytest.mark.parametrize("write", [saves, appends, replaces, writes_and_removes])
def test_what_is_written_is_read_again_and_leaves_the_files_alone(folder, write):
    """The project finds what it wrote, and its folder is as before."""
    before = everything(folder)

    with left_alone():
        write("kept.txt")

    assert everything(folder) == before


def test_an_evaluate_that_saves_and_prints_and_parses_changes_nothing(folder, capsys, monkeypatch):
    """Its checkpoint, its prints and our own options stay apart from each other."""
    monkeypatch.setattr(sys, "argv", ["script.py", "--ours"])
    (folder / "best.pt").write_bytes(b"the author's")

    def evaluate_and_save(model, loader, loss_fn):
        print("an evaluation")
        assert sys.argv == ["script.py"]
        torch.save(model.state_dict(), "best.pt")
        return evaluate(model, loader, loss_fn)

    report = checks.check(**project(evaluate=evaluate_and_save))

    assert report.ok
    assert (folder / "best.pt").read_bytes() == b"the author's"
    assert capsys.readouterr().out == ""
    assert report["every-example-counts-once"].status == "passed"
    assert sys.argv[1:] == ["--ours"]
