"""What the process that asks and the one that judges tell each other."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlconcepts.practice.techniques import Technique

STUCK, PRINTED = "stuck.txt", "printed.txt"
Rows = list[tuple[str, str]]  # what is printed of a failure: headings and texts


@dataclass(frozen=True)
class Question:
    """What to judge: a technique in a learner's file."""

    technique: Technique
    path: Path
    unwritten: dict[str, str]  # each technique that is not written yet, and its module
    limit: float  # seconds for one example


def place_rows(said: str, frames: Sequence[traceback.FrameSummary]) -> Rows:
    """Return an error and the last of some lines of the learner's files."""
    if not frames:
        return [("error", said)]
    frame = frames[-1]
    function = f", in {frame.name}" if frame.name.isidentifier() else ""
    where = f"{Path(frame.filename).name}, line {frame.lineno}{function}"
    return [("error", said), ("where", where), ("", (frame.line or "").strip())]
