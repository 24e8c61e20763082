"""A model that trains is to be in training mode, also after an evaluation."""

from typing import Any

from torch import nn

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, function_at, last_line_of_function
from dlconcepts.watch.proofs import apart, can_run, run_again
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Forward, Held

STEPS = 2  # in eval mode, of a model that never was in training mode
SAME = 1e-5  # what float32 may round


class TrainingIsInTrainingMode(Law):
    id = "training-is-in-training-mode"
    explanation = Explanation(
        claim="validation.eval-and-train-modes",
        concept="Training in eval mode",
        why="dropout is off and BatchNorm keeps its old statistics, so the model trains without "
        "what was to regularise it",
        fix="model.train() at the start of each epoch, and again after each evaluation inside it",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.trained: set[int] = set()  # models that have trained in training mode
        self.steps: dict[int, int] = {}

    def on_step_begins(self, held: Held) -> None:
        forward = self.trace.last
        if forward is None:
            return
        model = forward.owner
        if forward.training and id(model) in self.trained:
            self.steps.pop(id(model), None)
            return
        layers = [m for m in model.modules() if is_switched(m)]
        self.seen = self.seen or bool(layers)
        if forward.training:
            self.trained.add(id(model))
            return
        if not layers or any(m.training for m in layers):
            return
        self.steps[id(model)] = self.steps.get(id(model), 0) + 1
        frozen = any(not p.requires_grad for p in model.parameters())
        began = id(model) in self.trained
        modes = self.trace.modes.get(model, {})
        was_put = False in modes or self.trace.was_loaded(model, next(model.parameters()))
        late = self.steps[id(model)] >= STEPS and was_put and not frozen
        if not began and not late:
            return
        if can_run(forward) and self.may_prove(id(model)):
            pair = [run_again(self.trace, forward, training=mode, seed=0) for mode in (True, False)]
            if (far := apart(*pair)) > SAME:
                evaluated = modes.get(False, NOWHERE)
                by = f": eval() on line {evaluated.line} was not undone" if evaluated.line else ""
                names = ", ".join(dict.fromkeys(type(m).__name__ for m in layers))
                self.broken(
                    where(modes, forward),
                    f"the model trains in eval mode, with {names}{by}",
                    f"in training mode the outputs for the same batch differ by {far:.2g} of the "
                    "largest",
                )


def where(modes: dict[bool, Place], forward: Forward) -> Place:
    """Return the line that is to change: of train() if it comes once too early, else of eval()."""
    train, evaluate = modes.get(True, NOWHERE), modes.get(False, NOWHERE)
    if not evaluate.line:
        return forward.place
    if function_at(evaluate) is function_at(forward.place):
        return train if train.line and train.file == evaluate.file else evaluate
    # An evaluation that does not restore the mode is mended at its end.
    return last_line_of_function(evaluate)


def is_switched(module: nn.Module) -> bool:
    """Return whether a layer does something else in training."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    return isinstance(module, kinds) and getattr(module, "p", 1) != 0
