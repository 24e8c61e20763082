"""Accuracy.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Accuracy is the mean of that array; change its type first where mean is not available.
Verdict: holds
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import FLOATS, shapes, tensors
from dlconcepts.strategies import batches as drawn_batches
from dlconcepts.testing.laws import law
from dlconcepts.validation import Data, accuracy, class_accuracies, confusion_matrix
from tests.validation.common import close, scores_and_labels


def mean_of_the_broadcast(scores: Tensor, labels: Tensor) -> float:
    """Compare topk's (N, 1) with the labels (N,), and take the mean of the (N, N)."""
    return (scores.topk(1, dim=1).indices == labels).float().mean().item()


def truncates(scores: Tensor, labels: Tensor) -> float:
    """Make an integer of the share."""
    return int((scores.argmax(1) == labels).float().mean())


def divides_by_the_first_batch(scores: Tensor, labels: Tensor) -> float:
    """Divide what all batches got right by the size of the first."""
    return (scores.argmax(1) == labels).sum().item() / min(4, len(labels))


def takes_the_lowest(scores: Tensor, labels: Tensor) -> float:
    """Take the smallest score for the answer, as if it were a loss."""
    return (scores.argmin(1) == labels).float().mean().item()


# Strictly increasing also as bfloat16 computes them, for the integers that are drawn.
INCREASING: list[Callable[[Tensor], Tensor]] = [lambda x: 3 * x + 1, torch.exp, lambda x: x**3]


@law(
    right=accuracy,
    wrong={
        mean_of_the_broadcast: "right ones divided by all",
        truncates: "right ones divided by all",
        divides_by_the_first_batch: "right ones divided by all",
        takes_the_lowest: "right ones divided by all",
    },
)
@given(data=st.data())
def test_accuracy_is_the_share_of_right_answers(
    accuracy: Callable[[Tensor, Tensor], float], data: st.DataObject
) -> None:
    """Neither the order of the examples nor an increasing function of the scores changes it."""
    classes = data.draw(st.integers(1, 4), label="classes")
    whole, labels = data.draw(drawn_batches(classes, classes, max_magnitude=9), label="batch")
    scores = whole.round().to(data.draw(st.sampled_from(FLOATS), label="dtype"))
    order = data.draw(st.permutations(range(len(labels))), label="order")
    increasing = data.draw(st.sampled_from(INCREASING))
    answers = whole.round().numpy(force=True).argmax(axis=1)
    right = sum(int(a == b) for a, b in zip(answers, labels.tolist(), strict=True))

    share = accuracy(scores, labels)

    assert share == right / len(labels), "the accuracy is the right ones divided by all"
    assert accuracy(scores[order], labels[order]) == share, "the order does not matter"
    assert accuracy(increasing(scores), labels) == share, "an increasing function changes nothing"


def converts_first(answers: Tensor) -> Tensor:
    """Change the type before taking the mean."""
    return answers.float().mean()


@law(
    right=torch.mean,
    wrong={converts_first: "DID NOT RAISE"},
)
@given(answers=tensors(shapes(min_side=1), torch.bool))
def test_a_bool_tensor_has_no_mean_until_it_is_converted(
    mean: Callable[[Tensor], Tensor], answers: Tensor
) -> None:
    """Torch refuses the mean of a comparison; as floats it is the share of what is true."""
    with pytest.raises(RuntimeError, match="Bool"):
        mean(answers)

    assert close(answers.double().mean(), torch.tensor(np.mean(answers.numpy(force=True)))), (
        "converted, the mean is the share of what is true"
    )


def zero_for_nothing(scores: Tensor, labels: Tensor) -> float:
    """Guard the division by an empty set."""
    return float((scores.argmax(1) == labels.reshape(-1)).sum()) / max(1, len(labels))


def nan_for_nothing(scores: Tensor, labels: Tensor) -> float:
    """Let the mean of nothing be what it is."""
    return (scores.argmax(1) == labels.reshape(-1)).float().mean().item()


@law(
    right=accuracy,
    wrong={zero_for_nothing: "DID NOT RAISE", nan_for_nothing: "DID NOT RAISE"},
)
@given(classes=st.integers(1, 5), labels_of=st.sampled_from([0, 1, 2]))
def test_accuracy_of_nothing_is_refused(
    accuracy: Callable[[Tensor, Tensor], float], classes: int, labels_of: int
) -> None:
    """Without examples, or with labels of another shape than one an example, there is an error."""
    scores = torch.zeros(labels_of, classes)
    labels = torch.zeros(labels_of, *([1] if labels_of else []), dtype=torch.int64)

    with pytest.raises(ValueError, match=r"no examples|one label for each example"):
        accuracy(scores, labels)


def transposed(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Let the rows stand for the predictions."""
    return confusion_matrix(predictions, labels, classes).T


def sized_by_the_labels(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Leave out the classes above the largest that occurs."""
    largest = int(torch.cat([predictions, labels]).max())
    return confusion_matrix(predictions, labels, classes=largest + 1)


def marks_once(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Add with an index, which counts a pair that comes twice once."""
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    matrix[labels, predictions] += 1
    return matrix


@law(
    right=confusion_matrix,
    wrong={
        transposed: "row for its label",
        sized_by_the_labels: "one row and one column",
        marks_once: "row for its label",
    },
)
@given(data=st.data())
def test_the_confusion_matrix_counts_each_example(
    confusion: Callable[..., Tensor], data: st.DataObject
) -> None:
    """An example is counted in the row of its label and the column of its prediction."""
    classes = data.draw(st.integers(1, 4), label="classes")
    pair = st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1))
    pairs = data.draw(st.lists(pair, min_size=1), label="labels with predictions")
    expected = np.zeros((classes, classes), dtype=int)
    for label, prediction in pairs:
        expected[label, prediction] += 1
    labels, predictions = torch.tensor(pairs).unbind(1)

    matrix = confusion(predictions, labels, classes)

    assert matrix.shape == expected.shape, "there is one row and one column for each class"
    assert matrix.tolist() == expected.tolist(), "an example is in the row for its label"


def by_column(confusion: Tensor) -> Tensor:
    """Divide by how often a class was predicted, which is its precision."""
    return confusion.diagonal() / confusion.sum(dim=0)


def of_all_examples(confusion: Tensor) -> Tensor:
    """Divide by the number of all examples."""
    return confusion.diagonal() / confusion.sum()


@law(
    right=class_accuracies,
    wrong={
        by_column: "examples of its own",
        of_all_examples: "examples of its own",
    },
)
@given(data=scores_and_labels())
def test_the_accuracy_of_a_class_counts_its_own_examples(
    accuracies: Callable[[Tensor], Tensor], data: Data
) -> None:
    """A class's accuracy is that of its own examples, NaN without any; weighted it is the whole."""
    scores, labels = data
    answers = scores.argmax(dim=1)
    classes = scores.shape[1]

    by_class = accuracies(confusion_matrix(answers, labels, classes))

    for k in range(classes):
        own = (answers[labels == k] == k).numpy(force=True)
        expected = own.mean() if len(own) else math.nan
        assert np.isclose(by_class[k].item(), expected, equal_nan=True), (
            "the accuracy of a class is the share among examples of its own"
        )
