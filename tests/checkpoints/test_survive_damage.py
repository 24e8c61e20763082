"""A checkpoint survives damage if it is replaced whole and has a checksum.

>>> import io
>>> file = io.BytesIO()
>>> torch.save(torch.tensor([65, 66, 67], dtype=torch.uint8), file)
>>> damaged = file.getvalue().replace(b"ABC", b"ABG")  # flips one bit of the last number
>>> torch.load(io.BytesIO(damaged))
tensor([65, 66, 71], dtype=torch.uint8)

Notes: (reason to save) A trained model is not lost.
Verdict: holds-if
Truth: torch.save writes in place: a crash half-way leaves a broken file where a good one stood.
    torch.load returns wrong numbers for a flipped bit without an error. A checkpoint that is
    written to a temporary file, renamed, and verified by a checksum survives both: a writer killed
    at any byte leaves the old file or the new one. A file that is damaged, of another kind or
    malicious raises an error, runs no code and leaves the model unchanged.
"""

import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dlconcepts.checkpoints import load, restore, save
from dlconcepts.networks import Network
from dlconcepts.support.atomic import write_atomically
from dlconcepts.support.bitwise import bits, state_of
from dlconcepts.support.checkpoint_files import CheckpointError, load_file, save_file
from dlconcepts.testing.laws import law
from tests.checkpoints.common import GADGETS, PLACES, Store, a_trap, emptied, forge, parts_of
from tests.checkpoints.dying import (
    CAN_FORK,
    die,
    first_bad_kill,
    interrupted,
    is_killed,
    room_for,
)

FILES = "writing a file computes nothing"
INTERRUPTIONS = [KeyboardInterrupt, SystemExit, MemoryError]
MODEL = Network(2, [2], 2)


def retries_with_code(path: Path, model: Network) -> None:
    """Retry without weights_only if it raises, as answers to its error message advise."""
    try:
        load(path, model)
    except CheckpointError:
        torch.load(path, weights_only=False)
        raise


@law(right=load, wrong={retries_with_code: "no code is run"})
@given(gadget=st.sampled_from(list(GADGETS)), place=st.sampled_from(PLACES))
def test_a_malicious_checkpoint_is_refused(
    read: Callable[[Path, Network], None], gadget: str, place: str, folder: Path
) -> None:
    """Code anywhere in a checkpoint, even under a valid checksum, is an error and is not run."""
    with a_trap(folder, gadget, place) as (path, marker, model):
        before = state_of(model)

        with pytest.raises(CheckpointError, match="pickled code, which was not run"):
            read(path, model)

        assert not marker.exists(), "no code is run while loading"
        assert state_of(model) == before, "the model is as it was"


def writes_in_place(content: Any, path: Path) -> None:
    """Overwrite the old file, as torch.save does."""
    torch.save(content, path)


def writes_in_place_with_a_checksum(content: Any, path: Path) -> None:
    """Overwrite the old file; the checksum reveals the damage but does not undo it."""
    path.write_bytes(forge(content))


def writes_beside(content: Any, path: Path) -> Path:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(forge(content))
    return temporary


def deletes_the_old_file_first(content: Any, path: Path) -> None:
    """Delete the old file before renaming the new one."""
    temporary = writes_beside(content, path)
    path.unlink()
    temporary.rename(path)


# How a process dies: before it writes a byte, or before or after it calls a function.
DEATHS = st.tuples(st.just("at byte"), st.integers(0, 2_000)) | st.tuples(
    st.sampled_from(["before", "after"]),
    st.sampled_from(["replace", "fsync", "flush", "open", "close", "rename", "unlink"]),
)


@CAN_FORK
@law(
    right=save_file,
    wrong={
        writes_in_place: "the old one or the new one",
        writes_in_place_with_a_checksum: "the old one or the new one",
        deletes_the_old_file_first: "the old one or the new one",
    },
    share=0.3,
    because="each example forks a process with PyTorch in it",
    cpu_only=FILES,
)
@given(death=DEATHS)
def test_a_writer_killed_anywhere_leaves_a_whole_file(
    store: Store, death: tuple[str, Any], folder: Path
) -> None:
    """A writer killed at any byte, before or after any call, leaves the old file or the new one."""
    path, old, new = folder / "killed.pt", torch.zeros(99), torch.ones(99)
    save_file(old, path)

    killed = is_killed(lambda: (die(*death), store(new, path)))

    try:
        found = torch.load(path, weights_only=True)
    except Exception as error:
        pytest.fail(f"a killed writer leaves the old one or the new one, whole: {error}")
    assert found.equal(new) or (killed and found.equal(old)), (
        "a killed writer leaves the old one or the new one, whole"
    )


def overwrites(path: Path, content: bytes) -> None:
    """Overwrite the old file."""
    path.write_bytes(content)


def overwrites_and_syncs(path: Path, content: bytes) -> None:
    """Overwrite the old file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@CAN_FORK
@law(
    right=write_atomically,
    wrong={
        overwrites: "neither the new one nor the one before",
        overwrites_and_syncs: "neither the new one nor the one before",
    },
    share=0.0025,
    because="each example kills 200 processes",
    cpu_only=FILES,
)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_writer_killed_at_any_time_leaves_a_whole_file(
    write: Callable[[Path, bytes], None], seed: int, folder: Path
) -> None:
    """After SIGKILL the file is the one being written or the one before, 200 times out of 200."""
    path = folder / "killed.bin"

    kill = first_bad_kill(write, path, seed)

    assert not kill, f"after kill {kill} the file is neither the new one nor the one before"


def cleans_up_after_the_system(path: Path, content: bytes) -> None:
    """Delete the temporary file after an OSError, but not after Ctrl-C."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise


@law(
    right=write_atomically,
    wrong={
        overwrites: "the old file or the new one",
        cleans_up_after_the_system: "nothing is left beside it",
    },
    cpu_only=FILES,
)
@given(call=st.sampled_from(["write", "close", "replace"]), error=st.sampled_from(INTERRUPTIONS))
def test_an_interrupted_writer_cleans_up(
    write: Callable[[Path, bytes], None], call: str, error: type[BaseException], folder: Path
) -> None:
    """Ctrl-C, or any error, while writing leaves the old file, or the new one, and no other."""
    path = emptied(folder / "interrupted") / "model.pt"
    path.write_bytes(b"old")

    with suppress(error), interrupted(call, error):
        write(path, b"new")

    assert path.read_bytes() in (b"old", b"new"), "the old file or the new one is there, whole"
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"


def replaces_the_link(path: Path, content: bytes) -> None:
    """Rename the new file to the name of a link, which is gone then."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def as_text(path: Path, content: bytes) -> None:
    """Write the bytes as text in UTF-8."""
    write_atomically(path, content.decode("latin-1").encode())


def makes_the_folder(path: Path, content: bytes) -> None:
    """Make a folder that is missing, though its name may be mistyped."""
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content)


@law(
    right=write_atomically,
    wrong={
        replaces_the_link: "a link stays",
        as_text: "byte for byte",
        makes_the_folder: "DID NOT RAISE",
    },
    cpu_only=FILES,
)
@given(
    content=st.binary(max_size=9),
    place=st.sampled_from(["new", "old", "link", "a folder", "in no folder"]),
)
def test_a_file_is_written_where_its_name_leads(
    write: Callable[[Path, bytes], None], content: bytes, place: str, folder: Path
) -> None:
    """A link is followed; a folder, or one that is missing, is an error and nothing is left."""
    inside = emptied(folder / "names")
    kept = inside / "kept.bin"
    kept.write_bytes(b"old")
    path = {"old": kept, "in no folder": inside / "none" / "a"}.get(place, inside / "a")
    if place == "link":
        path.symlink_to(kept)
    elif place == "a folder":
        path.mkdir()
    before = sorted(inside.rglob("*"))

    if place in ("a folder", "in no folder"):
        with pytest.raises(OSError, match=r"Not a file|No such file"):
            write(path, content)
    else:
        write(path, content)
        assert path.read_bytes() == content, "the content is there, byte for byte"
        assert path.is_symlink() == (place == "link"), "a link stays a link"
        before = sorted({*before, path})

    assert sorted(inside.rglob("*")) == before, "nothing is left beside it"


def copies_the_new_file(content: Any, path: Path) -> None:
    """Write a temporary file, and copy it over the old one."""
    shutil.copyfile(writes_beside(content, path), path)


def leaves_half_a_file(content: Any, path: Path) -> None:
    """Write a temporary file and rename it, but do not delete it if writing fails."""
    writes_beside(content, path).replace(path)


@CAN_FORK
@law(
    right=save_file,
    wrong={
        writes_in_place_with_a_checksum: "the old file is intact",
        copies_the_new_file: "nothing is left beside it",
        leaves_half_a_file: "nothing is left beside it",
    },
    cpu_only=FILES,
)
@given(size=st.integers(0, 1_500))  # both files are longer
def test_a_full_disk_leaves_the_old_file(store: Store, size: int, folder: Path) -> None:
    """If the disk takes only some of the bytes, saving raises OSError and keeps the old file."""
    path = emptied(folder / "full") / "full.pt"
    save_file(torch.zeros(99), path)
    before = path.read_bytes()

    with room_for(size), pytest.raises(OSError, match="File too large"):
        store(torch.ones(99), path)

    assert path.read_bytes() == before, "the old file is intact"
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"


def without_a_checksum(path: Path, model: Network) -> None:
    """Trust whatever torch.load accepts."""
    try:
        restore(model, torch.load(path, weights_only=True)["state_dict"])
    except Exception as error:
        raise CheckpointError(str(error)) from error


def trusts_the_archive(path: Path, model: Network) -> None:
    """Verify only the checksums that a zip archive has for each of its records."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise CheckpointError(str(error)) from error
    if damaged:
        raise CheckpointError(damaged)
    without_a_checksum(path, model)


def looks_at_the_checksum_last(path: Path, model: Network) -> None:
    """Load whatever loads, then verify the checksum."""
    with suppress(Exception):
        model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    load_file(path)


@law(
    right=load,
    wrong={
        without_a_checksum: "DID NOT RAISE",
        trusts_the_archive: "DID NOT RAISE",
        looks_at_the_checksum_last: "as it was",
    },
)
@given(
    # Counted from the first weight, where damage means wrong numbers; wraps around at the end.
    position=st.integers(0, 2**13),
    pattern=st.integers(0, 31).map(lambda bit: 1 << bit) | st.integers(1, 2**32 - 1),
)
def test_a_flipped_bit_is_found_before_anything_is_loaded(
    read: Callable[[Path, Network], None], position: int, pattern: int, folder: Path
) -> None:
    """One flipped bit, or any change within 32 bits, is an error; CRC-32 finds all of these."""
    content = whole_checkpoint(folder)
    start = (content.find(bits(MODEL.output.weight).bytes) + position) % (len(content) - 3)
    four = int.from_bytes(content[start : start + 4], "little") ^ pattern

    damaged = content[:start] + four.to_bytes(4, "little") + content[start + 4 :]

    assert_refused(read, damaged, folder)


def starts_anew(path: Path, model: Network) -> None:
    """Take a missing file for a run that has not begun yet."""
    if path.exists():
        load(path, model)


@law(
    right=load,
    wrong={
        without_a_checksum: "DID NOT RAISE",
        trusts_the_archive: "DID NOT RAISE",
        starts_anew: "DID NOT RAISE",
    },
)
@given(length=st.integers(0, 2**14) | st.none())
def test_a_wrong_length_is_found_before_anything_is_loaded(
    read: Callable[[Path, Network], None], length: int | None, folder: Path
) -> None:
    """A file that is missing, cut off anywhere, or has bytes after its end, is an error."""
    content = whole_checkpoint(folder)
    assume(length != len(content))

    damaged = None if length is None else content[:length].ljust(length, b"\0")
    assert_refused(read, damaged, folder)


def whole_checkpoint(folder: Path) -> bytes:
    path = folder / "whole.pt"
    if not path.exists():
        save(path, MODEL, **parts_of(MODEL))
    return path.read_bytes()


def assert_refused(
    read: Callable[[Path, Network], Any], content: bytes | None, folder: Path
) -> None:
    """Assert that a file with this content, or none, is an error and leaves the model alone."""
    path, model = folder / "damaged.pt", Network(2, [2], 2)
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    before = state_of(model)

    with pytest.raises(CheckpointError):
        read(path, model)

    assert state_of(model) == before, "the model is as it was"
