"""Each pass over the data gives the same examples, and a second pass gives some at all."""

from typing import Any

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.stored_data import fingerprint, reader, stored
from dlconcepts.watch.places import NOWHERE, Place


class DataIsTheSameWhenReadAgain(Law):
    id = "data-is-the-same-when-read-again"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.kept: dict[int, list[tuple[Any, bytes]]] = {}  # the examples in memory, by loader

    def on_epoch(self, loader: Any, place: Place) -> None:
        dataset = getattr(loader, "dataset", None)
        key = id(loader)
        if key not in self.kept:
            examples = stored(dataset, lists=True)
            self.kept[key] = [(value, fingerprint(value)) for value in examples]
            return
        self.seen = True
        changed = [value for value, before in self.kept[key] if fingerprint(value) != before]
        if changed and self.may_prove(key):
            self.broken(
                reader(dataset) or self.trace.built.get(key, place),
                f"{type(dataset).__name__} gives other examples when it is read again",
                f"{len(changed)} of {len(self.kept[key])} of its arrays have changed since the "
                f"last pass, the first of shape {tuple(changed[0].shape)}",
            )

    def on_read_twice(self, loader: Any, place: Place) -> None:
        self.seen = True
        if place != NOWHERE and self.may_prove(place):
            self.broken(
                place,
                "this is an iterator, not a loader: it is used up after one pass",
                "a second pass over it gave 0 batches",
            )
