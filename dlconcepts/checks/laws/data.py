"""Checks of the data: labels with their inputs, the same at each reading, no memory written to."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dlconcepts.checks.batches import as_loader, describe, is_pair, is_stack, split
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.settings import random_states, seed_everything
from dlconcepts.checks.state import Snapshot, changed
from dlconcepts.checks.trees import bits, leaves, tensors

ITEMS = 16  # examples of a data set that are read again and again
BATCHES = 8
PAIRS = 4096  # examples whose labels are compared
PASSES = 3
Bits = list[tuple[str, object]]


def source_of(data: Any) -> Any:
    """Return the data set behind a DataLoader, or the data itself."""
    return data.dataset if isinstance(data, DataLoader) else data


def read(data: Any, items: int = ITEMS, batches: int = BATCHES) -> Iterator[Any]:
    """Yield the first examples of a data set, or the first batches of a loader."""
    if is_pair(data):
        return ((data[0][i], data[1][i]) for i in range(min(items, len(data[0]))))
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return (data[i] for i in range(min(items, len(data))))  # type: ignore[arg-type]
    return iter(islice(iter(data), batches))


def all_bits(tree: Any) -> Bits:
    """Return all that a structure holds, in a form that later writes do not change."""
    return [(path, bits(leaf)) for path, leaf in leaves(tree)]


@law(
    claim="networks.shuffle-reorders",
    concept="Labels shuffled apart from their inputs",
    why="the labels are then noise: the training loss may fall, what is learnt means nothing",
    fix="one permutation for both: order = torch.randperm(n); images[order], labels[order]",
    needs=("loader",),
    reproducer="""
passes = []
for seed in range(2):
    torch.manual_seed(seed)
    pairs = [(x.numpy().tobytes(), int(y)) for xs, ys in loader for x, y in zip(xs, ys)]
    passes.append(sorted(pairs))
source = [data[i] for i in range(len(data))]
passes.append(sorted((x.numpy().tobytes(), int(y)) for x, y in source))
assert passes[0] == passes[1] == passes[2]
""",
)
def check_labels_stay_with_their_inputs(project: Project) -> None:
    """Check that each pass over the loader has the pairs of the pass before, and of the data."""
    loader = project.training_data
    if project.one_pass:
        not_checked("needs a loader that can be read twice")
    passes = {f"pass {seed + 1}": labels_by_input(loader, seed) for seed in range(2)}
    source = project.data if project.loader is not None else source_of(loader)
    if source is not None and source is not loader:
        passes = {"the data set": labels_by_input(source, 0), **passes}
    (first, known), *others = passes.items()
    shared = 0
    for name, pairs in others:
        both = [
            key for key in known.keys() & pairs.keys() if count(known, key) == count(pairs, key)
        ]
        shared += len(both)
        wrong = [key for key in both if known[key] != pairs[key]]
        if len(wrong) > len(both) / 10:
            broken(
                f"of {len(both)} inputs that are both in {first} and in {name} of the loader "
                f"{len(wrong)} have another label"
            )
    if not shared:
        not_checked("needs inputs that are the same in two passes: these are augmented")


def count(pairs: dict[object, Counter[object]], key: object) -> int:
    """Return how often an input was read."""
    return sum(pairs[key].values())


def labels_by_input(data: Any, seed: int) -> dict[object, Counter[object]]:
    """Read data once and return which labels each input has, and how often."""
    seed_everything(seed)
    found: dict[object, Counter[object]] = {}
    for inputs, targets in islice(examples(data), PAIRS):
        labels = [label_bits(leaf) for _, leaf in leaves(targets) if is_numeric(leaf)]
        key = tuple(bits(torch.as_tensor(leaf)) for _, leaf in leaves(inputs) if is_numeric(leaf))
        found.setdefault(key, Counter())[tuple(labels)] += 1
    return found


def is_numeric(leaf: Any) -> bool:
    """Return whether a value is a tensor, an array or a number."""
    return hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float))


def label_bits(leaf: Any) -> object:
    """Return a label in a form that is the same for 3, a tensor of 3 and an array of 3."""
    return bits(torch.as_tensor(leaf).double())


def examples(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and targets of each example of a data set or of a loader's batches."""
    if is_pair(data) or isinstance(data, Dataset):
        for example in read(data, items=PAIRS, batches=PAIRS):
            yield split(example)
        return
    for batch in data:
        inputs, targets = split(batch)
        sizes = [len(tensor) for tensor in tensors(targets).values() if tensor.ndim]
        if not sizes:
            not_checked("needs targets that are tensors")
        for row in range(sizes[0]):
            yield at(inputs, row), at(targets, row)


def at(tree: Any, row: int) -> Any:
    """Return the numbers that a batch holds for one example, as a flat tuple."""
    return tuple(leaf[row] for _, leaf in leaves(tree) if is_stack(leaf) and leaf.shape)


@law(
    claim="training.epoch-is-one-pass",
    concept="Data that changes when it is read twice",
    why="the second epoch trains on other data than the first, or on none",
    fix="write to a copy in __getitem__: x = self.x[i].clone(); no iterator where a loader belongs",
    needs=(),
    any_of=("data", "validation"),
    reproducer="""
passes = []
for _ in range(2):
    torch.manual_seed(0)
    examples = [data[i] for i in range(len(data))]
    passes.append(torch.stack([x.clone() for x, _ in examples]))
assert torch.equal(*passes)
""",
)
def check_data_is_the_same_when_read_again(project: Project) -> None:
    """Check that each pass over the data gives the same, from the same random numbers."""
    for name in ("loader", "data", "validation"):
        data = getattr(project, name)
        if data is None:
            continue
        if not isinstance(data, (Dataset, tuple, list)) and iter(data) is data:
            broken(f"{name} is an iterator: a second pass over it gives nothing")
        generators, passes = Snapshot(data, generators_only=True), []
        for _ in range(PASSES):
            generators.restore()
            seed_everything(0)
            passes.append([all_bits(item) for item in read(data)])
        for number, again in enumerate(passes[1:], start=2):
            compare_passes(name, passes[0], again, number)


def compare_passes(name: str, first: list[Bits], again: list[Bits], number: int) -> None:
    """Fail if a pass differs from the first."""
    if len(first) != len(again):
        broken(f"pass 1 over {name} gave {len(first)} parts, pass {number} gave {len(again)}")
    different = [i for i, pair in enumerate(zip(first, again, strict=True)) if pair[0] != pair[1]]
    if different:
        broken(
            f"{len(different)} of {len(first)} parts of {name} were different in pass {number}, "
            f"from the same random numbers: first number {different[0]}"
        )


@law(
    claim="tensors.numpy-shares-memory",
    concept="Shared memory that is written to",
    why="from_numpy and slices share memory: what is written to a batch is written to the data, "
    "and a buffer that is filled again changes the batches that were made of it",
    fix="torch.tensor(array), or clone() before writing; a new array for each batch",
    needs=("data",),
    reproducer="""
kept = [(batch, [part.clone() for part in batch]) for batch in loader]
for (inputs, targets), _ in kept:
    train_step(model, loss_fn, optimizer, inputs, targets)
again = [parts for parts in loader]
assert all(torch.equal(*pair) for batch, before in kept for pair in zip(batch, before))
pairs = [pair for new, (_, before) in zip(again, kept) for pair in zip(new, before)]
assert all(torch.equal(*pair) for pair in pairs)
""",
)
def check_shared_memory_is_not_written_to(project: Project) -> None:
    """Check that reading batches and training on them writes to nothing that the data keeps."""
    for data in (project.loader, project.data):
        if data is None or (not isinstance(data, (Dataset, tuple, list)) and iter(data) is data):
            continue
        stored = Snapshot(data)
        seed_everything(0)
        held = [(part, all_bits(part)) for part in read(data)]
        if any(all_bits(part) != before for part, before in held):
            broken("a batch that was kept changed while others were read: they share memory")
        look_at_stored(stored, "reading the data")
        use(project, data, [part for part, _ in held])
        look_at_stored(stored, f"training on its batches by {project.trainer}")


def look_at_stored(stored: Snapshot, meanwhile: str) -> None:
    """Fail if an array or tensor that the data keeps was changed."""
    for value, before in stored.arrays:
        if isinstance(value, torch.Tensor):
            if value.shape == before.shape and changed(value, before):
                broken(f"{meanwhile} wrote to a tensor of shape {describe(value)} that it keeps")
        elif value.tobytes() != before.tobytes():
            broken(f"{meanwhile} wrote to a numpy array of shape {value.shape} that it keeps")


def use(project: Project, data: Any, held: list[Any]) -> None:
    """Train on the very batches that a loader gives, not on copies."""
    if project.model is None or is_pair(data) or isinstance(data, Dataset):
        return
    batches = [split(project.here(batch)) for batch in held[:2]]
    if project.loss_fn is None or project.optimizer is None:
        project.run(project.fresh(training=True), batches[0][0])
        return
    model, optimizer = project.fresh_pair()
    if project.fit is not None:
        project.fit(model, as_loader(batches, copies=False), project.loss_fn, optimizer)
    elif project.train_step is not None:
        for inputs, targets in batches:
            project.train_step(model, project.loss_fn, optimizer, inputs, targets)
    else:
        project.run(model, batches[0][0])


@law(
    claim="images.no-augmentation-in-validation",
    concept="Augmentation in validation",
    why="the figures then depend on chance, and are about images that will not be seen in use",
    fix="a transform of its own for validation: resize, crop the centre, normalise",
    needs=("validation",),
    reproducer="""
passes = []
for seed in range(4):
    torch.manual_seed(seed)
    passes.append(torch.stack([validation[i][0] for i in range(len(validation))]))
assert all(torch.equal(again, passes[0]) for again in passes)
""",
)
def check_validation_data_is_left_to_no_chance(project: Project) -> None:
    """Check that validation data is the same whatever the random numbers are, and draws none."""
    data = project.validation
    source = source_of(data)
    passes = []
    for seed in range(2 * PASSES):
        seed_everything(seed)
        passes.append([all_bits(item) for item in read(source, items=8)])
    changing = [i for i in range(len(passes[0])) if any(p[i] != passes[0][i] for p in passes[1:])]
    if changing and isinstance(source, Dataset):
        broken(
            f"{len(changing)} of the first {len(passes[0])} validation examples came out "
            f"different in {len(passes)} readings"
        )
    if isinstance(source, Dataset) and draws_numbers(source):
        broken("reading validation examples draws random numbers")
    bags = []
    for seed in range(2):
        seed_everything(seed)
        bags.append(Counter(map(str, map(all_bits, examples(data)))))
    if bags[0].keys() != bags[1].keys():
        other = len(bags[0].keys() - bags[1].keys())
        broken(f"{other} of {bags[0].total()} validation examples are not there in the next pass")


def draws_numbers(source: Any) -> bool:
    """Return whether reading examples of a data set moves a global generator."""
    before = all_bits(random_states())
    for _ in read(source):
        pass
    return all_bits(random_states()) != before
