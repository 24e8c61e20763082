"""What `practice` does besides judging: lists, resets, notebooks, and the grades of a class."""

import csv
import io
import json
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from dlconcepts.__main__ import main
from dlconcepts.practice.sheets import REFUSED, judged
from tests.practice.common import BY_NAME, TECHNIQUES, solve, write

IN_PLACE = "flat = tensor.view(-1)\n    return flat.sub_(flat.mean())"
RIGHT = "flat = tensor.flatten()\n    return flat - flat.mean()"


@pytest.mark.parametrize("name", BY_NAME)
def test_a_docstring_states_all_that_is_judged(name):
    """Each reason for which a law rejects a mistake is in the list, as are the laws' sentences."""
    technique = BY_NAME[name]
    said = " ".join(judged(technique).split())

    for law in technique.laws:
        assert " ".join(law.sentence.split()) in said
        for mistake, reason in law.wrong.items():
            # Types of errors are listed; which wording was refused does not matter to a learner.
            if not REFUSED.match(reason):
                assert reason in said, (mistake, said)


def test_the_list_shows_what_has_passed(tmp_path, monkeypatch, capsys):
    """Every technique is listed in course order with its claim, also if there is no folder yet."""
    monkeypatch.chdir(tmp_path)
    assert main(["practice", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(TECHNIQUES) + 9
    assert [line.split()[0] for line in lines[1:4]] == ["fill_through_view", "centre", "from_numpy"]

    write(tmp_path, "tensors", {"centre": RIGHT})
    assert main(["practice", "--check", str(tmp_path)]) == 1
    capsys.readouterr()
    assert main(["practice", "--lesson", "tensors", "--list", "--check", str(tmp_path)]) == 0
    marked = [line for line in capsys.readouterr().out.splitlines() if "✓" in line]
    assert [line.split()[1] for line in marked] == ["centre"]


def test_reset_asks_and_restores_the_empty_exercise(tmp_path, monkeypatch, capsys):
    """A no leaves the file alone; a yes deletes the body, and nothing else of the file."""
    path = write(tmp_path, "tensors")
    empty = path.read_text()
    solve(path, "tensors")
    path.write_text(path.read_text() + "\nmine = 1\n")
    solved = path.read_text()
    line = ["practice", "--check", str(tmp_path), "--reset"]

    assert main([*line, "centre"]) == 2
    assert "confirm it with --yes" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main([*line, "centre"]) == 1
    assert path.read_text() == solved
    for name in ("centre", "from_numpy", "to_numpy", "fill_through_view"):
        monkeypatch.setattr("builtins.input", lambda question: "y")
        assert main([*line, name]) == 0
    assert path.read_text() == empty + "\nmine = 1\n"
    assert main([*line, "centr"]) == 2
    assert "did you mean centre?" in capsys.readouterr().err


def test_a_file_may_have_another_name(tmp_path, capsys):
    """A learner may rename a file; what has passed is remembered."""
    path = write(tmp_path, "tensors", {"centre": RIGHT})
    assert main(["practice", "--check", str(tmp_path)]) == 1
    assert "centre passes." in capsys.readouterr().out

    path.rename(tmp_path / "week_1.py")
    assert main(["practice", "--check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "1 of 4" in said
    assert "centre passes" not in said


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Grade a class of four: one is right, two make a mistake, one has a syntax error."""
    folder = tmp_path_factory.mktemp("class")
    for learner, body in {
        "ada": RIGHT,
        "bob": IN_PLACE,
        "eve": IN_PLACE,
        "dan": "return (",
    }.items():
        write(folder / learner, "tensors", {"centre": body})
    (folder / "ada" / "progress.json").write_text('{"passed": {"to_numpy": "forged"}}')
    (folder / "notes").mkdir()
    reports = tmp_path_factory.mktemp("reports")
    line = ["practice", "--grade", str(folder), "--csv", str(reports / "table.csv")]
    status = main([*line, "--json", str(reports / "table.json")])
    return status, folder, reports


def test_a_class_is_graded(graded):
    """Each learner has a row for each answer; the most failed exercise comes with its mistake."""
    status, _, reports = graded
    table = list(csv.DictReader(io.StringIO((reports / "table.csv").read_text())))
    found = json.loads((reports / "table.json").read_text())

    assert status == 0
    centre = {row["learner"]: row for row in table if row["exercise"] == "centre"}
    states = {learner: row["state"] for learner, row in centre.items()}
    assert states == {"ada": "passed", "bob": "failed", "dan": "broken", "eve": "failed"}
    assert centre["bob"]["mistake"] == "centres the view"
    assert found["answers"] == table
    assert found["learners"][0] == {"learner": "ada", "passed": 1, "of": 4}
    (first, *_) = found["most_failed"]
    assert (first["exercise"], first["failed"]) == ("centre", 3)
    assert first["mistakes"]["centres the view"] == 2


def test_grading_leaves_the_folders_alone(graded):
    """Nothing is written into a learner's folder, and what stands there is not believed."""
    _, folder, reports = graded
    table = csv.DictReader(io.StringIO((reports / "table.csv").read_text()))
    own = {row["exercise"]: row["state"] for row in table if row["learner"] == "ada"}

    names = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert names == ["progress.json", *["tensors.py"] * 4]
    assert own["to_numpy"] == "unwritten"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--grade nowhere", "nowhere is no folder"),
        ("--grade .", "no folder in . has a practice file"),
        ("--csv table.csv", "--csv needs --grade"),
        ("--reset centre", "no file in practice has centre"),
    ],
)
def test_a_mistake_of_the_user_is_explained(line, words, tmp_path, monkeypatch, capsys):
    """The command says in one line what to change, and writes nothing."""
    monkeypatch.chdir(tmp_path)

    assert main(["practice", *line.split()]) == 2

    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_the_verdict_below_each_exercise(tmp_path):
    """The cells of a lesson run in order; a check cell judges what the cells above it define."""
    assert main(["practice", "tensors", "--notebook", "--out", str(tmp_path)]) == 0
    path = Path(tmp_path, "tensors.ipynb")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells]
    assert sum(source.startswith("check(") for source in sources) == 4
    for cell in notebook.cells:
        if "def centre(" in cell.source:
            cell.source = (
                cell.source.replace(
                    'raise NotImplementedError("write centre")', IN_PLACE.replace("sub_", "helper")
                ).replace(".helper(flat.mean())", "")
                + "\n\n%time 1\n"
            )
    again = f"def centre(tensor):\n    {IN_PLACE}\n\n\ncheck('centre')"
    notebook.cells = [
        *[
            cell
            for cell in notebook.cells
            if "check(" not in cell.source or "centre" in cell.source
        ],
        nbformat.v4.new_code_cell(again),
        nbformat.v4.new_code_cell(f"def centre(tensor):\n    {RIGHT}\n\n\ncheck('centre')"),
    ]

    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    ).execute()

    printed = [
        "".join(out.get("text", "") for out in cell.get("outputs", ())) for cell in notebook.cells
    ]
    wrong, right = printed[-2:]
    assert "fails like" in wrong
    assert "'centres the view'" in wrong
    assert "centre passes." in right
