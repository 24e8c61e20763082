"""`python -m dlconcepts classify` prints and draws probabilities, and explains user errors."""

import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dlconcepts import checkpoints
from dlconcepts.networks import Network
from dlconcepts.support import checkpoint_files as files
from dlconcepts.support import datasets
from tests.cli.common import assert_explained, run


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


# ------------------------------------------------------------------------ user errors


@pytest.mark.usefixtures("image")
def test_a_folder_that_cannot_be_written_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """A file in place of the folder is named before the checkpoint is read."""
    line = "classify absent.pt grey.png --out grey.png/run"

    assert_explained(line, capsys, "grey.png", "cannot write to the folder", "--out")


@pytest.mark.parametrize("name", ["absent.png", "note.txt", "."])
def test_an_image_that_cannot_be_read_is_explained(
    name: str, trained: SimpleNamespace, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file, a text and a folder are named, and not even the good image is drawn."""
    (image.parent / "note.txt").write_text("not an image")

    assert_explained(f"classify {trained.checkpoint} {image} {name}", capsys, f" {name}")


Make = Callable[[Path, Path], object]  # writes a file, given a good checkpoint


class Payload:
    """A pickle that creates a folder when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def foreign(content: object) -> Make:
    """Write a file with torch.save."""
    return lambda path, good: torch.save(content, path)


def changed(**parts: object) -> Make:
    """Write a checkpoint with other parts."""
    return lambda path, good: files.save_file({**files.load_file(good), **parts}, path)


def forged(content: object) -> Make:
    """Write a file with torch.save, and add a valid checksum."""

    def make(path: Path, good: Path) -> None:
        archive = io.BytesIO()
        torch.save(content, archive)
        checksum = zlib.crc32(archive.getvalue())
        path.write_bytes(archive.getvalue()[:-2] + files.trailer(checksum))

    return make


def cut(length: int) -> Make:
    """Write the first bytes of a checkpoint."""
    return lambda path, good: path.write_bytes(good.read_bytes()[:length])


def with_nan(path: Path, good: Path) -> None:
    """Write a checkpoint in which a weight is NaN."""
    content = files.load_file(good)
    content["state_dict"]["output.bias"][0] = float("nan")
    files.save_file(content, path)


WIDE = {"class": "Network", "in_features": 784, "hidden_features": [9], "out_features": 10}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path, good: None, "No such file", id="missing"),
        pytest.param(lambda path, good: path.mkdir(), "irectory", id="folder"),
        pytest.param(cut(0), "is not a checkpoint", id="empty"),
        pytest.param(cut(1000), "truncated", id="truncated"),
        pytest.param(cut(-100), "truncated", id="end-missing"),
        pytest.param(lambda path, good: path.write_text("text"), "is not a checkpoint", id="text"),
        pytest.param(
            foreign(torch.nn.Linear(1, 1).state_dict()), "something else", id="state-dict"
        ),
        pytest.param(foreign(torch.zeros(3)), "something else", id="tensor"),
        pytest.param(foreign({"architecture": Payload()}), "something else", id="code"),
        pytest.param(forged({"architecture": Payload()}), "pickled code", id="forged-code"),
        pytest.param(changed(format_version=99), "format version 99", id="later-version"),
        pytest.param(changed(architecture=WIDE), "hidden.0.weight", id="other-widths"),
        pytest.param(
            changed(architecture={"class": "Network", "layers": 3}), "layers", id="other-arguments"
        ),
        pytest.param(changed(architecture={"class": "LeNet"}), "LeNet", id="other-class"),
        pytest.param(changed(state_dict=None), "state_dict is of type NoneType", id="no-weights"),
        pytest.param(changed(classes=["one"]), "10 outputs", id="few-classes"),
        pytest.param(
            changed(normalization={"mean": 0.5, "std": 0.0}), "std must be finite", id="zero-std"
        ),
        pytest.param(
            changed(normalization={"mean": 0.5, "std": "x"}), "cannot be used", id="text-for-std"
        ),
        pytest.param(changed(normalization={"middle": 1}), "middle", id="other-normalization"),
        pytest.param(with_nan, "returns NaN, since its training diverged", id="NaN"),
    ],
)
def test_a_bad_checkpoint_is_explained(
    make: Make,
    reason: str,
    trained: SimpleNamespace,
    image: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error names the file and its fault, and no code in the file runs."""
    path = image.parent / "bad.pt"
    make(path, trained.checkpoint)

    assert_explained(f"classify {path} {image}", capsys, str(path), reason)


def test_a_checkpoint_for_other_inputs_is_explained(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names both sizes if a network does not take 784 values."""
    path = image.parent / "small.pt"
    normalization = {"mean": 0.5, "std": 0.5}
    checkpoints.save(path, Network(4, [3], 2), classes=["a", "b"], normalization=normalization)

    words = "small.pt", "takes 4 values", "784"
    assert_explained(f"classify {path} {image}", capsys, *words)
