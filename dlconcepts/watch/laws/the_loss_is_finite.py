"""A loss that is NaN or infinite must not move the weights."""

import math
from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held

RARELY = 16  # on an accelerator, reading the loss waits for it


class TheLossIsFinite(Law):
    id = "the-loss-is-finite"
    explanation = Explanation(
        claim="training.loss-goes-down",
        concept="Loss that is NaN or infinite",
        why="one such step makes the weights NaN, and they stay so",
        fix="lower the learning rate, clip the gradients, and take logarithms and divisions by "
        "functions that are stable; stop where torch.isfinite(loss) is False",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.bad: tuple[Place, float] = (NOWHERE, 0.0)
        self.last = 0.0

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
        place, value = self.bad
        self.bad = NOWHERE, 0.0
        if place.line and self.may_prove(place):
            lost = [p for p in held.parameters if not bool(torch.isfinite(p.detach()).all())]
            before = f", after {self.last:.4g}" if held.steps > 1 else ""
            if lost:
                self.broken(
                    place,
                    f"the loss is {value} at step {held.steps}{before}",
                    f"{len(lost)} of {len(held.parameters)} parameters are NaN or infinite after "
                    "the step",
                )
