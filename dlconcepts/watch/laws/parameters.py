"""Which tensors train, and which stay: registered, in an optimizer, reached by backward, frozen."""

import re
from collections import Counter
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
NOISE = 0.3  # added at most to a parameter, to see whether an output depends on it


def total(parameters: Any) -> float:
    return sum(float(p.detach().double().sum()) for p in parameters)


class TheOptimizerHoldsTheModel(Law):
    """What gets a gradient, and is to learn, must be in an optimizer."""

    first: dict[int, float]  # the sum of a parameter

    def on_trained(self, forward: Forward, held: Held) -> None:
        if not self.trace.close:
            return
        self.seen = True
        model, holders = plain(forward.owner), self.trace.holders()
        known = self.trace.in_optimizers()
        learns = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        outside = [(name, p) for name, p in learns if p.grad is not None and id(p) not in known]
        sums = [(self.first.setdefault(id(p), total([p])), total([p])) for _, p in outside[:1]]
        # Other optimizers may still be built, and those of a GAN step in turn.
        if not outside or self.trace.steps < STEPS * len(holders) or self.is_again(id(model)):
            return
        own, (name, p) = {id(q) for q in model.parameters()}, outside[0]
        lost = Counter[Place]()
        for some in holders:
            idle = [q for q in some.parameters if q.grad is None and isinstance(q, nn.Parameter)]
            lost[some.place] = sum(id(q) not in own for q in idle)
        (place, count), *_ = lost.most_common()
        # The script may move it by itself. Of loaded weights one may want to train the head alone.
        is_meant = not own & known or self.trace.was_loaded(model, p)
        if sums[0][0] == sums[0][1] and (count or not is_meant):
            text = f"{len(outside)} parameters get a gradient and are in no optimizer, first {name}"
            if count:
                text += f"; this one holds {count} tensors that the model does not have"
            proof = f"{name} is the same to the last digit after {self.trace.steps} steps"
            self.broken(place, text, proof)


class EveryLayerIsRegistered(Law):
    """A layer that forward uses must be registered, or nothing trains, moves or saves it."""

    strangers: dict[int, tuple[str, Place]]  # parameters of layers since backward

    def on_stranger(self, module: nn.Module, forward: Forward, place: Place) -> None:
        for p in module.parameters(recurse=False):
            self.strangers[id(p)] = f"a {type(module).__name__} that forward uses", place

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        strangers, self.strangers = self.strangers, {}
        forward = self.trace.last
        if forward is None or not self.trace.close or self.trace.steps > 1:
            return
        self.seen, model = True, forward.owner
        known = {id(p) for m in self.trace.models for p in m.parameters()}
        known |= self.trace.in_optimizers()
        # With a gradient for the inputs, what is in front of the model is not its own.
        is_first = not any(isinstance(x, Tensor) and x.requires_grad for x in forward.args)
        for name, value in vars(model).items() if is_first else ():
            if isinstance(value, Tensor):
                where = line_of_attribute(model, name, "forward") or forward.place
                strangers[id(value)] = f"the tensor {name}", where
        for leaf in graph_leaves(loss) if strangers else ():
            what, where = strangers.get(id(leaf), ("", NOWHERE))
            if what and id(leaf) not in known and leaf.grad is not None:
                text = f"{what} is not registered in {type(model).__name__}"
                proof = f"a tensor of shape {tuple(leaf.shape)} got a gradient; no optimizer has it"
                self.broken(where, text, proof)


class EveryParameterGetsAGradient(Law):
    """What the optimizer holds and forward uses must get a gradient."""

    # By optimizer: the sums of the parameters that never had a gradient, and a pass.
    silent: dict[Held, dict[int, float]]
    passes: dict[Held, Forward]
    called: set[int]
    reached: set[int]

    def on_step_ends(self, held: Held) -> None:
        forward = self.trace.last
        self.called.update(forward.called if forward else ())
        if not self.trace.fresh or self.counts[held] >= STEPS or not self.trace.close:
            return
        self.seen = True
        # Another optimizer may share a parameter, and its loss reach it.
        known = [p for other in self.trace.holders() for p in other.parameters]
        self.reached.update(id(p) for p in known if p.grad is not None)
        learns = {id(p): p for p in held.parameters if p.requires_grad}
        silent = self.silent.get(held) or {key: total([p]) for key, p in learns.items()}
        silent = {key: silent[key] for key in learns.keys() & silent.keys() - self.reached}
        self.silent[held], self.counts[held] = silent, self.counts[held] + 1
        if forward is not None and silent:
            self.passes[held] = forward
        if self.counts[held] == STEPS:
            self.judge(held, learns)

    def on_finished(self) -> None:
        for held in self.silent:
            if self.counts[held] < STEPS:
                self.judge(held, {id(p): p for p in held.parameters if p.requires_grad})
        for held, forward in self.passes.items():
            for name, part, own in self.parts(held):
                before = sum(self.silent[held][id(p)] for p in own)
                has_moved = total(own) != before or any(p.grad is not None for p in own)
                if name and not has_moved and id(part) not in self.called:
                    text = f"{name} never gets a gradient: forward never uses it"
                    above, _, attribute = name.rpartition(".")
                    owner = plain(forward.owner).get_submodule(above)
                    place = line_of_attribute(owner, attribute) or forward.place
                    proof = f"it was never called, and is the same after {self.trace.steps} steps"
                    if self.trace.was_loaded(forward.owner, own[0]):
                        self.note(forward.place, text)
                    else:
                        self.broken(place, text, proof)

    def parts(self, held: Held) -> list[tuple[str, nn.Module, list[Tensor]]]:
        """Return the layers of the model with parameters that never got a gradient."""
        silent, found = self.silent[held], []
        for name, part in plain(self.passes[held].owner).named_modules():
            own: list[Tensor] = [p for p in part.parameters(recurse=False) if id(p) in silent]
            if own:
                found.append((name, part, own))
        return found

    def judge(self, held: Held, learns: dict[int, Tensor]) -> None:
        silent, forward = self.silent[held], self.passes.get(held)
        parts = self.parts(held) if forward else []
        if silent and silent.keys() == learns.keys():
            # If backward went through their model, they were cleared before the step: another law.
            self.passes.pop(held, None)
            models = [p for model in self.trace.models for p in model.parameters()]
            if not parts and any(id(p) in silent for p in models):
                count = f"after {self.counts[held]} steps the gradient of all {len(silent)}"
                proof = f"{count} parameters of the optimizer is None"
                self.broken(self.trace.backward, "the loss has no path to any parameter", proof)
        elif forward is not None and can_run(forward):
            for name, part, own in parts:
                used = id(part) in forward.called or part is forward.owner
                far = self.influence(forward, own) if used else 0.0
                if far:
                    text = f"{name or 'a parameter'} never gets a gradient, though forward uses it"
                    proof = f"a change of it moves the output by {far:.2g}: "
                    place = forward.called.get(id(part)) or forward.place
                    self.broken(place, text, f"{proof}the graph is cut in between")

    def influence(self, forward: Forward, parameters: list[Tensor]) -> float:
        """Return how far other parameters move the outputs that backward went through."""
        before, kept = floats(run_again(forward)), [p.data for p in parameters]
        for p in parameters:
            p.data = p.data + torch.linspace(0, NOISE, p.numel()).to(p).view_as(p)
        try:
            after = floats(run_again(forward))
        finally:
            for p, data in zip(parameters, kept, strict=True):
                p.data = data
        marks = {path: mark() for path, mark in forward.marks.items()}
        walked = {path for path, mark in marks.items() if mark is None or mark.walked}
        paths = walked & before.keys()
        return moved([before[path] for path in paths], [after[path] for path in paths])


class FrozenParametersStay(Law):
    """A parameter that requires no gradient must not move with a step."""

    # Before a step: each frozen tensor, a copy of it, and the module that was frozen.
    before: list[tuple[Tensor, Tensor, str]]

    def on_step_begins(self, held: Held) -> None:
        model = self.trace.last.owner if self.trace.last and self.trace.close else nn.Module()
        frozen = [p for p in held.parameters if not p.requires_grad]
        self.seen = self.seen or any(not p.requires_grad for p in [*frozen, *model.parameters()])
        # A step skips what has no gradient; an old one is what moves a frozen parameter.
        watched = [(p, "") for p in frozen if p.grad is not None][:8]
        # The first step moves a module that somebody wanted to freeze by a plain attribute.
        ours = {id(p) for p in held.parameters if p.requires_grad and held.steps == 1}
        for name, part in model.named_modules():
            if vars(part).get("requires_grad") is False:
                watched += [(p, name) for p in part.parameters() if id(p) in ours][:1]
        self.before = [(p, p.detach().clone(), name) for p, name in watched]

    def on_step_ends(self, held: Held) -> None:
        before, self.before = self.before, []
        found = [(p, name, far) for p, old, name in before if (far := apart_by(p, old))]
        for p, name, far in found[:1]:
            if name:
                last = re.escape(name.rpartition(".")[2])
                place = nearest(rf"{last}\.requires_grad\s*=", held.place_of_step)
                text = f"requires_grad = False on {name} freezes nothing: it has requires_grad_()"
                self.broken(place, text, f"this step moved its first tensor by up to {far:.2g}")
            else:
                is_old = p.grad is not None and bool(p.grad.any())
                by = "an old gradient is in place" if is_old else "its gradient is zero"
                text = f"the step moved {len(found)} parameters that require no gradient: {by}"
                proof = f"a frozen tensor of shape {tuple(p.shape)} moved by up to {far:.2g}"
                self.broken(held.place_of_step, text, proof)


def apart_by(tensor: Tensor, before: Tensor) -> float:
    return 0.0 if torch.equal(tensor, before) else float((tensor - before).detach().abs().max())


class FrozenStatisticsStay(Law):
    """BatchNorm of a frozen part keeps its running statistics only in eval mode."""

    before: dict[int, int]  # how many batches a layer had counted

    def on_trained(self, forward: Forward, held: Held) -> None:
        parts = list(forward.owner.named_modules()) if self.trace.close else []
        norms = [(n, p) for n, p in parts if isinstance(p, nn.modules.batchnorm._BatchNorm)]
        frozen = [(n, p) for n, p in norms if p.affine and not p.weight.requires_grad]
        self.seen = self.seen or bool(frozen)
        counts = {id(p): int(p.num_batches_tracked or 0) for _, p in frozen}
        more = {key: n - self.before.setdefault(key, n) for key, n in counts.items()}
        moved = [(name, more[id(p)]) for name, p in frozen if p.training and more[id(p)]]
        if moved:
            place = self.trace.modes.get(forward.owner, {}).get(True, forward.place)
            text = f"training moves the statistics of {len(moved)} frozen BatchNorm layers"
            proof = f"{moved[0][0]} has counted {moved[0][1]} batches more at step {held.steps}"
            self.broken(place, text, proof)
