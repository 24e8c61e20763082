"""A chapter as a notebook that runs."""

from pathlib import Path

from book.suite import Chapter


def write_notebook(chapter: Chapter, path: Path) -> None:
    """Write the notebook of a chapter."""
    path.write_text("{}")
