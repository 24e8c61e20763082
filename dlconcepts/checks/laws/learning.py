"""Checks of what learns: every layer is registered, gets a gradient, is in the optimizer."""

from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.copies import held_by
from dlconcepts.checks.project import Project, attributes
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.trees import floats, leaves, tensors

DRAWS = 8  # stochastic depth and mixtures of experts skip a layer in some passes


def names(found: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


@law(
    claim="networks.layers-belong-in-init",
    concept="Layers that are not registered",
    why="the optimizer never moves them, state_dict misses them, to(device) leaves them behind",
    fix="use nn.ModuleList, nn.ModuleDict or nn.ParameterList; create no layer in forward",
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
    model, optimizer = project.fresh_pair(training=True)
    batch = project.whole()
    known = {id(p) for p in (*model.parameters(), *held_by(optimizer), *held_by(project.optimizer))}
    outputs = project.feed(model, batch)
    given = {memory(x) for x in tensors(batch).values()}
    unknown = [leaf for leaf in graph_leaves(outputs) if id(leaf) not in known]
    strangers = {id(leaf): leaf for leaf in unknown if memory(leaf) not in given}

    def holds(value: Any) -> bool:
        parts = [leaf for _, leaf in leaves(value)]
        owned = [p.parameters() if isinstance(p, nn.Module) else [p] for p in parts]
        return any(id(tensor) in strangers for some in owned for tensor in some)

    if strangers:
        shapes = names([str(tuple(leaf.shape)) for leaf in strangers.values()])
        holders = [name for name, value in attributes(model) if holds(value)]
        kept = f", kept in {names(holders)}" if holders else ""
        broken(
            f"the output depends on {len(strangers)} trainable tensors that model.parameters() "
            f"does not list, of shape {shapes}{kept}"
        )


def memory(tensor: Tensor) -> int:
    """Return where the memory of a tensor is, also of a view; sparse tensors have none."""
    is_strided = tensor.layout == torch.strided
    return tensor.untyped_storage().data_ptr() if is_strided else id(tensor)


def graph_leaves(outputs: Any) -> list[Tensor]:
    """Return the tensors with requires_grad that the outputs depend on."""
    waiting: list[Any] = [x.grad_fn for x in floats(outputs).values()]
    seen, found = {None}, []
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            found += [node.variable] if hasattr(node, "variable") else []
            waiting += [following for following, _ in node.next_functions]
    return found


@law(
    claim="autograd.backward-computes-gradients",
    concept="Parameters that never get a gradient",
    why="they stay at their random initial values: the layer does not learn",
    fix="use the layer in forward, without anything that cuts the graph: detach, .data, item, "
    "numpy, argmax, round; or freeze it with requires_grad_(False)",
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
    """Check that each trainable parameter gets a gradient in at least one of several passes."""
    trainable = list(trainable_parameters(project, project.network))
    if not trainable:
        not_checked("needs a parameter that requires a gradient")
    left, unused = set(trainable), set(trainable)
    trains = project.trainer != "a plain step"
    # Training may call the loss with something else.
    with suppress(*([Exception] if trains else [])):
        for draw in range(DRAWS):
            model = project.fresh(training=True)
            if draw:
                shake(model, draw)
            with_gradient = gradients(project, model, draw)
            unused -= with_gradient.keys()
            left -= {name for name, gradient in with_gradient.items() if bool(gradient.any())}
            if not left:
                return
    if trains:  # several losses, or a part of the model that forward does not use
        used, moved = gradients_in_training(project)
        unused, left = unused - used, left - moved
    # A bias before BatchNorm alone has a zero gradient, since the mean is subtracted.
    named = project.network.named_parameters(remove_duplicate=False)
    awake = {name.rpartition(".")[0] for name, p in named if p.requires_grad and name not in left}
    asleep = {name for name in left if name.rpartition(".")[0] not in awake}
    silent = [name for name in trainable if name in unused | asleep]
    if silent:
        how = "is None" if unused else "is exactly zero"
        broken(
            f"after {DRAWS} backward passes from {DRAWS} different weights the gradient of "
            f"{names(silent)} {how}: {len(silent)} of {len(trainable)} parameters"
        )


def trainable_parameters(project: Project, model: nn.Module) -> dict[str, Tensor]:
    named = model.named_parameters()
    return {name: p for name, p in named if p.requires_grad and not project.is_frozen(name)}


def gradients(project: Project, model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return the gradients of the loss, or of a random mixture of all outputs, by parameter."""
    model.zero_grad()
    if project.own_loss or (project.loss_fn is not None and project.has("targets")):
        loss = project.loss_of(model, project.whole(), seed=seed)
        if loss.requires_grad:
            loss.backward()
    else:
        outputs = project.feed(model, project.whole(), seed=seed)
        parts = [x for x in floats(outputs).values() if x.requires_grad]
        torch.autograd.backward(parts, [torch.randn_like(x) for x in parts])
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gradients_in_training(project: Project) -> tuple[set[str], set[str]]:
    """Return which parameters get a gradient while the project trains, and one that is not zero."""
    model, optimizer = project.fresh_pair(training=True)
    shake(model, 1)
    used, moved = set(), set()

    def look(name: str, parameter: Tensor) -> None:
        used.add(name)
        if parameter.grad is not None and bool(parameter.grad.any()):
            moved.add(name)

    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(partial(look, name))
    project.train(model, optimizer, project.repeated(2))
    return used, moved


def shake(model: nn.Module, seed: int) -> None:
    """Move the parameters a little: a gate or head that starts at zero lets no gradient pass."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                size = 0.1 * parameter.abs().mean() + 0.01  # the last for parameters that are zero
                noise = torch.randn(parameter.shape, generator=generator, device="cpu")
                parameter.add_(noise.to(parameter) * size)


@law(
    claim="training.optimizer-step-applies-the-gradient",
    concept="Optimizer over other parameters",
    why="the optimizer never moves a parameter that it does not hold",
    fix="replace the head first, then build the optimizer; name in frozen what should not train",
    needs=("model", "optimizer"),
    reproducer="""
held = {id(p) for group in optimizer.param_groups for p in group["params"]}
assert all(id(p) in held for p in model.parameters() if p.requires_grad)
""",
)
def check_the_optimizer_holds_the_model(project: Project) -> None:
    """Check that every parameter that requires a gradient is in the optimizer."""
    model, optimizer = project.fresh_pair()
    held = {id(p) for p in held_by(optimizer)}
    trainable = trainable_parameters(project, model)
    outside = [name for name, p in trainable.items() if id(p) not in held]
    if outside:
        strangers = len(held - {id(p) for p in model.parameters()})
        others = f"; it holds {strangers} tensors that are not the model's" if strangers else ""
        broken(
            f"{len(outside)} of {len(trainable)} trainable parameters are not in the optimizer: "
            f"{names(outside)}{others}"
        )
