"""What belongs to a step: the gradient of its own batch, cleared, averaged and clipped in time."""

import ast
import linecache
import math
from typing import Any, cast

from torch import Tensor, nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place, function_at
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held, norm

LEAST = 1e-3  # a smaller share of old gradients could be rounding
BATCHES = 3  # backward passes that nothing used before it is called a habit
SCALING = ("Div", "Mul")
MEAN = "dlconcepts: a mean over a batch"
MORE = 1.5  # times the divisor: the last group of an epoch may be smaller, not larger


def is_mean(named: dict[str, Any]) -> bool:
    """Return whether the arguments of a loss ask for a mean; size_average is the old way."""
    return named.get("reduction", "mean") == "mean" and named.get("size_average") is not False


class AStepFollowsItsOwnBatch(Law):
    """backward adds to what is in `grad`; a step must not follow the batches of earlier steps."""

    # By optimizer, since its last step: the norms of old and own gradients, and the signature;
    # None if the gradients were cleared.
    carried: dict[int, tuple[float, float, list[Any]] | None]

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        for held in self.trace.holders():
            old, own = held.norms
            is_first = held.steps and held.kept and id(held) not in self.carried
            if is_first and (own > 0 or old == 0):
                self.carried[id(held)] = (old, own, held.signature()) if old else None

    def on_clears(self, owner: Any, place: Place) -> None:
        self.carried.pop(id(self.trace.optimizers.get(id(owner))), None)

    def on_step_begins(self, held: Held) -> None:
        known = self.carried.get(id(held))
        if known and [i for i, _ in known[2]] != [i for i, _ in held.signature()]:
            del self.carried[id(held)]  # the script has put other gradients there

    def on_step_ends(self, held: Held) -> None:
        self.seen = self.seen or held.steps > 1
        old, own, _ = self.carried.pop(id(held), None) or (0.0, 0.0, [])
        if old > LEAST * own:
            text = f"nothing cleared the gradients of {held.name} before step {held.steps}"
            proof = f"the old gradients have norm {old:.3g}, those of this batch {own:.3g}"
            self.broken(held.backward, text, proof)


class OneStepForEachBackward(Law):
    """Each step uses the gradient of a new backward pass, and no batch's gradient is wasted."""

    explanation = Explanation(
        claim="training.step-order",
        concept="Steps and backward passes that do not belong together",
        why="a step without a new gradient repeats the last one; a gradient without one is lost",
        fix="for each batch: zero_grad, forward, loss, backward, step, all inside the loop",
    )

    values: dict[int, list[float]]  # of the gradients after a step
    unused: dict[int, list[Place]]  # backward passes cleared before a step
    cleared: dict[int, Place]

    def on_clears(self, owner: Any, place: Place) -> None:
        for held in self.trace.holders():
            is_own, first = owner is held.optimizer(), {id(p) for p in held.probes[:1]}
            if is_own:
                self.cleared[id(held)] = place
            is_model = isinstance(owner, nn.Module) and first <= {id(p) for p in owner.parameters()}
            if held.new and (is_model or is_own):
                held.new = 0
                if not self.was_attack():
                    self.unused.setdefault(id(held), []).append(held.backward)

    def was_attack(self) -> bool:
        """Return whether the last backward pass was for the gradient of an input."""
        given = self.trace.last.args if self.trace.last else ()
        return any(isinstance(x, Tensor) and x.requires_grad and x.is_leaf for x in given)

    def on_step_begins(self, held: Held) -> None:
        self.seen = True
        key, place, unused = id(held), held.place_of_step, self.unused.pop(id(held), [])
        if held.has_closure:
            return
        n, gradients = held.steps + 1, [p.grad for p in held.probes if p.grad is not None]
        if not held.new and not unused:
            values = sums(gradients)
            repeated = any(values) and values == self.values.get(key)
            self.values[key] = values
            if repeated and self.is_again((key, "repeated")):
                text = f"{held.name} stepped again without a new gradient"
                proof = f"at step {n} its gradients have the sums of the last ones, to the digit"
                self.broken(place, text, proof)
            elif not gradients and not self.trace.backwards and self.is_again((key, "none")):
                text = f"{held.name} steps, and no backward pass came before"
                proof = f"at step {n} every gradient is None: no parameter has moved"
                self.broken(place, text, proof)
        elif unused and not held.new and not any(bool(g.any()) for g in gradients):
            if self.is_again((key, "erased")):
                text = "zero_grad stands between backward and this step"
                proof = f"at step {n} no gradient is left of backward on line {unused[-1].line}"
                self.broken(place, text, proof)
        elif len(unused) >= BATCHES and function_at(unused[-1]) is function_at(place):
            text = f"the gradients of {len(unused)} backward passes were cleared before this step"
            proof = f"only the last of {len(unused) + 1} batches moves the weights"
            self.broken(place, text, proof)
        self.unused.clear()  # another optimizer used that backward pass, as in a GAN

    def on_step_ends(self, held: Held) -> None:
        if held.new and self.trace.close:
            self.values[id(held)] = sums([p.grad for p in held.probes if p.grad is not None])

    def on_finished(self) -> None:
        stepping = {id(p) for held in self.trace.holders() if held.steps for p in held.parameters}
        for held in self.trace.holders():
            moved = held.steps or any(id(p) in stepping for p in held.parameters)
            if held.reached >= BATCHES and not moved:
                self.seen = True
                text = f"{held.reached} backward passes, and {held.name} never stepped"
                proof = f"the optimizer of line {held.place.line} took 0 steps and has no state"
                near = self.cleared.get(id(held), held.place)
                self.broken(near if self.trace.steps else held.backward, text, proof)


def sums(gradients: list[Tensor]) -> list[float]:
    return [float(g.detach().double().sum()) for g in gradients]


class GradientsAreClippedBeforeTheStep(Law):
    """Clipping belongs between the last backward pass and the step, and after unscaling."""

    explanation = Explanation(
        claim="training.step-order",
        concept="Clipping at the wrong place",
        why="before backward there is nothing to clip, and after the step it is too late",
        fix="loss.backward(), scaler.unscale_(optimizer), clip_grad_norm_(...), optimizer.step()",
    )

    scale = 1.0

    def on_scaled(self, factor: float) -> None:
        self.scale = factor

    def on_clips(self, parameters: list[Tensor], limit: Any, place: Place) -> None:
        if not isinstance(limit, (int, float)) or not math.isfinite(limit) or limit <= 0:
            return
        clipped = {id(p) for p in parameters}
        holders = [h for h in self.trace.holders() if any(id(p) in clipped for p in h.probes)]
        if not holders:
            return
        self.seen = True
        total = norm([p.grad for p in parameters if p.grad is not None][:64])
        if self.scale > 1 and total > 0:
            text = f"the gradients are clipped while they are scaled by {self.scale:.6g}"
            real = total / self.scale
            proof = f"their norm is {total:.4g}; unscaled it is {real:.4g}, with a limit of {limit}"
        elif not any(held.new or held.has_closure for held in holders):
            text = "no backward pass has come since the last step, so there is nothing to clip"
            proof = f"their norm is {total:.3g}, and a step has used them"
            proof = proof if total else "every gradient is None or zero"
        else:
            return
        if self.is_again(place) and self.may_prove(place):
            self.broken(place, text, proof)

    def on_step_ends(self, held: Held) -> None:
        self.scale = 1.0


class AccumulationKeepsTheMean(Law):
    """Gradients of k micro-batches add up: each loss is to be divided by k."""

    explanation = Explanation(
        claim="autograd.micro-batches-add-up-to-a-batch",
        concept="Accumulated gradients that are not averaged",
        why="the gradient is k times that of the whole batch, as with k times the learning rate",
        fix="(loss / k).backward() for k micro-batches",
    )

    passes: dict[Place, list[float]]  # the divisor of each loss since the last step
    signed: list[Any]  # the gradients after backward
    is_sum = False

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        if is_mean(named) and result.grad_fn is not None:
            # Not the node itself, which would keep the graph alive.
            cast(Any, result.grad_fn).metadata[MEAN] = True

    def on_clears(self, owner: Any, place: Place) -> None:
        if hasattr(owner, "param_groups"):
            self.passes = {}

    def signatures(self) -> list[Any]:
        held = self.trace.holders() if self.trace.close else []
        return [signature for some in held for signature in some.signature() if any(signature)]

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        self.passes.setdefault(place, []).append(divisor(loss))

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        self.signed = self.signatures()

    def on_clips(self, parameters: Any, limit: Any, place: Place) -> None:
        self.is_sum = self.is_sum or self.signatures() == self.signed

    def on_step_begins(self, held: Held) -> None:
        passes, self.passes = self.passes, {}
        # Somebody may divide the gradients instead, between backward and the step.
        is_sum, self.is_sum = self.is_sum or self.signatures() == self.signed, False
        if len(passes) != 1 or not is_sum or not self.signed or not held.new:
            return
        ((place, divisors),) = passes.items()
        k, by = len(divisors), max(divisors)
        self.seen = self.seen or k > 1
        if k < 2 or not min(divisors) or k < MORE * by or not self.is_again("sum"):
            return
        divided = f"divided by {by:.4g}" if by > 1 else "not divided"
        text = f"{k} backward passes add up before the step, each of a mean that is {divided}"
        if by <= 1 and not is_accumulation(place):
            self.note(place, f"{text}: a sum over tasks may be meant")
        elif self.may_prove(place):
            whole = norm(grad for grad in held.gradients() if grad is not None)
            proof = f"the gradient has norm {whole:.3g}; the mean over all {k} has "
            self.broken(place, text, f"{proof}{whole * by / k:.3g}")


def divisor(loss: Tensor) -> float:
    """Return by what a mean was divided before its backward, 0 if the loss is no mean."""
    node: Any = loss.grad_fn
    found = 1.0
    while node is not None and MEAN not in node.metadata and node.name().startswith(SCALING):
        by = node._saved_other if node.name().startswith("Div") else None
        found *= float(by) if by is not None and by.numel() == 1 else 1.0
        node = node.next_functions[0][0]
    is_mean = node is not None and (MEAN in node.metadata or node.name().startswith("Mean"))
    return found if is_mean else 0.0


def is_accumulation(place: Place) -> bool:
    """Return whether the code says that it accumulates: by its names, or a step each k batches."""
    function: Any = function_at(place)
    first, last = getattr(function, "lineno", 1), getattr(function, "end_lineno", None)
    text = "".join(linecache.getlines(place.file)[first - 1 : last]).lower()
    if "accum" in text or "micro" in text:
        return True
    return any(
        isinstance(node, ast.If)
        and any(isinstance(n, ast.Mod) for n in ast.walk(node.test))
        and any(isinstance(n, ast.Attribute) and n.attr == "step" for n in ast.walk(node))
        for node in ast.walk(function)
    )
