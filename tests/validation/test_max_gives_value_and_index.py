"""max over the classes returns the largest scores and their indices.

>>> scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]])
>>> values, indices = scores.max(dim=1)
>>> values, indices
(tensor([0.7000, 0.5000]), tensor([1, 0]))
>>> scores.topk(1, dim=1).indices
tensor([[1],
        [0]])

Notes: max over the class scores returns two tensors: the largest values and their indices.
Verdict: holds-if
Truth: It holds with `dim=1`. Without a dimension `torch.max` returns one tensor, the largest score
    of the whole batch, which does not unpack. The indices are the predicted classes. They are the
    same for logits, log-probabilities and probabilities, except where rounding makes two scores
    equal. `topk(1)` returns the same values but keeps the dimension.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import FLOATS, shapes, tensors
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from dlconcepts.validation import Data
from tests.validation.common import scores_and_labels


def over_the_examples(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Take the maximum over the batch dimension."""
    return tuple(torch.max(scores, dim=0))


def value_as_class(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Use the value itself as the class."""
    values = torch.max(scores, dim=dim).values
    return values, values.long()


def argmax_of_all(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Use the index into the flattened tensor."""
    return torch.max(scores, dim=dim).values, scores.argmax().expand(len(scores))


def by_magnitude(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Take the score of largest magnitude, which is often negative."""
    indices = scores.abs().argmax(dim=dim)
    return scores.gather(1, indices[:, None])[:, 0], indices


@law(
    right=torch.max,
    wrong={
        over_the_examples: "the largest score of each example",
        value_as_class: "points at the largest",
        argmax_of_all: "points at the largest",
        by_magnitude: "the largest score of each example",
    },
)
@given(data=scores_and_labels())
def test_max_gives_the_largest_score_and_its_class(
    largest: Callable[..., tuple[Tensor, Tensor]], data: Data
) -> None:
    """The values are each row's largest; the indices point at them, even after the softmax."""
    scores, _ = data

    values, indices = largest(scores, dim=1)

    rows = scores.tolist()
    assert values.tolist() == [max(row) for row in rows], "the largest score of each example"
    for row, index in zip(rows, indices.tolist(), strict=True):
        pointed = 0 <= index < len(row) and row[index] == max(row)
        assert pointed, "the index points at the largest score"
    for alike in (scores.log_softmax(1), scores.softmax(1)):
        # The softmax may round two scores to the same number, so compare values, not indices.
        found = torch.max(alike, dim=1)
        chosen = alike.gather(1, indices[:, None])[:, 0]
        assert same(chosen, found.values), "the class still has the largest score after the softmax"


def over_the_classes(scores: Tensor) -> object:
    """Take the maximum over dimension 1."""
    return torch.max(scores, dim=1)


def over_both_in_turn(scores: Tensor) -> object:
    """Take the maximum over the classes, then over the examples, with indices."""
    return torch.max(torch.max(scores, dim=1).values, dim=0)


def column_by_column(scores: Tensor) -> object:
    """Take the maximum over the examples, as numpy's axis=0 does."""
    return scores.amax(dim=0)


@law(
    right=torch.max,
    wrong={
        over_the_classes: "is one tensor",
        over_both_in_turn: "is one tensor",
        column_by_column: "is a single number",
    },
)
@given(data=scores_and_labels())
def test_without_a_dimension_max_is_the_largest_of_all(
    largest: Callable[[Tensor], Tensor], data: Data
) -> None:
    """torch.max(scores) has no indices: it is one number, the largest score of the batch."""
    scores, _ = data

    found = largest(scores)

    assert isinstance(found, Tensor), "max without a dimension is one tensor"
    assert found.shape == (), "max without a dimension is a single number"
    assert found.item() == max(map(max, scores.tolist())), "it is the largest score of the batch"
    with pytest.raises(TypeError, match="0-d tensor"):
        tuple(found)


def squeezes_the_one(scores: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
    """Drop the dimension of topk(1), as max does."""
    values, indices = torch.topk(scores, k, dim=dim)
    return values.squeeze(dim), indices.squeeze(dim)


@law(right=torch.topk, wrong={squeezes_the_one: "one column"})
@given(
    scores=tensors(
        shapes(2, 2, min_side=1), st.sampled_from(FLOATS), allow_nan=True, allow_infinity=True
    )
)
def test_topk_of_one_is_max_with_its_dimension_kept(
    topk: Callable[..., tuple[Tensor, Tensor]], scores: Tensor
) -> None:
    """topk(1) returns the values of max as a column, (N, 1)."""
    values, indices = topk(scores, 1, dim=1)

    assert values.shape == indices.shape == (len(scores), 1), "topk(1) gives one column"
    assert same(values[:, 0], torch.max(scores, dim=1).values), "topk(1) has the values of max"
    assert same(scores.gather(1, indices), values), (
        "the indices of topk(1) point at the largest scores"
    )
