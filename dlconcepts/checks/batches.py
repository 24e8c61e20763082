"""Batches in every form: split, passed to a model, and served by a DataLoader."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.trees import copied, on_tensors, tensors

TARGETS = ("targets", "target", "labels", "label", "y")
EXAMPLES = 8  # of a data set make a batch: enough to cut into several, and quick to run


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tuple as positional and a dictionary as named arguments.

    If its forward does not take them so, the structure is its only argument.
    """
    named = inputs if isinstance(inputs, Mapping) else {}
    positional = inputs if isinstance(inputs, (tuple, list)) else ()
    if not named and not positional:
        return model(inputs)
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # a built-in forward; most take one argument
        signature = inspect.signature(lambda inputs: None)
    try:
        signature.bind(*positional, **named)
    except TypeError:
        return model(inputs)
    return model(*positional, **named)


def split(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch, None for targets if there are none."""
    if isinstance(batch, Mapping):
        found = [name for name in TARGETS if name in batch]
        inputs = {name: value for name, value in batch.items() if name not in found}
        return inputs, batch[found[0]] if found else None
    if not isinstance(batch, (tuple, list)):
        return batch, None
    if len(batch) == 1:
        return batch[0], None
    return batch[0] if len(batch) == 2 else tuple(batch[:-1]), batch[-1]


def is_loader(data: Any) -> bool:
    """Return whether iterating over the data gives batches, not examples."""
    return hasattr(data, "__iter__") and not isinstance(data, Dataset) and not is_pair(data)


def is_pair(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(map(is_stack, data))


def is_stack(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_used_up(data: Any) -> bool:
    """Return whether the data is an iterator, which can be read only once."""
    return is_loader(data) and iter(data) is data


def first_batch(data: Any) -> Any:
    """Return the first batch of a loader, or the first examples of a data set."""
    seed_everything(0)
    if is_pair(data):
        return tuple(torch.as_tensor(part[:EXAMPLES]) for part in data)
    if is_loader(data):
        for batch in data:
            return batch
        raise ValueError("the loader has no batches; give one that yields at least one")
    examples = [data[index] for index in range(min(EXAMPLES, len(data)))]
    return torch.utils.data.default_collate(examples)


class Cut(Dataset[Any]):
    """A data set whose batches are fixed: a loader serves them whole, and knows their examples."""

    def __init__(self, batches: list[tuple[Any, Any]], copies: bool) -> None:
        self.batches, self.copies = batches, copies
        counts = [len(next(iter(tensors(targets).values()))) for _, targets in batches]
        self.where = [(b, i) for b, count in enumerate(counts) for i in range(count)]

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, index: int) -> Any:
        batch, row = self.where[index]
        return on_tensors(tuple(self.batches[batch]), lambda tensor: tensor[row].clone())

    def __getitems__(self, indices: list[int]) -> Any:
        batch = self.batches[self.where[indices[0]][0]]
        return copied(batch) if self.copies else batch


def as_loader(batches: list[tuple[Any, Any]], *, copies: bool = True) -> DataLoader[Any]:
    """Return a DataLoader that serves copies of these batches in this order."""
    data = Cut(batches, copies)
    groups: dict[int, list[int]] = {}
    for index, (batch, _) in enumerate(data.where):
        groups.setdefault(batch, []).append(index)
    return DataLoader(data, batch_sampler=list(groups.values()), collate_fn=list)


def describe(tree: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors(tree).values())
