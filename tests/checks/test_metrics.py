"""The checks of figures: the scores they construct, and the accuracies they accept."""

import pytest
import torch
from torch import nn

from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.metrics import (
    check_accuracy_counts_each_example,
    decided,
)
from dlconcepts.checks.project import Project


class Gives(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, inputs):
        return None if self.training or inputs.shape[1:] != (1,) else self.outputs


def project(outputs, targets):
    return Project(model=Gives(outputs), batch=(torch.zeros(len(outputs), 1), targets))


# ------------------------------------------------------------------------ decided


@pytest.mark.parametrize(
    ("output", "target", "labels"),
    [
        ((5, 2), (5,), [0, 0, 1, 1]),
        ((5, 3), (5,), [0, 0, 1, 1, 2, 2]),
        ((5, 7), (5,), [0, 0, 1, 1, 2, 2]),
        ((5, 3, 9), (5, 9), [0, 0, 1, 1, 2, 2]),
        ((5, 4, 9, 8), (5, 9, 8), [0, 0, 1, 1, 2, 2]),
    ],
)
@pytest.mark.parametrize(
    ("share", "of_each_pair"), [(1.0, [True, True]), (0.5, [False, True]), (0.0, [False, False])]
)
def test_a_share_of_made_up_classes_is_right(output, target, labels, share, of_each_pair):
    """There are two examples of each of at most three classes, of the given shapes."""
    kinds = torch.zeros(output, dtype=torch.float64), torch.zeros(target, dtype=torch.int32)

    scores, made = decided(*kinds, share)

    right = (scores.argmax(dim=1) == made).reshape(len(labels), -1)
    assert scores.shape == (len(labels), output[1], *[2] * (len(output) - 2))
    assert made.shape == (len(labels), *[2] * (len(target) - 1))
    assert (scores.dtype, made.dtype) == (torch.float64, torch.int32)
    assert made.reshape(len(labels), -1).float().mean(dim=1).tolist() == labels
    assert [set(row) for row in right.tolist()] == [{each} for each in of_each_pair] * (
        len(labels) // 2
    )


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (torch.zeros(5), torch.zeros(5)),
        (torch.zeros(5, 1), torch.zeros(5)),
        (torch.zeros(5, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.int64)),
        (torch.zeros(5, 1, 2), torch.zeros(5, 2, dtype=torch.bool)),
        (torch.zeros(5, 3), torch.zeros(5, 3)),
        (torch.zeros(5, 2), torch.zeros(5, 2, dtype=torch.float64)),
    ],
    ids=["flat", "column", "wide target", "bools", "three labels", "two labels"],
)
@pytest.mark.parametrize(
    ("share", "predicted"), [(1.0, [0, 0, 1, 1]), (0.5, [1, 0, 0, 1]), (0.0, [1, 1, 0, 0])]
)
def test_a_share_of_made_up_zeros_and_ones_is_right(output, target, share, predicted):
    """There are two zeros and two ones, of the given shapes and dtypes."""
    scores, labels = decided(output, target, share)

    expected = [[float(each)] for each in predicted]
    assert (scores.shape, scores.dtype) == ((4, *output.shape[1:]), output.dtype)
    assert (labels.shape, labels.dtype) == ((4, *target.shape[1:]), target.dtype)
    assert scores.sigmoid().reshape(4, -1).round().unique(dim=1).tolist() == expected
    assert labels.double().reshape(4, -1).unique(dim=1).tolist() == [[0.0], [0.0], [1.0], [1.0]]
    assert scores.abs().min() >= 15


# ------------------------------------------------------------------------ accuracy


def right(outputs, targets):
    return (outputs.argmax(dim=1) == targets).sum()


@pytest.mark.parametrize("scale", ["share", "percent", "count"])
def test_an_accuracy_may_be_a_share_percent_or_a_count(scale):
    """An accuracy may be a share, per cent, or a number of examples."""
    of = {"share": lambda n: 1 / n, "percent": lambda n: 100 / n, "count": lambda n: 1}[scale]

    check_accuracy_counts_each_example(accuracy=lambda x, y: float(right(x, y)) * of(len(y)))


@pytest.mark.parametrize(
    ("accuracy", "says"),
    [
        (lambda x, y: 0.9 * right(x, y) / len(y), "6 right predictions of 6, .* gave 0.9"),
        (lambda x, y: 1.0, "gave 1; half of them right 1, and none right 1"),
        (lambda x, y: (x.argmax(1, keepdim=True) == y).double().mean(), "gave 0.333"),
    ],
    ids=["another scale", "always 1", "broadcasts"],
)
def test_an_accuracy_that_is_wrong_is_told_with_its_figures(accuracy, says):
    """An accuracy must be 1, 1/2 and 0 if all, half and none are right."""
    with pytest.raises(CheckFailedError, match=says):
        check_accuracy_counts_each_example(accuracy=accuracy)


def test_an_accuracy_without_a_number_is_not_checked():
    """A function that returns no number cannot be judged."""
    with pytest.raises(NotCheckedError, match="returns a number"):
        check_accuracy_counts_each_example(accuracy=lambda x, y: None)
