"""The scores of a classifier must be able to fall below zero."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.seen_losses import Calls, chain
from dlconcepts.watch.places import Place

CUT = {"Relu", "Clamp", "ClampMin", "Threshold", "Hardtanh", "Maximum"}
LOSSES = ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits")
NORMALISING = frozenset({"LogSoftmax", "Softmax"})


class ScoresAreNotCutAtZero(Law):
    id = "scores-are-not-cut-at-zero"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.calls = Calls()

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        scores = named["input"]
        if name not in LOSSES or not scores.requires_grad or scores.ndim < 1:
            return
        self.seen = True
        if not self.calls.look(place):
            return
        cut = next((op for op in chain(scores, NORMALISING) if op in CUT), "")
        values, share = scores.detach(), 0.0
        if cut:
            # log_softmax shifts the zeros of a row to its smallest value.
            normalised = any(op in NORMALISING for op in chain(scores, NORMALISING))
            least = values.amin(dim=1, keepdim=True) if normalised else torch.zeros(())
            share = float((values == least.to(values)).double().mean())
            if normalised:  # each row has one smallest value anyway
                share = share if share * values.shape[1] > 1 else 0.0
        self.calls.judge(place, share > 0)
        if share > 0 and self.calls.guilty(place) and self.may_prove(place):
            self.broken(
                place,
                f"the scores come from {cut}: none of {tuple(values.shape)} is below zero",
                f"{share:.0%} of them are cut off at one value, and get no gradient from this loss",
            )
