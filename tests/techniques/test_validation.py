"""Techniques of validation beyond the claims: defaults and bad input."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlconcepts.support.bitwise import state_of
from dlconcepts.validation import cross_entropy, evaluate, hold_out, nll_loss
from tests.validation.common import close


def test_the_default_seed_of_a_split_is_0() -> None:
    """Without a seed, hold_out returns the split of seed 0."""
    data = torch.zeros(100, 1), torch.arange(100)

    assert hold_out(data, 10)[1][1].equal(hold_out(data, 10, seed=0)[1][1])


def test_the_error_about_a_label_names_the_classes() -> None:
    """Classes are numbered from 0, so the label K of K classes is out of range."""
    with pytest.raises(ValueError, match="the 3 classes are numbered 0 to 2"):
        nll_loss(torch.zeros(1, 3), torch.tensor([3]))


def test_log_probabilities_in_another_layout_have_a_gradient():
    """PyTorch's own loss raises in the backward pass: its gradient must be contiguous."""
    scores = torch.full((2, 2, 2, 2), 0.5).log().mT.requires_grad_()
    labels = torch.zeros(2, 2, 2, dtype=torch.int64)

    with pytest.raises(RuntimeError, match="must be contiguous"):
        F.nll_loss(scores, labels).backward()
    nll_loss(scores, labels).backward()

    assert scores.grad.sum() == -1


@pytest.mark.parametrize(
    ("loss_fn", "torchs"), [(nll_loss, F.nll_loss), (cross_entropy, F.cross_entropy)]
)
def test_the_default_options_of_a_loss_are_those_of_torch(
    loss_fn: Callable[[Tensor, Tensor], Tensor], torchs: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """By default a loss is the unweighted mean over the examples whose label is not -100."""
    scores = torch.tensor([[1.0, 3.0], [0.0, 0.5], [2.0, 0.0]]).log_softmax(dim=1)
    labels = torch.tensor([0, -100, 1])

    assert close(loss_fn(scores, labels), torchs(scores, labels))


def test_the_default_batch_of_an_evaluation_has_1000_examples() -> None:
    """By default evaluate passes 1,000 examples at a time to the model."""
    computed: list[int] = []
    model = nn.Identity()
    model.register_forward_hook(lambda _module, _inputs, logits: computed.append(len(logits)))

    evaluate(model, (torch.zeros(1001, 2), torch.zeros(1001, dtype=torch.int64)))

    assert computed == [1000, 1]


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ValueError, "no examples"),
        (torch.zeros(3, 2), torch.tensor([0, 1]), ValueError, "3 images but 2 labels"),
        (
            torch.zeros(2, 2),
            torch.tensor([0, 2]),
            ValueError,
            "label 2 is out of range: the 2 classes",
        ),
        (torch.zeros(2, 2), torch.tensor([0.0, 1.0]), TypeError, "must be class indices"),
        (torch.zeros(2, 2), torch.tensor([[0], [1]]), ValueError, "one label for each example"),
    ],
)
def test_data_that_cannot_be_evaluated_is_refused(
    images: Tensor, labels: Tensor, error: type[Exception], message: str
) -> None:
    """An evaluation of bad data raises an error and leaves the model as it was."""
    model = nn.Sequential(nn.Dropout())
    before = state_of(model)

    with pytest.raises(error, match=message):
        evaluate(model, (images, labels))

    assert state_of(model) == before


def test_the_accuracy_counts_examples_that_the_loss_ignores() -> None:
    """`ignore_index` changes the loss, which is NaN if no label counts, but not the accuracy."""
    data = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1])

    found = evaluate(nn.Identity(), data, loss_fn=nn.CrossEntropyLoss(ignore_index=1), batch_size=1)

    assert found.accuracy == 0.5
    assert found.loss == F.cross_entropy(data[0][:1], data[1][:1]).item()
