"""Data is scaled and normalised once: in the transform or in the loop, not in both."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.trace import Forward

LOOKS = 3
BYTE = 1 / 255
MOVED = 0.05  # how far a second shift moves normalised data at least


class DataIsNormalisedOnce(Law):
    id = "data-is-normalised-once"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.batch_given: Tensor | None = None
        self.looks = 0
        self.loaders: set[int] = set()

    def on_epoch(self, loader: Any, place: Place) -> None:
        if id(loader) in self.loaders:
            return
        self.loaders.add(id(loader))
        found = normalisations(getattr(loader, "dataset", None))
        self.seen = self.seen or bool(found)
        if len(found) > 1:
            self.broken(
                place,
                f"the transform of {type(loader.dataset).__name__} normalises {len(found)} times",
                f"first with {found[0]}, then with {found[1]}: 0.5 becomes {composed(found):.3g}",
            )

    def on_batch(self, loader: Any, batch: Any) -> None:
        first = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
        is_data = isinstance(first, Tensor) and first.is_floating_point() and first.ndim > 1
        self.batch_given = first if self.looks < LOOKS and is_data else None

    def on_forward(self, forward: Forward, output: Any) -> None:
        given, self.batch_given = self.batch_given, None
        inputs = next((x for x in forward.args if isinstance(x, Tensor)), None)
        if self.looks >= LOOKS or inputs is None or inputs.ndim < 2 or not inputs.numel():
            return
        if not inputs.is_floating_point():
            return
        self.looks += 1
        self.seen = True
        inner, forward.inner = forward.inner, None
        pairs = [(given, inputs), (inputs, inner)]
        inside = next(iter(forward.called.values()), forward.place)
        for (before, after), place in zip(pairs, (forward.place, inside), strict=True):
            if isinstance(after, Tensor) and after.shape == inputs.shape:
                self.look(before, after, place)

    def look(self, given: Tensor | None, inputs: Tensor, place: Place) -> None:
        data = inputs.detach()
        largest = float(data.abs().max())
        if data.ndim >= 3 and 0 < largest <= 1.01 * BYTE and float(data.min()) >= 0:
            if self.may_prove(place):
                self.broken(
                    place,
                    "the inputs were divided by 255 twice",
                    f"their largest value is {largest:.4g}, and 1/255 is {BYTE:.4g}",
                )
        elif given is not None and given.shape == inputs.shape and given is not inputs:
            self.compare(given.detach().double().cpu(), data.double().cpu(), place)

    def compare(self, given: Tensor, data: Tensor, place: Place) -> None:
        """Look for normalised data of a loader that was shifted and scaled again."""
        dims = [0, *range(2, data.ndim)]  # one mean for each channel
        mean, deviation = given.mean(dims), given.std(dims)
        was_normal = bool((mean.abs() < 0.5).all() and ((deviation - 1).abs() < 0.5).all())
        shape = [1, -1, *[1] * (data.ndim - 2)]
        scale = (data.std(dims) / deviation.clamp_min(1e-9)).reshape(shape)
        shift = data.mean(dims).reshape(shape) - scale * mean.reshape(shape)
        affine = float((scale * given + shift - data).abs().max()) < 1e-3 * float(data.abs().max())
        moved = float(shift.abs().max()) > MOVED
        if was_normal and affine and moved and self.may_prove(place):
            self.broken(
                place,
                "normalised batches of the loader are shifted and scaled again",
                f"they came with mean {float(mean.mean()):.2f} and deviation "
                f"{float(deviation.mean()):.2f}, and enter the model with {float(data.mean()):.2f} "
                f"and {float(data.std()):.2f}",
            )


def normalisations(dataset: Any, depth: int = 0) -> list[tuple[float, float]]:
    """Return mean and deviation of each Normalize in the transform of a data set."""
    found: list[tuple[float, float]] = []
    transform = getattr(dataset, "transform", None)
    waiting = [transform] if transform is not None else []
    while waiting:
        part = waiting.pop(0)
        inner = getattr(part, "transforms", None)
        if isinstance(inner, (list, tuple)):
            waiting[:0] = list(inner)
        elif type(part).__name__ == "Normalize":
            pair = [torch.as_tensor(getattr(part, name)).flatten() for name in ("mean", "std")]
            found.append((float(pair[0][0]), float(pair[1][0])))
    if not found and depth < 4 and getattr(dataset, "dataset", None) is not None:
        return normalisations(dataset.dataset, depth + 1)  # of a Subset
    return found


def composed(steps: list[tuple[float, float]]) -> float:
    value = 0.5
    for mean, deviation in steps:
        value = (value - mean) / deviation
    return value
