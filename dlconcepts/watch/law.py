"""A law over a trace: what it hears, and how it says that a line breaks it."""

from typing import ClassVar

from dlconcepts.watch.places import Place
from dlconcepts.watch.report import Explanation, Finding
from dlconcepts.watch.trace import Trace

PROOFS = 2  # for each line; a third would tell nothing new


class Law:
    """A law listens to events by methods of their names; `dlconcepts.watch.hooks` tells them.

    `seen` becomes True when something happened that could have broken the law. `explanation` is
    None where `dlconcepts.checks` has the law, with its texts.
    """

    id: ClassVar[str]
    explanation: ClassVar[Explanation | None] = None

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.seen = self.gave_up = False
        self.proofs: dict[object, int] = {}

    def broken(self, place: Place, message: str, proof: str) -> None:
        """Report a line that breaks the law, with its proof."""
        self.trace.add(Finding(self.id, "broken", place.file, place.line, message, proof))

    def note(self, place: Place, message: str) -> None:
        """Report a line that looks wrong, where nothing proves it."""
        self.trace.add(Finding(self.id, "note", place.file, place.line, message, ""))

    def may_prove(self, key: object) -> bool:
        """Return whether another proof about a line or an object is worth its time."""
        self.proofs[key] = self.proofs.get(key, 0) + 1
        return self.proofs[key] <= PROOFS
