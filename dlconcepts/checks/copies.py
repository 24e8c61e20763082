"""Copies of a model together with its optimizer, and whether a copy stands by itself."""

import copy
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from dlconcepts.checks.state import reachable

MODELS = ("model", "net", "network", "module")
OPTIMIZERS = ("optimizer", "optim", "opt")


def build_optimizer(factory: Callable[[Any], Any], model: nn.Module) -> Any:
    """Return the optimizer of a factory, which takes a model or the model's parameters."""
    ways: list[Callable[[], Any]] = [lambda: model.parameters(), lambda: model]
    with suppress(TypeError, ValueError):  # that of a function in C may be unknown
        first = list(inspect.signature(factory).parameters)[:1]
        if any(name.lower() in MODELS for name in first):
            ways.reverse()
    try:
        return factory(ways[0]())
    except (TypeError, AttributeError):
        return factory(ways[1]())


def copy_together(model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
    """Return copies of a model and of an optimizer that holds the copy's parameters.

    Gradients and the optimizer's state go along. deepcopy forgets both, and what a scheduler
    patched into an optimizer would step the original.
    """
    memo: dict[int, Any] = {}
    twin = copy.deepcopy(model, memo)
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        if mine.grad is not None and other.grad is None:
            other.grad = mine.grad.clone()
    if optimizer is None:
        return twin, None
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in memo:
                other = copy.deepcopy(parameter, memo)
                other.grad = None if parameter.grad is None else parameter.grad.clone()
    attributes = {
        name: value
        for name, value in vars(optimizer).items()
        if name != "step" and not name.startswith("_optimizer_")
    }
    mine = object.__new__(type(optimizer))
    mine.__setstate__(copy.deepcopy(attributes, memo))
    return twin, mine


def copies_alone(network: nn.Module, optimizer: Any, functions: list[Any]) -> bool:
    """Return whether a copy of the model is a model of its own, and is all that is used."""
    if any(part is network for part in reachable(*functions)):
        return False
    given = optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
    try:
        twin, _ = copy_together(network, given)
    except Exception:  # whatever a deepcopy of somebody's attributes may raise
        return False
    if not all(p.is_leaf for p in twin.parameters()):
        return False  # such are the copies of a ScriptModule
    own = {id(part) for part in network.modules()} | {id(p) for p in network.parameters()}
    return not any(id(part) in own for part in reachable(twin))
