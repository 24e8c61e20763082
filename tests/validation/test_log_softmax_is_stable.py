"""log_softmax stays finite where the logarithm of the softmax is -inf.

>>> logits = torch.tensor([[0.0, 200.0]])
>>> logits.softmax(dim=1).log()
tensor([[-inf, 0.]])
>>> logits.log_softmax(dim=1)
tensor([[-200.,    0.]])

Notes: Taking the log of softmax avoids the trouble of probabilities too close to 0 and 1.
Verdict: holds-if
Truth: It holds if log_softmax is one operation; log(softmax(x)) is -inf as soon as a probability
    underflows. log_softmax is finite if the differences between the logits are finite (in float32,
    3e38 and -3e38 give -inf). Its error is a few epsilon, relative to the value or to 1, whichever
    is larger: the logits 0 and -20 give 0 in float32, where -2.06e-9 is right.
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
    """Take the logarithm of probabilities, some of which may have underflowed to 0."""
    return logits.softmax(dim).log()


def log_with_epsilon(logits: Tensor, dim: int) -> Tensor:
    """Add a small number to the probabilities, so that the logarithm is finite."""
    return (logits.softmax(dim) + 1e-8).log()


def over_the_batch(logits: Tensor, dim: int) -> Tensor:
    """Normalise over the examples instead of the classes."""
    return logits.log_softmax(0)


def subtracts_logsumexp(logits: Tensor, dim: int) -> Tensor:
    """Subtract the logsumexp, which is rounded at the size of the logits."""
    return logits - logits.logsumexp(dim, keepdim=True)


HALF = (torch.float16, torch.bfloat16)


@st.composite
def any_logits(draw: st.DrawFn) -> Tensor:
    # Up to half the largest number of the dtype, so that differences between logits are finite.
    dtype = draw(st.sampled_from([torch.float32, *HALF]))
    limit = draw(st.sampled_from([1e4, torch.finfo(dtype).max / 2]))
    return draw(tensors(shapes(2, 2, min_side=1, max_side=12), dtype, max_magnitude=limit))


def largest_error(logits: Tensor) -> float:
    # A sum of K terms loses at most K / 2 epsilon; each further operation loses less than one. The
    # half types are computed in float32 and then rounded once or twice.
    epsilon = torch.finfo(logits.dtype).eps
    return epsilon * (2 if logits.dtype in HALF else logits.shape[1] / 2 + 4)


@law(right=F.log_softmax, wrong={log_of_softmax: "is finite", over_the_batch: "sum to 1"})
@given(logits=any_logits())
def test_log_softmax_is_finite_and_its_exponentials_sum_to_one(
    log_softmax_of: Callable[..., Tensor], logits: Tensor
) -> None:
    """Even if a probability underflows to 0, its logarithm is a finite negative number."""
    result = log_softmax_of(logits, dim=1)

    assert bool(result.isfinite().all()), "the log-softmax is finite"
    assert bool((result <= 0).all()), "a log-probability is at most 0"
    sums = np.exp(result.double().numpy(force=True)).sum(axis=1)
    # An error e in a log-probability becomes an error p * e in the probability p.
    slack = 2 * largest_error(logits) * (1 + math.log(logits.shape[1]))
    assert np.abs(sums - 1).max() <= slack, "the exponentials sum to 1"


@law(
    right=F.log_softmax,
    wrong={log_with_epsilon: "the error is at most", subtracts_logsumexp: "the error is at most"},
)
@given(logits=any_logits())
def test_log_softmax_is_accurate_to_a_few_epsilon(
    log_softmax_of: Callable[..., Tensor], logits: Tensor
) -> None:
    """The error is a few epsilon of the dtype, relative to the exact value or to 1 if larger."""
    # float64 is exact enough for an oracle: its epsilon is 5e8 times smaller than float32's.
    exact = log_softmax(logits.double().numpy(force=True))

    values = log_softmax_of(logits, dim=1).double().numpy(force=True)

    error = (np.abs(values - exact) / np.maximum(1, np.abs(exact))).max()
    bound, epsilon = largest_error(logits), torch.finfo(logits.dtype).eps
    assert error <= bound, (
        f"the error is at most {bound / epsilon:.3g} epsilon, not {error / epsilon:.3g}"
    )
