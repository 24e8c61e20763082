"""Cross-entropy normalises scores itself: it is to be given logits, not probabilities."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.seen_losses import Calls, chain, evaluates, few
from dlconcepts.watch.places import NOWHERE, Place

LEAST = 1e-12  # a probability of 0 has no logarithm
BINARY = "binary_cross_entropy_with_logits"


class CrossEntropyIsGivenLogits(Law):
    id = "cross-entropy-is-given-logits"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.calls = Calls()
        self.softmaxes: dict[int, Place] = {}

    def on_softmax(self, name: str, args: Any, dim: Any, result: Tensor, *rest: Any) -> None:
        if name == "softmax" and result.grad_fn is not None:
            self.softmaxes = {id(result.grad_fn): rest[-1]}
        if name == "log_softmax" and args and args[0].grad_fn is not None:
            # A loss that is written by hand starts with a log_softmax.
            self.judge("log_softmax", args[0], None, rest[-1])

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        if name in ("cross_entropy", BINARY) and named["input"].requires_grad:
            self.judge(name, named["input"], named["target"], place)

    def judge(self, name: str, scores: Tensor, target: Tensor | None, place: Place) -> None:
        if scores.ndim < 2 and name != BINARY:
            return
        self.seen = self.seen or name != "log_softmax"
        if not self.calls.look(place):
            return
        source, found = squashed(scores, name)
        self.calls.judge(place, bool(found))
        if found and self.calls.guilty(place) and not evaluates(place) and self.may_prove(place):
            where = self.softmaxes.get(id(scores.grad_fn), NOWHERE)
            applied = f", applied on line {where.line}" if where.line not in (0, place.line) else ""
            seen = f"{found} in each of the first {self.calls.looks[place]} calls"
            text = f"{seen}: they come from {source}{applied}"
            self.broken(place, text, proof(name, scores, target))


def squashed(scores: Tensor, name: str) -> tuple[str, str]:
    """Return what made probabilities of scores, and what shows it; empty if they are none."""
    values = scores.detach()
    if not values.numel() or bool(((values < 0) | (values > 1)).any()):
        return "", ""
    operation = next((op for op in chain(scores) if op in ("Softmax", "Sigmoid")), "")
    if operation == "Softmax" and name != BINARY:
        rows = values.transpose(1, -1).reshape(-1, values.shape[1])
        if rows.shape[1] > 1 and bool(((rows.double().sum(1) - 1).abs() < 1e-2).all()):
            return "a softmax", f"{len(rows)} rows sum to 1"
        return "a softmax over another dimension", "all scores lie in 0 to 1"
    if operation == "Sigmoid" and name != "log_softmax":
        return "a sigmoid", "all scores lie in 0 to 1"
    return "", ""


def proof(name: str, scores: Tensor, target: Tensor | None) -> str:
    if target is None:
        k = scores.shape[1]
        return (
            f"no log-probability of {k} classes can then exceed {-math.log1p((k - 1) / math.e):.2f}"
        )
    values, target = few(scores.detach().float(), target)
    if name == BINARY:
        logits = torch.logit(values, eps=1e-6).requires_grad_()
        right: Any = F.binary_cross_entropy_with_logits
        wrong: Any = torch.sigmoid
    else:
        logits = values.clamp_min(LEAST).log().requires_grad_()
        right, wrong = F.cross_entropy, functools.partial(torch.softmax, dim=1)
    with torch.enable_grad():
        losses = [right(logits, target), right(wrong(logits), target)]
        sizes = [float(torch.autograd.grad(loss, logits)[0].norm()) for loss in losses]
    return (
        f"without it the loss of the same batch is {losses[0].item():.4g}, not "
        f"{losses[1].item():.4g}, and its gradient {sizes[0] / max(sizes[1], 1e-30):.3g} times as "
        "large"
    )
