"""Cross-entropy is the negative log-likelihood of the log-softmax.

>>> logits = torch.tensor([[1.0, 2.0, 4.0], [3.0, 1.0, 0.0]])
>>> labels = torch.tensor([2, 1])
>>> F.nll_loss(logits.log_softmax(dim=1), labels)
tensor(1.1698)
>>> F.cross_entropy(logits, labels)
tensor(1.1698)

Notes: Log-softmax with the negative log likelihood loss gives the cross-entropy.
Verdict: holds
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dlconcepts.strategies import tensors
from dlconcepts.testing.laws import law
from dlconcepts.validation import cross_entropy
from tests.validation.common import close, log_softmax, softmax


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
    counted = (labels != options["ignore_index"]).double().mean()
    return loss * counted if options["reduction"] == "mean" else loss


def over_the_last_axis(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Normalise over the last axis; the classes of (N, K, ...) are axis 1."""
    return F.nll_loss(logits.log_softmax(-1), labels, **options)


def detaches_the_normaliser(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Detach the logsumexp, so that no gradient flows through it."""
    return F.nll_loss(logits - logits.logsumexp(1, keepdim=True).detach(), labels, **options)


@st.composite
def losses_to_take(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[str, Any]]:
    # Logits (N, K, ...), labels (N, ...) of which some are ignored, and the options of the loss.
    n, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    extra = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    logits = draw(tensors((n, classes, *extra), torch.float64, max_magnitude=100))
    size = n * math.prod(extra)
    ignored = draw(st.sampled_from([-100, -1, 0]))
    counted = [label for label in range(classes) if label != ignored]
    labels = draw(st.lists(st.sampled_from([*counted, ignored]), min_size=size, max_size=size))
    # At least one label must count: the mean over no label is NaN.
    if classes > 1:
        labels[0] = counted[-1]
    elif ignored == 0:
        ignored = -100
    elif ignored == labels[0]:
        labels[0] = 0
    # No weight is 0: the sum of the weights may be the divisor.
    weights = st.lists(st.integers(1, 4), min_size=classes, max_size=classes)
    weight = draw(st.none() | weights.map(lambda w: torch.tensor(w, dtype=torch.float64)))
    reduction = draw(st.sampled_from(["mean", "sum", "none"]))
    options = {"weight": weight, "ignore_index": ignored, "reduction": reduction}
    return logits.clone().requires_grad_(), torch.tensor(labels).view(n, *extra), options


def by_definition(
    logits: Tensor, labels: Tensor, incoming: Tensor, options: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the cross-entropy and the gradient of the logits from the formulas, in numpy."""
    rows = np.moveaxis(logits.numpy(force=True), 1, -1)
    truth = labels.numpy(force=True)
    counts = truth != options["ignore_index"]
    one_hot = np.eye(rows.shape[-1])[np.where(counts, truth, 0)]
    weight = options["weight"]
    weights = np.ones(truth.shape) if weight is None else one_hot @ weight.numpy(force=True)
    weights = weights * counts
    scale = 1 / weights.sum() if options["reduction"] == "mean" else 1.0
    losses = -scale * weights * (log_softmax(rows) * one_hot).sum(axis=-1)
    arriving = incoming.numpy(force=True) * scale * weights
    gradient = (softmax(rows) - one_hot) * arriving[..., None]
    value = losses if options["reduction"] == "none" else losses.sum()
    return value, np.moveaxis(gradient, -1, 1)


@law(
    right=cross_entropy,
    wrong={
        softmax_and_nll: "is the cross-entropy",
        forgets_the_minus: "is the cross-entropy",
        divides_by_the_count: "is the cross-entropy",
        counts_the_ignored: "is the cross-entropy",
        over_the_last_axis: "is the cross-entropy",
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
        tensors(tuple(torchs.shape), torch.float64, max_magnitude=10), label="incoming gradient"
    )
    value, gradient = by_definition(logits, labels, incoming, options)

    result = loss_fn(logits, labels, **options)

    for expected in (torch.as_tensor(value), torchs.detach()):
        assert close(result, expected), "the value is the cross-entropy"
    (arrived,) = torch.autograd.grad(result, logits, incoming)
    (torchs_own,) = torch.autograd.grad(torchs, logits, incoming)
    for expected in (torch.as_tensor(gradient), torchs_own):
        assert close(arrived, expected), "the gradient is the gradient of the cross-entropy"
