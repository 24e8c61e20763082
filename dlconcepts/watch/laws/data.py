"""What comes out of the loaders: normalised once, unchanged, shuffled, and apart from the tests."""

import re
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, SequentialSampler, Subset

from dlconcepts.checks.trees import bits
from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, TRAINING, Place, function_at, is_user_file, words_at
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Forward, Held

LOOKS = 3
BYTE = 1 / 255
MOVED = 0.05  # how far a second shift moves normalised data at least
NUMBERS = 4096  # of an array that are looked at
ARRAYS = 8  # of a data set; what has more is no plain store
REGIONS = 512  # batches whose memory is followed
ROWS = 4096  # examples whose fingerprints are kept
WIDTH = 256  # numbers of an example in its fingerprint
TESTS = re.compile(r"test|val|eval|held|unseen")
SHARE = 0.5  # of the test examples that are known from training
BATCHES = 32
FEW = 4  # batches that show whether labels come in order


class DataIsNormalisedOnce(Law):
    """Data is scaled and normalised once: in the transform or in the loop, not in both."""

    given: Tensor | None = None
    looks = 0

    def on_epoch(self, loader: Any, place: Place) -> None:
        dataset = source_of(loader)
        found = re.findall(r"Normalize\(.*\)", repr(getattr(dataset, "transform", "")))
        if len(found) > 1 and self.may_prove(id(loader)):
            text = f"the transform of {type(dataset).__name__} normalises {len(found)} times"
            self.broken(place, text, f"first by {found[0]}, then by {found[1]}")

    def on_batch(self, loader: Any, batch: Any) -> None:
        first = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
        self.given = first if self.looks < LOOKS and is_data(first) else None

    def on_forward(self, forward: Forward, output: Any) -> None:
        given, self.given = self.given, None
        inputs, inner = forward.inputs, forward.inner
        if self.looks >= LOOKS or inputs is None or not is_data(inputs):
            return
        self.looks += 1
        self.seen, forward.inner = True, None
        inside = next(iter(forward.called.values()), forward.place)
        pairs = (given, inputs, forward.place), (inputs, inner, inside)
        for before, after, place in pairs:
            if isinstance(after, Tensor) and after.shape == inputs.shape:
                self.look(before, after.detach(), place)

    def look(self, given: Tensor | None, data: Tensor, place: Place) -> None:
        largest = float(data.abs().max())
        if data.ndim >= 3 and 0 < largest <= 1.01 * BYTE and float(data.min()) >= 0:
            if self.may_prove(place):
                proof = f"their largest value is {largest:.4g}, and 1/255 is {BYTE:.4g}"
                self.broken(place, "the inputs were divided by 255 twice", proof)
        elif given is not None and given.shape == data.shape and given is not data:
            self.compare(given.detach().double().cpu(), data.double().cpu(), place)

    def compare(self, given: Tensor, data: Tensor, place: Place) -> None:
        """Look for normalised data of a loader that was shifted and scaled again."""
        dims = [0, *range(2, data.ndim)]  # one mean for each channel
        mean, deviation = given.mean(dims, keepdim=True), given.std(dims, keepdim=True)
        was_normal = bool((mean.abs() < 0.5).all() and ((deviation - 1).abs() < 0.5).all())
        scale = data.std(dims, keepdim=True) / deviation.clamp_min(1e-9)
        shift = data.mean(dims, keepdim=True) - scale * mean
        affine = float((scale * given + shift - data).abs().max()) < 1e-3 * float(data.abs().max())
        moved = float(shift.abs().max()) > MOVED
        if was_normal and affine and moved and self.may_prove(place):
            text = "normalised batches of the loader are shifted and scaled again"
            proof = f"they came with mean {mean.mean():.2f} and deviation {deviation.mean():.2f}, "
            proof += f"and enter the model with {data.mean():.2f} and {data.std():.2f}"
            self.broken(place, text, proof)


def is_data(value: Any) -> bool:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return is_float and value.ndim > 1 and value.numel() > 0


def source_of(loader: Any) -> Any:
    """Return the data set that a loader reads, without the subsets around it."""
    dataset: Any = getattr(loader, "dataset", None)
    while getattr(dataset, "dataset", None) is not None:
        dataset = dataset.dataset
    return dataset


class Stored(Law):
    """Compares the arrays that a data set keeps with what they were before its first pass."""

    lists = False  # whether to look into long lists of examples
    fault = ""  # what a data set is told that has changed

    kept: dict[int, list[tuple[Any, object]]]  # by loader

    def on_epoch(self, loader: Any, place: Place) -> None:
        key, dataset = id(loader), getattr(loader, "dataset", None)
        if key not in self.kept:
            found = stored(dataset, lists=self.lists)
            self.kept[key] = [(value, fingerprint(value)) for value in found]
            return
        self.seen = self.seen or bool(self.kept[key])
        changed = [value for value, before in self.kept[key] if fingerprint(value) != before]
        if changed and self.may_prove(key):
            arrays = f"{len(changed)} of {len(self.kept[key])} of its arrays"
            proof = f"{arrays} have changed, the first of shape {tuple(changed[0].shape)}"
            place = reader(loader) or self.trace.built.get(key, place)
            self.broken(place, self.fault.format(type(dataset).__name__), proof)


def reader(loader: Any) -> Place | None:
    """Return the line where a data set of the user reads an example."""
    code = getattr(getattr(type(source_of(loader)), "__getitem__", None), "__code__", None)
    is_own = code is not None and is_user_file(code.co_filename)
    return Place(code.co_filename, code.co_firstlineno + 1) if code and is_own else None


def stored(dataset: Any, depth: int = 0, *, lists: bool = False) -> list[Any]:
    """Return the tensors and numpy arrays that a data set keeps, also in lists of examples."""
    if dataset is None or depth > 3 or not hasattr(dataset, "__dict__"):
        return []
    found: list[Any] = []
    waiting = list(vars(dataset).values())
    while waiting and len(found) < ARRAYS:
        part = waiting.pop(0)
        is_array = type(part).__module__ == "numpy" and type(part).__name__ == "ndarray"
        is_dense = isinstance(part, Tensor) and part.layout == torch.strided
        if (is_dense and part.device.type == "cpu") or (is_array and part.dtype != object):
            found.append(part)
        elif isinstance(part, (list, tuple)) and (lists or len(part) < ARRAYS):
            waiting[:0] = part[:ARRAYS]
    inner = getattr(dataset, "dataset", None)
    return [*found, *stored(inner, depth + 1, lists=lists)][:ARRAYS]


def fingerprint(value: Any) -> object:
    """Return the bits of some numbers of an array, spread over all of it."""
    flat = (value.detach() if isinstance(value, Tensor) else value).reshape(-1)
    return bits(flat[:: max(1, len(flat) // NUMBERS)])


class SharedMemoryIsNotWrittenTo(Stored):
    """A batch may share memory with the data: writing to it changes the data."""

    fault = "reading {} changes an array that it keeps"

    # The tensor that owns some memory, and what that held at which step.
    regions: dict[Any, tuple[weakref.ref[Tensor], object, int]]

    def on_finished(self) -> None:
        for key in list(self.kept):
            if (loader := self.trace.loaders[key]()) is not None:
                self.on_epoch(loader, NOWHERE)

    def on_forward(self, forward: Forward, output: Any) -> None:
        inputs = forward.inputs
        if inputs is None or not inputs.is_contiguous() or inputs.device.type != "cpu":
            return
        # A slice: a view of something larger that the script keeps, the stored data.
        base = inputs if forward.writes else inputs._base  # the model changes its input itself
        if base is None or not (forward.writes or base.nbytes > inputs.nbytes):
            return
        if inputs.requires_grad or not forward.grad:
            return
        self.seen = True
        key = id(base), int(inputs.storage_offset()), tuple(inputs.shape)
        now, step = fingerprint(inputs), self.trace.steps
        owner, before, first = self.regions.get(key, (weakref.ref(base), now, step))
        if owner() is not base:  # freed, and another in its place
            owner, before, first = weakref.ref(base), now, step
        if before != now and self.may_prove(forward.place):
            text = f"somebody writes to a batch of shape {tuple(inputs.shape)}, a view of the data"
            proof = f"the same memory held other numbers at step {first + 1}"
            self.broken(forward.place, text, proof)
        if len(self.regions) < REGIONS or key in self.regions:
            self.regions[key] = owner, before, first


class DataIsTheSameWhenReadAgain(Stored):
    """Each pass over the data gives the same examples, and a second pass gives some at all."""

    lists = True
    fault = "{} gives other examples when it is read again"

    def on_read_twice(self, loader: Any, place: Place) -> None:
        self.seen = True
        if place != NOWHERE and self.may_prove(place):
            text = "this is an iterator, not a loader: it is used up after one pass"
            self.broken(place, text, "a second pass over it gave 0 batches")


class TrainingAndTestDataAreApart(Law):
    """What a model is tested on must not be what it was trained on."""

    explanation = Explanation(
        claim="validation.overfitting",
        concept="Test data that was trained on",
        why="the figures then measure memory: an overfitted model looks perfect",
        fix="split once, before training, and build the loaders from the two parts",
    )

    rows: set[bytes]
    trained: list[Any]  # what the training loaders read
    lines: dict[int, Place]

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.lines[id(loader)] = place

    def on_trained(self, forward: Forward, held: Held) -> None:
        if len(self.rows) < ROWS and held.steps <= 64:
            self.rows.update(rows_of(forward))
        source = getattr(self.trace.loader_of(forward), "dataset", None)
        if source is not None and not any(source is known for known in self.trained):
            self.trained.append(source)

    def on_evaluated(self, forward: Forward) -> None:
        self.seen = True
        loader = self.trace.loader_of(forward)
        places = (*forward.callers, self.lines.get(id(loader), NOWHERE))
        words = [words_at(forward.place, forward.functions), *(place.code for place in places)]
        said = " ".join([*words, words_at(places[-1])]).lower()
        # People also report accuracy on the training data, and then say so.
        if TRAINING.search(said) or not self.may_prove(forward.place):
            return
        source = getattr(loader, "dataset", None)
        for known in self.trained:
            shared, of = overlap(known, source)
            if shared:
                place = self.trace.built.get(id(loader), forward.place)
                proof = f"{shared} of its {of} examples are in the training loader, too"
                self.broken(place, "the test loader has training examples", proof)
                return
        rows = rows_of(forward)
        # Scripts predict all of their training data for a plot, and a part of it as a test.
        if not TESTS.search(said) and len(rows) >= len(self.rows):
            return
        found = sum(row in self.rows for row in rows)
        if found > SHARE * len(rows) and len(set(rows)) > 1:
            # The line that gives an evaluation its data: the call of its function, if any.
            inside = forward.callers and hasattr(function_at(forward.place), "args")
            text = "the model is evaluated on examples that it was trained on"
            proof = f"{found} of {len(rows)} examples were in batches of training, bit for bit"
            self.broken(forward.callers[0] if inside else forward.place, text, proof)


def rows_of(forward: Forward) -> list[bytes]:
    """Return a few bytes of each example of a batch."""
    inputs = forward.inputs
    if inputs is None or inputs.layout != torch.strided or not inputs.numel():
        return []
    flat = inputs.detach().reshape(len(inputs), -1)
    some = flat[:, :: max(1, flat.shape[1] // WIDTH)][:512, :WIDTH].cpu()
    if not some.is_floating_point() and flat.shape[1] < 4:
        return []  # so few whole numbers come again by chance
    return [row.tobytes() for row in some.double().contiguous().numpy()]


def overlap(trained: Any, tested: Any) -> tuple[int, int]:
    """Return how many examples of a data set are those of another, and how many it has."""
    (one, known), (other, rows) = indices(trained), indices(tested)
    return (len({*known} & {*rows}), len(rows)) if one is other else (0, 0)


def indices(data: Any) -> tuple[Any, Any]:
    if isinstance(data, Subset):
        source, inner = indices(data.dataset)
        return source, [inner[i] for i in data.indices] if len(inner) else list(data.indices)
    return data, range(len(data)) if hasattr(data, "__len__") else ()


class TrainingDataIsShuffled(Law):
    """Batches of training data are to be drawn in a new order each epoch."""

    explanation = Explanation(
        claim="images.loader-shuffles-batches",
        concept="Training data in its stored order",
        why="batches of one class pull the model to that class, and the next ones away again",
        fix="DataLoader(training_data, shuffle=True)",
    )

    labels: dict[int, list[set[int]]]
    places: dict[int, Place]

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.on_finished()
        self.labels[id(loader)], self.places[id(loader)] = [], place

    def on_batch(self, loader: Any, batch: Any) -> None:
        kept = self.labels.get(id(loader))
        is_pair = isinstance(batch, (list, tuple)) and len(batch) > 1
        labels = batch[-1] if is_pair else None
        if kept is None or len(kept) >= BATCHES or not isinstance(labels, Tensor):
            return
        if labels.ndim == 1 and not labels.is_floating_point():
            kept.append(set(labels.tolist()))

    def on_finished(self) -> None:
        for key in self.trace.training_loaders() & self.labels.keys():
            loader = self.trace.loaders[key]()
            dataset = getattr(loader, "dataset", None)
            if loader is None or isinstance(dataset, IterableDataset):
                continue
            self.seen = True
            found = self.labels[key]
            classes: set[int] = set().union(*found)
            single = sum(len(labels) == 1 for labels in found)
            # Shuffled, a batch of four or more examples rarely has one class only.
            large = (getattr(loader, "batch_size", None) or 1) >= 4 and len(found) >= FEW
            sorted_ = single > len(found) / 2 and len(classes) > 1
            is_plain = isinstance(getattr(loader, "sampler", None), SequentialSampler)
            place = self.trace.built.get(key, self.places[key])
            if is_plain and large and sorted_ and self.may_prove(place):
                text = f"training reads {type(dataset).__name__} in its stored order"
                proof = f"{single} of {len(found)} batches have one class each, of {len(classes)}"
                self.broken(place, f"{text}, class by class", proof)
