"""Softmax.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Softmax makes a discrete probability distribution of the outputs.
Verdict: holds-if
Truth: Along the class dimension, and computed with the maximum subtracted: the schoolbook exp(x)
    / sum(exp(x)) is NaN from about 89 on in float32.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import FLOATS, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law


def schoolbook_softmax(logits: Tensor, dim: int) -> Tensor:
    """Compute exp(x) / sum(exp(x)) as it is written, which overflows."""
    return logits.exp() / logits.exp().sum(dim, keepdim=True)


def softmax_over_the_batch(logits: Tensor, dim: int) -> Tensor:
    """Share each class out among the examples."""
    return logits.softmax(0)


def sigmoid(logits: Tensor, dim: int) -> Tensor:
    """Squash each score by itself."""
    return logits.sigmoid()


def divides_by_the_batch_total(logits: Tensor, dim: int) -> Tensor:
    """Divide by the total of the whole batch."""
    powers = (logits - logits.amax(dim, keepdim=True)).exp()
    return powers / powers.sum()


def powers_of_two(logits: Tensor, dim: int) -> Tensor:
    """Take powers of two for powers of e."""
    return (logits * math.log(2)).softmax(dim)


def one_for_the_largest(logits: Tensor, dim: int) -> Tensor:
    """Give all to the class with the highest score."""
    return F.one_hot(logits.argmax(dim), logits.shape[dim]).to(logits.dtype)


logit_batches = tensors(
    st.tuples(st.integers(0, 4), st.integers(1, 5)), st.sampled_from(FLOATS), max_magnitude=1e4
)


@law(
    right=torch.softmax,
    wrong={
        schoolbook_softmax: "between 0 and 1",
        softmax_over_the_batch: "each row sums to 1",
        sigmoid: "each row sums to 1",
        divides_by_the_batch_total: "each row sums to 1",
        powers_of_two: "exp(x) over the row's sum",
        one_for_the_largest: "exp(x) over the row's sum",
    },
)
@given(logits=logit_batches)
def test_softmax_makes_a_distribution_of_each_row(
    softmax: Callable[..., Tensor], logits: Tensor
) -> None:
    """Probabilities sum to 1 in each row and keep the order of the logits, up to +-10,000.

    Rounding: one for each element and the sum; exp(x - max) is off by |x - max| units more, since
    that difference is rounded.
    """
    probabilities = softmax(logits, dim=1)

    assert probabilities.dtype == logits.dtype, "softmax keeps the dtype"
    found, x = (part.double().numpy(force=True) for part in (probabilities, logits))
    epsilon, classes = torch.finfo(logits.dtype).eps, logits.shape[1]
    assert ((found >= 0) & (found <= 1)).all(), "a probability is between 0 and 1"
    assert (np.abs(found.sum(1) - 1) <= classes * epsilon).all(), "each row sums to 1"
    below = x[:, :, None] < x[:, None, :]
    assert not (below & (found[:, :, None] > found[:, None, :])).any(), "the order is kept"
    depth = x - x.max(1, keepdims=True)
    exact = np.exp(depth) / np.exp(depth).sum(1, keepdims=True)
    bound = epsilon * (classes + 4 - depth) * exact + torch.finfo(logits.dtype).smallest_normal
    assert (np.abs(found - exact) <= bound).all(), "a probability is exp(x) over the row's sum"


@law(
    right=torch.softmax,
    wrong={
        schoolbook_softmax: "a constant added to a row changes nothing",
        sigmoid: "a constant added to a row changes nothing",
    },
)
@given(
    logits=st.tuples(st.integers(1, 3), st.integers(1, 4)).flatmap(
        lambda shape: st.lists(
            st.lists(st.integers(-9, 9), min_size=shape[1], max_size=shape[1]),
            min_size=shape[0],
            max_size=shape[0],
        )
    ),
    constant=st.integers(-100, 100),
    dtype=st.sampled_from(FLOATS),
)
def test_softmax_sees_differences_only(
    softmax: Callable[..., Tensor], logits: list[list[int]], constant: int, dtype: torch.dtype
) -> None:
    """A constant added to a row changes no bit, where the sum is exact as with whole numbers."""
    rows = torch.tensor(logits, dtype=dtype)
    lifted = torch.cat([rows[:1] + constant, rows[1:]])

    unchanged = bits(softmax(lifted, dim=1)) == bits(softmax(rows, dim=1))

    assert unchanged, "a constant added to a row changes nothing"
