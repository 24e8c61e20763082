"""Drawings of what the mistakes of a law do, made by running them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from book.suite import Chapter, Law


@dataclass(frozen=True)
class Drawing:
    """A picture of a law (`subject` is empty) or of one of its mistakes."""

    figure: Figure
    alt: str
    caption: str
    subject: str = ""

    def save(self, path: Path) -> None:
        """Write the picture on white, which can be read in dark mode too."""
        self.figure.savefig(path, dpi=110, facecolor="white")


def draw(chapter: Chapter, law: Law) -> Iterator[Drawing]:
    """Yield the drawings of a law."""
    return iter(())
