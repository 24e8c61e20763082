"""`python -m dlconcepts train` trains a network and resumes a run."""

import io
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dlconcepts import checkpoints
from dlconcepts.support import datasets
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.datasets import fashion_mnist
from dlconcepts.validation import evaluate
from tests.cli.common import run, written

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
