"""strict=False, or a filter on names, must not leave a model as it was without a word."""

from typing import Any

from torch import Tensor, nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place

PREFIXES = ("module.", "_orig_mod.", "model.")


class APartialCheckpointIsRefused(Law):
    id = "a-partial-checkpoint-is-refused"

    def on_state_loads(self, owner: Any, state: Any, place: Place) -> None:
        if not isinstance(owner, nn.Module) or not isinstance(state, dict):
            return
        self.seen = True
        own = {name: p for name, p in owner.named_parameters() if p.numel()}
        foreign = [
            name
            for name, value in state.items()
            if name in own
            and isinstance(value, Tensor)
            and value.shape == own[name].shape
            and value.data_ptr() != own[name].data_ptr()
        ]
        tensors = [name for name, value in state.items() if isinstance(value, Tensor)]
        if not own or len(foreign) == len(own) or not self.may_prove(place):
            return
        if not foreign and not self.trace.steps:
            known = [prefix for prefix in PREFIXES if any(t.startswith(prefix) for t in tensors)]
            names = f"; the names of the file start with {known[0]!r}" if known else ""
            first = f"the model has {next(iter(own))}, the file {tensors[0]}" if tensors else ""
            self.broken(
                place,
                f"nothing was loaded: 0 of {len(own)} parameters came from the checkpoint{names}",
                first or "the state is empty",
            )
        elif foreign:
            missing = [name for name in own if name not in foreign]
            heads = {name.partition(".")[0] for name in missing}
            rest = {name.partition(".")[0] for name in foreign}
            text = f"{len(missing)} of {len(own)} parameters were not loaded, first {missing[0]}"
            if heads & rest:  # a new head is left out as a whole, and so on purpose
                self.broken(
                    place,
                    text,
                    f"{missing[0]} keeps its random values, though the checkpoint has "
                    f"{next(n for n in foreign if n.partition('.')[0] in heads)}",
                )
            else:
                self.note(place, f"{text}: a new head may be meant")
