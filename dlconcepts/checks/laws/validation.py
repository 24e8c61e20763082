"""Checks of validation: in eval mode, without gradients, no change, modes restored."""

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from dlconcepts.checks.laws.learning import names
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import NotCheckedError, broken, law, not_checked
from dlconcepts.checks.trees import bits, distance, floats, rounding

EITHER = ("evaluate", "predict")


def evaluated(project: Project, model: nn.Module, batches: Any = None) -> Any:
    before = project.passes
    if project.evaluate is None:
        result = project.predict(model, project.inputs())
    else:
        result = project.loop(project.evaluate, model, batches or project.repeated(1))
    if project.passes == before:
        not_checked(f"needs {evaluator(project)} to call the model: no forward pass was seen")
    return result


def evaluator(project: Project) -> str:
    return "evaluate" if project.evaluate is not None else "predict"


@law(
    claim="validation.eval-and-train-modes",
    concept="No eval() in validation",
    why="dropout and BatchNorm still train: the figures depend on chance and on the batch",
    fix="model.eval() before the loop over the batches, model.train() after it",
    any_of=EITHER,
    reproducer="""
modes = []
model.train().register_forward_pre_hook(lambda model, _: modes.append(model.training))
evaluate(model, loader, loss_fn) if evaluate else predict(model, inputs)
assert not any(modes)
""",
)
def check_validation_is_in_eval_mode(project: Project) -> None:
    """Check that no module in training mode changes the outputs during validation."""
    seen: set[str] = set()
    model = project.fresh(training=True)
    project.before_forward = lambda module, _: seen.update(in_training(module))
    evaluated(project, model)
    project.before_forward = None
    if seen and (apart := mode_difference(project, seen)):
        parts = [part for name, part in model.named_modules() if name in seen]
        layers = [type(part).__name__ for part in parts if not list(part.children())]
        # Name what behaves differently, if it is of a known kind.
        switched = [kind for kind in layers if "Drop" in kind or "Norm" in kind]
        which = ", ".join(dict.fromkeys(switched or layers))
        broken(
            f"{evaluator(project)} ran the model with {len(seen)} modules in training mode, {which}"
            f": the outputs differ from those in eval mode by {apart:.2g} of their largest value"
        )


def mode_difference(project: Project, training: set[str]) -> float:
    """Return how far some modules in training mode move the outputs from those in eval mode."""
    right, model = floats(project.outputs()), project.fresh()
    for name, part in model.named_modules():
        part.training = name in training
    with torch.no_grad():
        outputs = floats(project.run(model, project.inputs()))
    apart = {path: distance(x, outputs[path]) for path, x in right.items() if path in outputs}
    return max((far for path, far in apart.items() if far > rounding(right[path])), default=0.0)


def in_training(model: nn.Module) -> set[str]:
    return {name for name, part in model.named_modules() if part.training}


@law(
    claim="validation.eval-and-train-modes",
    concept="Training mode not restored after validation",
    why="the next epoch trains without dropout, or trains a part that was in eval mode on purpose",
    fix="model.train() at the start of each epoch; restore the modes if parts are in eval mode",
    needs=("model", "batch", "evaluate"),
    reproducer="""
before = [module.training for module in model.modules()]
evaluate(model, loader, loss_fn)
seen = []
model.register_forward_pre_hook(lambda model, _: seen.append(model.training))
if fit:
    fit(model, loader, loss_fn, optimizer)
    assert all(seen)
else:
    assert [module.training for module in model.modules()] == before
""",
)
def check_the_mode_is_restored(project: Project) -> None:
    """Check that each module's mode is restored after evaluate, at the latest when fit trains."""
    model, optimizer = project.fresh_pair()
    if not model.training:  # unless it is in a mixed mode already
        model.train()
    every, before = [name for name, _ in model.named_modules()], in_training(model)
    evaluated(project, model)
    after = in_training(model)
    if after != before and project.fit is not None:
        passes: list[set[str]] = []
        project.before_forward = lambda module, _: passes.append(in_training(module))
        with suppress(NotCheckedError):
            project.train(model, optimizer, project.repeated(1))
            after = passes[0] if passes else before
    wrong = [name for name in every if (name in after) != (name in before)]
    if wrong and project.fit is None and not after.intersection(wrong):
        not_checked("needs fit: evaluate leaves eval mode on, and the loop may call train()")
    if wrong:
        now = "training" if wrong[0] in after else "eval"
        broken(
            f"after evaluate {len(wrong)} of {len(every)} modules are in another mode: "
            f"{names([name or 'the model' for name in wrong])}, now in {now} mode"
        )


@law(
    claim="validation.inference",
    concept="Gradients recorded in validation",
    why="each batch records a graph for a backward that never comes, which costs memory and time",
    fix="with torch.no_grad(): around the loop, or torch.inference_mode()",
    any_of=EITHER,
    reproducer="""
recorded = []
model.register_forward_hook(lambda model, _, output: recorded.append(output.requires_grad))
evaluate(model, loader, loss_fn) if evaluate else predict(model, inputs)
assert not any(recorded)
""",
)
def check_validation_records_no_gradients(project: Project) -> None:
    """Check that validation records no graph and does not touch the gradients."""
    recorded = []

    def look(module: nn.Module, output: Any) -> None:
        needs = any(x.requires_grad for x in floats(output).values())
        recorded.append(needs and torch.is_grad_enabled())  # TorchScript may say so without

    model = project.fresh()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    project.after_forward = look
    evaluated(project, model)
    if any(recorded):
        broken(
            f"{evaluator(project)} ran {sum(recorded)} of {len(recorded)} forward passes with "
            "gradients recorded"
        )
    if not torch.is_grad_enabled():
        broken(f"{evaluator(project)} switched gradients off and left them off")
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    touched = [name for name, p in named if p.grad is None or bool((p.grad != 1).any())]
    if touched:
        broken(f"{evaluator(project)} changed the gradients of {names(touched)}")


@law(
    claim="validation.eval-and-train-modes",
    concept="Validation that changes the model",
    why="the held-out examples leak into the model: BatchNorm learns their statistics",
    fix="model.eval() before the loop; neither step nor write to the weights in validation",
    any_of=EITHER,
    reproducer="""
before = {name: value.clone() for name, value in model.train().state_dict().items()}
evaluate(model, loader, loss_fn) if evaluate else predict(model, inputs)
assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
""",
)
def check_validation_changes_nothing(project: Project) -> None:
    """Check that parameters and buffers are the same to the last bit after validation."""
    model = project.fresh(training=True)

    def state() -> dict[str, object]:
        named = (*model.named_parameters(), *model.named_buffers())
        return {name: bits(value) for name, value in named}

    before = state()
    evaluated(project, model)
    moved = [name for name, value in state().items() if value != before.get(name)]
    if moved:
        kind = "BatchNorm statistics" if any("running" in n for n in moved) else "the model"
        broken(f"{evaluator(project)} changed {kind}: {len(moved)} tensors, {names(moved)}")
