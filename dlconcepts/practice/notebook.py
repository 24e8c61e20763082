"""Practice in a notebook: a cell for each exercise, and a cell that shows the verdict."""

import ast
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dlconcepts.practice.check import judge
from dlconcepts.practice.sheets import imports, skeleton
from dlconcepts.practice.show import HINTS, console, show_outcome
from dlconcepts.practice.techniques import Technique, survey
from dlconcepts.support.errors import UserError

INTRODUCTION = """# Practice, lesson {number}: {lesson}

Replace each `NotImplementedError` with your code, run the cell, then run the cell below it: it
shows whether the laws of the course hold for what you wrote. Until you write a technique, calls to
it run the library's version, so you can start with any of them.

The notebook needs a clone of dlconcepts, installed with `pip install -e .`, since the laws are in
its tests. In a hosted notebook, clone it in a first cell, `!git clone ADDRESS`, install it in a
second one, `%pip install -q -e dlconcepts`, and restart the kernel.
"""
# What a cell may do besides defining something is left out, since each check runs it again.
KEPT = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


def notebook(number: int, lesson: str, techniques: Sequence[Technique]) -> str:
    """Return the notebook of a lesson."""
    cells = [
        cell("markdown", INTRODUCTION.format(number=number, lesson=lesson)),
        cell("code", imports(techniques) + "\nfrom dlconcepts.practice.notebook import check"),
    ]
    for technique in techniques:
        claim = technique.laws[0].claim
        text = f"## {technique.name}\n\n{claim.truth or claim.notes} (*{claim.verdict}*)"
        cells += [
            cell("markdown", text),
            cell("code", skeleton(technique)),
            cell("code", f'check("{technique.name}")'),
        ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    found = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(found, indent=1) + "\n"


def cell(kind: str, source: str) -> dict[str, Any]:
    more: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source.strip(), **more}


def check(name: str, *, limit: float = 20.0, hint: bool = False) -> None:
    """Judge an exercise as the cells define it now, and print the verdict.

    `limit` is the time for one example of a law, in seconds; `hint` says more about a failure.
    Raises UserError for an unknown name.
    """
    techniques = survey()[0]
    found = next((each for each in techniques if each.name == name), None)
    if found is None:
        raise UserError(f"no exercise is named {name}; `python -m dlconcepts practice --list`")
    with TemporaryDirectory() as folder:
        path = Path(folder, f"{found.lesson}.py")
        path.write_text("\n\n".join(cells()), encoding="utf-8")
        outcomes = judge(Path(folder).resolve(), [found], limit, {})
        show_outcome(console(), outcomes[0], hints=HINTS if hint else 0)


def cells() -> Iterator[str]:
    """Yield the definitions in the cells that ran, in the order in which they ran."""
    from IPython import get_ipython  # there wherever a cell calls this

    for source in get_ipython().user_ns["In"]:
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a magic, or an error that the learner has seen
            continue
        kept: list[ast.stmt] = [node for node in tree.body if isinstance(node, KEPT)]
        yield ast.unparse(ast.Module(kept, []))
