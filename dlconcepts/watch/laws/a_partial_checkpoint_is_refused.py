"""strict=False, or a filter on names, must not leave a model as it was without a word."""

from typing import Any

from torch import Tensor, nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place

PREFIXES = ("module.", "_orig_mod.", "model.")


class APartialCheckpointIsRefused(Law):
    id = "a-partial-checkpoint-is-refused"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.file: list[str] = []  # names in the last file that was read, until it is used

    def on_read(self, value: Any, place: Place) -> None:
        self.file = names_in(value)

    def on_step_begins(self, held: Any) -> None:
        self.file = []

    def on_state_loaded(self, owner: Any, state: Any, result: Any, place: Place) -> None:
        if not isinstance(owner, nn.Module) or not isinstance(state, dict):
            return
        self.seen = True
        kept = {k for part in owner.modules() for k in part._non_persistent_buffers_set}
        own: dict[str, Tensor] = {n: p for n, p in owner.named_parameters() if p.numel()}
        own |= {n: b for n, b in owner.named_buffers() if n.rpartition(".")[2] not in kept}
        given = {name: x for name, x in state.items() if isinstance(x, Tensor)}
        loaded = [
            name
            for name, value in given.items()
            if name in own
            and value.shape == own[name].shape
            and value.data_ptr() != own[name].data_ptr()
        ]
        missing = [name for name in own if name not in loaded]
        # A state that is the model's own memory is for kept-weights-are-a-copy, unless it came from
        # a file.
        if not own or not missing or (not loaded and set(given) == set(own) and not self.file):
            return
        names, self.file = self.file or list(given), []
        if not loaded:
            known = [p for p in PREFIXES if any(name.startswith(p) for name in names)]
            start = f": its names start with {known[0]!r}" if known else ""
            found = ", ".join(names[:2]) or "nothing"
            self.broken(
                place,
                f"nothing was loaded: 0 of {len(own)} tensors came from the checkpoint{start}",
                f"the model has {next(iter(own))}, the checkpoint {found}",
            )
            return
        heads = {name.partition(".")[0] for name in missing}
        near = [name for name in loaded if name.partition(".")[0] in heads]
        text = f"{len(missing)} of {len(own)} tensors were not loaded, first {missing[0]}"
        if near:  # people skip a new head on purpose, but then all of it
            self.broken(
                place, text, f"{missing[0]} keeps its values, though the checkpoint has {near[0]}"
            )
        else:
            self.note(place, f"{text}: a new head may be meant")


def names_in(value: Any) -> list[str]:
    """Return the names of the tensors in a checkpoint, of the largest part if it has several."""
    if not isinstance(value, dict):
        return []
    own = [str(name) for name, x in value.items() if isinstance(x, Tensor)]
    return max([own, *(names_in(part) for part in value.values())], key=len)
