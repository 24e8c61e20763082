"""Cross-entropy is the negative log-likelihood of the log-softmax.

>>> logits = torch.tensor([[1.0, 2.0, 4.0], [3.0, 1.0, 0.0]])
>>> labels = torch.tensor([2, 1])
>>> F.nll_loss(logits.log_softmax(dim=1), labels)
tensor(1.1698)
>>> F.cross_entropy(logits, labels)
tensor(1.1698)

Notes: Log-softmax with the negative log likelihood loss gives the cross-entropy.
Verdict: holds-if
Truth: It holds for labels that are class indices, with class weights, `ignore_index` and every
    reduction; the classes are dimension 1, or 0 for one example without a batch. Label smoothing is
    more: with smoothing e over K classes, a weight of 1 - e + e / K stays on the label's logarithm
    and each other class's gets e / K. Labels that are probabilities are refused by `nll_loss`.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import shapes, tensors
from dlconcepts.testing.laws import law
from dlconcepts.validation import Data, cross_entropy
from tests.validation.common import (
    TOLERANCES,
    by_definition,
    close,
    losses_to_take,
    mean_cross_entropy,
    scores_and_labels,
    unfit_labels,
)


def softmax_and_nll(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Forget the logarithm of the softmax."""
    return F.nll_loss(logits.softmax(1), labels, **options)


def forgets_the_minus(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Return the mean log-likelihood with the wrong sign."""
    return -F.nll_loss(logits.log_softmax(1), labels, **options)


def divides_by_the_count(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Divide the weighted losses by the number of examples, not by the sum of their weights."""
    if options["reduction"] != "mean":
        return F.cross_entropy(logits, labels, **options)
    losses = F.cross_entropy(logits, labels, **{**options, "reduction": "none"})
    return losses.sum() / (labels != options["ignore_index"]).sum()


def counts_the_ignored(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Average over all examples, including the ignored ones."""
    loss = F.cross_entropy(logits, labels, **options)
    counted = (labels != options["ignore_index"]).to(logits.dtype).mean()
    return loss * counted if options["reduction"] == "mean" else loss


def over_the_last_axis(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Normalise over the last axis; the classes of (N, K, ...) are axis 1."""
    return F.nll_loss(logits.log_softmax(-1), labels, **options)


def detaches_the_normaliser(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Detach the logsumexp, so that no gradient flows through it."""
    return F.nll_loss(logits - logits.logsumexp(1, keepdim=True).detach(), labels, **options)


def log_of_softmax(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Take the logarithm of the softmax, which is -inf where float32 rounds it to 0."""
    return F.nll_loss(logits.softmax(1).log(), labels, **options)


def rounds_to_float16(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Compute in float32, then round the loss to float16."""
    loss = F.cross_entropy(logits, labels, **options)
    return loss.half().float() if loss.dtype == torch.float32 else loss


@law(
    right=cross_entropy,
    wrong={
        softmax_and_nll: "is the cross-entropy",
        forgets_the_minus: "is the cross-entropy",
        divides_by_the_count: "is the cross-entropy",
        counts_the_ignored: "is the cross-entropy",
        over_the_last_axis: "is the cross-entropy",
        log_of_softmax: "the cross-entropy",
        rounds_to_float16: "is the cross-entropy",
        detaches_the_normaliser: "gradient of the cross-entropy",
    },
)
@given(loss=losses_to_take(), data=st.data())
def test_the_nll_of_the_log_softmax_is_the_cross_entropy(
    loss_fn: Callable[..., Tensor],
    loss: tuple[Tensor, Tensor, dict[str, Any]],
    data: st.DataObject,
) -> None:
    """Values and gradients agree with the formulas and with torch.nn.CrossEntropyLoss."""
    logits, labels, options = loss
    torchs = F.cross_entropy(logits, labels, **options)
    incoming = data.draw(
        tensors(tuple(torchs.shape), logits.dtype, max_magnitude=10), label="incoming gradient"
    )
    value, gradient = by_definition(logits, labels, incoming, options)

    tolerance = TOLERANCES[logits.dtype]

    result = loss_fn(logits, labels, **options)

    assert result.dtype == logits.dtype, "the loss has the dtype of the logits"
    for expected in (torch.as_tensor(value), torchs.detach()):
        assert close(result, expected, tolerance, tolerance), "the value is the cross-entropy"
    (arrived,) = torch.autograd.grad(result, logits, incoming)
    (torchs_own,) = torch.autograd.grad(torchs, logits, incoming)
    for expected in (torch.as_tensor(gradient), torchs_own):
        # Ten times as much room: up to 10 is the gradient that comes in.
        assert close(arrived, expected, tolerance, 10 * tolerance), (
            "the gradient is the gradient of the cross-entropy"
        )


def clamps(logits: Tensor, labels: Tensor) -> Tensor:
    """Convert the labels to int64, and clamp them to the classes."""
    return F.cross_entropy(logits, labels.long().clamp(0, logits.shape[-1] - 1))


@law(right=cross_entropy, wrong={clamps: "DID NOT RAISE"})
@given(case=unfit_labels())
def test_labels_that_cross_entropy_cannot_use_are_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], case: tuple[Tensor, Tensor, type[Exception], str]
) -> None:
    """Labels of another dtype or shape, outside the classes, or all ignored, are an error."""
    scores, labels, error, message = case

    with pytest.raises(error, match=message):
        loss_fn(scores, labels)


def nll_of_log_softmax(logits: Tensor, label: Tensor) -> Tensor:
    """Apply log_softmax over the only dimension, then nll_loss, to one example."""
    return F.nll_loss(logits.log_softmax(0), label)


def as_a_column(logits: Tensor, label: Tensor) -> Tensor:
    """Turn the scores into a batch of K examples with one class each."""
    return -logits[:, None].log_softmax(1)[label, 0]


@law(right=nll_of_log_softmax, wrong={as_a_column: "the loss of its batch of one"})
@given(
    logits=tensors(shapes(1, 1, min_side=2), torch.float32, max_magnitude=1e4),
    number=st.integers(0, 9),
)
def test_one_example_needs_no_batch(
    loss_fn: Callable[[Tensor, Tensor], Tensor], logits: Tensor, number: int
) -> None:
    """Scores of shape (K,) and one label have the loss of a batch of one, (1, K)."""
    label = torch.tensor(number % len(logits))

    expected = torch.tensor(mean_cross_entropy(logits[None], label[None]))
    for loss in (loss_fn(logits, label), F.cross_entropy(logits, label)):
        assert close(loss, expected, 1e-5, 1e-5), "one example has the loss of its batch of one"


def smooths(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Add a share of the mean of all classes' logarithms to the nll."""
    log_p = logits.log_softmax(1)
    return (1 - smoothing) * F.nll_loss(log_p, labels) - smoothing * log_p.mean()


def nll_alone(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Take the nll of the log-softmax, which knows no smoothing."""
    return F.nll_loss(logits.log_softmax(1), labels)


def smooths_the_others(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Share the smoothing among the other classes alone, without the label's."""
    one_hot = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    shares = smoothing / max(1, logits.shape[1] - 1) * (1 - one_hot)
    return F.cross_entropy(logits, (1 - smoothing) * one_hot + shares)


@law(
    right=smooths,
    wrong={
        nll_alone: "the smoothed cross-entropy",
        smooths_the_others: "the smoothed cross-entropy",
    },
)
@given(data=scores_and_labels(min_classes=2), smoothing=st.sampled_from([0.0, 0.1, 0.5]))
def test_label_smoothing_is_more_than_the_nll(
    loss_fn: Callable[[Tensor, Tensor, float], Tensor], data: Data, smoothing: float
) -> None:
    """Smoothing by e is cross-entropy with the labels 1 - e + e / K and e / K, as probabilities."""
    logits, labels = data
    classes = logits.shape[1]
    soft = (1 - smoothing) * F.one_hot(labels, classes).double() + smoothing / classes

    loss = loss_fn(logits, labels, smoothing)

    for options in ({"target": labels, "label_smoothing": smoothing}, {"target": soft}):
        expected = F.cross_entropy(logits, **options)
        assert close(loss, expected), "the loss is the smoothed cross-entropy"
    with pytest.raises(RuntimeError, match=r"multi-target|Long"):
        F.nll_loss(logits.log_softmax(1), soft)
