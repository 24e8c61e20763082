"""What the laws about losses share: which calls to look at, and where scores come from."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from dlconcepts.watch.places import NOWHERE, Place, function_at, says_validation

CALLS = 3  # guilty in each of the first calls: a single batch may look so by chance
ROWS = 256  # of a batch that a proof computes with
PASSING = {
    *("View", "UnsafeView", "Reshape", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T"),
    *("Permute", "Alias", "Clone", "ToCopy", "Slice", "Select", "Expand", "Index"),
}


class Calls:
    """How often a line was looked at, and whether it was guilty each time."""

    def __init__(self) -> None:
        self.looks: dict[Place, int] = {}
        self.innocent: set[Place] = set()

    def look(self, place: Place) -> bool:
        """Return whether another call of a line is worth a look."""
        return place not in self.innocent and self.looks.get(place, 0) < CALLS

    def judge(self, place: Place, guilty: bool) -> None:
        self.looks[place] = self.looks.get(place, 0) + 1
        if not guilty:
            self.innocent.add(place)

    def guilty(self, place: Place) -> bool:
        return place not in self.innocent and self.looks[place] >= CALLS


def chain(scores: Tensor, through: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the operations that scores come from, as long as these keep the values."""
    node: Any = scores.grad_fn
    while node is not None:
        name = node.name().partition("Backward")[0]
        yield name
        if name not in PASSING | through:
            return
        node = node.next_functions[0][0] if node.next_functions else None


def few(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return scores[:ROWS].clone(), target.detach()[:ROWS]


def evaluates(place: Place) -> bool:
    """Return whether a loss only measures, and trains nothing."""
    # The line itself may well name what the model predicts.
    return says_validation(NOWHERE, (getattr(function_at(place), "name", ""),))


def is_mean(named: dict[str, Any]) -> bool:
    """Return whether the arguments of a loss ask for a mean; size_average is the old way."""
    return named.get("reduction", "mean") == "mean" and named.get("size_average") is not False
