"""Batches in every form: split, passed to a model, and served by a DataLoader."""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from itertools import groupby
from typing import Any, NoReturn

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.trees import copied, fields_of, is_bundle, on_tensors, tensors

TARGETS = ("targets", "target", "labels", "label", "y")
EXAMPLES = 8  # of a data set make a batch: enough to cut into several, and quick to run


class NotCheckedError(Exception):
    """A check does not apply to a project, or lacks a part of it; the message says which."""


def not_checked(why: str) -> NoReturn:
    raise NotCheckedError(why)


def target_names(fields: Mapping[Any, Any]) -> list[Any]:
    found = [name for name in TARGETS if name in fields]
    is_picture = any(str(name).startswith("image") for name in fields)
    return found or [name for name in ("mask", "masks") if is_picture and name in fields]


def call(model: nn.Module, inputs: Any, *, whole: bool = False) -> Any:
    """Call a model with a tuple as positional and a dictionary as named arguments.

    If its forward does not take them so, the structure is its only argument, or else the first
    that the structure holds. `whole` says that it is one argument: a list of examples.
    """
    fields = fields_of(inputs)
    is_sequence = isinstance(inputs, (tuple, list)) and fields is None
    if whole or not (fields or (is_sequence and len(inputs))):
        return model(inputs)
    if fields is not None and not isinstance(inputs, Mapping):  # there they are split already
        names = target_names(fields)
        fields = {name: value for name, value in fields.items() if name not in names}
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # a built-in forward; most take one argument
        signature = inspect.signature(lambda inputs: None)
    takes, named = signature.parameters, fields or {}
    if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        # As libraries do: columns that forward does not take stay behind.
        named = {name: value for name, value in named.items() if name in takes}
    values = list(fields.values()) if fields else list(inputs) if is_sequence else [inputs]
    # Names that forward does not know are the loader's own.
    positional = values if is_sequence or (len(values) > 1 and not named) else []
    fits = False
    with suppress(TypeError):
        signature.bind(*positional, **named)
        fits = bool(named or positional)
    if fits:
        return model(*positional, **named)
    try:
        return model(inputs)
    except (TypeError, AttributeError):
        with suppress(Exception):
            return model(values[0])
        raise


def split(batch: Any, where: Any = None) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch, None for targets if there are none.

    `where` is a key, a position or a function of the batch that says where the targets are.
    """
    if callable(where):
        return split(batch)[0], where(batch)
    fields = fields_of(batch)
    if fields is not None and (isinstance(where, str) or target_names(fields)):
        names = target_names(fields) if where is None else [where]
        if isinstance(batch, Mapping):
            rest = {name: value for name, value in fields.items() if name not in names}
            return rest, fields[names[0]]
        return batch, fields[names[0]]
    if not isinstance(batch, (tuple, list)) or is_bundle(batch):
        return batch, None
    if len(batch) == 1:
        return batch[0], None
    position = len(batch) - 1 if where is None else where % len(batch)
    others = tuple(part for i, part in enumerate(batch) if i != position)
    return others[0] if len(batch) == 2 else others, batch[position]


def are_dictionaries(targets: Any) -> bool:
    """Return whether targets are a dictionary for each example: the inputs are a list, too."""
    is_list = isinstance(targets, (tuple, list)) and len(targets) > 0
    return is_list and all(isinstance(target, Mapping) for target in targets)


def is_loader(data: Any) -> bool:
    """Return whether iterating over the data gives batches, not examples."""
    return hasattr(data, "__iter__") and not isinstance(data, Dataset) and not is_pair(data)


def is_pair(data: Any) -> bool:
    """Return whether the data is all inputs and all targets, as tensors or arrays."""
    is_two = isinstance(data, (tuple, list)) and len(data) == 2
    return is_two and all(hasattr(x, "shape") and hasattr(x, "dtype") for x in data)


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

    def __init__(self, batches: list[Any], counts: list[int], copies: bool) -> None:
        self.batches, self.copies = batches, copies
        self.where = [(b, i) for b, count in enumerate(counts) for i in range(count)]

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, index: int) -> Any:
        batch, row = self.where[index]
        return on_tensors(self.batches[batch], lambda x: x[row].clone() if x.ndim else x)

    def __getitems__(self, indices: list[int]) -> Any:
        batch = self.batches[self.where[indices[0]][0]]
        return copied(batch) if self.copies else batch


def as_loader(batches: list[Any], counts: list[int], *, copies: bool = True) -> DataLoader[Any]:
    """Return a DataLoader that serves copies of these batches of so many examples, in order."""
    data = Cut(batches, [max(1, count) for count in counts], copies)
    groups = [list(group) for _, group in groupby(range(len(data)), lambda i: data.where[i][0])]
    return DataLoader(data, batch_sampler=groups, collate_fn=whole)


def whole(batch: Any) -> Any:  # by name, so that worker processes can load it
    return batch


def describe(tree: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors(tree).values())
