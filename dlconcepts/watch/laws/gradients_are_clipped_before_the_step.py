"""Clipping belongs between the last backward pass and the step, and after unscaling."""

import math
from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held

AGAIN = 2


class GradientsAreClippedBeforeTheStep(Law):
    id = "gradients-are-clipped-before-the-step"
    explanation = Explanation(
        claim="training.step-order",
        concept="Clipping at the wrong place",
        why="before backward there is nothing to clip, and after the step it is too late: a large "
        "gradient moves the weights as far as it wants",
        fix="loss.backward(), scaler.unscale_(optimizer), clip_grad_norm_(...), optimizer.step()",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.scale = 1.0
        self.times: dict[Place, int] = {}

    def on_scaled(self, factor: float) -> None:
        self.scale = factor

    def on_clips(self, parameters: list[Tensor], limit: Any, place: Place) -> None:
        if not isinstance(limit, (int, float)) or not math.isfinite(limit) or limit <= 0:
            return
        clipped = {id(p) for p in parameters}
        holders = [h for h in self.trace.holders() if any(id(p) in clipped for p in h.probes)]
        if not holders:
            return
        self.seen = True
        gradients = [p.grad.detach() for p in parameters if p.grad is not None]
        sizes = [float(torch.linalg.vector_norm(g.double(), 2)) for g in gradients[:64]]
        total = math.sqrt(sum(size * size for size in sizes))
        if self.scale > 1 and total > 0:
            self.report(
                place,
                f"the gradients are clipped while they are scaled by {self.scale:.6g}",
                f"their norm is {total:.4g}; unscaled it is {total / self.scale:.4g}, and the "
                f"limit is {limit:.4g}",
            )
        elif not any(held.new or held.has_closure for held in holders):
            there = f"their norm is {total:.3g}, and a step has used them" if total else ""
            self.report(
                place,
                "no backward pass has computed gradients since the last step, so there is nothing "
                "to clip",
                there or "every gradient is None or zero",
            )

    def report(self, place: Place, message: str, proof: str) -> None:
        self.times[place] = self.times.get(place, 0) + 1
        if self.times[place] >= AGAIN and self.may_prove(place):
            self.broken(place, message, proof)

    def on_step_ends(self, held: Held) -> None:
        self.scale = 1.0
