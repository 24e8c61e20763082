"""Fixtures of the lesson checkpoints."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all examples of a file share; each overwrites the previous files."""
    # Hypothesis refuses tmp_path: a fixture of one test does not start fresh for each example.
    return tmp_path_factory.mktemp("checkpoints")
