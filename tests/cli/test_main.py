"""Help, usage errors and exit status, the same for all commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from dlconcepts.cli import main, parser
from dlconcepts.support.errors import UserError
from tests.cli.common import run


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` prints each command with a sentence."""
    with pytest.raises(SystemExit, match="0"):
        run("--help")

    printed = capsys.readouterr().out
    for name, add_arguments in parser.COMMANDS.items():
        sentence = (add_arguments.__doc__ or "").splitlines()[0]
        assert f"{name} " in printed
        assert sentence[1:].rstrip(".") in " ".join(printed.split())


def test_help_does_not_wait_for_pytorch() -> None:
    """Help does not import PyTorch, which takes seconds."""
    program = (
        "import sys; from dlconcepts.cli import main\n"
        "try: main(['train', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )

    finished = python("-c", program)

    assert finished.stderr == ""
    assert "--epochs" in finished.stdout


def test_a_user_error_is_one_sentence_with_its_details_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line breaks within the sentence are removed, those of the details stay."""

    def fail(arguments: object) -> int:
        raise UserError("there is\n  no cake; bake one", "flour\nsugar")

    monkeypatch.setattr("dlconcepts.cli.claims.run", fail)

    assert main(["claims"]) == 2
    expected = "dlconcepts claims: there is no cake; bake one\nflour\nsugar\n"
    assert capsys.readouterr().err == expected


def test_the_program_ends_with_the_status_of_the_command(folder: Path) -> None:
    """As a program it prints one sentence, without a traceback, and exits with status 2."""
    finished = python("-m", "dlconcepts", "classify", "absent.pt", "absent.png")

    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith(
        "dlconcepts classify: the checkpoint absent.pt cannot be read"
    )
    assert finished.stderr.count("\n") == 1
