"""What is kept of a model: a copy, all of it, and the optimizer beside it."""

import re
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from dlconcepts.checks.trees import floats, tensors
from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, nearest
from dlconcepts.watch.trace import Forward, Held, Trace

PREFIXES = ("module.", "_orig_mod.", "model.")
PROGRESS = ("epoch", "step", "iter", "iteration", "global_step", "iter_num", "start_epoch")
BEST = re.compile(r"\b((?:best|kept|saved)_?(?:model|net)|(?:model|net)_best)\b(?=[.(,)])")


class KeptWeightsAreACopy(Law):
    """state_dict() returns the model's own tensors: what is to be kept has to be copied."""

    first: tuple[int, Place] = 0, NOWHERE
    lives: dict[Place, int]  # for how many steps something taken on a line was kept

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.taken = WeakIdKeyDictionary()  # by tensor: after which step, and where

    def on_state_taken(self, module: nn.Module, state: Any, place: Place) -> None:
        self.first = self.first if self.seen else (self.trace.steps, place)
        self.seen = True
        for step, line in self.taken.values():
            self.lives[line] = max(self.lives.get(line, 0), self.trace.steps - step)
        self.taken.update(dict.fromkeys(floats(state).values(), (self.trace.steps, place)))
        self.look_at_names(module, [place])

    def on_evaluated(self, forward: Forward) -> None:
        self.look_at_names(forward.owner, [forward.place, *forward.callers])

    def look_at_names(self, module: nn.Module, places: list[Place]) -> None:
        """Look for the model that trains under a name of what is kept, such as best_model."""
        for place in places if module in self.trace.trained else ():
            for name in BEST.findall(place.code):
                made = nearest(rf"^\s*{name}\s*=\s*(?!None)[\w.]+\s*$", place)
                if made != place:
                    proof = f"it has the weights of step {self.trace.steps}, the last one"
                    self.broken(made, f"{name} is the model that trains, not a copy", proof)

    def on_state_loads(self, owner: Any, state: Any, place: Place) -> None:
        self.seen = True
        if isinstance(owner, nn.Module):
            self.compare(state, owner, self.first, f"loaded again on line {place.line}")

    def on_saves(self, value: Any, place: Place) -> None:
        now = self.trace.steps, place
        for state in (value, *value.values()) if isinstance(value, dict) else ():
            for model in self.trace.models:
                self.compare(state, model, now, f"saved on line {place.line}")

    def compare(self, state: Any, model: nn.Module, default: Any, use: str) -> None:
        own = {p.data_ptr() for p in model.parameters() if p.numel()}
        found = list(floats(state).values()) if isinstance(state, dict) else []
        shared = [x for x in found if x.data_ptr() in own]
        if len(shared) > len(found) // 2:
            step, place = self.taken.get(shared[0], default)
            later = max(self.trace.steps - step, self.lives.get(place, 0))
            if later > 0:
                text = f"state_dict() was kept without a copy, and {use}"
                proof = f"{later} steps later {len(shared)} tensors share memory with the model: "
                self.broken(place, text, f"{proof}they are its weights of now")


class ACheckpointHoldsTheOptimizer(Law):
    """A checkpoint to resume from holds the optimizer's state beside the model's."""

    resumed: Place | None = None
    restored: set[int]

    def on_saves(self, value: Any, place: Place) -> None:
        states = [held for held in self.trace.holders() if size_of_state(held)]
        if is_checkpoint(value) and states:
            self.seen = True
            missing = [held for held in states if not holds_state(value, held)]
            if missing:
                names = ", ".join(map(repr, list(value)[:6]))
                text = f"the checkpoint has {names}, and nothing of {missing[0].name}"
                proof = (
                    f"none of the {size_of_state(missing[0])} tensors of its state is in the file"
                )
                self.broken(place, text, proof)

    def on_read(self, value: Any, place: Place) -> None:
        if is_checkpoint(value):
            self.resumed, self.restored = place, set()

    def on_state_loaded(self, owner: Any, state: Any, place: Place) -> None:
        self.restored.add(id(owner))

    def on_step_ends(self, held: Held) -> None:
        place, self.resumed = self.resumed, None
        if place is not None and size_of_state(held) and self.trace.loaded:
            self.seen = True
            if id(held.optimizer()) not in self.restored:
                proof = (
                    f"its state was empty before this step; it has {size_of_state(held)} tensors"
                )
                self.broken(place, f"training resumes without the state of {held.name}", proof)


def is_checkpoint(value: Any) -> bool:
    """Return whether a file is there to resume from: weights alone are to be used."""
    if not isinstance(value, dict) or not any(str(key).lower() in PROGRESS for key in value):
        return False
    parts = [part for part in value.values() if isinstance(part, dict)]
    return any(isinstance(x, Tensor) for part in parts for x in part.values())


def size_of_state(held: Held) -> int:
    state = dict(getattr(held.optimizer(), "state", {}))
    return sum(x.ndim > 0 for part in state.values() for x in tensors(part).values())


def holds_state(value: Any, held: Held) -> bool:
    """Return whether some part of a checkpoint is the state of an optimizer, or it itself."""
    if value is held.optimizer() or (isinstance(value, dict) and "param_groups" in value):
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
        fits = [name for name in own if name in given and given[name].shape == own[name].shape]
        loaded = [name for name in fits if given[name].data_ptr() != own[name].data_ptr()]
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
