"""A law over a trace: what it hears, and how it says that a line breaks it."""

import re
from collections import Counter
from collections.abc import Callable
from inspect import get_annotations
from typing import Any, ClassVar, TypeVar, get_origin

from dlconcepts.checks import REGISTRY
from dlconcepts.watch.places import Place
from dlconcepts.watch.report import Finding
from dlconcepts.watch.trace import Trace

PROOFS = 2  # for each line; a third would tell nothing new
CALLS = 3  # guilty in each of the first calls: a single batch may look so by chance

Found = TypeVar("Found")


class Law:
    """A law listens to events by methods of their names; `dlconcepts.watch.hooks` tells them.

    `seen` becomes True when something happened that could have broken the law. Its lesson is that
    of the check in `dlconcepts.checks`, if there is one, else its own claim, concept, why and fix.
    The class has the name of the law, and annotations for what it remembers: containers, which are
    empty at first.
    """

    id: ClassVar[str]
    lesson: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        cls.id = re.sub(r"\B(?=[A-Z])", "-", cls.__name__).lower()
        cls.lesson = getattr(REGISTRY.get(cls.id), "lesson", cls)

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.seen = self.gave_up = False
        self.proofs, self.counts = Counter[object](), Counter[object]()
        self.innocent: set[object] = set()
        for kind in type(self).__mro__:
            for name, hint in get_annotations(kind).items():
                container: Any = get_origin(hint)
                if container in (dict, list, set):
                    setattr(self, name, container())

    def broken(self, place: Place, message: str, proof: str) -> None:
        """Report a line that breaks the law, with its proof."""
        self.trace.add(Finding(self.id, "broken", place.file, place.line, message, proof))

    def note(self, place: Place, message: str) -> None:
        """Report a line that looks wrong, where nothing proves it."""
        self.trace.add(Finding(self.id, "note", place.file, place.line, message, ""))

    def may_prove(self, key: object) -> bool:
        """Return whether another proof about a line or an object is worth its time."""
        self.proofs[key] += 1
        return self.proofs[key] <= PROOFS

    def is_again(self, key: object) -> bool:
        """Return whether something happened before; once may be on purpose."""
        self.counts[key] += 1
        return self.counts[key] > 1

    def each_time(self, key: object, judge: Callable[[], Found]) -> Found | None:
        """Return what a judgement finds, if it finds something in each of the first calls."""
        if key in self.innocent or self.counts[key] >= CALLS:
            return None
        self.counts[key] += 1
        found = judge()
        if not found:
            self.innocent.add(key)
        return found if found and self.counts[key] == CALLS else None
