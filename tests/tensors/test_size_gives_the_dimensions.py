"""size() returns the dimensions, and another tensor can be made from them.

>>> x = torch.ones(2, 3)
>>> x.size()
torch.Size([2, 3])
>>> torch.full(x.size(), 7)
tensor([[7, 7, 7],
        [7, 7, 7]])
>>> len(x), x.numel()
(2, 6)

Notes: `size()` gives the dimensions, and another tensor can be made from them.
Verdict: holds
"""

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from torch import Tensor

from dlconcepts.strategies import tensors
from dlconcepts.testing.laws import law


def length(tensor: Tensor) -> tuple[int, ...]:
    """Return len(), which is only the first dimension."""
    return (len(tensor),) if tensor.ndim else ()  # a tensor of rank 0 has no len()


def element_count(tensor: Tensor) -> tuple[int, ...]:
    """Return the number of elements instead of the dimensions."""
    return (tensor.numel(),)


@law(
    right=Tensor.size,
    wrong={length: "one entry for each dimension", element_count: "one entry for each dimension"},
)
@given(tensor=tensors())
def test_size_is_the_shape(size: Callable[[Tensor], tuple[int, ...]], tensor: Tensor) -> None:
    """size() has an int for each dimension, and a tensor made from it has the same shape."""
    dimensions = size(tensor)

    assert len(dimensions) == tensor.dim(), "the size has one entry for each dimension"
    assert all(type(side) is int for side in dimensions), "the entries are ints"
    assert np.prod(dimensions, dtype=int) == tensor.numel(), "their product is numel()"
    assert tuple(dimensions) == tensor.numpy(force=True).shape, "the size is numpy's shape"
    assert torch.zeros(dimensions).shape == tensor.shape, "a tensor made from it has the same shape"
