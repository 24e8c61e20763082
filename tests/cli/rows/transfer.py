"""`transfer`."""

import os
from pathlib import Path

import torch
from PIL import Image

from tests.cli.rows import Given, Row
from tests.cli.rows.given import (
    TRANSFER,
    Patch,
    Payload,
    album,
    full_disk,
    no_pictures,
    picture,
    setting,
    text,
    training,
    transferred,
    weights,
)

ONE = f"{TRANSFER} 1 --out run"
WITH = "transfer pets --model squeezenet1_1 --out run --epochs 1 --weights"
FILES = "run/checkpoint.pt run/*.png"
pets = album()


def used(*given: Given, line: str = ONE, says: str = "") -> Row:
    """Images that can be used."""
    return Row(line, 0, says, [no_pictures, pets, *given], FILES, "epoch   1")


def refused(says: str, *given: Given, line: str = ONE) -> Row:
    """One sentence before any work, and no file."""
    return Row(line, 2, says, given)


def resumed(says: str, *given: Given, line: str = "", epochs: int = 1) -> Row:
    """A run that cannot be resumed."""
    line = f"{TRANSFER} {epochs} --out new --resume run/checkpoint.pt {line}"
    return Row(line, 2, says, [transferred, *given, album()])


def torn(patch: Patch) -> None:
    """A damaged image in each class."""
    for name in ("cat", "dog"):
        Path("pets", name, "torn.jpg").write_bytes(b"\xff\xd8 torn")


def link(name: str, target: str) -> Given:
    return lambda patch: Path(name).symlink_to(target)


def rotated(patch: Patch) -> None:
    """A photograph that says how it was held."""
    exif = Image.Exif()
    exif[0x0112] = 8
    picture("pets/cat/turned.jpg", exif=exif)(patch)


ROWS = [
    Row(
        ONE,
        0,
        given=[pets],
        files=FILES,
        out="2 images to train on, 2 held out ... epoch   1 ... cat ... dog ... wrote",
    ),
    used(line=f"{ONE} --augment"),
    Row(f"{ONE} --quiet --json -", 0, "", [no_pictures, pets], FILES, '"classes": ['),
    used(line=f"{ONE} --hidden 4"),
    used(weights("squeezenet1_1", "own.pth"), line=f"{WITH} own.pth"),
    # Images of many kinds.
    used(picture("pets/cat/cmyk.jpg", "CMYK")),
    used(picture("pets/cat/deep.png", "I;16")),
    used(picture("pets/cat/palette.png", "P", transparency=0)),
    used(picture("pets/cat/moving.gif", "P", save_all=True)),
    used(picture("pets/cat/long.png", size=(1, 4000))),
    used(rotated),
    used(text("pets/cat/note.txt"), text("pets/.hidden/x")),
    used(picture("pets/cat/deep/down/3.png")),
    used(picture("pets/cat/a b\nネコ.png")),
    used(album("$\\frac$", "a b", "line\nbreak", "ネコ")),
    # Links: out of the folder, and in a circle.
    used(picture("other/3.png"), link("pets/cat/more", "../../other")),
    used(link("pets/cat/loop", "..")),
    used(link("pets/cat/self", ".")),
    refused("x.png cannot be read", pets, link("pets/cat/x.png", "absent.png")),
    refused("x.png cannot be read", pets, link("pets/cat/x.png", "x.png")),
    # Images that cannot be used.
    refused("2 of the 6 images ... cat/torn.jpg ... dog/torn.jpg", pets, torn),
    used(torn, line=f"{ONE} --skip-damaged", says="skipped pets/cat/torn.jpg, which"),
    refused("empty.png cannot be read", pets, text("pets/cat/empty.png", "")),
    refused("x.png cannot be read", pets, lambda patch: os.mkfifo("pets/cat/x.png")),
    refused("0.png cannot be read", pets, setting("PIL.Image.MAX_IMAGE_PIXELS", 30)),  # a bomb
    # Folders that cannot be used.
    refused("there is no folder pets; give one that has a folder for each class"),
    refused("there is no folder pets", text("pets")),
    refused("pets has no folders", lambda patch: Path("pets").mkdir()),
    refused("pets has no folders", picture("pets/cat.png")),
    refused("no image in pets/cat", lambda patch: Path("pets/cat").mkdir(parents=True)),
    refused("no image in pets/bird", pets, lambda patch: Path("pets/bird").mkdir()),
    refused("the class cat has 1 image, but a split needs 2", album("cat", images=1)),
    refused("pets has a single class, cat; add a folder for another", album("cat")),
    refused("is not UTF-8; rename the folder", pets, album(os.fsdecode(b"b\xff"))),
    # Where it writes.
    refused("pets/run is inside pets ... --out", pets, line=f"{TRANSFER} 1 --out pets/run"),
    refused("pets/cat/run is inside pets", pets, line=f"{TRANSFER} 1 --out pets/cat/run"),
    refused("pets is inside pets", pets, line=f"{TRANSFER} 1 --out pets"),
    refused("is inside pets", pets, line=f"{TRANSFER} 1 --out pets/../pets/run"),
    refused("cannot write to the folder note/run", pets, text("note"), line=f"{ONE[:-3]}note/run"),
    refused("No space left on device ... --out", pets, full_disk),
    refused("run has an earlier run: run/checkpoint.pt ... --force ... --out", transferred),
    Row(f"{TRANSFER} 2 --out run --force", 0, "", [no_pictures, transferred], "run/checkpoint.pt"),
    # --resume.
    Row(
        f"{TRANSFER} 2 --out run --resume run/checkpoint.pt",
        0,
        "",
        [no_pictures, transferred],
        "run/checkpoint.pt",
        "epoch   2",
    ),
    resumed("absent.pt cannot be read", line="--resume absent.pt"),
    resumed("already has 1 epochs; ask for more with --epochs"),
    resumed("was trained with hidden []; use the same settings", line="--hidden 4"),
    resumed("was trained with lr 0.001, seed 0; use the same", line="--lr 0.1 --seed 1"),
    resumed("was trained for the classes cat, dog; use the same", album("bird"), epochs=2),
    resumed("bad.pt was trained with", training(lambda own: {}), line="--resume bad.pt"),
    # Networks and weights.
    refused("resnet5'; did you mean resnet50", pets, line="transfer pets --model resnet5"),
    refused("no classifier 'resnet'", pets, line="transfer pets --model resnet --weights none"),
    refused("'gpu'", pets, line="transfer pets --device gpu"),
    refused(
        "mobilenet_v2-b0353104.pth ... --download",
        pets,
        setting("torch.hub.get_dir", lambda: "hub"),
        line="transfer pets",
    ),
    refused("absent.pth cannot be used ... No such file", pets, line=f"{WITH} absent.pth"),
    refused(
        "note.pth cannot be used: the file holds something other than tensors",
        pets,
        text("note.pth"),
        line=f"{WITH} note.pth",
    ),
    refused(
        "perhaps pickled code, which was not run; use the file of a state_dict",
        pets,
        lambda patch: torch.save({"x": Payload()}, "code.pth"),
        line=f"{WITH} code.pth",
    ),
    refused(
        "own-00000000.pth are damaged ... download it again",
        pets,
        weights("squeezenet1_1", "own-00000000.pth"),
        line=f"{WITH} own-00000000.pth",
    ),
    refused(
        "other.pth cannot be used ... classifier",
        pets,
        weights("mobilenet_v2", "other.pth"),
        line=f"{WITH} other.pth",
    ),
]
