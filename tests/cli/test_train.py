"""`python -m dlconcepts train` and `classify` do what they say, and explain what they cannot do."""

import io
import os
import subprocess
import sys
import zlib
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dlconcepts import checkpoints
from dlconcepts.__main__ import main
from dlconcepts.cli import train as commands
from dlconcepts.support import checkpoint_files as files
from dlconcepts.support import datasets
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.datasets import fashion_mnist
from dlconcepts.support.devices import DEVICES, DeviceUnavailableError, find_device
from dlconcepts.validation import evaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train with the default settings: status, printed text, folder, checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "new" / "run"
    with redirect_stdout(io.StringIO()) as printed:
        status = main(["train", "--out", str(out)])
    checkpoint = out / "checkpoint.pt"
    return SimpleNamespace(status=status, text=printed.getvalue(), out=out, checkpoint=checkpoint)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(folder):
    """Give the file name of a grey image."""
    path = folder / "grey.png"
    Image.new("L", (28, 28), 128).save(path)
    return path


@pytest.fixture
def no_figures(monkeypatch):
    """Leave the figures out, which take most of the time of a short training."""
    monkeypatch.setattr(commands, "write_figure", lambda path, figure: None)
    monkeypatch.setattr(commands, "view_predictions", lambda *arguments: None)


def run(line):
    """Run a command line and return its exit status."""
    return main(line.split())


def explained(capsys, *words):
    """Assert that one sentence on stderr, no traceback, has all the words."""
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    for word in words:
        assert word in printed.err


# ------------------------------------------------------------------------ train


def test_train_reaches_80_percent_on_held_out_images(trained):
    """With its default settings the command reaches the promised held-out accuracy."""
    epochs = [line for line in trained.text.splitlines() if line.startswith("epoch")]

    assert trained.status == 0
    assert len(epochs) == 15
    assert float(epochs[-1].rpartition("accuracy ")[2].rstrip("%")) >= 80


def test_train_says_where_its_images_come_from(trained):
    """The source, the number of images and the device are printed."""
    assert "data: Fashion-MNIST, the sample that comes with dlconcepts" in trained.text
    assert "6,000 images to train on, 1,000 held out" in trained.text
    assert "device: cpu" in trained.text


def test_train_writes_what_it_says(trained):
    """Each path in the output exists, the pictures open, and nothing else was left."""
    said = {line.removeprefix("wrote ") for line in trained.text.splitlines() if "wrote" in line}

    assert said == {str(path) for path in trained.out.iterdir()}
    for picture in trained.out.glob("*.png"):
        with Image.open(picture) as opened:
            assert min(opened.size) > 400
    assert len(list((trained.out / "images").iterdir())) == 10


def test_train_writes_held_out_images_to_classify(trained):
    """The first held-out image of each class is there as a file, pixel for pixel."""
    held_out = fashion_mnist(train=False)
    labels = held_out.labels.tolist()

    for name, file in (("Trouser", "trouser.png"), ("T-shirt/top", "t-shirt-top.png")):
        expected = held_out.images[labels.index(held_out.classes.index(name))]
        assert datasets.read_image(trained.out / "images" / file).equal(expected)


def test_the_checkpoint_has_the_accuracy_that_was_printed(trained):
    """The model in the file is the one of the last epoch."""
    held_out = fashion_mnist(train=False)

    model = checkpoints.load(trained.checkpoint).model
    result = evaluate(model, (held_out.images, held_out.labels))

    last = [line for line in trained.text.splitlines() if line.startswith("epoch")][-1]
    assert f"held-out loss {result.loss:.4f}, accuracy {result.accuracy:.1%}" in last


@pytest.mark.usefixtures("no_figures")
def test_the_checkpoint_has_the_settings_that_were_asked_for(folder):
    """Hidden layers and dropout of the command line arrive in the file."""
    assert run("train --epochs 1 --hidden 7 5 --dropout 0.25 --out run") == 0

    model = checkpoints.load(folder / "run" / "checkpoint.pt").model
    assert model.architecture["hidden_features"] == [7, 5]
    assert model.architecture["dropout"] == 0.25


@pytest.mark.usefixtures("no_figures")
def test_the_seed_alone_decides_the_weights(folder):
    """One seed gives one model, another seed another, and the caller's random state is kept."""
    weights, caller = {}, torch.get_rng_state()

    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(f"train --epochs 1 --seed {seed} --out {name}")
        model = checkpoints.load(folder / name / "checkpoint.pt").model
        weights[name] = torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert weights["a"].equal(weights["b"])
    assert not weights["a"].equal(weights["c"])
    assert torch.get_rng_state().equal(caller)


@pytest.mark.usefixtures("no_figures")
def test_train_without_hidden_layers_is_softmax_regression(folder):
    """No width after --hidden means one layer from pixels to classes."""
    assert run("train --epochs 1 --out run --hidden") == 0

    model = checkpoints.load(folder / "run" / "checkpoint.pt").model
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(10, 784), (10,)]


def test_a_loss_that_is_not_finite_is_explained(folder, capsys):
    """The error names epoch, batch and learning rate, and no result is written."""
    assert run("train --lr 1e30 --out run") == 2

    explained(capsys, "loss is", "epoch 1", "batch", "learning rate 1e+30")
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("no_figures")
def test_a_disk_that_is_full_leaves_the_old_checkpoint(folder, capsys, monkeypatch):
    """What cannot be written whole is not written at all, and the old file stays."""
    run("train --epochs 1 --out run")
    before = (folder / "run" / "checkpoint.pt").read_bytes()
    capsys.readouterr()

    def fail(descriptor):
        """Fail as a full disk does."""
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert run("train --epochs 1 --seed 1 --out run") == 2

    explained(capsys, "cannot write", "run", "No space left on device", "--out")
    assert (folder / "run" / "checkpoint.pt").read_bytes() == before
    assert not list(folder.rglob("*.tmp"))


# ------------------------------------------------------------------------ train --resume


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """Train one epoch of a small network with dropout: the options and the checkpoint."""
    out = tmp_path_factory.mktemp("halfway")
    options = "--hidden 16 --dropout 0.3 --batch-size 500"
    with redirect_stdout(io.StringIO()):
        main([*f"train {options} --epochs 1 --out".split(), str(out)])
    return SimpleNamespace(options=options, path=out / "checkpoint.pt")


@pytest.mark.usefixtures("no_figures")
def test_a_resumed_training_ends_where_an_unbroken_one_does(halfway, folder):
    """An epoch, and two more in a new interpreter, are three epochs, bit for bit."""
    run(f"train {halfway.options} --epochs 3 --out unbroken")
    resumed = f"{halfway.options} --epochs 3 --out resumed --resume {halfway.path}"
    program = [sys.executable, "-m", "dlconcepts", "train", *resumed.split()]

    finished = subprocess.run(program, capture_output=True, text=True)

    unbroken, resumed = (
        checkpoints.load(folder / name / "checkpoint.pt") for name in ("unbroken", "resumed")
    )
    epochs = [line[:9] for line in finished.stdout.splitlines() if line.startswith("epoch")]
    assert finished.stderr == ""
    assert epochs == ["epoch   2", "epoch   3"]
    assert state_of(resumed.model) == state_of(unbroken.model)
    losses = [
        [(record["epoch"], record["train_loss"]) for record in checkpoint.training.history]
        for checkpoint in (unbroken, resumed)
    ]
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("no_figures")
def test_a_training_that_is_broken_off_can_be_resumed(folder, monkeypatch, capsys):
    """The checkpoint of each finished epoch is on disk while the next one runs."""
    write = commands.write_checkpoint

    def interrupt(arguments, model, optimizer, generator, history, classes):
        """Write the checkpoint, and break off after the second."""
        write(arguments, model, optimizer, generator, history, classes)
        if len(history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(commands, "write_checkpoint", interrupt)
    run("train --hidden 4 --batch-size 500 --epochs 3 --out run")

    assert "interrupted after 2 of 3 epochs" in capsys.readouterr().out
    assert checkpoints.load(folder / "run" / "checkpoint.pt").training.epoch == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--epochs 1", "has done 1 epochs; give more with --epochs"),
        ("--epochs 2 --lr 0.1", "was trained with lr 0.001; give the same"),
        ("--epochs 2 --hidden 5 --seed 4", "was trained with hidden [16], seed 0; give the same"),
    ],
)
def test_a_training_that_cannot_go_on_is_explained(options, reason, halfway, folder, capsys):
    """What differs from the training in the checkpoint is named before anything is trained."""
    line = f"train {halfway.options} {options} --resume {halfway.path} --out run"

    assert run(line) == 2

    explained(capsys, str(halfway.path), reason)
    assert list(folder.iterdir()) == []


def test_a_checkpoint_without_training_is_explained(folder, capsys):
    """A checkpoint of a finished model cannot be resumed, which is said."""
    model = checkpoints.Network(784, [128, 64], 10)
    path = folder / "model.pt"
    checkpoints.save(path, model, classes=datasets.CLASSES, normalization={})

    assert run(f"train --resume {path} --out run") == 2

    explained(capsys, "model.pt", "no training to go on with")


# ------------------------------------------------------------------------ classify


def test_classify_prints_the_probabilities_of_the_model(trained, folder, capsys):
    """The printed percentages are the softmax of the model's logits for that image."""
    path = trained.out / "images" / "ankle-boot.png"

    assert main(["classify", str(trained.checkpoint), str(path)]) == 0

    first, *rows, last = capsys.readouterr().out.splitlines()
    model = checkpoints.load(trained.checkpoint).model
    with torch.no_grad():
        logits = model((datasets.read_image(path)[None] / 255 - 0.5) / 0.5)
    expected = torch.softmax(logits[0].double(), dim=0).tolist()
    assert first == f"{path}: {datasets.CLASSES[expected.index(max(expected))]}"
    assert [row.split("%")[0].split() for row in rows] == [
        [*name.split(), f"{100 * p:.1f}"]
        for name, p in zip(datasets.CLASSES, expected, strict=True)
    ]
    assert last == f"wrote {Path('runs', 'classify', '1-ankle-boot.png')}"


def test_classify_draws_each_image(trained, image, capsys):
    """Every image gets a drawing of its own, and no image is overwritten by its drawing."""
    before = image.read_bytes()

    status = main(["classify", str(trained.checkpoint), str(image), str(image), "--out", "."])

    assert status == 0
    assert capsys.readouterr().out.count("wrote") == 2
    assert sorted(path.name for path in image.parent.iterdir()) == [
        "1-grey.png",
        "2-grey.png",
        "grey.png",
    ]
    assert image.read_bytes() == before


def test_classify_takes_colour_images_of_any_size(trained, folder, capsys):
    """A large JPEG in colour is classified like the grey image it was made from."""
    path = trained.out / "images" / "trouser.png"
    with Image.open(path) as opened:
        opened.convert("RGB").resize((560, 560)).save(folder / "large.jpg")

    assert main(["classify", str(trained.checkpoint), str(path), "large.jpg"]) == 0

    titles = [line for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert titles == [f"{path}: Trouser", "large.jpg: Trouser"]


# ------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("command", ["train", "classify"])
def test_a_folder_that_cannot_be_written_is_explained(command, image, capsys):
    """A file where the folder should be is named before any work is done."""
    arguments = {"train": [], "classify": ["checkpoint.pt", "grey.png"]}[command]

    assert main([command, *arguments, "--out", "grey.png/run"]) == 2

    explained(capsys, "grey.png", "cannot write to the folder", "--out")


def test_an_unknown_device_is_explained(folder, capsys):
    """A device that PyTorch has no name for is answered with the names it has."""
    assert run("train --device gpu --out run") == 2

    explained(capsys, "'gpu'", "cpu, cuda, mps, xpu")
    assert list(folder.iterdir()) == []


def test_a_device_that_is_not_there_is_explained(folder, capsys):
    """A device that this machine lacks is an error with a reason, never the CPU instead."""
    assert main(["train", "--device", missing_device(), "--out", "run"]) == 2

    explained(capsys, f"device {missing_device()!r} is not available: ")
    assert list(folder.iterdir()) == []


def missing_device():
    """Return a device that this machine has not; no machine has all of them."""
    for name in DEVICES:
        try:
            find_device(name)
        except DeviceUnavailableError:
            return name
    raise AssertionError("this machine has every device")


def test_a_damaged_data_file_is_explained(folder, capsys, monkeypatch):
    """A data file that is not there is named, with the remedy."""
    monkeypatch.setattr(datasets, "SAMPLE", folder)

    assert run("train --out run") == 2

    explained(capsys, "train-images-idx3-ubyte.gz is missing", "reinstall dlconcepts")
    assert list(folder.iterdir()) == []


def test_a_missing_full_set_is_explained(folder, capsys, monkeypatch):
    """Both commands that bring the full set are given, and no download starts."""
    monkeypatch.setattr(datasets, "DEBIAN", folder)

    assert run("train --full --data images --out run") == 2

    explained(capsys, "images", "apt-get install dataset-fashion-mnist", "--full --download")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["absent.png", "note.txt", "."])
def test_an_image_that_is_none_is_explained(name, trained, image, capsys):
    """A missing file, a text and a folder are named, and nothing is drawn for the good image."""
    (image.parent / "note.txt").write_text("not an image")

    assert main(["classify", str(trained.checkpoint), str(image), name]) == 2

    explained(capsys, f" {name}")
    assert not (image.parent / "runs").exists()


class Payload:
    """A pickle that creates a file when it is loaded."""

    def __reduce__(self):
        """Return the call that unpickling would make."""
        return os.mkdir, ("executed",)


def foreign(content):
    """Return a function that writes a file with torch.save."""
    return lambda path, good: torch.save(content, path)


def changed(**parts):
    """Return a function that writes a checkpoint with some parts exchanged."""
    return lambda path, good: files.save_file({**files.load_file(good), **parts}, path)


def forged(content):
    """Return a function that writes a file with torch.save and gives it a checksum."""

    def make(path, good):
        """Write it."""
        archive = io.BytesIO()
        torch.save(content, archive)
        checksum = zlib.crc32(archive.getvalue())
        path.write_bytes(archive.getvalue()[:-2] + files.trailer(checksum))

    return make


def cut(length):
    """Return a function that writes the first bytes of a checkpoint."""
    return lambda path, good: path.write_bytes(good.read_bytes()[:length])


WIDE = {"class": "Network", "in_features": 784, "hidden_features": [9], "out_features": 10}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path, good: None, "No such file", id="missing"),
        pytest.param(lambda path, good: path.mkdir(), "irectory", id="folder"),
        pytest.param(cut(0), "is not one", id="empty"),
        pytest.param(cut(1000), "truncated", id="truncated"),
        pytest.param(cut(-100), "truncated", id="end-missing"),
        pytest.param(lambda path, good: path.write_text("text"), "is not one", id="text"),
        pytest.param(foreign(torch.nn.Linear(1, 1).state_dict()), "elsewhere", id="state-dict"),
        pytest.param(foreign(torch.zeros(3)), "elsewhere", id="tensor"),
        pytest.param(foreign({"architecture": Payload()}), "elsewhere", id="code"),
        pytest.param(forged({"architecture": Payload()}), "pickled code", id="forged-code"),
        pytest.param(changed(format_version=99), "format version 99", id="later-version"),
        pytest.param(changed(architecture=WIDE), "hidden.0.weight", id="other-widths"),
        pytest.param(
            changed(architecture={"class": "Network", "layers": 3}), "layers", id="other-arguments"
        ),
        pytest.param(changed(architecture={"class": "LeNet"}), "LeNet", id="other-class"),
        pytest.param(changed(state_dict=None), "state_dict is of type NoneType", id="no-weights"),
        pytest.param(changed(classes=["one"]), "10 outputs", id="few-classes"),
    ],
)
def test_a_checkpoint_that_is_none_is_explained(make, reason, trained, image, capsys):
    """Whatever else is given for a checkpoint is named with its fault, and no code of it runs."""
    path = image.parent / "bad.pt"
    make(path, trained.checkpoint)

    assert main(["classify", str(path), str(image)]) == 2

    explained(capsys, str(path), reason)
    assert {entry.name for entry in image.parent.iterdir()} <= {"bad.pt", "grey.png"}


def test_a_checkpoint_for_other_images_is_explained(image, capsys):
    """A network that does not take 784 values is refused with both sizes."""
    model = checkpoints.Network(4, [3], 2)
    path = image.parent / "small.pt"
    checkpoints.save(path, model, classes=["a", "b"], normalization={"mean": 0.5, "std": 0.5})

    assert main(["classify", str(path), str(image)]) == 2

    explained(capsys, "small.pt", "takes 4 values", "784")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "COMMAND"),
        ("learn", "learn"),
        ("train --epochs 0", "'0' is not a whole number of at least 1"),
        ("train --epochs two", "'two' is not a whole number of at least 1"),
        ("train --batch-size 1.5", "'1.5' is not a whole number"),
        ("train --lr 0", "'0' is not a number above 0"),
        ("train --lr nan", "'nan' is not a number above 0"),
        ("train --lr inf", "'inf' is not a number above 0"),
        ("train --dropout 1.1", "'1.1' is not a number from 0 to 1"),
        ("train --hidden 128 0", "'0' is not a whole number of at least 1"),
        ("train --seed -1", "'-1' is not a whole number from 0"),
        ("train --download", "add --full"),
        ("train --data images", "add --full"),
        ("classify checkpoint.pt", "IMAGE"),
    ],
)
def test_a_usage_error_is_explained(line, reason, folder, capsys):
    """Wrong arguments end the command with status 2 and say which argument and why."""
    with pytest.raises(SystemExit, match="2"):
        run(line)

    assert reason in capsys.readouterr().err
    assert list(folder.iterdir()) == []


# ------------------------------------------------------------------------ as a program


def test_help_does_not_wait_for_pytorch():
    """Help comes without importing PyTorch."""
    program = (
        "import sys; from dlconcepts.__main__ import parse\n"
        "try: parse(['train', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert finished.stderr == ""
    assert "--epochs" in finished.stdout


def test_the_program_ends_with_the_command_s_status(folder):
    """Run by itself, the program prints the sentence alone and exits with status 2."""
    finished = subprocess.run(
        [sys.executable, "-m", "dlconcepts", "classify", "absent.pt", "absent.png"],
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith(
        "dlconcepts classify: the checkpoint absent.pt cannot be read"
    )
    assert finished.stderr.count("\n") == 1
