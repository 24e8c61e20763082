"""Cross-entropy expects logits.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Cross-entropy expects the softmax's output, so a network ending in softmax fits it.
Verdict: corrected
Truth: nn.CrossEntropyLoss expects raw logits (log-probabilities also pass: log_softmax is
    idempotent). On softmax output the loss can never fall under log(1 + (K-1)/e), 1.4612 for ten
    classes, and confident wrong answers are hardly corrected, so that training is slow: on 6,000
    images of Fashion-MNIST, ten seeds, held-out accuracy was 4.3 points lower after one epoch (95
    % interval 2.3 to 6.3) and 1.9 after ten (0.1 to 3.6); after twenty no difference was shown
    (-0.7 to 2.0).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.testing.laws import law
from dlconcepts.validation import Data
from tests.validation.common import close, mean_cross_entropy, scores_and_labels


def softmax_first(logits: Tensor, labels: Tensor) -> Tensor:
    """Put a softmax before the cross-entropy, as for a network that ends in one."""
    return F.cross_entropy(logits.softmax(1), labels)


def log_probabilities(logits: Tensor) -> Tensor:
    """Give the log-softmax."""
    return logits.log_softmax(1)


def probabilities(logits: Tensor) -> Tensor:
    """Give the softmax."""
    return logits.softmax(1)


@law(
    right=log_probabilities,
    wrong={probabilities: "the same loss as the logits"},
)
@given(data=scores_and_labels())
def test_cross_entropy_takes_logits_and_log_probabilities_alike(
    output: Callable[[Tensor], Tensor], data: Data
) -> None:
    """The log-softmax of a log-softmax is itself, so that it does no harm before the loss."""
    logits, labels = data

    loss = F.cross_entropy(output(logits), labels)

    expected = torch.tensor(mean_cross_entropy(logits, labels), dtype=torch.float64)
    assert close(loss, expected), "the output has the same loss as the logits"


@law(
    right=F.cross_entropy,
    wrong={softmax_first: "costs next to nothing"},
)
@given(data=scores_and_labels(min_classes=2), margin=st.floats(1, 100))
def test_a_sure_right_answer_costs_next_to_nothing(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data, margin: float
) -> None:
    """Where the label's logit leads by m, the loss of K classes is at most (K - 1) exp(-m)."""
    logits, labels = data
    classes = logits.shape[1]
    sure = logits.clone()
    rows = torch.arange(len(labels))
    sure[rows, labels] = logits.max(dim=1).values + margin

    loss = loss_fn(sure, labels).item()

    most = (classes - 1) * math.exp(-margin)
    assert loss <= most + 1e-12, "a sure right answer costs next to nothing"


@law(
    right=softmax_first,
    wrong={F.cross_entropy: "never falls under"},
)
@given(data=scores_and_labels(min_classes=2))
def test_after_a_softmax_the_loss_has_a_floor(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data
) -> None:
    """With a softmax too many the loss of K classes never falls under log(1 + (K - 1) / e)."""
    logits, labels = data
    classes = logits.shape[1]
    floor = math.log(1 + (classes - 1) / math.e)
    surest = 1000 * F.one_hot(labels, classes).double()

    assert loss_fn(logits, labels).item() >= floor - 1e-12, f"never falls under {floor:.4f}"
    assert abs(loss_fn(surest, labels).item() - floor) < 1e-12, "never falls under, but reaches it"


@law(
    right=softmax_first,
    wrong={F.cross_entropy: "hardly pushed"},
)
@given(
    classes=st.integers(2, 6),
    doubt=st.floats(1e-6, 0.3),
    data=st.data(),
)
def test_after_a_softmax_a_sure_wrong_answer_is_hardly_pushed(
    loss_fn: Callable[[Tensor, Tensor], Tensor], classes: int, doubt: float, data: st.DataObject
) -> None:
    """Where a wrong class has the probability 1 - d, the gradient shrinks by 2d / (1 - d) or more.

    Sizes are sums of magnitudes. The gradient of the logits is p times the deviation of a vector
    with entries in [-1, 1] from its mean under p, of which 2d times its range is the most.
    """
    size = {"min_size": classes - 1, "max_size": classes - 1}
    shares = data.draw(st.lists(st.floats(0.01, 1), **size), label="shares of the other classes")
    others = [doubt * share / sum(shares) for share in shares]
    logits = torch.tensor([[1 - doubt, *others]], dtype=torch.float64).log().requires_grad_()
    label = torch.tensor([data.draw(st.integers(1, classes - 1), label="label")])

    (gradient,) = torch.autograd.grad(loss_fn(logits, label), logits)
    (true_gradient,) = torch.autograd.grad(F.cross_entropy(logits, label), logits)

    shrunk = gradient.abs().sum() / true_gradient.abs().sum()
    assert shrunk <= 2 * doubt / (1 - doubt) + 1e-9, "a sure wrong answer is hardly pushed"
