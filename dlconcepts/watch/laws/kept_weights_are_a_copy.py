"""state_dict() returns the model's own tensors: what is to be kept has to be copied."""

import linecache
import re
import sys
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, user_frames
from dlconcepts.watch.trace import Held

KEEPING = re.compile(r"best|kept|keep|saved|snapshot|backup|initial|checkpoint|old|before", re.I)
FILE = re.compile(r"path|file|name|acc|loss|score|epoch|step|metric", re.I)


class KeptWeightsAreACopy(Law):
    id = "kept-weights-are-a-copy"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        # Where state_dict() was called, and before which step, by the memory of its first tensor.
        self.taken: dict[int, tuple[Place, int]] = {}
        self.found: dict[str, tuple[Place, int, float]] = {}
        self.written: set[int] = set()  # ids of what went to a file: no longer kept

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
        shared = [k for k, v in state.items() if isinstance(v, Tensor) and v.data_ptr() in own]
        if not shared or len(shared) < len(own) // 2 or not self.may_prove(place):
            return
        where, steps = self.taken.get(state[shared[0]].data_ptr(), (place, 0))
        now = self.trace.steps
        if now > steps:
            self.broken(
                where,
                f"state_dict() was kept without a copy, and loaded again on line {place.line}",
                f"{len(shared)} tensors share memory with the model: {now - steps} steps later "
                "they hold its last weights, so loading them changes nothing",
            )

    def on_saves(self, value: Any, place: Place) -> None:
        self.look_at_names()
        self.written.add(id(value))

    def on_step_begins(self, held: Held) -> None:
        if self.trace.close or held.steps % 50 == 0:
            self.look_at_names()

    def on_finished(self) -> None:
        main = vars(sys.modules.get("__main__", sys))
        self.look(main, NOWHERE)

    def look_at_names(self) -> None:
        for frame in list(user_frames(sys._getframe(1)))[:4]:
            self.look(frame.f_locals, Place(frame.f_code.co_filename, frame.f_lineno))

    def look(self, names: dict[str, Any], place: Place) -> None:
        """Look for the model, or its tensors, under a name that says that they are kept."""
        models = {id(model): model for model in self.trace.models()}
        for name, value in list(names.items()):
            if not KEEPING.search(name) or FILE.search(name) or id(value) in self.written:
                continue
            if isinstance(value, nn.Module) and id(value) in models:
                others = [n for n, v in names.items() if v is value and not KEEPING.search(n)]
                first = moving(dict(value.named_parameters())) if others else None
                what = f"{name} is the same object as {others[0]}" if others else ""
            elif isinstance(value, dict):
                first = moving(value)
                live = {p.data_ptr() for m in models.values() for p in m.parameters()}
                first = first if first is not None and first.data_ptr() in live else None
                what = f"{name} holds the model's own tensors"
            else:
                continue
            if first is not None:
                self.compare(name, first, what, place)

    def compare(self, name: str, first: Tensor, what: str, place: Place) -> None:
        where, steps, before = self.found.setdefault(name, (place, self.trace.steps, digest(first)))
        if self.trace.steps > steps and digest(first) != before and self.may_prove(name):
            assigned = assignment(name, where)
            self.broken(
                assigned,
                f"{what}, not a copy",
                f"{self.trace.steps - steps} steps later its first tensor has moved with the model",
            )


def assignment(name: str, place: Place) -> Place:
    """Return the line that binds a name, nearest to a line of the same file."""
    binds = re.compile(rf"\b{re.escape(name)}\s*=[^=]")
    lines = [i for i, line in enumerate(linecache.getlines(place.file), 1) if binds.search(line)]
    real = [i for i in lines if "None" not in linecache.getline(place.file, i)]
    near = min(real or lines, key=lambda line: abs(line - place.line), default=place.line)
    return Place(place.file, near)


def moving(state: Any) -> Tensor | None:
    if not isinstance(state, dict):
        return None
    found = (v for v in state.values() if isinstance(v, Tensor) and v.is_floating_point())
    return next((v for v in found if v.numel()), None)


def digest(tensor: Tensor) -> float:
    with torch.no_grad():
        return float(tensor.detach().double().sum())
