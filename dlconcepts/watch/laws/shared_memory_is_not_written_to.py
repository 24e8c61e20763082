"""A batch may share memory with the data: writing to it changes the data."""

import weakref
from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.stored_data import fingerprint
from dlconcepts.watch.trace import Forward

Key = tuple[int, int, tuple[int, ...]]
REGIONS = 512  # batches whose memory is followed


class SharedMemoryIsNotWrittenTo(Law):
    id = "shared-memory-is-not-written-to"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.regions: dict[Key, tuple[bytes, int]] = {}
        self.bases: dict[Key, weakref.ref[Tensor]] = {}

    def on_forward(self, forward: Forward, output: Any) -> None:
        inputs = next((x for x in forward.args if isinstance(x, Tensor)), None)
        if inputs is None or inputs.layout != torch.strided or inputs.device.type != "cpu":
            return
        whole = inputs.untyped_storage().nbytes()
        # A slice: a view of something larger that the script keeps, the stored data.
        base = inputs._base
        if not forward.grad or inputs.requires_grad or base is None or whole <= inputs.nbytes:
            return
        key = id(base), int(inputs.storage_offset()), tuple(inputs.shape)
        if key in self.bases and self.bases[key]() is not base:  # freed, and another in its place
            del self.bases[key], self.regions[key]
        self.seen = True
        now = fingerprint(inputs)
        before, step = self.regions.get(key, (now, self.trace.steps))
        if before != now and self.may_prove(forward.place):
            self.broken(
                forward.place,
                f"a batch of shape {tuple(inputs.shape)} is a view of stored data, and somebody "
                "writes to it",
                f"the same memory held other numbers at step {step + 1}: the data has changed "
                "since",
            )
        if len(self.regions) < REGIONS:
            self.regions.setdefault(key, (now, self.trace.steps))
            self.bases.setdefault(key, weakref.ref(base))
