"""What a loss is given: scores of the kind it expects, one for each target."""

import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlconcepts.checks.laws.loss import cut_at_zero, near_one, no_log_probabilities, operation
from dlconcepts.watch.law import CALLS, Law
from dlconcepts.watch.places import NOWHERE, Place, function_name, says_validation
from dlconcepts.watch.trace import Forward

ROWS = 256  # of a batch that a proof computes with
LEAST = 1e-12  # a probability of 0 has no logarithm
BINARY = "binary_cross_entropy_with_logits"
SCORED = ("cross_entropy", "nll_loss", BINARY)
NORMALISING = {"LogSoftmax", "Softmax"}
ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy")
VIEWS = ("View", "UnsafeView", "Reshape", "Clone")
DEEP = 32  # operations between a loss and the outputs


class CrossEntropyIsGivenLogits(Law):
    """Cross-entropy normalises scores itself: it is to be given logits, not probabilities."""

    softmax: tuple[Any, Place] = None, NOWHERE

    def on_softmax(self, name: str, args: Any, dim: Any, result: Tensor, *rest: Any) -> None:
        if name == "softmax" and result.grad_fn is not None:
            self.softmax = id(result.grad_fn), rest[-1]
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
        found = self.each_time(place, lambda: squashed(scores, name))
        # The line itself may well name what the model predicts.
        if found and not says_validation(NOWHERE, function_name(place)):
            by, seen = found
            key, where = self.softmax
            is_far = key == id(scores.grad_fn) and where.line != place.line
            text = f"{seen} in each of the first {CALLS} calls: they come from {by}"
            text += f", applied on line {where.line}" if is_far else ""
            self.broken(place, text, gain(name, scores.detach(), target))


def squashed(scores: Tensor, name: str) -> tuple[str, str] | None:
    """Return what made probabilities of scores, and what shows it."""
    values = scores.detach()
    if not values.numel() or bool(((values < 0) | (values > 1)).any()):
        return None
    squasher = operation(scores, {"Softmax", "Sigmoid"})
    if squasher == "Softmax" and name != BINARY:
        sums = values.double().sum(1)
        if values.shape[1] > 1 and near_one(sums, 1e-2):
            return "a softmax", f"{sums.numel()} rows sum to 1"
        return "a softmax over another dimension", "all scores lie in 0 to 1"
    if squasher == "Sigmoid" and name != "log_softmax":
        return "a sigmoid", "all scores lie in 0 to 1"
    return None


def gain(name: str, values: Tensor, target: Tensor | None) -> str:
    """Return what a loss would gain from logits."""
    if target is None:
        most = -math.log1p((values.shape[1] - 1) / math.e)
        return f"no log-probability of {values.shape[1]} classes can then exceed {most:.2f}"
    values, target = values[:ROWS].float(), target.detach()[:ROWS]
    right: Any = F.binary_cross_entropy_with_logits if name == BINARY else F.cross_entropy
    wrong: Any = torch.sigmoid if name == BINARY else functools.partial(torch.softmax, dim=1)
    inverse = torch.logit(values, eps=1e-6) if name == BINARY else values.clamp_min(LEAST).log()
    with torch.enable_grad():
        logits = inverse.requires_grad_()
        losses = [right(logits, target), right(wrong(logits), target)]
        sizes = [float(torch.autograd.grad(loss, logits)[0].norm()) for loss in losses]
    text = f"without it the loss of the same batch is {losses[0]:.4g}, not {losses[1]:.4g}"
    return f"{text}, and its gradient {sizes[0] / max(sizes[1], 1e-30):.3g} times as large"


class NllIsGivenLogProbabilities(Law):
    """NLLLoss takes no logarithm: its scores are to be log-probabilities."""

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        scores = named["input"]
        if name != "nll_loss" or not scores.requires_grad or scores.ndim < 2:
            return
        self.seen = True
        seen = self.each_time(place, lambda: no_log_probabilities(scores))
        # Logits below zero may be a mask, or a mixture that leaves some out.
        if seen and (bool((scores > 1e-3).any()) or not seen.startswith("logits")):
            some, target = scores.detach()[:ROWS], named["target"].detach()[:ROWS]
            right, given = (F.nll_loss(x, target) for x in (some.log_softmax(1), some))
            proof = f"of log_softmax(dim=1) of them the loss is {right:.4g}, not {given:.4g}"
            self.broken(place, f"the scores are {seen}", proof)


class ScoresAreNotCutAtZero(Law):
    """The scores of a classifier must be able to fall below zero."""

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        scores = named["input"]
        if name not in SCORED or not scores.requires_grad or not scores.ndim:
            return
        self.seen = True
        if found := self.each_time(place, lambda: cut(scores)):
            text = f"the scores come from {found[0]}: none of {tuple(scores.shape)} is below zero"
            proof = f"{found[1]:.0%} of them are cut off at one value, and get no gradient"
            self.broken(place, text, proof)


def cut(scores: Tensor) -> tuple[str, float] | None:
    """Return what cut off scores, and the share that it cut off."""
    normalised = bool(operation(scores, NORMALISING))
    by, share = cut_at_zero(scores, normalised=normalised)
    # Each row of normalised scores has one smallest value anyway, and masks have several.
    if normalised and (share * scores.shape[1] <= 1 or by == "Where"):
        return None
    return (by, share) if by else None


class TheLossPairsOutputsWithTargets(Law):
    """An elementwise loss compares each output with one target, not (N, 1) with (N,)."""

    outputs: dict[Any, tuple[int, ...]]

    def on_forward(self, forward: Forward, output: Any) -> None:
        if self.trace.close and isinstance(output, Tensor) and output.grad_fn is not None:
            self.outputs = {output.grad_fn: tuple(output.shape)}

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        output, target = named["input"].detach(), named["target"]
        if name == "cross_entropy":
            self.look_at_pixels(named["input"], target, place)
        if name not in ELEMENTWISE or not named["input"].requires_grad:
            return
        self.seen = True
        if output.shape == target.shape or output.numel() != target.numel():
            return
        try:
            pairs = torch.broadcast_shapes(output.shape, target.shape).numel()
        except RuntimeError:
            return
        if pairs > output.numel() and self.may_prove(place):
            shapes = f"outputs {tuple(output.shape)} and targets {tuple(target.shape)}"
            text, alike = f"{shapes} were compared as {pairs} pairs", target.reshape(output.shape)
            losses = (getattr(F, name)(output, targets) for targets in (alike, target))
            self.compare(place, text, "with one shape", losses)

    def look_at_pixels(self, scores: Tensor, target: Tensor, place: Place) -> None:
        """Look for maps (N, C, ...) that were reshaped to rows of C without a permutation."""
        whole = next((shape for node, shape in self.outputs.items() if is_view(scores, node)), ())
        if len(whole) < 3 or scores.ndim != 2 or whole[1] == whole[-1] or target.ndim != 1:
            return
        if scores.shape[1] == whole[1] and self.may_prove(place):
            values = scores.detach()
            maps = values.reshape(whole).movedim(1, -1).reshape(values.shape)
            text = f"outputs {whole} were reshaped to {tuple(values.shape)} without a permutation"
            losses = (F.cross_entropy(rows, target) for rows in (maps, values))
            self.compare(place, text, "with the classes moved last,", losses)

    def compare(self, place: Place, text: str, how: str, losses: Iterator[Tensor]) -> None:
        """Compare the loss of what is meant with the loss of what was given."""
        with self.trace.proving(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            right, given = losses
        if not torch.allclose(right, given, atol=0, equal_nan=True):
            proof = f"{how} the loss of the same batch is {right:.4g}, not {given:.4g}"
            self.broken(place, text, proof)

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        """Look for a difference of outputs and targets that was written by hand."""
        outputs, self.outputs = self.outputs, {}
        waiting, seen = [(loss.grad_fn, 0)], set()
        while outputs and waiting:
            node, depth = waiting.pop()
            if node is None or node in seen or depth > DEEP or node in outputs:
                continue
            seen.add(node)
            after = [following for following, _ in node.next_functions]
            waiting += [(following, depth + 1) for following in after]
            shape = next((outputs[other] for other in after if other in outputs), None)
            if not shape or not node.name().startswith("Sub"):
                continue
            self.seen = True
            n, metadata = shape[0], getattr(node, "_input_metadata", None)
            made = tuple(metadata[0].shape) if metadata else ()
            # (N, 1) minus (N,) broadcasts to (N, N); only its diagonal makes sense.
            if n > 1 and made == (n, n) and shape in ((n, 1), (n,)) and self.may_prove(place):
                text = f"outputs {shape} minus targets of another shape gave {made}"
                proof = f"the loss compares {n * n} pairs of {n} examples; {n} are meant"
                self.broken(place, text, proof)


def is_view(scores: Tensor, node: Any) -> bool:
    """Return whether scores are an output of a graph's node, reshaped and nothing else."""
    found: Any = scores.grad_fn
    while found is not None and found is not node and found.name().startswith(VIEWS):
        found = found.next_functions[0][0]
    return found is node
