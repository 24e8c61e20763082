"""NLLLoss expects log-probabilities but accepts any numbers.

>>> p, label = torch.tensor([[0.25, 0.75]]), torch.tensor([1])
>>> F.nll_loss(p.log(), label)
tensor(0.2877)
>>> F.nll_loss(p, label)  # a negative loss: the logarithm is missing
tensor(-0.7500)

Notes: The negative log likelihood loss expects the log of the softmax.
Verdict: holds
Truth: On log-probabilities the loss is the mean of -log p(label), never negative. On probabilities
    it is between -1 and 0, which reveals the mistake; on logits it has no lower bound. PyTorch's
    loss accepts all three; `dlconcepts.validation.nll_loss` refuses the last two.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from dlconcepts.validation import Data, nll_loss
from tests.validation.common import (
    TOLERANCES,
    by_definition,
    close,
    losses_to_take,
    scores_and_labels,
    softmax,
    unfit_labels,
)


def nll_of_log_softmax(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Pass log-probabilities, as the loss expects."""
    return nll_loss(logits.log_softmax(1), labels, **options)


def nll_of_probabilities(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Pass probabilities to the loss."""
    return F.nll_loss(logits.softmax(1), labels, **options)


def nll_of_logits(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Pass logits to the loss."""
    return F.nll_loss(logits, labels, **options)


def divides_by_all(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Divide the sum by the number of labels: neither their weights nor the ignored matter."""
    losses = nll_loss(logits.log_softmax(1), labels, **options | {"reduction": "none"})
    return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[options["reduction"]]


@law(
    right=nll_of_log_softmax,
    wrong={
        nll_of_probabilities: "mean of -log p",
        nll_of_logits: "mean of -log p",
        divides_by_all: "mean of -log p",
    },
)
@given(drawn=losses_to_take())
def test_the_loss_is_the_mean_of_minus_log_p_of_the_label(
    loss_fn: Callable[..., Tensor], drawn: tuple[Tensor, Tensor, dict[str, Any]]
) -> None:
    """On log-probabilities the loss is the mean of -log p(label), which is never negative."""
    logits, labels, options = drawn
    expected, _ = by_definition(logits, labels, torch.ones(()), options)

    loss = loss_fn(logits, labels, **options)

    tolerance = TOLERANCES[logits.dtype]
    assert close(loss, torch.as_tensor(expected), tolerance, tolerance), (
        "the loss is the weighted mean of -log p(label) over the labels that count, their sum, or "
        "one for each label"
    )
    assert bool((loss >= 0).all()), "the loss is never negative"


@law(
    right=nll_of_probabilities,
    wrong={nll_of_logits: "minus the mean", nll_of_log_softmax: "minus the mean"},
)
@given(data=scores_and_labels())
def test_on_probabilities_the_loss_is_between_minus_one_and_zero(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data
) -> None:
    """A loss that stays between -1 and 0 reveals that the logarithm is missing."""
    logits, labels = data
    p = softmax(logits.numpy(force=True))

    loss = loss_fn(logits, labels).item()

    chosen = [row[label] for row, label in zip(p, labels.tolist(), strict=True)]
    assert abs(loss + np.mean(chosen)) < 1e-9, (
        "the loss is minus the mean probability of the labels"
    )
    assert -1 - 1e-12 <= loss <= 0, "the loss is between -1 and 0"


def takes_any_numbers(scores: Tensor, labels: Tensor) -> Tensor:
    """Call PyTorch's loss, which does not check its scores."""
    return F.nll_loss(scores, labels)


def looks_for_one_good_row(scores: Tensor, labels: Tensor) -> Tensor:
    """Refuse scores only if every example is wrong."""
    if bool(((scores.exp().sum(1) - 1).abs() > 0.1).all()):
        return nll_loss(scores, labels)
    return F.nll_loss(scores, labels)


def looks_for_positive_scores(scores: Tensor, labels: Tensor) -> Tensor:
    """Refuse scores above 0, which no logarithm of a probability is, and let low logits pass."""
    return F.nll_loss(scores, labels) if bool((scores <= 0).all()) else nll_loss(scores, labels)


@law(
    right=nll_loss,
    wrong={
        takes_any_numbers: "DID NOT RAISE",
        looks_for_one_good_row: "DID NOT RAISE",
        looks_for_positive_scores: "DID NOT RAISE",
    },
)
@given(
    data=scores_and_labels(min_classes=2),
    kind=st.sampled_from(["probabilities", "logits", "low logits"]),
    one=st.none() | st.integers(0, 5),
)
def test_probabilities_and_logits_are_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data, kind: str, one: int | None
) -> None:
    """Probabilities and logits, even of one example, are an error that says what is wrong."""
    scores, labels = data
    # Logits from 1 up or from -3 down, so that the exponentials of up to 5 never sum to 1.
    logits = scores.abs() + 1 if kind == "logits" else -scores.abs() - 3
    given_scores = scores.softmax(1) if kind == "probabilities" else logits
    message = "got probabilities" if kind == "probabilities" else "does not sum to 1"
    if one is not None and len(labels) > 1:  # only this example is wrong
        wrong = torch.arange(len(labels)) == one % len(labels)
        given_scores = torch.where(wrong[:, None], given_scores, scores.log_softmax(1))
        message = "does not sum to 1"

    with pytest.raises(ValueError, match=message):
        loss_fn(given_scores, labels)


def counts_from_the_end(scores: Tensor, labels: Tensor) -> Tensor:
    """Read label -1 as the last class, as Python's indexing does, and truncate floats."""
    return F.nll_loss(scores, labels.long() % scores.shape[1])


def clamps(scores: Tensor, labels: Tensor) -> Tensor:
    """Clamp labels to the range of the classes."""
    return F.nll_loss(scores, labels.long().clamp(0, scores.shape[1] - 1))


@law(right=nll_loss, wrong={counts_from_the_end: "DID NOT RAISE", clamps: "DID NOT RAISE"})
@given(case=unfit_labels())
def test_labels_that_are_not_class_indices_are_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], case: tuple[Tensor, Tensor, type[Exception], str]
) -> None:
    """Labels of another dtype or shape, outside the classes, or all ignored, are an error."""
    scores, labels, error, message = case
    before = bits(scores), bits(labels)

    with pytest.raises(error, match=message):
        loss_fn(scores, labels)

    assert (bits(scores), bits(labels)) == before, "refused arguments are unchanged"
