"""In eval mode the output for an example must depend on that example alone."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.proofs import can_run, influence
from dlconcepts.watch.trace import Forward, Held

LARGEST = 1e-3  # relative change of an output that rounding cannot make


class ExamplesStayApart(Law):
    id = "examples-stay-apart"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.softmaxes: list[tuple[int, Place]] = []
        self.judged: set[int] = set()

    def on_softmax(
        self, name: str, args: Any, dim: Any, result: Tensor, inside: bool, place: Place
    ) -> None:
        axis = dim if dim is not None else (0 if result.ndim in (0, 1, 3) else 1)
        if inside and result.ndim > 1 and axis in (0, -result.ndim) and len(self.softmaxes) < 16:
            self.softmaxes.append((len(result), place))

    def on_step_ends(self, held: Held) -> None:
        forward = self.trace.last
        if forward is None or held.steps < 2 or id(forward.owner) in self.judged:
            return
        self.judged.add(id(forward.owner))
        suspects, self.softmaxes = self.softmaxes, []
        inputs = next((x for x in forward.args if isinstance(x, Tensor) and x.ndim), None)
        if inputs is None or len(inputs) < 2 or not can_run(forward):
            return
        n = len(inputs)
        lines = [place for size, place in suspects if size == n]
        # A loader stacks separate examples. What a graph or a sentence has along its first
        # dimension may depend on one another.
        if not lines and n not in self.sizes(forward):
            return
        self.seen = True

        def others_replaced(tensor: Tensor) -> Tensor:
            if not tensor.ndim or len(tensor) != n:
                return tensor
            return torch.cat([tensor[:1], tensor[:1].expand_as(tensor[1:])])

        def first(tensor: Tensor) -> Tensor | None:
            return tensor[0] if tensor.ndim and len(tensor) == n else None

        far, place = influence(self.trace, forward, others_replaced, first)
        if far > LARGEST:
            what = (
                "the softmax runs over the batch dimension"
                if lines
                else ("the output for an example depends on the others in its batch")
            )
            self.broken(
                lines[0] if lines else place,
                what,
                f"in eval mode a change of the other {n - 1} examples moved the output for the "
                f"first by {far:.2g} of its largest value",
            )

    def sizes(self, forward: Forward) -> set[int]:
        """Return how many examples the batches of a forward pass's loader have."""
        loader = self.trace.loaders.get(forward.loader, lambda: None)()
        size = getattr(loader, "batch_size", None)
        if not size:
            return set()
        total = len(loader.dataset) if hasattr(loader.dataset, "__len__") else 0
        return {size, total % size}
