"""The loss.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: The loss layer compares the softmax output with the true label.
Verdict: holds-if
Truth: nn.CrossEntropyLoss does the softmax itself (see validation.cross-entropy-expects-softmax).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.testing.laws import law
from tests.networks.common import inputs


def compares_with_the_prediction(logits: Tensor, labels: Tensor) -> Tensor:
    """Take the predicted class for the true one."""
    return F.cross_entropy(logits, logits.argmax(1))


def squared_error_on_class_numbers(logits: Tensor, labels: Tensor) -> Tensor:
    """Measure how far the number of the predicted class is from the label's."""
    return (logits.argmax(1) - labels).double().square().mean()


def softmax_twice(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the loss probabilities, of which it takes the softmax again."""
    return F.cross_entropy(logits.softmax(1), labels)


def sums_the_batch(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the examples, so that a larger batch has a larger loss."""
    return F.cross_entropy(logits, labels, reduction="sum")


def halves_with_each_example(logits: Tensor, labels: Tensor) -> Tensor:
    """Average as one goes, (loss + new) / 2, which counts the last example most."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    mean = losses[0]
    for loss in losses[1:]:
        mean = (mean + loss) / 2
    return mean


@st.composite
def scored_batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw logits, float64 up to +-10, and labels."""
    batch, classes = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch))
    return draw(inputs(batch, classes)), torch.tensor(labels)


@law(
    right=F.cross_entropy,
    wrong={
        compares_with_the_prediction: "probability of the label's class",
        squared_error_on_class_numbers: "probability of the label's class",
        softmax_twice: "probability of the label's class",
        sums_the_batch: "probability of the label's class",
        halves_with_each_example: "probability of the label's class",
    },
)
@given(batch=scored_batches(), certain=st.booleans())
def test_the_loss_is_minus_the_log_of_the_labels_probability(
    loss_fn: Callable[[Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor], certain: bool
) -> None:
    """The loss is the mean of -log p(label), at least 0, and 0 for nothing but certainty."""
    logits, labels = batch
    logits = logits + 1e3 * F.one_hot(labels, logits.shape[1]) * certain

    loss = loss_fn(logits, labels).item()

    x, rows = logits.numpy(force=True), np.arange(len(labels))
    top = x.max(1, keepdims=True)
    log_p = x - top - np.log(np.exp(x - top).sum(1, keepdims=True))
    of_labels = log_p[rows, labels.numpy(force=True)]
    assert loss >= 0, "the loss is at least 0"
    assert abs(loss + of_labels.mean()) <= 1e-12 * (1 + abs(of_labels).max()), (
        "the loss is minus the log of the probability of the label's class"
    )
    assert (loss == 0) == certain, "the loss is 0 for certainty in the right class only"


@law(
    right=F.cross_entropy,
    wrong={
        compares_with_the_prediction: "falls as the probability of the label's class grows",
        squared_error_on_class_numbers: "falls as the probability of the label's class grows",
    },
)
@given(batch=scored_batches(), rise=st.integers(1, 5), data=st.data())
def test_the_loss_falls_as_the_right_class_gains(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
    rise: int,
    data: st.DataObject,
) -> None:
    """Raising the score of one example's right class lowers the loss."""
    logits, labels = batch
    row = data.draw(st.integers(0, len(labels) - 1), label="row")
    raised = logits.clone()
    raised[row, labels[row]] += rise

    falls = loss_fn(raised, labels) < loss_fn(logits, labels)

    assert bool(falls), "the loss falls as the probability of the label's class grows"


@law(
    right=F.cross_entropy,
    wrong={halves_with_each_example: "does not depend on the order"},
)
@given(batch=scored_batches(), data=st.data())
def test_the_loss_does_not_depend_on_the_order(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
    data: st.DataObject,
) -> None:
    """The examples of a batch count the same wherever they stand."""
    logits, labels = batch
    order = torch.tensor(data.draw(st.permutations(range(len(labels))), label="order"))

    difference = loss_fn(logits[order], labels[order]) - loss_fn(logits, labels)

    assert abs(difference.item()) <= 1e-12, "the loss does not depend on the order of the batch"
