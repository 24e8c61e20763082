"""What a loss is given, scores of the kind it expects, and what becomes of it."""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlconcepts.checks.laws.loss import cut_at_zero, near_one, no_log_probabilities, operation
from dlconcepts.watch.law import CALLS, Law
from dlconcepts.watch.places import (
    NOWHERE,
    Place,
    function_at,
    function_name,
    nearest,
    says_validation,
)
from dlconcepts.watch.trace import Forward, Held

ROWS = 256  # of a batch that a proof computes with
LEAST = 1e-12  # a probability of 0 has no logarithm
BINARY = "binary_cross_entropy_with_logits"
SCORED = ("cross_entropy", "nll_loss", BINARY)
NORMALISING = {"LogSoftmax", "Softmax"}
ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy")
DEEP = 32  # operations between a loss and the outputs
RARELY = 16  # on an accelerator, reading the loss waits for it
HELD = 4  # graphs of earlier steps; a loop may hold the last loss or two for a while


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
    values, inside = scores.detach(), "all scores lie in 0 to 1"
    if not values.numel() or bool(((values < 0) | (values > 1)).any()):
        return None
    squasher = operation(scores, {"Softmax", "Sigmoid"})
    if squasher == "Sigmoid" and name != "log_softmax":
        return "a sigmoid", inside
    if squasher != "Softmax" or name == BINARY:
        return None
    sums = values.double().sum(1)
    if values.shape[1] > 1 and near_one(sums):
        return "a softmax", f"{sums.numel()} rows sum to 1"
    return "a softmax over another dimension", inside


def gain(name: str, values: Tensor, target: Tensor | None) -> str:
    """Return what a loss would gain from logits."""
    if target is None:
        most = -math.log1p((values.shape[1] - 1) / math.e)
        return f"no log-probability of {values.shape[1]} classes can then exceed {most:.2f}"
    values, target, is_binary = values[:ROWS].float(), target.detach()[:ROWS], name == BINARY
    loss: Any = getattr(F, name)
    inverse = torch.logit(values, eps=1e-6) if is_binary else values.clamp_min(LEAST).log()
    with torch.enable_grad():
        logits = inverse.requires_grad_()
        shares = logits.sigmoid() if is_binary else logits.softmax(1)
        losses = [loss(scores, target) for scores in (logits, shares)]
        sizes = [float(torch.autograd.grad(x, logits)[0].norm()) for x in losses]
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
        if name in SCORED and scores.requires_grad and scores.ndim:
            self.seen = True
            if found := self.each_time(place, lambda: cut(scores)):
                text = f"the scores come from {found[0]}, and none of them is below zero"
                proof = f"{found[1]:.0%} of them are cut off at one value, and get no gradient"
                self.broken(place, text, proof)


def cut(scores: Tensor) -> tuple[str, float] | None:
    """Return what cut off scores, and the share that it cut off."""
    normalised = bool(operation(scores, NORMALISING))
    by, share = cut_at_zero(scores, normalised=normalised)
    # Each row of normalised scores has one smallest value anyway, and masks have several.
    is_usual = normalised and (share * scores.shape[1] <= 1 or by == "Where")
    return (by, share) if by and not is_usual else None


class TheLossPairsOutputsWithTargets(Law):
    """An elementwise loss compares each output with one target, not (N, 1) with (N,)."""

    outputs: dict[Any, tuple[int, ...]]  # of the last forward pass: shapes by nodes of the graph
    memory: dict[int, tuple[int, ...]]  # and by where they lie in memory

    def on_forward(self, forward: Forward, output: Any) -> None:
        if self.trace.close and isinstance(output, Tensor) and output.grad_fn is not None:
            shape = tuple(output.shape)
            self.outputs, self.memory = {output.grad_fn: shape}, {output.data_ptr(): shape}

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        output, target = named["input"], named["target"]
        if name == "cross_entropy":
            self.look_at_pixels(output, target, place)
        if name in ELEMENTWISE and output.requires_grad:
            self.seen = True
            if output.shape != target.shape and output.numel() == target.numel():
                pairs = torch.broadcast_tensors(output.detach(), target)
                text = f"outputs {tuple(output.shape)} and targets {tuple(target.shape)}"
                text += f" were compared as {pairs[0].numel()} pairs"
                alike = output.detach(), target.reshape(output.shape)
                self.compare(place, text, "with one shape", getattr(F, name), alike, pairs)

    def look_at_pixels(self, scores: Tensor, target: Tensor, place: Place) -> None:
        """Look for maps (N, C, ...) that were reshaped to rows of C without a permutation."""
        whole = self.memory.get(scores.data_ptr(), ())
        if len(whole) < 3 or scores.ndim != 2 or whole[1] == whole[-1] or target.ndim != 1:
            return
        if scores.shape[1] == whole[1] and scores.numel() == math.prod(whole):
            values = scores.detach()
            maps = values.reshape(whole).movedim(1, -1).reshape(values.shape)
            text = f"outputs {whole} were reshaped to {tuple(values.shape)} without a permutation"
            how = "with the classes moved last,"
            self.compare(place, text, how, F.cross_entropy, (maps, target), (values, target))

    def compare(self, place: Place, text: str, how: str, loss: Any, meant: Any, given: Any) -> None:
        """Compare the loss of what is meant with the loss of what was given."""
        with self.trace.proving(), torch.no_grad():
            right, wrong = loss(*meant), loss(*given)
        if not torch.allclose(right, wrong, atol=0, equal_nan=True):
            proof = f"{how} the loss of the same batch is {right:.4g}, not {wrong:.4g}"
            self.broken(place, text, proof)

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        """Look for a difference of outputs and targets that was written by hand."""
        outputs, self.outputs = self.outputs, {}
        level = {loss.grad_fn} if outputs else set()
        for _ in range(DEEP):
            after = [(node, f) for node in level if node for f, _ in node.next_functions]
            for node, shape in [(node, outputs[f]) for node, f in after if f in outputs]:
                metadata = getattr(node, "_input_metadata", None) if is_difference(node) else None
                self.seen = self.seen or bool(metadata)
                made, n = tuple(metadata[0].shape) if metadata else (), shape[:1]
                # (N, 1) minus (N,) broadcasts to (N, N); only its diagonal makes sense.
                if made == n * 2 and n > (1,) and shape in ((*n, 1), n):
                    text = f"outputs {shape} minus targets of another shape gave {made}"
                    proof = f"the loss compares {n[0] ** 2} pairs of {n[0]} examples"
                    self.broken(place, text, f"{proof}; {n[0]} are meant")
            level = {f for _, f in after if f not in outputs}


def is_difference(node: Any) -> bool:
    return str(node.name()).startswith("Sub")


class TheLossIsFinite(Law):
    """A loss that is NaN or infinite must not move the weights."""

    claim = "training.loss-goes-down"
    concept = "Loss that is NaN or infinite"
    why = "one such step makes the weights NaN, and they stay so"
    fix = "lower the learning rate, clip the gradients, use stable functions such as logsumexp"

    bad: tuple[Place, float] = NOWHERE, 0.0
    last = 0.0

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        on_cpu = loss.device.type == "cpu"
        if loss.numel() == 1 and (on_cpu or self.trace.backwards % RARELY == 1):
            self.seen, value = True, float(loss.detach())
            self.bad = (NOWHERE, 0.0) if math.isfinite(value) else (place, value)
            self.last = value if math.isfinite(value) else self.last

    def on_step_ends(self, held: Held) -> None:
        (place, value), self.bad = self.bad, (NOWHERE, 0.0)
        if place.line and self.may_prove(place):
            lost = [p for p in held.parameters if not bool(torch.isfinite(p.detach()).all())]
            before = f", after {self.last:.4g}" if held.steps > 1 else ""
            if lost:
                text = f"the loss is {value} at step {held.steps}{before}"
                proof = f"{len(lost)} of {len(held.parameters)} parameters are NaN or infinite now"
                self.broken(place, text, proof)


class TheLossIsKeptAsANumber(Law):
    """A running sum of losses is to be of numbers: a loss tensor keeps the graph of its batch."""

    def on_step_ends(self, held: Held) -> None:
        count, place = self.trace.backwards, self.trace.backward
        self.seen = self.seen or count > HELD
        # The marks of a forward pass live as long as its graph.
        # Those of one step count once: it may collect several, and let go of them all.
        alive = len({mark.walked for mark in self.trace.marks if mark.walked})
        if alive > HELD and alive > min(count, 64) // 2:
            text = "losses are kept as tensors, each with its graph"
            proof = f"after backward {alive} graphs of {count} losses are still in memory"
            words = re.findall(r"\w+", place.code.partition(".backward")[0])
            loss = "|".join(word for word in words if word != "self") or "loss"
            # What adds it up or collects it: the loss itself, not a method of it.
            adds = rf"^\s*(?!({loss})\b).*(\+|append\(|add\(|extend\().*\b({loss})\b(?![.\w])"
            self.broken(nearest(adds, place, function_at(place)), text, proof)
