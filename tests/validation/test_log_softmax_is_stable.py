"""Log-softmax.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Taking the log of softmax avoids the trouble of probabilities too close to 0 and 1.
Verdict: holds-if
Truth: If computed as one operation: log(softmax(x)) is -inf as soon as a probability underflows.
    log_softmax is finite wherever the differences of the logits are (3e38 and -3e38 give -inf in
    float32), and its error is a few epsilon of the value or of 1, whichever is larger: not of the
    value alone, for the logits 0 and -20 give 0 in float32, where -2.06e-9 is right.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import shapes, tensors
from dlconcepts.testing.laws import law
from tests.validation.common import log_softmax


def log_of_softmax(logits: Tensor, dim: int) -> Tensor:
    """Take the logarithm of probabilities that may have become zero."""
    return logits.softmax(dim).log()


def log_with_epsilon(logits: Tensor, dim: int) -> Tensor:
    """Add a small number, so that there is always a logarithm."""
    return (logits.softmax(dim) + 1e-8).log()


def over_the_batch(logits: Tensor, dim: int) -> Tensor:
    """Normalise over the examples instead of the classes."""
    return logits.log_softmax(0)


def subtracts_logsumexp(logits: Tensor, dim: int) -> Tensor:
    """Subtract two numbers of the size of the logits, rounded at that size."""
    return logits - logits.logsumexp(dim, keepdim=True)


HALF = (torch.float16, torch.bfloat16)


@st.composite
def any_logits(draw: st.DrawFn) -> Tensor:
    """Draw logits (N, K) of three dtypes, up to half the largest number of each."""
    dtype = draw(st.sampled_from([torch.float32, *HALF]))
    limit = draw(st.sampled_from([1e4, torch.finfo(dtype).max / 2]))
    return draw(tensors(shapes(2, 2, min_side=1, max_side=12), dtype, max_magnitude=limit))


def largest_error(logits: Tensor) -> float:
    """Return the bound of the error of log_softmax: K / 2 + 4 epsilon, and 2 in half precision.

    A sum of K terms loses K / 2 epsilon at most, each further operation a part of one. The half
    types are computed in float32 and rounded once or twice.
    """
    epsilon = torch.finfo(logits.dtype).eps
    return epsilon * (2 if logits.dtype in HALF else logits.shape[1] / 2 + 4)


@law(
    right=F.log_softmax,
    wrong={log_of_softmax: "is finite", over_the_batch: "sum to 1"},
)
@given(logits=any_logits())
def test_log_softmax_is_finite_and_its_exponentials_sum_to_one(
    log_softmax_of: Callable[..., Tensor], logits: Tensor
) -> None:
    """Where a probability underflows to zero, its logarithm is still a number below zero."""
    result = log_softmax_of(logits, dim=1)

    assert bool(result.isfinite().all()), "the log of the softmax is finite"
    assert bool((result <= 0).all()), "a log-probability is at most 0"
    sums = np.exp(result.double().numpy(force=True)).sum(axis=1)
    # An error e in a log-probability is one of e times p in the probability.
    slack = 2 * largest_error(logits) * (1 + math.log(logits.shape[1]))
    assert np.abs(sums - 1).max() <= slack, "the exponentials sum to 1"


@law(
    right=F.log_softmax,
    wrong={log_with_epsilon: "from the exact", subtracts_logsumexp: "from the exact"},
)
@given(logits=any_logits())
def test_log_softmax_is_exact_to_a_few_ulp(
    log_softmax_of: Callable[..., Tensor], logits: Tensor
) -> None:
    """The error is a few times the dtype's epsilon, of the exact value or of 1 if that is less.

    The exact value is computed in float64, from logits of up to half the dtype's largest number.
    """
    exact = log_softmax(logits.double().numpy(force=True))

    values = log_softmax_of(logits, dim=1).double().numpy(force=True)

    error = (np.abs(values - exact) / np.maximum(1, np.abs(exact))).max()
    bound, epsilon = largest_error(logits), torch.finfo(logits.dtype).eps
    assert error <= bound, f"{error / epsilon:.3g} epsilon away from the exact value"
