"""Inference takes eval mode, no gradients, and the softmax of the logits.

>>> from dlconcepts.validation import predict
>>> model = nn.Dropout(0.5)  # in training mode; its logits are its inputs
>>> p = predict(model, torch.tensor([[1.0, 2.0, 3.0]]))
>>> p
tensor([[0.0900, 0.2447, 0.6652]])
>>> p.requires_grad, model.training
(False, True)

Notes: For inference use eval mode, switch gradients off, and look at the probabilities.
Verdict: holds
Truth: Inference then gives the same result each time, records no graph, and returns probabilities
    that sum to 1, one row per image for any batch size. `dlconcepts.validation.predict` does all
    this and restores the modes.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import networks, tensors
from dlconcepts.support.bitwise import bits, same, state_of
from dlconcepts.testing.laws import law
from dlconcepts.validation import inference, predict
from tests.validation.common import close, modes_of, set_modes, softmax


def leaves_dropout_on(model: nn.Module, images: Tensor) -> Tensor:
    """Switch gradients off and forget eval mode."""
    with torch.no_grad():
        return model(images).softmax(1).cpu()


def keeps_the_graph(model: nn.Module, images: Tensor) -> Tensor:
    """Switch to eval mode and forget no_grad."""
    modes = modes_of(model)
    result = model.eval()(images).softmax(1).cpu()
    set_modes(model, modes)
    return result


def squeezes(model: nn.Module, images: Tensor) -> Tensor:
    """Drop every dimension of size 1, even the batch dimension of a single image."""
    return predict(model, images).squeeze()


def returns_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Forget the softmax."""
    with inference(model):
        return model(images).cpu()


def over_the_images(model: nn.Module, images: Tensor) -> Tensor:
    """Take the softmax over the batch dimension."""
    with inference(model):
        return model(images).softmax(0).cpu()


def centres_in_place(model: nn.Module, images: Tensor) -> Tensor:
    """Normalise the caller's images in place."""
    return predict(model, images.sub_(0.5))


def stays_in_eval(model: nn.Module, images: Tensor) -> Tensor:
    """Leave the model in eval mode."""
    return predict(model.eval(), images)


def restores_only_after_success(model: nn.Module, images: Tensor) -> Tensor:
    """Restore the modes below the forward pass, where an error does not arrive."""
    modes = modes_of(model)
    with torch.no_grad():
        result = model.eval()(images).softmax(1).cpu()
    set_modes(model, modes)
    return result


@st.composite
def models_and_images(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    # A network with dropout, in training or in eval mode, and images for it.
    features, classes = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    network = draw(networks([features, *draw(st.sampled_from([[], [4]])), classes]))
    model = nn.Sequential(nn.Dropout(0.5), network).train(draw(st.booleans()))
    layouts = ("contiguous", "permuted", "offset", "strided")
    shape = (draw(st.integers(1, 6)), features)
    return model, draw(tensors(shape, layouts=layouts, max_magnitude=10))


@law(
    right=predict,
    wrong={
        keeps_the_graph: "no graph",
        squeezes: "one row of probabilities for each image",
        returns_logits: "sum to 1",
        over_the_images: "sum to 1",
        centres_in_place: "the images are unchanged",
        stays_in_eval: "the model is unchanged",
    },
)
@given(drawn=models_and_images())
def test_each_image_gets_probabilities_and_no_graph(
    predict: Callable[[nn.Module, Tensor], Tensor], drawn: tuple[nn.Module, Tensor]
) -> None:
    """Each image gets one row of probabilities; no graph is kept and nothing is changed."""
    model, images = drawn
    classes = model[1][-1].out_features
    before, image_bits = state_of(model), bits(images)

    result = predict(model, images)

    assert result.shape == (len(images), classes), "one row of probabilities for each image"
    assert close(result.sum(dim=1), torch.ones(len(images)), 1e-5), "the probabilities sum to 1"
    assert bool((result >= 0).all()), "no probability is negative"
    assert not result.requires_grad, "no graph is kept"
    assert bits(images) == image_bits, "the images are unchanged"
    assert state_of(model) == before, "the model is unchanged"


@law(right=predict, wrong={restores_only_after_success: "each module keeps its mode"})
@given(drawn=models_and_images())
def test_the_modes_survive_images_that_do_not_fit(
    predict: Callable[[nn.Module, Tensor], Tensor], drawn: tuple[nn.Module, Tensor]
) -> None:
    """An error in the forward pass leaves each module in the mode it had."""
    model, images = drawn
    before = modes_of(model)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        predict(model, torch.cat([images, images], dim=1))

    assert modes_of(model) == before, "each module keeps its mode"


@law(
    right=predict,
    wrong={leaves_dropout_on: "the same probabilities", over_the_images: "the same probabilities"},
)
@given(drawn=models_and_images(), data=st.data())
def test_an_image_has_the_same_probabilities_in_any_batch(
    predict: Callable[[nn.Module, Tensor], Tensor],
    drawn: tuple[nn.Module, Tensor],
    data: st.DataObject,
) -> None:
    """A second call, or other batches, give the same probabilities."""
    model, images = drawn
    size = data.draw(st.integers(1, len(images)), label="batch size")

    result = predict(model, images)

    assert same(predict(model, images), result), "a second call gives the same probabilities"
    # Another batch size may take another kernel, whose sums round differently.
    parts = torch.cat([predict(model, part) for part in images.split(size)])
    assert close(parts, result, 1e-5, 1e-6), "smaller batches give the same probabilities"
    # float32 against float64: the tolerance is wider, for logits may be large and of either sign.
    expected = softmax(copy.deepcopy(model).double().eval()(images.double()).numpy(force=True))
    assert close(result, torch.as_tensor(expected), 1e-3, 1e-5), "the same probabilities as float64"
