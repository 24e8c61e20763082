"""Every command can be interrupted anywhere: it says what is kept, and that is on disk."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dlconcepts.support.signals import Stopped, check, finishing, heeding

MOMENTS = 40  # `tox -e interrupt` takes 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each moment is forked, which Windows cannot")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_no_moment_loses_anything() -> None:
    """Status 130 or 143, one sentence that is so, no temporary file, no process left."""
    command = [sys.executable, "-m", "tests.cli.interrupting", str(MOMENTS)]
    finished = subprocess.run(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    printed = finished.stdout.decode()
    assert finished.returncode == 0, printed
    assert "0 lost, 0 left behind\n0 processes left, 0 moments with a fault" in printed, printed


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


def test_the_program_searches_no_garbage_as_it_ends() -> None:
    """To search all of PyTorch for it takes a second, which Ctrl-C does not have."""
    code = """
import gc, sys
from dlconcepts.cli import main
sys.argv = ["dlconcepts", "claims", "--quiet"]
assert not gc.get_freeze_count()
main()
gc.collect()
print(len(gc.get_objects()) < gc.get_freeze_count())
"""

    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (finished.stdout, finished.stderr) == ("True\n", "")
