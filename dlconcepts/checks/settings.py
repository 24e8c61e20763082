"""The random states and settings that a process has but one of: seeded, kept and put back."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def seed_everything(seed: int) -> None:
    """Seed the generators that a program can reach by a global name."""
    torch.manual_seed(seed)
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)


def random_states() -> tuple[Any, ...]:
    """Return the states of the global generators of torch, Python and numpy."""
    numpy = sys.modules.get("numpy")
    return (
        torch.get_rng_state(),
        [module.get_rng_state(device) for module, device in devices_in_use()],
        random.getstate(),
        numpy.random.get_state() if numpy else None,
    )


def set_random_states(states: tuple[Any, ...]) -> None:
    """Put the global generators back."""
    on_cpu, accelerators, python, numpy_state = states
    torch.set_rng_state(on_cpu)
    # A device that came into use meanwhile has no state from before, and keeps its own.
    for (module, device), state in zip(devices_in_use(), accelerators, strict=False):
        module.set_rng_state(state, device)
    random.setstate(python)
    if numpy_state is not None:
        sys.modules["numpy"].random.set_state(numpy_state)


def devices_in_use() -> list[tuple[Any, str]]:
    """Return each device of the accelerator that this process uses, with its module of torch."""
    if not torch.accelerator.is_available():
        return []
    accelerator: Any = torch.accelerator.current_accelerator()
    module: Any = torch.get_device_module(accelerator)
    if not getattr(module, "is_initialized", lambda: True)():  # torch.mps is from the start
        return []
    return [(module, f"{accelerator.type}:{index}") for index in range(module.device_count())]


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put PyTorch's global settings and the random states back afterwards, whatever happens.

    Grad mode, default dtype, threads, deterministic algorithms, cuDNN's flags, matmul precision.

    >>> with settings_kept():
    ...     _ = torch.set_grad_enabled(False), torch.manual_seed(7)
    >>> torch.is_grad_enabled()
    True
    """
    random_before = random_states()
    grad, dtype, threads = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    precision, anomaly = torch.get_float32_matmul_precision(), torch.is_anomaly_enabled()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    kinds = ("cpu", "cuda")
    autocast = {
        kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds
    }
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        torch.autograd.set_detect_anomaly(anomaly)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
        for kind, (enabled, kind_dtype) in autocast.items():
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, kind_dtype)
        set_random_states(random_before)
