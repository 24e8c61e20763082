"""Checks of the data: labels stay with inputs, readings agree, no write to shared memory."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dlconcepts.checks.batches import are_dictionaries, describe, is_loader, is_pair, is_used_up
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.settings import draws, seed_everything
from dlconcepts.checks.state import Snapshot, changed
from dlconcepts.checks.trees import all_bits, bits, leaves, tensors

ITEMS, BATCHES = 16, 8  # of a data set or a loader are read again and again
PAIRS = 4096  # examples whose labels are compared: a large data set takes too long
PASSES = 3


def source_of(data: Any) -> Any:
    return data.dataset if isinstance(data, DataLoader) else data


def read(data: Any, items: int = ITEMS, batches: int = BATCHES) -> Iterator[Any]:
    """Yield the first examples of a data set, or the first batches of a loader."""
    if is_pair(data):
        return ((data[0][i], data[1][i]) for i in range(min(items, len(data[0]))))
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return (data[i] for i in range(min(items, len(data))))  # type: ignore[arg-type]
    return iter(islice(iter(data), batches))


def bits_from_seed(data: Any, seed: int, items: int = ITEMS) -> list[dict[str, object]]:
    """Read data after seeding; later writes do not change the result."""
    seed_everything(seed)
    return [all_bits(item) for item in read(data, items)]


@law(
    claim="networks.shuffle-reorders",
    concept="Labels shuffled apart from their inputs",
    why="the labels are then noise: the training loss may fall, but the model learns nothing",
    fix="use one permutation: order = torch.randperm(n); images[order], labels[order]",
    needs=("loader",),
    reproducer="""
loaded = [(x.numpy().tobytes(), int(y)) for xs, ys in loader for x, y in zip(xs, ys)]
stored = [(x.numpy().tobytes(), int(y)) for x, y in (data[i] for i in range(len(data)))]
assert sorted(loaded) == sorted(stored)
""",
)
def check_labels_stay_with_their_inputs(project: Project) -> None:
    """Check that two passes over the loader, and the data set, have the same pairs."""
    loader = project.training_data
    if is_used_up(loader):
        not_checked("needs a loader that can be read twice")
    passes = {f"pass {seed + 1}": labels_by_input(project, loader, seed) for seed in range(2)}
    source = project.data if project.loader is not None else source_of(loader)
    if source is not None and source is not loader:
        passes = {"the data set": labels_by_input(project, source, 0), **passes}
    (first, known), *others = passes.items()
    shared = 0
    for name, pairs in others:
        # An input that was read more often in one pass may rightly have more labels.
        both = [k for k in known.keys() & pairs.keys() if known[k].total() == pairs[k].total()]
        shared += len(both)
        wrong = [key for key in both if known[key] != pairs[key]]
        # Sampling with replacement may meet equal inputs with different labels.
        if len(wrong) > len(both) / 10:
            broken(
                f"of {len(both)} inputs that are both in {first} and in {name} of the loader "
                f"{len(wrong)} have another label"
            )
    if not shared:
        not_checked("needs inputs that are the same in two passes: these are augmented")


def labels_by_input(project: Project, data: Any, seed: int) -> dict[object, Counter[object]]:
    """Read data once; return the labels of each input, with their numbers."""
    seed_everything(seed)
    found: dict[object, Counter[object]] = {}
    for inputs, targets in islice(examples(project, data), PAIRS):
        # The loader may turn the number 3 into a tensor or an array.
        label = tuple(bits(x.double()) for x in as_tensors(targets))
        found.setdefault(tuple(map(bits, as_tensors(inputs))), Counter())[label] += 1
    return found


def as_tensors(tree: Any) -> list[torch.Tensor]:
    found = (leaf for _, leaf in leaves(tree))
    numeric = (x for x in found if hasattr(x, "dtype") or isinstance(x, (bool, int, float)))
    return list(map(torch.as_tensor, numeric))


def examples(project: Project, data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and targets of each example, of a data set or of a loader's batches."""
    if is_pair(data) or isinstance(data, Dataset):
        yield from map(project.split, read(data, items=PAIRS, batches=PAIRS))
        return
    for batch in data:
        inputs, targets = project.split(batch)
        if are_dictionaries(targets):
            yield from zip(inputs, targets, strict=True)
            continue
        sizes = [len(tensor) for tensor in tensors(targets).values() if tensor.ndim]
        if not sizes:
            not_checked("needs targets that are tensors")
        if any(len(x) != sizes[0] for x in tensors(inputs).values() if x.ndim):
            not_checked("needs batches whose first dimension counts the examples")
        for row in range(sizes[0]):
            yield at(inputs, row), at(targets, row)


def at(tree: Any, row: int) -> Any:
    return tuple(leaf[row] for _, leaf in leaves(tree) if getattr(leaf, "shape", ()))


@law(
    claim="training.epoch-is-one-pass",
    concept="Data that changes when it is read twice",
    why="the second epoch trains on other data than the first, or on none",
    fix="write to a copy in __getitem__: x = self.x[i].clone(); pass a loader, not an iterator",
    needs=(),
    any_of=("data", "validation"),
    reproducer="""
def read():
    torch.manual_seed(0)
    return torch.stack([data[i][0].clone() for i in range(len(data))])
assert torch.equal(read(), read())
""",
)
def check_data_is_the_same_when_read_again(project: Project) -> None:
    """Check that each pass over the data gives the same from the same seed."""
    for name in ("loader", "data", "validation"):
        data = getattr(project, name)
        if data is None:
            continue
        if is_used_up(data):
            broken(f"{name} is an iterator: a second pass over it gives nothing")
        generators, passes = Snapshot(data, generators_only=True), []
        for _ in range(PASSES):
            generators.restore()
            passes.append(bits_from_seed(data, 0))
        first, *others = passes
        for number, again in enumerate(others, start=2):
            n, m = len(first), len(again)
            if n != m:
                broken(f"pass 1 over {name} gave {n} parts, pass {number} gave {m}")
            different = [i for i, part in enumerate(first) if part != again[i]]
            if different:
                broken(
                    f"{len(different)} of {n} parts of {name} were different in pass "
                    f"{number}, from the same random numbers: first number {different[0]}"
                )


@law(
    claim="tensors.numpy-shares-memory",
    concept="Write to shared memory",
    why="from_numpy and slices share memory: a write to a batch changes the data, or other batches",
    fix="torch.tensor(array), or clone() before writing; a new array for each batch",
    needs=("data",),
    reproducer="""
kept = [(batch, [part.clone() for part in batch]) for batch in loader]
for (inputs, targets), _ in kept:
    train_step(model, loss_fn, optimizer, inputs, targets)
for again, (batch, before) in zip(list(loader), kept):
    assert all(map(torch.equal, batch, before)) and all(map(torch.equal, again, before))
""",
)
def check_shared_memory_is_not_written_to(project: Project) -> None:
    """Check that neither reading batches nor training on them writes to what the data keeps."""
    for data in (project.loader, project.data):
        if data is None or is_used_up(data):
            continue
        stored = Snapshot(data)
        seed_everything(0)
        held = [(part, all_bits(part)) for part in read(data)]
        if any(all_bits(part) != before for part, before in held):
            broken("a batch that was kept changed while others were read: they share memory")
        look_for_stored_writes(stored, "reading the data")
        if project.model is not None and is_loader(data):
            # On the very batches that the loader gave, not on copies.
            batches = [project.here(part) for part, _ in held[:2]]
            if project.trainer == "a plain step":
                project.feed(project.fresh(training=True), batches[0])
            else:
                project.train(*project.fresh_pair(), batches, copies=False)
        look_for_stored_writes(stored, f"training on its batches by {project.trainer}")


def look_for_stored_writes(stored: Snapshot, culprit: str) -> None:
    for value, before in stored.arrays:
        if isinstance(value, torch.Tensor):
            if value.shape == before.shape and changed(value, before):
                broken(f"{culprit} wrote to a tensor of shape {describe(value)} that it keeps")
        elif value.tobytes() != before.tobytes():
            broken(f"{culprit} wrote to a numpy array of shape {value.shape} that it keeps")


@law(
    claim="training.same-seed-same-run",
    concept="Random numbers that each worker repeats",
    why="a generator that the data set keeps is copied into each worker, anew in each epoch: the "
    "same noise and the same crops come again and again",
    fix="draw from torch or numpy's global generator, which are seeded in each worker, or make the "
    "generator in worker_init_fn from torch.initial_seed()",
    needs=("loader",),
    reproducer="""
from torch.utils.data import DataLoader
workers = DataLoader(loader.dataset, 4, num_workers=2, worker_init_fn=loader.worker_init_fn)
first, second = (torch.cat([inputs for inputs, _ in workers]) for epoch in range(2))
assert not torch.equal(first, second)
""",
)
def check_workers_draw_their_own_numbers(project: Project) -> None:
    """Check that random examples differ from epoch to epoch if workers read them."""
    loader = project.training_data
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        not_checked("needs a DataLoader with workers")
    source, stored = loader.dataset, Snapshot(loader)
    first, again = ([all_bits(item) for item in read(source, 4)] for _ in range(2))
    if first == again or isinstance(source, IterableDataset):
        not_checked("needs a data set that draws random numbers")
    stored.restore()
    names = ("collate_fn", "worker_init_fn", "multiprocessing_context")
    settings: dict[str, Any] = {name: getattr(loader, name) for name in names}
    epochs = []
    for seed in range(2):
        seed_everything(seed)
        workers = DataLoader(source, loader.batch_size or 1, num_workers=2, **settings)
        epochs.append([all_bits(batch) for batch in read(workers, batches=2)])
    if epochs[0] == epochs[1]:
        broken(
            f"the first {len(epochs[0])} batches of two epochs, read by 2 workers, are the same, "
            "though the data set draws random numbers"
        )


@law(
    claim="images.no-augmentation-in-validation",
    concept="Augmentation in validation",
    why="the figures then depend on chance, and describe images that never occur in use",
    fix="use a separate transform for validation: resize, crop the centre, normalise",
    needs=("validation",),
    reproducer="""
def read():
    return torch.stack([validation[i][0] for i in range(len(validation))])
first = read()
assert all(torch.equal(read(), first) for _ in range(4))
""",
)
def check_validation_data_is_left_to_no_chance(project: Project) -> None:
    """Check that validation data does not depend on the seed, and draws no random numbers."""
    data = project.validation
    source = source_of(data)
    if isinstance(source, Dataset):
        # A flip happens in half of the readings, so a few more of them are needed.
        first, *others = (bits_from_seed(source, seed, items=8) for seed in range(2 * PASSES))
        changing = [i for i, item in enumerate(first) if any(item != x[i] for x in others)]
        if changing:
            broken(
                f"{len(changing)} of the first {len(first)} validation examples came out "
                f"different in {len(others) + 1} readings"
            )
        if draws(lambda: list(read(source))):
            broken("reading validation examples draws random numbers")
    bags = []
    for seed in range(2):
        seed_everything(seed)
        bags.append(Counter(map(str, map(all_bits, examples(project, data)))))
    if bags[0].keys() != bags[1].keys():
        other = len(bags[0].keys() - bags[1].keys())
        broken(f"{other} of {bags[0].total()} validation examples are not there in the next pass")
