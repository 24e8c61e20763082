"""A new head ends in log-softmax for NLLLoss, and in logits for CrossEntropyLoss.

>>> logits, label = torch.tensor([[5.0, 0.0]]), torch.tensor([0])
>>> F.cross_entropy(logits, label)
tensor(0.0067)
>>> F.nll_loss(logits.log_softmax(dim=1), label)
tensor(0.0067)
>>> F.cross_entropy(logits.softmax(dim=1), label)  # one softmax too many
tensor(0.3169)

Notes: The new classifier: fully connected, ReLU, fully connected to the number of classes,
    softmax.
Verdict: holds-if
Truth: With log-softmax for NLLLoss, or no softmax for CrossEntropyLoss. The output is then a
    distribution for any widths, and all parameters require grad.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import tensors
from dlconcepts.testing.laws import law
from dlconcepts.transfer import new_head


def appends_softmax(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """End in a softmax, although the loss computes one itself."""
    return nn.Sequential(*new_head(in_features, hidden, out_features), nn.Softmax(dim=1))


def without_activation(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Chain Linear layers without ReLU, which together are one Linear."""
    layers = new_head(in_features, hidden, out_features)
    return nn.Sequential(*[layer for layer in layers if isinstance(layer, nn.Linear)])


def activates_the_scores(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Add a ReLU after the last layer, too."""
    return nn.Sequential(*new_head(in_features, hidden, out_features), nn.ReLU())


def is_frozen_too(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Freeze the new head, too."""
    return new_head(in_features, hidden, out_features).requires_grad_(False)


def uses_one_hidden_layer(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Use the first of the hidden widths only."""
    return new_head(in_features, hidden[:1], out_features)


def appends_to_the_list(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Append the number of classes to the caller's list."""
    hidden.append(out_features)
    return new_head(in_features, hidden[:-1], out_features)


def by_hand(head: nn.Module, features: Tensor) -> np.ndarray[Any, Any]:
    # The oracle: the logits in float64, computed by numpy from the parameters.
    values = features.double().numpy(force=True)
    arrays = [parameter.detach().double().numpy(force=True) for parameter in head.parameters()]
    for weight, bias in zip(arrays[::2], arrays[1::2], strict=True):
        values = values @ weight.T + bias
        values = values if weight is arrays[-2] else values.clip(min=0)
    return values


def tolerance(features: Tensor) -> float:
    # About 100 float32 eps of the largest partial sum, since rounding grows with the numbers that
    # are added up. Three layers multiply a feature by at most (4 inputs * weights of 0.5)**3 = 8.
    return 1e-5 * max(1.0, float(features.abs().max()) * 10)


@law(
    right=new_head,
    wrong={
        appends_softmax: "the loss is minus the log of the label's probability",
        without_activation: "the loss is minus the log of the label's probability",
        activates_the_scores: "the loss is minus the log of the label's probability",
        is_frozen_too: "all parameters require grad",
        uses_one_hidden_layer: "the widths that were asked for",
        appends_to_the_list: "the list of widths stays",
    },
)
@given(data=st.data())
def test_logits_and_cross_entropy_take_the_log_of_a_probability(
    new_head: Callable[[int, list[int], int], nn.Module], data: st.DataObject
) -> None:
    """For any widths, the cross-entropy is minus the log of the label's probability."""
    in_features, out_features = (data.draw(st.integers(1, 4), label="size") for _ in range(2))
    hidden = data.draw(st.lists(st.integers(1, 4), max_size=2), label="hidden_features")
    torch.manual_seed(data.draw(st.integers(0, 99), label="seed"))
    features = data.draw(tensors((2, in_features), max_magnitude=100), label="features")
    label = data.draw(st.integers(0, out_features - 1), label="label")

    sizes = [in_features, *hidden, out_features]
    head = new_head(in_features, hidden, out_features)

    loss = F.cross_entropy(head(features), torch.full((2,), label), reduction="none")
    logits = by_hand(head, features)
    expected = np.logaddexp.reduce(logits, axis=1) - logits[:, label]
    scale = tolerance(features)
    assert np.allclose(loss.numpy(force=True), expected, rtol=0, atol=scale), (
        "the loss is minus the log of the label's probability"
    )
    assert all(parameter.requires_grad for parameter in head.parameters()), (
        "all parameters require grad"
    )
    assert hidden == sizes[1:-1], "the list of widths stays as it was"
    linear = [part for part in head.modules() if isinstance(part, nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in linear]
    assert widths == list(pairwise(sizes)), "the layers have the widths that were asked for"


def takes_any_size(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Take 1 for a size below it."""
    sizes = [max(1, size) for size in (in_features, *hidden, out_features)]
    return new_head(sizes[0], sizes[1:-1], sizes[-1])


@law(right=new_head, wrong={takes_any_size: "DID NOT RAISE"})
@given(
    sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    at=st.integers(0, 3),
    size=st.integers(-2, 0),
)
def test_a_size_below_one_is_refused(
    new_head: Callable[[int, list[int], int], nn.Module], sizes: list[int], at: int, size: int
) -> None:
    """No features, no classes or an empty hidden layer are an error."""
    sizes[at % len(sizes)] = size

    with pytest.raises(ValueError, match="at least 1"):
        new_head(sizes[0], sizes[1:-1], sizes[-1])


def with_log_softmax(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Return a head for NLLLoss."""
    return new_head(in_features, hidden, out_features, log_probabilities=True)


def log_softmax_over_the_batch(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Normalise over the batch instead of the classes."""
    return nn.Sequential(*new_head(in_features, hidden, out_features), nn.LogSoftmax(dim=0))


@law(
    right=with_log_softmax,
    wrong={
        new_head: "sum to 1",
        appends_softmax: "sum to 1",
        log_softmax_over_the_batch: "sum to 1",
    },
)
@given(data=st.data())
def test_log_probabilities_belong_to_a_distribution(
    new_head: Callable[[int, list[int], int], nn.Module], data: st.DataObject
) -> None:
    """For any widths, exp of the output is the softmax of the logits, and sums to 1."""
    in_features, out_features = (data.draw(st.integers(1, 4), label="size") for _ in range(2))
    hidden = data.draw(st.lists(st.integers(1, 4), max_size=2), label="hidden_features")
    features = data.draw(tensors((2, in_features), max_magnitude=100), label="features")

    head = new_head(in_features, hidden, out_features)

    probabilities = head(features).double().exp().numpy(force=True)
    logits = by_hand(head, features)
    expected = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5), "probabilities sum to 1"
    scale = tolerance(features)
    assert np.allclose(probabilities, expected, rtol=0, atol=scale), (
        "the probabilities are the softmax of the logits"
    )
