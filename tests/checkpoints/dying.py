"""Processes that die while writing and disks that fill up, for the tests of damaged files."""

import inspect
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CAN_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")


def is_killed(child: Callable[[], object]) -> bool:
    """Run a function in a forked process and return whether a signal killed that process."""
    with warnings.catch_warnings():
        # From Python 3.12 on, fork warns if there are other threads; numpy's hold no lock here.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        try:
            child()
        except BaseException:
            os._exit(1)  # without pytest's own clean-up
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the writer raises no error"
    return os.WIFSIGNALED(status)


def die(when: str, where: Any) -> None:
    """Arrange that the kernel or a profiler kills this process at that moment."""
    import resource  # not on Windows

    def watch(frame: Any, event: str, function: Any) -> None:
        if event == moment and function.__name__ == where:
            os.kill(os.getpid(), signal.SIGKILL)

    if when == "at byte":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; now it kills
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (where, where))
    else:
        # The profiler reports calls of functions written in C, as those of the system are.
        moment = {"before": "c_call", "after": "c_return"}[when]
        sys.setprofile(watch)


@contextmanager
def interrupted(call: str, error: type[BaseException]) -> Iterator[None]:
    """Raise an error just before the next call of a function written in C with this name."""

    def watch(frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ == call:
            raise error  # which also ends the watch

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


# A program, because a process that has not imported PyTorch dies in a tenth of the time. Its child
# only writes files of 64 KiB, one after another, so that a signal within 2 ms hits a write.
KILLS = """
import itertools, os, random, signal, sys, time
from pathlib import Path
from dlconcepts.support.atomic import replacing

{source}

def content(number):
    return number.to_bytes(8, "little") * 8192

path, drawn = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
for kill in range(200):
    path.write_bytes(content(0))
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        for number in itertools.count(1):
            os.write(writer, b".")  # one for each file begun
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


def kill_200_times(write: Callable[[Path, bytes], None], path: Path, seed: int) -> str:
    """Run KILLS with this writer; return its error, empty if each kill left a whole file."""
    program = KILLS.format(source=inspect.getsource(write), name=write.__name__)
    command = [sys.executable, "-c", program, str(path), str(seed)]
    finished = subprocess.run(command, capture_output=True, text=True)
    return "" if finished.returncode == 0 else finished.stderr or f"status {finished.returncode}"


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Limit the size of files: the operating system then refuses to write more."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
