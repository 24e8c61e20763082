"""Each step uses the gradient of a new backward pass, and no batch's gradient is thrown away."""

from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.a_step_follows_its_own_batch import name_of
from dlconcepts.watch.places import NOWHERE, Place, function_at
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held

PROBED = 4  # parameters whose gradients stand for all of an optimizer
AGAIN = 2  # once may be on purpose, to silence a warning of a schedule
BATCHES = 3  # backward passes that nothing used before it is called a habit


class OneStepForEachBackward(Law):
    id = "one-step-for-each-backward"
    explanation = Explanation(
        claim="training.step-order",
        concept="Steps and backward passes that do not belong together",
        why="a step without a new gradient repeats the last one; a gradient that no step uses is "
        "work for nothing, and the model learns from a part of the data only",
        fix="for each batch: zero_grad, forward, loss, backward, step, all inside the loop",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.probes: dict[int, list[Tensor]] = {}
        self.reached: dict[int, int] = {}  # backward passes since the last step, by optimizer
        self.before: dict[int, Any] = {}
        self.values: dict[int, list[float]] = {}  # of the gradients at a step without backward
        self.times: dict[tuple[int, str], int] = {}
        self.unused: dict[int, list[Place]] = {}  # backward passes cleared before a step
        self.place = NOWHERE

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        self.place = place
        for held in self.trace.holders():
            self.before[id(held)] = self.signature(held)

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        for held in self.trace.holders():
            if self.signature(held) != self.before.get(id(held)):
                self.reached[id(held)] = self.reached.get(id(held), 0) + 1

    def on_clears(self, owner: Any, place: Place) -> None:
        for held in self.trace.holders():
            if self.reached.get(id(held)) and self.owns(owner, held):
                del self.reached[id(held)]
                if not self.was_attack():
                    self.unused.setdefault(id(held), []).append(self.place)

    def owns(self, owner: Any, held: Held) -> bool:
        if not hasattr(owner, "parameters"):
            return owner is held.optimizer()
        return {id(p) for p in self.probed(held)[:1]} <= {id(p) for p in owner.parameters()}

    def was_attack(self) -> bool:
        """Return whether the last backward pass was for the gradient of an input."""
        forward = self.trace.last
        inputs = [] if forward is None else [x for x in forward.args if isinstance(x, Tensor)]
        return any(x.requires_grad and x.is_leaf for x in inputs)

    def on_step_begins(self, held: Held) -> None:
        self.seen = True
        key, place = id(held), held.place_of_step
        unused, new = self.unused.pop(key, []), self.reached.get(key, 0)
        gradients = [p.grad for p in self.probed(held) if p.grad is not None]
        if not new and held.steps and not unused:
            values = [float(g.detach().double().sum()) for g in gradients]
            repeated = any(values) and values == self.values.get(key)
            self.values[key] = values
            if repeated and self.is_again(key, "repeated"):
                self.broken(
                    place,
                    f"{name_of(held)} stepped again without a new gradient",
                    f"no backward pass came before step {held.steps + 1}: its gradients have the "
                    "sums of the last ones, to the last digit",
                )
        elif unused and not new and not any(bool(g.any()) for g in gradients):
            if self.is_again(key, "erased"):
                self.broken(
                    place,
                    "zero_grad stands between backward and this step",
                    f"at step {held.steps + 1} every gradient is None or zero, though the "
                    f"backward pass on line {unused[-1].line} had computed them",
                )
        elif len(unused) >= BATCHES and function_at(unused[-1]) is function_at(place):
            self.broken(
                place,
                f"the gradients of {len(unused)} backward passes were cleared before this step",
                f"only the last of {len(unused) + 1} batches moves the weights",
            )
        for other in self.unused.values():
            other.clear()  # another optimizer used that backward pass, as in a GAN

    def on_step_ends(self, held: Held) -> None:
        key = id(held)
        if self.reached.pop(key, 0):
            gradients = [p.grad for p in self.probed(held) if p.grad is not None]
            close = self.trace.close
            self.values[key] = [float(g.detach().double().sum()) for g in gradients if close]

    def is_again(self, key: int, what: str) -> bool:
        self.times[key, what] = self.times.get((key, what), 0) + 1
        return self.times[key, what] >= AGAIN

    def on_finished(self) -> None:
        for held in self.trace.holders():
            count = self.reached.get(id(held), 0) + len(self.unused.get(id(held), []))
            if count >= BATCHES and not held.steps and not self.trace.steps:
                self.seen = True
                self.broken(
                    self.place,
                    f"{count} backward passes, and {name_of(held)} never stepped",
                    f"the optimizer of line {held.place.line} took 0 steps and has no state",
                )

    def probed(self, held: Held) -> list[Tensor]:
        """Return a few parameters whose gradients stand for all of an optimizer."""
        known = self.probes.get(id(held))
        if known is None or not held.steps:
            parameters = held.parameters
            known = self.probes[id(held)] = parameters[:: max(1, len(parameters) // PROBED)]
        return known

    def signature(self, held: Held) -> list[Any]:
        gradients = [p.grad for p in self.probed(held)]
        return [None if g is None else (id(g), g._version) for g in gradients]
