"""Batches of training data are to be drawn in a new order each epoch."""

from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset, SequentialSampler

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.report import Explanation

BATCHES = 32
FEW = 4  # batches that show whether labels come in order


class TrainingDataIsShuffled(Law):
    id = "training-data-is-shuffled"
    explanation = Explanation(
        claim="images.loader-shuffles-batches",
        concept="Training data in its stored order",
        why="batches of one class pull the model to that class, and the next ones away again",
        fix="DataLoader(training_data, shuffle=True)",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.labels: dict[int, list[set[int]]] = {}
        self.places: dict[int, Place] = {}

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.places[id(loader)] = place
        self.judge()
        self.labels[id(loader)] = []

    def on_batch(self, loader: Any, batch: Any) -> None:
        kept = self.labels.get(id(loader))
        is_pair = isinstance(batch, (list, tuple)) and len(batch) > 1
        labels = batch[-1] if is_pair else None
        if kept is None or len(kept) >= BATCHES or not isinstance(labels, Tensor):
            return
        if labels.ndim == 1 and not labels.is_floating_point():
            kept.append(set(labels.tolist()))

    def on_finished(self) -> None:
        self.judge()

    def judge(self) -> None:
        trained = {key for s in self.trace.sites.values() if s.walked for key in s.loaders}
        for key in trained & self.labels.keys():
            loader = self.trace.loaders[key]()
            dataset = getattr(loader, "dataset", None)
            if loader is None or isinstance(dataset, IterableDataset):
                continue
            self.seen = True
            sampler = getattr(loader, "sampler", None)
            found = self.labels[key]
            classes = set().union(*found) if found else set()
            place = self.trace.built.get(key, self.places[key])
            if not isinstance(sampler, SequentialSampler) or len(found) < FEW:
                continue
            size = getattr(loader, "batch_size", None) or 1
            single = sum(len(labels) == 1 for labels in found)
            # Shuffled, a batch of four or more examples rarely has one class only.
            ordered = size >= 4 and single > len(found) / 2 and len(classes) > 1
            if ordered and self.may_prove(place):
                self.broken(
                    place,
                    f"training reads {type(dataset).__name__} in its stored order, class by class",
                    f"{single} of the first {len(found)} batches have one class each, of "
                    f"{len(classes)}",
                )
