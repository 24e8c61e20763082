"""A parameter that requires no gradient must not move with a step."""

import linecache
import re
from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.trace import Held


class FrozenParametersStay(Law):
    id = "frozen-parameters-stay"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.before: list[tuple[Tensor, Tensor]] = []
        self.claimed: list[tuple[str, str, Tensor, Tensor]] = []  # of modules with the attribute

    def on_step_begins(self, held: Held) -> None:
        self.look_for_attributes(held)
        frozen = [p for p in held.parameters if not p.requires_grad]
        model = self.trace.last.owner if self.trace.last and self.trace.close else None
        if frozen or (model is not None and any(not p.requires_grad for p in model.parameters())):
            self.seen = True
        # A step skips what has no gradient; an old one is what moves a frozen parameter.
        old = [p for p in frozen if p.grad is not None]
        if old and self.may_prove(id(held)):
            self.before = [(p, p.detach().clone()) for p in old[:8]]

    def look_for_attributes(self, held: Held) -> None:
        """Look for modules that somebody wanted to freeze by an attribute that does nothing."""
        model = self.trace.last.owner if self.trace.last else None
        if model is None or held.steps != 1:  # the first step has moved what is not frozen
            return
        ours = {id(p) for p in held.parameters}
        for name, part in model.named_modules():
            if vars(part).get("requires_grad") is False and self.may_prove(id(part)):
                self.claimed += [
                    (name, n, p, p.detach().clone())
                    for n, p in part.named_parameters()
                    if p.requires_grad and id(p) in ours
                ][:1]

    def on_step_ends(self, held: Held) -> None:
        before, self.before = self.before, []
        claimed, self.claimed = self.claimed, []
        for name, first, p, old in claimed:
            if not torch.equal(p.detach(), old):
                self.broken(
                    setter(name, held.place_of_step),
                    f"requires_grad = False on the module {name} freezes nothing: modules have "
                    "requires_grad_()",
                    f"this step moved its {first} by up to "
                    f"{float((p.detach() - old).abs().max()):.2g}",
                )
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


def setter(name: str, place: Place) -> Place:
    """Return the line of a file that sets requires_grad on a module, else the step's."""
    pattern = re.compile(rf"{re.escape(name.rpartition('.')[2])}\.requires_grad\s*=")
    lines = enumerate(linecache.getlines(place.file), 1)
    return Place(place.file, next((i for i, text in lines if pattern.search(text)), place.line))
