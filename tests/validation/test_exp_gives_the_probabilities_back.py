"""The exponential of the log-softmax is the softmax.

>>> logits = torch.tensor([[1.0, 2.0, 3.0]])
>>> logits.log_softmax(dim=1).exp()
tensor([[0.0900, 0.2447, 0.6652]])
>>> logits.softmax(dim=1)
tensor([[0.0900, 0.2447, 0.6652]])

Notes: Take the exponential of the log-softmax to get the class probabilities back.
Verdict: holds
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor

from dlconcepts.testing.laws import law
from dlconcepts.validation import Data
from tests.validation.common import close, scores_and_labels, softmax


def as_they_are(log_p: Tensor) -> Tensor:
    """Use the log-probabilities as probabilities."""
    return log_p


def softmax_again(log_p: Tensor) -> Tensor:
    """Apply softmax to the probabilities again."""
    return log_p.exp().softmax(1)


def powers_of_two(log_p: Tensor) -> Tensor:
    """Raise 2, instead of e, to the log-probabilities."""
    return log_p.exp2()


@law(
    right=torch.exp,
    wrong={
        as_they_are: "sum to 1",
        softmax_again: "are the softmax",
        powers_of_two: "sum to 1",
    },
)
@given(data=scores_and_labels(min_classes=2))
def test_the_exponential_of_the_log_softmax_is_the_softmax(
    invert: Callable[[Tensor], Tensor], data: Data
) -> None:
    """Each row of the exponentials sums to 1 and is the softmax of the scores."""
    scores, _ = data

    p = invert(F.log_softmax(scores, dim=1))

    assert close(p.sum(dim=1), torch.ones(len(scores))), "the probabilities sum to 1"
    expected = torch.as_tensor(softmax(scores.numpy(force=True)))
    assert close(p, expected), "the probabilities are the softmax"
