"""Lesson 9, devices: where tensors live and computations run, by PyTorch's own names."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dlconcepts.support.devices import WORKSPACE

T = TypeVar("T")


def to_device(batch: T, device: torch.device | str) -> T:
    """Return a batch on a device: a tensor, or tuples, lists and dicts that hold some, nested.

    What is no tensor stays the same object, and so does a tensor that is there already; the batch
    that was given is left alone, since `Tensor.to` moves nothing but returns a copy.
    Source: PyTorch documentation, `torch.Tensor.to`.

    >>> to_device({"images": [torch.zeros(1)], "name": "cat"}, "meta")
    {'images': [tensor(..., device='meta', size=(1,))], 'name': 'cat'}
    """
    found: Any = batch
    if isinstance(found, Tensor):
        found = found.to(device)
    elif isinstance(found, dict):
        found = type(found)((key, to_device(value, device)) for key, value in found.items())
    elif isinstance(found, tuple) and hasattr(found, "_fields"):
        found = type(found)(*(to_device(value, device) for value in found))
    elif isinstance(found, (list, tuple)):
        found = type(found)(to_device(value, device) for value in found)
    result: T = found
    return result


def move(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Move a model, in place, with all that belongs to it, and the state of its optimizer.

    `nn.Module.to` moves parameters and buffers, and no more. Returns the model.

    Raises ValueError, before anything is moved, if the model keeps a tensor or a module where `to`
    does not find it, with its name, or if the optimizer is another model's.
    Source: PyTorch documentation, `torch.nn.Module.to`, `register_buffer` and "torch.optim".

    >>> model = nn.Linear(2, 1)
    >>> model.mean = torch.zeros(2)
    >>> move(model, "meta")
    Traceback (most recent call last):
    ...
    ValueError: model.mean would be left behind: register_buffer it, or, if a module, use ModuleList
    """
    if left := next(unregistered(model), None):
        raise ValueError(
            f"{left} would be left behind: register_buffer it, or, if a module, use ModuleList"
        )
    before = list(model.parameters())
    stepped = [] if optimizer is None else [p for g in optimizer.param_groups for p in g["params"]]
    if {id(parameter) for parameter in stepped} - {id(parameter) for parameter in before}:
        raise ValueError("the optimizer steps parameters that are not the model's")
    model.to(device)
    if optimizer is not None:
        _follow(optimizer, dict(zip(before, model.parameters(), strict=True)))
    return model


def _follow(optimizer: torch.optim.Optimizer, moved: dict[nn.Parameter, nn.Parameter]) -> None:
    """Let an optimizer step the parameters that were moved, with its state beside them."""
    # Loading brings each tensor of the state to the device of its parameter.
    state = optimizer.state_dict()
    for group in optimizer.param_groups:
        group["params"] = [moved[parameter] for parameter in group["params"]]
    optimizer.state.clear()
    optimizer.load_state_dict(state)


def unregistered(model: nn.Module) -> Iterator[str]:
    """Return the names of tensors and modules that a model holds but `nn.Module.to` does not find.

    >>> model = nn.Module()
    >>> model.layers = [nn.Linear(1, 1)]
    >>> list(unregistered(model))
    ['model.layers[0]']
    """
    for name, module in model.named_modules(prefix="model"):
        for attribute, value in vars(module).items():
            if attribute not in ("_parameters", "_buffers", "_modules"):
                yield from _held(f"{name}.{attribute}", value)


def _held(name: str, value: object) -> Iterator[str]:
    """Return the names of the tensors and modules in a value."""
    if isinstance(value, (Tensor, nn.Module)):
        yield name
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _held(f"{name}[{index}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _held(f"{name}[{key!r}]", item)


def median_seconds(
    function: Callable[[], object],
    device: torch.device | str = "cpu",
    *,
    warm_up: int = 2,
    rounds: int = 9,
    module: ModuleType | Any = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the median time that a call takes on a device, until its last result is there.

    A call on an accelerator returns once its work is in the queue. Time is therefore taken by
    events in the queue itself, where the device has them, and the queue is empty before each round.
    The first `warm_up` calls, which compile, allocate and choose algorithms, do not count. `module`
    and `clock` are the device's module of torch and the clock of a device that has no events.

    Raises ValueError for fewer than 1 round.
    Source: PyTorch documentation, "CUDA semantics", asynchronous execution.

    >>> median_seconds(lambda: sum(range(1000))) > 0
    True
    """
    if rounds < 1:
        raise ValueError(f"time is taken in at least 1 round, but rounds is {rounds}")
    module = torch.get_device_module(device) if module is None else module
    for _ in range(warm_up):
        function()
    take = _clocked if torch.device(device).type == "cpu" else _between_events
    return statistics.median(take(function, module, clock) for _ in range(rounds))


def _clocked(function: Callable[[], object], module: Any, clock: Callable[[], float]) -> float:
    """Return the time by the clock, from an empty queue to an empty queue."""
    module.synchronize()
    started = clock()
    function()
    module.synchronize()
    return clock() - started


def _between_events(
    function: Callable[[], object], module: Any, clock: Callable[[], float]
) -> float:
    """Return the time between two events of the queue, or by the clock if there are none."""
    if not hasattr(module, "Event"):
        return _clocked(function, module, clock)
    module.synchronize()
    start, end = module.Event(enable_timing=True), module.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1000


@contextmanager
def deterministic() -> Iterator[None]:
    """Have torch compute the same bits from the same input for a block, or raise where it cannot.

    The workspace setting that cuBLAS needs stays in the environment of the process.

    Raises RuntimeError on entry if CUDA is at work already without that setting, and in the block,
    from torch, at an operation that has no deterministic kernel.
    Source: PyTorch documentation, "Reproducibility" and `torch.use_deterministic_algorithms`.

    >>> with deterministic():
    ...     torch.are_deterministic_algorithms_enabled()
    True
    """
    if torch.cuda.is_initialized() and WORKSPACE not in os.environ:
        raise RuntimeError(f"set {WORKSPACE}=:4096:8 before the first computation on CUDA")
    os.environ.setdefault(WORKSPACE, ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.backends.cudnn.benchmark = benchmark
