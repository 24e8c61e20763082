"""An evaluation must not train: neither weights nor running statistics may move."""

from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, function_at, says_validation
from dlconcepts.watch.trace import Forward, Held


class ValidationChangesNothing(Law):
    id = "validation-changes-nothing"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.after: dict[int, tuple[int, float]] = {}  # a step, and the weights after it
        self.evaluated: Forward | None = None
        self.suspect: float | None = None  # the weights before a step in an evaluation
        self.loads = self.others = 0

    def on_forward(self, forward: Forward, output: Any) -> None:
        if not forward.grad and self.trace.is_validation(forward):
            self.seen, self.evaluated = True, forward

    def on_state_loads(self, *_: Any) -> None:
        self.loads += 1

    def on_step_ends(self, held: Held) -> None:
        suspect, self.suspect, now = self.suspect, None, digest(held)
        if suspect is not None and now != suspect and self.may_prove(held.place_of_step):
            self.broken(
                held.place_of_step,
                "an evaluation takes an optimizer step",
                f"step {held.steps} moved a parameter on a batch of the evaluation: its sum was "
                f"{suspect:.6g}, and is {now:.6g}",
            )
        self.after[id(held)] = held.steps, now
        self.evaluated = None

    def look_for_changes(self, held: Held) -> None:
        """Compare the weights with those after the last step, if an evaluation came between."""
        loads, self.loads = self.loads, 0
        step, before = self.after.get(id(held), (-1, 0.0))
        if step != held.steps or loads or digest(held) == before:
            return
        forward = self.evaluated
        if forward is None:
            self.others += 1  # the script moves weights by itself, as a WGAN does
        elif not self.others and self.may_prove(forward.place):
            evaluates = self.trace.modes.get(forward.owner, {}).get(False, forward.place)
            near = function_at(evaluates) is function_at(forward.place)
            self.broken(
                evaluates if near else forward.place,
                "the weights after an evaluation are not those before it",
                f"between steps {held.steps} and {held.steps + 1} a parameter has changed, and no "
                "optimizer moved it",
            )

    def on_unused(self, forward: Forward) -> None:
        if not self.trace.is_validation(forward):
            return
        self.seen = True
        moving = forward.norms  # of a model in eval mode; else validation-is-in-eval-mode says it
        if moving and self.may_prove(forward.place):
            part = forward.owner.get_submodule(moving[0])
            count = getattr(part, "num_batches_tracked", None)
            self.broken(
                forward.place,
                f"an evaluation moved the running statistics of {len(moving)} BatchNorm layers",
                f"{moving[0] or 'the model'} was in training mode and has counted "
                f"{int(count) if count is not None else 'this'} batches, those of the evaluation "
                "among them",
            )

    def on_step_begins(self, held: Held) -> None:
        self.look_for_changes(held)
        forward = self.trace.last
        if forward is None or not says_validation(NOWHERE, forward.functions[:1]):
            return
        training = {s.place for s in self.trace.sites.values() if s.walked} - {forward.place}
        self.seen = True
        if training:
            self.suspect = digest(held)


def digest(held: Held) -> float:
    """Return a number that changes with the smallest of a few parameters."""
    smallest = min(held.probes, key=Tensor.numel, default=None)
    return float(smallest.detach().sum()) if smallest is not None else 0.0
