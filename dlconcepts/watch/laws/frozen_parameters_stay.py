"""A parameter that requires no gradient must not move with a step."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.trace import Held


class FrozenParametersStay(Law):
    id = "frozen-parameters-stay"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.before: list[tuple[Tensor, Tensor]] = []

    def on_step_begins(self, held: Held) -> None:
        frozen = [p for p in held.parameters if not p.requires_grad]
        model = self.trace.last.owner if self.trace.last else None
        if frozen or (model is not None and any(not p.requires_grad for p in model.parameters())):
            self.seen = True
        # A step skips what has no gradient; an old one is what moves a frozen parameter.
        old = [p for p in frozen if p.grad is not None]
        if old and self.may_prove(id(held)):
            self.before = [(p, p.detach().clone()) for p in old[:8]]

    def on_step_ends(self, held: Held) -> None:
        before, self.before = self.before, []
        moved = [(p, old) for p, old in before if not torch.equal(p.detach(), old)]
        if moved:
            p, old = moved[0]
            by = (
                "an old gradient is in place"
                if p.grad is not None and bool(p.grad.any())
                else "its gradient is zero"
            )
            decay = [g["weight_decay"] for g in held.groups if g.get("weight_decay")]
            also = f", and weight_decay is {decay[0]}" if decay else ""
            self.broken(
                held.place_of_step,
                f"the step moved {len(moved)} parameters that require no gradient: {by}{also}",
                f"a frozen tensor of shape {tuple(p.shape)} moved by up to "
                f"{float((p.detach() - old).abs().max()):.2g}",
            )
