"""Help, usage errors and exit status, the same for all commands."""

import subprocess
import sys
from pathlib import Path

import pytest

import dlconcepts
from dlconcepts.cli import main, parser
from dlconcepts.support.errors import UserError
from tests.cli.common import run


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("command", parser.COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`COMMAND --help` prints the options and ends with status 0."""
    with pytest.raises(SystemExit, match="0"):
        run(f"{command} --help")

    assert f"usage: python -m dlconcepts {command} " in capsys.readouterr().out


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` prints each command with a sentence."""
    with pytest.raises(SystemExit, match="0"):
        run("--help")

    printed = capsys.readouterr().out
    for name, (sentence, *_) in parser.COMMANDS.items():
        assert f"{name} " in printed
        assert sentence.split(",")[0] in " ".join(printed.split())


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints it."""
    with pytest.raises(SystemExit, match="0"):
        run("--version")

    assert capsys.readouterr().out == f"{dlconcepts.__version__}\n"


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


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "COMMAND"),
        ("learn", "learn"),
        ("train --epochs 0", "'0' is not a whole number of at least 1"),
        ("train --epochs two", "'two' is not a whole number of at least 1"),
        ("train --batch-size 1.5", "'1.5' is not a whole number"),
        ("train --batch-size 99999999999999999999", "at least 1 and at most 2**31 - 1"),
        ("train --hidden 99999999999", "at least 1 and at most 2**31 - 1"),
        ("transfer pets --lr 1e38", "'1e38' is not a number above 0 and at most 1e30"),
        ("train --lr 0", "'0' is not a number above 0"),
        ("train --lr nan", "'nan' is not a number above 0"),
        ("train --lr inf", "'inf' is not a number above 0"),
        ("train --dropout 1.1", "'1.1' is not a number from 0 to 1"),
        ("train --hidden 128 0", "'0' is not a whole number of at least 1"),
        ("train --seed -1", "'-1' is not a whole number from 0"),
        ("train --download", "--data and --download need --full"),
        ("train --data images", "--data and --download need --full"),
        ("classify checkpoint.pt", "IMAGE"),
        ("transfer", "FOLDER"),
        ("transfer pets --held-out 0", "'0' is not a number between 0 and 1"),
        ("transfer pets --held-out 1", "'1' is not a number between 0 and 1"),
        ("transfer pets --epochs 0", "'0' is not a whole number of at least 1"),
        ("transfer pets --hidden 0", "'0' is not a whole number of at least 1"),
        ("claims --lesson cooking", "'cooking'"),
        ("verify --profile slow", "'slow'"),
    ],
)
def test_a_usage_error_is_explained(
    line: str, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad arguments give status 2, and the error names the argument and the reason."""
    with pytest.raises(SystemExit, match="2"):
        run(line)

    assert reason in capsys.readouterr().err
    assert list(folder.iterdir()) == []


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
