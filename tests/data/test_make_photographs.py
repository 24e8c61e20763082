"""The script that makes class folders of photographs, on a small imitation of the stamps."""

from pathlib import Path

import pytest
from PIL import Image

from dlconcepts.images import image_folder
from dlconcepts.support.datasets import DataError
from tests.data.make_photographs import DEBIAN, FOLDERS, main, make_photographs

BLUE, CLEAR = (0, 0, 255, 255), (0, 0, 255, 0)


def draw(path: Path, colour: tuple[int, int, int, int] = BLUE, size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (size, size // 2), colour).save(path)


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """Return folders named like the package's, with two pictures in each class."""
    root = tmp_path / "stamps"
    for folder in FOLDERS.values():
        draw(root / folder / "one.png")
        draw(root / folder / "inner" / "one.png", CLEAR, size=600)
    return root


def test_each_class_gets_its_photographs(stamps: Path, tmp_path: Path) -> None:
    """Each picture becomes a JPEG on white in the folder of its class; large ones are scaled."""
    assert make_photographs(tmp_path / "out", stamps) == 2 * len(FOLDERS)

    folder = image_folder(tmp_path / "out")
    assert folder.classes == sorted(FOLDERS)
    assert [path.name for path, _ in folder.samples] == ["inner-one.jpg", "one.jpg"] * len(FOLDERS)
    with Image.open(tmp_path / "out" / "birds" / "inner-one.jpg") as image:
        assert image.size == (512, 256), "a large picture is scaled down, its aspect ratio kept"
        assert image.getpixel((9, 9)) == (255, 255, 255), "transparency becomes white"
    with Image.open(tmp_path / "out" / "birds" / "one.jpg") as image:
        assert image.size == (40, 20), "a small picture keeps its size"
    assert "GPL-2" in (tmp_path / "out" / "LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    ["cartoon/crow.png", "toys/crow.png", "00_symbols/euro.png", "crow_mirror.png", "crow.svg"],
)
def test_other_pictures_are_skipped(stamps: Path, tmp_path: Path, name: str) -> None:
    """Drawings, toys, currency signs, mirrored copies and vector graphics are skipped."""
    path = stamps / FOLDERS["birds"] / name
    draw(path.with_suffix(".png"))
    path.with_suffix(".png").rename(path)

    assert make_photographs(tmp_path / "out", stamps) == 2 * len(FOLDERS)


def test_without_the_package_the_error_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command exits with status 2, names the Debian package, and writes nothing."""
    assert main([str(tmp_path / "out"), "--stamps", str(tmp_path / "none")]) == 2

    assert "apt-get install tuxpaint-stamps-default" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_stamp_leaves_no_half_written_folder(stamps: Path, tmp_path: Path) -> None:
    """The error names the picture that cannot be read, and no folder appears."""
    damaged = stamps / FOLDERS["vehicles"] / "damaged.png"
    damaged.write_bytes(b"")

    with pytest.raises(DataError, match=r"damaged\.png cannot be read"):
        make_photographs(tmp_path / "out", stamps)

    assert list(tmp_path.iterdir()) == [stamps]


def test_an_existing_folder_is_left_alone(stamps: Path, tmp_path: Path) -> None:
    """If the folder exists already, the script raises and writes nothing."""
    (tmp_path / "out").mkdir()

    with pytest.raises(DataError, match="exists already"):
        make_photographs(tmp_path / "out", stamps)

    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(
    not DEBIAN.exists(), reason="needs the stamps: apt-get install tuxpaint-stamps-default"
)
def test_the_package_has_photographs_of_each_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian's package gives at least ten readable images of each class, enough to split."""
    assert main([str(tmp_path / "out")]) == 0

    folder = image_folder(tmp_path / "out")
    assert capsys.readouterr().out == f"{len(folder)} images in {tmp_path / 'out'}\n"
    assert folder.classes == sorted(FOLDERS)
    assert min(folder.targets.count(label) for label in range(len(FOLDERS))) >= 10
