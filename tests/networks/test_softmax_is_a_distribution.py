"""Softmax turns each row of scores into probabilities that sum to 1.

>>> x = torch.tensor([1.0, 2.0, 3.0])
>>> x.softmax(dim=0)
tensor([0.0900, 0.2447, 0.6652])
>>> (x + 100).softmax(dim=0)
tensor([0.0900, 0.2447, 0.6652])
>>> (x + 100).exp() / (x + 100).exp().sum()
tensor([nan, nan, nan])

Notes: Softmax turns the outputs into a discrete probability distribution.
Verdict: holds-if
Truth: Softmax must run along the class dimension and subtract the maximum first. The schoolbook
    formula exp(x) / sum(exp(x)) is NaN from about 89 on in float32.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import FLOATS, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from dlconcepts.validation import predict


def predicts(logits: Tensor, dim: int) -> Tensor:
    """Pass the logits through a network that changes nothing, on their device."""
    network = nn.Identity()
    network.place = nn.Parameter(logits.new_zeros(()))
    return predict(network, logits)


def schoolbook_softmax(logits: Tensor, dim: int) -> Tensor:
    """Compute exp(x) / sum(exp(x)) without subtracting the maximum, so that exp overflows."""
    return logits.exp() / logits.exp().sum(dim, keepdim=True)


def softmax_over_the_batch(logits: Tensor, dim: int) -> Tensor:
    """Take the softmax over dimension 0, across the examples."""
    return logits.softmax(0)


def sigmoid(logits: Tensor, dim: int) -> Tensor:
    """Squash each score separately, so that a row need not sum to 1."""
    return logits.sigmoid()


def divides_by_the_batch_total(logits: Tensor, dim: int) -> Tensor:
    """Divide by the sum over the whole batch instead of the row's."""
    powers = (logits - logits.amax(dim, keepdim=True)).exp()
    return powers / powers.sum()


def powers_of_two(logits: Tensor, dim: int) -> Tensor:
    """Use powers of 2 instead of powers of e."""
    return (logits * math.log(2)).softmax(dim)


def one_for_the_largest(logits: Tensor, dim: int) -> Tensor:
    """Give the class with the highest score probability 1, and all others 0."""
    return F.one_hot(logits.argmax(dim), logits.shape[dim]).to(logits.dtype)


@law(
    right=predicts,
    wrong={
        schoolbook_softmax: "between 0 and 1",
        softmax_over_the_batch: "each row sums to 1",
        sigmoid: "each row sums to 1",
        divides_by_the_batch_total: "each row sums to 1",
        powers_of_two: "exp(x) over the row's sum",
        one_for_the_largest: "exp(x) over the row's sum",
    },
)
@given(
    logits=tensors(
        st.tuples(st.integers(1, 4), st.integers(1, 5)), st.sampled_from(FLOATS), max_magnitude=1e4
    )
)
def test_softmax_makes_a_distribution_of_each_row(
    softmax: Callable[..., Tensor], logits: Tensor
) -> None:
    """Each row sums to 1 and keeps the order of its logits, for logits up to +-10,000."""
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
    # The sum is rounded once for each class; exp, the division and the dtype conversion add a few
    # units. The difference x - max is rounded too, which exp turns into |x - max| units more.
    bound = epsilon * (classes + 4 - depth) * exact + torch.finfo(logits.dtype).smallest_normal
    assert (np.abs(found - exact) <= bound).all(), "a probability is exp(x) over the row's sum"


@st.composite
def rows_of_integers(draw: st.DrawFn) -> list[list[int]]:
    batch, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    row = st.lists(st.integers(-9, 9), min_size=classes, max_size=classes)
    return draw(st.lists(row, min_size=batch, max_size=batch))


@law(
    right=predicts,
    wrong={
        schoolbook_softmax: "a constant added to a row changes nothing",
        sigmoid: "a constant added to a row changes nothing",
    },
)
# Every dtype adds whole numbers of this size exactly, so no bit of the result may change.
@given(logits=rows_of_integers(), constant=st.integers(-100, 100), dtype=st.sampled_from(FLOATS))
def test_softmax_sees_differences_only(
    softmax: Callable[..., Tensor], logits: list[list[int]], constant: int, dtype: torch.dtype
) -> None:
    """A constant added to all logits of a row does not change the probabilities."""
    rows = torch.tensor(logits, dtype=dtype)
    lifted = torch.cat([rows[:1] + constant, rows[1:]])

    unchanged = bits(softmax(lifted, dim=1)) == bits(softmax(rows, dim=1))

    assert unchanged, "a constant added to a row changes nothing"
