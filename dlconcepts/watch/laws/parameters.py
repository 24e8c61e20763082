"""Which tensors train, and which stay: registered, in an optimizer, reached by backward, frozen."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.laws.learning import graph_leaves
from dlconcepts.checks.trees import floats
from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, line_of_attribute, nearest
from dlconcepts.watch.proofs import can_run, moved, plain, run_again
from dlconcepts.watch.trace import Forward, Held

STEPS = 3  # stochastic depth and mixtures of experts skip a layer in some
NOISE = 0.1  # added to a parameter, to see whether an output depends on it


def total(parameters: Any) -> float:
    return sum(float(p.detach().double().sum()) for p in parameters)


class TheOptimizerHoldsTheModel(Law):
    """What gets a gradient, and is to learn, must be in an optimizer."""

    first: dict[int, tuple[int, float]]

    def on_trained(self, forward: Forward, held: Held) -> None:
        if not self.trace.close:
            return
        self.seen = True
        model, holders = plain(forward.owner), self.trace.holders()
        known = self.trace.in_optimizers()
        named = model.named_parameters()
        outside = [(n, p) for n, p in named if p.grad is not None and id(p) not in known]
        outside = [(name, p) for name, p in outside if p.requires_grad]
        for _, p in outside:
            self.first.setdefault(id(p), (p._version, total([p])))
        # Other optimizers may still be built, and those of a GAN step in turn.
        if not outside or self.trace.steps < STEPS * len(holders) or self.is_again(id(model)):
            return
        name, p = outside[0]
        if self.first[id(p)] != (p._version, total([p])):
            return  # the script moves it by itself
        own = {id(q) for q in model.parameters()}
        lost: dict[Place, int] = {}
        for some in holders:
            idle = [q for q in some.parameters if q.grad is None and isinstance(q, nn.Parameter)]
            lost[some.place] = sum(id(q) not in own for q in idle)
        place = max(lost, key=lambda place: lost[place])
        text = f"{len(outside)} parameters get a gradient and are in no optimizer, first {name}"
        if lost[place]:
            text += f"; this one holds {lost[place]} tensors that the model does not have"
        # Of loaded weights one may want to train the head alone.
        if lost[place] or (own & known and not self.trace.was_loaded(model, p)):
            proof = f"{name} is the same to the last digit after {self.trace.steps} steps"
            self.broken(place, text, proof)


class EveryLayerIsRegistered(Law):
    """A layer that forward uses must be registered, or nothing trains, moves or saves it."""

    strangers: dict[int, tuple[str, Place]]  # parameters of layers since backward
    leaves: list[Tensor]

    def on_stranger(self, module: nn.Module, forward: Forward, place: Place) -> None:
        for p in module.parameters(recurse=False):
            self.strangers[id(p)] = f"a {type(module).__name__} that forward uses", place

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        self.leaves = graph_leaves(loss) if self.trace.close and self.trace.steps < 2 else []

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        strangers, self.strangers = self.strangers, {}
        found, self.leaves, forward = self.leaves, [], self.trace.last
        if not found or forward is None:
            return
        self.seen, model = True, forward.owner
        known = {id(p) for m in (model, *self.trace.models()) for p in m.parameters()}
        known |= self.trace.in_optimizers()
        # With a gradient for the inputs, what is in front of the model is not its own.
        is_first = not any(isinstance(x, Tensor) and x.requires_grad for x in forward.args)
        for name, value in vars(model).items() if is_first else ():
            if isinstance(value, Tensor):
                where = line_of_attribute(model, name, "forward") or forward.place
                strangers[id(value)] = f"the tensor {name}", where
        for leaf in found:
            what, where = strangers.get(id(leaf), ("", NOWHERE))
            if what and id(leaf) not in known and leaf.grad is not None and self.may_prove(where):
                text = f"{what} is not registered in {type(model).__name__}"
                proof = f"a tensor of shape {tuple(leaf.shape)} got a gradient; no optimizer has it"
                self.broken(where, text, proof)

    def on_step_ends(self, held: Held) -> None:
        self.seen = True


class EveryParameterGetsAGradient(Law):
    """What the optimizer holds and forward uses must get a gradient."""

    # By optimizer: the parameters without a gradient, with sums of their values, and a pass.
    missing: dict[int, dict[int, float]]
    passes: dict[int, Forward]
    called: set[int]
    reached: set[int]

    def on_step_ends(self, held: Held) -> None:
        forward, key = self.trace.last, id(held)
        if forward is not None:
            self.called.update(forward.called)
        if not self.trace.fresh or self.counts[key] >= STEPS or not self.trace.close:
            return
        self.seen = True
        if forward is not None:
            self.passes[key] = forward
        # Another optimizer may share a parameter, and its loss reach it.
        known = [p for other in self.trace.holders() for p in other.parameters]
        self.reached.update(id(p) for p in known if p.grad is not None)
        silent = [p for p in held.parameters if p.requires_grad and id(p) not in self.reached]
        before = self.missing.get(key, {id(p): total([p]) for p in silent})
        self.missing[key] = {id(p): before[id(p)] for p in silent if id(p) in before}
        self.counts[key] += 1
        if self.counts[key] == STEPS:
            self.judge(held)
        if not silent:
            self.passes.pop(key, None)  # which would keep the model alive

    def on_finished(self) -> None:
        for held in self.trace.holders():
            if 0 < self.counts[id(held)] < STEPS:
                self.judge(held)
        for key, forward in self.passes.items():
            for name, part, own in self.silent_parts(key):
                before = sum(self.missing[key][id(p)] for p in own)
                moved = total(own) != before or any(p.grad is not None for p in own)
                if moved or not name or id(part) in self.called:
                    continue
                text = f"{name} never gets a gradient: forward never uses it"
                above, _, attribute = name.rpartition(".")
                owner = plain(forward.owner).get_submodule(above)
                if self.trace.was_loaded(forward.owner, own[0]):
                    self.note(forward.place, text)
                else:
                    place = line_of_attribute(owner, attribute) or forward.place
                    proof = f"it was never called, and is the same after {self.trace.steps} steps"
                    self.broken(place, text, proof)

    def silent_parts(self, key: int) -> Iterator[tuple[str, nn.Module, list[Tensor]]]:
        """Yield the layers with parameters that never got a gradient."""
        forward, missing = self.passes[key], self.missing.get(key, {})
        for name, part in plain(forward.owner).named_modules() if missing else ():
            own: list[Tensor] = [p for p in part.parameters(recurse=False) if id(p) in missing]
            if own:
                yield name, part, own

    def judge(self, held: Held) -> None:
        missing, forward = self.missing[id(held)], self.passes.get(id(held))

        def has_some(module: nn.Module) -> bool:
            return any(id(p) in missing for p in module.parameters())

        if missing and missing.keys() == {id(p) for p in held.parameters if p.requires_grad}:
            # If backward went through their model, they were cleared before the step: another law.
            self.passes.pop(id(held), None)
            passed = forward is not None and has_some(forward.owner)
            if not passed and any(map(has_some, self.trace.models())):
                count = f"after {self.counts[id(held)]} steps the gradient of all {len(missing)}"
                proof = f"{count} parameters of the optimizer is None"
                self.broken(self.trace.backward, "the loss has no path to any parameter", proof)
            return
        if forward is None or not can_run(forward):
            return
        for name, part, own in self.silent_parts(id(held)):
            used = id(part) in forward.called or part is forward.owner
            far = self.influence(forward, own) if used and self.may_prove(id(part)) else 0.0
            if far:
                text = f"{name or 'a parameter'} never gets a gradient, though forward uses it"
                proof = f"a change of it moves the output by {far:.2g}: the graph is cut in between"
                self.broken(forward.called.get(id(part)) or forward.place, text, proof)

    def influence(self, forward: Forward, parameters: list[Tensor]) -> float:
        """Return how far noise on parameters moves the outputs that backward went through."""
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
        return moved([before[path] for path in walked], [after[path] for path in walked])


class FrozenParametersStay(Law):
    """A parameter that requires no gradient must not move with a step."""

    before: list[tuple[Tensor, Tensor]]
    claimed: list[tuple[str, str, Tensor, Tensor]]  # of modules with the attribute

    def on_step_begins(self, held: Held) -> None:
        frozen = [p for p in held.parameters if not p.requires_grad]
        model = self.trace.last.owner if self.trace.last and self.trace.close else None
        others = model.parameters() if model is not None else ()
        self.seen = self.seen or bool(frozen) or any(not p.requires_grad for p in others)
        # A step skips what has no gradient; an old one is what moves a frozen parameter.
        old = [p for p in frozen if p.grad is not None]
        if old and self.may_prove(id(held)):
            self.before = [(p, p.detach().clone()) for p in old[:8]]
        # The first step moves a module that somebody wanted to freeze by a plain attribute.
        if held.steps == 1 and model is not None:
            ours = {id(p) for p in held.parameters}
            for name, part in model.named_modules():
                if vars(part).get("requires_grad") is False and self.may_prove(id(part)):
                    own = [(n, p) for n, p in part.named_parameters() if id(p) in ours]
                    own = [(n, p) for n, p in own if p.requires_grad][:1]
                    self.claimed += [(name, n, p, p.detach().clone()) for n, p in own]

    def on_step_ends(self, held: Held) -> None:
        before, self.before = self.before, []
        claimed, self.claimed = self.claimed, []
        for name, first, p, old in claimed:
            if far := apart_by(p, old):
                last = re.escape(name.rpartition(".")[2])
                place = nearest(rf"{last}\.requires_grad\s*=", held.place_of_step)
                text = f"requires_grad = False on {name} freezes nothing: it has requires_grad_()"
                self.broken(place, text, f"this step moved its {first} by up to {far:.2g}")
        moved = [(p, far) for p, old in before if (far := apart_by(p, old))]
        if moved:
            p, far = moved[0]
            is_old = p.grad is not None and bool(p.grad.any())
            by = "an old gradient is in place" if is_old else "its gradient is zero"
            decay = [g["weight_decay"] for g in held.groups if g.get("weight_decay")]
            by += f", and weight_decay is {decay[0]}" if decay else ""
            text = f"the step moved {len(moved)} parameters that require no gradient: {by}"
            proof = f"a frozen tensor of shape {tuple(p.shape)} moved by up to {far:.2g}"
            self.broken(held.place_of_step, text, proof)


def apart_by(tensor: Tensor, before: Tensor) -> float:
    return 0.0 if torch.equal(tensor, before) else float((tensor - before).detach().abs().max())


class FrozenStatisticsStay(Law):
    """BatchNorm of a frozen part keeps its running statistics only in eval mode."""

    before: dict[int, Tensor]

    def on_forward(self, forward: Forward, output: Any) -> None:
        if not self.trace.close or not forward.grad:
            return
        for _, part in frozen_norms(forward.owner):
            self.seen = True
            if part.training and part.running_mean is not None:
                self.before.setdefault(id(part), part.running_mean.detach().clone())

    def on_trained(self, forward: Forward, held: Held) -> None:
        if held.steps < 2 or not self.before:
            return
        norms = [(n, p) for n, p in frozen_norms(forward.owner) if id(p) in self.before]
        pairs = [(name, apart_by(p.running_mean, self.before[id(p)])) for name, p in norms]
        moved = [(name, far) for name, far in pairs if far]
        if moved and self.may_prove(id(forward.owner)):
            name, far = moved[0]
            place = self.trace.modes.get(forward.owner, {}).get(True, forward.place)
            text = f"training moves the statistics of {len(moved)} frozen BatchNorm layers"
            proof = f"{name}.running_mean moved by up to {far:.2g} in {held.steps} steps"
            self.broken(place, text, proof)


def frozen_norms(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the BatchNorm layers whose weights are frozen, in a model that trains others."""
    if not any(p.requires_grad for p in model.parameters()):
        return []
    kind = nn.modules.batchnorm._BatchNorm
    norms = [(name, part) for name, part in model.named_modules() if isinstance(part, kind)]
    return [(n, p) for n, p in norms if p.weight is not None and not p.weight.requires_grad]
