"""Everything as it was: the caller's objects and PyTorch's own settings, kept and put back."""

import collections
import functools
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

LARGEST_COPY = 2**31  # bytes; a data set held in memory that is larger is not copied
# Objects of these packages are left alone: what they keep is not a project's.
FOREIGN = sys.stdlib_module_names - {
    "argparse",
    "builtins",
    "collections",
    "functools",
    "random",
    "types",
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
    elif isinstance(value, functools.partial):
        found = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, types.FunctionType):
        found = [cell.cell_contents for cell in cells_of(value)]
        found += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        found += globals_of(value)
    if not isinstance(value, Tensor) and has_state(value):
        found += vars(value).values()
    return found


def cells_of(function: types.FunctionType) -> list[types.CellType]:
    """Return the variables around a function that it uses and that have a value."""
    full = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            _ = cell.cell_contents
            full.append(cell)
    return full


def globals_of(function: types.FunctionType) -> list[Any]:
    """Return the objects, not the functions, that a function uses by a global name."""
    values = (function.__globals__.get(name) for name in names_in(function.__code__))
    return [value for value in values if not isinstance(value, types.FunctionType)]


def names_in(code: types.CodeType) -> Iterator[str]:
    """Yield the names that some code uses, and the functions and comprehensions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_in(constant)


def is_array(value: Any) -> bool:
    """Return whether a value is an array of numpy, which need not be installed."""
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def has_state(value: Any) -> bool:
    """Return whether an object keeps attributes that can be put back."""
    if type(value).__module__.partition(".")[0] in FOREIGN:
        return False
    return isinstance(getattr(value, "__dict__", None), dict)


def reachable(*roots: Any) -> Iterator[Any]:
    """Yield every object that can be got at from the roots, each once.

    It looks into containers, attributes, closures, and the globals that a function names.

    >>> def count(): return numbers
    >>> numbers = [1]
    >>> any(found is numbers for found in reachable(count))
    True
    """
    seen: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if isinstance(value, ATOMS) or id(value) in seen:
            continue
        seen[id(value)] = value
        yield value
        waiting.extend(parts_of(value))


class Snapshot:
    """What can be reached from some objects as it is now, to be put back whenever that is wanted.

    Contents of tensors and numpy arrays, gradients, requires_grad, attributes, containers, the
    variables that closures keep, and generators of random numbers.

    >>> layer = torch.nn.Linear(1, 1)
    >>> before = Snapshot(layer)
    >>> _ = torch.nn.init.zeros_(layer.weight), layer.eval()
    >>> before.restore()
    >>> layer.training, bool(layer.weight)
    (True, True)
    """

    def __init__(self, *roots: Any, generators_only: bool = False) -> None:
        """Look at everything once, or only at the generators of random numbers."""
        self.undo: list[Callable[[bool], object]] = []
        self.arrays: list[tuple[Any, Any]] = []
        for value in list(reachable(*roots)):
            self._keep_generator(value)
            if not generators_only:
                self._keep(value)

    def restore(self, *, thorough: bool = True) -> None:
        """Put everything back; if not thorough, trust the version counters of tensors."""
        for undo in self.undo:
            undo(thorough)

    def _keep(self, value: Any) -> None:
        """Remember how one object is put back."""
        if isinstance(value, Tensor):
            self._keep_tensor(value)
        elif is_array(value):
            self._keep_array(value)
        if isinstance(value, types.FunctionType):
            for cell in cells_of(value):
                self._keep_cell(cell)
        if isinstance(value, (dict, set)):
            self._keep_container(value, value.update)
        elif isinstance(value, (list, collections.deque)):
            self._keep_container(value, value.extend)
        elif not isinstance(value, Tensor) and has_state(value):
            self._keep_container(vars(value), vars(value).update)

    def _keep_generator(self, value: Any) -> None:
        """Remember the state of a generator of torch, Python or numpy."""
        if isinstance(value, torch.Generator):
            state = value.get_state()
            self.undo.append(lambda _: value.set_state(state))
        elif isinstance(value, random.Random):
            numbers = value.getstate()
            self.undo.append(lambda _: value.setstate(numbers))
        elif hasattr(value, "bit_generator"):
            numpy_state = value.bit_generator.state
            self.undo.append(lambda _: setattr(value.bit_generator, "state", numpy_state))
        elif type(value).__name__ == "RandomState" and hasattr(value, "get_state"):
            old_state = value.get_state()
            self.undo.append(lambda _: value.set_state(old_state))

    def _keep_cell(self, cell: types.CellType) -> None:
        """Remember the value of a variable that a closure keeps."""
        contents = cell.cell_contents

        def put_back(_: bool) -> None:
            """Give the variable its value again."""
            cell.cell_contents = contents

        self.undo.append(put_back)

    def _keep_container(self, container: Any, refill: Callable[[Any], object]) -> None:
        """Remember the items of a container."""
        before = container.copy()

        def put_back(_: bool) -> None:
            """Fill the container again, where it changed."""
            if not same_items(container, before):
                container.clear()
                refill(before)

        self.undo.append(put_back)

    def _keep_array(self, array: Any) -> None:
        """Remember the elements of a numpy array."""
        if array.nbytes > LARGEST_COPY or array.dtype == object:
            return
        before = array.copy()
        self.arrays.append((array, before))

        def put_back(_: bool) -> None:
            """Write the elements again, where they changed."""
            if array.tobytes() != before.tobytes():
                array[...] = before

        self.undo.append(put_back)

    def _keep_tensor(self, tensor: Tensor) -> None:
        """Remember a tensor's elements, its memory, its gradient, and whether it requires one."""
        if is_lazy(tensor) or tensor.layout != torch.strided or tensor.nbytes > LARGEST_COPY:
            return
        data, version, needs = tensor.data, version_of(tensor), tensor.requires_grad
        values = data.clone()
        grad = tensor.grad if tensor.is_leaf else None
        gradient = None if grad is None or grad.layout != torch.strided else grad.clone()
        self.arrays.append((tensor, values))

        def put_back(thorough: bool) -> None:
            """Undo what happened to the tensor."""
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


def same_items(one: Any, other: Any) -> bool:
    """Return whether two containers hold the very same objects in the same order."""
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(
            a is b and one[a] is other[b] for a, b in zip(one.keys(), other.keys(), strict=True)
        )
    if isinstance(one, set):
        return bool(one == other)
    return all(a is b for a, b in zip(one, other, strict=True))


def changed(tensor: Tensor, before: Tensor) -> bool:
    """Return whether an element differs from before in any bit."""
    if tensor.is_meta:
        return False
    now, then = (x.detach().resolve_conj().resolve_neg() for x in (tensor, before))
    if now.is_complex():
        now, then = torch.view_as_real(now), torch.view_as_real(then)
    if now.is_floating_point():
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[now.element_size()]
        now, then = now.view(kind), then.view(kind)
    return not torch.equal(now, then)


def version_of(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to, None if PyTorch does not count it."""
    return None if tensor.is_inference() else tensor._version
