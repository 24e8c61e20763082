"""How commands end: by a signal, on a closed pipe, on a full disk, on an ASCII terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlconcepts.support.signals import Stopped, check, finishing, heeding

PIPES = pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes and signals")
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def command(line: str) -> list[str]:
    return [sys.executable, "-m", "dlconcepts", *line.split()]


def heed() -> None:
    """Let a new process heed Ctrl-C, which those of a shell's background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@PIPES
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("delay", [0.15, 0.3, 0.6, 1.2])
def test_a_signal_while_pytorch_is_imported_ends_at_once(
    number: int, delay: float, folder: Path
) -> None:
    """At most one sentence, no traceback, the status that shells know, and nothing written."""
    process = subprocess.Popen(
        command("train --epochs 1000 --hidden 4 --out run"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    )
    time.sleep(delay)
    start = time.monotonic()
    process.send_signal(number)
    error = process.communicate()[1]

    assert time.monotonic() - start < 2 + 3, "2 s, and more where others use the machine"
    # Before Python runs our first line, the signal ends it as any program.
    assert process.returncode in (128 + number, -number), error
    if process.returncode > 0:
        assert error.count("\n") == 1, error


def test_a_write_is_finished_before_the_signal_stops_the_work() -> None:
    """The signal waits until the block ends."""
    done = []

    def work() -> None:
        with heeding(program=False), finishing():
            signal.raise_signal(signal.SIGTERM)
            done.append("write")

    with pytest.raises(Stopped):
        work()

    assert done == ["write"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_that_was_swallowed_is_raised_again() -> None:
    """What is kept can be written meanwhile."""
    with heeding(program=False):
        with pytest.raises(Stopped) as first:
            signal.raise_signal(signal.SIGTERM)
        with finishing():
            pass
        with pytest.raises(Stopped):
            check()

    assert first.value.number == signal.SIGTERM
