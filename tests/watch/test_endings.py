"""However a script ends, `watch` shows what Python shows, and then what it found until there."""

import subprocess
import sys
from pathlib import Path

import pytest

TRAINING = """
import os, signal, sys, torch
layer = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
for _ in range(3):
    layer(torch.ones(2, 1)).sum().backward()
    optimizer.step()
"""
FOUND = "BROKEN  a-step-follows-its-own-batch"
ENDINGS = {
    "end": ("", 3, ""),
    "exit": ("sys.exit(5)", 5, ""),
    "exit with a text": ("sys.exit('went wrong')", 1, "went wrong\n"),
    "leave at once": ("os._exit(4)", 4, ""),
    "raise": ("raise ValueError('bad')", 1, "line 8, in <module>\n    raise ValueError"),
    "interrupt": ("os.kill(os.getpid(), signal.SIGINT)", 130, "KeyboardInterrupt"),
    "no memory": ("torch.empty(10**15)", 1, "allocate memory"),
    "fork": ("os.fork() or os._exit(7); os.wait()", 3, ""),
}


def watch(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "dlconcepts", "watch", *options, "train.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(("last", "status", "shown"), ENDINGS.values(), ids=ENDINGS)
def test_a_script_ends_as_it_does_without_watch(last, status, shown, tmp_path) -> None:
    """The status is the script's own, or 3; the traceback has no frame of ours; once reported."""
    run = watch(tmp_path, TRAINING + last)

    assert run.returncode == status, run.stderr
    assert shown in run.stderr
    assert run.stderr.count(FOUND) == 1
    assert "watch/run.py" not in run.stderr.replace("\\", "/")


def test_a_script_without_training_says_so(tmp_path) -> None:
    """Nothing was judged, which is no failure."""
    run = watch(tmp_path, "print('hello')")

    assert (run.returncode, run.stdout) == (0, "hello\n")
    assert "no optimizer step was seen" in run.stderr


@pytest.mark.parametrize(
    ("text", "options", "status", "said"),
    [
        ("def f(:", (), 1, "SyntaxError"),
        ("", ("--json", "."), 2, "it is a folder"),
        (TRAINING, ("--exit-zero",), 0, FOUND),
    ],
    ids=["a syntax error", "a report that cannot be written", "the status is not wanted"],
)
def test_what_cannot_run_says_why(text, options, status, said, tmp_path) -> None:
    """Each is one message, with the status that the documentation states."""
    run = watch(tmp_path, text, *options)

    assert (run.returncode, said in run.stderr) == (status, True), run.stderr
