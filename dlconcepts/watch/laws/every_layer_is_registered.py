"""A layer that forward uses must be registered, or nothing trains, moves or saves it."""

from typing import Any

from torch import Tensor, nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, line_of_attribute
from dlconcepts.watch.trace import Forward, Held

NODES = 5000  # of a graph; a larger one is searched in part


class EveryLayerIsRegistered(Law):
    id = "every-layer-is-registered"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.strangers: list[tuple[str, list[Tensor], Forward, Place]] = []
        self.leaves: list[Tensor] = []
        self.place = NOWHERE

    def on_stranger(self, module: nn.Module, forward: Forward, place: Place) -> None:
        own: list[Tensor] = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if own and forward.grad:
            self.strangers.append((type(module).__name__, own, forward, place))

    def on_backward_begins(self, loss: Tensor, place: Place) -> None:
        if self.trace.close and self.trace.steps < 2:
            self.leaves = leaves(loss)

    def on_backward_ends(self, loss: Tensor, place: Place) -> None:
        strangers, self.strangers = self.strangers, []
        for name, own, forward, where in strangers:
            self.seen = True
            if not forward.walked or any(self.trace.is_held(p) for p in own):
                continue
            reached = [p for p in own if p.grad is not None]
            if reached and self.may_prove(where):
                self.broken(
                    where,
                    f"forward uses a {name} that {type(forward.owner).__name__}.parameters() does "
                    "not list",
                    f"its {len(own)} tensors, the first of shape {tuple(own[0].shape)}, got a "
                    "gradient, and neither the optimizer nor state_dict() has them",
                )
        last = self.trace.last
        if last is not None and self.leaves and not strangers:
            self.judge_leaves(last)
        self.leaves = []

    def judge_leaves(self, forward: Forward) -> None:
        given = [x for x in forward.args if isinstance(x, Tensor)]
        if any(x.requires_grad for x in given):
            return  # what is in front of the model is not its own
        models = [*self.trace.models(), forward.owner]
        known = {id(p) for model in models for p in model.parameters()}
        unknown = [x for x in self.leaves if id(x) not in known and not self.trace.is_held(x)]
        plain = vars(forward.owner).items()
        parts = [(n, x) for n, x in plain if any(x is leaf for leaf in unknown)]
        self.seen = True
        for name, tensor in parts:
            if self.may_prove(name):
                self.broken(
                    line_of_attribute(forward.owner, name, "forward") or forward.place,
                    f"{type(forward.owner).__name__}.{name} is no Parameter, and needs a gradient",
                    f"the tensor of shape {tuple(tensor.shape)} got a gradient, and neither the "
                    "optimizer nor state_dict() has it",
                )

    def on_step_ends(self, held: Held) -> None:
        self.seen = True


def leaves(loss: Tensor) -> list[Tensor]:
    """Return the leaves of a graph that require a gradient."""
    waiting, seen, found = [loss.grad_fn], set[Any](), list[Tensor]()
    while waiting and len(seen) < NODES:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found
