"""Ctrl-C and SIGTERM, for all commands: work stops at once, but a write that has begun is finished.

Nothing here takes time to import, so that the commands can heed signals before anything else.
"""

import _thread
import gc
import os
import signal
import sys
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
    pending = False  # whether Stopped must still be raised for it
    retry: threading.Timer | None = None  # raises Stopped again if Python ignored it
    writes = 0  # blocks of `finishing` that run
    at_once = False  # whether there is nothing to keep yet
    settled = False  # whether the command is ending


@contextmanager
def heeding(*, program: bool) -> Iterator[None]:
    """Raise Stopped at the first SIGINT or SIGTERM in a block; a second one ends the process.

    For a `program`, whose process does nothing else, the first signal ends the process too until
    `start_work` is called, since an import that is broken off can fail in any way. After the block
    its signals are ignored, since its work is done.
    """
    before: dict[int, Any] = {}
    hook = sys.unraisablehook
    _State.received, _State.pending, _State.retry = None, False, None
    _State.writes, _State.at_once, _State.settled = 0, program, False

    def stop(number: int, frame: FrameType | None) -> None:
        if _State.at_once:
            os.write(2, f"dlconcepts: {NAMES[number]} before it began\n".encode())
            os._exit(128 + number)
        retried, _State.retry = _State.retry is not None, None
        if _State.received is not None and not retried:  # a second signal
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        _State.received, _State.pending = number, not _State.settled
        raise_pending()

    def swallow(found: Any) -> None:
        """Raise Stopped again a little later if Python ignored it, as in callbacks of weakrefs."""
        if not isinstance(found.exc_value, Stopped):
            hook(found)
            return
        _State.retry = threading.Timer(0.01, _thread.interrupt_main, [found.exc_value.number])
        _State.retry.start()

    # Only the main thread can set handlers. A job in the background of a shell ignores Ctrl-C.
    if threading.current_thread() is threading.main_thread():
        for number in NAMES:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    sys.unraisablehook = swallow
    try:
        yield
    finally:
        cancel_retry()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if program else handler)
        if program:
            gc.freeze()  # else Python looks for garbage in all of PyTorch for a second as it ends


def start_work() -> None:
    """From now on, a signal raises Stopped."""
    _State.at_once = False


def settle() -> None:
    """Let the command end: from now on only a second signal counts."""
    _State.settled = True
    cancel_retry()


def check() -> None:
    """Raise Stopped again if the code that ran when the signal came has swallowed it."""
    if _State.received is not None:
        cancel_retry()
        raise Stopped(_State.received)


@contextmanager
def finishing() -> Iterator[None]:
    """Let a signal wait until the block ends."""
    _State.writes += 1
    try:
        yield
    finally:
        _State.writes -= 1
        raise_pending()


def raise_pending() -> None:
    """Raise Stopped if a signal has come and no write has begun."""
    if _State.pending and not _State.writes:
        _State.pending = False
        raise Stopped(_State.received or 0)


def cancel_retry() -> None:
    """Do not raise Stopped again."""
    if _State.retry is not None:
        _State.retry.cancel()
