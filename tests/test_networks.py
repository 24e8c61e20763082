"""Lesson 2, second part: what a network computes.

A fully connected network is a chain: each layer multiplies its input with a matrix of weights and
adds a bias, and between the layers an activation bends what would else be one straight map. What
goes in is a batch: dimension 0 counts the examples, and no example may know of its neighbours. What
comes out are logits, one number a class; softmax makes them probabilities.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import erf
from torch import Tensor, nn

from dlconcepts.compare import bits, same
from dlconcepts.networks import ACTIVATIONS, Network, flatten
from dlconcepts.plots import view_classify
from dlconcepts.strategies import FLOATS, networks, shapes, tensors

claim = pytest.mark.claim

WRITABLE = ("contiguous", "permuted", "offset", "strided")
EXACT: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}

Sizes = tuple[int, list[int], int]

sides = st.integers(1, 4)
seeds = st.integers(0, 2**16)
architectures = st.tuples(sides, st.lists(sides, max_size=3), sides)
deep = st.tuples(sides, st.lists(sides, min_size=1, max_size=3), sides)
activations = st.sampled_from(sorted(ACTIVATIONS, key=list(EXACT).index))


def fill(model: nn.Module, seed: int) -> None:
    """Set all weights and biases of a model: to ones by seed 0, else to random numbers.

    Small ones too, and large ones: an activation is met where it is straight and where it is flat.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    scale = (1.0, 1e-4, 10.0)[seed % 3]
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, device="cpu")
            parameter.copy_(scale * values if seed else torch.ones_like(values))


def inputs(*shape: int, **options: Any) -> st.SearchStrategy[Tensor]:
    """Draw float64 inputs of a network, none beyond 10."""
    return tensors(shape, torch.float64, max_magnitude=10, **options)


# ------------------------------------------------- dimensions


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


@claim(
    "networks.dimensions",
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


@claim("networks.dimensions", right=Network, wrong={CutsOrPads: "DID NOT RAISE"})
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


@claim(
    "networks.dimensions",
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


# ------------------------------------------------- softmax


def schoolbook_softmax(logits: Tensor, dim: int) -> Tensor:
    """Compute exp(x) / sum(exp(x)) as it is written, which overflows."""
    return logits.exp() / logits.exp().sum(dim, keepdim=True)


def softmax_over_the_batch(logits: Tensor, dim: int) -> Tensor:
    """Share each class out among the examples."""
    return logits.softmax(0)


def sigmoid(logits: Tensor, dim: int) -> Tensor:
    """Squash each score by itself."""
    return logits.sigmoid()


def divides_by_the_batch_total(logits: Tensor, dim: int) -> Tensor:
    """Divide by the total of the whole batch."""
    powers = (logits - logits.amax(dim, keepdim=True)).exp()
    return powers / powers.sum()


def powers_of_two(logits: Tensor, dim: int) -> Tensor:
    """Take powers of two for powers of e."""
    return (logits * math.log(2)).softmax(dim)


def one_for_the_largest(logits: Tensor, dim: int) -> Tensor:
    """Give all to the class with the highest score."""
    return F.one_hot(logits.argmax(dim), logits.shape[dim]).to(logits.dtype)


logit_batches = tensors(
    st.tuples(st.integers(0, 4), st.integers(1, 5)), st.sampled_from(FLOATS), max_magnitude=1e4
)


@claim(
    "networks.softmax-is-a-distribution",
    right=torch.softmax,
    wrong={
        schoolbook_softmax: "between 0 and 1",
        softmax_over_the_batch: "each row sums to 1",
        sigmoid: "each row sums to 1",
        divides_by_the_batch_total: "each row sums to 1",
        powers_of_two: "exp(x) over the row's sum",
        one_for_the_largest: "exp(x) over the row's sum",
    },
)
@given(logits=logit_batches)
def test_softmax_makes_a_distribution_of_each_row(
    softmax: Callable[..., Tensor], logits: Tensor
) -> None:
    """Probabilities sum to 1 in each row and keep the order of the logits, up to +-10,000.

    Rounding: one for each element and the sum; exp(x - max) is off by |x - max| units more, since
    that difference is rounded.
    """
    probabilities = softmax(logits, dim=1)

    assert probabilities.dtype == logits.dtype, "softmax keeps the dtype"
    found, x = (part.double().numpy(force=True) for part in (probabilities, logits))
    epsilon, classes = torch.finfo(logits.dtype).eps, logits.shape[1]
    assert ((found >= 0) & (found <= 1)).all(), "a probability is between 0 and 1"
    assert (np.abs(found.sum(1) - 1) <= classes * epsilon).all(), "each row sums to 1"
    below = x[:, :, None] < x[:, None, :]
    assert not (below & (found[:, :, None] > found[:, None, :])).any(), "the order is kept"
    depth = x - x.max(1, keepdims=True)
    exact = np.exp(depth) / np.exp(depth).sum(1, keepdims=True)
    bound = epsilon * (classes + 4 - depth) * exact + torch.finfo(logits.dtype).smallest_normal
    assert (np.abs(found - exact) <= bound).all(), "a probability is exp(x) over the row's sum"


@claim(
    "networks.softmax-is-a-distribution",
    right=torch.softmax,
    wrong={
        schoolbook_softmax: "a constant added to a row changes nothing",
        sigmoid: "a constant added to a row changes nothing",
    },
)
@given(
    logits=st.tuples(st.integers(1, 3), st.integers(1, 4)).flatmap(
        lambda shape: st.lists(
            st.lists(st.integers(-9, 9), min_size=shape[1], max_size=shape[1]),
            min_size=shape[0],
            max_size=shape[0],
        )
    ),
    constant=st.integers(-100, 100),
    dtype=st.sampled_from(FLOATS),
)
def test_softmax_sees_differences_only(
    softmax: Callable[..., Tensor], logits: list[list[int]], constant: int, dtype: torch.dtype
) -> None:
    """A constant added to a row changes no bit, where the sum is exact as with whole numbers."""
    rows = torch.tensor(logits, dtype=dtype)
    lifted = torch.cat([rows[:1] + constant, rows[1:]])

    unchanged = bits(softmax(lifted, dim=1)) == bits(softmax(rows, dim=1))

    assert unchanged, "a constant added to a row changes nothing"


# ------------------------------------------------- the loss


def compares_with_the_prediction(logits: Tensor, labels: Tensor) -> Tensor:
    """Take the predicted class for the true one."""
    return F.cross_entropy(logits, logits.argmax(1))


def squared_error_on_class_numbers(logits: Tensor, labels: Tensor) -> Tensor:
    """Measure how far the number of the predicted class is from the label's."""
    return (logits.argmax(1) - labels).double().square().mean()


def softmax_twice(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the loss probabilities, of which it takes the softmax again."""
    return F.cross_entropy(logits.softmax(1), labels)


def sums_the_batch(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the examples, so that a larger batch has a larger loss."""
    return F.cross_entropy(logits, labels, reduction="sum")


def halves_with_each_example(logits: Tensor, labels: Tensor) -> Tensor:
    """Average as one goes, (loss + new) / 2, which counts the last example most."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    mean = losses[0]
    for loss in losses[1:]:
        mean = (mean + loss) / 2
    return mean


@st.composite
def scored_batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw logits, float64 up to +-10, and labels."""
    batch, classes = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch))
    return draw(inputs(batch, classes)), torch.tensor(labels)


@claim(
    "networks.loss-compares-with-the-label",
    right=F.cross_entropy,
    wrong={
        compares_with_the_prediction: "probability of the label's class",
        squared_error_on_class_numbers: "probability of the label's class",
        softmax_twice: "probability of the label's class",
        sums_the_batch: "probability of the label's class",
        halves_with_each_example: "probability of the label's class",
    },
)
@given(batch=scored_batches(), certain=st.booleans())
def test_the_loss_is_minus_the_log_of_the_labels_probability(
    loss_fn: Callable[[Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor], certain: bool
) -> None:
    """The loss is the mean of -log p(label), at least 0, and 0 for nothing but certainty."""
    logits, labels = batch
    logits = logits + 1e3 * F.one_hot(labels, logits.shape[1]) * certain

    loss = loss_fn(logits, labels).item()

    x, rows = logits.numpy(force=True), np.arange(len(labels))
    top = x.max(1, keepdims=True)
    log_p = x - top - np.log(np.exp(x - top).sum(1, keepdims=True))
    of_labels = log_p[rows, labels.numpy(force=True)]
    assert loss >= 0, "the loss is at least 0"
    assert abs(loss + of_labels.mean()) <= 1e-12 * (1 + abs(of_labels).max()), (
        "the loss is minus the log of the probability of the label's class"
    )
    assert (loss == 0) == certain, "the loss is 0 for certainty in the right class only"


@claim(
    "networks.loss-compares-with-the-label",
    right=F.cross_entropy,
    wrong={
        compares_with_the_prediction: "falls as the probability of the label's class grows",
        squared_error_on_class_numbers: "falls as the probability of the label's class grows",
    },
)
@given(batch=scored_batches(), rise=st.integers(1, 5), data=st.data())
def test_the_loss_falls_as_the_right_class_gains(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
    rise: int,
    data: st.DataObject,
) -> None:
    """Raising the score of one example's right class lowers the loss."""
    logits, labels = batch
    row = data.draw(st.integers(0, len(labels) - 1), label="row")
    raised = logits.clone()
    raised[row, labels[row]] += rise

    falls = loss_fn(raised, labels) < loss_fn(logits, labels)

    assert bool(falls), "the loss falls as the probability of the label's class grows"


@claim(
    "networks.loss-compares-with-the-label",
    right=F.cross_entropy,
    wrong={halves_with_each_example: "does not depend on the order"},
)
@given(batch=scored_batches(), data=st.data())
def test_the_loss_does_not_depend_on_the_order(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
    data: st.DataObject,
) -> None:
    """The examples of a batch count the same wherever they stand."""
    logits, labels = batch
    order = torch.tensor(data.draw(st.permutations(range(len(labels))), label="order"))

    difference = loss_fn(logits[order], labels[order]) - loss_fn(logits, labels)

    assert abs(difference.item()) <= 1e-12, "the loss does not depend on the order of the batch"


# ------------------------------------------------- forward


class HasNoActivation(Network):
    """A network of layers alone: whatever their number, one affine map."""

    def forward(self, images: Tensor) -> Tensor:
        """Apply the layers."""
        features = flatten(images, self.in_features)
        for layer in (*self.hidden, self.output):
            features = layer(features)
        return features


class ActivatesTheOutput(Network):
    """A network that applies the activation after the output layer too."""

    def forward(self, images: Tensor) -> Tensor:
        """Apply the activation once more."""
        return ACTIVATIONS[self.activation](super().forward(images))


class SwapsHiddenLayers(Network):
    """A network that applies its hidden layers from the last to the first, where they fit."""

    def forward(self, images: Tensor) -> Tensor:
        """Apply the hidden layers in reverse."""
        if len({layer.weight.shape for layer in self.hidden}) > 1:
            return super().forward(images)
        features = flatten(images, self.in_features)
        for layer in reversed(self.hidden):
            features = ACTIVATIONS[self.activation](layer(features))
        return self.output(features)


class AlwaysSigmoid(Network):
    """A network that takes sigmoid for whatever activation was asked."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        """Forget what was asked."""
        super().__init__(*sizes, **options)
        self.activation = "sigmoid"


class DropsInEvalMode(Network):
    """A network whose dropout does not switch off."""

    def forward(self, images: Tensor) -> Tensor:
        """Turn dropout on."""
        self.dropout.train()
        return super().forward(images)


@claim(
    "networks.forward-chains-layers",
    right=Network,
    wrong={
        HasNoActivation: "layer, activation, layer",
        ActivatesTheOutput: "layer, activation, layer",
        SwapsHiddenLayers: "layer, activation, layer",
        AlwaysSigmoid: "layer, activation, layer",
        DropsInEvalMode: "layer, activation, layer",
    },
)
@given(
    sizes=architectures,
    activation=activations,
    dropout=st.sampled_from([0.0, 0.5, 1.0]),
    seed=seeds,
    data=st.data(),
)
def test_forward_is_the_chain_of_its_layers(
    build: Callable[..., nn.Module],
    sizes: Sizes,
    activation: str,
    dropout: float,
    seed: int,
    data: st.DataObject,
) -> None:
    """Logits are those of the same chain in numpy, the classes' probabilities their softmax.

    The bound is 1e-13 of the same chain of absolute values, which no sum can exceed.
    """
    model = build(*sizes, activation=activation, dropout=dropout).double().eval()
    fill(model, seed)
    batch = data.draw(st.integers(0, 3), label="batch")
    images = data.draw(inputs(batch, sizes[0]), label="images")

    logits = model(images)

    parameters = [parameter.numpy(force=True) for parameter in model.parameters()]
    features = images.numpy(force=True)
    size = np.abs(features)
    for layer, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        if layer:
            features, size = EXACT[activation](features), size + 1
        features = features @ weight.T + bias
        size = size @ np.abs(weight.T) + np.abs(bias)
    assert logits.shape == features.shape, "the chain has one row for each example"
    assert (np.abs(logits.numpy(force=True) - features) <= 1e-13 * size).all(), (
        "forward is layer, activation, layer and so on"
    )


class DropsTheLogits(Network):
    """A network with dropout after its last layer too."""

    def forward(self, images: Tensor) -> Tensor:
        """Drop scores of classes."""
        return self.dropout(super().forward(images))


class DropsBeforeTheActivation(Network):
    """A network that drops what goes into the activation, where sigmoid makes 0.5 of nothing."""

    def forward(self, images: Tensor) -> Tensor:
        """Apply layer, dropout, activation."""
        features = flatten(images, self.in_features)
        for layer in self.hidden:
            features = ACTIVATIONS[self.activation](self.dropout(layer(features)))
        return self.output(features)


class DropsNothing(Network):
    """A network that forgets to apply its dropout."""

    def __init__(self, *sizes: Any, dropout: float, **options: Any) -> None:
        """Leave out the dropout."""
        super().__init__(*sizes, **options)


@claim(
    "networks.forward-chains-layers",
    right=Network,
    wrong={
        DropsTheLogits: "spares the logits",
        DropsBeforeTheActivation: "all features of a hidden layer",
        DropsNothing: "all features of a hidden layer",
    },
)
@given(sizes=deep, activation=activations, seed=seeds, data=st.data())
def test_dropout_acts_on_the_hidden_features(
    build: Callable[..., nn.Module],
    sizes: Sizes,
    activation: str,
    seed: int,
    data: st.DataObject,
) -> None:
    """In training, a dropout of 1 leaves of the logits the bias of the last layer, and no less."""
    model = build(*sizes, activation=activation, dropout=1.0).double()
    fill(model, seed)
    images = data.draw(inputs(2, sizes[0]), label="images")

    logits = model(images)

    bias = list(model.parameters())[-1]
    assert bool((logits.ne(0) | bias.eq(0)).all()), "dropout spares the logits"
    assert same(logits, bias.expand(2, -1)), "a dropout of 1 drops all features of a hidden layer"


# ------------------------------------------------- ReLU


def absolute_value(x: Tensor) -> Tensor:
    """Turn negative numbers around."""
    return x.abs()


def leaks(x: Tensor) -> Tensor:
    """Let a hundredth of the negative side through."""
    return F.leaky_relu(x)


def writes_over_its_input(x: Tensor) -> Tensor:
    """Call relu_, and destroy what someone else may still need."""
    return torch.relu_(x)


def chooses_where_positive(x: Tensor) -> Tensor:
    """Ask whether x is above 0, which NaN is not, so that it disappears."""
    return torch.where(x > 0, x, torch.zeros_like(x))


@claim(
    "networks.relu",
    right=torch.relu,
    wrong={
        absolute_value: "max(0, x)",
        leaks: "max(0, x)",
        writes_over_its_input: "leaves its input alone",
        chooses_where_positive: "NaN stays NaN",
    },
)
@given(
    x=tensors(dtype=st.sampled_from(FLOATS), layouts=WRITABLE, allow_nan=True, allow_infinity=True)
)
def test_relu_is_the_larger_of_0_and_x(relu: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """ReLU is max(0, x), a second time changes nothing, NaN stays NaN and the input as it was."""
    before = x.clone()

    y = relu(x)

    assert bits(x) == bits(before), "ReLU leaves its input alone"
    assert same(y.isnan(), before.isnan()), "NaN stays NaN"
    expected = np.maximum(before.double().numpy(force=True), 0)
    assert np.array_equal(y.double().numpy(force=True), expected, equal_nan=True), (
        "ReLU is max(0, x)"
    )
    assert same(relu(y), y), "ReLU of ReLU is ReLU"


def takes_the_maximum(x: Tensor) -> Tensor:
    """Take the larger of two tensors, which share the gradient where they are equal."""
    return torch.maximum(x, torch.zeros_like(x))


def cuts_the_gradient(x: Tensor) -> Tensor:
    """Multiply with a mask, of x that was detached."""
    return x.detach() * (x > 0) + 0 * x


@claim(
    "networks.relu",
    right=torch.relu,
    wrong={
        absolute_value: "1 above zero, and 0 at and below it",
        leaks: "1 above zero, and 0 at and below it",
        takes_the_maximum: "1 above zero, and 0 at and below it",
        cuts_the_gradient: "1 above zero, and 0 at and below it",
    },
)
@given(x=tensors(dtype=st.sampled_from(FLOATS), requires_grad=True))
def test_the_gradient_of_relu_is_a_step(relu: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """The gradient is 1 above zero and 0 at and below it, times what comes in."""
    incoming = torch.arange(1, 1 + x.numel(), dtype=x.dtype).view(x.shape)

    (gradient,) = torch.autograd.grad(relu(x), x, incoming)

    assert same(gradient, incoming * (x > 0)), "the gradient is 1 above zero, and 0 at and below it"


# ------------------------------------------------- the batch is dimension 0


class SoftmaxOverTheBatch(Network):
    """A network that ends in a softmax over dimension 0."""

    def forward(self, images: Tensor) -> Tensor:
        """Share each class out among the examples."""
        return super().forward(images).softmax(0)


class MixesExamples(Network):
    """A network that transposes on the way to its rows."""

    def forward(self, images: Tensor) -> Tensor:
        """Read the batch column by column."""
        rows = images.flatten(1)
        return super().forward(rows.T.reshape(rows.shape))


class SubtractsTheBatchMean(Network):
    """A network that centres its inputs with the mean of the batch they are in."""

    def forward(self, images: Tensor) -> Tensor:
        """Subtract the mean over dimension 0."""
        return super().forward(images - images.mean(0))


@claim(
    "networks.batch-is-dimension-zero",
    right=Network,
    wrong={
        SoftmaxOverTheBatch: "depends on that example alone",
        MixesExamples: "depends on that example alone",
        SubtractsTheBatchMean: "depends on that example alone",
    },
)
@given(
    sizes=deep,
    activation=activations,
    dropout=st.sampled_from([0.0, 0.5]),
    seed=seeds,
    data=st.data(),
)
def test_an_output_depends_on_its_example_alone(
    build: Callable[..., nn.Module],
    sizes: Sizes,
    activation: str,
    dropout: float,
    seed: int,
    data: st.DataObject,
) -> None:
    """In eval mode, alone, in another order, or with other neighbours an example scores the same.

    Up to 1e-13 of the largest sum: another batch size may add in another order.
    """
    model = build(*sizes, activation=activation, dropout=dropout).double().eval()
    fill(model, seed)
    batch = data.draw(st.integers(1, 3), label="batch")
    images = data.draw(inputs(batch, sizes[0]), label="images")
    others = data.draw(inputs(batch, sizes[0]), label="neighbours")
    order = data.draw(st.permutations(range(batch)), label="order")
    row = data.draw(st.integers(0, batch - 1), label="row")
    others = torch.cat([others[:row], images[row : row + 1], others[row + 1 :]])
    sums = [float(part.detach().abs().sum()) for part in model.parameters()]
    largest = math.prod(1 + one + other for one, other in zip(sums[::2], sums[1::2], strict=True))
    tolerance = {"rtol": 0, "atol": 1e-13 * largest * (1 + float(images.abs().max()))}

    output = model(images)

    message = "an example's output depends on that example alone"
    alone = torch.cat([model(image) for image in images.split(1)])
    torch.testing.assert_close(alone, output, **tolerance, msg=message)
    torch.testing.assert_close(model(images[order]), output[order], **tolerance, msg=message)
    torch.testing.assert_close(model(others)[row], output[row], **tolerance, msg=message)


# ------------------------------------------------- flattening


def resizes_to_four(images: Tensor, in_features: int) -> Tensor:
    """Hard-code the size of a full batch, as in resize_(64, 784): pixels are invented or lost."""
    return images.clone().resize_(4, in_features)


def column_by_column(images: Tensor, in_features: int) -> Tensor:
    """Flatten from top to bottom."""
    return images.transpose(-1, -2).flatten(1)


def channel_last(images: Tensor, in_features: int) -> Tensor:
    """Put the channels of a pixel beside each other."""
    return images.permute(0, 2, 3, 1).flatten(1)


@claim(
    "networks.flatten-images",
    right=flatten,
    wrong={
        resizes_to_four: "one row for each image",
        column_by_column: "pixel (b, c, i, j)",
        channel_last: "pixel (b, c, i, j)",
    },
)
@given(
    images=tensors(
        st.tuples(
            st.sampled_from([1, 2, 3, 5, 0]),
            st.integers(1, 3),
            st.integers(1, 4),
            st.integers(1, 4),
        ),
        st.sampled_from(FLOATS),
    )
)
def test_each_image_becomes_a_row(flatten: Callable[..., Tensor], images: Tensor) -> None:
    """Pixel (b, c, i, j) is at position (c * H + i) * W + j of row b, and comes back."""
    batch, channels, height, width = images.shape
    before = bits(images)

    rows = flatten(images, channels * height * width)

    assert rows.shape == (batch, channels * height * width), "one row for each image"
    for b, c, i, j in np.ndindex(*images.shape):
        there = same(rows[b, (c * height + i) * width + j], images[b, c, i, j])
        assert there, "pixel (b, c, i, j) is at position (c * H + i) * W + j of row b"
    assert same(rows.reshape(images.shape), images), "the images can be had back"
    assert bits(images) == before, "the images stay as they were"


def views_as_rows(images: Tensor, in_features: int) -> Tensor:
    """Let view find the number of rows, which mixes images of another size without an error."""
    return images.contiguous().view(-1, in_features)


def resizes_to_rows(images: Tensor, in_features: int) -> Tensor:
    """Resize to the rows that should come out."""
    return images.clone().resize_(len(images), in_features)


@claim(
    "networks.flatten-images",
    right=flatten,
    wrong={views_as_rows: "DID NOT RAISE", resizes_to_rows: "DID NOT RAISE"},
)
@given(
    in_features=st.integers(1, 4), factor=st.integers(2, 3), batch=st.integers(1, 3), data=st.data()
)
def test_images_of_another_size_are_not_mixed(
    flatten: Callable[..., Tensor], in_features: int, factor: int, batch: int, data: st.DataObject
) -> None:
    """Images with twice the pixels raise; they do not become twice the images."""
    images = data.draw(tensors((batch, 1, factor, in_features)), label="images")

    with pytest.raises(ValueError, match=f"{in_features} values.* {factor * in_features} each"):
        flatten(images, in_features)


# ------------------------------------------------- calling the model


def calls_the_model(model: nn.Module, x: Tensor) -> Tensor:
    """Call the model, which calls forward between its hooks."""
    return model(x)


def calls_forward(model: nn.Module, x: Tensor) -> Tensor:
    """Call forward, as the notes say."""
    return model.forward(x)


def calls_each_layer(model: nn.Module, x: Tensor) -> Tensor:
    """Walk through the layers oneself."""
    for layer in model.children():
        x = layer(x)
    return x


def calls_twice(model: nn.Module, x: Tensor) -> Tensor:
    """Run the model once for nothing."""
    model(x)
    return model(x)


@claim(
    "networks.call-forward",
    right=calls_the_model,
    wrong={
        calls_forward: "runs each hook exactly once",
        calls_each_layer: "runs each hook exactly once",
        calls_twice: "runs each hook exactly once",
    },
)
@given(
    model=networks([2, 3, 2]),
    x=tensors((2, 2)),
    hooks=st.lists(st.sampled_from(["before", "after"]), min_size=1, max_size=3),
)
def test_calling_the_model_runs_its_hooks(
    call: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, x: Tensor, hooks: list[str]
) -> None:
    """model(x) runs each hook once, model.forward(x) none, and the values are the same."""
    ran: list[int] = []
    for number, kind in enumerate(hooks):
        register = {
            "before": model.register_forward_pre_hook,
            "after": model.register_forward_hook,
        }[kind]
        register(lambda *_, number=number: ran.append(number))

    without = model.forward(x)
    skipped = list(ran)
    values = call(model, x)

    assert skipped == [], "forward runs no hook of its model"
    assert sorted(ran) == list(range(len(hooks))), "calling runs each hook exactly once"
    assert same(values, without), "the values are the same"


def keeps_the_output(model: nn.Module, x: Tensor) -> Tensor:
    """Run the hooks but return what forward returned."""
    output = model.forward(x)
    model(x)
    return output


@claim(
    "networks.call-forward",
    right=calls_the_model,
    wrong={
        calls_forward: "is what a hook made of it",
        keeps_the_output: "is what a hook made of it",
    },
)
@given(model=networks([2, 2]), x=tensors((1, 2), max_magnitude=10), factor=st.integers(2, 3))
def test_a_hook_may_change_the_output(
    call: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, x: Tensor, factor: int
) -> None:
    """What a forward hook returns takes the place of what forward returned."""
    expected = model(x) * factor
    assume(bool(expected.any()))
    model.register_forward_hook(lambda module, arguments, output: output * factor)

    assert same(call(model, x), expected), "the output is what a hook made of it"


# ------------------------------------------------- class scores


def log_probabilities_as_bars(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Draw what a network that ends in LogSoftmax returns."""
    figure = view_classify(image, probabilities, classes, **options)
    for bar, value in zip(figure.axes[1].patches, probabilities.log().tolist(), strict=True):
        bar.set_width(max(value, -1e3))
    return figure


def reshapes_its_argument(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Shape the caller's image for the drawing, as the course's helper does."""
    return view_classify(image.resize_(image.shape[-2:]), probabilities, classes, **options)


def sorts_bars_but_not_labels(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Draw the longest bar first, under the first class's name."""
    return view_classify(image, probabilities.sort(descending=True).values, classes, **options)


def stretches_the_contrast(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Let Matplotlib make the darkest pixel black and the brightest white."""
    figure = view_classify(image, probabilities, classes, **options)
    figure.axes[0].images[0].autoscale()
    return figure


def shows_the_normalised_image(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Show the numbers that the network sees."""
    figure = view_classify(image, probabilities, classes, **options)
    (shown,) = figure.axes[0].images
    shown.set_data((shown.get_array() - options.get("mean", 0.5)) / options.get("std", 0.5))
    return figure


def normalises_the_scores_in_place(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Divide the caller's probabilities by the largest, to fill the axis."""
    figure = view_classify(image, probabilities, classes, **options)
    probabilities /= probabilities.max()
    return figure


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Tensor, NDArray[np.float64], dict[str, float]]:
    """Draw an image, bytes or normalised, what is to be seen of it from 0 to 1, and how."""
    channels = draw(st.sampled_from([(), (1,), (3,)]))
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    image = draw(tensors((*channels, height, width), torch.uint8, layouts=WRITABLE))
    colours = image.numpy(force=True).reshape(-1, height, width) / 255
    shown = np.moveaxis(colours, 0, -1) if channels == (3,) else colours[0]
    if not draw(st.booleans()):
        return image, shown, {}
    mean, std = draw(st.sampled_from([(0.5, 0.5), (0.3, 0.2)]))
    return (image.double() / 255 - mean) / std, shown, {"mean": mean, "std": std}


@claim(
    "networks.class-scores",
    right=view_classify,
    wrong={
        log_probabilities_as_bars: "as long as its probability",
        reshapes_its_argument: "neither argument is changed",
        sorts_bars_but_not_labels: "as long as its probability",
        stretches_the_contrast: "0 is black and 1 is white",
        shows_the_normalised_image: "the image before it was normalised",
        normalises_the_scores_in_place: "neither argument is changed",
    },
    share=0.2,
    because="each example draws a figure",
)
@given(
    picture=pictures(),
    weights=st.lists(st.integers(0, 9), min_size=2, max_size=4).filter(any),
    labelled=st.booleans(),
)
def test_the_figure_shows_the_image_and_a_bar_for_each_class(
    view: Callable[..., Figure],
    picture: tuple[Tensor, NDArray[np.float64], dict[str, float]],
    weights: list[int],
    labelled: bool,
) -> None:
    """The un-normalised image, and a bar for each class that is as long as its probability."""
    image, shown, statistics = picture
    probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    classes = ["cat", "dog", "owl", "ant"][: len(weights)]
    expected = dict(zip(classes, probabilities.tolist(), strict=True))
    before = (bits(image), image.shape, bits(probabilities), probabilities.shape)

    figure = view(image, probabilities, classes, label=0 if labelled else None, **statistics)

    after = (bits(image), image.shape, bits(probabilities), probabilities.shape)
    assert after == before, "neither argument is changed"
    left, right = figure.axes
    (drawn,) = left.images
    assert np.allclose(drawn.get_array(), shown, rtol=0, atol=1e-12), (
        "the figure shows the image before it was normalised"
    )
    assert drawn.get_clim() == (0, 1), "0 is black and 1 is white"
    ticks = zip(right.get_yticks(), right.get_yticklabels(), strict=True)
    names = {position: label.get_text() for position, label in ticks}
    bars = {names[bar.get_y() + bar.get_height() / 2]: bar.get_width() for bar in right.patches}
    assert bars == expected, "each class has one bar, as long as its probability"


def draws_anything(
    image: Tensor, scores: Tensor, classes: Sequence[str], label: int | None = None
) -> Figure:
    """Draw scores of any kind, with as many of the names as there are."""
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.imshow(image.numpy(force=True).reshape(image.shape[-1], -1))
    right.barh([str(name) for name, _ in zip(classes, scores.flatten(), strict=False)], 1)
    return figure


@st.composite
def unfit_scores(draw: st.DrawFn) -> tuple[tuple[Any, ...], int | None, str]:
    """Draw arguments of which one is unfit, a label, and what the error says."""
    case = draw(st.sampled_from(["logits", "classes", "image", "label"]))
    image, fair, classes = torch.zeros(2, 2), torch.tensor([0.5, 0.5]), ["cat", "dog"]
    if case == "logits":
        scores = draw(
            st.sampled_from([[2.0, -1.0], [-0.7, -0.7], [0.9, 0.9], [0.2, 0.2], [math.nan, 1.0]])
        )
        return (image, torch.tensor(scores), classes), None, "no probabilities"
    if case == "classes":
        names = draw(st.sampled_from([["cat"], ["cat", "dog", "owl"]]))
        return (image, fair, names), None, f"{len(names)} classes.*2"
    if case == "image":
        shape = draw(st.sampled_from([(4,), (2, 2, 2), (1, 1, 2, 2)]))
        return (torch.zeros(shape), fair, classes), None, "image has shape"
    label = draw(st.sampled_from([-1, 2]))
    return (image, fair, classes), label, f"label.*{label}"


@claim(
    "networks.class-scores",
    right=view_classify,
    wrong={draws_anything: "DID NOT RAISE"},
)
@given(case=unfit_scores())
def test_scores_that_are_no_probabilities_are_not_drawn(
    view: Callable[..., Figure], case: tuple[tuple[Any, ...], int | None, str]
) -> None:
    """Logits, log-probabilities, too few names, other shapes and labels that are no class raise."""
    arguments, label, message = case

    with pytest.raises(ValueError, match=message):
        view(*arguments, label=label)
