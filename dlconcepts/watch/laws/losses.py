"""What becomes of a loss: it is finite, and kept as a number."""

import ast
import math
from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, function_at, loops_at
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held

RARELY = 16  # on an accelerator, reading the loss waits for it
HELD = 4  # graphs of earlier steps; a loop may hold the last loss or two for a while


class TheLossIsFinite(Law):
    """A loss that is NaN or infinite must not move the weights."""

    explanation = Explanation(
        claim="training.loss-goes-down",
        concept="Loss that is NaN or infinite",
        why="one such step makes the weights NaN, and they stay so",
        fix="lower the learning rate, clip the gradients, use stable functions such as logsumexp",
    )

    bad: tuple[Place, float] = NOWHERE, 0.0
    last = 0.0

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        on_cpu = loss.device.type == "cpu"
        if loss.numel() != 1 or not (on_cpu or self.trace.backwards % RARELY == 1):
            return
        self.seen = True
        value = float(loss.detach())
        if math.isfinite(value):
            self.last, self.bad = value, (NOWHERE, 0.0)
        else:
            self.bad = place, value

    def on_step_ends(self, held: Held) -> None:
        (place, value), self.bad = self.bad, (NOWHERE, 0.0)
        if place.line and self.may_prove(place):
            lost = [p for p in held.parameters if not bool(torch.isfinite(p.detach()).all())]
            before = f", after {self.last:.4g}" if held.steps > 1 else ""
            if lost:
                text = f"the loss is {value} at step {held.steps}{before}"
                proof = f"{len(lost)} of {len(held.parameters)} parameters are NaN or infinite now"
                self.broken(place, text, proof)


class TheLossIsKeptAsANumber(Law):
    """A running sum of losses is to be of numbers: a loss tensor keeps the graph of its batch."""

    def on_step_ends(self, held: Held) -> None:
        count, place = self.trace.backwards, self.trace.backward
        self.seen = self.seen or count > HELD
        # The marks of a forward pass live as long as its graph.
        # Those of one step count once: it may collect several, and let go of them all.
        alive = len({mark.walked for mark in self.trace.marks if mark.walked})
        if alive > HELD and alive > min(count, 64) // 2 and self.may_prove(place):
            text = "losses are kept as tensors, each with its graph"
            proof = f"after backward {alive} graphs of {count} losses are still in memory"
            self.broken(keeper(place), text, proof)


def keeper(place: Place) -> Place:
    """Return the line that adds up or collects the loss whose backward is on a line."""
    loop: Any = loops_at(place)[-1] if loops_at(place) else function_at(place)
    nodes: list[Any] = list(ast.walk(loop))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    methods: list[Any] = [call for call in calls if isinstance(call.func, ast.Attribute)]
    names = {
        name.id
        for call in methods
        if call.func.attr == "backward" and call.lineno <= place.line <= call.end_lineno
        for name in ast.walk(call.func.value)
        if isinstance(name, ast.Name)
    }

    def uses(node: ast.AST) -> bool:
        """Return whether a loss is used itself, not a method of it."""
        nodes = list(ast.walk(node))
        owners = {id(n.value) for n in nodes if isinstance(n, ast.Attribute)}
        plain = [n for n in nodes if isinstance(n, ast.Name) and id(n) not in owners]
        return any(n.id in names for n in plain)

    for node in nodes:
        is_sum = isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp)
        is_sum = is_sum and node.lineno > place.line
        if (is_sum or isinstance(node, ast.AugAssign)) and uses(node.value):
            return Place(place.file, node.lineno)
        collects = node in methods and node.func.attr in ("append", "add", "extend")
        if collects and any(map(uses, node.args)):
            return Place(place.file, node.lineno)
    return place
