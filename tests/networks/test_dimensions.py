"""Dimensions.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: 784 inputs (28 x 28), hidden layers of 128 and 64, 10 outputs. (The notes once write
    784x28x28.)
Verdict: holds
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.networks import ACTIVATIONS, Network
from dlconcepts.strategies import shapes, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.networks.common import Sizes, architectures, sides


class LeavesOutALayer(Network):
    """A network that forgets the first of its hidden layers."""

    def __init__(self, in_features: int, hidden_features: list[int], out_features: int) -> None:
        """Pass on all but the first."""
        super().__init__(in_features, hidden_features[1:], out_features)


class HasNoBias(Network):
    """A network whose layers only multiply."""

    def __init__(self, in_features: int, hidden_features: list[int], out_features: int) -> None:
        """Take the biases away."""
        super().__init__(in_features, hidden_features, out_features)
        for layer in (*self.hidden, self.output):
            layer.bias = None


class FlattensTheBatch(Network):
    """A network that makes one row of the whole batch."""

    def forward(self, images: Tensor) -> Tensor:
        """Flatten from dimension 0 on."""
        return super().forward(images.flatten().repeat(1, 2)[:, : self.in_features])


@law(
    right=Network,
    wrong={
        LeavesOutALayer: "(in + 1) * out",
        HasNoBias: "(in + 1) * out",
        FlattensTheBatch: "one row of scores for each example",
    },
)
@given(sizes=architectures, batch=st.integers(0, 3), data=st.data())
def test_sizes_give_the_shape_and_the_number_of_parameters(
    build: Callable[..., nn.Module], sizes: Sizes, batch: int, data: st.DataObject
) -> None:
    """Any chain of sizes gives outputs (batch, last), and (in + 1) * out parameters a layer."""
    in_features, hidden_features, out_features = sizes
    images = data.draw(tensors((batch, in_features)), label="images")
    assume(batch * in_features > 0 or build is not FlattensTheBatch)

    model = build(*sizes)

    assert model(images).shape == (batch, out_features), "one row of scores for each example"
    chain = [in_features, *hidden_features, out_features]
    expected = sum((width + 1) * next_width for width, next_width in pairwise(chain))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected, (
        "a layer has (in + 1) * out parameters"
    )


class CutsOrPads(Network):
    """A network that makes any image fit."""

    def forward(self, images: Tensor) -> Tensor:
        """Cut long rows, and fill short ones with zeros."""
        if images.ndim < 2:
            images = images.reshape(1, -1)
        rows = images.float().flatten(1)
        return super().forward(F.pad(rows, (0, self.in_features - rows.shape[1])))


@st.composite
def unfit_batches(draw: st.DrawFn) -> tuple[int, Tensor, type[Exception], str]:
    """Draw the width of a network, a batch that it cannot take, the error and what it says."""
    case = draw(st.sampled_from(["width", "no batch", "integers"]))
    in_features, shape = draw(st.integers(1, 9)), draw(shapes(2, 4, min_side=1, max_side=3))
    width = math.prod(shape[1:])
    if case == "no batch":
        return in_features, draw(tensors(shapes(0, 1))), ValueError, r"a batch, \(B, ...\)"
    if case == "integers":
        return width, draw(tensors(shape, torch.uint8)), TypeError, "floats.*uint8"
    assume(width != in_features)
    return in_features, draw(tensors(shape)), ValueError, f"{in_features} values.* {width} each"


@law(right=Network, wrong={CutsOrPads: "DID NOT RAISE"})
@given(case=unfit_batches())
def test_images_of_another_width_are_refused(
    build: Callable[..., nn.Module], case: tuple[int, Tensor, type[Exception], str]
) -> None:
    """Examples of another width raise, and the error names both; so do integers, and no batch."""
    in_features, images, error, message = case
    model, before = build(in_features, [2], 2), bits(images)

    with pytest.raises(error, match=message):
        model(images)

    assert bits(images) == before, "refused images stay as they were"


class SkipsEmptyLayers(Network):
    """A network that leaves out layers of no size."""

    def __init__(self, in_features: int, hidden_features: list[int], *rest: Any, **options: Any):
        """Pass on what has a size."""
        kept = [size for size in hidden_features if size > 0]
        super().__init__(max(1, in_features), kept, *rest, **options)


class FallsBackToReLU(Network):
    """A network that takes an activation it does not know for ReLU."""

    def __init__(self, *sizes: Any, activation: str = "relu", **options: Any) -> None:
        """Pass on what is known."""
        known = activation if activation in ACTIVATIONS else "relu"
        super().__init__(*sizes, activation=known, **options)


class ClampsDropout(Network):
    """A network that moves a dropout into the range of probabilities."""

    def __init__(self, *sizes: Any, dropout: float = 0.0, **options: Any) -> None:
        """Pass on the nearest probability."""
        super().__init__(*sizes, dropout=max(0.0, min(dropout, 1.0)), **options)


@st.composite
def unfit_arguments(draw: st.DrawFn) -> tuple[list[Any], dict[str, Any], str]:
    """Draw arguments of which one is unfit, and what the error says."""
    sizes: list[Any] = [draw(sides), draw(st.lists(sides, max_size=2)), draw(sides)]
    case = draw(st.sampled_from(["size", "activation", "dropout"]))
    if case == "size":
        size = draw(st.sampled_from([0, -1, 2.0, True]))
        assume(size is not None)
        return [sizes[0], [*sizes[1], size], sizes[2]], {}, f"at least 1.*{size}"
    if case == "activation":
        name = draw(st.text(st.characters(codec="ascii", categories=["L"])))
        assume(name not in ACTIVATIONS)
        return sizes, {"activation": name}, f"unknown activation '{name}': choose one of relu"
    dropout = draw(st.sampled_from([-0.1, 1.1, math.nan, math.inf, 50]))
    return sizes, {"dropout": dropout}, rf"probability in \[0, 1\], but it is {dropout}"


@law(
    right=Network,
    wrong={
        SkipsEmptyLayers: "DID NOT RAISE",
        FallsBackToReLU: "DID NOT RAISE",
        ClampsDropout: "DID NOT RAISE",
    },
)
@given(case=unfit_arguments())
def test_arguments_that_make_no_network_are_refused(
    build: Callable[..., nn.Module], case: tuple[list[Any], dict[str, Any], str]
) -> None:
    """Sizes below 1, unknown activations and dropouts outside [0, 1] raise, and are named."""
    sizes, options, message = case

    with pytest.raises(ValueError, match=message):
        build(*sizes, **options)
