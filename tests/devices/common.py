"""Shared by several claims of the lesson devices."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.support.devices import DEVICES, DeviceUnavailableError, find_device

META = torch.device("meta")  # every machine has it; its tensors have a shape and no values

seeds = st.integers(0, 2**16)


def is_available(name: str) -> bool:
    try:
        find_device(name)
    except DeviceUnavailableError:
        return False
    return True


MISSING = [name for name in DEVICES if not is_available(name)]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nested batch, or of a model with all its attributes, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from tensors_in(vars(value))
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def devices_in(model: nn.Module) -> set[torch.device]:
    """Return the devices of all tensors that a model holds, registered or not."""
    return {tensor.device for tensor in tensors_in(model)}


def settings() -> tuple[bool, bool, bool]:
    """Return the settings that decide whether torch computes the same bits twice."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )


class Queue:
    """A simulated accelerator that stands in for `torch.cuda`, with a simulated clock.

    A launch takes the host one second and returns at once. The work itself begins when it has been
    launched and all earlier work is done.
    """

    def __init__(self) -> None:
        self.now = self.idle = 0.0  # the host's clock, and when the queue will be empty

    def clock(self) -> float:
        return self.now

    def launch(self, seconds: float) -> None:
        """Queue work that takes so many seconds."""
        self.now += 1
        self.idle = max(self.idle, self.now) + seconds

    def synchronize(self) -> None:
        self.now = max(self.now, self.idle)

    def Event(self, *, enable_timing: bool) -> "Event":  # noqa: N802 - torch's name
        assert enable_timing, "an event takes the time only with enable_timing"
        return Event(self)


class Event:
    """An event in a queue: it takes the time when the work before it is done."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.time = queue, math.nan

    def record(self) -> None:
        self.time = max(self.queue.now, self.queue.idle)

    def synchronize(self) -> None:
        self.queue.now = max(self.queue.now, self.time)

    def elapsed_time(self, end: "Event") -> float:
        """Return the milliseconds from this event to another."""
        assert end.time <= self.queue.now, "an event has a time only after it was waited for"
        return 1000 * (end.time - self.time)
