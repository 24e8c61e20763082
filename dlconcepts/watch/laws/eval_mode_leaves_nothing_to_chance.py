"""In eval mode a model is to be without chance: F.dropout does not know the mode by itself."""

from typing import Any

from torch import nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.proofs import apart, can_run, run_again
from dlconcepts.watch.trace import Forward


class EvalModeLeavesNothingToChance(Law):
    id = "eval-mode-leaves-nothing-to-chance"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.suspects: dict[int, tuple[Forward, nn.Module, Place]] = {}

    def on_dropout(self, module: nn.Module, forward: Forward | None, place: Place) -> None:
        if forward is not None and not forward.training:
            self.suspects[id(forward)] = forward, module, place

    def on_stranger(self, module: nn.Module, forward: Forward, place: Place) -> None:
        """Hear of a layer that eval() does not reach, since it is not registered."""
        if not forward.training and isinstance(module, nn.modules.dropout._DropoutNd):
            self.suspects[id(forward)] = forward, module, place

    def on_forward(self, forward: Forward, output: Any) -> None:
        self.seen = self.seen or not forward.training
        _, module, place = self.suspects.pop(id(forward), (None, None, None))
        if module is None or place is None or not can_run(forward) or not self.may_prove(place):
            return
        pair = [run_again(self.trace, forward, seed=seed) for seed in (0, 1)]
        if far := apart(*pair):
            self.broken(
                place,
                f"dropout drops in eval mode: {type(module).__name__} is not told the mode",
                f"two passes over the same batch in eval mode differ by {far:.2g} of the largest "
                "output",
            )
