"""Each example counts once, however the set is cut into batches.

>>> correct = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
>>> batches = correct.split(4)  # four right answers, then one wrong answer
>>> sum(batch.mean() for batch in batches) / len(batches)
tensor(0.5000)
>>> sum(batch.sum() for batch in batches) / len(correct)
tensor(0.8000)

Notes: Loop over all test batches, adding up the test loss and the accuracy.
Verdict: holds-if
Truth: It holds if each batch counts by its number of examples; a loss with class weights or
    `ignore_index` counts by the sum of the weights of the labels. The course's code averages the
    means of the batches: in the demonstration it would report 0.5 instead of 0.8. Neither the cut
    into batches nor the order of the examples changes the result.
"""

import math
from collections.abc import Callable, Iterator

import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.loading import batches
from dlconcepts.strategies import losses
from dlconcepts.testing.laws import law
from dlconcepts.validation import Data, Evaluation, accuracy, evaluate, inference
from tests.validation.common import in_training_mode, mean_cross_entropy, scores_and_labels

Loss = Callable[[Tensor, Tensor], Tensor]


def logits_of(model: nn.Module, data: Data, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    with inference(model):
        for images, labels in batches(data, batch_size):
            yield model(images), labels


def mean_of_batch_means(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Average the means of the batches, as the notes do; a small last batch counts too much."""
    pairs = list(logits_of(model, data, batch_size))
    losses = [F.cross_entropy(*pair).item() for pair in pairs]
    return Evaluation(sum(losses) / len(losses), sum(accuracy(*p) for p in pairs) / len(pairs))


def only_the_last_batch(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Overwrite the totals in each batch instead of adding to them."""
    logits, labels = list(logits_of(model, data, batch_size))[-1]
    return Evaluation(F.cross_entropy(logits, labels).item(), accuracy(logits, labels))


def returns_in_the_loop(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Return after the first batch."""
    logits, labels = next(logits_of(model, data, batch_size))
    return Evaluation(F.cross_entropy(logits, labels).item(), accuracy(logits, labels))


def divides_by_full_batches(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Divide by the number of batches times the batch size, as if the last batch were full."""
    pairs = list(logits_of(model, data, batch_size))
    n = len(pairs) * batch_size
    loss = sum(F.cross_entropy(*pair, reduction="sum").item() for pair in pairs)
    return Evaluation(loss / n, sum(accuracy(*pair) * len(pair[1]) for pair in pairs) / n)


def drops_the_last_batch(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Skip a last batch that is not full, as drop_last does."""
    images, labels = data
    n = max(len(labels) // batch_size * batch_size, min(batch_size, len(labels)))
    return evaluate(model, (images[:n], labels[:n]), batch_size=batch_size)


def identity(scores: Tensor, dropout: float = 0.0) -> nn.Module:
    # A model whose logits are its inputs: the drawn scores. Dropout comes before the linear layer.
    layer = nn.Linear(scores.shape[1], scores.shape[1], bias=False, dtype=scores.dtype)
    nn.init.eye_(layer.weight)
    return nn.Sequential(nn.Dropout(dropout), layer)


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
    """For every batch size, the accuracy is the accuracy on the whole set."""
    scores, labels = data
    right = (scores.numpy(force=True).argmax(axis=1) == labels.numpy(force=True)).sum()

    found = evaluate(identity(scores), data, batch_size=batch_size).accuracy

    expected = right / len(labels)
    assert abs(found - expected) < 1e-12, (
        f"each example counts once: the accuracy is {expected:.3g}, not {found:.3g}"
    )


def adds_up_means(model: nn.Module, data: Data, *, batch_size: int, loss_fn: Loss) -> Evaluation:
    """Add up the mean losses of the batches and divide by the number of examples."""
    losses = [loss_fn(*pair).item() for pair in logits_of(model, data, batch_size)]
    return Evaluation(sum(losses) / len(data[1]), 0.0)


def mean_of_mean_losses(
    model: nn.Module, data: Data, *, batch_size: int, loss_fn: Loss
) -> Evaluation:
    """Average the mean losses of the batches, as the notes do."""
    losses = [loss_fn(*pair).item() for pair in logits_of(model, data, batch_size)]
    return Evaluation(sum(losses) / len(losses), 0.0)


def weights_by_examples(
    model: nn.Module, data: Data, *, batch_size: int, loss_fn: Loss
) -> Evaluation:
    """Weight each mean loss by its number of examples, though class weights count too."""
    pairs = logits_of(model, data, batch_size)
    total = sum(loss_fn(logits, labels).item() * len(labels) for logits, labels in pairs)
    return Evaluation(total / len(data[1]), 0.0)


def ignores_the_loss(model: nn.Module, data: Data, *, batch_size: int, loss_fn: Loss) -> Evaluation:
    """Compute plain cross-entropy, whatever loss was given."""
    return evaluate(model, data, batch_size=batch_size)


@st.composite
def data_with_a_loss(draw: st.DrawFn) -> tuple[Data, Loss]:
    scores, labels = draw(scores_and_labels(min_classes=2))
    return (scores, labels), draw(losses(labels, scores.shape[1], dtype=scores.dtype))


@law(
    right=evaluate,
    wrong={
        mean_of_mean_losses: EACH_ONCE,
        adds_up_means: EACH_ONCE,
        weights_by_examples: EACH_ONCE,
        ignores_the_loss: EACH_ONCE,
    },
)
@given(drawn=data_with_a_loss(), batch_size=st.integers(1, 7), data=st.data())
def test_the_loss_does_not_depend_on_the_batches(
    evaluate: Callable[..., Evaluation],
    drawn: tuple[Data, Loss],
    batch_size: int,
    data: st.DataObject,
) -> None:
    """For every batch size and order, the loss is the loss of the whole set at once."""
    (scores, labels), loss_fn = drawn
    order = data.draw(st.permutations(range(len(labels))), label="order")
    expected = loss_fn(scores, labels).item()

    shuffled = scores[order], labels[order]
    found = evaluate(identity(scores), shuffled, batch_size=batch_size, loss_fn=loss_fn).loss

    assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9), (
        f"each example counts once: the mean loss is {expected:.4g}, not {found:.4g}"
    )


@law(right=evaluate, wrong={mean_of_batch_means: EACH_ONCE})
@given(data=scores_and_labels(min_classes=2), batch_size=st.integers(1, 7))
def test_the_default_loss_is_the_mean_cross_entropy(
    evaluate: Callable[..., Evaluation], data: Data, batch_size: int
) -> None:
    """Without a loss function, the loss is the mean of -log p(label) over the whole set."""
    found = evaluate(identity(data[0]), data, batch_size=batch_size).loss

    expected = mean_cross_entropy(*data)
    assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9), (
        f"each example counts once: the mean loss is {expected:.4g}, not {found:.4g}"
    )


@law(right=evaluate, wrong={in_training_mode: "two evaluations agree"})
@given(data=scores_and_labels(min_classes=2), dropout=st.sampled_from([0.0, 0.5]))
def test_two_evaluations_agree(
    evaluate: Callable[..., Evaluation], data: Data, dropout: float
) -> None:
    """Dropout is off during an evaluation, so a second one gives the same result."""
    model = identity(data[0], dropout)

    results = [evaluate(model, data) for _ in range(2)]

    assert results[0] == results[1], "two evaluations agree"
