"""What an output may depend on: its own example alone, and not on what it is to predict."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place
from dlconcepts.watch.proofs import can_run, influence
from dlconcepts.watch.trace import Forward, Held

LARGEST = 1e-3  # relative change of an output that rounding cannot make
ROWS = 8  # fewer examples could agree with a column by chance


class ExamplesStayApart(Law):
    """In eval mode the output for an example must depend on that example alone."""

    softmaxes: dict[Place, int]  # over the first dimension, and its size

    def on_softmax(
        self, name: str, args: Any, dim: Any, result: Tensor, inside: bool, place: Place
    ) -> None:
        axis = dim if dim is not None else (0 if result.ndim in (0, 1, 3) else 1)
        if inside and result.ndim > 1 and axis in (0, -result.ndim):
            self.softmaxes[place] = len(result)

    def on_trained(self, forward: Forward, held: Held) -> None:
        if held.steps < 2 or self.is_again(id(forward.owner)):
            return
        inputs, loader = forward.inputs, forward.source
        if inputs is None or len(inputs) < 2 or not can_run(forward):
            return
        n = len(inputs)
        lines = [place for place, size in self.softmaxes.items() if size == n]
        # A loader stacks separate examples. What a graph or a sentence has along its first
        # dimension may depend on one another.
        size = getattr(loader, "batch_size", None)
        rest = len(loader.dataset) % size if size and hasattr(loader.dataset, "__len__") else 0
        if not lines and n not in (size, rest):
            return
        self.seen = True

        def others_replaced(tensor: Tensor) -> Tensor:
            if not tensor.ndim or len(tensor) != n:
                return tensor
            return tensor[:1].expand_as(tensor).clone()

        def first(tensor: Tensor) -> Tensor | None:
            return tensor[0] if tensor.ndim and len(tensor) == n else None

        far, place = influence(forward, others_replaced, first)
        if far > LARGEST:
            text = "the output for an example depends on the others in its batch"
            text = "the softmax runs over the batch dimension" if lines else text
            proof = f"other examples in eval mode moved the output for the first by {far:.2g} of it"
            self.broken(lines[0] if lines else place, text, proof)


class PredictionsDoNotSeeTheirTargets(Law):
    """A model must predict its targets without seeing them."""

    claim = "networks.forward-chains-layers"
    concept = "Model that sees what it is to predict"
    why = "the loss falls to nothing, and nothing can be predicted where the answer is missing"
    fix = "a causal mask, targets shifted by one, no column of the inputs that holds the target"

    target: Tensor | None = None
    place = NOWHERE

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        if result.requires_grad and self.trace.close:
            self.target, self.place = named["target"].detach(), place

    def on_trained(self, forward: Forward, held: Held) -> None:
        target, self.target = self.target, None
        if target is None or self.is_again(id(forward.owner)):
            return
        for x in forward.args:
            if isinstance(x, Tensor) and x.ndim == 2 and x.shape[1] > 2:
                if x.is_floating_point():
                    self.look_for_column(x, target, forward)
                elif not target.is_floating_point() and can_run(forward):
                    self.look_ahead(x, target, forward)

    def look_for_column(self, inputs: Tensor, target: Tensor, forward: Forward) -> None:
        n = len(inputs)
        if target.numel() != n or n < ROWS:
            return
        self.seen = True
        flat = target.reshape(-1, 1).to(inputs)
        same = (inputs.detach() == flat).all(dim=0).nonzero().flatten().tolist()
        if same and len(flat.unique()) > 1:
            text = f"column {same[0]} of the inputs holds the targets"
            proof = f"it equals the target for each of the {n} examples of the batch"
            self.broken(forward.place, text, proof)

    def look_ahead(self, tokens: Tensor, target: Tensor, forward: Forward) -> None:
        """Change the last token, and see whether an output moves that must not know it."""
        target = target.to(tokens)
        own = torch.equal(target.reshape(-1), tokens.reshape(-1))
        dims = [dim for dim in (1, 0) if own or is_shifted(tokens, target, dim)]
        if not dims:  # time first is another custom
            return
        self.seen, dim = True, dims[0]
        last, most = tokens.shape[dim] - 1, int(tokens.max()) + 1

        def change(tensor: Tensor) -> Tensor:
            if tensor.shape != tokens.shape or not torch.equal(tensor, tokens):
                return tensor
            other = tensor.clone()
            other.narrow(dim, last, 1).add_(1).remainder_(most)
            return other

        def to_predict_it(tensor: Tensor) -> Tensor | None:
            if tensor.ndim < 3 or tensor.shape[dim] != last + 1:
                return None
            return tensor.narrow(dim, last, 1) if own else tensor.narrow(dim, 0, last)

        far, place = influence(forward, change, to_predict_it)
        if far > LARGEST:
            text = "the prediction of a token depends on that token"
            text = "the targets are the inputs themselves" if own else text
            what = "the output there" if own else "outputs that are to predict it, or come before,"
            proof = f"another token at position {last} moved {what} by {far:.2g} of the largest"
            self.broken(self.place if own else place, text, proof)


def is_shifted(tokens: Tensor, target: Tensor, dim: int) -> bool:
    """Return whether the targets are the tokens that follow each token."""
    last = tokens.shape[dim] - 1
    if target.numel() == tokens.numel():
        target = target.reshape(tokens.shape).narrow(dim, 0, last)
    return torch.equal(target.reshape(-1), tokens.narrow(dim, 1, last).reshape(-1))
