"""What the optimizer holds and forward uses must get a gradient."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, line_of_attribute
from dlconcepts.watch.proofs import can_run, plain, run_again
from dlconcepts.watch.trace import Forward, Held

STEPS = 3  # stochastic depth and mixtures of experts skip a layer in some
NOISE = 0.1  # added to a parameter, to see whether an output depends on it


class EveryParameterGetsAGradient(Law):
    id = "every-parameter-gets-a-gradient"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.missing: dict[int, set[int]] = {}
        self.looks: dict[int, int] = {}
        self.place = NOWHERE
        self.idle: dict[int, tuple[Forward, str, str, float]] = {}
        self.called: set[int] = set()
        self.reached: set[int] = set()
        self.backwards = 0

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        self.place, self.backwards = place, self.backwards + 1

    def on_step_ends(self, held: Held) -> None:
        if self.trace.last is not None:
            self.called.update(self.trace.last.called)
        backwards, self.backwards = self.backwards, 0
        key = id(held)
        if not backwards or self.looks.get(key, 0) >= STEPS or not self.trace.close:
            return
        self.seen = True
        parameters = [p for p in held.parameters if p.requires_grad]
        # Another optimizer may share a parameter, and its loss reach it.
        known = [p for other in self.trace.holders() for p in other.parameters]
        self.reached.update(id(p) for p in known if p.grad is not None)
        missing = {id(p) for p in parameters if id(p) not in self.reached}
        self.missing[key] = self.missing.get(key, missing) & missing
        self.looks[key] = self.looks.get(key, 0) + 1
        if self.looks[key] == STEPS and self.missing[key]:
            self.judge(held, parameters, self.missing[key])

    def on_finished(self) -> None:
        for forward, name, said, before in self.idle.values():
            part = plain(forward.owner).get_submodule(name)
            own = dict(part.named_parameters(recurse=False))
            silent = all(p.grad is None for p in own.values()) and total(own) == before
            if silent and id(part) not in self.called:
                loaded = self.trace.was_loaded(forward.owner, next(part.parameters()))
                text = f"{said}: forward never uses its layer"
                if loaded:
                    self.note(forward.place, text)
                else:
                    owner, _, attribute = name.rpartition(".")
                    place = line_of_attribute(forward.owner.get_submodule(owner), attribute)
                    self.broken(
                        place or forward.place,
                        text,
                        f"{name} was called in none of the steps that were looked at, and its "
                        f"values are the same to the last digit after {self.trace.steps} steps",
                    )
        for held in self.trace.holders():
            if 0 < self.looks.get(id(held), 0) < STEPS and self.missing[id(held)]:
                self.judge(held, held.parameters, self.missing[id(held)])

    def judge(self, held: Held, parameters: list[Tensor], missing: set[int]) -> None:
        if len(missing) == len(parameters):
            used = self.trace.last
            elsewhere = used is not None and self.is_of(used.owner, missing)
            if elsewhere or not self.trace.sites:
                return  # cleared before the step: another law
            if any(self.is_of(model, missing) for model in self.trace.models()):
                self.broken(
                    self.place,
                    "the loss has no path to any parameter",
                    f"after {self.looks[id(held)]} backward passes the gradient of all "
                    f"{len(parameters)} parameters of the optimizer is None",
                )
            return
        forward = self.trace.last
        if forward is None:
            return
        for name, part in plain(forward.owner).named_modules():
            own = {n: p for n, p in part.named_parameters(recurse=False) if id(p) in missing}
            if own:
                self.judge_part(forward, name, part, own)

    def is_of(self, module: nn.Module, missing: set[int]) -> bool:
        return any(id(p) in missing for p in module.parameters())

    def judge_part(
        self, forward: Forward, name: str, part: nn.Module, own: dict[str, Tensor]
    ) -> None:
        place = forward.called.get(id(part)) or forward.place
        first = f"{name}.{next(iter(own))}".lstrip(".")
        said = f"{first} never gets a gradient"
        if id(part) not in forward.called and part is not forward.owner:
            self.idle[id(part)] = forward, name, said, total(own)
        elif can_run(forward) and self.may_prove(id(part)):
            far = self.influence(forward, list(own.values()))
            if far:
                self.broken(
                    place,
                    f"{said}, though forward uses it: something on its way to the loss cuts the "
                    "graph",
                    f"its gradient is None in {STEPS} steps, but a change of it moves the output "
                    f"that the loss is computed from by {far:.2g} of its largest value",
                )

    def influence(self, forward: Forward, parameters: list[Tensor]) -> float:
        """Return how far noise on parameters moves the outputs that backward went through."""
        from dlconcepts.checks.trees import distance, floats

        before = floats(run_again(self.trace, forward, seed=0))
        kept = [p.data for p in parameters]
        for p in parameters:
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(p.shape, generator=generator, device="cpu").to(p)
            p.data = p.data + NOISE * noise
        try:
            after = floats(run_again(self.trace, forward, seed=0))
        finally:
            for p, data in zip(parameters, kept, strict=True):
                p.data = data
        walked = forward.walked_paths & before.keys()
        return max((distance(before[path], after[path]) for path in walked), default=0.0)


def total(parameters: Mapping[str, Tensor]) -> float:
    return sum(float(p.detach().double().sum()) for p in parameters.values())
