"""Predictions and labels compare one by one only if their shapes agree.

>>> predictions, labels = torch.tensor([2, 0, 1]), torch.tensor([2, 1, 1])
>>> predictions == labels
tensor([ True, False,  True])
>>> predictions[:, None] == labels  # (3, 1) and (3,): each is compared with each
tensor([[ True, False, False],
        [False, False, False],
        [False,  True,  True]])

Notes: Comparing predictions with the labels gives an array of ones and zeros.
Verdict: holds-if
Truth: It holds if both have the same shape. (N, 1) == (N,) broadcasts to (N, N) without an error;
    `dlconcepts.validation.correct` refuses it. The entries are True and False.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.strategies import shapes, tensors
from dlconcepts.testing.laws import law
from dlconcepts.validation import correct

classes = tensors(shapes(1, 3), torch.int64)


def broadcasts(predictions: Tensor, labels: Tensor) -> Tensor:
    """Compare predictions (N, 1), as topk returns them, with labels (N,)."""
    return predictions[:, None] == labels


def compares_objects(predictions: Tensor, labels: Tensor) -> Tensor:
    """Ask whether the two tensors are equal as a whole."""
    return torch.tensor(predictions.equal(labels))


@law(
    right=correct,
    wrong={broadcasts: "one entry for each", compares_objects: "one entry for each"},
)
@given(labels=classes | classes.map(lambda x: x + 2**53), data=st.data())
def test_a_comparison_has_one_entry_for_each_example(
    compare: Callable[[Tensor, Tensor], Tensor], labels: Tensor, data: st.DataObject
) -> None:
    """Equal shapes give a bool tensor of that shape, True where prediction and label agree."""
    # Neighbours of the labels too: above 2**53 a comparison as floats would take them for equal.
    others = tensors(tuple(labels.shape), torch.int64) | st.sampled_from([labels + 1, labels - 1])
    predictions = data.draw(others, label="predictions")

    result = compare(predictions, labels)

    assert result.shape == labels.shape, "there is one entry for each example"
    assert result.dtype == torch.bool, "the entries are True or False"
    expected = predictions.numpy(force=True) == labels.numpy(force=True)
    assert (result.numpy(force=True) == expected).all(), "an entry is True where both agree"


@st.composite
def incomparable(draw: st.DrawFn) -> tuple[Tensor, Tensor, type[Exception], str]:
    # Predictions and labels whose shapes broadcast, or scores instead of classes. One example too:
    # (1, 1) and (1,) broadcast to a plausible (1, 1).
    labels = draw(tensors(shapes(1, 1, min_side=1), torch.int64))
    floats = draw(st.booleans())
    columns = [labels[:, None], labels[None], labels[:, None, None]]
    other = labels.float() if floats else draw(st.sampled_from(columns))
    pair = (other, labels) if draw(st.booleans()) else (labels, other)
    return (*pair, TypeError, "take the argmax") if floats else (*pair, ValueError, "broadcast")


def checks_the_predictions(predictions: Tensor, labels: Tensor) -> Tensor:
    """Look at the predictions' dtype but not at the labels'."""
    return correct(predictions, labels.long())


@law(right=correct, wrong={torch.eq: "DID NOT RAISE", checks_the_predictions: "DID NOT RAISE"})
@given(case=incomparable())
def test_shapes_that_would_broadcast_are_refused(
    compare: Callable[[Tensor, Tensor], Tensor], case: tuple[Tensor, Tensor, type[Exception], str]
) -> None:
    """To compare (N, 1) with (N,), or scores with classes, is an error."""
    predictions, labels, error, message = case

    with pytest.raises(error, match=message):
        compare(predictions, labels)
