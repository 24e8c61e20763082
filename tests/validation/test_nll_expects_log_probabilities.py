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

import math
from collections.abc import Callable

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
from tests.validation.common import mean_cross_entropy, scores_and_labels, softmax


def nll_of_log_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Pass log-probabilities, as the loss expects."""
    return nll_loss(logits.log_softmax(1), labels)


def nll_of_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Pass probabilities to the loss."""
    return F.nll_loss(logits.softmax(1), labels)


def nll_of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Pass logits to the loss."""
    return F.nll_loss(logits, labels)


@law(
    right=nll_of_log_softmax,
    wrong={nll_of_probabilities: "mean of -log p", nll_of_logits: "mean of -log p"},
)
@given(data=scores_and_labels())
def test_the_loss_is_the_mean_of_minus_log_p_of_the_label(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data
) -> None:
    """On log-probabilities the loss is the mean of -log p(label), which is never negative."""
    logits, labels = data

    loss = loss_fn(logits, labels).item()

    expected = mean_cross_entropy(logits, labels)
    assert math.isclose(loss, expected, rel_tol=1e-9, abs_tol=1e-9), (
        f"the loss is the mean of -log p(label), {expected:.4g}, not {loss:.4g}"
    )
    assert loss >= 0, "the loss is never negative"


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


@law(
    right=nll_loss,
    wrong={takes_any_numbers: "DID NOT RAISE", looks_for_one_good_row: "DID NOT RAISE"},
)
@given(
    data=scores_and_labels(min_classes=2),
    kind=st.sampled_from(["probabilities", "logits"]),
    one=st.none() | st.integers(0, 5),
)
def test_probabilities_and_logits_are_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data, kind: str, one: int | None
) -> None:
    """Probabilities and logits, even of one example, are an error that says what is wrong."""
    scores, labels = data
    # Logits of at least 1, so that their exponentials never sum to 1 by chance.
    given_scores = scores.softmax(1) if kind == "probabilities" else scores.abs() + 1
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


@st.composite
def unfit_labels(draw: st.DrawFn) -> tuple[Tensor, Tensor, type[Exception], str]:
    # Log-probabilities, labels that are not class indices, and the error they raise.
    scores, labels = draw(scores_and_labels())
    scores, classes = scores.log_softmax(1), scores.shape[1]
    if draw(st.booleans()):
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bool, torch.int32]))
        return scores, labels.to(dtype), TypeError, "must be class indices"
    # Not -100, PyTorch's default for ignore_index.
    wrong = draw(st.sampled_from([classes, -1, classes + 100, -99]))
    labels[draw(st.integers(0, len(labels) - 1))] = wrong
    return scores, labels, ValueError, f"label {wrong} is out of range: the {classes} classes"


@law(right=nll_loss, wrong={counts_from_the_end: "DID NOT RAISE", clamps: "DID NOT RAISE"})
@given(case=unfit_labels())
def test_labels_that_are_not_class_indices_are_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], case: tuple[Tensor, Tensor, type[Exception], str]
) -> None:
    """A label outside the classes, or a dtype other than int64, is an error."""
    scores, labels, error, message = case
    before = bits(scores), bits(labels)

    with pytest.raises(error, match=message):
        loss_fn(scores, labels)

    assert (bits(scores), bits(labels)) == before, "refused arguments are unchanged"
