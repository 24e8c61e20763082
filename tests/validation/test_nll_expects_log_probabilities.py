"""NLL expects log-probabilities.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: The negative log likelihood loss expects the log of the softmax.
Verdict: holds
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
    """Give the loss what it expects."""
    return nll_loss(logits.log_softmax(1), labels)


def nll_of_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the loss probabilities."""
    return F.nll_loss(logits.softmax(1), labels)


def nll_of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the loss the logits."""
    return F.nll_loss(logits, labels)


@law(
    right=nll_of_log_softmax,
    wrong={nll_of_probabilities: "mean of -log p", nll_of_logits: "mean of -log p"},
)
@given(data=scores_and_labels())
def test_the_loss_is_the_mean_of_minus_log_p_of_the_label(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data
) -> None:
    """On log-probabilities the loss is never negative, and it is the mean of -log p(label)."""
    logits, labels = data

    loss = loss_fn(logits, labels).item()

    expected = mean_cross_entropy(logits, labels)
    assert math.isclose(loss, expected, rel_tol=1e-9, abs_tol=1e-9), (
        f"the mean of -log p(label) is {expected:.4g}, not {loss:.4g}"
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
    """A negative loss that never falls under -1 tells that the logarithm was forgotten."""
    logits, labels = data
    p = softmax(logits.numpy(force=True))

    loss = loss_fn(logits, labels).item()

    chosen = [row[label] for row, label in zip(p, labels.tolist(), strict=True)]
    assert abs(loss + np.mean(chosen)) < 1e-9, "it is minus the mean probability of the labels"
    assert -1 - 1e-12 <= loss <= 0, "so that it lies between -1 and 0"


def takes_any_numbers(scores: Tensor, labels: Tensor) -> Tensor:
    """Call PyTorch's own loss, which looks at nothing."""
    return F.nll_loss(scores, labels)


@law(
    right=nll_loss,
    wrong={takes_any_numbers: "DID NOT RAISE"},
)
@given(data=scores_and_labels(min_classes=2), kind=st.sampled_from(["probabilities", "logits"]))
def test_what_is_no_log_probability_is_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data, kind: str
) -> None:
    """Probabilities and logits in the place of log-probabilities are an error that names them."""
    scores, labels = data
    given_scores = scores.softmax(1) if kind == "probabilities" else scores.abs() + 1
    message = "these are probabilities" if kind == "probabilities" else "do not sum to 1"

    with pytest.raises(ValueError, match=message):
        loss_fn(given_scores, labels)


def counts_from_the_end(scores: Tensor, labels: Tensor) -> Tensor:
    """Take label -1 for the last class, as Python's indexing does, and 2.5 for 2."""
    return F.nll_loss(scores, labels.long() % scores.shape[1])


def clamps(scores: Tensor, labels: Tensor) -> Tensor:
    """Move labels into the range of the classes."""
    return F.nll_loss(scores, labels.long().clamp(0, scores.shape[1] - 1))


@st.composite
def unfit_labels(draw: st.DrawFn) -> tuple[Tensor, Tensor, type[Exception], str]:
    """Draw log-probabilities, labels that are none, the error and what it says."""
    scores, labels = draw(scores_and_labels())
    scores, classes = scores.log_softmax(1), scores.shape[1]
    if draw(st.booleans()):
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bool, torch.int32]))
        return scores, labels.to(dtype), TypeError, "positions of classes"
    wrong = draw(st.sampled_from([classes, -1, classes + 100, -99]))
    labels[draw(st.integers(0, len(labels) - 1))] = wrong
    return scores, labels, ValueError, f"{wrong} is none of the {classes} classes"


@law(
    right=nll_loss,
    wrong={counts_from_the_end: "DID NOT RAISE", clamps: "DID NOT RAISE"},
)
@given(case=unfit_labels())
def test_a_label_that_is_no_class_is_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], case: tuple[Tensor, Tensor, type[Exception], str]
) -> None:
    """A label outside the classes, or of another dtype than int64, is an error that says so."""
    scores, labels, error, message = case
    before = bits(scores), bits(labels)

    with pytest.raises(error, match=message):
        loss_fn(scores, labels)

    assert (bits(scores), bits(labels)) == before, "what is refused stays as it was"
