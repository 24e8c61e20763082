"""On scores of shape (64, 1, 10), dim=1 is not the classes.

>>> images = torch.rand(64, 28, 28)
>>> scores = nn.Linear(784, 10)(images.resize_(64, 1, 784))
>>> scores.shape
torch.Size([64, 1, 10])
>>> F.log_softmax(scores, dim=1).abs().max().item(), scores.argmax(dim=1).max().item()
(0.0, 0)
>>> F.log_softmax(scores.squeeze(1), dim=1).argmax(dim=1).shape
torch.Size([64])

Notes: Resize the images to (64, 1, 784), pass them to the network, and take log_softmax over dim=1.
Verdict: corrected
Truth: The dimension of 1 stays in the scores, so dim=1 has a single entry: its log-softmax is 0,
    its softmax 1, and the class always 0. The images must become rows, (64, 784); then dim=1 is the
    classes. dim=-1 is the classes for any shape.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.testing.laws import law
from tests.networks.common import fill, seeds, sides

Prepare = Callable[[Tensor], Tensor]


def as_rows(images: Tensor) -> Tensor:
    """Turn each image into a row, (N, H * W)."""
    return images.flatten(1)


def with_a_dimension_of_one(images: Tensor) -> Tensor:
    """Turn each image into a stack of one row, (N, 1, H * W), as the notes do."""
    return images.reshape(len(images), 1, -1)


def as_one_stack(images: Tensor) -> Tensor:
    """Turn all images into one stack of rows, (1, N, H * W)."""
    return images.flatten(1)[None]


def scores_of(prepare: Prepare, batch: int, side: int, classes: int, seed: int) -> Tensor:
    model = nn.Linear(side * side, classes).double()
    fill(model, seed)
    generator = torch.Generator("cpu").manual_seed(seed)
    images = torch.rand(
        batch, 1, side, side, generator=generator, dtype=torch.float64, device="cpu"
    )
    return model(prepare(images.to(model.weight.device)))


batches = {
    "batch": st.integers(2, 5),
    "side": sides,
    "classes": st.integers(2, 4),
    "seed": seeds,
}


@law(
    right=as_rows,
    wrong={
        with_a_dimension_of_one: "the probabilities of an image sum to 1",
        as_one_stack: "the probabilities of an image sum to 1",
    },
)
@given(**batches)
def test_of_rows_dimension_one_is_the_classes(
    prepare: Prepare, batch: int, side: int, classes: int, seed: int
) -> None:
    """softmax(dim=1) gives each image probabilities that sum to 1, and argmax(dim=1) one class."""
    scores = scores_of(prepare, batch, side, classes, seed)

    sums = scores.softmax(dim=1).reshape(batch, classes).sum(1)
    predicted = scores.argmax(dim=1)

    assert torch.allclose(sums, torch.ones_like(sums)), "the probabilities of an image sum to 1"
    assert predicted.shape == (batch,), "there is one class for each image"
    assert predicted.equal(scores.argmax(dim=-1)), "dim=1 is the last dimension, the classes"


@law(right=with_a_dimension_of_one, wrong={as_rows: "is all 0", as_one_stack: "is all 0"})
@given(**batches)
def test_of_stacks_dimension_one_says_nothing(
    prepare: Prepare, batch: int, side: int, classes: int, seed: int
) -> None:
    """Over a dimension of 1 the log-softmax is 0 and the class 0, whatever the images show."""
    scores = scores_of(prepare, batch, side, classes, seed)

    log_p, predicted = F.log_softmax(scores, dim=1), scores.argmax(dim=1)

    assert not bool(log_p.any()), "the log-softmax over dim=1 is all 0"
    assert not bool(predicted.any()), "the class is always 0"
    rows = scores_of(as_rows, batch, side, classes, seed)
    assert torch.allclose(scores.softmax(-1)[:, 0], rows.softmax(1)), "dim=-1 is still the classes"
