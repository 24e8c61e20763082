"""What an output may depend on: its own example alone, and not on what it is to predict."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place
from dlconcepts.watch.proofs import can_run, influence
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Forward, Held

LARGEST = 1e-3  # relative change of an output that rounding cannot make
ROWS = 8  # fewer examples could agree with a column by chance


class ExamplesStayApart(Law):
    """In eval mode the output for an example must depend on that example alone."""

    softmaxes: list[tuple[int, Place]]

    def on_softmax(
        self, name: str, args: Any, dim: Any, result: Tensor, inside: bool, place: Place
    ) -> None:
        axis = dim if dim is not None else (0 if result.ndim in (0, 1, 3) else 1)
        if inside and result.ndim > 1 and axis in (0, -result.ndim) and len(self.softmaxes) < 16:
            self.softmaxes.append((len(result), place))

    def on_trained(self, forward: Forward, held: Held) -> None:
        if held.steps < 2 or self.is_again(id(forward.owner)):
            return
        suspects, self.softmaxes = self.softmaxes, []
        inputs, loader = forward.inputs, self.trace.loader_of(forward)
        if inputs is None or len(inputs) < 2 or not can_run(forward):
            return
        n = len(inputs)
        lines = [place for size, place in suspects if size == n]
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
            return torch.cat([tensor[:1], tensor[:1].expand_as(tensor[1:])])

        def first(tensor: Tensor) -> Tensor | None:
            return tensor[0] if tensor.ndim and len(tensor) == n else None

        far, place = influence(self.trace, forward, others_replaced, first)
        if far > LARGEST:
            text = "the output for an example depends on the others in its batch"
            text = "the softmax runs over the batch dimension" if lines else text
            proof = f"other examples in eval mode moved the output for the first by {far:.2g} of it"
            self.broken(lines[0] if lines else place, text, proof)


class PredictionsDoNotSeeTheirTargets(Law):
    """A model must predict its targets without seeing them."""

    explanation = Explanation(
        claim="networks.forward-chains-layers",
        concept="Model that sees what it is to predict",
        why="the loss falls to nothing, and nothing can be predicted where the answer is missing",
        fix="a causal mask, targets shifted by one, no column of the inputs that holds the target",
    )

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
            if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] < 3:
                continue
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
        if torch.equal(target.reshape(-1).to(tokens), tokens.reshape(-1)):
            self.judge(tokens, 1, forward, "the targets are the inputs themselves", True)
            return
        for dim in (1, 0):  # time first is another custom
            following = tokens.narrow(dim, 1, tokens.shape[dim] - 1)
            shifted = target.to(tokens)
            if target.numel() == tokens.numel():
                shifted = shifted.reshape(tokens.shape).narrow(dim, 0, tokens.shape[dim] - 1)
            if shifted.numel() == following.numel() and torch.equal(
                shifted.reshape(following.shape), following
            ):
                text = "the prediction of a token depends on that token"
                self.judge(tokens, dim, forward, text, False)
                return

    def judge(self, tokens: Tensor, dim: int, forward: Forward, text: str, own: bool) -> None:
        """Change the last token, and see whether an output moves that must not know it."""
        self.seen = True
        last, most = tokens.shape[dim] - 1, int(tokens.max()) + 1

        def change(tensor: Tensor) -> Tensor:
            if tensor.shape != tokens.shape or not torch.equal(tensor, tokens):
                return tensor
            other = tensor.clone()
            token = other.narrow(dim, last, 1)
            token.copy_((token + 1) % most)
            return other

        def to_predict_it(tensor: Tensor) -> Tensor | None:
            if tensor.ndim < 3 or tensor.shape[dim] != last + 1:
                return None
            return tensor.narrow(dim, last, 1) if own else tensor.narrow(dim, 0, last)

        far, place = influence(self.trace, forward, change, to_predict_it)
        if far > LARGEST:
            what = "the output there" if own else "outputs that are to predict it, or come before,"
            proof = f"another token at position {last} moved {what} by {far:.2g} of the largest"
            self.broken(self.place if own else place, text, proof)
