"""Cross-entropy is minus the log of the probability of the right class.

>>> logits = torch.tensor([[3.0, 2.0, 1.0]])
>>> -logits.softmax(dim=1).log()
tensor([[0.4076, 1.4076, 2.4076]])
>>> F.cross_entropy(logits, torch.tensor([0]))
tensor(0.4076)
>>> F.cross_entropy(logits, torch.tensor([2]))
tensor(2.4076)

Notes: The loss layer compares the softmax output with the true label.
Verdict: holds-if
Truth: `nn.CrossEntropyLoss` applies the softmax itself (see
    validation.cross-entropy-expects-softmax). The loss is the mean of -log p(label) over the batch.
    It is 0 only for certainty in the right class, up to rounding: with two classes, float32 gives
    0.0 once the right logit leads by 17, and float64 once it leads by 37.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.testing.laws import law
from dlconcepts.validation import cross_entropy
from tests.networks.common import inputs


def compares_with_the_prediction(logits: Tensor, labels: Tensor) -> Tensor:
    """Use the predicted class as the label."""
    return F.cross_entropy(logits, logits.argmax(1))


def squared_error_on_class_numbers(logits: Tensor, labels: Tensor) -> Tensor:
    """Square the difference between the numbers of the predicted class and of the label."""
    return (logits.argmax(1) - labels).double().square().mean()


def softmax_twice(logits: Tensor, labels: Tensor) -> Tensor:
    """Pass probabilities to the loss, which takes their softmax again."""
    return F.cross_entropy(logits.softmax(1), labels)


def sums_the_batch(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the examples, so that a larger batch has a larger loss."""
    return F.cross_entropy(logits, labels, reduction="sum")


def averages_one_at_a_time(logits: Tensor, labels: Tensor) -> Tensor:
    """Average as (mean + loss) / 2 after each example, which gives the last one half the weight."""
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
    right=cross_entropy,
    wrong={
        compares_with_the_prediction: "probability of the label's class",
        squared_error_on_class_numbers: "probability of the label's class",
        softmax_twice: "probability of the label's class",
        sums_the_batch: "probability of the label's class",
        averages_one_at_a_time: "probability of the label's class",
    },
)
@given(batch=scored_batches(), certain=st.booleans())
def test_the_loss_is_minus_the_log_of_the_labels_probability(
    loss_fn: Callable[[Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor], certain: bool
) -> None:
    """The loss is the mean of -log p(label): at least 0, and 0 only for certainty."""
    logits, labels = batch
    # At a lead of about 1000 the other classes' probabilities round to 0 even in float64.
    logits = logits + 1e3 * F.one_hot(labels, logits.shape[1]) * certain

    loss = loss_fn(logits, labels).item()

    x, rows = logits.numpy(force=True), np.arange(len(labels))
    top = x.max(1, keepdims=True)
    log_p = x - top - np.log(np.exp(x - top).sum(1, keepdims=True))
    of_labels = log_p[rows, labels.numpy(force=True)]
    assert loss >= 0, "the loss is at least 0"
    # Some thousand units of float64: far more than the rounding, far less than any mistake.
    assert abs(loss + of_labels.mean()) <= 1e-12 * (1 + abs(of_labels).max()), (
        "the loss is minus the log of the probability of the label's class"
    )
    assert (loss == 0) == certain, "the loss is 0 for certainty in the right class only"
    torchs = F.cross_entropy(logits, labels).item()
    assert math.isclose(torchs, loss, rel_tol=1e-12, abs_tol=1e-12), "PyTorch's loss is the same"


def clips_the_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Clip the probability to at most 1 - 1e-7, so that the loss is never 0."""
    return F.nll_loss(logits.softmax(1).clamp(1e-7, 1 - 1e-7).log(), labels)


def rounds_to_bfloat16(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute in bfloat16, as autocast can."""
    return F.cross_entropy(logits.bfloat16(), labels)


@law(
    right=cross_entropy,
    wrong={clips_the_probability: "rounds to 0", rounds_to_bfloat16: "is above 0"},
)
@given(
    # A probability rounds to 1 if the other is below half an epsilon: exp(-16.6) and exp(-36.7).
    limits=st.sampled_from([(torch.float32, 16, 18), (torch.float64, 36, 38)]),
    lead=st.floats(1, 100),
)
def test_a_small_loss_rounds_to_zero(
    loss_fn: Callable[[Tensor, Tensor], Tensor], limits: tuple[torch.dtype, int, int], lead: float
) -> None:
    """The loss of a right answer is log(1 + exp(-lead)), which rounding turns into 0."""
    dtype, last_above, first_zero = limits

    batch = torch.tensor([[lead, 0.0]], dtype=dtype), torch.tensor([0])
    for loss in (loss_fn(*batch).item(), F.cross_entropy(*batch).item()):
        if lead <= last_above:
            assert loss > 0, f"the loss is above 0 at a lead of {lead}"
        elif lead >= first_zero:
            assert loss == 0, f"the loss rounds to 0 at a lead of {lead}"


@law(
    right=cross_entropy,
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
    """A higher score for the right class of one example lowers the loss."""
    logits, labels = batch
    row = data.draw(st.integers(0, len(labels) - 1), label="row")
    raised = logits.clone()
    raised[row, labels[row]] += rise

    falls = loss_fn(raised, labels) < loss_fn(logits, labels)

    assert bool(falls), "the loss falls as the probability of the label's class grows"


@law(right=cross_entropy, wrong={averages_one_at_a_time: "does not depend on the order"})
@given(batch=scored_batches(), data=st.data())
def test_the_loss_does_not_depend_on_the_order(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
    data: st.DataObject,
) -> None:
    """All examples of a batch have the same weight, wherever they stand."""
    logits, labels = batch
    order = torch.tensor(data.draw(st.permutations(range(len(labels))), label="order"))

    difference = loss_fn(logits[order], labels[order]) - loss_fn(logits, labels)

    # Another order rounds the sum differently, by about 1e-14: the losses are at most about 20.
    assert abs(difference.item()) <= 1e-12, "the loss does not depend on the order of the batch"
