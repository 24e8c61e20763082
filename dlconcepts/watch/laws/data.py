"""What comes out of the loaders: normalised once, unchanged, shuffled, and apart from the tests."""

import re
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, SequentialSampler, Subset

from dlconcepts.checks.trees import bits
from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, TRAINING, Place, function_at, line_of_method, words_at
from dlconcepts.watch.trace import Forward, Held, Loader, versions

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
FEW, BATCHES = 4, 32  # batches that show whether labels come in order


class DataIsNormalisedOnce(Law):
    """Data is scaled and normalised once: in the transform or in the loop, not in both."""

    given: Any = None  # the inputs of a batch, as the loader gave them
    looks = 0

    def on_epoch(self, loader: Loader, place: Place) -> None:
        dataset = sources(loader.ref())[-1]
        found = re.findall(r"Normalize\(.*\)", repr(getattr(dataset, "transform", "")))
        if len(found) > 1:
            text = f"the transform of {type(dataset).__name__} normalises {len(found)} times"
            self.broken(place, text, f"first by {found[0]}, then by {found[1]}")

    def on_batch(self, loader: Loader, batch: Any) -> None:
        self.given = batch[0] if isinstance(batch, (list, tuple)) and batch else batch

    def on_forward(self, forward: Forward, output: Any) -> None:
        given, self.given = self.given, None
        inputs, inner, forward.inner = forward.inputs, forward.inner, None
        if self.looks < LOOKS and is_data(inputs):
            self.looks, self.seen = self.looks + 1, True
            inside = next(iter(forward.called.values()), forward.place)
            self.look(given, inputs, forward.place)
            self.look(inputs, inner, inside)

    def look(self, given: Any, data: Any, place: Place) -> None:
        """Look for data that was scaled twice, or shifted and scaled though it was normal."""
        if not is_data(data):
            return
        largest = float(data.abs().max())
        if data.ndim >= 3 and 0 < largest <= 1.01 * BYTE and float(data.min()) >= 0:
            proof = f"their largest value is {largest:.4g}, and 1/255 is {BYTE:.4g}"
            self.broken(place, "the inputs were divided by 255 twice", proof)
            return
        if not is_data(given) or given is data or given.shape != data.shape:
            return
        given, data = given.detach().double().cpu(), data.detach().double().cpu()
        dims = [0, *range(2, data.ndim)]  # one mean for each channel
        mean, deviation = given.mean(dims, keepdim=True), given.std(dims, keepdim=True)
        was_normal = bool((mean.abs() < 0.5).all() and ((deviation - 1).abs() < 0.5).all())
        scale = data.std(dims, keepdim=True) / deviation.clamp_min(1e-9)
        shift = data.mean(dims, keepdim=True) - scale * mean
        is_affine = float((scale * given + shift - data).abs().max()) < 1e-3 * largest
        if was_normal and is_affine and float(shift.abs().max()) > MOVED:
            text = "normalised batches of the loader are shifted and scaled again"
            proof = f"they came with mean {given.mean():.2f} and deviation {given.std():.2f}, "
            proof += f"and enter the model with {data.mean():.2f} and {data.std():.2f}"
            self.broken(place, text, proof)


def is_data(value: Any) -> bool:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return is_float and value.ndim > 1 and value.numel() > 0


def sources(loader: Any) -> list[Any]:
    """Return the data set of a loader, and those inside it, as of a subset."""
    found: list[Any] = [getattr(loader, "dataset", None)]
    while getattr(found[-1], "dataset", None) is not None and len(found) < 4:
        found.append(found[-1].dataset)
    return found


class Stored(Law):
    """Compares the arrays that a data set keeps with what they were before its first pass."""

    fault = ""  # what a data set is told that has changed

    kept: dict[Loader, list[tuple[Any, object]]]

    def on_epoch(self, loader: Loader, place: Place) -> None:
        datasets = sources(loader.ref())
        if loader not in self.kept:
            found = stored(datasets)
            self.kept[loader] = [(value, fingerprint(value)) for value in found]
            return
        kept = self.kept[loader]
        self.seen = self.seen or bool(kept)
        changed = [value for value, before in kept if fingerprint(value) != before]
        if changed:
            proof = f"{len(changed)} of {len(kept)} of its arrays have changed, "
            proof += f"the first of shape {tuple(changed[0].shape)}"
            read = line_of_method(datasets[-1], "__getitem__")
            place = read._replace(line=read.line + 1) if read else loader.place
            self.broken(place, self.fault.format(type(datasets[0]).__name__), proof)


def stored(datasets: list[Any]) -> list[Any]:
    """Return the tensors and numpy arrays that data sets keep, also in lists of examples."""
    waiting = [value for each in datasets for value in getattr(each, "__dict__", {}).values()]
    found: list[Any] = []
    while waiting and len(found) < ARRAYS:
        part = waiting.pop(0)
        is_array = type(part).__module__ == "numpy" and type(part).__name__ == "ndarray"
        is_dense = isinstance(part, Tensor) and part.layout == torch.strided
        if (is_dense and part.device.type == "cpu") or (is_array and part.dtype != object):
            found.append(part)
        elif isinstance(part, (list, tuple)):
            waiting[:0] = part[:ARRAYS]
    return found


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
        for loader in list(self.kept):
            if loader.ref() is not None:
                self.on_epoch(loader, loader.place)

    def on_forward(self, forward: Forward, output: Any) -> None:
        x = forward.inputs
        if x is None or not forward.grad or x.requires_grad or x.device.type != "cpu":
            return
        writes = forward.versions != versions(forward.args)  # the model changes its input itself
        # Else a slice: a view of something larger that the script keeps, the stored data.
        base = x if writes else x._base
        if not x.is_contiguous() or base is None or not (writes or base.nbytes > x.nbytes):
            return
        self.seen = True
        key = id(base), int(x.storage_offset()), tuple(x.shape)
        now, step = fingerprint(x), self.trace.steps
        owner, before, first = self.regions.get(key, (None, now, step))
        if owner is None or owner() is not base:  # freed, and another in its place
            if len(self.regions) < REGIONS:
                self.regions[key] = weakref.ref(base), now, step
        elif before != now:
            text = f"somebody writes to a batch of shape {tuple(x.shape)}, a view of the data"
            proof = f"the same memory held other numbers at step {first + 1}"
            self.broken(forward.place, text, proof)


class DataIsTheSameWhenReadAgain(Stored):
    """Each pass over the data gives the same examples, and a second pass gives some at all."""

    fault = "{} gives other examples when it is read again"

    def on_read_twice(self, loader: Loader, place: Place) -> None:
        text = "this is an iterator, not a loader: it is used up after one pass"
        self.broken(place, text, "a second pass over it gave 0 batches")


class TrainingAndTestDataAreApart(Law):
    """What a model is tested on must not be what it was trained on."""

    claim = "validation.overfitting"
    concept = "Test data that was trained on"
    why = "the figures then measure memory: an overfitted model looks perfect"
    fix = "split once, before training, and build the loaders from the two parts"

    rows: set[bytes]
    trained: list[Any]  # what the training loaders read
    lines: dict[Any, Place]

    def on_epoch(self, loader: Loader, place: Place) -> None:
        self.lines[loader] = place

    def on_trained(self, forward: Forward, held: Held) -> None:
        if len(self.rows) < ROWS and held.steps <= 64:
            self.rows.update(rows_of(forward))
        source = getattr(forward.source, "dataset", None)
        if not any(source is known for known in self.trained):
            self.trained.append(source)

    def on_evaluated(self, forward: Forward) -> None:
        self.seen = True
        line = self.lines.get(forward.loader, NOWHERE)
        words = words_at(forward.place, forward.functions), words_at(line)
        said = " ".join([*words, *(place.code.lower() for place in forward.callers)])
        # People also report accuracy on the training data, and then say so.
        if TRAINING.search(said) or not self.may_prove(forward.place):
            return
        tested, rows = examples(getattr(forward.source, "dataset", None)), rows_of(forward)
        shared = [len(tested & examples(known)) for known in self.trained if tested]
        found = sum(row in self.rows for row in rows)
        # Scripts predict all of their training data for a plot, and a part of it as a test.
        is_test = TESTS.search(said) or len(rows) < len(self.rows)
        if any(shared) and forward.loader:
            proof = f"{max(shared)} of its {len(tested)} examples are in the training loader, too"
            self.broken(forward.loader.place, "the test loader has training examples", proof)
        elif is_test and found > SHARE * len(rows) and len(set(rows)) > 1:
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


def examples(data: Any) -> set[tuple[int, int]]:
    """Return each example that a data set reads, as the data's id and an index."""
    places: Any = range(len(data)) if hasattr(data, "__len__") else ()
    while isinstance(data, Subset):
        data, places = data.dataset, [data.indices[i] for i in places]
    return {(id(data), int(i)) for i in places}


class TrainingDataIsShuffled(Law):
    """Batches of training data are to be drawn in a new order each epoch."""

    claim = "images.loader-shuffles-batches"
    concept = "Training data in its stored order"
    why = "batches of one class pull the model to that class, and the next ones away again"
    fix = "DataLoader(training_data, shuffle=True)"

    labels: dict[Loader, list[set[int]]]

    def on_epoch(self, loader: Loader, place: Place) -> None:
        self.on_finished()
        self.labels[loader] = []

    def on_batch(self, loader: Loader, batch: Any) -> None:
        kept, is_pair = self.labels[loader], isinstance(batch, (list, tuple)) and len(batch) > 1
        labels: Any = batch[-1] if is_pair else None
        is_of_classes = isinstance(labels, Tensor) and labels.ndim == 1
        if is_of_classes and not labels.is_floating_point() and len(kept) < BATCHES:
            kept.append(set(labels.tolist()))

    def on_finished(self) -> None:
        for loader in self.trace.training_loaders & self.labels.keys():
            source, found = loader.ref(), self.labels[loader]
            dataset = getattr(source, "dataset", None)
            if source is None or isinstance(dataset, IterableDataset):
                continue
            self.seen = True
            classes: set[int] = set().union(*found)
            single = sum(len(labels) == 1 for labels in found)
            # Shuffled, a batch of four or more examples rarely has one class only.
            large = (getattr(source, "batch_size", None) or 1) >= 4 and len(found) >= FEW
            is_plain = isinstance(getattr(source, "sampler", None), SequentialSampler)
            if is_plain and large and single > len(found) / 2 and len(classes) > 1:
                text = f"training reads {type(dataset).__name__} in its stored order"
                proof = f"{single} of {len(found)} batches have one class each, of {len(classes)}"
                self.broken(loader.place, f"{text}, class by class", proof)
