"""`classify`."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from tests.cli.rows import Row
from tests.cli.rows.given import (
    Patch,
    Payload,
    bias,
    changed,
    cut,
    flipped,
    foreign,
    forged,
    full_disk,
    good,
    no_pictures,
    picture,
    setting,
    small,
    text,
    transferred,
    weight_of,
)

DRAWN = "runs/classify/1-*.png"
BAD = "classify bad.pt grey.png"
WIDE = {"class": "Network", "in_features": 784, "hidden_features": [9], "out_features": 10}
grey = picture("grey.png", "L")


def bad(reason: str, *given) -> Row:
    """A checkpoint that cannot be used: one sentence with its name, and no code of it runs."""
    return Row(BAD, 2, f"bad.pt ... {reason}", [grey, *given])


def image(name: str, *given) -> Row:
    """An image of some kind that is classified."""
    return Row(f"classify good.pt {name}", 0, "", [no_pictures, good, *given], DRAWN, f"{name}: ")


def broken(name: str, *given) -> Row:
    """An image that cannot be read: not even the good one is drawn."""
    return Row(f"classify good.pt grey.png {name}", 2, f" {name}", [good, grey, *given])


def torn(patch: Patch) -> None:
    """The first half of an image."""
    picture("torn.png", "L", (90, 90))(patch)
    content = Path("torn.png").read_bytes()
    Path("torn.png").write_bytes(content[: len(content) // 2])


def bad_network(reason: str, **parts: object) -> Row:
    """A checkpoint of a network whose sizes are wrong."""
    return bad(reason, changed(architecture={**WIDE, **parts}))


def bad_bias(reason: str, change: Callable[[torch.Tensor], object]) -> Row:
    """A checkpoint whose weights do not fit into its network."""
    return bad(reason, bias(change))


def rotated(patch: Patch) -> None:
    """A photograph that says how it was held."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("turned.jpg", exif=exif)(patch)


ROWS = [
    Row(
        "classify good.pt grey.png",
        0,
        given=[good, grey],
        files="runs/classify/1-grey.png",
        out="grey.png: ... Trouser ... wrote runs/classify/1-grey.png",
    ),
    Row(
        "classify good.pt grey.png grey.png --out .",
        0,
        given=[good, grey],
        files="1-grey.png 2-grey.png",
    ),
    Row("classify good.pt grey.png", 0, "", [no_pictures, good, grey], DRAWN, to="ascii"),
    Row("classify good.pt grey.png", 141, "", [good, grey], DRAWN, to="closed pipe"),
    Row("classify good.pt grey.png", 2, "No space", [good, grey], DRAWN, to="full disk"),
    Row(
        "classify run/checkpoint.pt grey.png",
        0,
        given=[grey, transferred],
        files="runs/classify/1-grey.png",
        out="cat ... dog",
    ),
    Row("classify good.pt grey.png --quiet", 0, "", [no_pictures, good, grey], DRAWN),
    Row(
        "classify good.pt grey.png --quiet --json -",
        0,
        "",
        [no_pictures, good, grey],
        DRAWN,
        '"class": "Bag"',
    ),
    Row("classify good.pt grey.png --json good.pt/r", 2, "cannot write to the file", [good, grey]),
    Row(
        BAD,
        0,
        "",
        [no_pictures, grey, changed(classes=["same"] * 10)],
        DRAWN,
        "grey.png: same",
    ),
    # Images that can be used.
    image("colour.jpg", picture("colour.jpg", size=(560, 300))),
    image("cmyk.jpg", picture("cmyk.jpg", "CMYK")),
    image("deep.png", picture("deep.png", "I;16")),
    image("palette.png", picture("palette.png", "P", transparency=0)),
    image("clear.png", picture("clear.png", "RGBA")),
    image("one.png", picture("one.png", "1", (1, 1))),
    image("turned.jpg", rotated),
    image("moving.gif", picture("moving.gif", "P", save_all=True)),
    image("link.png", grey, lambda patch: Path("link.png").symlink_to("grey.png")),
    Row(
        "classify good.pt 'a b\nネコ.png'",
        0,
        given=[good, picture("a b\nネコ.png", "L")],
        files="runs/classify/1-a?b?ネコ.png",
    ),
    # Images that cannot.
    broken("absent.png"),
    broken("note.txt", text("note.txt")),
    broken("."),
    broken("empty.png", text("empty.png", "")),
    broken("torn.png", torn),
    broken("bomb.png", picture("bomb.png", size=(9, 9)), setting("PIL.Image.MAX_IMAGE_PIXELS", 35)),
    broken("pipe.png", lambda patch: os.mkfifo("pipe.png")),
    broken("link.png", lambda patch: Path("link.png").symlink_to("absent.png")),
    broken("loop.png", lambda patch: Path("loop.png").symlink_to("loop.png")),
    # What is there already, and folders.
    Row(
        "classify absent.pt a.png b.png --out run",
        2,
        "run/2-b.png already there; replace with --force ... --out",
        [text("run/2-b.png")],
    ),
    Row(
        "classify good.pt grey.png --out run --force",
        0,
        given=[good, grey, text("run/1-grey.png")],
        files="run/1-grey.png",
    ),
    Row(
        "classify good.pt grey.png --out grey.png/run",
        2,
        "cannot write to the folder grey.png/run ... --out",
        [good, grey],
    ),
    Row(
        "classify good.pt grey.png --out run",
        2,
        "cannot write to the folder run: No space left on device ... --out",
        [good, grey, full_disk],
    ),
    # Checkpoints.
    bad("cannot be read: No such file"),
    bad("irectory", lambda patch: Path("bad.pt").mkdir()),
    bad("is not a checkpoint", cut(0)),
    bad("truncated", cut(1000)),
    bad("truncated", cut(-100)),
    bad("is damaged", flipped),
    bad("is not a checkpoint", text("bad.pt")),
    bad("something else", foreign(torch.nn.Linear(1, 1).state_dict())),
    bad("something else", foreign(torch.zeros(3))),
    bad("something else", foreign({"architecture": Payload()})),
    bad("pickled code, which was not run", forged({"architecture": Payload()})),
    bad("format version 99", changed(format_version=99)),
    bad("hidden.0.weight", changed(architecture=WIDE)),
    bad("layers", changed(architecture={"class": "Network", "layers": 3})),
    bad("LeNet", changed(architecture={"class": "LeNet"})),
    bad("state_dict is of type NoneType", changed(state_dict=None)),
    bad("10 outputs", changed(classes=["one"])),
    bad("10 outputs", changed(classes=list(range(10)))),
    bad("std must be finite", changed(normalization={"mean": 0.5, "std": 0.0})),
    bad("cannot be used", changed(normalization={"mean": 0.5, "std": "x"})),
    bad("cannot be used", changed(normalization={"mean": torch.nan, "std": 1.0})),
    bad("middle", changed(normalization={"middle": 1})),
    bad("returns NaN, since its training diverged", weight_of(torch.nan)),
    bad("returns NaN, since its training diverged", weight_of(torch.inf)),
    bad("takes 4 values, not 28 x 28 = 784", small),
    bad_network("size mismatch", in_features=10**13),
    bad_network("Overflow", in_features=10**30),
    bad_network("sizes must be integers of at least 1", hidden_features=[-3]),
    bad_network("sizes must be integers of at least 1", hidden_features=[1.5]),
    bad_network("sizes must be integers of at least 1", hidden_features="ab"),
    bad_network("Missing key(s)", hidden_features=[1] * 1000),
    bad("architecture is of type list, not dict", changed(architecture=[1])),
    bad("class 'os.system', not 'Network'", changed(architecture={"class": "os.system"})),
    bad("is for the class '__import__'", changed(architecture={"class": "__import__"})),
    bad(
        "torchvision has no classifier 'nosuch'",
        changed(
            architecture={
                **{"class": "TransferNetwork", "name": "nosuch"},
                **{"hidden_features": [], "out_features": 10},
            }
        ),
    ),
    bad_bias("output.bias", torch.Tensor.long),
    bad_bias("same dtype", lambda old: old + 0j),
    bad_bias("meta", lambda old: old.to("meta")),
    bad_bias("expected torch.Tensor", lambda old: "x"),
    bad("classes is of type NoneType, not list", changed(classes=None)),
    bad("normalization is of type NoneType, not dict", changed(normalization=None)),
    bad("mean must be finite", changed(normalization={"mean": 1e300, "std": 1e-300})),
    bad("format version '1', but", changed(format_version="1")),
    bad("format version nan", changed(format_version=torch.nan)),
    # Class names that would write elsewhere on a terminal.
    Row(
        BAD,
        0,
        "",
        [no_pictures, grey, changed(classes=["a\nb\x1b[31m"] * 10)],
        DRAWN,
        "grey.png: a?b?[31m",
    ),
]
