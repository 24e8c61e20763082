"""Shared by several claims of the lesson validation."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from dlconcepts.loading import batches
from dlconcepts.strategies import batches as drawn_batches
from dlconcepts.strategies import tensors
from dlconcepts.validation import Data, Evaluation, accuracy

# The chance that one example of a statistical law fails although the law holds. In the thorough
# profile, with 10,000 examples, a law then fails by chance once in 1e7 runs.
FALSE_ALARM = 1e-11


@st.composite
def scores_and_labels(draw: st.DrawFn, *, min_classes: int = 1) -> Data:
    # float64, so that a tolerance of 1e-9 covers rounding and nothing else. Up to 100, because
    # exp(-100) is still a normal number.
    classes = draw(st.integers(min_classes, 5))
    size = {"min_size": 1, "max_size": 6, "max_magnitude": 100.0}
    scores, labels = draw(drawn_batches(classes, classes, **size, dtype=torch.float64))
    # The signs alone tie often: two classes have the same score.
    return (scores.sign() if draw(st.booleans()) else scores), labels


# The oracles are the definitions, over the last axis, in numpy.


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    rows = log_softmax(logits.double().numpy(force=True))
    return float(np.mean([-row[label] for row, label in zip(rows, labels.tolist(), strict=True)]))


# Each row of float32 loses some units of 1.2e-7, relative to the largest of the sums; float16
# loses 5e-4.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}


@st.composite
def losses_to_take(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[str, Any]]:
    # Logits (N, K, ...), labels (N, ...) of which some are ignored, and the options of the loss.
    n, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    extra = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    # Beyond a difference of 104 the softmax of float32 is 0, beyond 745 that of float64.
    dtype, limit = draw(st.sampled_from(list(TOLERANCES))), draw(st.sampled_from([100, 1e4]))
    logits = draw(tensors((n, classes, *extra), dtype, max_magnitude=limit))
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
    weights = st.lists(st.integers(0, 4), min_size=classes, max_size=classes)
    weight = draw(st.none() | weights.map(lambda w: torch.tensor(w, dtype=dtype)))
    # Some weight must count, since the sum of the weights may be the divisor.
    if weight is not None and not weight[[k for k in labels if k != ignored]].any():
        weight = torch.ones_like(weight)
    reduction = draw(st.sampled_from(["mean", "sum", "none"]))
    options = {"weight": weight, "ignore_index": ignored, "reduction": reduction}
    if extra:  # PyTorch's backward of (N, K, ...) refuses log-probabilities in another layout
        logits = logits.contiguous()
    return logits.clone().requires_grad_(), torch.tensor(labels).view(n, *extra), options


def by_definition(
    logits: Tensor, labels: Tensor, incoming: Tensor, options: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the cross-entropy and the gradient of the logits from the formulas, in numpy."""
    rows = np.moveaxis(logits.double().numpy(force=True), 1, -1)
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


@st.composite
def unfit_labels(draw: st.DrawFn) -> tuple[Tensor, Tensor, type[Exception], str]:
    # Log-probabilities, labels that are not class indices, and the error they raise.
    scores, labels = draw(scores_and_labels())
    scores, classes = scores.log_softmax(1), scores.shape[1]
    fault = draw(st.sampled_from(["dtype", "shape", "none counts", "range"]))
    if fault == "dtype":
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bool, torch.int32]))
        return scores, labels.to(dtype), TypeError, "must be class indices"
    if fault == "shape":
        others = [(scores, labels[:, None]), (scores, labels[1:]), (scores[0], labels[0])]
        return *draw(st.sampled_from(others)), ValueError, "one label for each example"
    if fault == "none counts":
        n = draw(st.sampled_from([0, len(labels)]))
        return scores[:n], torch.full_like(labels[:n], -100), ValueError, "there are no examples"
    # Not -100, PyTorch's default for ignore_index.
    wrong = draw(st.sampled_from([classes, -1, classes + 100, -99]))
    labels[draw(st.integers(0, len(labels) - 1))] = wrong
    return scores, labels, ValueError, f"label {wrong} is out of range: the {classes} classes"


def binomial_interval(n: int, p: float, false_alarm: float) -> tuple[float, float]:
    """Return bounds that a binomial count crosses with this probability, half of it each way."""
    return binom.ppf(false_alarm / 2, n, p), binom.isf(false_alarm / 2, n, p)


def close(one: Tensor, other: Tensor, rtol: float = 1e-9, atol: float = 1e-9) -> bool:
    """Return whether two tensors have the same shape and, within rounding, the same numbers."""
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    return one.shape == other.shape and torch.allclose(one, other, rtol=rtol, atol=atol)


def in_training_mode(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Evaluate in training mode: dropout drops and BatchNorm updates its statistics."""
    total, right = 0.0, 0.0
    model.train()
    for images, labels in batches(data, options.get("batch_size", 1000)):
        logits = model(images)
        total += options.get("loss_fn", F.cross_entropy)(logits, labels).item() * len(labels)
        right += accuracy(logits, labels) * len(labels)
    return Evaluation(total / len(data[1]), right / len(data[1]))


def modes_of(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def set_modes(model: nn.Module, modes: list[bool]) -> None:
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
