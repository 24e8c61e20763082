"""NLLLoss takes no logarithm: its scores are to be log-probabilities."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.seen_losses import Calls, few
from dlconcepts.watch.places import Place

NEAR = 0.1  # bfloat16 rounds this much


class NllIsGivenLogProbabilities(Law):
    id = "nll-is-given-log-probabilities"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.calls = Calls()

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        scores = named["input"]
        if name != "nll_loss" or not scores.requires_grad or scores.ndim < 2:
            return
        self.seen = True
        if not self.calls.look(place):
            return
        values = scores.detach().double()
        sums = values.exp().sum(dim=1)
        positive = bool((values > 1e-3).any())
        over_batch = len(values) > 1 and near_one(values.exp().sum(dim=0))
        # Below 1 with no score above 0 may be a mask, or a mixture that leaves some out.
        guilty = not near_one(sums) and (positive or over_batch)
        self.calls.judge(place, guilty)
        if guilty and self.calls.guilty(place) and self.may_prove(place):
            what = "logits"
            if bool((values >= 0).all()) and near_one(values.sum(dim=1)):
                what = "probabilities"
            if over_batch:
                what = "log-probabilities over the batch dimension"
            some, target = few(values, named["target"])
            with torch.no_grad():
                function = torch.nn.functional.nll_loss
                losses = [function(x, target).item() for x in (some.log_softmax(1), some)]
            self.broken(
                place,
                f"the scores are {what}: the exponentials of a row sum to {float(sums.min()):.3g} "
                f"to {float(sums.max()):.3g}, not to 1",
                f"of log_softmax(dim=1) of the same scores the loss is {losses[0]:.4g}, not "
                f"{losses[1]:.4g}",
            )


def near_one(sums: Tensor) -> bool:
    return bool(((sums - 1).abs() < NEAR).all())
