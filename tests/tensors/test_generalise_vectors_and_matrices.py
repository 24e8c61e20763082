"""A vector is a 1-d tensor, a matrix a 2-d one; a stack adds one dimension.

>>> matrix = torch.stack([torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])])
>>> matrix
tensor([[1, 2, 3],
        [4, 5, 6]])
>>> torch.stack([matrix, 10 * matrix])
tensor([[[ 1,  2,  3],
         [ 4,  5,  6]],
<BLANKLINE>
        [[10, 20, 30],
         [40, 50, 60]]])

Notes: A vector is a 1-d tensor, a matrix a 2-d one, and stacks of them give tensors of higher
    dimension.
Verdict: holds
Truth: A stack of k tensors of one shape has one dimension more, of length k, and its slices are
    the tensors. This holds for any new axis and any rank, also for tensors without elements.
"""

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import DTYPES, shapes, tensors
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law


def concatenates(parts: list[Tensor], dim: int) -> Tensor:
    """Concatenate along an existing axis instead of adding one."""
    # cat refuses tensors of rank 0.
    return torch.cat([torch.atleast_1d(part) for part in parts])


def stacks_last(parts: list[Tensor], dim: int) -> Tensor:
    """Stack along the last axis, whatever `dim` says."""
    return torch.stack(parts, dim=-1)


@law(
    right=torch.stack,
    wrong={concatenates: "one rank more", stacks_last: "length k along the new axis"},
)
@given(data=st.data())
def test_stacking_adds_an_axis(stack: Callable[..., Tensor], data: st.DataObject) -> None:
    """A stack of k tensors of rank r has rank r + 1, and its slices are the tensors."""
    shape = data.draw(shapes(), label="shape")
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    parts = data.draw(st.lists(tensors(shape, dtype), min_size=1, max_size=3), label="parts")
    dim = data.draw(st.integers(0, len(shape)), label="dim")

    stacked = stack(parts, dim=dim)

    assert stacked.ndim == len(shape) + 1, "a stack has one rank more than its parts"
    assert stacked.shape == (*shape[:dim], len(parts), *shape[dim:]), (
        "the shape has length k along the new axis"
    )
    for k, part in enumerate(parts):
        assert same(stacked.select(dim, k), part), f"slice {k} equals its original"
