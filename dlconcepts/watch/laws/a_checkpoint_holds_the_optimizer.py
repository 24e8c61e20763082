"""A checkpoint to resume from holds the optimizer's state beside the model's."""

from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.trace import Held

PROGRESS = ("epoch", "step", "iter", "iteration", "global_step", "iter_num", "start_epoch")


class ACheckpointHoldsTheOptimizer(Law):
    id = "a-checkpoint-holds-the-optimizer"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.resumed: Place | None = None
        self.restored: set[int] = set()

    def on_saves(self, value: Any, place: Place) -> None:
        # Progress is kept in order to go on; weights alone are to be used, not trained further.
        if not isinstance(value, dict) or not says_progress(value) or not holds_weights(value):
            return
        states = [held for held in self.trace.holders() if held.steps and size_of_state(held)]
        self.seen = self.seen or bool(states)
        missing = [held for held in states if not holds_state(value, held)]
        if missing and self.may_prove(place):
            held = missing[0]
            self.broken(
                place,
                f"the checkpoint has {', '.join(map(repr, list(value)[:6]))}, and nothing of "
                f"{type(held.optimizer()).__name__}",
                f"its state has {size_of_state(held)} tensors after {held.steps} steps; none is "
                "in the file",
            )

    def on_read(self, value: Any, place: Place) -> None:
        if isinstance(value, dict) and says_progress(value) and holds_weights(value):
            self.resumed, self.restored = place, set()

    def on_state_loaded(self, owner: Any, state: Any, result: Any, place: Place) -> None:
        self.restored.add(id(owner))

    def on_step_ends(self, held: Held) -> None:
        place, self.resumed = self.resumed, None
        if place is not None and size_of_state(held) and self.trace.loaded:
            self.seen = True
            if id(held.optimizer()) not in self.restored and self.may_prove(place):
                self.broken(
                    place,
                    f"training resumes without the state of {type(held.optimizer()).__name__}",
                    f"before this step its state was empty; it has {size_of_state(held)} tensors",
                )


def says_progress(value: dict[Any, Any]) -> bool:
    return any(str(key).lower() in PROGRESS for key in value)


def holds_weights(value: dict[Any, Any]) -> bool:
    parts = [part for part in value.values() if isinstance(part, dict)]
    return any(isinstance(x, Tensor) for part in parts for x in part.values())


def size_of_state(held: Held) -> int:
    optimizer = held.optimizer()
    if optimizer is None:
        return 0
    states = [s for s in optimizer.state.values() if isinstance(s, dict)]
    return sum(isinstance(x, Tensor) and x.ndim > 0 for state in states for x in state.values())


def holds_state(value: Any, held: Held) -> bool:
    """Return whether some part of a checkpoint is the state of an optimizer, or it itself."""
    if value is held.optimizer():
        return True
    if isinstance(value, dict):
        if "param_groups" in value and "state" in value:
            return True
        return any(holds_state(part, held) for part in value.values())
    return isinstance(value, (list, tuple)) and any(holds_state(part, held) for part in value)
