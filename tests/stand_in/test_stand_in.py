"""The stand-in for a GPU, in separate processes: a process cannot drop the device again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlconcepts.support.devices import DEVICES, find_device
from tests.stand_in import NAME

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pytest", "-p", "tests.stand_in", "-p", "no:cacheprovider", "-q"]
    environment = {**os.environ, **variables}
    return subprocess.run(
        [*line, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


# Torch 2.6 sends a private backend operators that the stand-in does not imitate.
needs_new_torch = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14),
    reason="the stand-in needs torch 2.14 or newer",
)


@needs_new_torch
@pytest.mark.skipif(
    not (shutil.which("ninja") and shutil.which(os.environ.get("CXX", "c++"))),
    reason="the stand-in needs a C++ compiler and ninja (pip install ninja)",
)
def test_a_lesson_holds_on_the_stand_in_which_refuses_what_cuda_refuses() -> None:
    """The proof of the stand-in passes without the slow gallery, and so do the laws of lesson 1."""
    files = "tests/stand_in/proof.py", "tests/tensors"
    # `tox -e stand-in` runs the rest on it: the other lessons, the mistakes and the gallery.
    quick = "-k", "not gallery and not project", "-m", "not mistake"

    result = run("--device", NAME, *files, *quick)

    assert result.returncode == 0, result.stdout[-5000:] + result.stderr
    assert " passed" in result.stdout


def test_without_the_plugin_the_device_is_unknown() -> None:
    """Only the plugin registers the device."""
    assert NAME not in DEVICES
    with pytest.raises(ValueError, match="unknown device"):
        find_device(NAME)


@needs_new_torch
def test_without_a_compiler_the_run_stops_and_says_what_it_needs(tmp_path: Path) -> None:
    """No test runs, and the error names the compiler and ninja."""
    result = run(
        "tests/stand_in/proof.py", CXX="no-such-compiler", TORCH_EXTENSIONS_DIR=str(tmp_path)
    )

    assert result.returncode != 0
    assert "It needs ninja" in result.stderr, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
