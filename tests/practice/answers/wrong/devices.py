"""Wrong answers to the exercises of lesson 9, devices, as learners write them."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from dlconcepts.devices import T, _follow, unregistered
from dlconcepts.support.devices import DEVICES, DeviceUnavailableError, _explain


def to_device__one_level(batch: T, device: torch.device | str) -> T:
    """Move the tensors of the outermost container alone."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)([v.to(device) if isinstance(v, Tensor) else v for v in batch])
    return batch


def to_device__in_place(batch: T, device: torch.device | str) -> T:
    """Write the moved tensors into the given lists and dicts."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        for key in batch:
            batch[key] = to_device__in_place(batch[key], device)
    elif isinstance(batch, list):
        for index, item in enumerate(batch):
            batch[index] = to_device__in_place(item, device)
    elif isinstance(batch, tuple):
        return tuple(to_device__in_place(item, device) for item in batch)
    return batch


def to_device__tuples_to_lists(batch: T, device: torch.device | str) -> T:
    """Return a list for a tuple."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device__tuples_to_lists(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [to_device__tuples_to_lists(item, device) for item in batch]
    return batch


def to_device__numbers_too(batch: T, device: torch.device | str) -> T:
    """Make tensors of numbers."""
    if isinstance(batch, (Tensor, float, int)):
        return torch.as_tensor(batch).to(device)
    if isinstance(batch, dict):
        return {key: to_device__numbers_too(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)([to_device__numbers_too(item, device) for item in batch])
    return batch


def to_device__always_copies(batch: T, device: torch.device | str) -> T:
    """Copy tensors that are on the device already."""
    if isinstance(batch, Tensor):
        return batch.to(device, copy=True)
    if isinstance(batch, dict):
        return {key: to_device__always_copies(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)([to_device__always_copies(item, device) for item in batch])
    return batch


def to_device__copies_the_rest(batch: T, device: torch.device | str) -> T:
    """Copy other values instead of returning the same objects."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device__copies_the_rest(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)([to_device__copies_the_rest(item, device) for item in batch])
    return copy.deepcopy(batch)


def to_device__drops_the_rest(batch: T, device: torch.device | str) -> T:
    """Leave out what is no tensor, such as names."""
    if isinstance(batch, dict):
        return {
            key: to_device__drops_the_rest(value, device)
            for key, value in batch.items()
            if isinstance(value, (Tensor, dict, list, tuple))
        }
    if isinstance(batch, (list, tuple)):
        kept = [item for item in batch if isinstance(item, (Tensor, dict, list, tuple))]
        return type(batch)([to_device__drops_the_rest(item, device) for item in kept])
    return batch.to(device) if isinstance(batch, Tensor) else batch


def to_device__whatever_can_be_iterated(batch: T, device: torch.device | str) -> T:
    """Go into strings too, whose characters are strings, without an end."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {
            key: to_device__whatever_can_be_iterated(value, device) for key, value in batch.items()
        }
    if hasattr(batch, "__iter__"):
        moved = [to_device__whatever_can_be_iterated(item, device) for item in batch]
        return type(batch)(moved)
    return batch


def to_device__no_dicts(batch: T, device: torch.device | str) -> T:
    """Forget dicts."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, (list, tuple)):
        return type(batch)([to_device__no_dicts(item, device) for item in batch])
    return batch


def _check_attributes(model: nn.Module, error: type[Exception] = ValueError) -> None:
    for name in unregistered(model):
        raise error(f"{name} would not move")


def _check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    own = set(model.parameters())
    for group in optimizer.param_groups if optimizer else ():
        if not set(group["params"]) <= own:
            raise ValueError("the optimizer is another model's")


def _move(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None
) -> nn.Module:
    before = dict(model.named_parameters(remove_duplicate=False))
    model.to(device)
    if optimizer:
        after = dict(model.named_parameters(remove_duplicate=False))
        _follow(optimizer, {before[name]: after[name] for name in before})
    return model


def move__the_model_alone(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Leave the optimizer's state where it is."""
    _check_attributes(model)
    _check_optimizer(model, optimizer)
    return model.to(device)


def move__a_copy(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Move a copy and leave the model where it is."""
    _check_attributes(model)
    _check_optimizer(model, optimizer)
    return copy.deepcopy(model).to(device)


def move__misses_attributes(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Leave tensors that are plain attributes behind without a word."""
    _check_optimizer(model, optimizer)
    return _move(model, device, optimizer)


def move__looks_at_the_root(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Look for plain tensors in the model itself, but not in its layers or its lists."""
    for name, value in vars(model).items():
        if isinstance(value, Tensor):
            raise ValueError(f"model.{name} would not move")
    _check_optimizer(model, optimizer)
    return _move(model, device, optimizer)


def move__any_optimizer(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Move the state of another model's optimizer."""
    _check_attributes(model)
    before = list(model.parameters())
    model.to(device)
    if optimizer:
        moved = dict(zip(before, model.parameters(), strict=True))
        held = [p for group in optimizer.param_groups for p in group["params"]]
        _follow(optimizer, {parameter: moved.get(parameter, parameter) for parameter in held})
    return model


def move__checks_too_late(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Notice what is left behind after the rest has moved."""
    _check_optimizer(model, optimizer)
    _move(model, device, optimizer)
    _check_attributes(model)
    return model


def move__forgets_the_momentum(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Give the optimizer the new parameters and clear its state."""
    _check_attributes(model)
    _check_optimizer(model, optimizer)
    before = list(model.parameters())
    model.to(device)
    if optimizer:
        moved = dict(zip(before, model.parameters(), strict=True))
        for group in optimizer.param_groups:
            group["params"] = [moved[parameter] for parameter in group["params"]]
        optimizer.state.clear()
    return model


def move__type_error(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Raise TypeError for a tensor that is a plain attribute."""
    _check_attributes(model, TypeError)
    _check_optimizer(model, optimizer)
    return _move(model, device, optimizer)


def move__warns(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Warn of what is left behind, and move the rest."""
    for name in unregistered(model):
        warnings.warn(f"{name} stays where it is", stacklevel=2)
    _check_optimizer(model, optimizer)
    return _move(model, device, optimizer)


def move__empties(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Make new parameters of zeros on the device, so all weights are lost."""
    _check_attributes(model)
    _check_optimizer(model, optimizer)
    _move(model, device, optimizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter))
    return model


def move__returns_nothing(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Return None."""
    _check_attributes(model)
    _check_optimizer(model, optimizer)
    _move(model, device, optimizer)


def _check_name(name: str) -> None:
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}: choose one of {', '.join(DEVICES)}")


def find_device__the_name_alone(name: str) -> torch.device:
    """Return a device that nothing was computed on."""
    _check_name(name)
    return torch.device(name)


def find_device__falls_back(name: str) -> torch.device:
    """Return the CPU where the device cannot be used."""
    _check_name(name)
    try:
        (torch.ones(1, device=name) + 1).item()
    except (RuntimeError, AssertionError):
        return torch.device("cpu")
    return torch.device(name)


def find_device__pytorchs_error(name: str) -> torch.device:
    """Let PyTorch's RuntimeError or AssertionError through."""
    _check_name(name)
    (torch.ones(1, device=name) + 1).item()
    return torch.device(name)


def find_device__any_name(name: str) -> torch.device:
    """Accept what torch.device accepts, and raise its RuntimeError for the rest."""
    device = torch.device(name)
    try:
        torch.ones(1, device=device) + 1
    except (RuntimeError, AssertionError) as error:
        raise DeviceUnavailableError(f"{name} cannot be used: {_explain(str(error))}") from error
    return device


def find_device__unknown_is_unavailable(name: str) -> torch.device:
    """Raise DeviceUnavailableError for a name that is no device."""
    if name not in DEVICES:
        raise DeviceUnavailableError(f"unknown device {name!r}: choose one of {DEVICES}")
    try:
        (torch.ones(1, device=name) + 1).item()
    except (RuntimeError, AssertionError) as error:
        raise DeviceUnavailableError(f"{name} cannot be used: {_explain(str(error))}") from error
    return torch.device(name)


def find_device__a_string(name: str) -> torch.device:
    """Return the name itself."""
    _check_name(name)
    try:
        (torch.ones(1, device=name) + 1).item()
    except (RuntimeError, AssertionError) as error:
        raise DeviceUnavailableError(f"{name} cannot be used: {_explain(str(error))}") from error
    return name


def find_device__computes_on_the_cpu(name: str) -> torch.device:
    """Compute, but forget to say where."""
    _check_name(name)
    device = torch.device(name)
    try:
        (torch.ones(1) + 1).item()
    except RuntimeError as error:
        raise DeviceUnavailableError(f"{name} cannot be used: {_explain(str(error))}") from error
    return device


def find_device__no_reason(name: str) -> torch.device:
    """Say neither why the device cannot be used nor what to do."""
    _check_name(name)
    try:
        (torch.ones(1, device=name) + 1).item()
    except (RuntimeError, AssertionError) as error:
        raise DeviceUnavailableError("not available") from error
    return torch.device(name)


def find_device__numbered(name: str) -> torch.device:
    """Return the first device of the kind, which does not equal the device of that name."""
    _check_name(name)
    device = torch.device(name, 0)
    try:
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError) as error:
        raise DeviceUnavailableError(f"{name} cannot be used: {_explain(str(error))}") from error
    return device
