"""Checks of validation: in eval mode, without gradients, changing nothing, each example once."""

from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.forward import in_run
from dlconcepts.checks.learning import names
from dlconcepts.checks.lesson import broken, law, not_checked
from dlconcepts.checks.project import Project, as_loader, describe
from dlconcepts.checks.state import seed_everything
from dlconcepts.checks.trees import bits, distance, floats, numbers, rounding

TOLERANCE = 1e-4  # of a mean that is summed in another order


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
    model = project.fresh(training=False)
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


def start_of_training(project: Project) -> tuple[nn.Module, dict[str, bool]]:
    """Return a copy in training mode, with what is in eval mode on purpose, and the modes."""
    model = project.fresh()
    if not model.training:
        model.train()
    return model, modes(model)


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
    model, before = start_of_training(project)
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
    if not model.training:
        model.train()
    evaluated(project, model)
    seen: dict[str, bool] = {}

    def look(module: nn.Module, arguments: Any) -> None:
        if not seen:
            seen.update(modes(module))

    project.before_forward = look
    project.train(model, optimizer, [(project.inputs(), project.targets())])
    project.before_forward = None
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
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.grad = torch.ones_like(parameter)
    project.after_forward = look
    evaluated(project, model)
    project.after_forward = None
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


@law(
    claim="validation.evaluate-goes-over-all-batches",
    concept="Mean of batch means",
    why="the examples of a small last batch count more than the others: the course's own code "
    "reports 0.5 where the truth is 0.8",
    fix="add up loss.item() * len(targets) and correct examples; divide by the number of examples",
    needs=("model", "batch", "targets", "evaluate"),
    reproducer="""
from torch.utils.data import DataLoader, TensorDataset
scores = model.eval()(inputs)
labels = scores.argmax(dim=1)
labels[-2:] = (labels[-2:] + 1) % scores.shape[1]  # only the last two are wrong
results = []
for size in (len(labels), len(labels) - 2):
    result = evaluate(model, DataLoader(TensorDataset(inputs, labels), size), loss_fn)
    result = result.values() if isinstance(result, dict) else result
    results.append(torch.tensor([*result] if hasattr(result, "__iter__") else [result]))
assert torch.allclose(*results, rtol=1e-4)
""",
)
def check_every_example_counts_once(project: Project) -> None:
    """Check that what evaluate returns for two batches is the same as for one, or their fair mean.

    A sum, or a figure of all examples together, is the same however they are cut. Where the model
    or the loss looks at the whole batch, the figures of the batches weigh as their examples do.
    """
    n = project.count()
    if n < 3:
        not_checked("needs a batch of at least 3 examples")
    last = 2 if n > 4 else 1
    first, targets = n - last, half_right(project, last)

    def measure(*batches: tuple[Any, Any], seed: int = 0) -> dict[str, float]:
        model = project.fresh()
        seed_everything(seed)
        return numbers(evaluated(project, model, list(batches)))

    (all_of_them,) = project.batches(n, targets=targets)
    one, other = project.batches(first, last, targets=targets)
    whole, again = measure(all_of_them), measure(all_of_them, seed=1)
    cut, alone, rest = measure(one, other), measure(one), measure(other)
    if not whole:
        not_checked("needs an evaluate that returns numbers")
    for path, value in whole.items():
        if again.get(path) != value or not cut.keys() & alone.keys() & rest.keys() >= {path}:
            continue  # seconds, or chance
        fair = (first * alone[path] + last * rest[path]) / n
        if any(close(cut[path], right) for right in (value, fair)) or cut[path] == 2 * value == 2:
            continue  # the last is a number of batches
        broken(
            f"evaluate returned{path} {value:.4g} for one batch of {n} examples, but "
            f"{cut[path]:.4g} for the same examples in batches of {first} and {last}"
        )


def close(one: float, other: float) -> bool:
    """Return whether two figures are the same but for rounding."""
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))


def half_right(project: Project, last: int) -> Any:
    """Return targets that the model gets right, but for the last few; as they are if no classes.

    An evaluation that counts the last batch too much cannot hide behind equal figures then.
    """
    targets = project.targets()
    model = project.fresh(training=False)
    with torch.no_grad():
        outputs = list(floats(project.run(model, project.inputs())).values())
    if not isinstance(targets, Tensor) or targets.is_floating_point() or not outputs:
        return targets
    scores = outputs[0]
    if scores.ndim < 2 or scores.shape[1] < 2 or scores.shape[0] != len(targets):
        return targets
    predicted = scores.argmax(dim=1)
    if predicted.shape != targets.shape:
        return targets
    predicted[-last:] = (predicted[-last:] + 1) % scores.shape[1]
    return predicted.to(targets)


@law(
    claim="validation.accuracy-is-the-mean",
    concept="Accuracy that broadcasts",
    why="(N, 1) == (N,) compares every prediction with every label: the mean of N x N comparisons",
    fix="compare shapes that agree: outputs.argmax(dim=1) == targets, both (N,)",
    needs=("accuracy",),
    reproducer="""
outputs, labels = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)  # all six are right
assert float(accuracy(outputs, labels)) in (1, 100, 6)
""",
)
def check_accuracy_counts_each_example(project: Project) -> None:
    """Check that accuracy is 1 where all are right, 0 where none is, and 1/2 where half are."""
    if project.has("model") and project.has("batch"):
        example = shapes_of(project)
        if example is None:
            not_checked("needs one output and targets that are classes, or zeros and ones")
        output, target = example
    else:
        output, target = torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64)
    measured = []
    for share in (1.0, 0.5, 0.0):
        scores, labels = decided(output, target, share)
        found = numbers(project.accuracy(scores, labels))
        if not found:
            not_checked("needs an accuracy that returns a number")
        measured.append(next(iter(found.values())))
    full, half, none = measured
    examples = len(labels)
    tops = (1.0, 100.0, float(examples), float(labels.numel()))
    seen = f"{examples} right predictions of {examples}, of shape {describe(scores)}, against "
    seen += f"targets {describe(labels)}, gave {full:.4g}"
    if not any(abs(full - top) < 1e-6 * top for top in tops):
        broken(seen)
    if abs(half - full / 2) > 1e-6 * full or abs(none) > 1e-6 * full:
        broken(f"{seen}; half of them right {half:.4g}, and none right {none:.4g}")


def shapes_of(project: Project) -> tuple[Tensor, Tensor] | None:
    """Return an output and targets from which to take the shapes, None if they are no classes."""
    model = project.fresh(training=False)
    with torch.no_grad():
        outputs = project.run(model, project.inputs())
    targets = project.targets()
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return None
    zeros_and_ones = bool(((targets == 0) | (targets == 1)).all())
    if outputs.ndim > 1 and outputs.shape[1] > 1 and not targets.is_floating_point():
        return outputs, targets
    if zeros_and_ones and outputs.numel() == targets.numel():
        return outputs, targets
    return None


def decided(output: Tensor, target: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return scores and labels of the given kinds, of which a share is right, beyond doubt.

    Two examples of each class: of every two, both, one or none is right, so that an accuracy
    that is balanced by class agrees.
    """
    several = output.ndim > 1 and output.shape[1] > 1 and not target.is_floating_point()
    classes = min(output.shape[1], 3) if several else 2
    classes = classes if output.ndim > 1 and output.shape[1] > 2 else 2
    labels = torch.arange(2 * classes) // 2
    right = torch.tensor([share == 1, share >= 0.5] * classes)
    predicted = torch.where(right, labels, (labels + 1) % classes)
    rest = (2,) * (output.ndim - 2) if several else ()
    if several:
        scores = torch.full((len(labels), output.shape[1]), -20.0)
        scores[torch.arange(len(labels)), predicted] = 20.0
        scores[torch.arange(len(labels))[~right], labels[~right]] = -40.0
        shape = (len(labels), output.shape[1], *rest)
        scores = scores.reshape(*scores.shape, *(1 for _ in rest)).expand(shape).clone()
        wide = labels.reshape(-1, *(1 for _ in rest)).expand(len(labels), *rest)
        return scores.to(output), wide.to(target).clone()
    scores = (40.0 * predicted - 20).reshape(-1, *(1 for _ in output.shape[1:]))
    scores = scores.expand(len(labels), *output.shape[1:]).clone()
    wide = labels.reshape(-1, *(1 for _ in target.shape[1:])).expand(len(labels), *target.shape[1:])
    return scores.to(output), wide.to(target).clone()
