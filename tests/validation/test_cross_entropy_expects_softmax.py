"""Cross-entropy expects logits; a softmax before it is one too many.

>>> logits = 10 * torch.eye(10)  # ten examples, each confident and right
>>> labels = torch.arange(10)
>>> F.cross_entropy(logits, labels)
tensor(0.0004)
>>> F.cross_entropy(logits.softmax(dim=1), labels)
tensor(1.4615)

Notes: Cross-entropy expects the softmax's output, so a network ending in softmax fits it.
Verdict: corrected
Truth: nn.CrossEntropyLoss expects raw logits. Log-probabilities give the same loss, because
    log_softmax is idempotent. On softmax output the loss of K classes never falls below
    log(1 + (K - 1) / e), 1.4612 for ten classes. Confident wrong answers get almost no gradient:
    if the label has probability d or less, its size is at most 2d / (1 - d) of the right one.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.testing.laws import law
from dlconcepts.validation import Data, cross_entropy
from tests.validation.common import close, mean_cross_entropy, scores_and_labels


def log_probabilities(logits: Tensor) -> Tensor:
    """Pass the log-softmax."""
    return logits.log_softmax(1)


def probabilities(logits: Tensor) -> Tensor:
    """Pass the softmax."""
    return logits.softmax(1)


@law(right=log_probabilities, wrong={probabilities: "the same loss as the logits"})
@given(data=scores_and_labels())
def test_cross_entropy_is_the_same_on_logits_and_log_probabilities(
    output: Callable[[Tensor], Tensor], data: Data
) -> None:
    """The log-softmax of a log-softmax is itself, so it does no harm before the loss."""
    logits, labels = data

    losses = [loss_fn(output(logits), labels) for loss_fn in (cross_entropy, F.cross_entropy)]

    expected = torch.tensor(mean_cross_entropy(logits, labels), dtype=torch.float64)
    for loss in losses:
        assert close(loss, expected), "the output has the same loss as the logits"


def softmax_first(logits: Tensor, labels: Tensor) -> Tensor:
    """Apply a softmax before the cross-entropy, as a network that ends in softmax does."""
    return cross_entropy(logits.softmax(1), labels)


@law(right=cross_entropy, wrong={softmax_first: "costs almost nothing"})
@given(data=scores_and_labels(min_classes=2), margin=st.floats(1, 100))
def test_a_confident_right_answer_costs_almost_nothing(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data, margin: float
) -> None:
    """If the label's logit leads by m, the loss of K classes is at most (K - 1) exp(-m)."""
    logits, labels = data
    classes = logits.shape[1]
    confident = logits.clone()
    rows = torch.arange(len(labels))
    confident[rows, labels] = logits.max(dim=1).values + margin

    losses = loss_fn(confident, labels), F.cross_entropy(confident, labels)

    most = (classes - 1) * math.exp(-margin)
    for loss in losses:
        assert loss.item() <= most + 1e-12, "a confident right answer costs almost nothing"


@law(right=softmax_first, wrong={F.cross_entropy: "its floor of"})
@given(data=scores_and_labels(min_classes=2))
def test_after_a_softmax_the_loss_has_a_floor(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data
) -> None:
    """After a softmax, the loss of K classes never falls below log(1 + (K - 1) / e)."""
    logits, labels = data
    classes = logits.shape[1]
    floor = math.log(1 + (classes - 1) / math.e)
    # exp(-1000) is 0 in float64: the softmax of these logits is exactly one-hot.
    certain = 1000 * F.one_hot(labels, classes).double()

    loss, lowest = (loss_fn(x, labels).item() for x in (logits, certain))

    assert loss >= floor - 1e-12, f"the loss never falls below its floor of {floor:.4f}"
    assert abs(lowest - floor) < 1e-12, f"the loss reaches its floor of {floor:.4f}"


@law(right=softmax_first, wrong={F.cross_entropy: "almost no gradient"})
@given(classes=st.integers(2, 6), doubt=st.floats(1e-6, 0.3), data=st.data())
def test_after_a_softmax_a_confident_wrong_answer_gets_almost_no_gradient(
    loss_fn: Callable[[Tensor, Tensor], Tensor], classes: int, doubt: float, data: st.DataObject
) -> None:
    """If a wrong class has probability 1 - d, the gradient shrinks to at most 2d / (1 - d)."""
    size = {"min_size": classes - 1, "max_size": classes - 1}
    shares = data.draw(st.lists(st.floats(0.01, 1), **size), label="shares of the other classes")
    others = [doubt * share / sum(shares) for share in shares]
    logits = torch.tensor([[1 - doubt, *others]], dtype=torch.float64).log().requires_grad_()
    label = torch.tensor([data.draw(st.integers(1, classes - 1), label="label")])

    (gradient,) = torch.autograd.grad(loss_fn(logits, label), logits)
    (true_gradient,) = torch.autograd.grad(F.cross_entropy(logits, label), logits)

    # Sizes are sums of magnitudes. The gradient of the logits is p times the deviation of a vector
    # from its mean under p; the vector's entries are in [-1, 1], which bounds the sum by 2d times
    # the range of the entries.
    shrunk = gradient.abs().sum() / true_gradient.abs().sum()
    assert shrunk <= 2 * doubt / (1 - doubt) + 1e-9, (
        "a confident wrong answer gets almost no gradient"
    )
