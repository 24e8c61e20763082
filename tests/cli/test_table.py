"""One table of all commands: input, exit status, sentence, and files afterwards."""

import importlib
import io
import json
import os
import pkgutil
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import jsonschema
import pytest

from dlconcepts.__main__ import main
from dlconcepts.cli.parser import COMMANDS
from tests.cli import rows
from tests.cli.rows import Row

TABLES = {
    module.name: importlib.import_module(f"tests.cli.rows.{module.name}").ROWS
    for module in pkgutil.iter_modules(rows.__path__)
    if module.name != "given"
}
TABLE = [
    pytest.param(row, id=f"{name}-{number}: {row.line or 'nothing'}"[:90])
    for name, table in TABLES.items()
    for number, row in enumerate(table)
]
SCHEMAS = json.loads(Path(__file__).parents[2].joinpath("docs", "schemas.json").read_text())
MANY = 350  # rows; the table only grows


@pytest.mark.parametrize("row", TABLE)
def test_a_command_does_what_its_row_says(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Status, sentence and files are those of the row; there is no traceback and no other file."""
    if row.to == "full disk" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    folder, temporary = tmp_path / "here", tmp_path / "temporary"
    for path in (folder, temporary):
        path.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    modules = set(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images
        for prepare in row.given:
            try:
                prepare(monkeypatch)
            except (AttributeError, OSError) as error:
                if sys.platform == "linux":
                    raise
                pytest.skip(f"this system cannot make what the row needs: {error}")
        capfd.readouterr()
        before = contents(folder)
        status, usage = run(row, monkeypatch)
    printed = capfd.readouterr()

    assert (status, printed.err.count("Traceback")) == (row.status, 0), printed.err
    assert "Traceback (most recent call last):\n  File" not in printed.out
    assert_said(row.says, printed.err)
    assert_said(row.out, printed.out)
    if "--quiet" in row.line and "--json -" not in row.line:
        assert printed.out == ""
    if "--json" in row.line and row.status in (0, 1, 3) and "cannot write" not in row.says:
        assert_as_documented(row, printed.out)
    if status == 2 and not usage:
        sentence, *details = printed.err.splitlines()
        assert sentence.startswith((f"dlconcepts {row.line.split()[0]}: ", "dlconcepts: ")), row
        assert not details or "details" in row.says, printed.err
    after = contents(folder)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    patterns = [*row.files.split()]
    assert {p for p in changed if not any(Path(p).match(each) for each in patterns)} == set()
    assert [p for p in patterns if not any(Path(each).match(p) for each in changed)] == []
    assert list(temporary.iterdir()) == []
    for name in set(sys.modules) - modules:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]  # the next row may have another module of that name


def run(row: Row, monkeypatch: pytest.MonkeyPatch) -> tuple[int, bool]:
    """Run the command of a row; return its status, and whether its arguments were wrong."""
    with stream(row.to) if row.to else nullcontext() as output:
        if output:
            monkeypatch.setattr(sys, "stdout", output)
        try:
            return main(shlex.split(row.line)), False
        except SystemExit as error:
            return error.code, True


@contextmanager
def stream(kind: str) -> Iterator[io.TextIOWrapper]:
    """Yield an output stream that is broken, or knows few characters."""
    reader, writer = os.pipe()
    os.close(reader)
    if kind != "closed pipe":
        os.dup2(1 if kind == "ascii" else os.open("/dev/full", os.O_WRONLY), writer)
    with suppress(OSError), os.fdopen(writer, "w", encoding="ascii") as output:
        yield output


def assert_said(pieces: str, text: str) -> None:
    """Assert that a text has all pieces, in order."""
    rest = text
    for piece in filter(None, pieces.replace("details", "").split(" ... ")):
        assert piece in rest, f"{piece!r} is missing in:\n{text}"
        rest = rest.partition(piece)[2]


def assert_as_documented(row: Row, printed: str) -> None:
    """Assert that the results as JSON are as the schema of the command says."""
    words = row.line.split()
    file = words[words.index("--json") + 1 :][:1]
    by_flag = words[0] in ("claims", "compare")
    text = printed if by_flag or file == ["-"] else Path(file[0]).read_text(encoding="utf-8")
    jsonschema.validate(json.loads(text), SCHEMAS[words[0]])


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return what is in a folder: the bytes of each file, or what else it is."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else "no file"
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts and (path.is_file() or not path.is_dir() or empty(path))
    }


def empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def test_each_schema_is_tried() -> None:
    """Each command that prints results has a schema, and a row that is compared with it."""
    tried = {row.line.split()[0] for param in TABLE for row in param.values if "--json" in row.line}
    assert SCHEMAS.keys() == COMMANDS.keys()
    assert SCHEMAS.keys() <= tried


def test_the_table_is_not_smaller_than_it_was() -> None:
    """It has hundreds of rows, of each command, and no row twice."""
    assert len(TABLE) >= MANY
    for table in TABLES.values():
        assert len(set(map(str, table))) == len(table)
