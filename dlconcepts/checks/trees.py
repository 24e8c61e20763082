"""Nested structures of tensors: what models take and return, tuples, dictionaries and objects."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a nested structure holds, each with its path.

    >>> [path for path, _ in leaves({"a": (1, [2]), "b": 3})]
    ["['a'][0]", "['a'][1][0]", "['b']"]
    """
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(tree, (tuple, list)):
        for position, value in enumerate(tree):
            yield from leaves(value, f"{path}[{position}]")
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name), f"{path}.{field.name}")
    else:
        yield path, tree


def tensors(tree: Any) -> dict[str, Tensor]:
    """Return the tensors of a nested structure by their paths.

    >>> tensors((1, torch.zeros(())))
    {'[1]': tensor(0.)}
    """
    return {path: leaf for path, leaf in leaves(tree) if isinstance(leaf, Tensor)}


def floats(tree: Any) -> dict[str, Tensor]:
    """Return the floating-point tensors of a nested structure by their paths.

    >>> floats((torch.zeros(1), torch.arange(1)))
    {'[0]': tensor([0.])}
    """
    return {path: leaf for path, leaf in tensors(tree).items() if leaf.is_floating_point()}


def rebuild(tree: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """Return a structure of the same kind with each leaf changed.

    >>> rebuild({"a": (1, 2)}, lambda path, leaf: leaf + 1)
    {'a': (2, 3)}
    """
    if isinstance(tree, Mapping):
        items = {key: rebuild(value, change, f"{path}[{key!r}]") for key, value in tree.items()}
        try:
            return type(tree)(items)  # type: ignore[call-arg]
        except TypeError:
            return items
    if isinstance(tree, (tuple, list)):
        parts = [rebuild(value, change, f"{path}[{i}]") for i, value in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree) if field.init]
        return dataclasses.replace(
            tree, **{name: rebuild(getattr(tree, name), change, f"{path}.{name}") for name in names}
        )
    return change(path, tree)


def on_tensors(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a structure of the same kind with each tensor changed.

    >>> on_tensors([torch.zeros(1), 2], lambda tensor: tensor + 1)
    [tensor([1.]), 2]
    """
    return rebuild(tree, lambda _, leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def copied(tree: Any) -> Any:
    """Return the structure with a copy of each tensor, cut off from any graph.

    >>> x = torch.zeros(1)
    >>> copied([x])[0] is x
    False
    """
    return on_tensors(
        tree, lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad)
    )


def bits(value: Any) -> object:
    """Return what two leaves have in common exactly when they are the same to the last bit.

    >>> bits(torch.tensor([0.0])) == bits(torch.tensor([-0.0]))
    False
    """
    if isinstance(value, Tensor):
        dense = value.detach().cpu().resolve_conj().resolve_neg()
        if dense.layout != torch.strided:
            dense = dense.to_dense()
        flat = dense.clone(memory_format=torch.contiguous_format).reshape(-1)
        return (str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes())
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
        return (str(value.dtype), value.shape, value.tobytes())
    equality: Any = type(value).__eq__
    return type(value) if equality is object.__eq__ else value


def same(one: Any, other: Any) -> bool:
    """Return whether two structures hold the same, tensors and arrays to the last bit.

    >>> same([torch.zeros(2), "a"], [torch.zeros(2), "a"])
    True
    """
    first, second = list(leaves(one)), list(leaves(other))
    if [path for path, _ in first] != [path for path, _ in second]:
        return False
    return all(
        a is b or bool(bits(a) == bits(b)) for (_, a), (_, b) in zip(first, second, strict=True)
    )


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, as a share of their largest magnitude.

    0 where they agree, NaN and infinities included; infinite where only one is finite.

    >>> distance(torch.tensor([1.0, 10.0]), torch.tensor([0.0, 10.0]))
    0.1
    """
    if one.shape != other.shape:
        return math.inf
    a, b = one.detach().cpu().to(torch.complex128), other.detach().cpu().to(torch.complex128)
    unequal = ~((a == b) | (a.isnan() & b.isnan()))
    if not bool(unequal.any()):
        return 0.0
    difference = (a - b)[unequal].abs().max().item()
    if not math.isfinite(difference):
        return math.inf
    both = torch.cat([a.reshape(-1), b.reshape(-1)])
    scale = both[both.isfinite()].abs().max().item()
    return float(difference / scale)


def rounding(tensor: Tensor) -> float:
    """Return how far rounding may carry a tensor's values, as a share of their largest magnitude.

    It is little: the same operation on arguments of the same shape rounds the same way, so that
    what is compared agrees to the last bit on most devices.

    >>> rounding(torch.zeros(1, dtype=torch.float64)) < 1e-14
    True
    """
    return 32 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def numbers(result: Any) -> dict[str, float]:
    """Return the numbers in what a function returned, by their paths.

    Tuples, dictionaries, tensors of one element, and objects with attributes.

    >>> numbers((0.5, torch.tensor(2.0), "text"))
    {'[0]': 0.5, '[1]': 2.0}
    """
    found = {}
    for path, leaf in leaves(result):
        if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            found[path] = float(leaf)
        elif hasattr(leaf, "item") and getattr(leaf, "size", None) is not None:
            count = leaf.numel() if isinstance(leaf, Tensor) else leaf.size
            if count == 1:
                found[path] = float(leaf.item())
        elif hasattr(leaf, "__dict__") and not callable(leaf):
            for name, value in vars(leaf).items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    found[f"{path}.{name}"] = float(value)
    return found
