"""What is kept of a model: a copy, all of it, and the optimizer beside it."""

import re
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from dlconcepts.checks.trees import floats, tensors
from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place, nearest
from dlconcepts.watch.trace import Forward, Held, Trace

PROGRESS = ("epoch", "step", "iter", "iteration", "global_step", "iter_num", "start_epoch")
BEST = re.compile(r"\b((?:best|kept|saved)_?(?:model|net)|(?:model|net)_best)\b(?=[.(,)])")


class KeptWeightsAreACopy(Law):
    """state_dict() returns the model's own tensors: what is to be kept has to be copied."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.taken = WeakIdKeyDictionary()  # by tensor: after which step, and where

    def on_state_taken(self, module: nn.Module, state: Any, place: Place) -> None:
        self.seen = True
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
        shared = own_tensors(owner, state)
        if shared and len(shared) == len(floats(state)) and self.trace.steps:
            _, made = self.taken.get(shared[0], (0, place))
            text = f"state_dict() was kept without a copy, and loaded again on line {place.line}"
            proof = f"{len(shared)} tensors share memory with the model: loading changes nothing"
            self.broken(made, text, proof)

    def on_saves(self, value: Any, place: Place) -> None:
        for state in (value, *value.values()) if isinstance(value, dict) else ():
            for x in [x for model in self.trace.models for x in own_tensors(model, state)][:1]:
                step, made = self.taken.get(x, (self.trace.steps, place))
                if step < self.trace.steps:
                    text = f"state_dict() was kept without a copy, and saved on line {place.line}"
                    proof = f"what is saved are not the weights of step {step}, but of step "
                    self.broken(made, text, f"{proof}{self.trace.steps}, by shared memory")


def own_tensors(model: Any, state: Any) -> list[Tensor]:
    """Return the tensors of a state that are the model's own."""
    if not isinstance(model, nn.Module) or not isinstance(state, dict):
        return []
    own = {x.data_ptr() for x in (*model.parameters(), *model.buffers()) if x.numel()}
    return [x for x in floats(state).values() if x.data_ptr() in own]


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
