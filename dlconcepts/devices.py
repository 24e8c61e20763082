"""Lesson 9, devices: move batches and models, time a call, and repeat it bit for bit."""

import copy
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
    """Return a batch on a device: a tensor, or nested tuples, lists and dicts that hold tensors.

    Other values stay the same objects, and so does a tensor that is on the device already. The
    containers are new ones of the same types, named tuples and subclasses of dict too. The given
    batch does not change, since `Tensor.to` returns a copy.
    Source: PyTorch documentation, `torch.Tensor.to`.

    >>> to_device({"images": [torch.zeros(1)], "name": "cat"}, "meta")
    {'images': [tensor(..., device='meta', size=(1,))], 'name': 'cat'}
    """
    found: Any = batch
    if isinstance(found, Tensor):
        found = found.to(device)
    elif isinstance(found, dict):
        found = copy.copy(found)  # keeps what its type keeps, such as the factory of a defaultdict
        found.update({key: to_device(value, device) for key, value in found.items()})
    elif isinstance(found, tuple) and hasattr(found, "_fields"):
        found = type(found)(*(to_device(value, device) for value in found))
    elif isinstance(found, (list, tuple)):
        found = type(found)(to_device(value, device) for value in found)
    result: T = found
    return result


def move(
    model: nn.Module, device: torch.device | str, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Move a model in place, and the state of its optimizer with it; return the model.

    Raises ValueError, before anything moves, if the optimizer has a parameter that the model does
    not have, or if the model keeps a tensor or a module where `nn.Module.to`, which moves
    parameters and buffers, misses it.
    Source: PyTorch documentation, `torch.nn.Module.to`, `register_buffer` and "torch.optim".

    >>> model = nn.Linear(2, 1)
    >>> model.mean = torch.zeros(2)
    >>> move(model, "meta")
    Traceback (most recent call last):
    ...
    ValueError: model.mean would not move; register it with register_buffer, modules in a ModuleList
    """
    if missed := next(unregistered(model), None):
        raise ValueError(
            f"{missed} would not move; register it with register_buffer, modules in a ModuleList"
        )
    before = list(model.parameters())
    stepped = [] if optimizer is None else [p for g in optimizer.param_groups for p in g["params"]]
    if {id(parameter) for parameter in stepped} - {id(parameter) for parameter in before}:
        raise ValueError("the optimizer steps another model's parameters; pass this model's own")
    model.to(device)
    if optimizer is not None:
        _follow(optimizer, dict(zip(before, model.parameters(), strict=True)))
    return model


def _follow(optimizer: torch.optim.Optimizer, moved: dict[nn.Parameter, nn.Parameter]) -> None:
    # load_state_dict brings each tensor of the state to the device of its parameter.
    state = optimizer.state_dict()
    for group in optimizer.param_groups:
        group["params"] = [moved[parameter] for parameter in group["params"]]
    optimizer.state.clear()
    optimizer.load_state_dict(state)


def unregistered(model: nn.Module) -> Iterator[str]:
    """Yield the names of tensors and modules of a model that `nn.Module.to` does not find.

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
    """Return the median seconds that a call takes on a device, until its last result is there.

    A call on an accelerator returns as soon as its work is queued. So events in the queue take the
    time, if the device has them, and each round starts from an empty queue. The first `warm_up`
    calls, which compile, allocate and choose algorithms, do not count. `module` is torch's module
    of the device, and `clock` times a device without events.

    Raises ValueError for fewer than 1 round.
    Source: PyTorch documentation, "CUDA semantics", asynchronous execution.

    >>> median_seconds(lambda: sum(range(1000))) > 0
    True
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, but is {rounds}")
    module = torch.get_device_module(device) if module is None else module
    for _ in range(warm_up):
        function()
    take = _clocked if torch.device(device).type == "cpu" else _between_events
    return statistics.median(take(function, module, clock) for _ in range(rounds))


def _clocked(function: Callable[[], object], module: Any, clock: Callable[[], float]) -> float:
    module.synchronize()  # finish earlier work
    started = clock()
    function()
    module.synchronize()
    return clock() - started


def _between_events(
    function: Callable[[], object], module: Any, clock: Callable[[], float]
) -> float:
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
    """Let torch compute the same bits from the same input in a block, or raise where it cannot.

    The workspace setting that cuBLAS needs stays in the environment of the process.

    Raises RuntimeError on entry if CUDA has started without that setting; in the block, torch
    raises it for an operation that has no deterministic kernel.
    Source: PyTorch documentation, "Reproducibility" and `torch.use_deterministic_algorithms`.

    >>> with deterministic():
    ...     torch.are_deterministic_algorithms_enabled()
    True
    """
    if torch.cuda.is_initialized() and WORKSPACE not in os.environ:
        raise RuntimeError(f"CUDA started too early; set {WORKSPACE}=:4096:8 before its first use")
    os.environ.setdefault(WORKSPACE, ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it picks the algorithm that was fastest this time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.backends.cudnn.benchmark = benchmark
