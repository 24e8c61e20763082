"""Reinitialise weights in place, so that the optimizer still trains them.

>>> layer = nn.Linear(3, 2)
>>> trained = torch.optim.SGD(layer.parameters(), lr=0.1).param_groups[0]["params"]
>>> _ = nn.init.normal_(layer.weight, std=0.5)
>>> layer.weight is trained[0]
True
>>> layer.weight = nn.Parameter(0.5 * torch.randn(2, 3))
>>> layer.weight is trained[0]  # the optimizer still holds the old weight
False

Notes: Biases can be set to zero and weights drawn from a normal distribution, through
    model.layer.weight.data.
Verdict: holds-if
Truth: In place, so that the parameter stays the same object and the optimizer still trains it:
    through nn.init, which uses no_grad, or through `.data`, as the notes do. Between forward and
    backward no_grad raises in backward; `.data` does not (see networks.weight-data-is-unchecked).
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, kstest
from torch import nn

from dlconcepts.networks import reinitialize
from dlconcepts.support.bitwise import bits, same
from dlconcepts.testing.laws import law
from tests.networks.common import seeds, sides


def draws_uniformly(layer: nn.Linear, std: float) -> None:
    """Draw from a uniform distribution with the same standard deviation."""
    # A uniform distribution between -b and b has the deviation b / sqrt(3).
    nn.init.uniform_(layer.weight, -std * math.sqrt(3), std * math.sqrt(3))
    nn.init.zeros_(layer.bias)


def truncates_at_two_deviations(layer: nn.Linear, std: float) -> None:
    """Draw from a normal distribution that is cut off at two standard deviations."""
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)


def takes_std_for_the_variance(layer: nn.Linear, std: float) -> None:
    """Take the square root of the standard deviation, as if it were the variance."""
    reinitialize(layer, std=math.sqrt(std))


def sets_all_to_zero(layer: nn.Linear, std: float) -> None:
    """Set the weights to zero, too."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def draws_the_bias_too(layer: nn.Linear, std: float) -> None:
    """Draw the bias from the normal distribution, too."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=std)


@law(
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
    """The bias is zero; the weights are normal with mean 0 and the given standard deviation."""
    layer = nn.Linear(256, 128)  # so many weights that missing tails show
    torch.manual_seed(seed)

    reinitialize(layer, std=std)

    assert not bool(layer.bias.any()), "the bias is zero"
    weights = layer.weight.flatten().double().numpy(force=True)
    # Two exact tests, each of which chance fails with probability 1e-12: Kolmogorov-Smirnov for the
    # shape, and for the deviation the sum of squares, which is chi-squared.
    shape = kstest(weights, "norm", args=(0, std), method="exact").pvalue
    below = chi2.cdf(np.square(weights / std).sum(), len(weights))
    scale = 2 * min(below, 1 - below)
    assert min(shape, scale) > 1e-12, "the weights are normal with the given deviation"


def replaces_the_parameters(layer: nn.Linear, std: float) -> None:
    """Assign new Parameters, which the optimizer does not hold."""
    layer.weight = nn.Parameter(torch.randn_like(layer.weight) * std)
    layer.bias = nn.Parameter(torch.zeros_like(layer.bias))


def assigns_a_tensor(layer: nn.Linear, std: float) -> None:
    """Assign a plain tensor where a Parameter was."""
    layer.weight = torch.randn_like(layer.weight) * std


def deletes_and_assigns_a_tensor(layer: nn.Linear, std: float) -> None:
    """Delete the Parameter, so that PyTorch accepts a plain tensor under its name."""
    weight = torch.randn_like(layer.weight) * std
    del layer.weight
    layer.weight = weight


def replaces_the_memory(layer: nn.Linear, std: float) -> None:
    """Give `.data` a new tensor of the default dtype, which views of the old one do not see."""
    layer.weight.data = torch.randn(layer.weight.shape) * std
    layer.bias.data = torch.zeros(layer.bias.shape)


def writes_under_autograd(layer: nn.Linear, std: float) -> None:
    """Write into the weights while autograd records, without no_grad."""
    layer.weight.normal_(std=std)


@law(
    right=reinitialize,
    wrong={
        replaces_the_parameters: "an optimizer built earlier still trains the layer",
        assigns_a_tensor: "cannot assign",
        deletes_and_assigns_a_tensor: "stays a Parameter",
        replaces_the_memory: "keeps its memory",
        writes_under_autograd: "a leaf Variable that requires grad",
    },
)
@given(sizes=st.tuples(sides, sides), std=st.sampled_from([0.01, 0.5, 2.0]))
def test_an_optimizer_still_trains_the_layer(
    reinitialize: Callable[..., None], sizes: tuple[int, int], std: float
) -> None:
    """The Parameters stay the same objects, so an optimizer built earlier still moves them."""
    check_that_the_optimizer_trains(reinitialize, sizes, std)


def check_that_the_optimizer_trains(
    reinitialize: Callable[..., None], sizes: tuple[int, int], std: float
) -> None:
    layer = nn.Linear(*sizes).double()
    parameters = {"weight": layer.weight, "bias": layer.bias}
    views = {name: parameter.detach() for name, parameter in parameters.items()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    try:
        reinitialize(layer, std=std)
    except (TypeError, RuntimeError) as error:
        pytest.fail(str(error))

    for name in parameters:
        stays = isinstance(getattr(layer, name), nn.Parameter)
        assert stays, f"the {name} stays a Parameter"
    same_objects = all(getattr(layer, name) is part for name, part in parameters.items())
    if same_objects:  # else the optimizer, below, says it more plainly
        for name, view in views.items():
            kept = bits(view) == bits(parameters[name])
            assert kept, f"the {name} keeps its memory, its dtype and its views"
    before = {name: bits(getattr(layer, name)) for name in parameters}
    layer(torch.ones(1, sizes[0], dtype=torch.float64)).sum().backward()
    optimizer.step()
    moved = all(bits(getattr(layer, name)) != before[name] for name in parameters)
    assert moved, "an optimizer built earlier still trains the layer"
    assert same_objects, "the Parameters are the same objects"


def through_data(layer: nn.Linear, std: float) -> None:
    """Write into `.data`, as the notes do."""
    layer.weight.data.normal_(std=std)
    layer.bias.data.fill_(0)


def into_a_copy(layer: nn.Linear, std: float) -> None:
    """Write into a clone of `.data`, which the layer never sees."""
    layer.weight.data.clone().normal_(std=std)
    layer.bias.data.clone().fill_(0)


@law(
    right=through_data,
    wrong={
        into_a_copy: "the weights are new",
        assigns_a_tensor: "cannot assign",
        replaces_the_parameters: "an optimizer built earlier still trains the layer",
        replaces_the_memory: "keeps its memory",
    },
)
@given(sizes=st.tuples(sides, sides), std=st.sampled_from([0.01, 0.5, 2.0]))
def test_data_reinitialises_in_place_too(
    reinitialize: Callable[..., None], sizes: tuple[int, int], std: float
) -> None:
    """`.data.normal_()` changes the weights that the layer and its optimizer hold."""
    check_that_the_optimizer_trains(reinitialize, sizes, std)
    layer = nn.Linear(*sizes)
    before = bits(layer.weight)

    reinitialize(layer, std)

    assert bits(layer.weight) != before, "the weights are new"
    assert not bool(layer.bias.any()), "the bias is zero"


def draws_from_the_global_generator(
    layer: nn.Linear, std: float, generator: torch.Generator
) -> None:
    """Ignore the given generator and draw from the global one."""
    reinitialize(layer, std=std)


@law(
    right=reinitialize,
    wrong={draws_from_the_global_generator: "the same generator draws the same weights"},
)
@given(seed=seeds, sizes=st.tuples(sides, sides))
def test_a_generator_draws_the_same_weights_again(
    reinitialize: Callable[..., None], seed: int, sizes: tuple[int, int]
) -> None:
    """Generators with the same seed draw the same weights and leave the global one alone."""
    layers = nn.Linear(*sizes), nn.Linear(*sizes)
    device = layers[0].weight.device
    torch_state = torch.get_rng_state()

    for layer in layers:
        generator = torch.Generator(device).manual_seed(seed)
        reinitialize(layer, std=1.0, generator=generator)

    alike = same(layers[0].weight, layers[1].weight)
    assert alike, "the same generator draws the same weights"
    assert torch_state.equal(torch.get_rng_state()), "the global generator is left alone"


def accepts_any_deviation(layer: nn.Linear, std: float) -> None:
    """Multiply by any number, even 0, -1, NaN or infinity."""
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight) * std)


@law(right=reinitialize, wrong={accepts_any_deviation: "DID NOT RAISE"})
@given(std=st.sampled_from([0.0, -1.0, math.nan, math.inf]))
def test_an_invalid_deviation_is_refused(reinitialize: Callable[..., None], std: float) -> None:
    """A deviation that is not a finite number above 0 raises and changes nothing."""
    layer = nn.Linear(2, 2)
    before = bits(layer.weight), bits(layer.bias)

    with pytest.raises(ValueError, match=f"above 0, but it is {std}"):
        reinitialize(layer, std=std)

    assert (bits(layer.weight), bits(layer.bias)) == before, "a refused deviation changes nothing"
