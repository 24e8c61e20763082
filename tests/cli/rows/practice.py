"""`practice`."""

from pathlib import Path

from tests.cli.rows import Row
from tests.cli.rows.given import full_disk, setting, text

LIMIT = "--limit must be more than 0 seconds"
absent = setting("dlconcepts.testing.run.TESTS", Path("absent"))
MINE = "def centre(tensor):\n    return tensor\n"
EMPTY = text("practice/tensors.py", "")
ROWS = [
    Row("practice tensors", 0, out="wrote practice/tensors.py", files="practice/tensors.py"),
    Row("practice tensors --out mine", 0, out="wrote mine/tensors.py", files="mine/tensors.py"),
    Row("practice tensors", 2, "already there ... --check", [text("practice/tensors.py")]),
    Row("practice tensors --out note", 2, "cannot write to the folder note", [text("note")]),
    Row("practice tensors --out .", 2, "No space left on device", [full_disk]),
    Row("practice tensors --out new", 2, "No space left on device", [full_disk]),
    Row("practice tensors --notebook", 0, out="tensors.ipynb", files="practice/tensors.ipynb"),
    Row("practice --list", 0, out="fill_through_view"),
    Row("practice --reset centre", 2, "no file in practice has centre"),
    Row("practice --reset centre", 2, "confirm it with --yes", [text("practice/tensors.py", MINE)]),
    Row("practice --reset cake --yes", 2, "no technique is named cake"),
    Row("practice --grade nowhere", 2, "nowhere is no folder"),
    Row("practice --grade .", 2, "no folder in . has a practice file"),
    Row("practice --csv a.csv", 2, "--csv needs --grade"),
    Row("practice --json a.json", 2, "--json needs --check or --grade"),
    Row("practice --check --json practice", 2, "it is a folder", [EMPTY]),
    Row("practice --check", 1, given=[text("practice/tensors.py", "def f(:\n")], out="SyntaxError"),
    Row("practice --check", 1, given=[text("practice/tensors.py", "\tx")], out="IndentationError"),
    Row("practice --check --json a.json", 1, given=[EMPTY], files="a.json"),
    Row("practice --lesson cake", 2, "invalid choice"),
    Row("practice --solution centre", 0, out="def centre"),
    Row("practice --solution centre", 0, out="def centre", to="ascii"),
    Row("practice --solution centre", 141, to="closed pipe"),
    Row("practice --solution centre", 2, "No space left on device", to="full disk"),
    Row("practice --solution cake", 2, "no technique is named cake"),
    Row("practice --watch", 2, "--watch, --hint and --solution without a name need --check"),
    Row("practice --hint", 2, "need --check"),
    Row("practice --solution", 2, "need --check"),
    Row("practice --out a --check b", 2, "--out names the folder to write"),
    Row("practice --check", 2, "there is no practice file in practice"),
    Row("practice --check --limit 0", 2, LIMIT),
    Row("practice --check --limit -1", 2, LIMIT),
    Row("practice --check --limit inf", 2, LIMIT),
    Row("practice --check --limit nan", 2, LIMIT),
    Row("practice --check", 1, given=[EMPTY], out="tensors"),
    Row("practice --check", 1, given=[EMPTY], to="ascii"),
    Row("practice --check", 141, given=[EMPTY], to="closed pipe"),
    Row("practice", 2, "clone the repository", [absent]),
]
