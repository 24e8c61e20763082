"""A new layer has random weights and biases.

>>> def new_weight(seed):
...     torch.manual_seed(seed)
...     return nn.Linear(4, 3).weight
>>> new_weight(1).equal(new_weight(1)), new_weight(1).equal(new_weight(2))
(True, False)
>>> bool((new_weight(1).abs() <= 0.5).all())  # 1 / sqrt(4), for 4 inputs
True

Notes: Weights and biases are created with the layer and initialised to random values.
Verdict: holds
Truth: Both are uniform between -1 / sqrt(fan_in) and 1 / sqrt(fan_in), where fan_in is the number
    of inputs. They follow the seed and require grad. Random weights make hidden units different;
    units with equal weights in and out stay equal forever.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor, nn

from dlconcepts.networks import Network
from dlconcepts.strategies import batches
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.networks.common import seeds


class AllEqual(nn.Linear):
    """A layer whose weights are all equal."""

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 1 / math.sqrt(self.in_features))
        nn.init.zeros_(self.bias)


class RepeatsAUnit(nn.Linear):
    """A layer whose last unit is a copy of its first."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight[-1] = self.weight[0]


class BoundedByFanOut(nn.Linear):
    """A layer that takes the bound from the number of outputs, not inputs."""

    def reset_parameters(self) -> None:
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -1 / self.out_features**0.5, 1 / self.out_features**0.5)


class DrawnFromNormal(nn.Linear):
    """A layer whose parameters are normal, and so have no bound."""

    def reset_parameters(self) -> None:
        for parameter in (self.weight, self.bias):
            nn.init.normal_(parameter, std=1 / math.sqrt(self.in_features))


class IgnoresTheSeed(nn.Linear):
    """A layer that always draws the same weights."""

    def reset_parameters(self) -> None:
        generator = torch.Generator(self.weight.device).manual_seed(0)
        bound = 1 / math.sqrt(self.in_features)
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=generator)


class Frozen(nn.Linear):
    """A layer whose parameters require no gradient."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.requires_grad_(False)


def seeded(init: Callable[[int, int], nn.Linear], seed: int, *sizes: int) -> nn.Linear:
    torch.manual_seed(seed)
    return init(*sizes)


@law(
    right=nn.Linear,
    wrong={
        AllEqual: "not all equal",
        RepeatsAUnit: "no two units",
        BoundedByFanOut: "within 1 / sqrt(fan_in)",
        DrawnFromNormal: "within 1 / sqrt(fan_in)",
        IgnoresTheSeed: "another seed",
        Frozen: "require grad",
    },
)
# At least 20 biases, so that chance cannot make two seeds agree.
@given(in_features=st.integers(1, 30), out_features=st.integers(20, 40), seed=seeds)
def test_new_weights_and_biases_are_random(
    init: Callable[[int, int], nn.Linear], in_features: int, out_features: int, seed: int
) -> None:
    """They require grad, lie within 1 / sqrt(fan_in), and follow the seed."""
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
        # Chance: 20 numbers of 24 random bits agree with probability 2**-480.
        assert bits(values) != bits(different), "another seed gives other numbers"
    # Chance: two of 40 units agree in 3 weights with probability 780 * 2**-72 < 2e-19.
    units = {tuple(row) for row in layer.weight.tolist()}
    assert in_features < 3 or len(units) == out_features, "no two units have the same weights"


class HalfTheBound(nn.Linear):
    """A layer whose weights use half of their range."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight /= 2


class Positive(nn.Linear):
    """A layer drawn with torch.rand, which has no negative numbers."""

    def reset_parameters(self) -> None:
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, 0, 1 / math.sqrt(self.in_features))


class ZeroBias(nn.Linear):
    """A layer whose biases start at zero, as in other libraries."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.bias)


@law(
    right=nn.Linear,
    wrong={HalfTheBound: "weight is uniform", Positive: "is uniform", ZeroBias: "bias is uniform"},
)
@given(in_features=st.integers(32, 64), seed=seeds)
def test_weights_and_biases_are_uniform(
    init: Callable[[int, int], nn.Linear], in_features: int, seed: int
) -> None:
    """Weights and biases are uniform between -1 / sqrt(fan_in) and 1 / sqrt(fan_in)."""
    layer = seeded(init, seed, in_features, 128)

    for name in ("weight", "bias"):
        values = getattr(layer, name).flatten().double().numpy(force=True) * math.sqrt(in_features)
        # An exact Kolmogorov-Smirnov test; chance fails it with probability 1e-12.
        chance = kstest(values, "uniform", args=(-1, 2), method="exact").pvalue
        assert chance > 1e-12, f"the {name} is uniform between its bounds"


def every_weight_equal(model: Network) -> None:
    """Set every weight and bias to the same number."""
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)


def keeps_the_random_weights(model: Network) -> None:
    """Keep the weights that PyTorch drew."""


def equal_coming_in_only(model: Network) -> None:
    """Make the weights of the hidden layer equal, but not those of the output layer."""
    every_weight_equal(model.hidden)


def equal_going_out_only(model: Network) -> None:
    """Make the weights of the output layer equal, but not those of the hidden layer."""
    every_weight_equal(model.output)


def zeros(model: Network) -> None:
    """Set every weight and bias to zero."""
    for parameter in model.parameters():
        nn.init.zeros_(parameter)


def hidden_spread_after_training(
    initialise: Callable[[Network], None], drawn: tuple[Tensor, Tensor], width: int, seed: int
) -> float:
    """Return how far the hidden units differ after three steps of gradient descent."""
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


@law(
    right=every_weight_equal,
    wrong={
        keeps_the_random_weights: "can never become different",
        equal_coming_in_only: "can never become different",
        equal_going_out_only: "can never become different",
    },
)
@given(drawn=batches(2, 4, dtype=torch.float64), width=st.integers(2, 5), seed=seeds)
def test_equal_hidden_units_can_never_become_different(
    initialise: Callable[[Network], None], drawn: tuple[Tensor, Tensor], width: int, seed: int
) -> None:
    """Hidden units with equal weights in and out get equal gradients from any batch."""
    spread = hidden_spread_after_training(initialise, drawn, width, seed)

    # The units are equal but for the rounding of float64.
    assert spread <= 1e-12, "equal hidden units can never become different"


@law(
    right=keeps_the_random_weights,
    wrong={every_weight_equal: "hidden units are different", zeros: "hidden units are different"},
)
@given(drawn=batches(2, 4, dtype=torch.float64), width=st.integers(2, 5), seed=seeds)
def test_random_hidden_units_are_different(
    initialise: Callable[[Network], None], drawn: tuple[Tensor, Tensor], width: int, seed: int
) -> None:
    """PyTorch's random weights make hidden units different, so each can learn something else."""
    spread = hidden_spread_after_training(initialise, drawn, width, seed)

    assert spread > 1e-6, "hidden units are different"
