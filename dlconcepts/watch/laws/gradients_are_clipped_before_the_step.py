"""Clipping belongs between the last backward pass and the step."""

import math
from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held

MORE = 1.01  # times the limit: rounding stays below
AGAIN = 2


class GradientsAreClippedBeforeTheStep(Law):
    id = "gradients-are-clipped-before-the-step"
    explanation = Explanation(
        claim="training.step-order",
        concept="Clipping at the wrong place",
        why="before backward there is nothing to clip, and after the step it is too late: a large "
        "gradient moves the weights as far as it wants",
        fix="loss.backward(), clip_grad_norm_(...), optimizer.step(), in this order",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.clipped: tuple[list[Tensor], float, float, Place] | None = None
        self.fresh = False  # whether backward ran after the last clipping
        self.since_step = False  # whether backward ran after the last step
        self.place = NOWHERE
        self.times: dict[Place, int] = {}

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        self.fresh = self.since_step = True

    def on_clips(self, parameters: list[Tensor], limit: Any, kind: float, place: Place) -> None:
        if isinstance(limit, (int, float)) and math.isfinite(limit) and limit > 0:
            self.clipped = parameters, float(limit), kind, place
            self.fresh = False

    def on_step_begins(self, held: Held) -> None:
        if self.clipped is None:
            self.since_step = False
            return
        parameters, limit, kind, place = self.clipped
        ours = {id(p) for p in held.parameters}
        if not any(id(p) in ours for p in parameters):
            return
        self.seen = True
        if self.fresh and self.since_step and self.trace.close:
            gradients = [p.grad.detach() for p in parameters if p.grad is not None]
            sizes = [float(torch.linalg.vector_norm(g.double(), kind)) for g in gradients]
            total = max(sizes, default=0.0)
            if math.isfinite(kind):
                total = sum(size**kind for size in sizes) ** (1 / kind)
            if total > MORE * limit:
                self.times[place] = self.times.get(place, 0) + 1
                if self.times[place] >= AGAIN and self.may_prove(place):
                    self.broken(
                        place,
                        "the gradients are clipped where the next backward pass undoes it",
                        f"at the step their norm is {total:.3g}, and the limit is {limit:.3g}",
                    )
        self.since_step = False
