"""An evaluation must not train: neither weights nor running statistics may move."""

from typing import Any

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import says_validation
from dlconcepts.watch.trace import Forward, Held


class ValidationChangesNothing(Law):
    id = "validation-changes-nothing"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.before: dict[int, int] = {}

    def on_forward(self, forward: Forward, output: Any) -> None:
        if not forward.grad and self.trace.is_validation(forward):
            self.seen = True

    def on_unused(self, forward: Forward) -> None:
        # In training mode the law about eval mode says it; here somebody asked for eval mode.
        if not self.trace.is_validation(forward):
            return
        self.seen = True
        moving = forward.norms
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
        forward = self.trace.last
        if forward is None or not says_validation(held.place_of_step, forward.functions):
            return
        if not says_validation(forward.place, forward.functions[:1]):
            return
        training = {s.place for s in self.trace.sites.values() if s.walked} - {forward.place}
        self.seen = True
        if training and self.may_prove(held.place_of_step):
            moved = held.parameters[0]
            self.broken(
                held.place_of_step,
                "an evaluation takes an optimizer step",
                f"step {held.steps + 1} moves {len(held.parameters)} parameters, the first of "
                f"shape {tuple(moved.shape)}, on the batches of the evaluation",
            )
