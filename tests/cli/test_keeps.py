"""`train` and `transfer` keep what they say, whatever ends them, and lose no earlier run."""

import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from PIL import Image

from dlconcepts import checkpoints
from dlconcepts.cli import main, output, train, transfer
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.datasets import ImageSet, fashion_mnist
from dlconcepts.support.runs import Epoch
from dlconcepts.training import DivergedError
from tests.cli.common import assert_explained, run

TRAIN = ["train", "--epochs=3", "--hidden=4", "--batch-size=50", "--out=run"]
TRANSFER = ["transfer", "pets", "--model=squeezenet1_1", "--weights=none", "--epochs=3"]
TRANSFER += ["--out=run"]
STEPS = 10  # from the start of a command to its end; the calls of these functions come on top
CRITICAL = {"end_epoch", "snapshot", "capture", "replacing", "finishing", "save", "print_epoch"}
CHECKPOINT = Path("run/checkpoint.pt")


@pytest.fixture
def quick(folder: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on 200 images or on random features, so that a run takes a tenth of a second."""

    def few(*, train: bool, **_: object) -> ImageSet:
        found = fashion_mnist(train=train)
        return ImageSet(found.images[:200], found.labels[:200], found.classes, found.source)

    def features(model: Any, images: Any, transform: Any) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(len(images), 512, generator=generator), torch.tensor(images.targets)

    monkeypatch.setattr(train, "fashion_mnist", few)
    monkeypatch.setattr(transfer, "compute_features", features)
    monkeypatch.setattr(output, "write_image", lambda path, image: None)
    monkeypatch.setattr(transfer, "write_predictions", lambda *arguments: None)
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(3):
            path = folder / "pets" / name / f"{number}.png"
            Image.new("RGB", (8, 8), (90 * number, 9, 9)).save(path)


def watched(line: list[str], at: int = 0, number: int = 0) -> tuple[int, int, list[int]]:
    """Run a command, and send a signal at one of its calls of functions.

    Return its status, the number of calls, and which calls write or end an epoch.
    """
    count, critical = 0, []

    def profile(frame: FrameType, kind: str, argument: object) -> None:
        nonlocal count
        if kind != "call":
            return
        count += 1
        if frame.f_code.co_name in CRITICAL:
            critical.append(count)
        if count == at:
            sys.setprofile(None)
            signal.raise_signal(number)

    sys.setprofile(profile)
    try:
        return main(line), count, critical
    finally:
        sys.setprofile(None)
        torch.set_grad_enabled(True)  # a signal may come while no_grad begins or ends


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", [TRAIN, TRANSFER], ids=["train", "transfer"])
def test_what_the_last_sentence_says_is_on_disk(
    line: list[str], number: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted anywhere, a run keeps its last whole epoch, says so, and leaves no other file."""
    run(" ".join([*line, "--out", "warm"]))  # it imports what the next runs need not
    _, total, critical = watched([*line, "--out", "whole"])
    whole = checkpoints.load("whole/checkpoint.pt")
    said = set()

    moments = [round(total * (step + 0.5) / STEPS) for step in range(STEPS)]
    for moment in sorted({*moments, *critical, *(call + 4 for call in critical)}):
        capsys.readouterr()
        status, _, _ = watched(line, moment, number)
        printed = capsys.readouterr()
        assert status == 128 + number, printed.err
        assert printed.err.count("\n") == 1, printed.err
        sentence = printed.err.rstrip()
        assert re.match(f"dlconcepts {line[0]}: |dlconcepts: (interrupted|terminated)$", sentence)
        shown = len(re.findall("^epoch", printed.out, flags=re.MULTILINE))
        kept = re.search(r"run/checkpoint\.pt keeps (\d) of 3 epochs", sentence)
        said.add(kept[1] if kept else "")
        if kept:
            assert int(kept[1]) >= shown
            found = checkpoints.load(CHECKPOINT)
            if found.training:
                assert found.training.epoch == int(kept[1])
            if kept[1] == "3":
                assert state_of(found.model) == state_of(whole.model)
            assert not list(folder.glob("run/.*"))
            for path in (folder / "run").iterdir():
                assert path.is_dir() or path.unlink() is None
        else:
            assert "nothing was written" in sentence or sentence.startswith("dlconcepts: ")
            assert not shown, sentence
            assert not (folder / "run").exists()

    assert {"", "1", "2"} < said


@pytest.mark.usefixtures("folder", "no_figures")
def test_weights_that_are_not_finite_are_not_kept() -> None:
    """The losses of an epoch can be finite before the step that ruins the weights."""
    model = torch.nn.Linear(1, 1)
    record = Epoch(2, 0.5, 0.5, 0.5, 1.0)
    output.check_finite(record, model)
    with pytest.raises(DivergedError, match=r"epoch 2: the held-out loss is inf"):
        output.check_finite(replace(record, held_out_loss=float("inf")), model)
    torch.nn.init.constant_(model.bias, float("nan"))

    with pytest.raises(DivergedError, match=r"epoch 2: weights are not finite"):
        output.check_finite(record, model)


@pytest.mark.usefixtures("quick")
def test_a_run_can_be_replaced_or_resumed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    """--force trains anew; --resume goes on in the same folder, but not over another run."""
    line = "train --hidden 4 --out"
    assert run(f"{line} run --epochs 1") == 0
    assert run(f"{line} other --epochs 1") == 0

    assert run(f"{line} run --epochs 2 --resume run/checkpoint.pt") == 0
    resumed = checkpoints.load(CHECKPOINT).training
    other = f"{line} other --epochs 3 --resume run/checkpoint.pt"
    assert_explained(other, capsys, "other has an earlier run")
    assert run(f"{line} run --epochs 1 --force") == 0
    new = checkpoints.load(CHECKPOINT).training

    assert [training.epoch for training in (resumed, new) if training] == [2, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fcntl")
@pytest.mark.usefixtures("quick")
def test_a_second_run_into_a_folder_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one holds a lock, which ends with it."""
    (folder / "run").mkdir()
    with output.locked(folder / "run"):
        assert_explained("train --out run", capsys, "another run is writing to run", "--out")

    assert run("train --epochs 1 --out run") == 0


@pytest.mark.parametrize("line", [TRAIN, TRANSFER], ids=["train", "transfer"])
@pytest.mark.usefixtures("quick")
def test_a_closed_pipe_loses_no_epoch(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The epoch that could not be printed is on disk."""

    def fail(record: Epoch) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(output, "print_epoch", fail)

    assert main(line) == 141

    assert capsys.readouterr().err == ""
    training = checkpoints.load(CHECKPOINT).training
    assert training is None or training.epoch == 1
