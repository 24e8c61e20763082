"""Make a folder of photographs in six classes from Debian's package tuxpaint-stamps-default.

Run `python -m tests.data.make_photographs` after `apt-get install tuxpaint-stamps-default`.
The pictures are under the GPL-2, so dlconcepts does not contain them. Most are photographs of
animals and things without their background, which becomes white. Drawings and toys are skipped. So
are mirrored copies, because a held-out image must not be a mirrored training image.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dlconcepts.images import read_rgb
from dlconcepts.support.datasets import DataError

DEBIAN = Path("/usr/share/tuxpaint/stamps")
# The tests look for them here.
PHOTOGRAPHS = Path(os.environ.get("DLCONCEPTS_PHOTOGRAPHS", "data/photographs"))
FOLDERS = {
    "birds": "animals/birds",
    "coins": "symbols/money",
    "flowers": "plants/flowers",
    "fruit": "food/fruit",
    "mammals": "animals/mammals",
    "vehicles": "vehicles",
}
# Folders of drawings and toys; 00_symbols are currency signs.
SKIPPED = {"cartoon", "toys", "00_symbols"}
LONGEST_SIDE = 512
NOTICE = "The pictures are from Tux Paint Stamps, (C) Bill Kendrick and others, licence: GPL-2.\n"


def find_stamps(folder: Path) -> list[Path]:
    """Return the photographs in a folder and below it, sorted."""
    stamps = (path.relative_to(folder) for path in folder.rglob("*.png"))
    return sorted(
        stamp
        for stamp in stamps
        if not SKIPPED & {*stamp.parts} and not stamp.stem.endswith("_mirror")
    )


def make_photographs(out: Path, stamps: Path = DEBIAN) -> int:
    """Write the photographs as JPEG files into `out`, a folder for each class; return how many.

    Raises DataError if the stamps are missing, or if `out` exists. No half-written folder remains.
    """
    if out.exists():
        raise DataError(f"{out} exists already; remove it or give another folder")
    found = {name: find_stamps(stamps / folder) for name, folder in FOLDERS.items()}
    if missing := [str(stamps / FOLDERS[name]) for name, paths in found.items() if not paths]:
        raise DataError(
            f"there are no stamps in {', '.join(missing)}; install Debian's package with "
            "`apt-get install tuxpaint-stamps-default`"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        whole = Path(temporary, out.name)
        for name, paths in found.items():
            (whole / name).mkdir(parents=True)
            for path in paths:
                image = read_rgb(stamps / FOLDERS[name] / path)
                image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
                image.save(whole / name / f"{'-'.join(path.with_suffix('').parts)}.jpg", quality=95)
        (whole / "LICENSE.txt").write_text(NOTICE, encoding="utf-8")
        whole.rename(out)
    return sum(map(len, found.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the photographs and return the exit status: 2 after an error message, otherwise 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=PHOTOGRAPHS, help="%(default)s")
    parser.add_argument("--stamps", type=Path, default=DEBIAN, help="%(default)s")
    options = parser.parse_args(arguments)
    try:
        print(f"{make_photographs(options.out, options.stamps)} images in {options.out}")
    except DataError as error:
        print(f"make_photographs: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
