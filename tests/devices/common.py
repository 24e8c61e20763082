"""Shared by several claims of the lesson devices."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.support.devices import DEVICES, DeviceUnavailableError, find_device

META = torch.device("meta")  # a device that every machine has: it keeps shapes and no values


seeds = st.integers(0, 2**16)


def is_there(name: str) -> bool:
    """Return whether a device can be used."""
    try:
        find_device(name)
    except DeviceUnavailableError:
        return False
    return True


MISSING = [name for name in DEVICES if not is_there(name)]


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Return the tensors of a nested batch, or of a model with all that it holds, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, nn.Module):
        yield from tensors_in(vars(batch))
    elif isinstance(batch, dict):
        yield from tensors_in(list(batch.values()))
    elif isinstance(batch, (list, tuple)):
        for item in batch:
            yield from tensors_in(item)


def devices_in(model: nn.Module) -> set[torch.device]:
    """Return the devices of all that a model holds, registered or not."""
    return {tensor.device for tensor in tensors_in(model)}


Settings = tuple[bool, bool, bool]


def settings() -> Settings:
    """Return what decides whether torch computes the same bits twice, as it stands."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )


class Queue:
    """A device that works while the host goes on: a launch takes the host a second, and it is back.

    It stands in the place of `torch.cuda`. Work begins when it was launched and the work before it
    is done.
    """

    def __init__(self) -> None:
        """Begin with an empty queue, at time 0."""
        self.now = self.idle = 0.0

    def clock(self) -> float:
        """Return the time on the wall, as the host sees it."""
        return self.now

    def launch(self, seconds: float) -> None:
        """Put work of so many seconds into the queue."""
        self.now += 1
        self.idle = max(self.idle, self.now) + seconds

    def synchronize(self) -> None:
        """Wait until the queue is empty."""
        self.now = max(self.now, self.idle)

    def Event(self, *, enable_timing: bool) -> "Event":  # noqa: N802 - torch's name
        """Return an event of this queue."""
        assert enable_timing, "an event without timing has no time"
        return Event(self)


class Event:
    """A mark in a queue that takes the time when the work before it is done."""

    def __init__(self, queue: Queue) -> None:
        """Belong to a queue."""
        self.queue, self.time = queue, math.nan

    def record(self) -> None:
        """Put the mark into the queue."""
        self.time = max(self.queue.now, self.queue.idle)

    def synchronize(self) -> None:
        """Wait for the mark."""
        self.queue.now = max(self.queue.now, self.time)

    def elapsed_time(self, end: "Event") -> float:
        """Return the milliseconds from this mark to another."""
        assert end.time <= self.queue.now, "an event has no time before it was waited for"
        return 1000 * (end.time - self.time)
