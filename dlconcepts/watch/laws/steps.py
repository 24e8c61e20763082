"""A step uses its own batch's gradient, averaged and clipped, and the scheduled rate."""

import ast
import math
import re
import weakref
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place, function_at
from dlconcepts.watch.trace import Held, norm

LEAST = 1e-3  # a smaller share of old gradients could be rounding
BATCHES = 3  # backward passes that nothing used before it is called a habit
SCALING = ("Div", "Mul")
MEAN = "dlconcepts: a mean over a batch"
MORE = 1.5  # times the divisor: the last group of an epoch may be smaller, not larger
ACCUMULATES = re.compile(r"accum|micro|if .*%.*:\n(\s+[^\n]*\n){0,4}\s+\S*\.step\(")
LOW = 0.3  # of the first rate, within the first pass over the data
GENTLE = 0.99  # a batch: a schedule that counts batches falls over thousands of them
LONG = 20  # steps of an optimizer that make it a training
CLOSED = ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR")


def is_mean(named: dict[str, Any]) -> bool:
    """Return whether the arguments of a loss ask for a mean; size_average is the old way."""
    return named.get("reduction", "mean") == "mean" and named.get("size_average") is not False


class AStepFollowsItsOwnBatch(Law):
    """backward adds to what is in `grad`; a step must not follow the batches of earlier steps."""

    def on_step_begins(self, held: Held) -> None:
        self.seen = self.seen or held.steps > 0
        # The script may have put other gradients there.
        is_same = [i for i, _ in held.after] == [i for i, _ in held.signature()]
        if held.steps and held.new and is_same and held.old > LEAST * (whole := held.norm()):
            text = f"nothing cleared the gradients of {held.name} before step {held.steps + 1}"
            proof = f"the old ones have norm {held.old:.3g}, with those of this batch {whole:.3g}"
            self.broken(held.backward, text, proof)


class OneStepForEachBackward(Law):
    """Each step uses the gradient of a new backward pass, and no batch's gradient is wasted."""

    claim = "training.step-order"
    concept = "Steps and backward passes that do not belong together"
    why = "a step without a new gradient repeats the last one; a gradient without one is lost"
    fix = "for each batch: zero_grad, forward, loss, backward, step, all inside the loop"

    norms: dict[Held, float]  # of the gradients after a step
    unused: dict[Held, list[Place]]  # backward passes cleared before a step
    cleared: dict[Held, Place]

    def on_clears(self, owner: Any, place: Place) -> None:
        given = self.trace.last.args if self.trace.last else ()
        # A backward pass may be for the gradient of an input, as in an attack.
        is_attack = any(isinstance(x, Tensor) and x.requires_grad and x.is_leaf for x in given)
        cleared = [p for group in getattr(owner, "param_groups", ()) for p in group["params"]]
        cleared += owner.parameters() if isinstance(owner, nn.Module) else ()
        for held in self.trace.holders():
            if any(p is first for p in cleared for first in held.probes[:1]):
                self.cleared[held] = place
                if held.new and not is_attack:
                    self.unused.setdefault(held, []).append(held.backward)
                held.new = 0

    def on_step_begins(self, held: Held) -> None:
        self.seen = True
        place, unused = held.place_of_step, self.unused.get(held, [])
        self.unused.clear()  # another optimizer used that backward pass, as in a GAN
        if held.has_closure:
            return
        n, norm, text = held.steps + 1, held.norm(), ""
        if not held.new and not unused:
            if norm and norm == self.norms.get(held):
                text = f"{held.name} stepped again without a new gradient"
                proof = f"at step {n} its gradients have the norm of the last ones, to the digit"
            elif not norm and not self.trace.backwards:
                text = f"{held.name} steps, and no backward pass came before"
                proof = f"at step {n} every gradient is None: no parameter has moved"
        elif unused and not held.new and not norm:
            text = "zero_grad stands between backward and this step"
            proof = f"at step {n} no gradient is left of backward on line {unused[-1].line}"
        elif len(unused) >= BATCHES and function_at(unused[-1]) is function_at(place):
            text = f"the gradients of {len(unused)} backward passes were cleared before this step"
            proof = f"only the last of {len(unused) + 1} batches moves the weights"
        if text and (len(unused) >= BATCHES or self.is_again((held, text))):
            self.broken(place, text, proof)

    def on_step_ends(self, held: Held) -> None:
        self.norms[held] = held.norm()

    def on_finished(self) -> None:
        stepping = {id(p) for held in self.trace.holders() if held.steps for p in held.parameters}
        for held in self.trace.holders():
            moved = held.steps or any(id(p) in stepping for p in held.parameters)
            if held.reached >= BATCHES and not moved:
                text = f"{held.reached} backward passes, and {held.name} never stepped"
                proof = f"the optimizer of line {held.place.line} took 0 steps and has no state"
                near = self.cleared.get(held, held.place)
                self.broken(near if self.trace.steps else held.backward, text, proof)


class GradientsAreClippedBeforeTheStep(Law):
    """Clipping belongs between the last backward pass and the step, and after unscaling."""

    claim = "training.step-order"
    concept = "Clipping at the wrong place"
    why = "before backward there is nothing to clip, and after the step it is too late"
    fix = "loss.backward(), scaler.unscale_(optimizer), clip_grad_norm_(...), optimizer.step()"

    scale = 1.0

    def on_scaled(self, factor: float) -> None:
        self.scale = factor

    def on_clips(self, parameters: list[Tensor], limit: Any, place: Place) -> None:
        if not isinstance(limit, (int, float)) or not 0 < limit < math.inf:
            return
        clipped = {id(p) for p in parameters}
        holders = [h for h in self.trace.holders() if any(id(p) in clipped for p in h.probes)]
        self.seen = self.seen or bool(holders)
        total, proof = norm([p.grad for p in parameters if p.grad is not None][:64]), ""
        if holders and self.scale > 1 and total > 0:
            text = f"the gradients are clipped while they are scaled by {self.scale:.6g}"
            real = total / self.scale
            proof = f"their norm is {total:.4g}; unscaled it is {real:.4g}, with a limit of {limit}"
        elif holders and not any(held.new or held.has_closure for held in holders):
            text = "no backward pass has come since the last step, so there is nothing to clip"
            proof = f"the norm of the gradients is {total:.3g}, as none or used by the last step"
        if proof and self.is_again(place):
            self.broken(place, text, proof)

    def on_step_ends(self, held: Held) -> None:
        self.scale = 1.0


class AccumulationKeepsTheMean(Law):
    """Gradients of k micro-batches add up: each loss is to be divided by k."""

    claim = "autograd.micro-batches-add-up-to-a-batch"
    concept = "Accumulated gradients that are not averaged"
    why = "the gradient is k times that of the whole batch, as with k times the learning rate"
    fix = "(loss / k).backward() for k micro-batches"

    passes: dict[Place, list[float]]  # the divisor of each loss since the last step
    sums: set[Held]  # optimizers whose gradients are clipped, and were sums before

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        if is_mean(named) and result.grad_fn is not None:
            # Not the node itself, which would keep the graph alive.
            cast(Any, result.grad_fn).metadata[MEAN] = True

    def on_clears(self, owner: Any, place: Place) -> None:
        if hasattr(owner, "param_groups"):
            self.passes = {}

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        self.passes.setdefault(place, []).append(divisor(loss))

    def on_clips(self, parameters: Any, limit: Any, place: Place) -> None:
        self.sums |= {held for held in self.trace.holders() if held.signature() == held.after}

    def on_step_begins(self, held: Held) -> None:
        passes, self.passes = self.passes, {}
        # Somebody may divide the gradients instead, between backward and the step.
        is_sum, self.sums = held in self.sums or held.signature() == held.after, set()
        if len(passes) != 1 or not is_sum or not held.new:
            return
        ((place, divisors),) = passes.items()
        k, by = len(divisors), max(divisors)
        self.seen = self.seen or k > 1
        if k < 2 or not min(divisors) or k < MORE * by or not self.is_again("sum"):
            return
        divided = f"divided by {by:.4g}" if by > 1 else "not divided"
        text = f"{k} backward passes add up before the step, each of a mean that is {divided}"
        if by <= 1 and not ACCUMULATES.search(ast.unparse(function_at(place)).lower()):
            self.note(place, f"{text}: a sum over tasks may be meant")
        else:
            whole, mean = held.norm(), held.norm() * by / k
            proof = f"the gradient has norm {whole:.3g}; the mean over all {k} has {mean:.3g}"
            self.broken(place, text, proof)


def divisor(loss: Tensor) -> float:
    """Return by what a mean was divided before its backward, 0 if the loss is no mean."""
    node: Any = loss.grad_fn
    found = 1.0
    while node is not None and MEAN not in node.metadata and node.name().startswith(SCALING):
        by = node._saved_other if node.name().startswith("Div") else None
        found *= float(by) if by is not None and by.numel() == 1 else 1.0
        node = node.next_functions[0][0]
    is_mean = node is not None and (MEAN in node.metadata or node.name().startswith("Mean"))
    return found if is_mean else 0.0


@dataclass
class Schedule:
    """What is known of one schedule."""

    ref: "weakref.ref[Any]"
    name: str
    period: int
    held: Held
    place: Place  # where it was built, then where it steps
    steps: int = 0
    rates: list[float] = field(default_factory=list)


class TheScheduleFollowsTheSteps(Law):
    """A schedule steps after the optimizer, and as often as its length was counted for."""

    claim = "training.optimizer-step-applies-the-gradient"
    concept = "Schedule stepped at the wrong place"
    why = "the rate falls too early, too fast, or never"
    fix = "scheduler.step() after optimizer.step(), once an epoch or once a batch, as it counts"

    schedules: dict[int, Schedule]
    rates: dict[Held, tuple[float, float]]  # of the first and the last step of an optimizer

    def on_step_begins(self, held: Held) -> None:
        rate = float(held.groups[0]["lr"])
        self.rates[held] = self.rates.get(held, (rate,))[0], rate

    def known(self, schedule: Any, held: Held, place: Place) -> Schedule:
        known = self.schedules.get(id(schedule))
        if known is None or known.ref() is not schedule:
            period = getattr(schedule, "T_max", 0) or getattr(schedule, "total_steps", 0) or 0
            name = type(schedule).__name__
            known = Schedule(weakref.ref(schedule), name, int(period), held, place)
            self.schedules[id(schedule)] = known
        return known

    def on_schedule_built(self, schedule: Any, held: Held, rates: Any, place: Place) -> None:
        self.known(schedule, held, place)
        # The parts of a schedule of schedules do not count.
        for part in [*getattr(schedule, "_schedulers", ()), getattr(schedule, "scheduler", None)]:
            self.schedules.pop(id(part), None)

    def on_scheduled(self, schedule: Any, held: Held, rates: Any, place: Place) -> None:
        self.seen = True
        known = self.known(schedule, held, place)
        known.steps, known.place = known.steps + 1, place
        known.rates = [*(known.rates or rates[:1])[:255], float(held.groups[0]["lr"])]
        first, now, lowest = known.rates[0], known.rates[-1], min(known.rates)
        if not held.steps and not getattr(held.optimizer(), "state", None):
            text = f"{known.name} stepped before the first step of {held.name}"
            proof = f"it is at {schedule.last_epoch} already: its first rate, {first:.4g}, is "
            self.broken(place, text, f"{proof}cut short, and training starts with {now:.4g}")
        is_low = known.steps > max(1, known.period) and lowest < first * LOW
        is_fast = known.name in CLOSED and lowest < first * GENTLE**known.steps
        if held.steps and is_low and is_fast and self.training_passes() == 1:
            text = f"{known.name} stepped {known.steps} times in the first pass over the data"
            proof = f"the rate fell from {first:.4g} to {lowest:.4g} before that pass ended"
            proof += f", and has risen to {now:.4g} again" if now > lowest else ""
            self.broken(place, text, proof)

    def training_passes(self) -> int:
        return max((loader.passes for loader in self.trace.training_loaders), default=0)

    def on_finished(self) -> None:
        for known in self.schedules.values():
            steps, (first, last) = known.held.steps, self.rates.get(known.held, (0.0, 0.0))
            if not known.steps:
                is_long = steps >= LONG or (steps and self.training_passes() > 1)
                if is_long and first == last:
                    text = f"{known.name} was built and never stepped"
                    proof = f"the rate of step {steps} is {last:.4g}, as that of step 1"
                    self.broken(known.place, text, proof)
                continue
            each, rest = divmod(steps, known.steps)
            is_whole = each and not rest and not known.period % each
            if known.steps > 1 and each >= 3 and is_whole and known.period >= steps:
                text = f"{known.name} is {known.period} steps long, and stepped once for {each}"
                proof = f"after {steps} steps the rate is {last:.4g}"
                self.broken(known.place, f"{text} steps of the optimizer", proof)
