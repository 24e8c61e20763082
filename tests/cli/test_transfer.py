"""`python -m dlconcepts transfer` trains a new head on photographs."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

from dlconcepts import checkpoints
from dlconcepts.cli import run_folder
from dlconcepts.cli.output import denormalize, write_figure
from dlconcepts.images import ImageFolder, eval_pipeline, image_folder, split
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.plots import view_confusion
from dlconcepts.transfer import TransferNetwork, untrained
from dlconcepts.validation import accuracy, predict
from tests.cli.common import run, written

COLORS = {"blue": (40, 60, 220), "green": (30, 200, 40), "red": (230, 30, 20)}
# A small network, quick on images of 224 x 224.
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
    """Train a network on the colours: status, printed text, folder."""
    out = tmp_path_factory.mktemp("runs") / "new" / "run"
    line = f"transfer {photographs} {QUICK} --epochs 80 --weights {weights} --held-out 0.4"
    with redirect_stdout(io.StringIO()) as printed:
        status = run(f"{line} --out {out}")
    return SimpleNamespace(status=status, text=printed.getvalue(), out=out)


# ------------------------------------------------------------------------ what it does


def test_transfer_takes_a_hundred_thousand_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them are found, checked once, split, and classified."""
    checked: list[Path] = []
    for name in ("cat", "dog"):
        Path("pets", name).mkdir(parents=True)
        for number in range(50_000):
            Path("pets", name, f"{number}.png").touch()

    def features(model: object, images: ImageFolder, transform: object) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(images), 512), torch.tensor(images.targets)

    # To decode them takes a minute, and to compute their features takes an hour.
    monkeypatch.setattr("dlconcepts.images._find_fault", checked.append)
    monkeypatch.setattr("dlconcepts.cli.transfer.compute_features", features)
    monkeypatch.setattr("dlconcepts.cli.transfer.draw_predictions", lambda *arguments: None)
    monkeypatch.setattr("dlconcepts.cli.output.write_figure", lambda path, figure: path.touch())
    line = "transfer pets --model squeezenet1_1 --weights none --epochs 1 --batch-size 10000"

    assert run(f"{line} --out run") == 0

    printed = capsys.readouterr().out
    assert "80,000 images to train on, 20,000 held out" in printed
    assert len(set(checked)) == 100_000
    assert "10000 of 10000" in printed
    assert Path("run/checkpoint.pt").exists()


def test_decoding_the_images_shows_a_bar_on_a_terminal(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar advances by one for each image."""
    steps = []

    @contextmanager
    def bar(total: int, shown: bool) -> Iterator[Callable[[str], None] | None]:
        assert (total, shown) == (15, True)
        yield steps.append

    monkeypatch.setattr("dlconcepts.images.progress_bar", bar)

    image_folder(photographs, progress=True)

    assert len(steps) == 15


def test_transfer_tells_colours_apart(transferred: SimpleNamespace) -> None:
    """Every epoch is printed; the last one predicts all held-out images correctly."""
    epochs = [line for line in transferred.text.splitlines() if line.startswith("epoch")]

    assert transferred.status == 0
    assert "9 images to train on, 6 held out\n" in transferred.text
    assert len(epochs) == 80
    assert epochs[-1].endswith("accuracy 100.0%")
    for name in COLORS:
        assert f"{name:5}     2 of    2  100.0%" in transferred.text


def test_transfer_writes_the_files_that_it_prints(transferred: SimpleNamespace) -> None:
    """Each printed path exists, the pictures open, and there is no other file."""
    assert written(transferred.text) == {str(path) for path in transferred.out.iterdir()}
    for picture in transferred.out.glob("*.png"):
        with Image.open(picture) as opened:
            assert min(opened.size) > 400


def test_the_checkpoint_predicts_as_the_output_says(
    transferred: SimpleNamespace, photographs: Path
) -> None:
    """The network and the pipeline in the file have the loss of the last epoch."""
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


def test_only_the_head_differs_from_the_weights_file(
    transferred: SimpleNamespace, weights: Path
) -> None:
    """Training does not change a bit outside the head."""
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
    """Colour images of any size are classified and drawn."""
    paths = [str(photographs / name / "0.png") for name in COLORS]

    assert run(f"classify {transferred.out / 'checkpoint.pt'} {' '.join(paths)}") == 0

    titles = [line for line in capsys.readouterr().out.splitlines() if ".png: " in line]
    assert titles == [f"{path}: {name}" for path, name in zip(paths, COLORS, strict=True)]
    assert len(list((folder / "runs" / "classify").iterdir())) == 3


@pytest.mark.usefixtures("no_figures", "folder")
def test_augmented_images_are_new_in_each_epoch(
    photographs: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --augment the features differ in each epoch, without it they stay the same."""
    given: list[torch.Tensor] = []
    fit = run_folder.fit

    def keeping(model: torch.nn.Module, data: run_folder.Examples, **options: object) -> object:
        given.append(data[0])
        return fit(model, data, **options)

    monkeypatch.setattr(run_folder, "fit", keeping)
    for options in ("", "--augment"):
        line = f"transfer {photographs} {QUICK} --weights {weights} --out run{options}"
        assert run(f"{line} {options}") == 0

    assert given[0].equal(given[1])
    assert not given[2].equal(given[3])


@pytest.mark.usefixtures("no_figures")
def test_the_seed_alone_decides_the_head(photographs: Path, weights: Path, folder: Path) -> None:
    """The same seed gives the same head, another seed another; the caller's state is restored."""
    heads, caller = {}, torch.get_rng_state()

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        line = f"transfer {photographs} {QUICK} --hidden 8 --weights {weights}"
        assert run(f"{line} --seed {seed} --out {name}") == 0
        heads[name] = state_of(checkpoints.load(folder / name / "checkpoint.pt").model.head)

    assert heads["a"] == heads["b"]
    assert heads["a"] != heads["c"]
    assert torch.get_rng_state().equal(caller)


@pytest.mark.parametrize("name", ["squeezenet1_1", "regnet_x_400mf", "googlenet", "resnet18"])
def test_a_checkpoint_restores_the_network(name: str, tmp_path: Path) -> None:
    """It keeps torchvision's name, the sizes of the head and every bit of the state."""
    model = TransferNetwork(name, [4], 2).eval()
    path = tmp_path / "checkpoint.pt"
    checkpoints.save(path, model, classes=["a", "b"], normalization={"size": 64})
    caller = torch.get_rng_state()

    loaded = checkpoints.load(path).model

    assert loaded.architecture == {"name": name, "hidden_features": [4], "out_features": 2}
    assert state_of(loaded) == state_of(model)
    assert torch.get_rng_state().equal(caller)


def test_denormalize_undoes_normalize() -> None:
    """Every byte of every channel is restored."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    shares = images / 255
    inputs = torch.stack([(shares[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)

    assert denormalize(inputs, mean, std).equal(images)


def test_the_confusion_matrix_is_drawn_with_its_numbers() -> None:
    """Each field has its count, each row its class, even a class without images."""
    figure = view_confusion(torch.tensor([[2, 1], [0, 0]]), ["cat", "dog"])

    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["2", "1", "0", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert axes.images[0].get_array().tolist() == [
        [pytest.approx(2 / 3), pytest.approx(1 / 3)],
        [0, 0],
    ]


@pytest.mark.usefixtures("no_figures")
def test_a_class_may_have_any_name_that_can_be_written(folder: Path) -> None:
    """Spaces, other scripts, line breaks, and what matplotlib would take for a formula."""
    names = ["$\\frac$", "a b", "line\nbreak", "ネコ"]
    for name in names:
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (9, 9)).save(folder / "pets" / name / f"{number}.png")

    assert run(f"transfer pets {QUICK} --weights none --out run") == 0

    assert list(checkpoints.load(folder / "run" / "checkpoint.pt").classes) == names
    figure = view_confusion(torch.tensor([[2, 1], [0, 0]]), names[:2])
    with pytest.raises(ValueError, match="frac"):
        figure.savefig(io.BytesIO())
    write_figure(folder / "figure.png", figure)
