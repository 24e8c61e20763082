"""What gets a gradient, and is to learn, must be in an optimizer."""

from typing import Any

from torch import Tensor, nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.proofs import plain
from dlconcepts.watch.trace import Held

STEPS = 3


class TheOptimizerHoldsTheModel(Law):
    id = "the-optimizer-holds-the-model"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.first: dict[int, tuple[int, float]] = {}
        self.judged: set[int] = set()

    def on_step_ends(self, held: Held) -> None:
        forward = self.trace.last
        if forward is None or not self.trace.close:
            return
        self.seen = True
        model = plain(forward.owner)
        outside = self.outside(model)
        for _, p in outside:
            self.first.setdefault(id(p), (p._version, float(p.detach().double().sum())))
        # Other optimizers may still be built, and those of a GAN step in turn.
        if outside and self.trace.steps >= STEPS * len(self.trace.holders()):
            self.judge(model, outside)

    def outside(self, model: nn.Module) -> list[tuple[str, Tensor]]:
        held = {id(p) for some in self.trace.holders() for p in some.parameters}
        return [
            (name, p)
            for name, p in model.named_parameters()
            if p.requires_grad and p.grad is not None and id(p) not in held
        ]

    def judge(self, model: nn.Module, outside: list[tuple[str, Tensor]]) -> None:
        if id(model) in self.judged:
            return
        self.judged.add(id(model))
        name, p = outside[0]
        unmoved = self.first[id(p)] == (p._version, float(p.detach().double().sum()))
        if not unmoved or p.grad is None:
            return  # the script moves it by itself
        strangers = [
            (held, [q for q in held.parameters if q.grad is None and isinstance(q, nn.Parameter)])
            for held in self.trace.holders()
        ]
        held, lost = max(strangers, key=lambda pair: len(pair[1]))
        known = {id(q) for q in model.parameters()}
        lost = [q for q in lost if id(q) not in known]
        trains = any(self.trace.is_held(q) for q in model.parameters())
        said = f"{len(outside)} parameters get a gradient and are in no optimizer, first {name}"
        proof = (
            f"{name} has a gradient of norm {float(p.grad.norm()):.3g}, and is the same to the "
            f"last digit after {self.trace.steps} steps"
        )
        if lost:
            self.broken(
                held.place,
                f"{said}; this optimizer holds {len(lost)} tensors that the model does not have",
                proof,
            )
        elif trains and not self.trace.was_loaded(model, p):
            # Of loaded weights one may want to train the head alone.
            self.broken(held.place, said, proof)
