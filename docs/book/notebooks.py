"""A chapter as a notebook that runs: its text, its code, and for each law a cell that runs it."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.suite import Chapter, Source

SETUP = Path(__file__).with_name("notebook_setup.py").read_text(encoding="utf-8")
NEEDS = (
    "It needs a clone of the project, installed with `pip install -e .`, and runs from anywhere."
)


def write_notebook(chapter: Chapter, path: Path) -> None:
    """Write the notebook of a chapter."""
    source = Source(chapter.path)
    body = source.tree.body[1:]
    first = next(n for n, node in enumerate(body) if not is_import(node))
    cells = [
        new_markdown_cell(f"# {chapter.title}\n\n{chapter.prose}\n\n{NEEDS}"),
        new_code_cell("\n".join(source.code(node) for node in body[:first])),
        new_code_cell(SETUP.replace("CHAPTER", chapter.path.name).strip()),
    ]
    headings = [(0, "", ""), *source.headings(), (len(source.lines) + 1, "", "")]
    for (line, title, prose), (end, _, _) in pairwise(headings):
        nodes = [node for node in body[first:] if line < node.lineno < end]
        cells += [new_markdown_cell(f"## {title}\n\n{prose}".strip())] if title else []
        cells += [new_code_cell(code_of(node, source)) for node in nodes]
        # At the end of the section, since a law may use what is written after it.
        laws = [law.name for law in chapter.laws if source.nodes[law.name] in nodes]
        cells += [new_code_cell(f"run_law({law})") for law in laws]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # instead of a random one, so that builds agree
    notebook = new_notebook(cells=cells)
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def is_import(node: ast.stmt) -> bool:
    """Return whether a statement is one of the imports at the top of a file."""
    return isinstance(node, ast.Import | ast.ImportFrom)


def code_of(node: ast.stmt, source: Source) -> str:
    """Return a statement as it stands in the file, but fixtures as the functions that they are."""
    code = source.code(node)
    fixture = re.match(r"@pytest\.fixture\b[^\n]*\n", code)
    return code[fixture.end() :] if fixture else code
