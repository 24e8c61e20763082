"""Checks of training: a step follows its own batch, keeps no graph, and a seed repeats a run."""

import weakref
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.copies import build_optimizer, groups_of, held_by, optimizers
from dlconcepts.checks.laws.forward import at_least
from dlconcepts.checks.laws.learning import gradients
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.trees import all_bits, floats, tensors

STEPS = 16  # calls of train_step, which may accumulate gradients before it steps
TRAINS: dict[str, Any] = {"needs": ("model", "batch"), "any_of": ("train_step", "fit")}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def ready(project: Project) -> tuple[nn.Module, Any]:
    """Return a copy without old gradients, and an optimizer that will move it."""
    model, optimizer = project.fresh_pair()
    for parameter in model.parameters():
        parameter.grad = None
    warm_up(optimizer)
    return model, optimizer


def warm_up(optimizer: Any) -> None:
    """Replace a learning rate of zero, with which a schedule may start."""
    for group in groups_of(optimizer):
        if group.get("lr") == 0:
            group["lr"] = 1e-3


def land(project: Project, *, clear: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Train on two batches up to a second step; return the weights before and after, and steps."""
    model, optimizer = ready(project)
    if not (found := optimizers(optimizer)):
        not_checked("needs an optimizer of torch.optim, whose steps can be counted")
    before, steps = state(model), 0

    def stepped(own: Any, *_: Any) -> None:
        nonlocal steps
        steps += own is found[0]
        for parameter in held_by(own) if clear else ():
            if parameter.grad is not None:
                parameter.grad.zero_()

    for own in found:
        own.register_step_post_hook(stepped)
    batches = [project.whole(), project.other_batch()]
    for _ in range(STEPS):
        project.train(model, optimizer, batches)
        if steps >= 2:
            break
    return before, state(model), steps


@law(
    claim="training.step-order",
    concept="Gradients never zeroed",
    why="backward adds to what is there: the step follows the gradients of earlier batches too",
    fix="optimizer.zero_grad() once for each step: before backward, or right after the step",
    **TRAINS,
    reproducer="""
from copy import deepcopy
landed = []
for clear in (False, True):
    twin, own = deepcopy((model, optimizer))  # without gradients
    torch.manual_seed(0)
    for _ in range(2):
        train_step(twin, loss_fn, own, inputs, targets)
        if clear:
            own.zero_grad()
    landed.append(torch.cat([p.detach().flatten() for p in twin.parameters()]))
assert torch.allclose(*landed, atol=1e-6)
""",
)
def check_a_step_follows_its_own_batch(project: Project) -> None:
    """Check that clearing the gradients after each optimizer.step() changes nothing."""
    at_least(project, 2)
    before, cleared, steps = land(project, clear=True)
    if steps < 2:
        not_checked(f"needs a {project.trainer} that steps: {steps} steps in {STEPS} calls")
    _, again, _ = land(project, clear=True)
    _, kept, _ = land(project, clear=False)
    length = far(before, cleared)
    noise, apart = far(again, cleared), far(kept, cleared)
    if apart > 8 * noise + 1e-5 * length:  # 1e-5: what float32 may lose in two steps
        broken(
            f"after 2 batches the weights are off by {apart / length if length else 1:.0%} of the "
            f"way from where they were to where {project.trainer} lands if the gradients are "
            "cleared after each step"
        )


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    squares = [(one[name].double() - other[name].double()).square().sum() for name in one]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


@law(
    claim="training.step-order",
    concept="Steps that do not follow the gradient",
    why="zero_grad between backward and step erases the gradient: the model learns nothing",
    fix="zero_grad, forward, loss, backward, step: in this order",
    **TRAINS,
    reproducer="""
for group in optimizer.param_groups:
    group["weight_decay"] = 0
start = [p.detach().clone() for p in model.parameters()]
train_step(model, loss_fn, optimizer, inputs, targets)
assert any(not torch.equal(p, q) for p, q in zip(start, model.parameters()))
""",
)
def check_a_step_follows_the_gradient(project: Project) -> None:
    """Check that two batches with different gradients lead to different weights."""
    at_least(project, 2)
    model, optimizer = project.fresh_pair()
    own = {id(p) for p in model.parameters() if p.requires_grad}
    if optimizer is not None and not any(id(p) in own for p in held_by(optimizer)):
        not_checked("needs an optimizer that holds a parameter of the model")
    found: Any = True
    with suppress(Exception):  # training may call the loss with something else
        found = gradients(project, model, 0)
    if not found:
        not_checked("needs a loss that has a gradient")
    # The other batch has other targets and other inputs.
    rows = torch.zeros(project.count(), dtype=torch.int64)
    rows[-1] = 1
    other = project.pick(project.other_batch(), rows)
    landed: list[dict[str, Tensor]] = []
    calls = STEPS
    for batch in (project.whole(), other):
        model, optimizer = ready(project)
        before = state(model)
        for call in range(1, calls + 1):
            project.train(model, optimizer, [batch, batch])
            if not landed and far(before, state(model)):
                calls = call  # as many for the other batch
                break
        landed.append(state(model))
    if all_bits(landed[0]) == all_bits(landed[1]):
        moved = far(before, landed[0])
        how = f"by {moved:.2g}, the same for both" if moved else "not at all"
        broken(f"{project.trainer} on two different batches moved the weights {how}")


class Mark:
    """An object that a graph keeps alive; `walked` says whether backward has reached it."""

    walked = False

    def walk(self, gradient: Tensor) -> None:
        self.walked = True


@law(
    claim="training.running-loss",
    concept="Loss kept with its graph",
    why="a loss tensor holds every node of its graph: memory grows with each batch",
    fix="add up loss.item(), or loss.detach() if item() would wait for a GPU",
    **TRAINS,
    reproducer="""
import weakref
alive, counts = weakref.WeakSet(), []
def attach(model, _, outputs):
    class Mark:
        def look(self, gradient): pass
    counts.append(len(alive))
    mark = Mark()
    alive.add(mark)
    outputs.register_hook(mark.look)  # lives as long as the graph
model.register_forward_hook(attach)
result = fit(model, loader, loss_fn, optimizer)
assert max(counts) < len(counts) - 1 or len(counts) < 4
assert not any(x.requires_grad for x in [result] if torch.is_tensor(x))
""",
)
def check_the_loss_is_kept_as_a_number(project: Project) -> None:
    """Check that neither a running sum nor a result keeps the graph of a batch alive."""
    alive: weakref.WeakSet[Mark] = weakref.WeakSet()
    most = graphs = 0

    def attach(module: nn.Module, output: Any) -> None:
        nonlocal most, graphs
        most = max(most, sum(mark.walked for mark in list(alive)))
        mark = Mark()
        alive.add(mark)
        for tensor in floats(output).values():
            if tensor.requires_grad:
                tensor.register_hook(mark.walk)
                graphs += 1

    model, optimizer = project.fresh_pair()
    project.after_forward = attach
    count = 6  # batches; a loop may hold the last loss or two for a while
    result = project.train(model, optimizer, project.repeated(count))
    project.after_forward = None
    kept = [path for path, x in tensors(result).items() if x.requires_grad]
    if len(kept) > count // 2 or (kept and len(alive) > count // 2):
        broken(
            f"what {project.trainer} returned{kept[0]} is a tensor that requires a gradient: "
            "keeping it keeps the graph of its batch"
        )
    if not graphs:
        not_checked(f"needs a {project.trainer} that calls the model and records its graph")
    if most > count // 2:
        broken(
            f"while {project.trainer} worked on batch {count}, the graphs of {most} earlier "
            "batches were still in memory, though their backward was done"
        )


@law(
    claim="training.same-seed-same-run",
    concept="Seed that does not make the run repeatable",
    why="nobody can reproduce the result, or compare another with it",
    fix="seed torch, numpy and random before building the model; give default_rng() a seed",
    **TRAINS,
    reproducer="""
from copy import deepcopy
import random, numpy
landed = []
for noise in (1, 2):
    for disturb in (torch.manual_seed, numpy.random.seed, random.seed):
        disturb(noise)
    (seed or torch.manual_seed)(0)
    twin, own = deepcopy((model, optimizer))
    fit(twin, loader, loss_fn, own)
    landed.append(torch.cat([p.detach().flatten() for p in twin.parameters()]))
assert torch.equal(*landed)
""",
)
def check_a_seed_repeats_the_run(project: Project) -> None:
    """Check that two runs from one seed end with the same weights, whatever ran before."""
    before, one = run(project, 1)
    _, other = run(project, 2)
    apart, length = far(one, other), far(before, one)
    if not length and not apart:
        not_checked(f"needs a {project.trainer} that moves the weights")
    on_cpu = all(value.device.type == "cpu" for value in one.values())
    # A GPU may add in another order each time, unless deterministic algorithms are on.
    if apart > (0 if on_cpu else 1e-3 * length):
        how = "the project's seed" if project.seed else "torch, numpy and random seeded"
        share = apart / length if length else float("inf")
        broken(f"two runs with {how} ended {apart:.2g} apart, {share:.0%} of the way they went")


def run(project: Project, noise: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw other random numbers, then run from seed 0; return the weights before and after."""
    project.restore()
    seed_everything(noise)
    if isinstance(project.model, nn.Module):
        model, optimizer = project.fresh_pair()
        seed_everything(noise)
        (project.seed or seed_everything)(0)
    else:
        (project.seed or seed_everything)(0)
        model = project.moved(project.model())
        project.roots[id(model)] = model
        optimizer = project.optimizer and build_optimizer(project.optimizer, model)
    before, n = state(model), project.count()
    # Two batches, but none of a single example, on which BatchNorm raises.
    batches = project.batches(*((n - n // 2, n // 2) if n >= 4 else (n,)))
    for _ in range(STEPS):
        project.train(model, optimizer, batches)
        if far(before, state(model)):
            break
    return before, state(model)
