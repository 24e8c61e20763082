"""Over all batches.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Loop over all test batches, adding up the test loss and the accuracy.
Verdict: holds-if
Truth: If each batch counts by its number of examples. The course's own code averages batch means
    and reports 0.5 where the truth is 0.8.
"""

import math
from collections.abc import Callable, Iterator

import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.loading import batches
from dlconcepts.testing.laws import law
from dlconcepts.validation import Data, Evaluation, accuracy, evaluate, inference
from tests.validation.common import in_training_mode, mean_cross_entropy, scores_and_labels


def logits_of(model: nn.Module, data: Data, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits and the labels of each batch, the model in eval mode."""
    with inference(model):
        for images, labels in batches(data, batch_size):
            yield model(images), labels


def mean_of_batch_means(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Average the batches' means, as the notes do: a small last batch counts like a large one."""
    pairs = list(logits_of(model, data, batch_size))
    losses = [F.cross_entropy(*pair).item() for pair in pairs]
    return Evaluation(sum(losses) / len(losses), sum(accuracy(*p) for p in pairs) / len(pairs))


def only_the_last_batch(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Assign where it should add up."""
    logits, labels = list(logits_of(model, data, batch_size))[-1]
    return Evaluation(F.cross_entropy(logits, labels).item(), accuracy(logits, labels))


def returns_in_the_loop(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Return after the first batch."""
    logits, labels = next(logits_of(model, data, batch_size))
    return Evaluation(F.cross_entropy(logits, labels).item(), accuracy(logits, labels))


def divides_by_full_batches(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Divide by the number of batches times their size, as if the last were full."""
    pairs = list(logits_of(model, data, batch_size))
    n = len(pairs) * batch_size
    loss = sum(F.cross_entropy(*pair, reduction="sum").item() for pair in pairs)
    return Evaluation(loss / n, sum(accuracy(*pair) * len(pair[1]) for pair in pairs) / n)


def drops_the_last_batch(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Leave out a last batch that is not full, as drop_last does."""
    images, labels = data
    n = max(len(labels) // batch_size * batch_size, min(batch_size, len(labels)))
    return evaluate(model, (images[:n], labels[:n]), batch_size=batch_size)


def shows(scores: Tensor, dropout: float = 0.0) -> nn.Module:
    """Build a model whose logits are its inputs, which have the shape of `scores`."""
    layer = nn.Linear(scores.shape[1], scores.shape[1], bias=False, dtype=scores.dtype)
    nn.init.eye_(layer.weight)
    return nn.Sequential(nn.Dropout(dropout), layer)


def adds_up_means(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Add up the batches' mean losses, and divide by the number of examples."""
    losses = [F.cross_entropy(*pair).item() for pair in logits_of(model, data, batch_size)]
    return Evaluation(sum(losses) / len(data[1]), 0.0)


EACH_ONCE = "each example counts once"


@law(
    right=evaluate,
    wrong={
        mean_of_batch_means: EACH_ONCE,
        only_the_last_batch: EACH_ONCE,
        returns_in_the_loop: EACH_ONCE,
        divides_by_full_batches: EACH_ONCE,
        drops_the_last_batch: EACH_ONCE,
    },
)
@given(data=scores_and_labels(min_classes=2), batch_size=st.integers(1, 7))
def test_the_accuracy_does_not_depend_on_the_batches(
    evaluate: Callable[..., Evaluation], data: Data, batch_size: int
) -> None:
    """The accuracy is that of the whole set, whatever the batches and their order."""
    scores, labels = data
    right = (scores.numpy(force=True).argmax(axis=1) == labels.numpy(force=True)).sum()

    found = evaluate(shows(scores), data, batch_size=batch_size).accuracy

    expected = right / len(labels)
    assert abs(found - expected) < 1e-12, (
        f"each example counts once: {expected:.3g} of them are right, not {found:.3g}"
    )


@law(
    right=evaluate,
    wrong={mean_of_batch_means: EACH_ONCE, adds_up_means: EACH_ONCE},
)
@given(data=scores_and_labels(min_classes=2), batch_size=st.integers(1, 7))
def test_the_loss_does_not_depend_on_the_batches(
    evaluate: Callable[..., Evaluation], data: Data, batch_size: int
) -> None:
    """The loss is the mean of the whole set, whatever the batches and their order."""
    scores, labels = data

    found = evaluate(shows(scores), data, batch_size=batch_size).loss

    expected = mean_cross_entropy(scores, labels)
    assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9), (
        f"each example counts once: the mean loss is {expected:.4g}, not {found:.4g}"
    )


@law(
    right=evaluate,
    wrong={in_training_mode: "two evaluations agree"},
)
@given(data=scores_and_labels(min_classes=2), dropout=st.sampled_from([0.0, 0.5]))
def test_two_evaluations_agree(
    evaluate: Callable[..., Evaluation], data: Data, dropout: float
) -> None:
    """Nothing is drawn at random in an evaluation: dropout is off."""
    model = shows(data[0], dropout)

    results = [evaluate(model, data) for _ in range(2)]

    assert results[0] == results[1], "two evaluations agree"
