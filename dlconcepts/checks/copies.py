"""Copies of a model together with its optimizer, and whether a copy is independent."""

import copy
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dlconcepts.checks.state import reachable

MODELS = ("model", "net", "network", "module")
OPTIMIZERS = ("optimizer", "optim", "opt")


def optimizers(part: Any, *, wrapped: bool = False) -> list[Optimizer]:
    """Return the optimizers that a part is or leads to; if asked, also those that wrap others."""
    if part is None or is_factory(part):
        return []
    found = [x for x in reachable(part) if isinstance(x, Optimizer)]
    outer = [x for x in found if any(isinstance(inner, Optimizer) for inner in vars(x).values())]
    inner = [x for x in found if not any(x is other for other in outer)]
    return [*inner, *outer] if wrapped else inner


def is_factory(part: Any) -> bool:
    """Return whether a part builds an optimizer; an own class with `step` is one."""
    return callable(part) and not hasattr(part, "step")


def groups_of(part: Any) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers(part) for group in optimizer.param_groups]


def held_by(part: Any) -> list[Tensor]:
    """Return the tensors that an optimizer, several or an own class of one would move."""
    if optimizers(part) or is_factory(part):
        return [parameter for group in groups_of(part) for parameter in group["params"]]
    return [x for x in reachable(part) if isinstance(x, Tensor)]


def build_optimizer(factory: Callable[[Any], Any], model: nn.Module) -> Any:
    """Call a function that takes the model's parameters, or the model, and returns an optimizer."""
    takes_model = False
    with suppress(TypeError, ValueError):  # a built-in function may have no signature
        first = list(inspect.signature(factory).parameters)[:1]
        takes_model = any(name.lower() in MODELS for name in first)
    try:
        return factory(model if takes_model else model.parameters())
    except (TypeError, AttributeError):
        return factory(model.parameters() if takes_model else model)


def copy_together(model: nn.Module, part: Any) -> tuple[nn.Module, Any]:
    """Return copies of a model and of its optimizer, which holds the copy's parameters.

    The optimizer may be one, several, with their schedules, or an own class. deepcopy alone loses
    gradients and the link between the two, and a method that a scheduler patched into the
    optimizer would step the original.
    """
    memo: dict[int, Any] = {}
    twin = copy.deepcopy(model, memo)
    for old, new in zip(model.parameters(), twin.parameters(), strict=True):
        if old.grad is not None and new.grad is None:
            new.grad = old.grad.clone()
    for parameter in held_by(part):
        if id(parameter) not in memo:
            alone = copy.deepcopy(parameter, memo)
            alone.grad = None if parameter.grad is None else parameter.grad.clone()
    for optimizer in optimizers(part, wrapped=True):
        own = {k: x for k, x in vars(optimizer).items() if not k.startswith("_optimizer_")}
        own.pop("step", None)
        memo[id(optimizer)] = mine = object.__new__(type(optimizer))
        mine.__setstate__(copy.deepcopy(own, memo))
    return twin, copy.deepcopy(part, memo)


def copies_alone(network: nn.Module, optimizer: Any, functions: list[Any]) -> bool:
    """Return whether the model can be copied, and the project's functions do not reach it."""
    if any(part is network for part in reachable(*functions)):
        return False
    try:
        twin, _ = copy_together(network, None if is_factory(optimizer) else optimizer)
    except Exception:  # deepcopy runs the attributes' own code, which may raise anything
        return False
    if not all(p.is_leaf for p in twin.parameters()):  # in copies of a ScriptModule some are not
        return False
    own = {id(part) for part in (*network.modules(), *network.parameters())}
    return not any(id(part) in own for part in reachable(twin))
