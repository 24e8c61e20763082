"""A running sum of losses is to be of numbers: a loss tensor keeps the graph of its batch."""

import ast
from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, function_at, loops_at
from dlconcepts.watch.trace import Held

HELD = 4  # graphs of earlier steps; a loop may hold the last loss or two for a while


class TheLossIsKeptAsANumber(Law):
    id = "the-loss-is-kept-as-a-number"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.place = NOWHERE
        self.count = 0

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        self.place, self.count = place, self.count + 1

    def on_step_ends(self, held: Held) -> None:
        self.seen = self.seen or self.count > HELD
        # The marks of a forward pass live as long as its graph.
        # Those of one step count once: it may collect several, and let go of them all.
        alive = len({mark.walked for mark in self.trace.marks if mark.walked})
        if alive > HELD and alive > min(self.count, 64) // 2 and self.may_prove(self.place):
            self.broken(
                keeper(self.place),
                "losses are kept as tensors, each with its graph",
                f"the graphs of {alive} of {self.count} losses are still in memory after their "
                "backward passes",
            )


def keeper(place: Place) -> Place:
    """Return the line that adds up or collects the loss whose backward is on a line."""
    function = function_at(place)
    names = {
        name.id
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "backward"
        and node.lineno <= place.line <= (node.end_lineno or 0)
        for name in ast.walk(node.func.value)
        if isinstance(name, ast.Name)
    }

    def uses(node: ast.AST) -> bool:
        plain = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in names]
        return any(not isinstance(getattr(n, "parent", None), ast.Attribute) for n in plain)

    inside = loops_at(place)
    node: Any
    for node in ast.walk(inside[-1] if inside else function):
        adds = isinstance(node, ast.AugAssign) and uses(node.value)
        collects = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("append", "add", "extend")
            and any(uses(argument) for argument in node.args)
        )
        sums = (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.BinOp)
            and uses(node.value)
            and node.lineno > place.line
        )
        if adds or collects or sums:
            return Place(place.file, node.lineno)
    return place
