"""Each step uses the gradient of a new backward pass, and no batch's gradient is thrown away."""

from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.a_step_follows_its_own_batch import name_of
from dlconcepts.watch.places import NOWHERE, Place, function_at
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held

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
        self.values: dict[int, list[float]] = {}  # of the gradients after a step
        self.times: dict[tuple[int, str], int] = {}
        self.unused: dict[int, list[Place]] = {}  # backward passes cleared before a step
        self.cleared: dict[int, Place] = {}
        self.place = NOWHERE

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        self.place = place

    def on_clears(self, owner: Any, place: Place) -> None:
        for held in self.trace.holders():
            if owner is held.optimizer():
                self.cleared[id(held)] = place
            if held.new and self.owns(owner, held):
                held.new = 0
                if not self.was_attack():
                    self.unused.setdefault(id(held), []).append(self.place)

    def owns(self, owner: Any, held: Held) -> bool:
        if not hasattr(owner, "parameters"):
            return owner is held.optimizer()
        return {id(p) for p in held.probes[:1]} <= {id(p) for p in owner.parameters()}

    def was_attack(self) -> bool:
        """Return whether the last backward pass was for the gradient of an input."""
        forward = self.trace.last
        inputs = [] if forward is None else [x for x in forward.args if isinstance(x, Tensor)]
        return any(x.requires_grad and x.is_leaf for x in inputs)

    def on_step_begins(self, held: Held) -> None:
        self.seen = True
        key, place, unused = id(held), held.place_of_step, self.unused.pop(id(held), [])
        gradients = [p.grad for p in held.probes if p.grad is not None]
        if held.has_closure:
            return
        if not held.new and not unused:
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
            elif not gradients and not self.trace.backwards and self.is_again(key, "none"):
                self.broken(
                    place,
                    f"{name_of(held)} steps, and no backward pass came before",
                    f"at step {held.steps + 1} every gradient is None: no parameter has moved",
                )
        elif unused and not held.new and not any(bool(g.any()) for g in gradients):
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
        for other, passes in self.unused.items():
            if other != key:
                passes.clear()  # another optimizer used that backward pass, as in a GAN

    def on_step_ends(self, held: Held) -> None:
        if held.new and self.trace.close:
            gradients = [p.grad for p in held.probes if p.grad is not None]
            self.values[id(held)] = [float(g.detach().double().sum()) for g in gradients]

    def is_again(self, key: int, what: str) -> bool:
        self.times[key, what] = self.times.get((key, what), 0) + 1
        return self.times[key, what] >= AGAIN

    def on_finished(self) -> None:
        stepping = {id(p) for held in self.trace.holders() if held.steps for p in held.parameters}
        for held in self.trace.holders():
            count = held.reached
            moved = any(id(p) in stepping for p in held.parameters)
            if count >= BATCHES and not held.steps and not moved:
                self.seen = True
                self.broken(
                    self.cleared.get(id(held), held.place) if self.trace.steps else self.place,
                    f"{count} backward passes, and {name_of(held)} never stepped",
                    f"the optimizer of line {held.place.line} took 0 steps and has no state",
                )
