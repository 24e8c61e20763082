"""Pickled code.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: (reason to save) A trained model is not lost.
Verdict: holds-if
Truth: torch.save writes in place: a crash half-way leaves a broken file where a good one stood;
    torch.load returns wrong numbers for a flipped bit in the data without a word.
"""

import inspect
import os
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
from tests.checkpoints.common import (
    CAN_FORK,
    GADGETS,
    MODEL,
    PLACES,
    Store,
    a_trap,
    forge,
    parts_of,
)


def retries_with_code(path: Path, model: Network) -> None:
    """Give weights_only up where it raises, as answers to its error message tell you to."""
    try:
        load(path, model)
    except CheckpointError:
        torch.load(path, weights_only=False)
        raise


@law(
    right=load,
    wrong={retries_with_code: "no code is run"},
)
@given(gadget=st.sampled_from(list(GADGETS)), place=st.sampled_from(PLACES))
def test_a_malicious_checkpoint_is_refused(
    read: Callable[[Path, Network], None], gadget: str, place: str, folder: Path
) -> None:
    """Code anywhere in a checkpoint, under a right checksum, is an error and is not run."""
    with a_trap(folder, gadget, place) as (path, marker, model):
        before = state_of(model)

        with pytest.raises(CheckpointError, match="pickled code, which was not run"):
            read(path, model)

        assert not marker.exists(), "no code is run while loading"
        assert state_of(model) == before, "the model is as it was"


FILES = "the writer of files computes nothing"


def writes_in_place(content: Any, path: Path) -> None:
    """Write over the old file."""
    torch.save(content, path)


def writes_in_place_with_a_checksum(content: Any, path: Path) -> None:
    """Write over the old file, so that half a file is at least noticed."""
    path.write_bytes(forge(content))


def deletes_the_old_file_first(content: Any, path: Path) -> None:
    """Make room for the new file before it is given its name."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(forge(content))
    path.unlink()
    temporary.rename(path)


def copies_the_new_file(content: Any, path: Path) -> None:
    """Write another file, and copy it over the old one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(forge(content))
    shutil.copyfile(temporary, path)


def leaves_half_a_file(content: Any, path: Path) -> None:
    """Write another file and rename it, but do not clean up when that fails."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(forge(content))
    temporary.replace(path)


def ends_killed(child: Callable[[], None]) -> bool:
    """Run a function in a process of its own and return whether that was killed."""
    with warnings.catch_warnings():
        # From Python 3.12 on a fork beside other threads warns; numpy's hold no lock meanwhile.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        try:
            child()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the writer raises no error"
    return os.WIFSIGNALED(status)


def die(when: str, where: Any) -> None:
    """Prepare the death of this process: at a byte, or before or after a call of the system."""
    import resource  # not on Windows

    def watch(frame: Any, event: str, function: Any) -> None:
        """Kill this process if that function, which is written in C, is called or returns."""
        if event == moment and function.__name__ == where:
            os.kill(os.getpid(), signal.SIGKILL)

    if when == "at byte":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # whoever writes further is killed
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (where, where))
    else:
        moment = {"before": "c_call", "after": "c_return"}[when]
        sys.setprofile(watch)


CALLS = ["replace", "fsync", "flush", "open", "close", "rename", "unlink"]


DEATHS = st.tuples(st.just("at byte"), st.integers(0, 2_000)) | st.tuples(
    st.sampled_from(["before", "after"]), st.sampled_from(CALLS)
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
    """Killed at any byte, before or after any call, it leaves the old file or the new one."""
    path, old, new = folder / "killed.pt", torch.zeros(99), torch.ones(99)
    save_file(old, path)

    def write() -> None:
        """Write the new file, and die on the way."""
        die(*death)
        store(new, path)

    killed = ends_killed(write)

    try:
        found = torch.load(path, weights_only=True)
    except Exception as error:
        found = torch.tensor(torch.nan)
        print(error)
    assert found.equal(new) or (killed and found.equal(old)), (
        "what a killed writer leaves is the old one or the new one, whole"
    )


def writes_atomically(path: Path, content: bytes) -> None:
    """Write with the function through which checkpoints are written."""
    write_atomically(path, content)


def overwrites(path: Path, content: bytes) -> None:
    """Write over the old file."""
    path.write_bytes(content)


def overwrites_and_syncs(path: Path, content: bytes) -> None:
    """Write over the old file, and see that it reaches the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


# A process that has not imported PyTorch dies in a tenth of the time.
KILLS = """
import itertools, os, random, signal, sys, time
from pathlib import Path
from dlconcepts.support.atomic import write_atomically

{source}

def content(number):
    return number.to_bytes(8, "little") * 8192

path, drawn = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
for kill in range({kills}):
    path.write_bytes(content(0))
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        for number in itertools.count(1):
            os.write(writer, b".")
            {name}(path, content(number))
    os.close(writer)
    begun = len(os.read(reader, 1))
    time.sleep(drawn.uniform(0, 0.002))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    begun += len(os.read(reader, 2**16))
    os.close(reader)
    if path.read_bytes() not in (content(begun - 1), content(begun)):
        sys.exit(f"kill {{kill + 1}}: the file is neither the new one nor the one before")
"""


@CAN_FORK
@law(
    right=writes_atomically,
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
    """After SIGKILL the file is the one being written or the one before, 200 times out of 200.

    The writer does nothing but write one file of 64 KiB after the other, so that it dies writing,
    up to 2 ms after it began; the moments are uniform.
    """
    program = KILLS.format(source=inspect.getsource(write), name=write.__name__, kills=200)
    path = folder / "killed.bin"

    finished = subprocess.run(
        [sys.executable, "-c", program, str(path), str(seed)], capture_output=True, text=True
    )

    for rest in folder.glob(".killed.bin.*.tmp"):
        rest.unlink()
    assert finished.returncode == 0, finished.stderr


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: writing more is an error of the operating system."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
@given(size=st.integers(0, 1_500))
def test_a_full_disk_leaves_the_old_file(store: Store, size: int, folder: Path) -> None:
    """A disk that takes only some of the bytes is an OSError; the old file stays, and no other."""
    path, old = folder / "full" / "full.pt", torch.zeros(99)
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    save_file(old, path)
    before = path.read_bytes()

    with room_for(size), pytest.raises(OSError, match="File too large"):
        store(torch.ones(99), path)

    assert path.read_bytes() == before, "the old file is intact"
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"


def without_a_checksum(path: Path, model: Network) -> None:
    """Trust what torch.load accepts; whatever it raises is an error of the checkpoint."""
    try:
        restore(model, torch.load(path, weights_only=True)["state_dict"])
    except Exception as error:
        raise CheckpointError(str(error)) from error


def trusts_the_archive(path: Path, model: Network) -> None:
    """Verify the checksums that a zip archive has for each of its records."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise CheckpointError(str(error)) from error
    if damaged:
        raise CheckpointError(damaged)
    without_a_checksum(path, model)


def looks_at_the_checksum_last(path: Path, model: Network) -> None:
    """Load what can be loaded, then see whether that was right."""
    with suppress(Exception):
        model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    load_file(path)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """Give the path of a checkpoint."""
    path = folder / "whole.pt"
    save(path, MODEL, **parts_of(MODEL))
    return path


def assert_refused(read: Callable[[Path, Network], Any], content: bytes, folder: Path) -> None:
    """Assert that a file of this content raises CheckpointError and leaves the model alone."""
    path, model = folder / "damaged.pt", Network(2, [2], 2)
    path.write_bytes(content)
    before = state_of(model)

    with pytest.raises(CheckpointError):
        read(path, model)

    assert state_of(model) == before, "the model is as it was"


@law(
    right=load,
    wrong={
        without_a_checksum: "DID NOT RAISE",
        trusts_the_archive: "DID NOT RAISE",
        looks_at_the_checksum_last: "as it was",
    },
)
@given(
    position=st.integers(0, 2**13),
    pattern=st.integers(0, 31).map(lambda bit: 1 << bit) | st.integers(1, 2**32 - 1),
)
def test_a_flipped_bit_is_found_before_anything_is_loaded(
    read: Callable[[Path, Network], None],
    position: int,
    pattern: int,
    whole: Path,
    folder: Path,
) -> None:
    """One bit, or any of 32 neighbours, is an error anywhere in the file.

    It is an error for certain: CRC-32 finds all of these changes. Positions are counted from the
    first weight on, and go on from the end at the beginning.
    """
    content = whole.read_bytes()
    start = (content.find(bits(MODEL.output.weight)) + position) % (len(content) - 3)
    four = int.from_bytes(content[start : start + 4], "little") ^ pattern

    damaged = content[:start] + four.to_bytes(4, "little") + content[start + 4 :]

    assert_refused(read, damaged, folder)


@law(
    right=load,
    wrong={without_a_checksum: "DID NOT RAISE", trusts_the_archive: "DID NOT RAISE"},
)
@given(length=st.integers(0, 2**14))
def test_a_wrong_length_is_found_before_anything_is_loaded(
    read: Callable[[Path, Network], None], length: int, whole: Path, folder: Path
) -> None:
    """A file that is cut off anywhere, or goes on after its end, is an error."""
    content = whole.read_bytes()
    assume(length != len(content))

    assert_refused(read, content[:length].ljust(length, b"\0"), folder)
