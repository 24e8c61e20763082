"""What becomes of a loss: it is finite, and kept as a number."""

import math
import re

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, function_at, nearest
from dlconcepts.watch.trace import Held

RARELY = 16  # on an accelerator, reading the loss waits for it
HELD = 4  # graphs of earlier steps; a loop may hold the last loss or two for a while


class TheLossIsFinite(Law):
    """A loss that is NaN or infinite must not move the weights."""

    claim = "training.loss-goes-down"
    concept = "Loss that is NaN or infinite"
    why = "one such step makes the weights NaN, and they stay so"
    fix = "lower the learning rate, clip the gradients, use stable functions such as logsumexp"

    bad: tuple[Place, float] = NOWHERE, 0.0
    last = 0.0

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        on_cpu = loss.device.type == "cpu"
        if loss.numel() == 1 and (on_cpu or self.trace.backwards % RARELY == 1):
            self.seen, value = True, float(loss.detach())
            self.bad = (NOWHERE, 0.0) if math.isfinite(value) else (place, value)
            self.last = value if math.isfinite(value) else self.last

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
        if alive > HELD and alive > min(count, 64) // 2:
            text = "losses are kept as tensors, each with its graph"
            proof = f"after backward {alive} graphs of {count} losses are still in memory"
            words = re.findall(r"\w+", place.code.partition(".backward")[0])
            loss = "|".join(word for word in words if word != "self") or "loss"
            # What adds it up or collects it: the loss itself, not a method of it.
            adds = rf"^\s*(?!({loss})\b).*(\+|append\(|add\(|extend\().*\b({loss})\b(?![.\w])"
            self.broken(nearest(adds, place, function_at(place)), text, proof)
