"""backward adds to what is in `grad`; a step must not follow the batches of earlier steps."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place
from dlconcepts.watch.trace import KEPT, Held, size

LEAST = 1e-3  # a smaller share of old gradients could be rounding


class AStepFollowsItsOwnBatch(Law):
    id = "a-step-follows-its-own-batch"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.cleared: set[int] = set()  # optimizers whose gradients were cleared since their step
        self.old: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.carried: dict[int, tuple[float, float, Place]] = {}
        self.grads: dict[int, list[tuple[Tensor, int]]] = {}

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        if not self.trace.close:
            return
        for held in self.trace.holders():
            if not held.steps or id(held) in self.cleared:
                continue
            gradients = [(p, p.grad) for p in held.parameters if p.grad is not None]
            if not any(bool(g.any()) for _, g in gradients):
                self.cleared.add(id(held))
            elif id(held) not in self.carried:
                kept, room = list[tuple[Tensor, Tensor]](), KEPT
                for p, g in gradients:
                    room -= size(g)
                    if room > 0 or not kept:
                        kept.append((p, g.detach().clone()))
                self.old[id(held)] = kept

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        for key, kept in self.old.items():
            now = [(old, p.grad.detach() - old) for p, old in kept if p.grad is not None]
            if now:
                old, own = (norm([pair[i] for pair in now]) for i in (0, 1))
                if own > 0:
                    self.carried[key] = old, own, place
                    self.grads[key] = [(p, id(p.grad)) for p, _ in kept]
        self.old.clear()
        for held in self.trace.holders():
            if id(held) in self.carried and held.signature() != held.before:
                self.carried[id(held)] = *self.carried[id(held)][:2], place

    def on_clears(self, owner: Any, place: Place) -> None:
        for held in self.trace.holders():
            if owner is held.optimizer():
                self.carried.pop(id(held), None)

    def on_step_begins(self, held: Held) -> None:
        if any(id(p.grad) != key for p, key in self.grads.pop(id(held), [])):
            self.carried.pop(id(held), None)  # the script has put other gradients there

    def on_step_ends(self, held: Held) -> None:
        self.seen = self.seen or held.steps > 1
        old, own, place = self.carried.pop(id(held), (0.0, 0.0, NOWHERE))
        if old > LEAST * own and id(held) not in self.cleared:
            self.broken(
                place,
                f"step {held.steps} of {name_of(held)} used gradients that were there before: "
                "nothing cleared them since the step before",
                f"the old gradients have norm {old:.3g}, those of this batch {own:.3g}",
            )
        self.cleared.discard(id(held))


def name_of(held: Held) -> str:
    return type(held.optimizer()).__name__


def norm(gradients: list[Tensor]) -> float:
    squares = [g.double().square().sum() for g in gradients if g.layout == torch.strided]
    return float(torch.stack([s.cpu() for s in squares]).sum().sqrt()) if squares else 0.0
