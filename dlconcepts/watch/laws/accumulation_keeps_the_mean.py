"""Gradients of k micro-batches add up: each loss is to be divided by k."""

import ast
import linecache
from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.a_step_follows_its_own_batch import norm
from dlconcepts.watch.places import NOWHERE, Place, function_at
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import KEPT, Held

MEAN = (
    "NllLoss",
    "NllLoss2D",
    "MseLoss",
    "Mean",
    "BinaryCrossEntropy",
    "SmoothL1Loss",
    "HuberLoss",
)
STEPS = 2


class AccumulationKeepsTheMean(Law):
    id = "accumulation-keeps-the-mean"
    explanation = Explanation(
        claim="autograd.micro-batches",
        concept="Accumulated gradients that are not averaged",
        why="the gradient is k times that of the whole batch: the step is as long as with k times "
        "the learning rate, and clipping cuts it",
        fix="(loss / k).backward() for k micro-batches",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.lines: dict[Place, int] = {}  # backward passes since the last step
        self.divided = self.undivided = False
        self.steps = 0
        self.last: tuple[list[Tensor], list[Tensor]] = ([], [])

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        self.lines[place] = self.lines.get(place, 0) + 1
        node: Any = loss.grad_fn
        name = node.name() if node is not None else ""
        scaled = name.startswith("Mul") and loss.numel() == 1 and int(self.uses_scaler())
        if scaled and node.next_functions[0][0] is not None:
            name = node.next_functions[0][0].name()
        self.divided |= not name.startswith(MEAN)
        if self.trace.close and self.lines[place] > 1:
            self.last = self.gradients(), []

    def uses_scaler(self) -> bool:
        return "scale" in (self.trace.last.place.code if self.trace.last else "scale")

    def gradients(self) -> list[Tensor]:
        """Return copies of a few gradients."""
        room, found = KEPT, []
        for held in self.trace.holders():
            for p in held.parameters[:8]:
                if p.grad is not None and p.grad.layout == torch.strided and room > 0:
                    room -= p.grad.nbytes
                    found.append(p.grad.detach().clone())
        return found

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        if self.last[0] and self.trace.close:
            before = self.last[0]
            now = self.gradients()
            if len(now) == len(before):
                self.last = now, [a - b for a, b in zip(now, before, strict=True)]

    def on_clips(self, parameters: Any, limit: Any, kind: float, place: Place) -> None:
        self.undivided = self.undivided or self.is_sum()

    def is_sum(self) -> bool:
        """Return whether the gradients are still what backward added up, divided by nobody."""
        now, total = self.gradients(), self.last[0]
        return len(now) == len(total) > 0 and all(map(torch.equal, now, total))

    def on_step_begins(self, held: Held) -> None:
        (place, k), *others = self.lines.items() or [(NOWHERE, 0)]
        total, own = self.last
        self.seen = self.seen or k > 1
        if k > 1 and not others and not self.divided and own:
            same = self.undivided or self.is_sum()
            self.steps += same
            if same and self.steps >= STEPS and self.may_prove(place):
                whole, part = norm(total), norm(own)
                text = (
                    f"{k} backward passes add up before the step, each of a mean that is not "
                    f"divided by {k}"
                )
                if is_accumulation(place):
                    self.broken(
                        place,
                        text,
                        f"the gradient at the step has norm {whole:.3g}, that of the last "
                        f"micro-batch alone {part:.3g}; their mean has {whole / k:.3g}",
                    )
                else:
                    self.note(place, f"{text}: a sum over tasks may be meant")

    def on_step_ends(self, held: Held) -> None:
        self.lines.clear()
        self.divided = self.undivided = False
        self.last = [], []


def is_accumulation(place: Place) -> bool:
    """Return whether the code says that it accumulates: by its names, or a step each k batches."""
    function: Any = function_at(place)
    first, last = getattr(function, "lineno", 1), getattr(function, "end_lineno", None)
    lines = linecache.getlines(place.file)[first - 1 : last]
    if any("accum" in line.lower() or "micro" in line.lower() for line in lines):
        return True
    return any(
        isinstance(node, ast.If)
        and any(isinstance(n, ast.Mod) for n in ast.walk(node.test))
        and any(isinstance(n, ast.Attribute) and n.attr == "step" for n in ast.walk(node))
        for node in ast.walk(function)
    )
