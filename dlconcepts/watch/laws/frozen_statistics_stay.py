"""BatchNorm of a frozen part keeps its running statistics only in eval mode."""

from typing import Any

import torch
from torch import nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.trace import Forward, Held

STEPS = 2


class FrozenStatisticsStay(Law):
    id = "frozen-statistics-stay"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.before: dict[int, Any] = {}

    def on_forward(self, forward: Forward, output: Any) -> None:
        if not self.trace.close or not forward.grad:
            return
        frozen = frozen_norms(forward.owner)
        self.seen = self.seen or bool(frozen)
        for _, part in frozen:
            if part.training and id(part) not in self.before and part.running_mean is not None:
                self.before[id(part)] = part.running_mean.detach().clone()

    def on_step_ends(self, held: Held) -> None:
        forward = self.trace.last
        if forward is None or held.steps < STEPS or not self.before:
            return
        moved = [
            (name, part)
            for name, part in frozen_norms(forward.owner)
            if id(part) in self.before and not torch.equal(part.running_mean, self.before[id(part)])
        ]
        if moved and self.may_prove(id(forward.owner)):
            name, part = moved[0]
            far = float((part.running_mean - self.before[id(part)]).abs().max())
            modes = self.trace.modes.get(forward.owner, {})
            self.broken(
                modes.get(True, forward.place),
                f"training moves the statistics of {len(moved)} frozen BatchNorm layers",
                f"{name}.running_mean moved by up to {far:.2g} in {held.steps} steps, though its "
                "weight requires no gradient",
            )


def frozen_norms(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the BatchNorm layers whose weights are frozen, in a model that trains others."""
    if not any(p.requires_grad for p in model.parameters()):
        return []
    return [
        (name, part)
        for name, part in model.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        and part.weight is not None
        and not part.weight.requires_grad
    ]
