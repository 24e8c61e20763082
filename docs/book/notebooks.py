"""Write a lesson as a notebook: heads, demonstrations, code, and a cell that runs each law."""

import ast
import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.suite import Chapter, Section, Source

SETUP = Path(__file__).with_name("notebook_setup.py").read_text(encoding="utf-8")
NEEDS = (
    "The notebook needs a clone of the project, installed with `pip install -e .`. It runs in any "
    "folder."
)


def write_notebook(chapter: Chapter, path: Path) -> None:
    cells = [
        new_markdown_cell(f"# {chapter.title}\n\n{chapter.prose}\n\n{NEEDS}"),
        new_code_cell(SETUP.strip()),
    ]
    for section in chapter.sections:
        cells += cells_of(section)
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # not random, so that builds are reproducible
    notebook = new_notebook(cells=cells)
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def cells_of(section: Section) -> Iterator[nbformat.NotebookNode]:
    """Yield the cells of a claim: its head, its demonstration, its code, its laws."""
    claim, source = section.claim, section.source
    fields = {"Notes": claim.notes, "Verdict": claim.verdict, "Truth": claim.truth}
    lines = [f"**{name}:** {text}" for name, text in fields.items() if text]
    yield new_markdown_cell("\n\n".join([f"## {claim.title}", *lines]))
    for example in doctest.DocTestParser().get_examples(claim.demonstration):
        yield new_code_cell(tolerant(example).rstrip())
    body = source.tree.body[1:]
    imports = [node for node in body if is_import(node)]
    if imports:
        yield new_code_cell("\n".join(source.code(node) for node in imports))
    for node in body:
        if node not in imports:
            yield new_code_cell(code_of(node, source))
    # Laws run last, because a law may use a helper that is defined below it.
    for law in section.laws:
        yield new_code_cell(f"run_law({law.name})")


def tolerant(example: doctest.Example) -> str:
    """Return the code of an example; if it should raise, print the error and continue."""
    if example.exc_msg is None:
        return example.source
    indented = example.source.replace("\n", "\n    ").rstrip()
    return f"try:\n    {indented}\nexcept Exception as error:\n    print(repr(error))\n"


def is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def code_of(node: ast.stmt, source: Source) -> str:
    """Return the source of a statement; a fixture becomes a plain function."""
    code = source.code(node)
    fixture = re.match(r"@pytest\.fixture\b[^\n]*\n", code)
    return code[fixture.end() :] if fixture else code
