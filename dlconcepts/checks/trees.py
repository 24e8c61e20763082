"""Nested structures of tensors: what models take and return, tuples, dictionaries and objects."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def is_bundle(value: Any) -> bool:
    """Return whether an object holds tensors, such as a graph or a batch of one's own class."""
    if isinstance(value, (Tensor, nn.Module, type, Mapping)) or is_record(value):
        return False
    held = getattr(value, "__dict__", {}).values()
    return hasattr(value, "to") or any(isinstance(x, Tensor) for x in held)


def is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def fields_of(value: Any) -> dict[Any, Any] | None:
    """Return what a structure holds by name, None if it has no names."""
    if isinstance(value, Mapping):
        return dict(value)
    if is_record(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):  # of packed sequences, what may move to another device
        return {name: part for name, part in value._asdict().items() if name != "batch_sizes"}
    return vars(value) if is_bundle(value) else None


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf of a nested structure with its path."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif is_bundle(tree) or is_record(tree):
        for name, value in (fields_of(tree) or {}).items():
            yield from leaves(value, f"{path}.{name}")
    elif isinstance(tree, (tuple, list)):
        for position, value in enumerate(tree):
            yield from leaves(value, f"{path}[{position}]")
    else:
        yield path, tree


def tensors(tree: Any) -> dict[str, Tensor]:
    """Return the tensors of a nested structure by path."""
    return {path: leaf for path, leaf in leaves(tree) if isinstance(leaf, Tensor)}


def floats(tree: Any) -> dict[str, Tensor]:
    return {path: leaf for path, leaf in tensors(tree).items() if leaf.is_floating_point()}


def rebuild(tree: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """Return the same structure with each leaf replaced by change(path, leaf)."""
    if isinstance(tree, Mapping):
        items = {key: rebuild(value, change, f"{path}[{key!r}]") for key, value in tree.items()}
        try:
            return type(tree)(items)  # type: ignore[call-arg]
        except TypeError:  # a mapping whose constructor takes something else
            return items
    if is_bundle(tree):
        # deepcopy finds each tensor in its memo, and takes the changed one instead of a copy.
        found = [leaf for leaf in leaves(tree, path) if isinstance(leaf[1], Tensor)]
        return copy.deepcopy(tree, {id(leaf): change(where, leaf) for where, leaf in found})
    if isinstance(tree, (tuple, list)):
        parts = [rebuild(value, change, f"{path}[{i}]") for i, value in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if is_record(tree):
        names = [field.name for field in dataclasses.fields(tree) if field.init]
        return dataclasses.replace(
            tree, **{name: rebuild(getattr(tree, name), change, f"{path}.{name}") for name in names}
        )
    return change(path, tree)


def on_tensors(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    return rebuild(tree, lambda _, leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def copied(tree: Any) -> Any:
    """Return the structure with a copy of each tensor: a leaf that requires grad if it did."""
    return on_tensors(tree, lambda x: x.detach().clone().requires_grad_(x.requires_grad))


def as_bytes(tensor: Tensor) -> Tensor:
    """Return the bytes of the elements in row-major order."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    plain = plain.int_repr() if plain.is_quantized else plain
    dense = (plain if plain.layout == torch.strided else plain.to_dense()).contiguous()
    # One element may have any stride, but a view as bytes needs a stride of 1.
    return dense.as_strided((dense.numel(),), (1,)).view(torch.uint8)


def bits(value: Any) -> object:
    """Return a key that is equal only for bit-identical leaves."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), as_bytes(value).cpu().numpy().tobytes()
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
        return (str(value.dtype), value.shape, value.tobytes())
    # Objects that compare by identity, such as locks, tell nothing but their type.
    equality: Any = type(value).__eq__
    return type(value) if equality is object.__eq__ else value


def all_bits(tree: Any) -> dict[str, object]:
    """Return the bits of each leaf by path; later writes do not change them."""
    return {path: bits(leaf) for path, leaf in leaves(tree)}


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference between two tensors, relative to their largest magnitude."""
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
    return float(difference / both[both.isfinite()].abs().max().item())


def rounding(tensor: Tensor) -> float:
    """Return the tolerance for rounding, relative to the largest magnitude."""
    # The last five bits. That is small, but the same operation on arguments of the same shape
    # rounds the same way on most devices, so the compared values usually agree exactly.
    return 32 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def numbers(result: Any) -> dict[str, float]:
    """Return the numbers in a result by path, also attributes and one-element tensors."""
    found = {}
    for path, leaf in leaves(result):
        if hasattr(leaf, "item") and getattr(leaf, "size", None) is not None:
            if (leaf.numel() if isinstance(leaf, Tensor) else leaf.size) == 1:
                found[path] = float(leaf.item())
            continue
        attributes = vars(leaf) if hasattr(leaf, "__dict__") and not callable(leaf) else {}
        named = {path: leaf} | {f"{path}.{name}": value for name, value in attributes.items()}
        for name, value in named.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found[name] = float(value)
    return found
