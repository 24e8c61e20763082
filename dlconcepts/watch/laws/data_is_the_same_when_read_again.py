"""Reading an example must not change what the data set keeps."""

from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.stored_data import fingerprint, pointer, stored
from dlconcepts.watch.places import Place


class DataIsTheSameWhenReadAgain(Law):
    id = "data-is-the-same-when-read-again"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.before: dict[int, list[tuple[Any, bytes]]] = {}
        self.places: dict[int, Place] = {}
        self.shares: set[int] = set()

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.places[id(loader)] = place
        self.judge(loader)

    def on_batch(self, loader: Any, batch: Any) -> None:
        kept = self.before.get(id(loader))
        if kept and id(loader) not in self.shares:
            parts = batch if isinstance(batch, (list, tuple)) else [batch]
            ranges = [pointer(value) for value, _ in kept]
            for part in parts:
                is_here = isinstance(part, Tensor) and part.device.type == "cpu" and part.numel()
                if is_here and any(begin <= part.data_ptr() < end for begin, end in ranges):
                    self.shares.add(id(loader))

    def on_finished(self) -> None:
        for key in list(self.before):
            loader = self.trace.loaders.get(key, lambda: None)()
            if loader is not None:
                self.judge(loader)

    def judge(self, loader: Any) -> None:
        key = id(loader)
        kept = self.before.get(key)
        if kept is None:
            found = stored(getattr(loader, "dataset", None))
            self.before[key] = [(value, fingerprint(value)) for value in found]
            return
        self.seen = self.seen or bool(kept)
        changed = [value for value, before in kept if fingerprint(value) != before]
        if changed and self.may_prove(key):
            shape = tuple(changed[0].shape)
            name = type(loader.dataset).__name__
            how = "writing to its batches" if key in self.shares else "reading it"
            place = reader(loader.dataset) if key not in self.shares else self.places[key]
            self.broken(
                place or self.places[key],
                f"{how} changed an array of shape {shape} that {name} keeps",
                "its numbers are not those of the first pass: the next epoch trains on other data",
            )


def reader(dataset: Any) -> Place | None:
    """Return the line where a data set of the user reads an example."""
    while getattr(dataset, "dataset", None) is not None:
        dataset = dataset.dataset
    code = getattr(getattr(type(dataset), "__getitem__", None), "__code__", None)
    return Place(code.co_filename, code.co_firstlineno) if code is not None else None
