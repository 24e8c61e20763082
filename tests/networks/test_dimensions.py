"""A network of sizes 784, 128, 64 and 10 has three layers and 109,386 parameters.

>>> from dlconcepts.networks import Network
>>> model = Network(784, [128, 64], 10)
>>> [tuple(parameter.shape) for parameter in model.parameters()]
[(128, 784), (128,), (64, 128), (64,), (10, 64), (10,)]
>>> sum(parameter.numel() for parameter in model.parameters())
109386
>>> model(torch.ones(3, 28, 28)).shape
torch.Size([3, 10])

Notes: 784 inputs (28 x 28), hidden layers of 128 and 64, 10 outputs. (The notes once write
    784x28x28.)
Verdict: holds
Truth: A layer from n to m features has (n + 1) * m parameters: n weights and one bias for each
    output. Any chain of sizes gives one row of scores for each example, for any batch size from 0.
    Images of another width raise.
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


class SkipsALayer(Network):
    """A network that skips the first of its hidden layers."""

    def __init__(self, in_features: int, hidden_features: list[int], out_features: int) -> None:
        super().__init__(in_features, hidden_features[1:], out_features)


class HasNoBias(Network):
    """A network whose layers multiply but add no bias."""

    def __init__(self, in_features: int, hidden_features: list[int], out_features: int) -> None:
        super().__init__(in_features, hidden_features, out_features)
        for layer in (*self.hidden, self.output):
            layer.bias = None


class FlattensTheBatch(Network):
    """A network that flattens the whole batch into one row, and cuts the row to fit."""

    def forward(self, images: Tensor) -> Tensor:
        # The padding lets an empty batch through, so that the law rejects the number of rows.
        row = F.pad(images.flatten(), (0, self.in_features))[: self.in_features]
        return super().forward(row.unsqueeze(0))


@law(
    right=Network,
    wrong={
        SkipsALayer: "(in + 1) * out",
        HasNoBias: "(in + 1) * out",
        FlattensTheBatch: "one row of scores for each example",
    },
)
@given(sizes=architectures, batch=st.integers(0, 3), data=st.data())
def test_sizes_give_the_shape_and_the_number_of_parameters(
    build: Callable[..., nn.Module], sizes: Sizes, batch: int, data: st.DataObject
) -> None:
    """A layer has (in + 1) * out parameters, and the network returns one row for each example."""
    in_features, hidden_features, out_features = sizes
    images = data.draw(tensors((batch, in_features)), label="images")

    model = build(*sizes)

    assert model(images).shape == (batch, out_features), "one row of scores for each example"
    chain = [in_features, *hidden_features, out_features]
    expected = sum((width + 1) * next_width for width, next_width in pairwise(chain))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected, (
        "a layer has (in + 1) * out parameters"
    )


class CutsOrPads(Network):
    """A network that cuts or pads images of any size until they fit."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.float().flatten(1)
        # F.pad with a negative width cuts.
        return super().forward(F.pad(rows, (0, self.in_features - rows.shape[1])))


@st.composite
def unfit_batches(draw: st.DrawFn) -> tuple[int, Tensor, type[Exception], str]:
    """Draw in_features, a batch that does not fit, the error and a pattern of its message."""
    case = draw(st.sampled_from(["width", "integers"]))
    in_features, shape = draw(st.integers(1, 9)), draw(shapes(2, 4, min_side=1, max_side=3))
    width = math.prod(shape[1:])
    if case == "integers":
        return width, draw(tensors(shape, torch.uint8)), TypeError, "floats.*uint8"
    assume(width != in_features)
    return in_features, draw(tensors(shape)), ValueError, f"{in_features} values.* {width} each"


@law(right=Network, wrong={CutsOrPads: "DID NOT RAISE"})
@given(case=unfit_batches())
def test_images_of_another_width_are_refused(
    build: Callable[..., nn.Module], case: tuple[int, Tensor, type[Exception], str]
) -> None:
    """Images of another width raise, and the error names both; integers raise."""
    in_features, images, error, message = case
    model, before = build(in_features, [2], 2), bits(images)

    with pytest.raises(error, match=message):
        model(images)

    assert bits(images) == before, "refused images are unchanged"


class SkipsEmptyLayers(Network):
    """A network that skips hidden layers whose size is below 1."""

    def __init__(self, in_features: int, hidden_features: list[int], *rest: Any, **options: Any):
        kept = [size for size in hidden_features if size > 0]
        super().__init__(max(1, in_features), kept, *rest, **options)


class ChecksOnlyTheHidden(Network):
    """A network that turns numbers of inputs and outputs into sizes that PyTorch accepts."""

    def __init__(
        self, in_features: Any, hidden_features: list[int], out_features: Any, **options: Any
    ) -> None:
        ends = (max(1, int(size)) for size in (in_features, out_features))
        super().__init__(next(ends), hidden_features, next(ends), **options)


class FallsBackToReLU(Network):
    """A network that uses ReLU if it does not know the activation."""

    def __init__(self, *sizes: Any, activation: str = "relu", **options: Any) -> None:
        known = activation if activation in ACTIVATIONS else "relu"
        super().__init__(*sizes, activation=known, **options)


class ClampsDropout(Network):
    """A network that clamps the dropout to [0, 1] instead of raising."""

    def __init__(self, *sizes: Any, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(*sizes, dropout=max(0.0, min(dropout, 1.0)), **options)


@st.composite
def invalid_arguments(draw: st.DrawFn) -> tuple[list[Any], dict[str, Any], str]:
    """Draw sizes and options with one invalid value, and a pattern of the error message."""
    sizes: list[Any] = [draw(sides), draw(st.lists(sides, max_size=2)), draw(sides)]
    case = draw(st.sampled_from(["size", "activation", "dropout"]))
    if case == "size":
        size = draw(st.sampled_from([0, -1]))
        place = draw(st.sampled_from(["in_features", "hidden", "out_features"]))
        if place == "hidden":
            sizes[1].insert(draw(st.integers(0, len(sizes[1]))), size)
        else:
            sizes[0 if place == "in_features" else 2] = size
        return sizes, {}, f"at least 1.*{size}"
    if case == "activation":
        name = draw(st.text(st.characters(codec="ascii", categories=["L"])))
        assume(name not in ACTIVATIONS)
        return sizes, {"activation": name}, f"unknown activation '{name}': choose one of relu"
    # NaN fails every comparison, and 50 is what a percentage looks like.
    dropout = draw(st.sampled_from([-0.1, 1.1, math.nan, math.inf, 50]))
    return sizes, {"dropout": dropout}, rf"probability in \[0, 1\], but it is {dropout}"


@law(
    right=Network,
    wrong={
        SkipsEmptyLayers: "DID NOT RAISE",
        ChecksOnlyTheHidden: "DID NOT RAISE",
        FallsBackToReLU: "DID NOT RAISE",
        ClampsDropout: "DID NOT RAISE",
    },
)
@given(case=invalid_arguments())
def test_invalid_arguments_are_refused(
    build: Callable[..., nn.Module], case: tuple[list[Any], dict[str, Any], str]
) -> None:
    """Sizes below 1, unknown activations and a dropout outside [0, 1] raise and are named."""
    sizes, options, message = case

    with pytest.raises(ValueError, match=message):
        build(*sizes, **options)


class ForgetsTheActivation(Network):
    """A network that leaves its activation out of its architecture."""

    @property
    def architecture(self) -> dict[str, Any]:
        return {k: v for k, v in super().architecture.items() if k != "activation"}


@law(right=Network, wrong={ForgetsTheActivation: "the arguments that build it"})
@given(
    sizes=architectures,
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    dropout=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_architecture_has_every_argument(
    build: Callable[..., Network], sizes: Sizes, activation: str, dropout: float
) -> None:
    """The architecture has all that is needed to build the network again."""
    names = ("in_features", "hidden_features", "out_features")
    arguments = dict(zip(names, sizes, strict=True))
    arguments |= {"activation": activation, "dropout": dropout}

    found = build(**arguments).architecture

    assert found == arguments, "the architecture has the arguments that build it"
