"""Lesson 2, third part: how a network is written.

`nn.Module` finds the weights by watching assignments to `self`. Most of what goes wrong in a
network class is a weight that it does not find: nothing complains, and the weight never learns. So
layers are created once, in `__init__`, with their first random weights; forward only uses them.
`nn.Sequential` writes the same chain as a list.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, kstest
from torch import Tensor, nn

from dlconcepts.compare import bits, same
from dlconcepts.networks import Network, flatten, reinitialize, sequential
from dlconcepts.strategies import batches, shapes, tensors

claim = pytest.mark.claim

MODULES = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
Sizes = tuple[int, list[int], int]

sides = st.integers(1, 4)
seeds = st.integers(0, 2**16)
deep = st.tuples(sides, st.lists(sides, min_size=1, max_size=3), sides)
activations = st.sampled_from(list(MODULES))


def inputs(*shape: int, **options: Any) -> st.SearchStrategy[Tensor]:
    """Draw float64 inputs of a network, none beyond 10."""
    return tensors(shape, torch.float64, max_magnitude=10, **options)


def weights_used(output: Tensor) -> set[Tensor]:
    """Return the leaves that autograd would send gradients to: what forward computed with."""
    leaves, functions, seen = set(), [output.grad_fn], set()
    while functions:
        function = functions.pop()
        if function is not None and function not in seen:
            seen.add(function)
            functions += [before for before, _ in function.next_functions]
            if hasattr(function, "variable"):
                leaves.add(function.variable)
    return leaves


# ------------------------------------------------- modules and functions


def functional_form(module: Any, *arguments: Tensor) -> Tensor:
    """Call the function of a module with the module's own parameters and settings."""
    forms: dict[type[nn.Module], Callable[..., Tensor]] = {
        nn.Linear: lambda x: F.linear(x, module.weight, module.bias),
        nn.ReLU: F.relu,
        nn.LeakyReLU: lambda x: F.leaky_relu(x, module.negative_slope),
        nn.PReLU: lambda x: F.prelu(x, module.weight),
        nn.GELU: F.gelu,
        nn.Tanh: torch.tanh,
        nn.Sigmoid: torch.sigmoid,
        nn.Softmax: lambda x: F.softmax(x, dim=module.dim),
        nn.LogSoftmax: lambda x: F.log_softmax(x, dim=module.dim),
        nn.Dropout: lambda x: F.dropout(x, module.p, training=module.training),
        nn.NLLLoss: lambda x, labels: F.nll_loss(x, labels, reduction=module.reduction),
        nn.CrossEntropyLoss: lambda x, labels: F.cross_entropy(
            x, labels, reduction=module.reduction
        ),
    }
    return forms[type(module)](*arguments)


def dropout_by_default(module: Any, *arguments: Tensor) -> Tensor:
    """Call F.dropout(x), whose training=True knows nothing of eval mode."""
    if isinstance(module, nn.Dropout):
        return F.dropout(*arguments, module.p)
    return functional_form(module, *arguments)


def forgets_the_bias(module: Any, *arguments: Tensor) -> Tensor:
    """Multiply with the weight and leave out the bias."""
    if isinstance(module, nn.Linear):
        return F.linear(*arguments, module.weight)
    return functional_form(module, *arguments)


def forgets_the_slope(module: Any, *arguments: Tensor) -> Tensor:
    """Call the function with its default instead of the module's setting."""
    if isinstance(module, nn.LeakyReLU):
        return F.leaky_relu(*arguments)
    return functional_form(module, *arguments)


def forgets_the_reduction(module: Any, *arguments: Tensor) -> Tensor:
    """Take the mean of the batch, whatever reduction the module has."""
    if isinstance(module, nn.CrossEntropyLoss):
        return F.cross_entropy(*arguments)
    return functional_form(module, *arguments)


def cuts_the_slope(module: Any, *arguments: Tensor) -> Tensor:
    """Detach a parameter on the way to its function."""
    if isinstance(module, nn.PReLU):
        return F.prelu(*arguments, module.weight.detach())
    return functional_form(module, *arguments)


LOSSES = (nn.NLLLoss, nn.CrossEntropyLoss)
KINDS = (
    *(nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Softmax),
    *(nn.LogSoftmax, nn.Linear, *LOSSES),
)


@st.composite
def module_calls(draw: st.DrawFn) -> tuple[nn.Module, list[Tensor]]:
    """Draw a module in either mode, and what it is called with."""
    batch, width = draw(shapes(2, 2, min_side=1, max_side=4))
    kind = draw(st.sampled_from(KINDS))
    options: dict[str, Any] = {}
    if kind is nn.Linear:
        options = {"in_features": width, "out_features": 3}
    elif kind is nn.LeakyReLU:
        options = {"negative_slope": 0.2}
    elif kind in (nn.Softmax, nn.LogSoftmax):
        options = {"dim": draw(st.integers(0, 1))}
    elif kind in LOSSES:
        options = {"reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    arguments = [draw(inputs(batch, width, requires_grad=True))]
    if kind in LOSSES:
        labels = draw(st.lists(st.integers(0, width - 1), min_size=batch, max_size=batch))
        arguments.append(torch.tensor(labels))
    return kind(**options).double().train(draw(st.booleans())), arguments


def values_and_gradients(
    call: Callable[..., Tensor], module: nn.Module, arguments: list[Tensor], seed: int
) -> list[Tensor]:
    """Return the output and the gradients of input and parameters under uneven incoming ones."""
    torch.manual_seed(seed)
    output = call(module, *arguments)
    incoming = torch.arange(1, 1 + output.numel(), dtype=output.dtype).view(output.shape)
    leaves = [arguments[0], *module.parameters()]
    gradients = torch.autograd.grad(output, leaves, incoming, allow_unused=True)
    zeros = (torch.zeros_like(leaf) for leaf in leaves)
    pairs = zip(gradients, zeros, strict=True)
    return [output, *(zero if gradient is None else gradient for gradient, zero in pairs)]


@claim(
    "networks.functional-is-the-same",
    right=functional_form,
    wrong={
        dropout_by_default: "of Dropout in eval mode",
        forgets_the_bias: "of Linear",
        forgets_the_slope: "of LeakyReLU",
        forgets_the_reduction: "of CrossEntropyLoss",
        cuts_the_slope: "the gradients of PReLU",
    },
)
@given(drawn=module_calls(), seed=seeds)
def test_a_module_and_its_function_are_the_same(
    functional: Callable[..., Tensor], drawn: tuple[nn.Module, list[Tensor]], seed: int
) -> None:
    """With the module's parameters and settings its function gives the same values, gradients."""
    module, arguments = drawn
    expected, *gradients = values_and_gradients(
        lambda module, *arguments: module(*arguments), module, arguments, seed
    )

    values, *found = values_and_gradients(functional, module, arguments, seed)

    name, mode = type(module).__name__, "training" if module.training else "eval"
    assert bits(values) == bits(expected), f"the function has the values of {name} in {mode} mode"
    assert [bits(gradient) for gradient in found] == [bits(gradient) for gradient in gradients], (
        f"the function has the gradients of {name} in {mode} mode"
    )


# ------------------------------------------------- nn.Module finds the layers


class CallsSuperFirst(nn.Module):
    """A network that calls super().__init__() and then assigns its layers."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        """Call, then assign."""
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


class AssignsBeforeSuper(nn.Module):
    """A network that assigns its layers and then calls super().__init__()."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        """Assign, then call."""
        for name, layer in layers.items():
            setattr(self, name, layer)
        super().__init__()


class KeepsADict(nn.Module):
    """A network that keeps its layers in a plain dictionary."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        """Keep the layers out of sight."""
        super().__init__()
        self.layers = dict(layers)

    def __getattr__(self, name: str) -> nn.Module:
        """Find layers in the dictionary."""
        return self.__dict__["layers"][name]


class ForgetsNnModule:
    """A class that inherits from nothing."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        """Assign to a plain object."""
        for name, layer in layers.items():
            setattr(self, name, layer)


@claim(
    "networks.subclass-module",
    right=CallsSuperFirst,
    wrong={
        AssignsBeforeSuper: "cannot assign module before Module.__init__() call",
        KeepsADict: "found under its attribute name",
        ForgetsNnModule: "has no attribute 'named_parameters'",
    },
)
@given(
    names=st.lists(st.sampled_from(["fc1", "fc2", "output", "_last"]), unique=True, min_size=1),
    side=sides,
)
def test_assigned_layers_are_found_under_their_names(
    build: Callable[[dict[str, nn.Module]], Any], names: list[str], side: int
) -> None:
    """After super().__init__() each assigned layer is found; before it, assigning one raises."""
    layers: dict[str, nn.Module] = {name: nn.Linear(side, side) for name in names}

    try:
        model = build(layers)
        found = dict(model.named_parameters())
    except AttributeError as error:
        pytest.fail(str(error))

    assert list(found) == [f"{name}.{part}" for name in names for part in ("weight", "bias")], (
        "each layer's parameters are found under its attribute name"
    )
    assert all(getattr(model, name) is layer for name, layer in layers.items()), (
        "an attribute is the layer that was assigned"
    )


# ------------------------------------------------- layers belong in __init__


class KeepsAPlainList(Network):
    """A network whose hidden layers are in a Python list, where nn.Module does not look."""

    def __init__(self, *sizes: Any) -> None:
        """Take the layers out of their ModuleList."""
        super().__init__(*sizes)
        layers = list(self.hidden)
        del self.hidden
        self.hidden = layers


class CreatesInForward(Network):
    """A network that creates its last layer when it runs."""

    def forward(self, images: Tensor) -> Tensor:
        """Make an output layer and use it."""
        self.output = nn.Linear(self.output.in_features, self.out_features, dtype=images.dtype)
        return super().forward(images)


class HidesInForward(Network):
    """A network that creates its last layer when it runs, and forgets it."""

    def forward(self, images: Tensor) -> Tensor:
        """Make an output layer and use it."""
        features = flatten(images, self.in_features)
        for layer in self.hidden:
            features = F.relu(layer(features))
        return nn.Linear(features.shape[1], self.out_features, dtype=images.dtype)(features)


class ForgetsALayer(Network):
    """A network that has a layer and does not use it."""

    def __init__(self, *sizes: Any) -> None:
        """Create a layer too many."""
        super().__init__(*sizes)
        self.spare = nn.Linear(1, 1)


@claim(
    "networks.layers-belong-in-init",
    right=Network,
    wrong={
        KeepsAPlainList: "forward uses no weight but those of parameters()",
        CreatesInForward: "forward uses no weight but those of parameters()",
        HidesInForward: "forward uses no weight but those of parameters()",
        ForgetsALayer: "forward uses each weight of parameters()",
    },
)
@given(sizes=deep, batch=st.integers(1, 3))
def test_every_weight_is_registered(
    build: Callable[..., nn.Module], sizes: Sizes, batch: int
) -> None:
    """What forward computes with is what parameters(), state_dict() and an optimizer see."""
    model = build(*sizes)
    registered, names = set(model.parameters()), list(model.state_dict())

    used = weights_used(model(torch.ones(batch, sizes[0])))

    assert used <= registered, "forward uses no weight but those of parameters()"
    assert registered <= used, "forward uses each weight of parameters()"
    assert set(model.state_dict(keep_vars=True).values()) == used, "state_dict() has each weight"
    assert list(model.state_dict()) == names, "calling forward creates no weight"


@claim(
    "networks.layers-belong-in-init",
    right=Network,
    wrong={KeepsAPlainList: "to() reaches each weight"},
)
@given(sizes=deep, dtype=st.sampled_from([torch.float64, torch.float16, torch.bfloat16]))
def test_to_reaches_every_weight(
    build: Callable[..., nn.Module], sizes: Sizes, dtype: torch.dtype
) -> None:
    """A model that was moved to another dtype computes in that dtype throughout."""
    model = build(*sizes).to(dtype)

    try:
        output = model(torch.ones(1, sizes[0], dtype=dtype))
    except RuntimeError as error:
        pytest.fail(f"to() reaches each weight, but {error}")

    assert output.dtype == dtype, "the output has the dtype of the weights"
    assert {weight.dtype for weight in weights_used(output)} == {dtype}, "to() reaches each weight"


@claim(
    "networks.layers-belong-in-init",
    right=Network,
    wrong={KeepsAPlainList: "an optimizer moves each weight"},
)
@given(sizes=deep, seed=seeds)
def test_an_optimizer_moves_every_weight(
    build: Callable[..., nn.Module], sizes: Sizes, seed: int
) -> None:
    """A step of an optimizer over parameters() moves each weight that has a gradient."""
    torch.manual_seed(seed)
    model = build(*sizes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    output = model(torch.ones(2, sizes[0]))
    weights = weights_used(output)
    output.sum().backward()
    before = {weight: bits(weight) for weight in weights if bool(weight.grad.any())}
    optimizer.step()

    moved = all(bits(weight) != old for weight, old in before.items())
    assert moved, "an optimizer moves each weight with a gradient"


# ------------------------------------------------- activations belong in forward


class ActivationModules(Network):
    """The same network, with its activation a module that is created in __init__."""

    def __init__(self, *sizes: Any, activation: str) -> None:
        """Create the activation."""
        super().__init__(*sizes, activation=activation)
        self.activate = MODULES[activation]()

    def forward(self, images: Tensor) -> Tensor:
        """Call the module."""
        features = flatten(images, self.in_features)
        for layer in self.hidden:
            features = self.activate(layer(features))
        return self.output(features)


class ActivatesWithAParameter(ActivationModules):
    """A network that takes an activation with a slope to learn for one without."""

    def __init__(self, *sizes: Any, activation: str) -> None:
        """Create PReLU whatever was asked."""
        super().__init__(*sizes, activation=activation)
        self.activate = nn.PReLU()


class ActivatesInPlaceOfIt(ActivationModules):
    """A network whose module is another activation than its function."""

    def __init__(self, *sizes: Any, activation: str) -> None:
        """Create Softplus whatever was asked."""
        super().__init__(*sizes, activation=activation)
        self.activate = nn.Softplus()


@claim(
    "networks.activations-belong-in-forward",
    right=ActivationModules,
    wrong={
        ActivatesWithAParameter: "the same state_dict keys",
        ActivatesInPlaceOfIt: "the same values",
    },
)
@given(sizes=deep, activation=activations, seed=seeds, data=st.data())
def test_an_activation_is_the_same_as_module_and_as_function(
    build: Callable[..., nn.Module],
    sizes: Sizes,
    activation: str,
    seed: int,
    data: st.DataObject,
) -> None:
    """A module in __init__ and a function in forward: same keys, values and gradients."""
    torch.manual_seed(seed)
    one, other = build(*sizes, activation=activation), Network(*sizes, activation=activation)
    images = data.draw(inputs(2, sizes[0], requires_grad=True), label="images")

    assert list(one.state_dict()) == list(other.state_dict()), "they have the same state_dict keys"
    other.load_state_dict(one.state_dict())
    (values, *gradients), (expected, *expected_gradients) = (
        values_and_gradients(lambda model, x: model(x), model.double(), [images], seed)
        for model in (one, other)
    )
    assert same(values, expected), "they give the same values"
    assert all(map(same, gradients, expected_gradients)), "they give the same gradients"


class LearnsItsSlope(nn.Module):
    """A layer and an activation with a slope to learn, created in __init__."""

    def __init__(self, side: int) -> None:
        """Create both."""
        super().__init__()
        self.layer, self.activate = nn.Linear(side, side), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        return self.activate(self.layer(x))


class RecreatesItsSlope(nn.Module):
    """The same, with the activation created in forward as if it had nothing to learn."""

    def __init__(self, side: int) -> None:
        """Create the layer only."""
        super().__init__()
        self.layer = nn.Linear(side, side)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both, the activation with its first slope, always."""
        return nn.PReLU()(self.layer(x))


@claim(
    "networks.activations-belong-in-forward",
    right=LearnsItsSlope,
    wrong={RecreatesItsSlope: "the slope learns"},
)
@given(side=sides, lr=st.sampled_from([0.1, 1.0]))
def test_an_activation_with_a_parameter_learns(
    build: Callable[[int], nn.Module], side: int, lr: float
) -> None:
    """A step moves the slope of PReLU, whose place is therefore __init__."""
    model, x = build(side), torch.ones(1, side)
    nn.init.constant_(model.layer.weight, -1.0)
    nn.init.zeros_(model.layer.bias)

    before = model(x)
    before.sum().backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("layer"):
                parameter -= lr * parameter.grad

    assert not same(model(x), before), "the slope learns, and the output with it"


# ------------------------------------------------- initial parameters


class AllEqual(nn.Linear):
    """A layer whose weights are all the same."""

    def reset_parameters(self) -> None:
        """Set the weights to the bound."""
        nn.init.constant_(self.weight, 1 / math.sqrt(self.in_features))
        nn.init.zeros_(self.bias)


class RepeatsAUnit(nn.Linear):
    """A layer whose last unit is a copy of its first."""

    def reset_parameters(self) -> None:
        """Draw the weights, and copy a row of them."""
        super().reset_parameters()
        with torch.no_grad():
            self.weight[-1] = self.weight[0]


class BoundedByFanOut(nn.Linear):
    """A layer that takes the number of its outputs for that of its inputs."""

    def reset_parameters(self) -> None:
        """Draw from the bound of the outputs."""
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -1 / self.out_features**0.5, 1 / self.out_features**0.5)


class DrawnFromNormal(nn.Linear):
    """A layer drawn from a normal distribution, which has no bound."""

    def reset_parameters(self) -> None:
        """Draw with the bound for a deviation."""
        for parameter in (self.weight, self.bias):
            nn.init.normal_(parameter, std=1 / math.sqrt(self.in_features))


class DrawnWithASeedOfItsOwn(nn.Linear):
    """A layer that draws the same weights always."""

    def reset_parameters(self) -> None:
        """Draw from a generator that begins anew."""
        generator = torch.Generator(self.weight.device).manual_seed(0)
        bound = 1 / math.sqrt(self.in_features)
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=generator)


class Frozen(nn.Linear):
    """A layer whose parameters do not learn."""

    def reset_parameters(self) -> None:
        """Draw, and require no gradient."""
        super().reset_parameters()
        self.requires_grad_(False)


def seeded(init: Callable[[int, int], nn.Linear], seed: int, *sizes: int) -> nn.Linear:
    """Create a layer after seeding torch."""
    torch.manual_seed(seed)
    return init(*sizes)


@claim(
    "networks.parameters-come-initialised",
    right=nn.Linear,
    wrong={
        AllEqual: "not all equal",
        RepeatsAUnit: "no two units",
        BoundedByFanOut: "within 1 / sqrt(fan_in)",
        DrawnFromNormal: "within 1 / sqrt(fan_in)",
        DrawnWithASeedOfItsOwn: "another seed",
        Frozen: "require grad",
    },
)
@given(
    in_features=st.integers(1, 30),
    out_features=st.integers(20, 40),
    seed=seeds,
)
def test_weights_and_biases_are_there_and_random(
    init: Callable[[int, int], nn.Linear], in_features: int, out_features: int, seed: int
) -> None:
    """They require grad, lie within 1 / sqrt(fan_in), and follow the seed.

    That two seeds agree in 20 numbers of 24 random bits has probability 2**-480, and that two of 40
    units agree in three weights or more 780 * 2**-72 < 2e-19.
    """
    layer = seeded(init, seed, in_features, out_features)

    bound = 1 / math.sqrt(in_features)
    again = seeded(init, seed, in_features, out_features)
    other = seeded(init, seed + 1, in_features, out_features)
    for name, shape in (("weight", (out_features, in_features)), ("bias", (out_features,))):
        values, repeated, different = (getattr(part, name) for part in (layer, again, other))
        assert isinstance(values, nn.Parameter), f"the {name} exists"
        assert values.shape == shape, f"the {name} has its shape"
        assert values.requires_grad, "weights and biases require grad"
        # The bound itself is rounded to float32.
        assert float(values.detach().abs().max()) <= bound * (1 + 1e-6), (
            f"the {name} is within 1 / sqrt(fan_in)"
        )
        assert len(set(values.flatten().tolist())) > 1, f"the numbers of a {name} are not all equal"
        assert bits(values) == bits(repeated), "the same seed gives the same numbers"
        assert bits(values) != bits(different), "another seed gives other numbers"
    units = {tuple(row) for row in layer.weight.tolist()}
    assert in_features < 3 or len(units) == out_features, "no two units have the same weights"


class HalfTheBound(nn.Linear):
    """A layer that fills half of its range."""

    def reset_parameters(self) -> None:
        """Draw, and halve."""
        super().reset_parameters()
        with torch.no_grad():
            self.weight /= 2


class Positive(nn.Linear):
    """A layer drawn with torch.rand, which has no negative numbers."""

    def reset_parameters(self) -> None:
        """Draw from 0 to the bound."""
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, 0, 1 / math.sqrt(self.in_features))


class ZeroBias(nn.Linear):
    """A layer whose biases begin at zero, as in other libraries."""

    def reset_parameters(self) -> None:
        """Draw the weights only."""
        super().reset_parameters()
        nn.init.zeros_(self.bias)


@claim(
    "networks.parameters-come-initialised",
    right=nn.Linear,
    wrong={HalfTheBound: "weight is uniform", Positive: "is uniform", ZeroBias: "bias is uniform"},
)
@given(in_features=st.integers(32, 64), seed=seeds)
def test_weights_and_biases_are_uniform(
    init: Callable[[int, int], nn.Linear], in_features: int, seed: int
) -> None:
    """Between the bounds every number is as likely as another, for weights and biases.

    Two exact Kolmogorov-Smirnov tests, each of which chance fails with probability 1e-12.
    """
    layer = seeded(init, seed, in_features, 128)

    for name in ("weight", "bias"):
        values = getattr(layer, name).flatten().double().numpy(force=True) * math.sqrt(in_features)
        chance = kstest(values, "uniform", args=(-1, 2), method="exact").pvalue
        assert chance > 1e-12, f"the {name} is uniform between its bounds"


def every_weight_equal(model: Network) -> None:
    """Set every weight of every layer to one number."""
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)


def leaves_the_initialisation(model: Network) -> None:
    """Leave the weights as they were drawn."""


def equal_coming_in_only(model: Network) -> None:
    """Set the weights of the hidden layer to one number and leave those of the output layer."""
    every_weight_equal(model.hidden)


def equal_going_out_only(model: Network) -> None:
    """Set the weights of the output layer to one number and leave those of the hidden layer."""
    every_weight_equal(model.output)


def zeros(model: Network) -> None:
    """Set every weight to zero."""
    for parameter in model.parameters():
        nn.init.zeros_(parameter)


def hidden_spread_after_training(
    initialise: Callable[[Network], None], drawn: tuple[Tensor, Tensor], width: int, seed: int
) -> float:
    """Return by how much the hidden units differ after three steps of gradient descent."""
    images, labels = drawn
    torch.manual_seed(seed)
    model = Network(images.shape[1], [width], 4, activation="tanh").double()
    initialise(model)
    for _ in range(3):
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
    units = torch.cat([model.hidden[0].weight, model.hidden[0].bias[:, None]], dim=1)
    return float((units - units[:1]).detach().abs().max())


@claim(
    "networks.parameters-come-initialised",
    right=every_weight_equal,
    wrong={
        leaves_the_initialisation: "can never become different",
        equal_coming_in_only: "can never become different",
        equal_going_out_only: "can never become different",
    },
)
@given(drawn=batches(2, 4, dtype=torch.float64), width=st.integers(2, 5), seed=seeds)
def test_equal_hidden_units_can_never_become_different(
    initialise: Callable[[Network], None], drawn: tuple[Tensor, Tensor], width: int, seed: int
) -> None:
    """Units with equal weights in and equal weights out get equal gradients, for any batch."""
    spread = hidden_spread_after_training(initialise, drawn, width, seed)

    assert spread <= 1e-12, "equal hidden units can never become different"


@claim(
    "networks.parameters-come-initialised",
    right=leaves_the_initialisation,
    wrong={every_weight_equal: "hidden units are different", zeros: "hidden units are different"},
)
@given(drawn=batches(2, 4, dtype=torch.float64), width=st.integers(2, 5), seed=seeds)
def test_random_hidden_units_are_different(
    initialise: Callable[[Network], None], drawn: tuple[Tensor, Tensor], width: int, seed: int
) -> None:
    """PyTorch's own initialisation makes hidden units different, so that each learns its own."""
    spread = hidden_spread_after_training(initialise, drawn, width, seed)

    assert spread > 1e-6, "hidden units are different"


# ------------------------------------------------- re-initialisation


def draws_uniformly(layer: nn.Linear, std: float) -> None:
    """Draw from a uniform distribution of the same deviation."""
    nn.init.uniform_(layer.weight, -std * math.sqrt(3), std * math.sqrt(3))
    nn.init.zeros_(layer.bias)


def truncates_at_two_deviations(layer: nn.Linear, std: float) -> None:
    """Draw from the normal distribution without its tails."""
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)


def takes_std_for_the_variance(layer: nn.Linear, std: float) -> None:
    """Pass the root of the deviation."""
    reinitialize(layer, std=math.sqrt(std))


def sets_all_to_zero(layer: nn.Linear, std: float) -> None:
    """Set the weights to zero like the bias."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def draws_the_bias_too(layer: nn.Linear, std: float) -> None:
    """Draw every parameter of the layer."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=std)


@claim(
    "networks.reinitialise",
    right=reinitialize,
    wrong={
        truncates_at_two_deviations: "normal with the given deviation",
        draws_uniformly: "normal with the given deviation",
        takes_std_for_the_variance: "normal with the given deviation",
        sets_all_to_zero: "normal with the given deviation",
        draws_the_bias_too: "the bias is zero",
    },
)
@given(std=st.sampled_from([0.01, 0.5, 2.0]), seed=seeds)
def test_reinitialised_weights_are_normal(
    reinitialize: Callable[..., None], std: float, seed: int
) -> None:
    """The bias is zero and the weights are normal around zero with the deviation asked for.

    An exact Kolmogorov-Smirnov test of the shape, and of the deviation the sum of squares, which is
    chi-squared: chance fails each with probability 1e-12.
    """
    layer = nn.Linear(256, 128)
    torch.manual_seed(seed)

    reinitialize(layer, std=std)

    assert not bool(layer.bias.any()), "the bias is zero"
    weights = layer.weight.flatten().double().numpy(force=True)
    shape = kstest(weights, "norm", args=(0, std), method="exact").pvalue
    below = chi2.cdf(np.square(weights / std).sum(), len(weights))
    scale = 2 * min(below, 1 - below)
    assert min(shape, scale) > 1e-12, "the weights are normal with the given deviation"


def replaces_the_parameters(layer: nn.Linear, std: float) -> None:
    """Assign new Parameters, which the optimizer does not know."""
    layer.weight = nn.Parameter(torch.randn_like(layer.weight) * std)
    layer.bias = nn.Parameter(torch.zeros_like(layer.bias))


def assigns_a_tensor(layer: nn.Linear, std: float) -> None:
    """Assign a plain tensor where a Parameter was."""
    layer.weight = torch.randn_like(layer.weight) * std


def deletes_and_assigns_a_tensor(layer: nn.Linear, std: float) -> None:
    """Delete the Parameter, so that torch accepts a plain tensor under its name."""
    weight = torch.randn_like(layer.weight) * std
    del layer.weight
    layer.weight = weight


def writes_under_autograd(layer: nn.Linear, std: float) -> None:
    """Write into the weights where autograd watches."""
    layer.weight.normal_(std=std)


@claim(
    "networks.reinitialise",
    right=reinitialize,
    wrong={
        replaces_the_parameters: "an optimizer built before still trains the layer",
        assigns_a_tensor: "cannot assign",
        deletes_and_assigns_a_tensor: "stays a Parameter",
        writes_under_autograd: "a leaf Variable that requires grad",
    },
)
@given(sizes=st.tuples(sides, sides), std=st.sampled_from([0.01, 0.5, 2.0]))
def test_an_optimizer_still_trains_the_layer(
    reinitialize: Callable[..., None], sizes: tuple[int, int], std: float
) -> None:
    """The Parameters stay the same objects, and an optimizer built before still moves them."""
    layer = nn.Linear(*sizes)
    parameters = {"weight": layer.weight, "bias": layer.bias}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    try:
        reinitialize(layer, std=std)
    except (TypeError, RuntimeError) as error:
        pytest.fail(str(error))

    for name in parameters:
        stays = isinstance(getattr(layer, name), nn.Parameter)
        assert stays, f"the {name} stays a Parameter"
    before = {name: bits(getattr(layer, name)) for name in parameters}
    layer(torch.ones(1, sizes[0])).sum().backward()
    optimizer.step()
    moved = all(bits(getattr(layer, name)) != before[name] for name in parameters)
    assert moved, "an optimizer built before still trains the layer"
    same_objects = all(getattr(layer, name) is part for name, part in parameters.items())
    assert same_objects, "the Parameters are the same objects"


def draws_from_the_global_generator(
    layer: nn.Linear, std: float, generator: torch.Generator
) -> None:
    """Forget the generator that was given."""
    reinitialize(layer, std=std)


@claim(
    "networks.reinitialise",
    right=reinitialize,
    wrong={draws_from_the_global_generator: "a generator that is given draws the weights"},
)
@given(seed=seeds, sizes=st.tuples(sides, sides))
def test_a_generator_draws_the_same_weights_again(
    reinitialize: Callable[..., None], seed: int, sizes: tuple[int, int]
) -> None:
    """Two layers get the same weights from generators with one seed, and torch's own rests."""
    layers = nn.Linear(*sizes), nn.Linear(*sizes)
    device = layers[0].weight.device
    torch_state = torch.get_rng_state()

    for layer in layers:
        generator = torch.Generator(device).manual_seed(seed)
        reinitialize(layer, std=1.0, generator=generator)

    alike = same(layers[0].weight, layers[1].weight)
    assert alike, "a generator that is given draws the weights"
    assert torch_state.equal(torch.get_rng_state()), "and torch's own is left alone"


def draws_with_any_deviation(layer: nn.Linear, std: float) -> None:
    """Multiply with whatever comes, be it nothing or no number."""
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight) * std)


@claim(
    "networks.reinitialise",
    right=reinitialize,
    wrong={draws_with_any_deviation: "DID NOT RAISE"},
)
@given(std=st.sampled_from([0.0, -1.0, math.nan, math.inf]))
def test_a_deviation_that_is_none_is_refused(reinitialize: Callable[..., None], std: float) -> None:
    """A deviation of zero, below it, or no number raises and changes nothing."""
    layer = nn.Linear(2, 2)
    before = bits(layer.weight), bits(layer.bias)

    with pytest.raises(ValueError, match=f"above 0, but it is {std}"):
        reinitialize(layer, std=std)

    assert (bits(layer.weight), bits(layer.bias)) == before, "a refused deviation changes nothing"


# ------------------------------------------------- Sequential


def forgets_an_activation(*layers: nn.Module) -> nn.Sequential:
    """Leave out the last activation of the list."""
    kinds = tuple(MODULES.values())
    last = [place for place, layer in enumerate(layers) if isinstance(layer, kinds)][-1]
    return nn.Sequential(*layers[:last], *layers[last + 1 :])


def shares_one_layer(*layers: nn.Module) -> nn.Sequential:
    """Put one Linear object wherever its shape fits, so that its weights are trained for all."""
    linear: dict[torch.Size, nn.Module] = {}
    return nn.Sequential(
        *(
            linear.setdefault(layer.weight.shape, layer) if isinstance(layer, nn.Linear) else layer
            for layer in layers
        )
    )


def reverses_the_list(*layers: nn.Module) -> nn.Sequential:
    """Write the list from the output to the input, as functions are nested."""
    return nn.Sequential(*reversed(layers))


def list_of_operations(model: Network) -> list[nn.Module]:
    """Return a network as the list of its operations, with layers and weights of their own."""
    operations: list[nn.Module] = []
    for layer in model.hidden:
        operations += [copy.deepcopy(layer), MODULES[model.activation]()]
    return [*operations, copy.deepcopy(model.output)]


@claim(
    "networks.sequential-is-the-same",
    right=nn.Sequential,
    wrong={
        forgets_an_activation: "Sequential computes the same",
        shares_one_layer: "the same parameters",
    },
)
@given(sizes=deep, activation=activations, seed=seeds, data=st.data())
def test_a_list_of_operations_is_the_same_network(
    build: Callable[..., nn.Sequential],
    sizes: Sizes,
    activation: str,
    seed: int,
    data: st.DataObject,
) -> None:
    """With the same weights, outputs and gradients equal those of the class."""
    torch.manual_seed(seed)
    model = Network(*sizes, activation=activation).double()
    images = data.draw(inputs(2, sizes[0], requires_grad=True), label="images")

    chain = build(*list_of_operations(model))

    (outputs, *gradients), (expected, *expected_gradients) = (
        values_and_gradients(lambda model, x: model(x), part, [images], seed)
        for part in (chain, model)
    )
    assert len(gradients) == len(expected_gradients), "Sequential has the same parameters"
    assert same(outputs, expected), "Sequential computes the same outputs"
    assert all(map(same, gradients, expected_gradients)), "Sequential computes the same gradients"


@claim(
    "networks.sequential-is-the-same",
    right=nn.Sequential,
    wrong={reverses_the_list: "reachable by position"},
)
@given(sizes=deep, activation=activations)
def test_layers_are_reachable_by_position(
    build: Callable[..., nn.Sequential], sizes: Sizes, activation: str
) -> None:
    """Operation k of the list is layer k of the network."""
    operations = list_of_operations(Network(*sizes, activation=activation))

    chain = build(*operations)

    assert list(chain) == operations, "each operation is reachable by position"


# ------------------------------------------------- Sequential by name


def through_a_dict(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Build through an OrderedDict, which keeps the last layer of each name."""
    return nn.Sequential(OrderedDict(layers))


def sorts_by_name(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Put the layers in the order of their names."""
    return nn.Sequential(OrderedDict(sorted(layers)))


def numbers_the_layers(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Forget the names."""
    return nn.Sequential(*(layer for _, layer in layers))


def assigns_attributes(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Assign each layer to an attribute, which looks at no name."""
    model = nn.Sequential()
    for name, layer in layers:
        setattr(model, name, layer)
    return model


NAMES = ("fc1", "relu", "fc2", "output", "0", "Größe")


@claim(
    "networks.sequential-by-name",
    right=sequential,
    wrong={
        sorts_by_name: "in the order of the list",
        numbers_the_layers: "in the order of the list",
    },
)
@given(names=st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
def test_layers_are_reachable_by_name_and_position(
    build: Callable[..., nn.Sequential], names: list[str]
) -> None:
    """The layers stand in the order of the list, each under its name."""
    layers = [(name, nn.Linear(1, 1)) for name in names]

    model = build(layers)

    found = list(model.named_children())
    assert found == layers, "the layers stand under their names in the order of the list"
    for place, (name, layer) in enumerate(layers):
        assert model[place] is layer, "a layer is reachable by position"
        assert getattr(model, name) is layer, "a layer is reachable by name"


@claim("networks.sequential-by-name", right=sequential, wrong={through_a_dict: "DID NOT RAISE"})
@given(
    names=st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=3),
    data=st.data(),
)
def test_a_repeated_name_is_refused(
    build: Callable[..., nn.Sequential], names: list[str], data: st.DataObject
) -> None:
    """Where an OrderedDict drops the layer before, a repeated name raises and is named."""
    repeated = data.draw(st.sampled_from(names), label="repeated")
    layers = [(name, nn.Linear(1, 1)) for name in [*names, repeated]]

    with pytest.raises(ValueError, match=f"two layers have the name '{repeated}'"):
        build(layers)

    assert len(layers) == len(names) + 1, "a refused list stays as it was"


def skips_what_is_no_layer(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Leave out what cannot be called as a layer, and names that cannot be."""
    return nn.Sequential(*(layer for _, layer in layers if isinstance(layer, nn.Module)))


@st.composite
def unfit_layers(draw: st.DrawFn) -> tuple[str, Any, type[Exception], str]:
    """Draw the name and the layer of an unfit pair, the error and what it says."""
    case = draw(st.sampled_from(["empty", "dot", "attribute", "no module"]))
    if case == "no module":
        layer = draw(st.sampled_from([nn.ReLU, F.relu, None]))
        return draw(st.sampled_from(NAMES)), layer, TypeError, "is no nn.Module"
    if case == "attribute":
        name = draw(
            st.sampled_from(sorted(name for name in dir(nn.Sequential()) if name[0] != "_"))
        )
        return name, nn.Linear(1, 1), ValueError, f"'{name}' would hide an attribute"
    name = "" if case == "empty" else draw(st.sampled_from([".", "fc.1", "block."]))
    return name, nn.Linear(1, 1), ValueError, f"no dot, but it is '{name}'"


@claim(
    "networks.sequential-by-name",
    right=sequential,
    wrong={skips_what_is_no_layer: "DID NOT RAISE"},
)
@given(case=unfit_layers(), before=st.booleans())
def test_names_and_layers_that_are_none_are_refused(
    build: Callable[..., nn.Sequential],
    case: tuple[str, Any, type[Exception], str],
    before: bool,
) -> None:
    """An empty name, one with a dot, one of an attribute, and a layer that is none raise."""
    name, layer, error, message = case
    layers = [("first", nn.Linear(1, 1))] * before + [(name, layer)]

    with pytest.raises(error, match=message):
        build(layers)
