"""The stand-in for a GPU, started in processes of its own: one that has a device keeps it."""

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
    """Run pytest on the stand-in."""
    line = [sys.executable, "-m", "pytest", "-p", "tests.stand_in", "-p", "no:cacheprovider", "-q"]
    environment = {**os.environ, **variables}
    return subprocess.run(
        [*line, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


# Torch 2.6 hands a device of its own operators that this one does not imitate.
needs_new_torch = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14),
    reason="the stand-in is for torch 2.14 and newer",
)


@needs_new_torch
@pytest.mark.skipif(
    not (shutil.which("ninja") and shutil.which(os.environ.get("CXX", "c++"))),
    reason="the stand-in is built by a C++ compiler and ninja (pip install ninja)",
)
def test_a_lesson_holds_on_the_stand_in_which_refuses_what_cuda_refuses() -> None:
    """The proof of the stand-in passes, but for the gallery, and so do the laws of lesson 1."""
    files = "tests/stand_in_proof.py", "tests/test_tensors.py"

    result = run("--device", NAME, *files, "-k", "not gallery and not project")

    assert result.returncode == 0, result.stdout[-5000:] + result.stderr
    assert " passed" in result.stdout


def test_nobody_sees_it_who_does_not_ask_for_it() -> None:
    """Without the plugin there is no such device."""
    assert NAME not in DEVICES
    with pytest.raises(ValueError, match="unknown device"):
        find_device(NAME)


@needs_new_torch
def test_without_a_compiler_it_says_at_once_what_is_missing(tmp_path: Path) -> None:
    """The run ends before any test, and names what builds the device."""
    result = run(
        "tests/stand_in_proof.py", CXX="no-such-compiler", TORCH_EXTENSIONS_DIR=str(tmp_path)
    )

    assert result.returncode != 0
    assert "could not be built, which takes a compiler" in result.stderr, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
