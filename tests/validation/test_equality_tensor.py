"""The equality tensor.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Comparing predictions with the labels gives an array of ones and zeros.
Verdict: holds-if
Truth: If both have the same shape: (N, 1) == (N,) broadcasts to (N, N) without an error.
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

wholes = tensors(shapes(1, 3), torch.int64)


def broadcasts(predictions: Tensor, labels: Tensor) -> Tensor:
    """Compare topk's (N, 1) with the labels (N,)."""
    return predictions[:, None] == labels


def compares_objects(predictions: Tensor, labels: Tensor) -> Tensor:
    """Ask whether all of them are equal."""
    return torch.tensor(predictions.equal(labels))


@law(
    right=correct,
    wrong={broadcasts: "one entry for each", compares_objects: "one entry for each"},
)
@given(labels=wholes | wholes.map(lambda x: x + 2**53), data=st.data())
def test_a_comparison_has_one_entry_for_each_example(
    compare: Callable[[Tensor, Tensor], Tensor], labels: Tensor, data: st.DataObject
) -> None:
    """Equal shapes give a bool tensor of that shape, true where prediction and label agree."""
    # Neighbours of the labels, too: past 2**53 they are equal once they are floats.
    others = tensors(tuple(labels.shape), torch.int64) | st.sampled_from([labels + 1, labels - 1])
    predictions = data.draw(others, label="predictions")

    result = compare(predictions, labels)

    assert result.shape == labels.shape, "there is one entry for each example"
    assert result.dtype == torch.bool, "the entries are true or false"
    expected = predictions.numpy(force=True) == labels.numpy(force=True)
    assert (result.numpy(force=True) == expected).all(), "true where both agree"


@st.composite
def incomparable(draw: st.DrawFn) -> tuple[Tensor, Tensor, type[Exception], str]:
    """Draw predictions and labels of shapes that broadcast, or scores in the place of classes."""
    labels = draw(tensors(shapes(1, 1, min_side=1), torch.int64))
    if draw(st.booleans()):
        return labels.float(), labels, TypeError, "take the argmax"
    other = draw(st.sampled_from([labels[:, None], labels[None], labels[:, None, None]]))
    pair = (other, labels) if draw(st.booleans()) else (labels, other)
    return (*pair, ValueError, "would broadcast")


@law(
    right=correct,
    wrong={torch.eq: "DID NOT RAISE"},
)
@given(case=incomparable())
def test_what_would_broadcast_is_refused(
    compare: Callable[[Tensor, Tensor], Tensor], case: tuple[Tensor, Tensor, type[Exception], str]
) -> None:
    """(N, 1) against (N,) is an error, also for one example; so are scores against classes."""
    predictions, labels, error, message = case

    with pytest.raises(error, match=message):
        compare(predictions, labels)
