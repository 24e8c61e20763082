"""Shared by several claims of the lesson validation."""

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
from dlconcepts.validation import Data, Evaluation, accuracy

FALSE_ALARM = 1e-11  # the most that one example of a statistical law may have


@st.composite
def scores_and_labels(
    draw: st.DrawFn, *, max_size: int = 6, min_classes: int = 1, max_magnitude: float = 100.0
) -> Data:
    """Draw float64 scores (N, K), in every second batch with many ties, and int64 labels (N,)."""
    classes = draw(st.integers(min_classes, 5))
    size = {"min_size": 1, "max_size": max_size, "max_magnitude": max_magnitude}
    scores, labels = draw(drawn_batches(classes, classes, **size, dtype=torch.float64))
    return (scores.sign() if draw(st.booleans()) else scores), labels


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax over the last axis, by its definition."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-softmax over the last axis, by its definition."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy of logits (N, K), by its definition."""
    rows = log_softmax(logits.double().numpy(force=True))
    return float(np.mean([-row[label] for row, label in zip(rows, labels.tolist(), strict=True)]))


def binomial_interval(n: int, p: float, false_alarm: float) -> tuple[float, float]:
    """Return the bounds of a binomial count, left in either direction at half that probability."""
    return binom.ppf(false_alarm / 2, n, p), binom.isf(false_alarm / 2, n, p)


def close(one: Tensor, other: Tensor, rtol: float = 1e-9, atol: float = 1e-9) -> bool:
    """Return whether the shapes agree, and the float64 numbers within rounding."""
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    return one.shape == other.shape and torch.allclose(one, other, rtol=rtol, atol=atol)


def in_training_mode(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Evaluate as the model stands, with all that training does."""
    total, right = 0.0, 0.0
    model.train()
    for images, labels in batches(data, options.get("batch_size", 1000)):
        logits = model(images)
        total += options.get("loss_fn", F.cross_entropy)(logits, labels).item() * len(labels)
        right += accuracy(logits, labels) * len(labels)
    return Evaluation(total / len(data[1]), right / len(data[1]))


def modes_of(model: nn.Module) -> list[bool]:
    """Return the mode of each module."""
    return [module.training for module in model.modules()]
