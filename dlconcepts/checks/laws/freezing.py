"""Checks of frozen parts: training moves neither parameters nor running statistics."""

from typing import Any

from torch import Tensor, nn

from dlconcepts.checks.copies import groups_of, optimizers
from dlconcepts.checks.laws.learning import names
from dlconcepts.checks.laws.steps import warm_up
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.trees import bits


@law(
    claim="transfer.frozen-parameters-stay-fixed",
    concept="Frozen parameters that move",
    why="requires_grad=False stops new gradients; an optimizer still steps by an old gradient, by "
    "momentum, and by weight decay on a gradient of zero",
    fix="freeze first, then give the optimizer only what requires a gradient; set p.grad = None",
    needs=("model", "batch", "loss", "optimizer"),
    reproducer="""
names = frozen or [name for name, p in model.named_parameters() if not p.requires_grad]
fixed = {name: p for name, p in model.named_parameters() if name.startswith(tuple(names))}
before = {name: p.detach().clone() for name, p in fixed.items()}
train_step(model, loss_fn, optimizer, inputs, targets)
assert all(torch.equal(p, before[name]) for name, p in fixed.items())
""",
)
def check_frozen_parameters_stay(project: Project) -> None:
    """Check that no step moves a parameter that is frozen by name or by requires_grad."""
    model, optimizer = project.fresh_pair()
    frozen = {name: p for name, p in model.named_parameters() if project.is_frozen(name, p)}
    refuse_unknown(project, model)
    if not frozen:
        not_checked("needs frozen: no parameter has requires_grad=False")
    warm_up(optimizer)
    causes = {name: cause(p, optimizer) for name, p in frozen.items()}
    moved: set[str] = set()
    before: dict[str, object] = {}

    def look(*_: Any) -> None:
        before.update((name, bits(p)) for name, p in frozen.items())

    def compare(*_: Any) -> None:
        moved.update(name for name, p in frozen.items() if bits(p) != before[name])

    # Only the optimizer's steps count: an average of the weights may move frozen ones rightly.
    for own in optimizers(optimizer):
        own.register_step_pre_hook(look)
        own.register_step_post_hook(compare)
    for _ in range(2):
        project.train(model, optimizer, project.repeated(2))
    if not before:
        not_checked("needs an optimizer of torch.optim that steps")
    if moved:
        found = [name for name in frozen if name in moved]
        broken(
            f"{project.trainer} moved {len(moved)} of {len(frozen)} frozen parameters, "
            f"{names(found)}: {causes[found[0]]}"
        )


def refuse_unknown(project: Project, model: nn.Module) -> None:
    every = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    for part in project.frozen or ():
        if part not in every:
            raise ValueError(f"frozen names {part!r}, but the model has no such part; correct it")


def cause(parameter: Tensor, optimizer: Any) -> str:
    """Return the likely reason why an optimizer would move a frozen parameter."""
    if parameter.requires_grad:
        return "its requires_grad is still True"
    found = []
    if parameter.grad is not None:
        kind = "of an earlier backward" if bool(parameter.grad.any()) else "of zero"
        found.append(f"a gradient {kind} is in place")
    states = [own.state.get(parameter, {}) for own in optimizers(optimizer)]
    if any(state.keys() & {"momentum_buffer", "exp_avg"} for state in states):
        found.append("the optimizer has momentum for it")
    groups = [g for g in groups_of(optimizer) if any(p is parameter for p in g["params"])]
    if decays := [group["weight_decay"] for group in groups if group.get("weight_decay")]:
        found.append(f"weight_decay is {decays[0]}")
    return ", and ".join(found) or "the optimizer holds it"


@law(
    claim="transfer.frozen-parameters-stay-fixed",
    concept="BatchNorm of a frozen part that moves",
    why="running statistics are not parameters: requires_grad does not stop them, eval mode does",
    fix="put the frozen part into eval mode after each model.train()",
    needs=("model", "batch", "loss", "optimizer"),
    reproducer="""
names = frozen or [name for name, p in model.named_parameters() if not p.requires_grad]
parts = tuple({name.rpartition(".")[0] for name in names})
before = {name: b.clone() for name, b in model.named_buffers() if name.startswith(parts)}
train_step(model, loss_fn, optimizer, inputs, targets)
assert all(torch.equal(b, before[name]) for name, b in model.named_buffers() if name in before)
""",
)
def check_frozen_statistics_stay(project: Project) -> None:
    """Check that training leaves the buffers of frozen parts as they are."""
    model, optimizer = project.fresh_pair()
    refuse_unknown(project, model)
    buffers = {name: b for name, b in model.named_buffers() if in_frozen_part(project, model, name)}
    if not buffers:
        not_checked("needs a frozen part with buffers, as BatchNorm has")
    before = {name: bits(b) for name, b in buffers.items()}
    passes = project.passes
    project.train(model, optimizer, project.repeated(2))
    if project.passes == passes:
        not_checked(f"needs a {project.trainer} that calls the model")
    moved = [name for name, b in model.named_buffers() if bits(b) != before.get(name, bits(b))]
    if moved:
        broken(f"{project.trainer} changed {len(moved)} buffers of frozen parts: {names(moved)}")


def in_frozen_part(project: Project, model: nn.Module, name: str) -> bool:
    """Return whether a buffer is in a frozen part: its nearest owner with parameters decides."""
    if project.frozen is not None:
        return project.is_frozen(name)
    owner = name
    while owner:
        owner, _, _ = owner.rpartition(".")
        if parameters := list(model.get_submodule(owner).parameters()):
            return not any(p.requires_grad for p in parameters)
    return False
