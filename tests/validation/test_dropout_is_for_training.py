"""Dropout zeroes elements in training and does nothing in eval mode.

>>> dropout = nn.Dropout(0.5)
>>> dropout(torch.ones(100)).unique()  # dropped, or scaled by 1 / (1 - 0.5)
tensor([0., 2.])
>>> dropout.eval()(torch.ones(100)).unique()
tensor([1.])

Notes: In eval mode the dropout code does not run.
Verdict: holds
Truth: In eval mode dropout is the identity. In training each element is 0 with probability p and
    x / (1 - p) otherwise, independently of the others, so the mean is kept.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import shapes, tensors
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.validation.common import FALSE_ALARM, binomial_interval, close


def never_rescales(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop elements without scaling the others."""
    return x * (torch.rand_like(x) >= p) if training else x


def drops_in_eval_too(x: Tensor, p: float, training: bool) -> Tensor:
    """Ignore the mode."""
    return F.dropout(x, p)


def rescales_in_eval(x: Tensor, p: float, training: bool) -> Tensor:
    """Scale by 1 - p at inference instead, as the first paper on dropout did."""
    return never_rescales(x, p, training) if training else x * (1 - p)


def rescales_by_p(x: Tensor, p: float, training: bool) -> Tensor:
    """Divide by p, the probability of being dropped."""
    return never_rescales(x, p, training) / p if training and p else x


@law(
    right=F.dropout,
    wrong={
        never_rescales: "0 or x / (1 - p)",
        drops_in_eval_too: "the identity in eval",
        rescales_in_eval: "the identity in eval",
        rescales_by_p: "0 or x / (1 - p)",
    },
)
@given(x=tensors(shapes(1, 2), max_magnitude=1e30), p=st.sampled_from([0.0, 0.5, 1.0, 0.1, 0.9]))
def test_dropout_zeroes_or_rescales_in_training_and_does_nothing_in_eval(
    dropout: Callable[..., Tensor], x: Tensor, p: float
) -> None:
    """In training an element is 0 or x / (1 - p), in eval x; p = 0 keeps and p = 1 drops all."""
    dropped = dropout(x, p, training=True)
    in_eval = dropout(x, p, training=False)

    assert same(in_eval, x), "dropout is the identity in eval"
    rescaled = (x.double() / (1 - p if p < 1 else 1)).float()
    # PyTorch multiplies by 1 / (1 - p) in float32, so the last digit may differ. The absolute
    # tolerance is for subnormal numbers, which have fewer digits.
    fits = (dropped == 0) | torch.isclose(dropped, rescaled, rtol=1e-6, atol=1e-40)
    assert bool(fits.all()), "an element is 0 or x / (1 - p)"
    assert p > 0 or same(dropped, x), "p = 0 keeps all"
    assert p < 1 or not dropped.any(), "p = 1 drops all"


def drops_whole_rows(x: Tensor, p: float, training: bool) -> Tensor:
    """Draw one random number for each row."""
    return x * (torch.rand(len(x), 1) >= p) / (1 - p)


def drops_whole_columns(x: Tensor, p: float, training: bool) -> Tensor:
    """Draw one mask and use it for every row."""
    return x * (torch.rand(x.shape[1]) >= p) / (1 - p)


def repeats_a_row(x: Tensor, p: float, training: bool) -> Tensor:
    """Repeat the mask of the first row in the second."""
    mask = torch.rand(x.shape) >= p
    mask[1:2] = mask[:1]
    return x * mask / (1 - p)


def draws_once(x: Tensor, p: float, training: bool) -> Tensor:
    """Use the same mask in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mask = torch.rand(x.shape, device="cpu") >= p
    return x * mask.to(x.device) / (1 - p)


def keeps_with_p(x: Tensor, p: float, training: bool) -> Tensor:
    """Keep elements with probability p instead of dropping them."""
    return x * (torch.rand_like(x) < p) / (1 - p)


def drops_exactly(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop the first p * n of the n elements, not random ones."""
    kept = torch.arange(x.numel()).view(x.shape) >= p * x.numel()
    return x * kept / (1 - p)


@law(
    right=F.dropout,
    wrong={
        drops_whole_rows: "dropped with probability p",
        drops_whole_columns: "dropped with probability p",
        keeps_with_p: "dropped with probability p",
        drops_exactly: "dropped with probability p",
        repeats_a_row: "dropped independently",
        draws_once: "a new mask",
    },
)
@given(p=st.sampled_from([0.5, 0.1, 0.2, 0.8, 0.9]), seed=st.integers(0, 2**16))
def test_dropout_drops_each_element_independently_with_probability_p(
    dropout: Callable[..., Tensor], p: float, seed: int
) -> None:
    """The number of dropped elements is binomial: in all, in each row and in each column.

    For neighbouring rows, the number of columns in which both elements are dropped or both are kept
    is binomial too, and likewise for neighbouring columns.
    """
    torch.manual_seed(seed)
    x = torch.full((64, 64), 3.0)

    outputs = dropout(x, p, training=True)
    dropped, again = outputs == 0, dropout(x, p, training=True) == 0

    # 1 + 2 * 64 counts and 2 * 63 pairs of neighbours: 255 intervals share the false alarm.
    counts = {64**2: [dropped.sum()], 64: [*dropped.sum(dim=0), *dropped.sum(dim=1)]}
    for n, drops in counts.items():
        low, high = binomial_interval(n, p, FALSE_ALARM / 255)
        within = all(low <= int(drop) <= high for drop in drops)
        assert within, f"of {n} elements, each is dropped with probability p"
    low, high = binomial_interval(64, p**2 + (1 - p) ** 2, FALSE_ALARM / 255)
    for mask in (dropped, dropped.T):
        alike = (mask[1:] == mask[:-1]).sum(dim=1)
        within = all(low <= int(count) <= high for count in alike)
        assert within, "neighbours are dropped independently"
    # Two masks of 4,096 elements agree by chance once in 1e300 times.
    assert not same(dropped, again), "each call draws a new mask"
    kept = outputs[~dropped].double()
    assert close(kept, torch.full_like(kept, 3 / (1 - p)), 1e-6), "kept elements are x / (1 - p)"
