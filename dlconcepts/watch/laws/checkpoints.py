"""What is kept of a model: a copy, all of it, and the optimizer beside it."""

import re
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from dlconcepts.checks.trees import floats, leaves, tensors
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
            parts = list(leaves(value))
            has_groups = any("param_groups" in path for path, _ in parts)
            whole = {id(part) for _, part in parts}  # somebody may save the optimizer itself
            missing = [h for h in states if not has_groups and id(h.optimizer()) not in whole]
            if missing:
                names, size = ", ".join(map(repr, list(value)[:6])), size_of_state(missing[0])
                text = f"the checkpoint has {names}, and nothing of {missing[0].name}"
                self.broken(place, text, f"none of the {size} tensors of its state is in the file")

    def on_read(self, value: Any, place: Place) -> None:
        if is_checkpoint(value):
            self.resumed, self.restored = place, set()

    def on_state_loaded(self, owner: Any, state: Any, place: Place) -> None:
        self.restored.add(id(owner))

    def on_step_ends(self, held: Held) -> None:
        place, self.resumed, size = self.resumed, None, size_of_state(held)
        if place is not None and size and self.trace.loaded:
            self.seen = True
            if id(held.optimizer()) not in self.restored:
                text = f"training resumes without the state of {held.name}"
                proof = f"its state was empty before this step; it has {size} tensors"
                self.broken(place, text, proof)


def is_checkpoint(value: Any) -> bool:
    """Return whether a file is there to resume from: weights alone are to be used."""
    if not isinstance(value, dict) or not any(str(key).lower() in PROGRESS for key in value):
        return False
    return any(tensors(part) for part in value.values() if isinstance(part, dict))


def size_of_state(held: Held) -> int:
    state = dict(getattr(held.optimizer(), "state", {}))
    return sum(x.ndim > 0 for part in state.values() for x in tensors(part).values())


class APartialCheckpointIsRefused(Law):
    """strict=False, or a filter on names, must not leave a model as it was without a word."""

    file: list[str]  # what the last file had that was read, until it is used

    def on_read(self, value: Any, place: Place) -> None:
        self.file = list(tensors(value))

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
        near = [n for n in loaded if n.partition(".")[0] in {m.partition(".")[0] for m in missing}]
        if not loaded:
            found = names[0] if names else "nothing"
            self.broken(place, text, f"the model has {missing[0]}, the checkpoint {found}")
        elif near:  # people skip a new head on purpose, but then all of it
            proof = f"{missing[0]} keeps its values, though the checkpoint has {near[0]}"
            self.broken(place, text, proof)
        else:
            self.note(place, f"{text}: a new head may be meant")
