"""A language model must predict a token without seeing it."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.proofs import can_run, run_again
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held

LARGEST = 1e-3  # relative change of an output that rounding cannot make


class PredictionsDoNotSeeTheirTargets(Law):
    id = "predictions-do-not-see-their-targets"
    explanation = Explanation(
        claim="networks.forward-chains-layers",
        concept="Model that sees what it is to predict",
        why="the loss falls to nothing in training, and nothing can be generated, where the next "
        "token is not there to be copied",
        fix="a causal mask: position t attends to positions 0 to t only",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.targets: tuple[Tensor, Place] | None = None
        self.judged: set[int] = set()

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        target = named["target"]
        if not target.is_floating_point() and result.requires_grad and self.trace.close:
            self.targets = target.detach(), place

    def on_step_ends(self, held: Held) -> None:
        forward, found, self.targets = self.trace.last, self.targets, None
        if forward is None or found is None or id(forward.owner) in self.judged:
            return
        tokens = [x for x in forward.args if isinstance(x, Tensor) and not x.is_floating_point()]
        whole = next((x for x in tokens if x.ndim == 2 and x.shape[1] > 2), None)
        if whole is None or not can_run(forward):
            return
        self.judged.add(id(forward.owner))
        target, _place = found[0].reshape(-1), found[1]
        for dim in (1, 0):  # time first is another custom
            following = whole.narrow(dim, 1, whole.shape[dim] - 1)
            t = whole.shape[dim]
            if target.numel() == whole.numel():
                shifted = target.reshape(whole.shape).narrow(dim, 0, t - 1)
            elif target.numel() == following.numel():
                shifted = target.reshape(following.shape)
            else:
                continue
            if not torch.equal(shifted.cpu(), following.cpu()):
                continue
            self.seen = True
            far, at = self.sight(forward, whole, dim)
            if far > LARGEST:
                self.broken(
                    forward.place,
                    "the prediction of a token depends on that token",
                    f"another token at position {t - 1} moved the outputs at position {at}, which "
                    f"are to predict it or come before it, by {far:.2g} of their largest value",
                )
            return

    def sight(self, forward: Any, whole: Tensor, dim: int) -> tuple[float, int]:
        """Return how far the last token moves the outputs before it, and where."""
        from dlconcepts.checks.trees import distance, floats

        t = whole.shape[dim]
        other = whole.clone()
        last = other.narrow(dim, t - 1, 1)
        last.copy_((last + 1) % (int(whole.max()) + 1))
        args = tuple(other if x is whole else x for x in forward.args)
        before = floats(run_again(self.trace, forward, training=False, seed=0))
        after = floats(run_again(self.trace, forward, training=False, seed=0, args=args))
        for path, x in before.items():
            if x.ndim >= 3 and x.shape[dim] == t and path in after:
                pair = [y.narrow(dim, 0, t - 1) for y in (x, after[path])]
                return distance(*pair), t - 2
        return 0.0, 0
