"""Ctrl-C and SIGTERM, for all commands: work stops at once, but a write that has begun is finished.

Nothing here takes time to import, so that the commands can heed signals before anything else.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stopped(BaseException):
    """A signal asked the command to end.

    It is no KeyboardInterrupt, since `fit` takes that for the regular end of a training.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _State:
    received: int | None = None  # the first signal
    writes = 0  # blocks of `finishing` that run
    at_once = False  # whether there is nothing to keep yet


@contextmanager
def heeding(*, program: bool) -> Iterator[None]:
    """Raise Stopped at the first SIGINT or SIGTERM in a block; a second one ends the process.

    For a `program`, whose process does nothing else, the first signal ends the process too until
    `start_work` is called, since an import that is broken off can fail in any way. After the block
    its signals are ignored, since its work is done.
    """
    before: dict[int, Any] = {}
    _State.received, _State.writes, _State.at_once = None, 0, program

    def stop(number: int, frame: FrameType | None) -> None:
        if _State.at_once:
            os.write(2, f"dlconcepts: {NAMES[number]} before it began\n".encode())
            os._exit(128 + number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        _State.received = number
        if not _State.writes:
            raise Stopped(number)

    # Only the main thread can set handlers. A job in the background of a shell ignores Ctrl-C.
    if threading.current_thread() is threading.main_thread():
        for number in NAMES:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if program else handler)


def start_work() -> None:
    """From now on, a signal raises Stopped."""
    _State.at_once = False


def check() -> None:
    """Raise Stopped again if the code that ran when the signal came has swallowed it."""
    if _State.received is not None:
        raise Stopped(_State.received)


@contextmanager
def finishing() -> Iterator[None]:
    """Let a signal wait until the block ends."""
    before = _State.received
    _State.writes += 1
    try:
        yield
    finally:
        _State.writes -= 1
        if _State.received is not None and before is None and not _State.writes:
            raise Stopped(_State.received)
