"""A pretrained classifier of torchvision ends in scores: it has no softmax layer.

>>> from torchvision.models import shufflenet_v2_x0_5
>>> model = shufflenet_v2_x0_5().eval()
>>> [layer for layer in model.modules() if isinstance(layer, nn.Softmax)]
[]
>>> scores = model(torch.ones(1, 3, 32, 32))
>>> bool((scores < 0).any()), round(scores.softmax(dim=1).sum().item(), 3)
(True, 1.0)

Notes: Replace the softmax layer that the pretrained model has.
Verdict: corrected
Truth: None has one. In every family of torchvision the output is that of the last layer with
    parameters (a SqueezeNet only clips and averages it), which is what nn.CrossEntropyLoss expects.
    The softmax of the scores gives the probabilities; `predict` computes it.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.support.runs import seeded
from dlconcepts.testing.laws import law
from dlconcepts.transfer import untrained
from dlconcepts.validation import predict
from tests.transfer.common import (
    BUILDS,
    FAMILIES,
    SHAPES,
    build,
    images_for,
    softmaxes_at_the_end,
)


def with_a_softmax(name: str) -> nn.Module:
    """Build the network with the softmax that the notes suppose."""
    return nn.Sequential(build(name), nn.Softmax(dim=1))


def with_a_log_softmax(name: str) -> nn.Module:
    """Build the network with a log-softmax, as the new head for NLLLoss has."""
    return nn.Sequential(build(name), nn.LogSoftmax(dim=1))


@law(
    right=build,
    wrong={
        with_a_softmax: "no softmax after the last layer",
        with_a_log_softmax: "no softmax after the last layer",
    },
    share=0.1,
    because=BUILDS,
    cpu_only=SHAPES,
)
@given(family=st.sampled_from(FAMILIES))
def test_no_family_has_a_softmax_layer(build: Callable[[str], nn.Module], family: str) -> None:
    """In every family the output comes from the last layer without a softmax after it."""
    model = build(family).eval()

    scores = model(images_for(family, model))

    assert not softmaxes_at_the_end(scores), "there is no softmax after the last layer"


@functools.cache
def small(name: str) -> nn.Module:
    with seeded(0, torch.device("cpu")):
        return untrained(name).eval()


def takes_the_outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Take the outputs for probabilities, as if the model had a softmax layer."""
    with torch.no_grad():
        outputs: Tensor = model(images)
    return outputs


def over_the_batch(model: nn.Module, images: Tensor) -> Tensor:
    """Take the softmax over the examples instead of the classes."""
    return takes_the_outputs(model, images).softmax(dim=0)


def twice(model: nn.Module, images: Tensor) -> Tensor:
    """Take the softmax of probabilities, as after adding one to a model that has it."""
    return predict(model, images).softmax(dim=1)


@law(
    right=predict,
    wrong={
        takes_the_outputs: "sum to 1",
        over_the_batch: "sum to 1",
        twice: "the softmax of the scores",
    },
    cpu_only="the networks are built and run there",
)
@given(
    name=st.sampled_from(["shufflenet_v2_x0_5", "mnasnet0_5", "mobilenet_v3_small"]),
    seed=st.integers(0, 9),
)
def test_the_softmax_of_the_scores_gives_probabilities(
    predict: Callable[[nn.Module, Tensor], Tensor], name: str, seed: int
) -> None:
    """The outputs are scores of any sign; their softmax is positive and sums to 1."""
    model = small(name)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        scores = model(images).double().numpy()

    probabilities = predict(model, images).double().numpy()

    assert (scores < 0).any(), "some scores are negative, which no probability is"
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5), "the probabilities sum to 1"
    expected = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    assert np.allclose(probabilities, expected, rtol=1e-4, atol=1e-6), (
        "the probabilities are the softmax of the scores"
    )
