"""Batches of every form: taken apart, given to a model, cut, and handed out by a DataLoader."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.trees import copied, leaves, on_tensors, tensors

TARGETS = ("targets", "target", "labels", "label", "y")
EXAMPLES = 8  # how many examples of a data set make a batch


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model: a tuple or list is its positional, a dictionary its named arguments.

    Where its forward does not take them so, the structure is its one argument.
    """
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        signature = inspect.signature(lambda inputs: None)
    if not isinstance(inputs, (Mapping, tuple, list)) or not binds(signature, inputs):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def binds(signature: inspect.Signature, inputs: Any) -> bool:
    """Return whether a signature takes a structure as several arguments."""
    try:
        signature.bind(**inputs) if isinstance(inputs, Mapping) else signature.bind(*inputs)
    except TypeError:
        return False
    return True


def split(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch, None for targets if there are none.

    A pair is inputs and targets; of more than two, the last are the targets; a dictionary has its
    targets under one of the names targets, target, labels, label or y.

    >>> split({"pixels": 1, "label": 2})
    ({'pixels': 1}, 2)
    """
    if isinstance(batch, Mapping):
        found = [name for name in TARGETS if name in batch]
        inputs = {name: value for name, value in batch.items() if name not in found}
        return inputs, batch[found[0]] if found else None
    if isinstance(batch, (tuple, list)):
        if len(batch) == 1:
            return batch[0], None
        if len(batch) == 2:
            return batch[0], batch[1]
        return tuple(batch[:-1]), batch[-1]
    return batch, None


def is_loader(data: Any) -> bool:
    """Return whether iterating over some data gives batches, and not examples."""
    return hasattr(data, "__iter__") and not isinstance(data, Dataset) and not is_pair(data)


def is_pair(data: Any) -> bool:
    """Return whether data is a pair of all inputs and all targets."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(map(is_stack, data))


def is_stack(value: Any) -> bool:
    """Return whether a value is a tensor or an array."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def first_batch(data: Any) -> Any:
    """Return the first batch of a loader, or the first examples of a data set."""
    seed_everything(0)
    if is_pair(data):
        return tuple(torch.as_tensor(part[:EXAMPLES]) for part in data)
    if is_loader(data):
        for batch in data:
            return batch
        raise ValueError("the loader gives no batch")
    examples = [data[index] for index in range(min(EXAMPLES, len(data)))]
    return torch.utils.data.default_collate(examples)


class Cut(Dataset[Any]):
    """Batches that a DataLoader hands out one by one, with the number of their examples."""

    def __init__(self, batches: list[tuple[Any, Any]], copies: bool) -> None:
        """Remember which example stands where."""
        self.batches, self.copies = batches, copies
        counts = [len(next(iter(tensors(targets).values()))) for _, targets in batches]
        self.where = [(b, i) for b, count in enumerate(counts) for i in range(count)]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.where)

    def __getitem__(self, index: int) -> Any:
        """Return one example."""
        batch, row = self.where[index]
        return on_tensors(tuple(self.batches[batch]), lambda tensor: tensor[row].clone())

    def __getitems__(self, indices: list[int]) -> Any:
        """Return the whole batch that the first of the indices belongs to."""
        batch = self.batches[self.where[indices[0]][0]]
        return list(copied(batch) if self.copies else batch)


def as_is(batch: Any) -> Any:
    """Return a batch that is one already."""
    return batch


def as_loader(batches: list[tuple[Any, Any]], *, copies: bool = True) -> DataLoader[Any]:
    """Return a DataLoader that gives these batches, copied, in this order."""
    data = Cut(batches, copies)
    groups: dict[int, list[int]] = {}
    for index, (batch, _) in enumerate(data.where):
        groups.setdefault(batch, []).append(index)
    return DataLoader(data, batch_sampler=list(groups.values()), collate_fn=as_is)


def describe(tree: Any) -> str:
    """Return the shape of a tensor, or those of the tensors in a structure."""
    shapes = [str(tuple(leaf.shape)) for _, leaf in leaves(tree) if isinstance(leaf, Tensor)]
    return ", ".join(shapes)
