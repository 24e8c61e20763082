"""Run the notebooks of the book: all, or the ones named.

    tox -e book && python docs/run_notebooks.py [tensors autograd ...]

It takes minutes, because each law runs on the right technique and on each of its mistakes.
"""

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent / "generated" / "notebooks"


def main(names: Iterable[str]) -> None:
    """Run each notebook in a new kernel, and stop with a traceback at the first failure."""
    for path in [NOTEBOOKS / f"{name}.ipynb" for name in names] or sorted(NOTEBOOKS.iterdir()):
        started = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=600).execute()
        laws = sum(cell.source.startswith("run_law(") for cell in notebook.cells)
        print(f"{path.stem}: {laws} laws in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
