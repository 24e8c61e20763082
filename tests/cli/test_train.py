"""`python -m dlconcepts train` trains a network, resumes a run, and explains user errors."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from dlconcepts import checkpoints
from dlconcepts.networks import Network
from dlconcepts.support import datasets
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.checkpoint_files import load_file, save_file
from dlconcepts.support.datasets import fashion_mnist
from dlconcepts.support.devices import DEVICES, DeviceUnavailableError, find_device
from dlconcepts.validation import evaluate
from tests.cli.common import assert_explained, run, written

# ------------------------------------------------------------------------ what it does


def epochs_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("epoch")]


def test_train_reaches_80_percent_on_held_out_images(trained: SimpleNamespace) -> None:
    """The default settings reach the promised held-out accuracy."""
    epochs = epochs_of(trained.text)

    assert trained.status == 0
    assert len(epochs) == 15
    assert float(epochs[-1].rpartition("accuracy ")[2].rstrip("%")) >= 80


def test_train_prints_the_source_of_its_images(trained: SimpleNamespace) -> None:
    """The source, the number of images and the device are printed."""
    assert "data: Fashion-MNIST, the sample that comes with dlconcepts" in trained.text
    assert "6,000 images to train on, 1,000 held out" in trained.text
    assert "device: cpu" in trained.text


def test_train_writes_the_files_that_it_prints(trained: SimpleNamespace) -> None:
    """Each printed path exists, the pictures open, and there is no other file."""
    assert written(trained.text) == {str(path) for path in trained.out.iterdir()}
    for picture in trained.out.glob("*.png"):
        with Image.open(picture) as opened:
            assert min(opened.size) > 400
    assert len(list((trained.out / "images").iterdir())) == 10


def test_train_writes_held_out_images_to_classify(trained: SimpleNamespace) -> None:
    """The first held-out image of each class is written as a file, pixel for pixel."""
    held_out = fashion_mnist(train=False)
    labels = held_out.labels.tolist()

    for name, file in (("Trouser", "trouser.png"), ("T-shirt/top", "t-shirt-top.png")):
        expected = held_out.images[labels.index(held_out.classes.index(name))]
        assert datasets.read_image(trained.out / "images" / file).equal(expected)


def test_the_checkpoint_has_the_accuracy_that_was_printed(trained: SimpleNamespace) -> None:
    """The file holds the model of the last epoch."""
    held_out = fashion_mnist(train=False)

    model = checkpoints.load(trained.checkpoint).model
    result = evaluate(model, (held_out.images, held_out.labels))

    last = epochs_of(trained.text)[-1]
    assert f"held-out loss {result.loss:.4f}, accuracy {result.accuracy:.1%}" in last


@pytest.mark.usefixtures("no_figures")
def test_the_checkpoint_has_the_settings_of_the_command_line(folder: Path) -> None:
    """--hidden and --dropout set the architecture in the file."""
    assert run("train --epochs 1 --hidden 7 5 --dropout 0.25 --out run") == 0

    model = checkpoints.load(folder / "run" / "checkpoint.pt").model
    assert model.architecture["hidden_features"] == [7, 5]
    assert model.architecture["dropout"] == 0.25


@pytest.mark.usefixtures("no_figures")
def test_the_seed_alone_decides_the_weights(folder: Path) -> None:
    """The same seed gives the same model, another seed another; the caller's state is restored."""
    weights, caller = {}, torch.get_rng_state()

    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(f"train --epochs 1 --seed {seed} --out {name}")
        model = checkpoints.load(folder / name / "checkpoint.pt").model
        weights[name] = torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert weights["a"].equal(weights["b"])
    assert not weights["a"].equal(weights["c"])
    assert torch.get_rng_state().equal(caller)


@pytest.mark.usefixtures("no_figures")
def test_train_without_hidden_layers_is_softmax_regression(folder: Path) -> None:
    """--hidden without a width means one layer from pixels to classes."""
    assert run("train --epochs 1 --out run --hidden") == 0

    model = checkpoints.load(folder / "run" / "checkpoint.pt").model
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(10, 784), (10,)]


# ------------------------------------------------------------------------ --resume


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Train one epoch of a small network with dropout: the options and the checkpoint."""
    out = tmp_path_factory.mktemp("halfway")
    options = "--hidden 16 --dropout 0.3 --batch-size 500"
    with redirect_stdout(io.StringIO()):
        run(f"train {options} --epochs 1 --out {out}")
    return SimpleNamespace(options=options, path=out / "checkpoint.pt")


@pytest.mark.usefixtures("no_figures")
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    halfway: SimpleNamespace, folder: Path
) -> None:
    """One epoch, and two more in a new interpreter, equal three epochs, bit for bit."""
    run(f"train {halfway.options} --epochs 3 --out whole")
    options = f"{halfway.options} --epochs 3 --out resumed --resume {halfway.path}"
    program = [sys.executable, "-m", "dlconcepts", "train", *options.split()]

    finished = subprocess.run(program, capture_output=True, text=True)

    assert finished.stderr == ""
    assert [line[:9] for line in epochs_of(finished.stdout)] == ["epoch   2", "epoch   3"]
    whole, resumed = (
        checkpoints.load(folder / name / "checkpoint.pt") for name in ("whole", "resumed")
    )
    assert state_of(resumed.model) == state_of(whole.model)
    losses = [
        [(record["epoch"], record["train_loss"]) for record in checkpoint.training.history]
        for checkpoint in (whole, resumed)
    ]
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--epochs 1", "already has 1 epochs; ask for more with --epochs"),
        ("--epochs 2 --lr 0.1", "was trained with lr 0.001; use the same settings"),
        ("--epochs 2 --hidden 5 --seed 4", "was trained with hidden [16], seed 0; use the same"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_explained(
    options: str, reason: str, halfway: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Differences from the checkpoint are named before the training starts."""
    line = f"train {halfway.options} {options} --resume {halfway.path} --out run"

    assert_explained(line, capsys, str(halfway.path), reason)


def halve(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an optimizer with half of each tensor."""
    moments = {
        number: {k: v[: len(v) // 2] if v.ndim else v for k, v in own.items()}
        for number, own in state["state"].items()
    }
    return {**state, "state": moments}


RECORD = {"epoch": 1, "train_loss": 1.0, "held_out_loss": 1.0, "held_out_accuracy": 0.5}
DAMAGES: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (lambda own: {"epoch": -3}, "1 epochs, but its epoch is -3"),
    (lambda own: {"epoch": 2}, "1 epochs, but its epoch is 2"),
    (lambda own: {"epoch": 0, "history": []}, "0 epochs"),
    (lambda own: {"history": [{"epoch": 1}]}, "train_loss"),
    (lambda own: {"history": [{**RECORD, "seconds": "long"}]}, "not finite numbers"),
    (lambda own: {"history": [{**RECORD, "seconds": float("nan")}]}, "not finite numbers"),
    (lambda own: {"history": ["one"]}, "cannot be used"),
    (lambda own: {"optimizer": {}}, "cannot be used"),
    (lambda own: {"optimizer": halve(own["optimizer"])}, "parameters of other shapes"),
    (
        lambda own: {"random_states": {**own["random_states"], "cpu": torch.zeros(3)}},
        "cannot be used",
    ),
]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_training_state_with_wrong_values_is_explained(
    damage: Callable[[dict[str, Any]], dict[str, Any]],
    reason: str,
    halfway: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The checksum is right, but what the file holds cannot be resumed."""
    content = load_file(halfway.path)
    content["training"] |= damage(content["training"])
    save_file(content, "bad.pt")

    line = f"train {halfway.options} --epochs 2 --resume bad.pt --out run"
    assert_explained(line, capsys, "bad.pt cannot be used", reason)


@pytest.mark.usefixtures("folder")
def test_a_network_that_does_not_fit_into_memory_is_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback of the allocator."""
    line = "train --hidden 2147483647 2147483647 --out run"
    assert_explained(line, capsys, "there is not enough memory")


def test_a_checkpoint_without_training_state_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of a finished model cannot be resumed."""
    path = folder / "model.pt"
    model = Network(784, [128, 64], 10)
    checkpoints.save(path, model, classes=datasets.CLASSES, normalization={})

    line = f"train --resume {path} --out run"
    assert_explained(line, capsys, "model.pt", "no training state", "without --resume")


# ------------------------------------------------------------------------ user errors


@pytest.mark.usefixtures("folder")
def test_a_loss_that_is_not_finite_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names epoch, batch and learning rate."""
    line = "train --lr 1e30 --out run"

    assert_explained(line, capsys, "loss is", "epoch 1", "batch", "learning rate 1e+30")


@pytest.mark.usefixtures("no_figures")
def test_a_full_disk_leaves_the_old_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be written completely does not replace the old one."""
    run("train --epochs 1 --out run")
    before = (folder / "run" / "checkpoint.pt").read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    line = "train --epochs 1 --seed 1 --out run --force"
    words = "cannot write", "run", "No space left on device", "--out", "is as it was before"
    assert_explained(line, capsys, *words)

    assert (folder / "run" / "checkpoint.pt").read_bytes() == before


@pytest.mark.usefixtures("image")
def test_a_folder_that_cannot_be_written_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """A file in place of the folder is named before the training starts."""
    line = "train --out grey.png/run"

    assert_explained(line, capsys, "grey.png", "cannot write to the folder", "--out")


@pytest.mark.usefixtures("folder")
def test_an_unknown_device_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """The error lists the devices that PyTorch knows."""
    assert_explained("train --device gpu --out run", capsys, "'gpu'", "cpu, cuda, mps, xpu")


@pytest.mark.usefixtures("folder")
def test_a_missing_device_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """The command never falls back to the CPU."""
    device = missing_device()

    line = f"train --device {device} --out run"
    assert_explained(line, capsys, f"device {device!r} is not available: ")


def missing_device() -> str:
    """Return a device that this machine lacks; no machine has all of them."""
    for name in DEVICES:
        try:
            find_device(name)
        except DeviceUnavailableError:
            return name
    raise AssertionError("this machine has every device")


def test_a_missing_data_file_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file and the remedy."""
    monkeypatch.setattr(datasets, "SAMPLE", folder)

    words = "train-images-idx3-ubyte.gz is missing", "reinstall dlconcepts"
    assert_explained("train --out run", capsys, *words)


def test_a_missing_full_set_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error gives both commands that get the full set; no download starts."""
    monkeypatch.setattr(datasets, "DEBIAN", folder)

    words = "images", "apt-get install dataset-fashion-mnist", "--full --download"
    assert_explained("train --full --data images --out run", capsys, *words)
