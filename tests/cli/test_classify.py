"""`python -m dlconcepts classify` prints and draws probabilities."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dlconcepts import checkpoints
from dlconcepts.cli.classify import BATCH_SIZE
from dlconcepts.support import datasets
from dlconcepts.validation import predict
from tests.cli.common import run


def test_classify_prints_the_probabilities_of_the_model(
    trained: SimpleNamespace, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed percentages are the softmax of the model's logits for the image."""
    path = trained.out / "images" / "ankle-boot.png"

    assert run(f"classify {trained.checkpoint} {path}") == 0

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


def test_classify_draws_each_image(
    trained: SimpleNamespace, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every image gets its own drawing, and no drawing overwrites an image."""
    before = image.read_bytes()

    status = run(f"classify {trained.checkpoint} {image} {image} --out .")

    assert status == 0
    assert capsys.readouterr().out.count("wrote") == 2
    assert sorted(path.name for path in image.parent.iterdir()) == [
        "1-grey.png",
        "2-grey.png",
        "grey.png",
    ]
    assert image.read_bytes() == before


def test_classify_takes_colour_images_of_any_size(
    trained: SimpleNamespace, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A large colour JPEG gets the same class as the grey image it was made from."""
    path = trained.out / "images" / "trouser.png"
    with Image.open(path) as opened:
        opened.convert("RGB").resize((560, 560)).save(folder / "large.jpg")

    assert run(f"classify {trained.checkpoint} {path} large.jpg") == 0

    titles = [line for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert titles == [f"{path}: Trouser", "large.jpg: Trouser"]


def test_classify_reads_a_batch_of_images_at_a_time(
    trained: SimpleNamespace,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """However many images are given, the network gets few at a time, and each has its answer."""
    sizes, images = [], 2 * BATCH_SIZE + 1

    def count(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs))
        return predict(model, inputs)

    monkeypatch.setattr("dlconcepts.cli.classify.predict", count)
    monkeypatch.setattr("dlconcepts.cli.classify.view_classify", lambda *arguments: None)
    monkeypatch.setattr("dlconcepts.cli.output.write_figure", lambda path, figure: None)

    assert run(f"classify {trained.checkpoint}" + images * " grey.png") == 0

    assert sizes == [BATCH_SIZE, BATCH_SIZE, 1]
    assert capsys.readouterr().out.count("grey.png: ") == images
