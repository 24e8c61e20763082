"""Dropout and BatchNorm are to be in eval mode when a trained model is evaluated."""

from typing import Any

from dlconcepts.watch.law import Law
from dlconcepts.watch.proofs import apart, can_run, run_again
from dlconcepts.watch.trace import Forward

SAME = 1e-5  # what float32 may round


class ValidationIsInEvalMode(Law):
    id = "validation-is-in-eval-mode"

    def on_unused(self, forward: Forward) -> None:
        if not self.trace.is_validation(forward):
            return
        self.seen = True
        if not forward.training or not can_run(forward) or not self.may_prove(forward.place):
            return
        layers = [type(m).__name__ for m in forward.owner.modules() if m.training]
        switched = list(dict.fromkeys(n for n in layers if "Drop" in n or "Norm" in n))
        outputs: list[Any] = [
            run_again(self.trace, forward, training=mode, seed=seed)
            for mode, seed in ((True, 0), (True, 1), (False, 0))
        ]
        chance, far = apart(*outputs[:2]), apart(outputs[0], outputs[2])
        if far > SAME:
            by_chance = f", and {chance:.2g} from one pass to the next" if chance > SAME else ""
            self.broken(
                forward.place,
                f"the model was evaluated in training mode, with {', '.join(switched[:3])}"
                if switched
                else "the model was evaluated in training mode",
                f"in eval mode the outputs for the same batch differ by {far:.2g} of the largest"
                f"{by_chance}",
            )
