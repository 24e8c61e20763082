"""Checks of what learns: every layer registered, given a gradient, held by the optimizer, moved."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.lesson import broken, law, not_checked
from dlconcepts.checks.project import Project
from dlconcepts.checks.trees import bits, floats, leaves
from dlconcepts.checks.trees import tensors as tensors_in

DRAWS = 8  # how often a parameter may be left out by chance: stochastic depth, experts
STEPS = 16  # how many calls a train_step that gathers gradients may take to move


def names(found: list[str]) -> str:
    """Return a few names, and how many more there are.

    >>> names(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


@law(
    claim="networks.layers-belong-in-init",
    concept="Layers that are not registered",
    why="parameters() does not list them: the optimizer never moves them, state_dict forgets them, "
    "and to(device) leaves them behind",
    fix="nn.ModuleList, nn.ModuleDict or nn.ParameterList for list, dict; no layer made in forward",
    needs=("model", "batch"),
    reproducer="""
nodes, found = [model.train()(inputs).grad_fn], set()
while nodes:
    node = nodes.pop()
    found |= {node.variable} if hasattr(node, "variable") else set()
    nodes += [following for following, _ in node.next_functions if following is not None]
assert found <= set(model.parameters())
""",
)
def check_every_layer_is_registered(project: Project) -> None:
    """Check that every trainable tensor behind the output is a parameter of the model."""
    model = project.fresh(training=True)
    inputs = project.inputs()
    known = {id(parameter) for parameter in model.parameters()}
    known |= {id(tensor) for tensor in tensors_in(inputs).values()}
    if isinstance(project.optimizer, torch.optim.Optimizer):
        known |= {id(p) for group in project.optimizer.param_groups for p in group["params"]}
    outputs = project.run(model, inputs)
    given = {(x.shape, x.data_ptr()) for x in tensors_in(inputs).values()}
    strangers = [
        leaf
        for leaf in graph_leaves(outputs)
        if id(leaf) not in known and (leaf.shape, leaf.data_ptr()) not in given
    ]
    if strangers:
        shapes = names([str(tuple(leaf.shape)) for leaf in strangers])
        broken(
            f"the output depends on {len(strangers)} trainable tensors that model.parameters() "
            f"does not list, of shape {shapes}{whereabouts(model, strangers)}"
        )


def graph_leaves(outputs: Any) -> list[Tensor]:
    """Return the leaves of the graph behind some outputs, in the order in which they are met."""
    waiting = [x.grad_fn for x in floats(outputs).values() if x.grad_fn is not None]
    seen, found = set(), []
    while waiting:
        node: Any = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions if following is not None]
    return found


def whereabouts(model: nn.Module, strangers: list[Tensor]) -> str:
    """Return in which plain attributes the tensors are kept, if they are in some."""
    wanted = {id(tensor) for tensor in strangers}
    found = []
    for name, part in model.named_modules():
        for attribute, value in vars(part).items():
            if attribute.startswith("_"):
                continue
            for _, leaf in leaves(value):
                owned = leaf.parameters() if isinstance(leaf, nn.Module) else [leaf]
                if any(id(tensor) in wanted for tensor in owned):
                    found.append(f"{name}.{attribute}".lstrip("."))
                    break
    return f", kept in {names(found)}" if found else ""


@law(
    claim="autograd.backward-computes-gradients",
    concept="Parameters that never get a gradient",
    why="they stay at their random initial values: the layer does not learn",
    fix="use the layer in forward, and nothing that cuts the graph: detach, .data, item, numpy, "
    "argmax, round; or freeze it with requires_grad_(False)",
    needs=("model", "batch"),
    reproducer="""
model.train()
loss = loss_fn(model(inputs), targets) if loss_fn else model(inputs).square().sum()
if loss.requires_grad:
    loss.backward()
learns = [p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad]
assert all(learns)
""",
)
def check_every_parameter_gets_a_gradient(project: Project) -> None:
    """Check that each trainable parameter gets a gradient, in one of several passes."""
    trainable = [name for name, p in project.network.named_parameters() if p.requires_grad]
    trainable = [name for name in trainable if not project.is_frozen(name)]
    if not trainable:
        not_checked("needs a parameter that requires a gradient")
    left, unused = set(trainable), set(trainable)
    for draw in range(DRAWS):
        model = project.fresh(training=True)
        if draw:
            shake(model, draw)
        with_gradient = gradients(project, model, draw)
        unused -= with_gradient.keys()
        left -= {name for name, gradient in with_gradient.items() if bool(gradient.any())}
        if not left:
            return
    asleep = {name for name in left - unused if layer_sleeps(project.network, name, left)}
    silent = [name for name in trainable if name in unused | asleep]
    if silent:
        how = "is None" if unused else "is exactly zero"
        broken(
            f"after {DRAWS} backward passes from {DRAWS} different weights the gradient of "
            f"{names(silent)} {how}: {len(silent)} of {len(trainable)} parameters"
        )


def gradients(project: Project, model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return the gradients of the loss, or else of a mixture of all outputs, by parameter."""
    model.zero_grad(set_to_none=True)
    outputs = project.run(model, project.inputs(), seed=seed)
    if project.loss_fn is not None and project.has("targets"):
        loss = project.loss(outputs, project.targets())
    else:
        parts = [x for x in floats(outputs).values() if x.requires_grad]
        generator = torch.Generator().manual_seed(seed)
        weights = [torch.randn(x.shape, generator=generator).to(x.device) for x in parts]
        sums = [(x * weight).sum() for x, weight in zip(parts, weights, strict=True)]
        loss = torch.stack(sums).sum() if sums else torch.zeros(())
    if loss.requires_grad:
        loss.backward()
    named = model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None and p.requires_grad}


def shake(model: nn.Module, seed: int) -> None:
    """Move the parameters a little: what starts at zero, a gate or a head, lets gradients pass."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                size = 0.1 * parameter.abs().mean() + 0.01
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter) * size)


def layer_sleeps(network: nn.Module, name: str, left: set[str]) -> bool:
    """Return whether no parameter of a layer has a gradient: a bias before BatchNorm alone may not.

    Its gradient is zero by right, since the mean is subtracted.
    """
    owner, _, _ = name.rpartition(".")
    siblings = [
        f"{owner}.{other}".lstrip(".")
        for other, p in network.get_submodule(owner).named_parameters(recurse=False)
        if p.requires_grad
    ]
    return all(sibling in left for sibling in siblings)


@law(
    claim="training.optimizer-step-applies-the-gradient",
    concept="Optimizer over other parameters",
    why="what the optimizer does not hold never moves, whatever the loss says",
    fix="build the optimizer last, over model.parameters(), after the head is replaced; what shall "
    "not be trained gets requires_grad_(False), or is named in frozen",
    needs=("model", "optimizer"),
    reproducer="""
held = {id(p) for group in optimizer.param_groups for p in group["params"]}
assert all(id(p) in held for p in model.parameters() if p.requires_grad)
""",
)
def check_the_optimizer_holds_the_model(project: Project) -> None:
    """Check that every parameter that requires a gradient is in the optimizer."""
    model, optimizer = project.fresh_pair()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trainable = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and not (project.frozen and project.is_frozen(name))
    }
    outside = [name for name, p in trainable.items() if id(p) not in held]
    own = {id(p) for p in model.parameters()}
    if outside:
        strangers = len(held - own)
        others = f"; it holds {strangers} tensors that are not the model's" if strangers else ""
        broken(
            f"{len(outside)} of {len(trainable)} trainable parameters are not in the optimizer: "
            f"{names(outside)}{others}"
        )


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
            f"after 2 batches the weights are {apart / length if length else 1:.0%} of the way "
            f"from where {project.trainer} lands if the gradients are cleared after each step"
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
