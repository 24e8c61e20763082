"""Accuracy is the mean of the comparison, once it is converted to floats.

>>> correct = torch.tensor([2, 0, 1, 1]) == torch.tensor([2, 1, 1, 1])
>>> try:
...     correct.mean()
... except RuntimeError as error:
...     print(str(error)[-9:])
Got: Bool
>>> correct.float().mean()
tensor(0.7500)

Notes: Accuracy is the mean of that array, over every element in your minibatch; change its type
    first where mean is not available.
Verdict: holds-if
Truth: Accuracy is the number of correct answers divided by the number of examples. The mean over a
    minibatch is the accuracy on that minibatch; the accuracy on a set needs the right answers of
    all its minibatches (see validation.evaluate-goes-over-all-batches). A bool tensor has no mean
    until it is converted. Accuracy without examples is an error, not NaN.
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
    """Compare predictions (N, 1) with labels (N,) and take the mean of the (N, N) result."""
    return (scores.topk(1, dim=1).indices == labels).float().mean().item()


def truncates(scores: Tensor, labels: Tensor) -> float:
    """Round the accuracy down to a whole number."""
    return float((scores.argmax(1) == labels).float().mean().int())


def divides_by_the_first_batch(scores: Tensor, labels: Tensor) -> float:
    """Divide the correct answers of all batches by the size of the first batch, 4."""
    return (scores.argmax(1) == labels).sum().item() / min(4, len(labels))


def takes_the_lowest(scores: Tensor, labels: Tensor) -> float:
    """Predict the class with the smallest score, as if it were a loss."""
    return (scores.argmin(1) == labels).float().mean().item()


def keeps_the_tensor(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean as a tensor, without item()."""
    return (scores.argmax(1) == labels).double().mean()


def of_one_minibatch(scores: Tensor, labels: Tensor) -> float:
    """Return the accuracy on the first minibatch of 4 examples for that on the set."""
    return (scores.argmax(1) == labels)[:4].float().mean().item()


# Strictly increasing on integers from -9 to 9 even when computed in bfloat16.
INCREASING: list[Callable[[Tensor], Tensor]] = [lambda x: 3 * x + 1, torch.exp, lambda x: x**3]


@law(
    right=accuracy,
    wrong={
        mean_of_the_broadcast: "correct answers over examples",
        truncates: "correct answers over examples",
        divides_by_the_first_batch: "correct answers over examples",
        takes_the_lowest: "correct answers over examples",
        of_one_minibatch: "correct answers over examples",
        keeps_the_tensor: "a Python float",
    },
)
@given(data=st.data())
def test_accuracy_is_the_fraction_of_correct_answers(
    accuracy: Callable[[Tensor, Tensor], float], data: st.DataObject
) -> None:
    """The order of the examples and increasing functions of the scores do not change it."""
    classes = data.draw(st.integers(1, 4), label="classes")
    whole, labels = data.draw(drawn_batches(classes, classes, max_magnitude=9), label="batch")
    # Whole numbers up to 9 are exact in every dtype, so the largest score is the same in all.
    scores = whole.round().to(data.draw(st.sampled_from(FLOATS), label="dtype"))
    order = data.draw(st.permutations(range(len(labels))), label="order")
    increasing = data.draw(st.sampled_from(INCREASING))
    answers = whole.round().numpy(force=True).argmax(axis=1)
    right = sum(int(a == b) for a, b in zip(answers, labels.tolist(), strict=True))

    found = accuracy(scores, labels)

    # A mean in float32 is right to six digits.
    assert math.isclose(found, right / len(labels), rel_tol=1e-6), (
        "accuracy is correct answers over examples"
    )
    assert accuracy(scores[order], labels[order]) == found, "the order does not matter"
    assert accuracy(increasing(scores), labels) == found, "an increasing function changes nothing"
    assert isinstance(found, float), "the accuracy is a Python float"


def converts_first(answers: Tensor) -> Tensor:
    """Convert to float32 before taking the mean."""
    return answers.float().mean()


@law(right=torch.mean, wrong={converts_first: "DID NOT RAISE"})
@given(answers=tensors(shapes(min_side=1), torch.bool))
def test_a_bool_tensor_has_no_mean_until_it_is_converted(
    mean: Callable[[Tensor], Tensor], answers: Tensor
) -> None:
    """PyTorch refuses the mean of a bool tensor; as floats it is the fraction of True entries."""
    with pytest.raises(RuntimeError, match="Bool"):
        mean(answers)

    assert close(answers.double().mean(), torch.tensor(np.mean(answers.numpy(force=True)))), (
        "after conversion the mean is the fraction of True entries"
    )


def zero_for_nothing(scores: Tensor, labels: Tensor) -> float:
    """Return 0 for an empty set, to avoid a division by zero."""
    return float((scores.argmax(1) == labels.reshape(-1)).sum()) / max(1, len(labels))


def nan_for_nothing(scores: Tensor, labels: Tensor) -> float:
    """Return the mean of an empty set, which is NaN."""
    return (scores.argmax(1) == labels.reshape(-1)).float().mean().item()


def skips_the_ignored(scores: Tensor, labels: Tensor) -> float:
    """Leave out the labels that a loss ignores by default."""
    counted = labels != -100
    return accuracy(scores[counted], labels[counted]) if counted.any() else 0.0


@law(
    right=accuracy,
    wrong={
        zero_for_nothing: "DID NOT RAISE",
        nan_for_nothing: "DID NOT RAISE",
        skips_the_ignored: "DID NOT RAISE",
    },
)
@given(classes=st.integers(1, 5), labels_of=st.sampled_from([0, 1, 2]), data=st.data())
def test_accuracy_without_examples_is_refused(
    accuracy: Callable[[Tensor, Tensor], float], classes: int, labels_of: int, data: st.DataObject
) -> None:
    """No examples, labels that are not of shape (N,), or none of the classes, are an error."""
    scores = torch.zeros(labels_of, classes)
    labels = torch.zeros(labels_of, *([1] if labels_of else []), dtype=torch.int64)
    if labels_of and data.draw(st.booleans(), label="none of the classes"):
        labels = labels[:, 0]
        labels[-1] = data.draw(st.sampled_from([classes, -1, -100]), label="label")

    with pytest.raises(ValueError, match=r"no examples|one label for each example|out of range"):
        accuracy(scores, labels)


def transposed(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Use the rows for the predictions."""
    return confusion_matrix(predictions, labels, classes).T


def sized_by_the_labels(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Drop the classes above the largest one that occurs."""
    largest = int(torch.cat([predictions, labels]).max())
    return confusion_matrix(predictions, labels, classes=largest + 1)


def marks_once(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Add by indexing, which counts a repeated pair only once."""
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    matrix[labels, predictions] += 1
    return matrix


def counts_in_floats(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count in float32, which ends at 2**24."""
    return confusion_matrix(predictions, labels, classes).float()


@law(
    right=confusion_matrix,
    wrong={
        transposed: "row of its label",
        sized_by_the_labels: "one row and one column",
        marks_once: "row of its label",
        counts_in_floats: "int64",
    },
)
@given(data=st.data())
def test_the_confusion_matrix_counts_each_example(
    confusion: Callable[..., Tensor], data: st.DataObject
) -> None:
    """Each example counts in the row of its label and the column of its prediction."""
    classes = data.draw(st.integers(1, 4), label="classes")
    pair = st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1))
    pairs = data.draw(st.lists(pair, min_size=1), label="labels with predictions")
    expected = np.zeros((classes, classes), dtype=int)
    for label, prediction in pairs:
        expected[label, prediction] += 1
    labels, predictions = torch.tensor(pairs).unbind(1)

    matrix = confusion(predictions, labels, classes)

    assert matrix.shape == expected.shape, "there is one row and one column for each class"
    assert matrix.dtype == torch.int64, "the counts are int64"
    assert matrix.tolist() == expected.tolist(), "each example counts in the row of its label"


def counts_from_the_end(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Take -1 for the last class, and shorten what is too long, as indexing does."""
    pairs = zip(predictions.tolist(), labels.tolist(), strict=False)
    kept = [pair for pair in pairs if max(pair) < classes]
    both = torch.tensor(kept, dtype=torch.int64).view(-1, 2) % classes
    return confusion_matrix(both[:, 0], both[:, 1], classes)


def spills_over(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Check the labels alone, so a prediction outside the classes counts in another cell."""
    return confusion_matrix(predictions % classes, labels, classes)


@law(
    right=confusion_matrix,
    wrong={counts_from_the_end: "DID NOT RAISE", spills_over: "DID NOT RAISE"},
)
@given(
    classes=st.integers(1, 4),
    fault=st.sampled_from(["prediction", "label", "length", "dtype"]),
    outside=st.sampled_from([-1, 0, 5]),
)
def test_what_is_no_class_is_not_counted(
    confusion: Callable[..., Tensor], classes: int, fault: str, outside: int
) -> None:
    """A number outside the classes, a missing prediction, or a float is an error."""
    predictions, labels = torch.arange(classes), torch.arange(classes)
    number = outside if outside < 0 else classes + outside  # below 0, or from `classes` up
    if fault == "prediction":
        predictions[0] = number
    elif fault == "label":
        labels[0] = number
    elif fault == "length":
        predictions = predictions[1:]
    else:
        predictions = predictions.float()

    if fault == "dtype":
        with pytest.raises(TypeError, match="take the argmax"):
            confusion(predictions, labels, classes)
    else:
        with pytest.raises(ValueError, match=r"must be classes from 0|would broadcast"):
            confusion(predictions, labels, classes)


def by_column(confusion: Tensor) -> Tensor:
    """Divide by how often each class was predicted, which gives the precision."""
    return confusion.diagonal() / confusion.sum(dim=0)


def of_all_examples(confusion: Tensor) -> Tensor:
    """Divide by the number of all examples."""
    return confusion.diagonal() / confusion.sum()


def in_double(confusion: Tensor) -> Tensor:
    """Divide in float64, and keep it."""
    return confusion.diagonal() / confusion.sum(dim=1).double()


def clears_the_diagonal(confusion: Tensor) -> Tensor:
    """Count the wrong answers by clearing the diagonal of the caller's matrix."""
    examples = confusion.sum(dim=1)
    return (examples - confusion.fill_diagonal_(0).sum(dim=1)) / examples


@law(
    right=class_accuracies,
    wrong={
        by_column: "only its examples",
        of_all_examples: "only its examples",
        in_double: "float32",
        clears_the_diagonal: "stays as it was",
    },
)
@given(data=scores_and_labels())
def test_the_accuracy_of_a_class_counts_only_its_examples(
    accuracies: Callable[[Tensor], Tensor], data: Data
) -> None:
    """The accuracy of a class is the fraction of its examples predicted correctly, or NaN."""
    scores, labels = data
    answers = scores.argmax(dim=1)
    classes = scores.shape[1]

    matrix = confusion_matrix(answers, labels, classes)
    before = matrix.tolist()

    by_class = accuracies(matrix)

    assert matrix.tolist() == before, "the confusion matrix stays as it was"
    assert by_class.dtype == torch.float32, "the accuracies are float32"
    for k in range(classes):
        own = (answers[labels == k] == k).numpy(force=True)
        expected = own.mean() if len(own) else math.nan
        assert np.isclose(by_class[k].item(), expected, equal_nan=True), (
            "the accuracy of a class counts only its examples"
        )
