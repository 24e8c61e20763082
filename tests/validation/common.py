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
