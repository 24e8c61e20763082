"""The checks of figures by themselves: the targets and the scores that they make up."""

import pytest
import torch
from torch import nn

from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.metrics import (
    check_accuracy_counts_each_example,
    close,
    decided,
    half_right,
    shapes_of,
)
from dlconcepts.checks.project import Project


class Gives(nn.Module):
    """A model of one feature that returns what it was told to, in evaluation mode alone."""

    def __init__(self, outputs):
        """Keep the outputs."""
        super().__init__()
        self.outputs = outputs

    def forward(self, inputs):
        """Return them."""
        return None if self.training or inputs.shape[1:] != (1,) else self.outputs


def project(outputs, targets):
    """Return a project whose model gives some outputs."""
    return Project(model=Gives(outputs), batch=(torch.zeros(len(outputs), 1), targets))


def one_hot(labels, classes=3):
    """Return scores whose largest is at the labels."""
    return torch.eye(classes)[torch.tensor(labels)]


# ------------------------------------------------------------------------ close


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (0.0, 0.0, True),
        (2.0, 2.0, True),
        (1.0, 1.00009, True),
        (1.0, 1.00011, False),
        (-1.0, -1.00009, True),
        (-1.0, -1.00011, False),
        (1e6, 1e6 + 90, True),
        (1e6, 1e6 + 110, False),
        (1e-6, 0.0, False),
        (1.0, -1.0, False),
        (10_000.0, 10_001.00005, True),  # within a share of the larger, not of the smaller
    ],
)
def test_figures_are_close_within_a_share_of_the_larger(one, other, same):
    """Rounding grows with a figure, and has no sign."""
    assert close(one, other) is same
    assert close(other, one) is same


# ------------------------------------------------------------------------ half_right


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize(
    ("last", "expected"), [(1, [0, 1, 2, 0, 0]), (2, [0, 1, 2, 1, 0]), (3, [0, 1, 0, 1, 0])]
)
def test_targets_are_what_the_model_predicts_but_for_the_last(dtype, last, expected):
    """The last have the next class, where the first follows on the last; the kind is kept."""
    targets = torch.zeros(5, dtype=dtype)

    made = half_right(project(one_hot([0, 1, 2, 0, 2]), targets), last)

    assert made.tolist() == expected
    assert made.dtype == dtype


def test_targets_of_two_classes_are_made_too():
    """Two columns are scores of two classes."""
    made = half_right(project(one_hot([0, 1, 1], 2), torch.zeros(3, dtype=torch.int64)), 1)

    assert made.tolist() == [0, 1, 0]


def test_targets_of_every_pixel_are_made_too():
    """A segmentation has a class at each place."""
    scores = one_hot([[0, 1], [2, 2], [1, 0]]).movedim(-1, 1)

    made = half_right(project(scores, torch.zeros(3, 2, dtype=torch.int64)), 1)

    assert made.tolist() == [[0, 1], [2, 2], [2, 1]]


def test_the_first_scores_of_several_outputs_count():
    """A model that returns more, and integers before them, has its scores in front."""
    outputs = {"counts": torch.zeros(3, dtype=torch.int64), "logits": one_hot([2, 1, 0])}
    outputs["auxiliary"] = one_hot([0, 0, 0])
    parts = Project(
        model=Gives(outputs), batch=(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    )

    assert half_right(parts, 1).tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.eye(3), torch.tensor([2.0, 2.0, 2.0])),
        (torch.ones(3), torch.tensor([2, 2, 2])),
        (torch.ones(3, 1), torch.tensor([2, 2, 2])),
        (torch.eye(3), torch.tensor([2, 2])),
        (torch.eye(3), torch.tensor([[2], [2], [2]])),
        (torch.ones(3, 4, 2), torch.tensor([2, 2, 2])),
        (torch.ones(3, 4, dtype=torch.int64), torch.tensor([2, 2, 2])),
    ],
    ids=["floats", "one score", "one class", "fewer", "wider", "per pixel", "no scores"],
)
def test_targets_that_are_no_classes_stay_as_they_are(outputs, targets):
    """What the model gets right is not known then."""
    assert torch.equal(half_right(project(outputs, targets), 1), targets)


def test_targets_that_are_no_tensor_stay_as_they_are():
    """A detector has a structure of boxes."""
    targets = {"boxes": torch.tensor([2, 2, 2]), "names": "cat"}

    made = half_right(project(torch.eye(3), targets), 1)

    assert made["names"] == "cat"
    assert made["boxes"].tolist() == [2, 2, 2]


# ------------------------------------------------------------------------ shapes_of

ZEROS_AND_ONES = torch.tensor([0.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.ones(4, 3), torch.tensor([0, 1, 2, 2])),
        (torch.ones(4, 2), torch.tensor([0, 1, 1, 5])),
        (torch.ones(4, 3, 2), torch.full((4, 2), 2)),
        (torch.ones(4, 1), ZEROS_AND_ONES),
        (torch.ones(4), ZEROS_AND_ONES.unsqueeze(1)),
        (torch.ones(4), ZEROS_AND_ONES.long()),
        (torch.ones(4, 1), ZEROS_AND_ONES.bool()),
        (torch.ones(4, 3), ZEROS_AND_ONES.unsqueeze(1).repeat(1, 3)),
    ],
    ids=["classes", "two", "pixels", "column", "wide", "integers", "bools", "several labels"],
)
def test_classes_and_zeros_and_ones_have_shapes_to_imitate(outputs, targets):
    """What was given is returned, as the model gives it in evaluation mode."""
    found = shapes_of(project(outputs, targets))

    assert torch.equal(found[0], outputs)
    assert torch.equal(found[1], targets)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.ones(4, 1), torch.tensor([0.5, 1.0, 1.0, 0.0])),
        (torch.ones(4, 1), torch.tensor([0, 1, 2, 0])),
        (torch.ones(4), torch.tensor([0, 1, 2, 0])),
        (torch.ones(4, 3), ZEROS_AND_ONES),
        (torch.ones(4, 3), torch.tensor([0.0, 1.0, 2.0, 0.0])),
        ((torch.ones(4, 3), torch.ones(4)), torch.tensor([0, 1, 2, 0])),
        (torch.ones(4, 3), [torch.tensor([0, 1, 2, 0])]),
    ],
    ids=["share", "one column", "flat", "too few", "floats", "two outputs", "list"],
)
def test_other_outputs_and_targets_have_no_shapes_to_imitate(outputs, targets):
    """An accuracy of them is not known."""
    assert shapes_of(project(outputs, targets)) is None


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
    """Two examples of each of at most three classes, with places of 2 by 2 where there are any."""
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


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_what_is_made_up_is_beyond_doubt(share):
    """Rounding does not decide, and a wrong label is the last of all: also top-k agrees."""
    scores, labels = decided(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64), share)

    best, second = scores.sort(dim=1, descending=True).values[:, :2].T
    own = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
    wrong = scores.argmax(dim=1) != labels
    assert bool((best - second > 30).all())
    assert bool((best.sigmoid() == 1).all())
    assert bool((second.sigmoid() < 1e-6).all())
    assert torch.equal(own[wrong], scores.min(dim=1).values[wrong])
    assert all((scores[row] == own[row]).sum() == 1 for row in wrong.nonzero())


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
    """Two zeros and two ones, of the shapes and the kinds that were given; a sigmoid is sure."""
    scores, labels = decided(output, target, share)

    expected = [[float(each)] for each in predicted]
    assert (scores.shape, scores.dtype) == ((4, *output.shape[1:]), output.dtype)
    assert (labels.shape, labels.dtype) == ((4, *target.shape[1:]), target.dtype)
    assert scores.sigmoid().reshape(4, -1).round().unique(dim=1).tolist() == expected
    assert labels.double().reshape(4, -1).unique(dim=1).tolist() == [[0.0], [0.0], [1.0], [1.0]]
    assert scores.abs().min() >= 15


@pytest.mark.parametrize("shape", [(5, 3, 2), (5, 2, 1)])
@pytest.mark.parametrize("integers", [True, False])
def test_an_accuracy_may_write_to_what_is_made_up(shape, integers):
    """No two elements share their memory."""
    target = torch.zeros((5, *shape[2:]), dtype=torch.int64) if integers else torch.zeros(shape)

    scores, labels = decided(torch.zeros(shape), target, 1.0)

    for made in (scores, labels):
        numbers = torch.arange(made.numel()).reshape(made.shape)
        assert torch.equal(made.copy_(numbers), numbers.to(made))


# ------------------------------------------------------------------------ accuracy


def right(outputs, targets):
    """Return how many are right."""
    return (outputs.argmax(dim=1) == targets).sum()


@pytest.mark.parametrize("scale", ["share", "percent", "count"])
def test_an_accuracy_may_be_a_share_percent_or_a_count(scale):
    """All three are said of accuracies."""
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
    """Where all, half and none are right, an accuracy has to be 1, 1/2 and 0."""
    with pytest.raises(CheckFailedError, match=says):
        check_accuracy_counts_each_example(accuracy=accuracy)


def test_an_accuracy_without_a_number_is_not_checked():
    """A function that prints says nothing that could be judged."""
    with pytest.raises(NotCheckedError, match="returns a number"):
        check_accuracy_counts_each_example(accuracy=lambda x, y: None)
