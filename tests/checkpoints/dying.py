"""Processes that die while writing and disks that fill up, for the tests of damaged files."""

import itertools
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CAN_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")


def is_killed(child: Callable[[], object]) -> bool:
    """Run a function in a forked process and return whether a signal killed that process."""
    status = os.waitpid(forked(child), 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the writer raises no error"
    return os.WIFSIGNALED(status)


def forked(child: Callable[[], object]) -> int:
    """Start a function in a forked process and return that process's number."""
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
    return process


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


def first_bad_kill(write: Callable[[Path, bytes], None], path: Path, seed: int) -> int:
    """Kill a writer 200 times; return the first time that left no whole file, or 0."""
    drawn = random.Random(seed)

    def content(number: int) -> bytes:
        # 64 KiB, so that a signal within 2 ms hits a write.
        return number.to_bytes(8, "little") * 8192

    def write_on() -> None:
        for number in itertools.count(1):
            os.write(writer, b".")  # one for each file begun
            write(path, content(number))

    for kill in range(1, 201):
        path.write_bytes(content(0))
        reader, writer = os.pipe()
        process = forked(write_on)
        os.close(writer)
        begun = len(os.read(reader, 1))
        time.sleep(drawn.uniform(0, 0.002))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        begun += len(os.read(reader, 2**16))
        os.close(reader)
        if path.read_bytes() not in (content(begun - 1), content(begun)):
            return kill
        for rest in path.parent.glob(f".{path.name}*"):  # killed writers leave temporary files
            rest.unlink()
    return 0


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
