"""A batch may share memory with the data: writing to it changes the data."""

import weakref
from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.stored_data import fingerprint, reader, stored
from dlconcepts.watch.places import Place
from dlconcepts.watch.trace import Forward

Key = tuple[int, int, tuple[int, ...]]
REGIONS = 512  # batches whose memory is followed


class SharedMemoryIsNotWrittenTo(Law):
    id = "shared-memory-is-not-written-to"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.regions: dict[Key, tuple[bytes, int]] = {}
        self.bases: dict[Key, weakref.ref[Tensor]] = {}
        self.kept: dict[int, list[tuple[Any, bytes]]] = {}  # by loader

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.judge(loader)

    def on_finished(self) -> None:
        for key in list(self.kept):
            self.judge(self.trace.loaders[key]())

    def judge(self, loader: Any) -> None:
        """Compare what a data set keeps with what it kept before its first pass."""
        if loader is None or id(loader) not in self.kept:
            found = stored(getattr(loader, "dataset", None))
            self.kept[id(loader)] = [(value, fingerprint(value)) for value in found]
            return
        kept = self.kept[id(loader)]
        self.seen = self.seen or bool(kept)
        changed = [value for value, before in kept if fingerprint(value) != before]
        if changed and self.may_prove(id(loader)):
            dataset = loader.dataset
            self.broken(
                reader(dataset) or self.trace.built.get(id(loader), Place("", 0)),
                f"reading {type(dataset).__name__} changes an array of shape "
                f"{tuple(changed[0].shape)} that it keeps",
                "its numbers are not those before the first pass: each epoch trains on other data",
            )

    def on_forward(self, forward: Forward, output: Any) -> None:
        inputs = next((x for x in forward.args if isinstance(x, Tensor)), None)
        if inputs is None or not inputs.is_contiguous() or inputs.device.type != "cpu":
            return
        # A slice: a view of something larger that the script keeps, the stored data.
        base = inputs._base
        base = inputs if forward.writes else base  # the model changes its input itself
        is_slice = base is not None and base.nbytes > inputs.nbytes
        if inputs.requires_grad or base is None or not (forward.writes or is_slice):
            return
        if not forward.grad:
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
                f"the same memory held other numbers at step {step + 1}",
            )
        if len(self.regions) < REGIONS:
            self.regions.setdefault(key, (now, self.trace.steps))
            self.bases.setdefault(key, weakref.ref(base))
