"""What an evaluation needs, and what it must leave alone: modes, chance, gradients and weights."""

from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place, function_at, says_validation
from dlconcepts.watch.proofs import can_run, differences, moved, run_again
from dlconcepts.watch.trace import Forward, Held

SAME = 1e-5  # what float32 may round
STEPS = 2  # in eval mode, of a model that never was in training mode
DROPOUT, BATCH_NORM = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm


class ValidationIsInEvalMode(Law):
    """Dropout and BatchNorm are to be in eval mode when a trained model is evaluated."""

    def on_evaluated(self, forward: Forward) -> None:
        self.seen = True
        if not forward.training or not can_run(forward) or not self.may_prove(forward.place):
            return
        (far,) = differences(forward, (True, 0), (False, 0))
        if far > SAME:
            layers = [m for m in forward.owner.modules() if m.training and is_switched(m)]
            text = f"the model was evaluated in training mode{named(layers)}"
            proof = f"in eval mode the outputs of the same batch differ by {far:.2g} of the largest"
            self.broken(forward.place, text, proof)


class TrainingIsInTrainingMode(Law):
    """A model that trains is to be in training mode, also after an evaluation."""

    claim = "validation.eval-and-train-modes"
    concept = "Training in eval mode"
    why = "dropout is off and BatchNorm keeps its old statistics: nothing regularises the model"
    fix = "model.train() at the start of each epoch, and again after each evaluation inside it"

    def on_step_begins(self, held: Held) -> None:
        forward = self.trace.last
        if forward is None:
            return
        model, key, modes = (
            forward.owner,
            id(forward.owner),
            self.trace.modes.get(forward.owner, {}),
        )
        layers = [m for m in model.modules() if is_switched(m)]
        self.seen = self.seen or bool(layers)
        is_off = layers and not forward.training and not any(m.training for m in layers)
        self.counts[key] = self.counts[key] + 1 if is_off else 0
        if self.counts[key] == STEPS and can_run(forward):
            # Somebody may have put it there, or may want it so for the frozen part.
            was_put = False in modes or self.trace.was_loaded(model, next(model.parameters()))
            is_meant = True not in modes and any(not p.requires_grad for p in model.parameters())
            (far,) = differences(forward, (True, 0), (False, 0))
            if was_put and not is_meant and far > SAME:
                text = f"the model trains in eval mode{named(layers)}"
                proof = f"in training mode the outputs differ by {far:.2g} of the largest"
                self.broken(modes.get(False, forward.place), text, proof)


def named(layers: list[nn.Module]) -> str:
    names = list(dict.fromkeys(type(layer).__name__ for layer in layers))
    return f", with {', '.join(names[:3])}" if names else ""


def is_switched(module: nn.Module) -> bool:
    """Return whether a layer does something else in training."""
    return isinstance(module, (DROPOUT, BATCH_NORM)) and getattr(module, "p", 1) != 0


class ValidationRecordsNoGradients(Law):
    """An evaluation needs no graph: it belongs in torch.no_grad()."""

    def on_evaluated(self, forward: Forward) -> None:
        self.seen = True
        is_recorded = forward.grad and forward.marks and can_run(forward)
        if not is_recorded or not self.may_prove(forward.place):
            return
        saved: dict[int, Tensor] = {}
        with saved_tensors_hooks(lambda x: saved.setdefault(x.data_ptr(), x), lambda x: x):
            recorded = run_again(forward, grad=True)
        if saved and moved(recorded, run_again(forward)) == 0:
            text = "the outputs of an evaluation recorded a graph that no backward pass used"
            size = sum(x.nbytes for x in saved.values()) / 2**20
            proof = f"each batch kept {size:.2g} MB for a backward pass; "
            proof += "torch.no_grad() keeps none, and gives the same outputs to the last bit"
            self.broken(forward.place, text, proof)


class ValidationChangesNothing(Law):
    """An evaluation must not train: neither weights nor running statistics may move."""

    after: dict[Held, tuple[int, float]]  # by optimizer: a step, and the weights after it
    evaluation: Forward | None = None
    suspect: float | None = None  # the weights before a step in an evaluation
    loads = others = 0

    def on_forward(self, forward: Forward, output: Any) -> None:
        if not forward.grad and self.trace.is_validation(forward):
            self.seen, self.evaluation = True, forward

    def on_state_loads(self, *_: Any) -> None:
        self.loads += 1

    def on_step_begins(self, held: Held) -> None:
        """Compare the weights with those after the last step, if an evaluation came between."""
        loads, self.loads, now = self.loads, 0, digest(held)
        forward, last = self.evaluation, self.trace.last
        step, before = self.after.get(held, (-1, 0.0))
        if step == held.steps and before != now and not loads:
            if forward is None:
                self.others += 1  # the script moves weights by itself, as a WGAN does
            elif not self.others:
                text = "the weights after an evaluation are not those before it"
                proof = f"after step {held.steps} a parameter has changed, by no optimizer"
                evaluates = self.trace.modes.get(forward.owner, {}).get(False, forward.place)
                is_near = function_at(evaluates) is function_at(forward.place)
                self.broken(evaluates if is_near else forward.place, text, proof)
        if last is not None and says_validation(NOWHERE, last.functions[:1]):
            self.seen = True
            is_other = {place for place, _ in self.trace.training_sites} != {last.place}
            self.suspect = now if is_other else None

    def on_step_ends(self, held: Held) -> None:
        suspect, self.suspect, now = self.suspect, None, digest(held)
        if suspect is not None and now != suspect:
            proof = f"step {held.steps} moved a parameter: its sum was {suspect:.6g}, is {now:.6g}"
            self.broken(held.place_of_step, "an evaluation takes an optimizer step", proof)
        self.after[held], self.evaluation = (held.steps, now), None

    def on_evaluated(self, forward: Forward) -> None:
        self.seen = True
        # Of a model in eval mode; else validation-is-in-eval-mode says it.
        if not forward.training and not forward.owner.training:
            parts = [m for m in forward.owner.modules() if m.training and isinstance(m, BATCH_NORM)]
            norms = [norm for norm in parts if norm.track_running_stats]
            if norms:
                text = f"an evaluation moved the statistics of {len(norms)} BatchNorm layers"
                proof = f"in training mode, the first has counted {norms[0].num_batches_tracked}"
                self.broken(forward.place, text, f"{proof} batches")


def digest(held: Held) -> float:
    """Return a number that changes with the smallest of a few parameters."""
    smallest = min(held.probes, key=Tensor.numel, default=None)
    return float(smallest.detach().sum()) if smallest is not None else 0.0


class EvalModeLeavesNothingToChance(Law):
    """In eval mode a model is to be without chance: F.dropout does not know the mode by itself."""

    suspects: dict[int, tuple[nn.Module, Place]]

    def on_dropout(self, module: nn.Module, forward: Forward | None, place: Place) -> None:
        if forward is not None and not forward.training:
            self.suspects[id(forward)] = module, place

    def on_stranger(self, module: nn.Module, forward: Forward, place: Place) -> None:
        """Hear of a layer that eval() does not reach, since it is not registered."""
        if isinstance(module, DROPOUT):
            self.on_dropout(module, forward, place)

    def on_forward(self, forward: Forward, output: Any) -> None:
        self.seen = self.seen or not forward.training
        module, place = self.suspects.pop(id(forward), (None, NOWHERE))
        if module is not None and can_run(forward) and self.may_prove(place):
            (far,) = differences(forward, (None, 0), (None, 1))
            if far:
                text = f"dropout drops in eval mode: {type(module).__name__} is not told the mode"
                proof = f"two passes over the same batch differ by {far:.2g} of the largest output"
                self.broken(place, text, proof)
