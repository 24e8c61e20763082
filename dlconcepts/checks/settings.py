"""Process-wide random state and settings: seed, save, restore."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from dlconcepts.checks.trees import all_bits

Pair = tuple[Callable[[], Any], Callable[[Any], object]]  # how to read a value, how to write it
CUDNN_FLAGS, DEVICES = ("benchmark", "deterministic"), ("cpu", "cuda")


def bound(read: Any, write: Any, *arguments: Any, **named: Any) -> Pair:
    return partial(read, *arguments, **named), partial(write, *arguments, **named)


SETTINGS: tuple[Pair, ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (
        torch.get_deterministic_debug_mode,  # 1 if deterministic algorithms only warn, 2 if not
        lambda mode: torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1),
    ),
    *(bound(getattr, setattr, torch.backends.cudnn, flag) for flag in CUDNN_FLAGS),
    *(bound(torch.is_autocast_enabled, torch.set_autocast_enabled, d) for d in DEVICES),
    *(bound(torch.get_autocast_dtype, torch.set_autocast_dtype, d) for d in DEVICES),
)


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, Python and numpy."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        # torch.manual_seed would also format the stack, to tell it if CUDA ever starts.
        torch.default_generator.manual_seed(seed)
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)


def generators() -> list[Pair]:
    pairs: list[Pair] = [
        (torch.get_rng_state, torch.set_rng_state),
        (random.getstate, random.setstate),
    ]
    # numpy is optional; if the project does not import it, nothing draws from it.
    if numpy := sys.modules.get("numpy"):
        pairs.append((numpy.random.get_state, numpy.random.set_state))
    if not torch.accelerator.is_available():
        return pairs
    accelerator: Any = torch.accelerator.current_accelerator()
    module: Any = torch.get_device_module(accelerator)
    # Asking an unused accelerator for its state would initialize it. torch.mps has no
    # is_initialized: it is always in use.
    if getattr(module, "is_initialized", lambda: True)():
        names = (f"{accelerator.type}:{i}" for i in range(module.device_count()))
        pairs += [bound(module.get_rng_state, module.set_rng_state, device=name) for name in names]
    return pairs


def draws(act: Callable[[], object]) -> bool:
    """Return whether something draws from the global generators."""
    seed_everything(1)
    before = all_bits([read() for read, _ in generators()])
    act()
    return all_bits([read() for read, _ in generators()]) != before


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore PyTorch's global settings and the random states afterwards, whatever happens."""
    states = [(write, read()) for read, write in generators()]
    settings = [(read, write, read()) for read, write in SETTINGS]
    try:
        with torch.enable_grad():
            yield
    finally:
        for read, write, value in settings:
            if read() != value:
                write(value)
        for write, state in states:
            write(state)
