"""Find everything that is reachable from a project's parts, save it, and restore it."""

import collections
import random
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from dlconcepts.checks.trees import as_bytes

LARGEST_COPY = 2**31  # bytes; copying a larger data set might fill the memory
# Objects of these packages are left alone: their state is not the project's.
FOREIGN = sys.stdlib_module_names - {
    *("argparse", "builtins", "collections", "functools", "random", "types")
}
FOREIGN |= {"_pytest", "pytest", "pluggy", "hypothesis", "rich", "tqdm", "matplotlib", "PIL"}
ATOMS = (type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, torch.device)


def parts_of(value: Any) -> list[Any]:
    """Return the objects that an object leads to directly."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return list(value)
    found: list[Any] = []
    if isinstance(value, types.MethodType):
        found = [value.__self__, value.__func__]
    elif isinstance(value, partial):
        found = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, types.FunctionType):
        used = (value.__globals__.get(name) for name in names_in(value.__code__))
        found = [
            *(cell.cell_contents for cell in cells_of(value)),
            *(value.__defaults__ or ()),
            *(value.__kwdefaults__ or {}).values(),
            # Functions that it calls would lead to all of the program.
            *(part for part in used if not isinstance(part, types.FunctionType)),
        ]
    if has_state(value):
        found += vars(value).values()
    return found


def cells_of(function: types.FunctionType) -> list[types.CellType]:
    """Return the closure's variables, except those that have no value yet."""
    return [cell for cell in function.__closure__ or () if cell != types.CellType()]


def names_in(code: types.CodeType) -> Iterator[str]:
    """Yield the global names in some code, and in the functions and comprehensions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_in(constant)


def has_state(value: Any) -> bool:
    if isinstance(value, Tensor) or type(value).__module__.partition(".")[0] in FOREIGN:
        return False
    return isinstance(getattr(value, "__dict__", None), dict)


def reachable(*roots: Any) -> Iterator[Any]:
    """Yield once each object that the roots lead to."""
    seen: dict[int, Any] = {}  # with the objects: the id of a dead one may be used again
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if isinstance(value, ATOMS) or id(value) in seen:
            continue
        seen[id(value)] = value
        yield value
        waiting.extend(parts_of(value))


class Snapshot:
    """The state of everything that is reachable from some objects, to be restored any time.

    Contents of tensors and numpy arrays, gradients, requires_grad, attributes, containers,
    closure variables, and random generators.

    >>> layer = torch.nn.Linear(1, 1)
    >>> before = Snapshot(layer)
    >>> _ = torch.nn.init.zeros_(layer.weight), layer.eval()
    >>> before.restore()
    >>> layer.training, bool(layer.weight)
    (True, True)
    """

    def __init__(self, *roots: Any, generators_only: bool = False) -> None:
        self.undo: list[Callable[[bool], object]] = []
        self.arrays: list[tuple[Any, Any]] = []
        for value in list(reachable(*roots)):
            self._keep_generator(value)
            if not generators_only:
                self._keep(value)

    def restore(self, *, thorough: bool = True) -> None:
        """Restore everything; if not thorough, trust the version counters of tensors."""
        for undo in self.undo:
            undo(thorough)

    def _keep(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._keep_tensor(value)
        elif (type(value).__module__, type(value).__name__) == ("numpy", "ndarray"):
            self._keep_array(value)
        elif isinstance(value, types.FunctionType):
            for cell in cells_of(value):
                write = partial(setattr, cell, "cell_contents", cell.cell_contents)
                self.undo.append(lambda _, write=write: write())  # type: ignore[misc]
        if isinstance(value, (dict, set, list, collections.deque)):
            self._keep_container(value)
        elif has_state(value):
            self._keep_container(vars(value))

    def _keep_generator(self, value: Any) -> None:
        is_legacy = type(value).__name__ == "RandomState" and hasattr(value, "get_state")
        read: Callable[[], Any]
        write: Callable[[Any], object]
        if isinstance(value, torch.Generator) or is_legacy:
            read, write = value.get_state, value.set_state
        elif isinstance(value, random.Random):
            read, write = value.getstate, value.setstate
        elif bits := getattr(value, "bit_generator", None):  # a numpy.random.Generator
            read, write = partial(getattr, bits, "state"), partial(setattr, bits, "state")
        else:
            return
        before = read()
        self.undo.append(lambda _: write(before))

    def _keep_container(self, container: Any) -> None:
        before = container.copy()
        items = list(map(id, parts_of(before)))

        def put_back(_: bool) -> None:
            if list(map(id, parts_of(container))) != items:
                container.clear()
                (container.update if hasattr(container, "update") else container.extend)(before)

        self.undo.append(put_back)

    def _keep_array(self, array: Any) -> None:
        if array.nbytes > LARGEST_COPY or array.dtype == object:
            return
        before = array.copy()
        self.arrays.append((array, before))

        def put_back(_: bool) -> None:
            if array.tobytes() != before.tobytes():
                array[...] = before

        self.undo.append(put_back)

    def _keep_tensor(self, tensor: Tensor) -> None:
        if is_lazy(tensor) or tensor.layout != torch.strided or tensor.nbytes > LARGEST_COPY:
            return
        data, version, needs = tensor.data, version_of(tensor), tensor.requires_grad
        values = data.clone()
        grad = tensor.grad if tensor.is_leaf else None
        gradient = None if grad is None or grad.layout != torch.strided else grad.clone()
        self.arrays.append((tensor, values))

        def put_back(thorough: bool) -> None:
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                tensor.data = data
            if (thorough or version_of(tensor) != version) and changed(data, values):
                data.copy_(values)
            if not tensor.is_leaf:
                return
            if tensor.requires_grad != needs:
                tensor.requires_grad_(needs)
            if tensor.grad is not grad:
                tensor.grad = grad
            if grad is not None and gradient is not None and changed(grad, gradient):
                grad.data.copy_(gradient)

        self.undo.append(put_back)


def changed(tensor: Tensor, before: Tensor) -> bool:
    """Return whether an element differs from before in any bit: 0 from -0, but not NaN from NaN."""
    return not tensor.is_meta and not torch.equal(as_bytes(tensor), as_bytes(before))


def version_of(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to, None if PyTorch does not count it."""
    return None if tensor.is_inference() else tensor._version
