"""What is kept of a model: a copy, all of it, and the optimizer beside it."""

import re
import sys
from typing import Any

from torch import Tensor, nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, nearest, place_of, user_frames
from dlconcepts.watch.trace import Held

PREFIXES = ("module.", "_orig_mod.", "model.")
PROGRESS = ("epoch", "step", "iter", "iteration", "global_step", "iter_num", "start_epoch")
KEEPING = re.compile(r"best|kept|keep|saved|snapshot|backup|initial|checkpoint|old|before", re.I)
FILE = re.compile(r"path|file|name|acc|loss|score|epoch|step|metric", re.I)


class KeptWeightsAreACopy(Law):
    """state_dict() returns the model's own tensors: what is to be kept has to be copied."""

    # Where state_dict() was called, and before which step, by the memory of its first tensor.
    taken: dict[int, tuple[Place, int]]
    found: dict[str, tuple[Place, int, float]]
    written: set[int]  # ids of what went to a file: no longer kept

    def on_state_taken(self, module: nn.Module, state: Any, place: Place) -> None:
        self.seen = True
        first = moving(state)
        if first is not None:
            self.taken.setdefault(first.data_ptr(), (place, self.trace.steps))

    def on_state_loads(self, owner: Any, state: Any, place: Place) -> None:
        if not isinstance(owner, nn.Module) or not isinstance(state, dict):
            return
        self.seen = True
        own = {p.data_ptr() for p in owner.parameters() if p.numel()}
        shared = [x.data_ptr() for x in state.values() if isinstance(x, Tensor)]
        shared = [pointer for pointer in shared if pointer in own]
        if not shared or len(shared) < len(own) // 2 or not self.may_prove(place):
            return
        where, steps = self.taken.get(shared[0], (place, 0))
        later = self.trace.steps - steps
        if later > 0:
            text = f"state_dict() was kept without a copy, and loaded again on line {place.line}"
            proof = f"{later} steps later {len(shared)} tensors share memory with the model: "
            self.broken(where, text, f"{proof}loading them changes nothing")

    def on_saves(self, value: Any, place: Place) -> None:
        self.look_at_names()
        self.written.add(id(value))

    def on_step_begins(self, held: Held) -> None:
        if self.trace.close or held.steps % 50 == 0:
            self.look_at_names()

    def on_finished(self) -> None:
        self.look(vars(sys.modules.get("__main__", sys)), NOWHERE)

    def look_at_names(self) -> None:
        for frame in list(user_frames(sys._getframe(1)))[:4]:
            self.look(frame.f_locals, place_of(frame))

    def look(self, names: dict[str, Any], place: Place) -> None:
        """Look for the model, or its tensors, under a name that says that they are kept."""
        models = self.trace.models()
        for name, value in list(names.items()):
            if not KEEPING.search(name) or FILE.search(name) or id(value) in self.written:
                continue
            first, what = moving(value), f"{name} holds the model's own tensors"
            if any(value is model for model in models):
                others = [n for n, v in names.items() if v is value and not KEEPING.search(n)]
                first = moving(dict(value.named_parameters())) if others else None
                what = f"{name} is the same object as {others[0]}" if others else ""
            elif first is not None:
                live = {p.data_ptr() for model in models for p in model.parameters()}
                first = first if first.data_ptr() in live else None
            if first is not None:
                self.compare(name, first, what, place)

    def compare(self, name: str, first: Tensor, what: str, place: Place) -> None:
        now = float(first.detach().double().sum())
        where, steps, before = self.found.setdefault(name, (place, self.trace.steps, now))
        if self.trace.steps > steps and now != before and self.may_prove(name):
            assigned = nearest(rf"\b{re.escape(name)}\s*=(?!=|.*None)", where)
            later = self.trace.steps - steps
            proof = f"{later} steps later its first tensor has moved with the model"
            self.broken(assigned, f"{what}, not a copy", proof)


def moving(state: Any) -> Tensor | None:
    """Return the first tensor of a state that training can move."""
    values = state.values() if isinstance(state, dict) else ()
    found = (v for v in values if isinstance(v, Tensor) and v.is_floating_point())
    return next((v for v in found if v.numel()), None)


class ACheckpointHoldsTheOptimizer(Law):
    """A checkpoint to resume from holds the optimizer's state beside the model's."""

    resumed: Place | None = None
    restored: set[int]

    def on_saves(self, value: Any, place: Place) -> None:
        states = [held for held in self.trace.holders() if held.steps and size_of_state(held)]
        if not is_checkpoint(value) or not states:
            return
        self.seen = True
        missing = [held for held in states if not holds_state(value, held)]
        if missing and self.may_prove(place):
            names = ", ".join(map(repr, list(value)[:6]))
            text = f"the checkpoint has {names}, and nothing of {missing[0].name}"
            proof = f"none of the {size_of_state(missing[0])} tensors of its state is in the file"
            self.broken(place, text, proof)

    def on_read(self, value: Any, place: Place) -> None:
        if is_checkpoint(value):
            self.resumed, self.restored = place, set()

    def on_state_loaded(self, owner: Any, state: Any, place: Place) -> None:
        self.restored.add(id(owner))

    def on_step_ends(self, held: Held) -> None:
        place, self.resumed = self.resumed, None
        if place is None or not size_of_state(held) or not self.trace.loaded:
            return
        self.seen = True
        if id(held.optimizer()) not in self.restored and self.may_prove(place):
            proof = f"its state was empty before this step; it has {size_of_state(held)} tensors"
            self.broken(place, f"training resumes without the state of {held.name}", proof)


def is_checkpoint(value: Any) -> bool:
    """Return whether a file is there to resume from: weights alone are to be used."""
    if not isinstance(value, dict) or not any(str(key).lower() in PROGRESS for key in value):
        return False
    parts = [part for part in value.values() if isinstance(part, dict)]
    return any(isinstance(x, Tensor) for part in parts for x in part.values())


def size_of_state(held: Held) -> int:
    states = getattr(held.optimizer(), "state", {}).values()
    found = [x for state in states if isinstance(state, dict) for x in state.values()]
    return sum(isinstance(x, Tensor) and x.ndim > 0 for x in found)


def holds_state(value: Any, held: Held) -> bool:
    """Return whether some part of a checkpoint is the state of an optimizer, or it itself."""
    if value is held.optimizer() or (isinstance(value, dict) and value.keys() >= {"param_groups"}):
        return True
    parts = value.values() if isinstance(value, dict) else value
    return isinstance(value, (dict, list, tuple)) and any(holds_state(p, held) for p in parts)


class APartialCheckpointIsRefused(Law):
    """strict=False, or a filter on names, must not leave a model as it was without a word."""

    file: list[str]  # names in the last file that was read, until it is used

    def on_read(self, value: Any, place: Place) -> None:
        self.file = names_in(value)

    def on_step_begins(self, held: Any) -> None:
        self.file = []

    def on_state_loaded(self, owner: Any, state: Any, place: Place) -> None:
        if not isinstance(owner, nn.Module) or not isinstance(state, dict):
            return
        self.seen = True
        kept = {k for part in owner.modules() for k in part._non_persistent_buffers_set}
        own: dict[str, Tensor] = {n: p for n, p in owner.named_parameters() if p.numel()}
        own |= {n: b for n, b in owner.named_buffers() if n.rpartition(".")[2] not in kept}
        given = {name: x for name, x in state.items() if isinstance(x, Tensor)}
        pairs = [(n, x, own[n]) for n, x in given.items() if n in own and x.shape == own[n].shape]
        loaded = [name for name, x, mine in pairs if x.data_ptr() != mine.data_ptr()]
        missing = [name for name in own if name not in loaded]
        # A state that is the model's own memory is for kept-weights-are-a-copy, unless it came from
        # a file.
        if not missing or (not loaded and set(given) == set(own) and not self.file):
            return
        names, self.file = self.file or list(given), []
        text = f"{len(missing)} of {len(own)} tensors were not loaded, first {missing[0]}"
        heads = {name.partition(".")[0] for name in missing}
        near = [name for name in loaded if name.partition(".")[0] in heads]
        if not loaded:
            known = [p for p in PREFIXES if any(name.startswith(p) for name in names)]
            text += f": the names in the checkpoint start with {known[0]!r}" if known else ""
            found = ", ".join(names[:2]) or "nothing"
            self.broken(place, text, f"the model has {missing[0]}, the checkpoint {found}")
        elif near:  # people skip a new head on purpose, but then all of it
            proof = f"{missing[0]} keeps its values, though the checkpoint has {near[0]}"
            self.broken(place, text, proof)
        else:
            self.note(place, f"{text}: a new head may be meant")


def names_in(value: Any) -> list[str]:
    """Return the names of the tensors in a checkpoint, of the largest part if it has several."""
    if not isinstance(value, dict):
        return []
    own = [str(name) for name, x in value.items() if isinstance(x, Tensor)]
    return max([own, *(names_in(part) for part in value.values())], key=len)
