"""Checks of validation: in eval mode, without gradients, changing nothing, modes restored."""

from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.batches import as_loader
from dlconcepts.checks.laws.forward import in_run
from dlconcepts.checks.laws.learning import names
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.trees import bits, distance, floats, rounding


def evaluated(project: Project, model: nn.Module, batches: Any = None) -> Any:
    """Return what the project's evaluate, or else its predict, makes of batches."""
    if project.evaluate is None:
        return project.predict(model, project.inputs())
    batches = batches or [(project.inputs(), project.targets())]
    return project.evaluate(model, as_loader(batches), project.loss_fn)


def name_of(project: Project) -> str:
    """Return the name of the part that `evaluated` calls."""
    return "evaluate" if project.evaluate is not None else "predict"


def lacks_targets(project: Project) -> bool:
    """Return whether evaluate cannot be called for want of targets."""
    return project.evaluate is not None and not project.has("targets")


@law(
    claim="validation.eval-and-train-modes",
    concept="No eval() in validation",
    why="dropout and BatchNorm go on as in training: the figures depend on chance and on the batch",
    fix="model.eval() before the loop over the batches, model.train() after it",
    needs=("model", "batch"),
    any_of=("evaluate", "predict"),
    reproducer="""
modes = []
model.train().register_forward_pre_hook(lambda model, _: modes.append(model.training))
evaluate(model, loader, loss_fn) if evaluate else predict(model, inputs)
assert not any(modes)
""",
)
def check_validation_is_in_eval_mode(project: Project) -> None:
    """Check that nothing runs in training mode during validation that makes a difference."""
    if lacks_targets(project):
        not_checked("needs targets")
    seen: set[str] = set()

    def look(module: nn.Module, arguments: Any) -> None:
        seen.update(name for name, part in module.named_modules() if part.training)

    model = project.fresh(training=True)
    project.before_forward = look
    evaluated(project, model)
    project.before_forward = None
    if not seen:
        return
    apart = mode_difference(project, seen)
    if apart:
        parts = [part for name, part in model.named_modules() if name in seen]
        layers = [type(part).__name__ for part in parts if not list(part.children())]
        switched = [kind for kind in layers if "Drop" in kind or "Norm" in kind]
        which = ", ".join(dict.fromkeys(switched or layers))
        broken(
            f"{name_of(project)} ran the model with {len(seen)} modules in training mode, {which}: "
            f"the outputs differ from those in eval mode by {apart:.2g} of their largest value"
        )


def mode_difference(project: Project, training: set[str]) -> float:
    """Return how far the outputs are from those in eval mode if some modules are in training."""
    model = project.fresh(training=False)
    with torch.no_grad():
        right = project.run(model, project.inputs())
    model = project.fresh()
    for name, part in model.named_modules():
        part.training = name in training
    with torch.no_grad():
        outputs = floats(project.run(model, project.inputs()))
    apart = [
        distance(x, outputs[path])
        for path, x in in_run(right)
        if path in outputs and distance(x, outputs[path]) > rounding(x)
    ]
    return max(apart, default=0.0)


def start_training(model: nn.Module) -> dict[str, bool]:
    """Put a model into training mode, with what is in eval mode on purpose; return the modes."""
    if not model.training:
        model.train()
    return modes(model)


def modes(model: nn.Module) -> dict[str, bool]:
    """Return whether each module is in training mode."""
    return {name: part.training for name, part in model.named_modules()}


@law(
    claim="validation.eval-and-train-modes",
    concept="Training mode not restored after validation",
    why="the next epoch trains without dropout and with frozen BatchNorm, or a part that was in "
    "eval mode on purpose is in training mode now",
    fix="model.train() after the validation, or at the start of each training epoch; where a part "
    "is in eval mode on purpose, each module's own mode",
    needs=("model", "batch", "targets", "evaluate"),
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
    """Check that after evaluate each module has its mode again, at the latest when fit trains."""
    model = project.fresh()
    before = start_training(model)
    evaluated(project, model)
    after = modes(model)
    if after == before:
        return
    if project.fit is not None and project.has("optimizer"):
        after = modes_in_training(project)
        if not after or after == before:
            return
    wrong = [name or "the model" for name in before if after.get(name) != before[name]]
    now = "training" if after.get(wrong[0].replace("the model", "")) else "eval"
    broken(
        f"after evaluate {len(wrong)} of {len(before)} modules are in another mode than before: "
        f"{names(wrong)}, now in {now} mode"
    )


def modes_in_training(project: Project) -> dict[str, bool]:
    """Return the modes in which fit runs the model after an evaluation."""
    model, optimizer = project.fresh_pair()
    start_training(model)
    evaluated(project, model)
    seen: dict[str, bool] = {}

    def look(module: nn.Module, arguments: Any) -> None:
        if not seen:
            seen.update(modes(module))

    project.before_forward = look
    project.train(model, optimizer, [(project.inputs(), project.targets())])
    return seen


@law(
    claim="validation.inference",
    concept="Gradients recorded in validation",
    why="each batch keeps the graph that a backward would need: memory and time for nothing",
    fix="with torch.no_grad(): around the loop, or torch.inference_mode()",
    needs=("model", "batch"),
    any_of=("evaluate", "predict"),
    reproducer="""
recorded = []
model.register_forward_hook(lambda model, _, output: recorded.append(output.requires_grad))
evaluate(model, loader, loss_fn) if evaluate else predict(model, inputs)
assert not any(recorded)
""",
)
def check_validation_records_no_gradients(project: Project) -> None:
    """Check that no output has a graph in validation, and gradients stay as they are."""
    if lacks_targets(project):
        not_checked("needs targets")
    recorded = []

    def look(module: nn.Module, output: Any) -> None:
        recorded.append(any(x.requires_grad for x in floats(output).values()))

    model = project.fresh()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    project.after_forward = look
    evaluated(project, model)
    if any(recorded):
        broken(
            f"{name_of(project)} ran {sum(recorded)} of {len(recorded)} forward passes with "
            "gradients recorded"
        )
    if not torch.is_grad_enabled():
        broken(f"{name_of(project)} switched gradients off and left them off")
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    touched = [name for name, p in named if p.grad is None or not bool((p.grad == 1).all())]
    if touched:
        broken(f"{name_of(project)} changed the gradients of {names(touched)}")


@law(
    claim="validation.eval-and-train-modes",
    concept="Validation that changes the model",
    why="the held-out examples leak into the model: BatchNorm learns their statistics",
    fix="model.eval() before the loop; no step and no assignment to weights in validation",
    needs=("model", "batch"),
    any_of=("evaluate", "predict"),
    reproducer="""
before = {name: value.clone() for name, value in model.train().state_dict().items()}
evaluate(model, loader, loss_fn) if evaluate else predict(model, inputs)
assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
""",
)
def check_validation_changes_nothing(project: Project) -> None:
    """Check that parameters and buffers are the same to the last bit after validation."""
    if lacks_targets(project):
        not_checked("needs targets")
    model = project.fresh(training=True)
    before = {name: bits(x) for name, x in model_state(model).items()}
    evaluated(project, model)
    moved = [name for name, x in model_state(model).items() if bits(x) != before.get(name)]
    if moved:
        kind = "BatchNorm statistics" if any("running" in n for n in moved) else "the model"
        broken(f"{name_of(project)} changed {kind}: {len(moved)} tensors, {names(moved)}")


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
