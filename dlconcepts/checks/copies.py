"""Copies of a model together with its optimizer, and whether a copy is independent."""

import copy
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.state import reachable

MODELS = ("model", "net", "network", "module")
OPTIMIZERS = ("optimizer", "optim", "opt")


def held_by(optimizer: Any) -> list[Tensor]:
    """Return the parameters in an optimizer's groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def build_optimizer(factory: Callable[[Any], Any], model: nn.Module) -> Any:
    """Call a function that takes the model's parameters, or the model, and returns an optimizer."""
    ways: list[Callable[[], Any]] = [lambda: model.parameters(), lambda: model]
    with suppress(TypeError, ValueError):  # a built-in function may have no signature
        first = list(inspect.signature(factory).parameters)[:1]
        if any(name.lower() in MODELS for name in first):
            ways.reverse()
    try:
        return factory(ways[0]())
    except (TypeError, AttributeError):
        return factory(ways[1]())


def copy_together(model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
    """Return copies of a model and of its optimizer, which holds the copy's parameters.

    deepcopy alone loses gradients and the link between the two, and a method that a scheduler
    patched into the optimizer would step the original.
    """
    memo: dict[int, Any] = {}
    twin = copy.deepcopy(model, memo)
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        if mine.grad is not None and other.grad is None:
            other.grad = mine.grad.clone()
    if optimizer is None:
        return twin, None
    for parameter in held_by(optimizer):
        if id(parameter) not in memo:
            alone = copy.deepcopy(parameter, memo)
            alone.grad = None if parameter.grad is None else parameter.grad.clone()
    attributes = {
        name: value
        for name, value in vars(optimizer).items()
        if name != "step" and not name.startswith("_optimizer_")
    }
    mine = object.__new__(type(optimizer))
    mine.__setstate__(copy.deepcopy(attributes, memo))
    return twin, mine


def copies_alone(network: nn.Module, optimizer: Any, functions: list[Any]) -> bool:
    """Return whether the model can be copied, and the project's functions do not reach it."""
    if any(part is network for part in reachable(*functions)):
        return False
    given = optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
    try:
        twin, _ = copy_together(network, given)
    except Exception:  # deepcopy runs the attributes' own code, which may raise anything
        return False
    if not all(p.is_leaf for p in twin.parameters()):  # in copies of a ScriptModule some are not
        return False
    own = {id(part) for part in (*network.modules(), *network.parameters())}
    return not any(id(part) in own for part in reachable(twin))
