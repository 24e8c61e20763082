"""`python -m dlconcepts transfer` does what it says, and explains what it cannot do."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dlconcepts import checkpoints
from dlconcepts.__main__ import main
from dlconcepts.cli import transfer as transfer_command
from dlconcepts.cli.train import denormalize
from dlconcepts.images import eval_pipeline, image_folder, split
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.plots import view_confusion
from dlconcepts.transfer import TransferNetwork, untrained
from dlconcepts.validation import accuracy, predict

COLORS = {"blue": (40, 60, 220), "green": (30, 200, 40), "red": (230, 30, 20)}
# Small, and quick on images of 224 x 224.
QUICK = "--model squeezenet1_1 --epochs 2 --lr 0.01"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write five images of each of three colours, of five shades and sizes."""
    root = tmp_path_factory.mktemp("photographs")
    for name, color in COLORS.items():
        (root / name).mkdir()
        for number in range(5):
            shade = tuple(max(value - 8 * number, 0) for value in color)
            Image.new("RGB", (30 + number, 20), shade).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the weights of a network to a file."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.manual_seed(0)
    torch.save(untrained("squeezenet1_1").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def transferred(
    photographs: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """Transfer a network to the colours: status, printed text, folder."""
    out = tmp_path_factory.mktemp("runs") / "new" / "run"
    line = f"transfer {photographs} {QUICK} --epochs 80 --weights {weights}"
    with redirect_stdout(io.StringIO()) as printed:
        status = main([*line.split(), "--held-out", "0.4", "--out", str(out)])
    return SimpleNamespace(status=status, text=printed.getvalue(), out=out)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out, which take most of the time."""
    monkeypatch.setattr(transfer_command, "write_figure", lambda path, figure: None)


def run(line: str) -> int:
    """Run a command line and return its exit status."""
    return main(line.split())


# ------------------------------------------------------------------------ what it does


def test_transfer_tells_colours_apart(transferred: SimpleNamespace) -> None:
    """Every epoch is printed, the last with every held-out image of each class right."""
    epochs = [line for line in transferred.text.splitlines() if line.startswith("epoch")]

    assert transferred.status == 0
    assert "9 images to train on, 6 held out\n" in transferred.text
    assert len(epochs) == 80
    assert epochs[-1].endswith("accuracy 100.0%")
    for name in COLORS:
        assert f"{name:5}     2 of    2  100.0%" in transferred.text


def test_transfer_writes_what_it_says(transferred: SimpleNamespace) -> None:
    """Each path in the output exists, the pictures open, and nothing else was left."""
    said = {
        line.removeprefix("wrote ") for line in transferred.text.splitlines() if "wrote" in line
    }

    assert said == {str(path) for path in transferred.out.iterdir()}
    for picture in transferred.out.glob("*.png"):
        with Image.open(picture) as opened:
            assert min(opened.size) > 400


def test_the_checkpoint_predicts_as_the_output_says(
    transferred: SimpleNamespace, photographs: Path
) -> None:
    """The network in the file, with the pipeline in the file, has the last epoch's loss."""
    _, held_out = split(image_folder(photographs), 0.4, seed=0)
    checkpoint = checkpoints.load(transferred.out / "checkpoint.pt")
    pipeline = eval_pipeline(**checkpoint.normalization)
    images = torch.stack([pipeline(image) for image, _ in held_out])

    probabilities = predict(checkpoint.model, images)

    labels = torch.tensor(held_out.targets)
    loss = -probabilities[range(len(labels)), labels].log().mean().item()
    last = [line for line in transferred.text.splitlines() if line.startswith("epoch")][-1]
    assert checkpoint.classes == tuple(COLORS)
    assert accuracy(probabilities, labels) == 1
    assert float(last.split("held-out loss ")[1].split(",")[0]) == pytest.approx(loss, abs=1e-3)


def test_all_but_the_head_is_as_the_weights_file_has_it(
    transferred: SimpleNamespace, weights: Path
) -> None:
    """Training has not moved a bit outside the head."""
    model = checkpoints.load(transferred.out / "checkpoint.pt").model

    expected = torch.load(weights, weights_only=True)
    found = model.classifier.state_dict()
    kept = {name for name in expected if name.startswith("features.")}
    assert len(kept) == 50
    assert all(found[name].equal(expected[name]) for name in kept)


def test_classify_uses_the_checkpoint(
    transferred: SimpleNamespace,
    photographs: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Images in colour, of any size, are named and drawn."""
    paths = [str(photographs / name / "0.png") for name in COLORS]

    assert main(["classify", str(transferred.out / "checkpoint.pt"), *paths]) == 0

    titles = [line for line in capsys.readouterr().out.splitlines() if ".png: " in line]
    assert titles == [f"{path}: {name}" for path, name in zip(paths, COLORS, strict=True)]
    assert len(list((folder / "runs" / "classify").iterdir())) == 3


@pytest.mark.usefixtures("no_figures", "folder")
def test_augmented_images_are_new_in_each_epoch(
    photographs: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --augment the head gets other features in each epoch, without it the same ones."""
    given: list[torch.Tensor] = []
    fit = transfer_command.fit

    def keeping(
        model: torch.nn.Module, data: transfer_command.Examples, **options: object
    ) -> object:
        """Keep what the head is trained on."""
        given.append(data[0])
        return fit(model, data, **options)

    monkeypatch.setattr(transfer_command, "fit", keeping)
    for options in ("", "--augment"):
        assert run(f"transfer {photographs} {QUICK} --weights {weights} {options}") == 0

    assert given[0].equal(given[1])
    assert not given[2].equal(given[3])


@pytest.mark.usefixtures("no_figures")
def test_the_seed_alone_decides_the_head(photographs: Path, weights: Path, folder: Path) -> None:
    """One seed gives one head, another seed another, and the caller's random state is kept."""
    heads, caller = {}, torch.get_rng_state()

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        line = f"transfer {photographs} {QUICK} --hidden 8 --weights {weights}"
        assert run(f"{line} --seed {seed} --out {name}") == 0
        heads[name] = state_of(checkpoints.load(folder / name / "checkpoint.pt").model.head)

    assert heads["a"] == heads["b"]
    assert heads["a"] != heads["c"]
    assert torch.get_rng_state().equal(caller)


@pytest.mark.parametrize("name", ["squeezenet1_1", "regnet_x_400mf", "googlenet", "resnet18"])
def test_a_checkpoint_brings_back_the_network(name: str, tmp_path: Path) -> None:
    """It is built by torchvision's name, with the head's sizes, and every bit as it was saved."""
    model = TransferNetwork(name, [4], 2).eval()
    path = tmp_path / "checkpoint.pt"
    checkpoints.save(path, model, classes=["a", "b"], normalization={"size": 64})
    caller = torch.get_rng_state()

    loaded = checkpoints.load(path).model

    assert loaded.architecture == {"name": name, "hidden_features": [4], "out_features": 2}
    assert state_of(loaded) == state_of(model)
    assert torch.get_rng_state().equal(caller)


def test_denormalised_images_are_the_bytes_that_were_normalised() -> None:
    """Every byte of every channel comes back."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    shares = images / 255
    inputs = torch.stack([(shares[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)

    assert denormalize(inputs, mean, std).equal(images)


def test_the_confusion_matrix_is_drawn_with_its_numbers() -> None:
    """Each field has its number, each row its class; a class without images is no error."""
    figure = view_confusion(torch.tensor([[2, 1], [0, 0]]), ["cat", "dog"])

    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["2", "1", "0", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert axes.images[0].get_array().tolist() == [
        [pytest.approx(2 / 3), pytest.approx(1 / 3)],
        [0, 0],
    ]


# ------------------------------------------------------------------------ bad input


def explained(line: str, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """Assert that a command fails with status 2 and a message with all the words, unwritten."""
    before = set(Path().iterdir())

    assert run(line) == 2

    printed = capsys.readouterr().err
    assert printed.startswith("dlconcepts transfer: ")
    assert "Traceback" not in printed
    for word in words:
        assert word in printed
    assert set(Path().iterdir()) == before


@pytest.fixture
def damaged(folder: Path) -> Path:
    """Write two classes of three images, of which one each is damaged."""
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40), (90 * number, 9, 9)).save(
                folder / "pets" / name / f"{number}.png"
            )
        (folder / "pets" / name / "torn.jpg").write_bytes(b"\xff\xd8 torn")
    return folder / "pets"


def test_damaged_images_are_all_listed_before_training(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names every image that cannot be read."""
    explained(
        f"transfer {damaged} {QUICK} --weights none",
        capsys,
        "2 of the 8 images",
        str(damaged / "cat" / "torn.jpg"),
        str(damaged / "dog" / "torn.jpg"),
    )


@pytest.mark.usefixtures("no_figures")
def test_damaged_images_are_left_out_and_counted(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --skip-damaged the others are trained on."""
    assert run(f"transfer {damaged} {QUICK} --weights none --skip-damaged") == 0

    assert "4 images to train on, 2 held out, 2 damaged left out" in capsys.readouterr().out


def test_missing_weights_are_explained(
    photographs: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without them in the cache nothing is fetched: file, folder and both remedies are named."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))

    explained(
        f"transfer {photographs}",
        capsys,
        "mobilenet_v2-b0353104.pth",
        str(folder / "hub" / "checkpoints"),
        "--download",
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--model resnet", "no classifier 'resnet'"),
        ("--model resnet --weights none", "no classifier 'resnet'"),
        ("--model alexnet --weights absent.pth", "No such file"),
        ("--model squeezenet1_1 --weights text.pth", "text.pth cannot be used"),
        ("--device gpu", "'gpu'"),
        ("--out text.pth/run", "cannot write to the folder"),
    ],
)
def test_what_cannot_be_used_is_explained(
    options: str, reason: str, photographs: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network, weights, a device or a folder that cannot be used is named."""
    (folder / "text.pth").write_text("no weights")

    explained(f"transfer {photographs} {options}", capsys, reason)


def test_weights_of_another_network_are_explained(
    photographs: Path, weights: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tensors that do not fit the network are named."""
    line = f"transfer {photographs} --model alexnet --weights {weights}"

    explained(line, capsys, "squeezenet.pth cannot be used", "classifier.6.weight")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda root: None, "there is no folder pets"),
        (lambda root: root.mkdir(), "has no folders"),
        (lambda root: (root / "cat").mkdir(parents=True), "no image in"),
        (lambda root: one_image(root / "cat"), "the class cat has 1 image"),
    ],
)
def test_a_folder_that_cannot_be_used_is_explained(
    make: Callable[[Path], object], reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is missing, empty, or has a class of one image is explained."""
    make(folder / "pets")

    explained("transfer pets --weights none", capsys, reason)


def one_image(folder: Path) -> None:
    """Write one image into a new folder."""
    folder.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "1.png")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("transfer", "FOLDER"),
        ("transfer pets --held-out 0", "'0' is not a number between 0 and 1"),
        ("transfer pets --held-out 1", "'1' is not a number between 0 and 1"),
        ("transfer pets --epochs 0", "'0' is not a whole number of at least 1"),
        ("transfer pets --hidden 0", "'0' is not a whole number of at least 1"),
    ],
)
def test_a_usage_error_is_explained(
    line: str, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong arguments end the command with status 2 and say which argument and why."""
    with pytest.raises(SystemExit, match="2"):
        run(line)

    assert reason in capsys.readouterr().err


def test_an_interrupted_first_epoch_is_explained(
    photographs: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C before the first epoch has ended leaves nothing to write, which is said."""
    monkeypatch.setattr(transfer_command, "fit", lambda *arguments, **options: [])

    explained(f"transfer {photographs} {QUICK} --weights none", capsys, "interrupted")
