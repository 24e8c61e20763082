"""A model must predict its targets without seeing them."""

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


class PredictionsDoNotSeeTheirTargets(Law):
    id = "predictions-do-not-see-their-targets"
    explanation = Explanation(
        claim="networks.forward-chains-layers",
        concept="Model that sees what it is to predict",
        why="the loss falls to nothing in training, and nothing can be predicted, where the answer "
        "is not there to be copied",
        fix="a causal mask (position t attends to positions 0 to t), targets shifted by one, and "
        "no column of the inputs that holds the target",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.target: Tensor | None = None
        self.place = NOWHERE
        self.judged: set[int] = set()

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        if result.requires_grad and self.trace.close:
            self.target, self.place = named["target"].detach(), place

    def on_step_ends(self, held: Held) -> None:
        forward, target, self.target = self.trace.last, self.target, None
        if forward is None or target is None or id(forward.owner) in self.judged:
            return
        self.judged.add(id(forward.owner))
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
        if len(flat.unique()) < 2:
            return
        same = (inputs.detach() == flat).all(dim=0).nonzero().flatten().tolist()
        if same:
            self.broken(
                forward.place,
                f"column {same[0]} of the inputs holds the targets",
                f"it equals the target for each of the {n} examples of the batch",
            )

    def look_ahead(self, tokens: Tensor, target: Tensor, forward: Forward) -> None:
        for dim in (1, 0):  # time first is another custom
            t = tokens.shape[dim]
            following = tokens.narrow(dim, 1, t - 1)
            if target.numel() == tokens.numel():
                whole = target.reshape(tokens.shape).to(tokens)
                if torch.equal(whole, tokens):
                    self.judge(tokens, dim, forward, "the targets are the inputs themselves", 1)
                    return
                shifted = whole.narrow(dim, 0, t - 1)
            elif target.numel() == following.numel():
                shifted = target.reshape(following.shape).to(tokens)
            else:
                continue
            if torch.equal(shifted, following):
                text = "the prediction of a token depends on that token"
                self.judge(tokens, dim, forward, text, 0)
                return

    def judge(self, tokens: Tensor, dim: int, forward: Forward, text: str, own: int) -> None:
        """Change the last token, and see whether an output moves that must not know it."""
        self.seen = True
        t, most = tokens.shape[dim], int(tokens.max()) + 1

        def change(tensor: Tensor) -> Tensor:
            if tensor.shape != tokens.shape or not torch.equal(tensor, tokens):
                return tensor
            other = tensor.clone()
            last = other.narrow(dim, t - 1, 1)
            last.copy_((last + 1) % most)
            return other

        def before(tensor: Tensor) -> Tensor | None:
            if tensor.ndim < 3 or tensor.shape[dim] != t:
                return None
            return tensor.narrow(dim, 0, t - 1) if not own else tensor.narrow(dim, t - 1, 1)

        far, place = influence(self.trace, forward, change, before)
        if far > LARGEST:
            self.broken(
                self.place if own else place,
                text,
                f"another token at position {t - 1} moved the outputs that are to predict it"
                f"{'' if own else ' or come before it'} by {far:.2g} of their largest value",
            )
