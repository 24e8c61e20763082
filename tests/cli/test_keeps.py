"""`train` and `transfer` lose no epoch and no earlier run, whatever ends them."""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
import torch

from dlconcepts import checkpoints
from dlconcepts.cli import run_folder
from dlconcepts.support.atomic import exchange
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.runs import Epoch
from dlconcepts.training import DivergedError
from tests.cli.common import assert_explained, run
from tests.cli.rows.given import TRAIN, TRANSFER, album, half_full_disk, no_pictures

COMMANDS = pytest.mark.parametrize("command", [TRAIN, TRANSFER], ids=["train", "transfer"])
CHECKPOINT = Path("run/checkpoint.pt")


@pytest.fixture
def quick(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write an album, and empty pictures."""
    album()(monkeypatch)
    no_pictures(monkeypatch)


def epochs_of(path: Path) -> int:
    training = checkpoints.load(path).training
    return training.epoch if training else 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("command", "options"), [(TRAIN, ""), (TRANSFER, ""), (TRANSFER, "--augment")]
)
def test_a_resumed_run_ends_as_a_whole_one(command: str, options: str) -> None:
    """One epoch and two more are three epochs, bit for bit."""
    assert run(f"{command} 3 {options} --out whole") == 0
    assert run(f"{command} 1 {options} --out run") == 0
    torch.rand(3)

    assert run(f"{command} 3 {options} --out run --resume run/checkpoint.pt") == 0

    whole, resumed = (checkpoints.load(f"{name}/checkpoint.pt") for name in ("whole", "run"))
    assert state_of(resumed.model) == state_of(whole.model)


@pytest.mark.usefixtures("quick")
@COMMANDS
def test_a_full_disk_leaves_the_epoch_in_the_temporary_folder(
    command: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The sentence says where it is, and how the run goes on from there."""
    spare = folder / "spare"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    with monkeypatch.context() as patch:
        half_full_disk(patch)
        assert run(f"{command} 2 --out run") == 2

    said = capsys.readouterr().err
    (path,) = spare.glob("*/checkpoint.pt")
    done = epochs_of(path)
    assert f"No space left on device; choose another with --out; {path} keeps {done} of 2" in said
    line = said.partition("make room and resume with `python -m dlconcepts ")[2].partition("`")[0]
    assert not list(Path().glob("run*"))
    if done < 2:  # the run of transfer was at its end
        assert run(line) == 0
        assert epochs_of(CHECKPOINT) == 2


@pytest.mark.usefixtures("quick")
def test_whoever_reads_sees_one_complete_run() -> None:
    """At each call of a function its folder has the files of the old run or of the new one."""
    assert run(f"{TRAIN} 1 --out run") == 0
    seen = set()

    def look(frame: FrameType, kind: str, argument: object) -> None:
        if "dlconcepts" in frame.f_code.co_filename:
            seen.add(tuple(sorted(os.listdir("run"))))  # noqa: PTH208

    sys.setprofile(look)
    try:
        assert run(f"{TRAIN} 2 --out run --force") == 0
    finally:
        sys.setprofile(None)

    assert seen == {("checkpoint.pt", "images", "loss.png", "predictions.png")}
    assert epochs_of(CHECKPOINT) == 2
    assert not Path("run.partial").exists()


@pytest.mark.parametrize("system", ["this one", "one that cannot exchange folders"])
def test_folders_change_places(system: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, or in two steps."""
    for name in ("new", "old"):
        Path(name).mkdir()
        Path(name, name).touch()
    if system != "this one":
        monkeypatch.setattr("ctypes.CDLL", lambda name: None)

    exchange(Path("new"), Path("old"))

    assert sorted(map(str, Path().rglob("*/*"))) == ["new/old", "old/new"]


@pytest.mark.usefixtures("quick")
def test_what_is_not_of_a_run_stays(folder: Path) -> None:
    """Also where the folder is a link."""
    Path("elsewhere").mkdir()
    Path("run").symlink_to("elsewhere")
    Path("run/own.txt").write_text("precious")

    for options in ("", "--force"):
        assert run(f"{TRAIN} 1 --out run {options}") == 0

    assert Path("run").is_symlink()
    assert Path("elsewhere/own.txt").read_text() == "precious"


def test_weights_that_are_not_finite_are_not_kept() -> None:
    """The losses of an epoch can be finite before the step that ruins the weights."""
    model = torch.nn.Linear(1, 1)
    record = Epoch(2, 0.5, 0.5, 0.5, 1.0)
    run_folder.check_finite(record, model)
    with pytest.raises(DivergedError, match=r"epoch 2: the held-out loss is inf"):
        run_folder.check_finite(replace(record, held_out_loss=float("inf")), model)
    torch.nn.init.constant_(model.bias, float("nan"))

    with pytest.raises(DivergedError, match=r"epoch 2: weights are not finite"):
        run_folder.check_finite(record, model)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fcntl")
@pytest.mark.usefixtures("quick")
def test_a_second_run_into_a_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The first one holds a lock, which ends with it."""
    working = Path("run.partial")
    working.mkdir()
    with run_folder.locked(working, Path("run")):
        assert_explained(f"{TRAIN} 1 --out run", capsys, "another run is writing to run", "--out")

    assert run(f"{TRAIN} 1 --out run") == 0


@pytest.mark.usefixtures("quick")
@COMMANDS
def test_a_closed_pipe_loses_no_epoch(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The epoch that could not be printed is on disk."""

    def fail(record: Epoch) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(run_folder, "print_epoch", fail)

    assert run(f"{command} 2 --out run") == 141

    assert capsys.readouterr().err == ""
    assert epochs_of(Path("run.partial/checkpoint.pt")) == 1
