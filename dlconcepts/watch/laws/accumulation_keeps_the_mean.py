"""Gradients of k micro-batches add up: each loss is to be divided by k."""

import ast
import linecache
from typing import Any, cast

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.a_step_follows_its_own_batch import norm
from dlconcepts.watch.laws.seen_losses import is_mean
from dlconcepts.watch.places import Place, function_at
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import KEPT, Held, size

SCALING = ("Div", "Mul")
MEAN = "dlconcepts: a mean over a batch"
STEPS = 2
MORE = 1.5  # times the divisor: the last group of an epoch may be smaller, not larger


class AccumulationKeepsTheMean(Law):
    id = "accumulation-keeps-the-mean"
    explanation = Explanation(
        claim="autograd.micro-batches-add-up-to-a-batch",
        concept="Accumulated gradients that are not averaged",
        why="the gradient is k times that of the whole batch: the step is as long as with k times "
        "the learning rate, and clipping cuts it",
        fix="(loss / k).backward() for k micro-batches",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.passes: dict[Place, list[float]] = {}  # the divisor of each loss since the last step
        self.steps = 0
        self.sums: list[tuple[int, int]] = []
        self.own = self.before = 0.0
        self.is_sum = False

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        self.passes.setdefault(place, []).append(self.divisor(loss))
        self.gradients = {id(p): p.grad.clone() for p in self.probes() if p.grad is not None}

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        if is_mean(named) and result.grad_fn is not None:
            # Not the node itself, which would keep the graph alive.
            cast(Any, result.grad_fn).metadata[MEAN] = True

    def on_clears(self, owner: Any, place: Place) -> None:
        if hasattr(owner, "param_groups"):
            self.passes = {}

    def divisor(self, loss: Tensor) -> float:
        """Return by what a mean was divided before its backward, 0 if the loss is no mean."""
        node: Any = loss.grad_fn
        found = 1.0
        while node is not None and MEAN not in node.metadata and node.name().startswith(SCALING):
            if node.name().startswith("Div"):
                by = node._saved_other
                found *= float(by) if by is not None and by.numel() == 1 else 1.0
            node = node.next_functions[0][0]
        is_mean = node is not None and (MEAN in node.metadata or node.name().startswith("Mean"))
        return found if is_mean else 0.0

    def probes(self) -> list[Tensor]:
        if not self.trace.close:
            return []
        found = [p for held in self.trace.holders() for p in held.probes]
        return [p for p in found if p.grad is None or size(p.grad) <= KEPT // 16]

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        pairs = [(p.grad, self.gradients.get(id(p))) for p in self.probes()]
        own = [g - before for g, before in pairs if g is not None and before is not None]
        if own:
            self.own = norm(own)
        self.sums, self.gradients = self.signatures(), {}

    def signatures(self) -> list[tuple[int, int]]:
        return [(id(p.grad), p.grad._version) for p in self.probes() if p.grad is not None]

    def on_clips(self, parameters: Any, limit: Any, place: Place) -> None:
        self.is_sum = self.is_sum or self.signatures() == self.sums

    def on_step_begins(self, held: Held) -> None:
        passes, self.passes = self.passes, {}
        # Somebody may divide the gradients instead, between backward and the step.
        is_sum, self.is_sum = self.is_sum or self.signatures() == self.sums, False
        if len(passes) != 1 or not is_sum or not self.sums or not held.new:
            return
        ((place, divisors),) = passes.items()
        k, by = len(divisors), max(divisors)
        self.seen = self.seen or k > 1
        if k < 2 or not min(divisors) or k < MORE * by:
            return
        self.steps += 1
        if self.steps < STEPS or not self.may_prove(place):
            return
        divided = f"divided by {by:.4g}" if by > 1 else "not divided"
        text = f"{k} backward passes add up before the step, each of a mean that is {divided}"
        whole = norm([p.grad for p in self.probes() if p.grad is not None])
        if by > 1 or is_accumulation(place):
            self.broken(
                place,
                text,
                f"the gradient at the step has norm {whole:.3g}, that of the last micro-batch "
                f"added {self.own:.3g}; the mean over all {k} has {whole * by / k:.3g}",
            )
        else:
            self.note(place, f"{text}: a sum over tasks may be meant")


def is_accumulation(place: Place) -> bool:
    """Return whether the code says that it accumulates: by its names, or a step each k batches."""
    function: Any = function_at(place)
    first, last = getattr(function, "lineno", 1), getattr(function, "end_lineno", None)
    lines = linecache.getlines(place.file)[first - 1 : last]
    if any("accum" in line.lower() or "micro" in line.lower() for line in lines):
        return True
    return any(
        isinstance(node, ast.If)
        and any(isinstance(n, ast.Mod) for n in ast.walk(node.test))
        and any(isinstance(n, ast.Attribute) and n.attr == "step" for n in ast.walk(node))
        for node in ast.walk(function)
    )
