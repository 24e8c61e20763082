"""An elementwise loss compares each output with one target, not (N, 1) with (N,)."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.trace import Forward

ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy")
VIEWS = ("View", "UnsafeView", "Reshape", "Clone")
DEEP = 32  # operations between a loss and the outputs


class TheLossPairsOutputsWithTargets(Law):
    id = "the-loss-pairs-outputs-with-targets"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.outputs: dict[Any, tuple[int, ...]] = {}

    def on_forward(self, forward: Forward, output: Any) -> None:
        if self.trace.close and isinstance(output, Tensor) and output.grad_fn is not None:
            self.outputs = {output.grad_fn: tuple(output.shape)}

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        output, target = named["input"], named["target"]
        if name == "cross_entropy":
            self.look_at_pixels(output, target, place)
        if name not in ELEMENTWISE or not output.requires_grad:
            return
        self.seen = True
        if output.shape == target.shape or output.numel() != target.numel():
            return
        try:
            pairs = torch.broadcast_shapes(output.shape, target.shape).numel()
        except RuntimeError:
            return
        if pairs > output.numel() and self.may_prove(place):
            function = getattr(F, name)
            with self.trace.proving(), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                alike = function(output.detach(), target.reshape(output.shape)).item()
                crossed = function(output.detach(), target).item()
            self.report(place, tuple(output.shape), tuple(target.shape), pairs, alike, crossed)

    def look_at_pixels(self, scores: Tensor, target: Tensor, place: Place) -> None:
        """Look for maps (N, C, ...) that were reshaped to rows of C without a permutation."""
        whole = next((shape for node, shape in self.outputs.items() if is_view(scores, node)), ())
        if len(whole) < 3 or scores.ndim != 2 or whole[1] == whole[-1]:
            return
        if scores.shape[1] != whole[1] or target.ndim != 1 or not self.may_prove(place):
            return
        with self.trace.proving(), torch.no_grad():
            maps = scores.detach().reshape(whole).movedim(1, -1).reshape(scores.shape)
            right, wrong = F.cross_entropy(maps, target), F.cross_entropy(scores.detach(), target)
        if not torch.allclose(right, wrong):
            self.broken(
                place,
                f"outputs {whole} were reshaped to {tuple(scores.shape)} without a permutation: a "
                "row mixes values of several positions",
                f"with the classes moved last, the loss of the same batch is {right.item():.4g}, "
                f"not {wrong.item():.4g}",
            )

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        """Look for a difference of outputs and targets that was written by hand."""
        outputs, self.outputs = self.outputs, {}
        waiting, seen = [(loss.grad_fn, 0)], set()
        while outputs and waiting:
            node, depth = waiting.pop()
            if node is None or node in seen or depth > DEEP or node in outputs:
                continue
            seen.add(node)
            name = node.name().partition("Backward")[0]
            after = [following for following, _ in node.next_functions]
            waiting += [(following, depth + 1) for following in after]
            shape = next((outputs[other] for other in after if other in outputs), None)
            if shape is not None and name == "Sub":
                self.seen = True
                made = shape_after(node)
                n = shape[0] if shape else 0
                # (N, 1) minus (N,) broadcasts to (N, N); only its diagonal makes sense.
                if n > 1 and made == (n, n) and shape in ((n, 1), (n,)) and self.may_prove(place):
                    self.broken(
                        place,
                        f"outputs {shape} minus targets of another shape gave {made}",
                        f"the loss compares {n * n} pairs of {n} examples; {n} are meant",
                    )

    def report(
        self,
        place: Place,
        output: tuple[int, ...],
        target: tuple[int, ...],
        pairs: int,
        alike: float,
        crossed: float,
    ) -> None:
        if abs(alike - crossed) > 1e-6 * max(abs(alike), abs(crossed)):
            self.broken(
                place,
                f"outputs {output} and targets {target} were compared as {pairs} pairs",
                f"with one shape the loss of the same batch is {alike:.4g}, not {crossed:.4g}",
            )


def is_view(scores: Tensor, node: Any) -> bool:
    """Return whether scores are an output of a graph's node, reshaped and nothing else."""
    found: Any = scores.grad_fn
    while found is not None and found is not node and found.name().startswith(VIEWS):
        found = found.next_functions[0][0]
    return found is node


def shape_after(node: Any) -> tuple[int, ...]:
    metadata = getattr(node, "_input_metadata", None)
    return tuple(metadata[0].shape) if metadata else ()
