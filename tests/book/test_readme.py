"""The README shows what happens: each of its programs is run, and prints what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dlconcepts.__main__ import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```.*?```text\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(
    r"^(?:pip install -e \. && )?python -m dlconcepts (.*)$", README, flags=re.MULTILINE
)

VALUES = {"called", "came back", "the law", "smallest input", ""}


def command(name: str) -> list[str]:
    """Return what the README gives to one of the commands, the name first."""
    return next(line.split() for line in COMMANDS if line.split()[0] == name)


def run(program: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a file of its own, after options of Python."""
    file = folder / "train.py"
    file.write_text(program, encoding="utf-8")
    # With CI set, Hypothesis draws the same examples each time. Older versions, which shrink
    # to another corner of a tensor, then find the same one too.
    environment = {**os.environ, "CI": "1"}
    return subprocess.run(
        [sys.executable, *options, file.name],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


ATTEMPT, SESSION = re.findall(
    r"```(?:text|py)\n(    flat.*?|\$ python -m dlconcepts practice.*?)```", README, flags=re.DOTALL
)


@pytest.mark.parametrize(("program", "printed"), PROGRAMS)
def test_a_program_prints_what_stands_below_it(program: str, printed: str, tmp_path: Path) -> None:
    """The counterexamples are those that Hypothesis finds, and the findings those of `watch`."""
    command = "$ python -m dlconcepts watch train.py\n"
    options = ["-m", "dlconcepts", "watch"] if printed.startswith(command) else []
    error = run(program, tmp_path, *options).stderr

    assert printed.removeprefix(command) in error.replace("Falsifying example", "Failing test case")


def test_the_remedy_of_the_first_program_is_one(tmp_path: Path) -> None:
    """With zero_grad in front of backward, as the README says, the law holds."""
    program = PROGRAMS[0][0]
    mended = program.replace(
        "    loss.backward()", "    optimizer.zero_grad()\n    loss.backward()"
    )
    assert mended != program

    result = run(mended, tmp_path)

    assert (result.returncode, result.stderr) == (0, "")


def test_the_commands_on_real_images_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training and classifying work as written."""
    train, classify = command("train"), command("classify")
    monkeypatch.chdir(tmp_path)

    assert main([*train, "--epochs", "1"]) == 0
    images = sorted(str(path) for path in Path().glob(classify[2]))
    assert main([classify[0], classify[1], *images]) == 0

    assert len(images) == 10
    assert "Ankle boot" in capsys.readouterr().out


def test_the_practice_session_goes_as_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The attempt in the README is judged with the words there.

    The values beside the headings are Hypothesis's and pytest's; their next versions may differ.
    """
    monkeypatch.chdir(tmp_path)
    file, body = Path("practice/tensors.py"), '    raise NotImplementedError("write centre")\n'
    assert main(["practice", "tensors"]) == 0
    source = file.read_text(encoding="utf-8")
    assert body in source
    file.write_text(source.replace(body, ATTEMPT), encoding="utf-8")
    capsys.readouterr()
    command, _, recorded = SESSION.partition("\n")

    assert main(command.split()[4:]) == 1

    assert words(capsys.readouterr().out) == words(recorded)


def words(output: str) -> list[str]:
    """Return the lines of an output without the values, which stand to the right of a heading."""
    headings = [(line, line[2:16].strip()) for line in output.splitlines()]
    lines = [heading if heading in VALUES else line for line, heading in headings]
    return [line for line in lines if line]


def test_the_check_of_a_model_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checking a network of torchvision works as written, and finds nothing wrong with it."""
    monkeypatch.chdir(tmp_path)

    assert main(command("check")) == 0

    assert "passed       examples-stay-apart" in capsys.readouterr().out
    assert (tmp_path / "checks.xml").exists()


def test_each_file_that_is_named_exists() -> None:
    """The README and CONTRIBUTING name no path that is gone."""
    root = Path(__file__).parents[2]
    contributing = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:tests|dlconcepts|docs|benchmarks)/[\w./]*)`", README + contributing)
    written_there = {"tests/tensors/test_where_picks_one_of_two.py"}

    assert paths
    assert [
        path for path in paths if not (root / path).exists() and path not in written_there
    ] == []


def test_the_readme_is_short() -> None:
    """It fits in 200 lines."""
    assert len(README.splitlines()) <= 200
