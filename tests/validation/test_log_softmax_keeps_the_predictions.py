"""The log of the softmax changes no prediction, so it cannot improve the accuracy.

>>> logits = torch.tensor([[2.0, 5.0, 1.0], [0.5, 0.0, -3.0]])
>>> for scores in (logits, logits.softmax(dim=1), logits.log_softmax(dim=1)):
...     scores.argmax(dim=1)
tensor([1, 0])
tensor([1, 0])
tensor([1, 0])

Notes: Taking the log of the softmax improves the accuracy.
Verdict: corrected
Truth: Softmax and logarithm keep the order of an example's scores, so the class with the largest
    score stays the largest, and the accuracy is the same for logits, probabilities and
    log-probabilities. What log_softmax improves is the loss: its value and gradient stay finite.
    Rounding may make two different scores equal; argmax then takes the first of them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import FLOATS
from dlconcepts.testing.laws import law
from dlconcepts.validation import accuracy


def over_the_examples(logits: Tensor, dim: int) -> Tensor:
    """Normalise over the batch, which compares an image with the others."""
    return logits.log_softmax(0)


def forgets_the_minus(logits: Tensor, dim: int) -> Tensor:
    """Return the negative log-probabilities, of which the smallest is the best."""
    return -logits.log_softmax(dim)


def log_of_magnitudes(logits: Tensor, dim: int) -> Tensor:
    """Take the logarithm of the logits' magnitudes, to avoid that of negative numbers."""
    return (logits.abs() + 1e-8).log()


@st.composite
def distinct_scores(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    # Whole numbers differ by 1 or more, far more than any dtype rounds: up to 20 is the shift of
    # log_softmax, and bfloat16 still has steps of an eighth there.
    classes, n = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    row = st.lists(st.integers(-9, 9), min_size=classes, max_size=classes, unique=True)
    scores = draw(st.lists(row, min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    dtype = draw(st.sampled_from(FLOATS))
    return torch.tensor(scores, dtype=dtype), torch.tensor(labels)


@law(
    right=F.log_softmax,
    wrong={
        over_the_examples: "the same predictions",
        forgets_the_minus: "the same predictions",
        log_of_magnitudes: "the same predictions",
    },
)
@given(batch=distinct_scores())
def test_log_softmax_changes_no_prediction(
    output: Callable[..., Tensor], batch: tuple[Tensor, Tensor]
) -> None:
    """Predictions and accuracy are the same on logits, probabilities and log-probabilities."""
    logits, labels = batch
    expected = [row.index(max(row)) for row in logits.tolist()]
    right = sum(a == b for a, b in zip(expected, labels.tolist(), strict=True))

    scores = output(logits, dim=1)

    for found in (scores, logits.softmax(dim=1), scores.exp()):
        assert found.argmax(dim=1).tolist() == expected, "all give the same predictions"
        assert accuracy(found, labels) == right / len(labels), "all give the same accuracy"


def log_of_softmax(logits: Tensor, dim: int) -> Tensor:
    """Take the logarithm of probabilities, some of which may have rounded to 0."""
    return logits.softmax(dim).log()


@law(right=F.log_softmax, wrong={log_of_softmax: "the loss is finite"})
@given(lead=st.integers(150, 10_000), classes=st.integers(2, 5), label=st.integers(1, 4))
def test_log_softmax_improves_the_loss_of_a_wrong_answer(
    output: Callable[..., Tensor], lead: int, classes: int, label: int
) -> None:
    """If a wrong class leads by m, the loss is m, and its gradient finite."""
    logits = torch.zeros(1, classes)
    logits[0, 0] = lead
    logits.requires_grad_()

    loss = F.nll_loss(output(logits, dim=1), torch.tensor([min(label, classes - 1)]))
    loss.backward()

    assert loss.item() == lead, "the loss is finite: it is the lead of the wrong class"
    assert bool(logits.grad.isfinite().all()), "the gradient of the loss is finite"
