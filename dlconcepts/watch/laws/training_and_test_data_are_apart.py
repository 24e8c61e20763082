"""What a model is tested on must not be what it was trained on."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import TRAINING, Place, function_at, words_at
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Forward, Held

ROWS = 4096  # examples whose fingerprints are kept
WIDTH = 256  # numbers of an example in its fingerprint
TESTS = re.compile(r"test|val|eval|held|unseen")
SHARE = 0.5  # of the test examples that are known from training


class TrainingAndTestDataAreApart(Law):
    id = "training-and-test-data-are-apart"
    explanation = Explanation(
        claim="validation.overfitting",
        concept="Test data that was trained on",
        why="the figures then measure memory: an overfitted model looks perfect",
        fix="split once, before training, and build the loaders from the two parts",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.rows: set[bytes] = set()
        self.trained: list[Any] = []  # what the training loaders read
        self.lines: dict[int, Place] = {}

    def on_step_ends(self, held: Held) -> None:
        forward = self.trace.last
        if forward is None:
            return
        if len(self.rows) < ROWS and held.steps <= 64:
            self.rows.update(fingerprints(forward))
        loader = self.trace.loaders.get(forward.loader, lambda: None)()
        source = getattr(loader, "dataset", None)
        if source is not None and not any(source is known for known in self.trained):
            self.trained.append(source)

    def on_unused(self, forward: Forward) -> None:
        if not self.trace.is_validation(forward):
            return
        words = words_at(forward.place, forward.functions)
        loader = self.trace.loaders.get(forward.loader, lambda: None)()
        called = [place.code for place in forward.callers]
        said = [*called, self.name_of_loader(forward, loader)]
        self.seen = True
        # People also report accuracy on the training data, and then say so.
        if TRAINING.search(" ".join([words, *said]).lower()) or not self.may_prove(forward.place):
            return
        source = getattr(loader, "dataset", None)
        for known in self.trained:
            shared, of = overlap(known, source)
            if shared:
                self.broken(
                    self.trace.built.get(id(loader), forward.place),
                    "the model is evaluated on examples that it trains on",
                    f"{shared} of the {of} examples of this loader are in the training loader",
                )
                return
        rows = fingerprints(forward)
        # Scripts predict all of their training data for a plot, and a part of it as a test.
        if not TESTS.search(" ".join([words, *said]).lower()) and len(rows) >= len(self.rows):
            return
        found = sum(row in self.rows for row in rows)
        if len(rows) > 1 and found > SHARE * len(rows) and len(set(rows)) > 1:
            self.broken(
                outer(forward),
                "the model is evaluated on examples that it was trained on",
                f"{found} of the {len(rows)} examples of this batch were in batches of training, "
                "bit for bit",
            )

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.lines[id(loader)] = place

    def name_of_loader(self, forward: Forward, loader: Any) -> str:
        place = self.lines.get(id(loader))
        return words_at(place) if place else ""


def outer(forward: Forward) -> Place:
    """Return the line that gives an evaluation its data: the call of its function, if any."""
    inside = getattr(function_at(forward.place), "args", None)
    return forward.callers[0] if inside is not None and forward.callers else forward.place


def fingerprints(forward: Forward) -> list[bytes]:
    """Return a few bytes of each example of a batch."""
    inputs = next((x for x in forward.args if isinstance(x, Tensor) and x.ndim), None)
    if inputs is None or inputs.layout != torch.strided or not inputs.numel():
        return []
    flat = inputs.detach().reshape(len(inputs), -1)
    some = flat[:, :: max(1, flat.shape[1] // WIDTH)][:512, :WIDTH].cpu()
    if not some.is_floating_point() and flat.shape[1] < 4:
        return []  # so few whole numbers come again by chance
    whole = some.double().contiguous().numpy()
    return [row.tobytes() for row in whole]


def overlap(trained: Any, tested: Any) -> tuple[int, int]:
    """Return how many examples of a data set are those of another, and how many it has."""
    parts = [indices(data) for data in (trained, tested)]
    if tested is None or parts[0][0] is not parts[1][0]:
        return 0, 0
    both = set(parts[0][1]) & set(parts[1][1])
    return len(both), len(parts[1][1])


def indices(data: Any) -> tuple[Any, Any]:
    if isinstance(data, Subset):
        source, inner = indices(data.dataset)
        return source, [inner[i] for i in data.indices] if len(inner) else list(data.indices)
    return data, range(len(data)) if hasattr(data, "__len__") else ()
