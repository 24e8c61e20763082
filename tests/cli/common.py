"""What the tests of several commands share."""

from pathlib import Path

import pytest

from dlconcepts.cli import main


def run(line: str) -> int:
    """Run a command line and return its exit status."""
    return main(line.split())


def assert_explained(line: str, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """Assert that a command ends with status 2 and one sentence, and writes nothing."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()

    assert run(line) == 2

    printed = capsys.readouterr().err
    assert printed.startswith(f"dlconcepts {line.split()[0]}: ")
    assert printed.count("\n") == 1, printed
    for word in words:
        assert word in printed
    assert sorted(Path().rglob("*")) == before


def written(text: str) -> set[str]:
    """Return the paths that a command printed as written."""
    return {line.removeprefix("wrote ") for line in text.splitlines() if "wrote" in line}
