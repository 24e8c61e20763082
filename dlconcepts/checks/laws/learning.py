"""Checks of what learns: every layer registered, given a gradient, held by the optimizer."""

from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.trees import floats, leaves
from dlconcepts.checks.trees import tensors as tensors_in

DRAWS = 8  # how often a parameter may be left out by chance: stochastic depth, experts


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
    model.zero_grad()
    outputs = project.run(model, project.inputs(), seed=seed)
    if project.loss_fn is not None and project.has("targets"):
        loss = project.loss(outputs, project.targets())
        if loss.requires_grad:
            loss.backward()
    else:
        parts = [x for x in floats(outputs).values() if x.requires_grad]
        torch.autograd.backward(parts, [torch.randn_like(x) for x in parts])
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def shake(model: nn.Module, seed: int) -> None:
    """Move the parameters a little: what starts at zero, a gate or a head, lets gradients pass."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                size = 0.1 * parameter.abs().mean() + 0.01
                noise = torch.randn(parameter.shape, generator=generator, device="cpu")
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
        if p.requires_grad and not project.is_frozen(name)
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
