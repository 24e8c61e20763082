"""Right answers to the exercises of lesson 9, devices, as learners write them."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dlconcepts.devices import T, _follow, unregistered
from dlconcepts.support.devices import DEVICES, DeviceUnavailableError, _explain, _is_built


def to_device__recursive(batch: T, device: torch.device | str) -> T:
    """Go through the containers by their types, and build each anew."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        moved = copy.copy(batch)
        for key, value in batch.items():
            moved[key] = to_device__recursive(value, device)
        return moved
    if isinstance(batch, (list, tuple)):
        items = [to_device__recursive(item, device) for item in batch]
        if hasattr(batch, "_fields"):  # a namedtuple takes its fields one by one
            return type(batch)(*items)
        return type(batch)(items)
    return batch


@singledispatch
def _moved(value: Any, device: torch.device | str) -> Any:
    return value


@_moved.register
def _(value: Tensor, device: torch.device | str) -> Any:
    return value if value.device == torch.device(device) else value.to(device, copy=False)


@_moved.register
def _(value: dict, device: torch.device | str) -> Any:
    result = copy.copy(value)
    result.update({key: _moved(item, device) for key, item in value.items()})
    return result


@_moved.register
def _(value: list, device: torch.device | str) -> Any:
    result = copy.copy(value)
    result[:] = [_moved(item, device) for item in value]
    return result


@_moved.register
def _(value: tuple, device: torch.device | str) -> Any:
    items = tuple(_moved(item, device) for item in value)
    return value._make(items) if hasattr(value, "_make") else type(value)(items)


def to_device__dispatched(batch: T, device: torch.device | str) -> T:
    """Write a function for each type with functools.singledispatch."""
    return _moved(batch, device)


def to_device__with_pytree(batch: T, device: torch.device | str) -> T:
    """Let PyTorch's tree_map_only find the tensors."""
    return tree_map_only(
        Tensor,
        lambda tensor: tensor.to(device),
        batch,
        is_leaf=lambda value: isinstance(value, torch.Size),
    )


def _check_movable(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    lost = list(unregistered(model))
    if lost:
        raise ValueError(f"these would stay behind: {', '.join(lost)}; register them")
    if optimizer is not None:
        own = {id(parameter) for parameter in model.parameters()}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not held <= own:
            raise ValueError("the optimizer holds parameters that are not the model's")


def move__with_the_helpers(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Check, move, and let the library's helper take the optimizer along."""
    _check_movable(model, optimizer)
    before = dict(model.named_parameters(remove_duplicate=False))
    model.to(device)
    if optimizer is not None:
        after = dict(model.named_parameters(remove_duplicate=False))
        _follow(optimizer, {before[name]: after[name] for name in before})
    return model


def move__state_by_hand(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Move the tensors of the state itself, under the keys of the moved parameters."""
    from dlconcepts.devices import to_device

    _check_movable(model, optimizer)
    old = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    model = model.to(device)
    if optimizer is None:
        return model
    moved = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    new = dict(zip(old, moved, strict=True))
    state = defaultdict(dict)
    for group in optimizer.param_groups:
        on_host = not (group.get("capturable") or group.get("fused"))
        for parameter in group["params"]:
            if parameter not in optimizer.state:
                continue
            entry = dict(optimizer.state[parameter])
            kept = {"step": entry.pop("step")} if on_host and "step" in entry else {}
            state[new[parameter]] = {**to_device(entry, device), **kept}
        group["params"] = [new[parameter] for parameter in group["params"]]
    optimizer.state = state
    return model


def move__through_the_state_dict(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Load the optimizer's own state_dict again, which moves each tensor to its parameter."""
    names = sorted(unregistered(model))
    if names:
        raise ValueError(f"model.to misses {names[0]}: make it a buffer, a parameter or a module")
    parameters = [p for _, p in model.named_parameters(remove_duplicate=False)]
    positions = {id(parameter): index for index, parameter in enumerate(parameters)}
    indices: list[list[int]] = []
    for group in optimizer.param_groups if optimizer else ():
        if any(id(parameter) not in positions for parameter in group["params"]):
            raise ValueError("another model's optimizer cannot be moved with this model")
        indices.append([positions[id(parameter)] for parameter in group["params"]])
    saved = optimizer.state_dict() if optimizer else None
    nn.Module.to(model, device)
    if optimizer is not None:
        moved = [p for _, p in model.named_parameters(remove_duplicate=False)]
        for group, places in zip(optimizer.param_groups, indices, strict=True):
            group["params"] = [moved[place] for place in places]
        optimizer.state.clear()
        optimizer.load_state_dict(saved)
    return model


def find_device__by_computing(name: str) -> torch.device:
    """Add two numbers on the device."""
    if name not in DEVICES:
        raise ValueError(f"{name!r} is no device: choose one of {', '.join(DEVICES)}")
    if not _is_built(name):
        raise DeviceUnavailableError(
            f"this build of PyTorch cannot use {name}; install one that can, or use the cpu"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            total = (torch.ones(2, device=name) + 1).sum().item()
    except Exception as error:
        raise DeviceUnavailableError(f"{name} is not usable: {_explain(str(error))}") from error
    if total != 4:
        raise DeviceUnavailableError(f"{name} computes wrongly: check its driver, or use the cpu")
    return torch.device(name)


def find_device__with_a_product(name: str) -> torch.device:
    """Multiply matrices, and give the reason in its own words."""
    try:
        DEVICES.index(name)
    except ValueError:
        raise ValueError(f"there is no device {name!r}; use {' or '.join(DEVICES)}") from None
    device = torch.device(name)
    try:
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            matrix = torch.eye(3).to(device)
            result = (matrix @ matrix).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DeviceUnavailableError(
            f"the device {name} cannot be used, since PyTorch says {reason!r}. Install its driver "
            "and a build of PyTorch for it, or pass 'cpu'."
        ) from error
    if not result.equal(torch.eye(3)):
        raise DeviceUnavailableError(f"{name} multiplies wrongly: check its driver, or use 'cpu'")
    return device


def _try(device: torch.device) -> str | None:
    try:
        values = torch.arange(4.0, device=device)
        values.mul(2).tolist()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return str(error) or repr(error)
    return None


def find_device__by_a_helper(name: str) -> torch.device:
    """Let a helper return the error of a computation as text."""
    if not isinstance(name, str) or name not in set(DEVICES):
        raise ValueError(f"unknown device {name!r}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        reason = _try(torch.device(name))
    if reason is None:
        return torch.device(name)
    raise DeviceUnavailableError(f"{name}: {_explain(reason)}")
