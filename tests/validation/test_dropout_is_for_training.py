"""Dropout.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: In eval mode the dropout code does not run.
Verdict: holds
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
    """Keep the survivors as they are."""
    return x * (torch.rand_like(x) >= p) if training else x


def drops_in_eval_too(x: Tensor, p: float, training: bool) -> Tensor:
    """Forget the mode."""
    return F.dropout(x, p)


def rescales_in_eval(x: Tensor, p: float, training: bool) -> Tensor:
    """Make up for the dropped values at inference, as the first paper did."""
    return never_rescales(x, p, training) if training else x * (1 - p)


def rescales_by_p(x: Tensor, p: float, training: bool) -> Tensor:
    """Divide by the probability of the dropped."""
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
@given(
    x=tensors(shapes(1, 2), max_magnitude=1e30),
    p=st.sampled_from([0.0, 0.5, 1.0, 0.1, 0.9]),
)
def test_dropout_zeroes_or_rescales_in_training_and_rests_in_eval(
    dropout: Callable[..., Tensor], x: Tensor, p: float
) -> None:
    """In training an element is 0 or x / (1 - p), in eval x; p = 0 keeps and p = 1 drops all."""
    dropped = dropout(x, p, training=True)
    rested = dropout(x, p, training=False)

    assert same(rested, x), "dropout is the identity in eval"
    rescaled = (x.double() / (1 - p if p < 1 else 1)).float()
    fits = (dropped == 0) | torch.isclose(dropped, rescaled, rtol=1e-6, atol=1e-40)
    assert bool(fits.all()), "an element is 0 or x / (1 - p)"
    assert p > 0 or same(dropped, x), "p = 0 keeps all"
    assert p < 1 or not dropped.any(), "p = 1 drops all"


def drops_whole_rows(x: Tensor, p: float, training: bool) -> Tensor:
    """Draw one number for each example."""
    return x * (torch.rand(len(x), 1) >= p) / (1 - p)


def drops_whole_columns(x: Tensor, p: float, training: bool) -> Tensor:
    """Draw one mask for the whole batch."""
    return x * (torch.rand(x.shape[1]) >= p) / (1 - p)


def repeats_a_row(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop in the second row what is dropped in the first."""
    mask = torch.rand(x.shape) >= p
    mask[1:2] = mask[:1]
    return x * mask / (1 - p)


def draws_once(x: Tensor, p: float, training: bool) -> Tensor:
    """Use the same mask in every step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mask = torch.rand(x.shape, device="cpu") >= p
    return x * mask.to(x.device) / (1 - p)


def keeps_with_p(x: Tensor, p: float, training: bool) -> Tensor:
    """Take p for the probability of being kept."""
    return x * (torch.rand_like(x) < p) / (1 - p)


def drops_exactly(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop the first values, as many as p asks for, and not at random."""
    kept = torch.arange(x.numel()).view(x.shape) >= p * x.numel()
    return x * kept / (1 - p)


@law(
    right=F.dropout,
    wrong={
        drops_whole_rows: "as often as p says",
        drops_whole_columns: "as often as p says",
        keeps_with_p: "as often as p says",
        drops_exactly: "as often as p says",
        repeats_a_row: "as often as chance",
        draws_once: "anew each time",
    },
)
@given(p=st.sampled_from([0.5, 0.1, 0.2, 0.8, 0.9]), seed=st.integers(0, 2**16))
def test_dropout_drops_each_element_on_its_own_with_probability_p(
    dropout: Callable[..., Tensor], p: float, seed: int
) -> None:
    """The dropped of all, of each row and of each column are binomial counts.

    So is, for each row and the one before it, the number of columns in which both are dropped or
    both kept, and for columns likewise. The 255 intervals share a false alarm of 1e-11. Two masks
    agree once in 1e300 times.
    """
    torch.manual_seed(seed)
    x = torch.full((64, 64), 3.0)

    outputs = dropout(x, p, training=True)
    dropped, again = outputs == 0, dropout(x, p, training=True) == 0

    counts = {64**2: [dropped.sum()], 64: [*dropped.sum(dim=0), *dropped.sum(dim=1)]}
    for n, drops in counts.items():
        low, high = binomial_interval(n, p, FALSE_ALARM / 255)
        ordinary = all(low <= int(drop) <= high for drop in drops)
        assert ordinary, f"of {n} elements as many are dropped as often as p says"
    low, high = binomial_interval(64, p**2 + (1 - p) ** 2, FALSE_ALARM / 255)
    for mask in (dropped, dropped.T):
        alike = (mask[1:] == mask[:-1]).sum(dim=1)
        assert all(low <= int(count) <= high for count in alike), (
            "neighbours are dropped together as often as chance has it"
        )
    assert not same(dropped, again), "the mask is drawn anew each time"
    kept = outputs[~dropped].double()
    assert close(kept, torch.full_like(kept, 3 / (1 - p)), 1e-6), "what is kept is x / (1 - p)"
