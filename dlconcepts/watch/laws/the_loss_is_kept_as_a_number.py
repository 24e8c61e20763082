"""A running sum of losses is to be of numbers: a loss tensor keeps the graph of its batch."""

import ast
import weakref
from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, function_at, loops_at
from dlconcepts.watch.trace import Held, Mark

HELD = 4  # graphs of earlier steps; a loop may hold the last loss or two for a while


class TheLossIsKeptAsANumber(Law):
    id = "the-loss-is-kept-as-a-number"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.alive: weakref.WeakSet[Mark] = weakref.WeakSet()
        self.place = NOWHERE
        self.count = 0

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        self.place = place
        if loss.grad_fn is not None and self.count < 64:
            mark = Mark()
            self.alive.add(mark)
            # The dictionary of a node lives exactly as long as the node.
            node: Any = loss.grad_fn
            node.metadata["dlconcepts"] = mark
            self.count += 1

    def on_step_ends(self, held: Held) -> None:
        alive = len(self.alive)
        self.seen = self.seen or self.count > HELD
        if alive > HELD and alive > self.count // 2 and self.may_prove(self.place):
            place = keeper(self.place)
            self.broken(
                place,
                "losses are kept as tensors, each with its graph",
                f"the graphs of {alive} of the last {self.count} losses are still in memory after "
                "their backward pass",
            )


def keeper(place: Place) -> Place:
    """Return the line that adds up or collects the loss whose backward is on a line."""
    function = function_at(place)
    names = {
        node.func.value.id
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "backward"
        and isinstance(node.func.value, ast.Name)
        and node.lineno == place.line
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
