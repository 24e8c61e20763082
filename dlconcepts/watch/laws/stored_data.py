"""What the two laws about stored data share: fingerprints of what a data set keeps."""

from typing import Any

import torch
from torch import Tensor

from dlconcepts.watch.places import Place, is_user_file

WIDTH = 4096  # numbers of an array that are looked at
ARRAYS = 8  # of a data set; what has more is no plain store


def stored(dataset: Any, depth: int = 0, *, lists: bool = False) -> list[Any]:
    """Return the tensors and numpy arrays that a data set keeps, also in lists of examples."""
    if dataset is None or depth > 3 or not hasattr(dataset, "__dict__"):
        return []
    found: list[Any] = []
    waiting = list(vars(dataset).values())
    while waiting and len(found) < ARRAYS:
        part = waiting.pop(0)
        is_array = type(part).__module__ == "numpy" and type(part).__name__ == "ndarray"
        if isinstance(part, Tensor) or (is_array and part.dtype != object):
            found.append(part)
        elif isinstance(part, (list, tuple)) and (lists or len(part) < ARRAYS):
            waiting[:0] = part[:ARRAYS]
    inner = getattr(dataset, "dataset", None)
    return [*found, *stored(inner, depth + 1, lists=lists)][:ARRAYS]


def fingerprint(value: Any) -> bytes:
    """Return the bytes of some numbers of an array, spread over all of it."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta or value.device.type != "cpu":
            return b""
        flat = value.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // WIDTH)].contiguous()
        return bytes(some.view(torch.uint8).numpy().tobytes()) if some.numel() else b""
    flat = value.reshape(-1)
    return bytes(flat[:: max(1, flat.size // WIDTH)].tobytes())


def reader(dataset: Any) -> Place | None:
    """Return the line where a data set of the user reads an example."""
    while getattr(dataset, "dataset", None) is not None:
        dataset = dataset.dataset
    code = getattr(getattr(type(dataset), "__getitem__", None), "__code__", None)
    is_own = code is not None and is_user_file(code.co_filename)
    return Place(code.co_filename, code.co_firstlineno + 1) if code and is_own else None
