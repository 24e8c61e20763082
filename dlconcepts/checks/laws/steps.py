"""Checks of the training step: its own batch, its gradient, and no graph that outlives it."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.laws.learning import gradients
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.trees import bits, floats
from dlconcepts.checks.trees import tensors as tensors_in

STEPS = 16  # how many calls a train_step that gathers gradients may take to move


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's parameters by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@contextmanager
def after_each_step(optimizer: Any, then: Callable[[], None]) -> Iterator[None]:
    """Do something after each of an optimizer's steps."""
    handle = optimizer.register_step_post_hook(lambda *_: then())
    try:
        yield
    finally:
        handle.remove()


def land(project: Project, *, clear: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Train until the optimizer has stepped twice, on two batches in turn.

    Return where it started, where it landed, and how many steps that took.
    """
    model, optimizer = project.fresh_pair()
    if not isinstance(optimizer, torch.optim.Optimizer):
        not_checked("needs an optimizer of torch.optim, whose steps can be followed")
    for parameter in model.parameters():
        parameter.grad = None
    warm_up(optimizer)
    before, steps = state(model), 0

    def stepped() -> None:
        nonlocal steps
        steps += 1
        if clear:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.zero_()

    batches = [(project.inputs(), project.targets()), project.other_batch()]
    with after_each_step(optimizer, stepped):
        for _ in range(STEPS):
            project.train(model, optimizer, batches)
            if steps >= 2:
                break
    return before, state(model), steps


def warm_up(optimizer: Any) -> None:
    """Give groups whose schedule starts at a rate of zero a rate to step by."""
    for group in optimizer.param_groups:
        if group.get("lr") == 0:
            group["lr"] = 1e-3


@law(
    claim="training.step-order",
    concept="Gradients never zeroed",
    why="backward adds to what is there: the step follows the gradients of earlier batches too",
    fix="optimizer.zero_grad() once for each step: before backward, or right after the step",
    needs=("model", "batch", "targets", "loss_fn", "optimizer"),
    any_of=("train_step", "fit"),
    reproducer="""
from copy import deepcopy
start, rates, landed = deepcopy(model.state_dict()), deepcopy(optimizer.state_dict()), []
for clear in (False, True):
    model.load_state_dict(start)
    optimizer.load_state_dict(deepcopy(rates))
    optimizer.zero_grad()
    torch.manual_seed(0)
    for _ in range(2):
        train_step(model, loss_fn, optimizer, inputs, targets)
        if clear:
            optimizer.zero_grad()
    landed.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
assert torch.allclose(*landed, atol=1e-6)
""",
)
def check_a_step_follows_its_own_batch(project: Project) -> None:
    """Check that clearing the gradients after each optimizer.step() changes nothing."""
    if project.count() < 2:
        not_checked("needs a batch of at least 2 examples")
    before, cleared, steps = land(project, clear=True)
    if steps < 2:
        not_checked(f"needs a {project.trainer} that steps: {steps} steps in {STEPS} calls")
    _, again, _ = land(project, clear=True)
    _, kept, _ = land(project, clear=False)
    length = far(before, cleared)
    noise, apart = far(again, cleared), far(kept, cleared)
    if apart > 8 * noise + 1e-5 * length:
        broken(
            f"after 2 batches the weights are off by {apart / length if length else 1:.0%} of the "
            f"way from where they were to where {project.trainer} lands if the gradients are "
            "cleared after each step"
        )


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the distance between two sets of parameters."""
    squares = [(one[name].double() - other[name].double()).square().sum() for name in one]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


@law(
    claim="training.step-order",
    concept="Steps that do not follow the gradient",
    why="zero_grad between backward and step wipes the gradient out: nothing is learnt from it",
    fix="zero_grad, forward, loss, backward, step: in this order",
    needs=("model", "batch", "targets", "loss_fn", "optimizer"),
    any_of=("train_step", "fit"),
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
    if project.count() < 2:
        not_checked("needs a batch of at least 2 examples")
    model, optimizer = project.fresh_pair()
    own = {id(p) for p in model.parameters() if p.requires_grad}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        not_checked("needs an optimizer that holds a parameter of the model")
    if not gradients(project, model, 0):
        not_checked("needs a loss that has a gradient")
    landed: list[dict[str, Tensor]] = []
    calls = STEPS
    for batch in two_batches(project):
        model, optimizer = project.fresh_pair()
        for parameter in model.parameters():
            parameter.grad = None
        warm_up(optimizer)
        before = state(model)
        for call in range(1, calls + 1):
            project.train(model, optimizer, [batch, batch])
            if not landed and far(before, state(model)):
                calls = call  # as many for the other batch
                break
        landed.append(state(model))
    if all(bits(landed[0][name]) == bits(landed[1][name]) for name in landed[0]):
        moved = far(before, landed[0])
        how = f"by {moved:.2g}, the same for both" if moved else "not at all"
        broken(f"{project.trainer} on two different batches moved the weights {how}")


def two_batches(project: Project) -> list[tuple[Any, Any]]:
    """Return the batch, and one with other targets and other inputs."""
    inputs, targets = project.other_batch()
    rows = torch.zeros(project.count(), dtype=torch.int64)
    rows[-1] = 1
    other = project.pick(inputs, rows), project.pick_targets(targets, rows)
    return [(project.inputs(), project.targets()), other]


class Mark:
    """Something that a graph keeps alive, as long as it lives itself."""

    def __init__(self) -> None:
        """Start with a graph that was not walked yet."""
        self.walked = False

    def walk(self, gradient: Tensor) -> None:
        """Remember that the backward pass came by."""
        self.walked = True


@law(
    claim="training.running-loss",
    concept="Loss kept with its graph",
    why="a loss tensor holds every node of its graph: memory grows with each batch",
    fix="add up loss.item(), or loss.detach() to avoid waiting for a GPU",
    needs=("model", "batch", "targets", "loss_fn", "optimizer"),
    any_of=("train_step", "fit"),
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
    """Check that nothing holds the graph of a batch that is done: no sum, nothing returned."""
    alive: weakref.WeakSet[Mark] = weakref.WeakSet()
    most = 0

    def attach(module: nn.Module, output: Any) -> None:
        nonlocal most
        most = max(most, sum(mark.walked for mark in list(alive)))
        mark = Mark()
        alive.add(mark)
        for tensor in floats(output).values():
            if tensor.requires_grad:
                tensor.register_hook(mark.walk)

    model, optimizer = project.fresh_pair()
    project.after_forward = attach
    count = 6
    batches = [(project.inputs(), project.targets())] * count
    result = project.train(model, optimizer, batches)
    project.after_forward = None
    kept = [path for path, x in tensors_in(result).items() if x.requires_grad]
    if kept:
        broken(
            f"what {project.trainer} returned{kept[0]} is a tensor that requires a gradient: "
            "whoever keeps it keeps the graph of its batch"
        )
    if most > count // 2:
        broken(
            f"while {project.trainer} worked on batch {count}, the graphs of {most} earlier "
            "batches were still in memory, though their backward was done"
        )
