"""nn.Sequential builds the same network from a list of layers.

>>> fc1, fc2, x = nn.Linear(2, 3), nn.Linear(3, 1), torch.tensor([[1.0, 2.0]])
>>> model = nn.Sequential(fc1, nn.ReLU(), fc2)
>>> model(x).equal(fc2(F.relu(fc1(x))))
True
>>> model[2] is fc2
True

Notes: nn.Sequential builds the same network from a list of operations.
Verdict: holds
Truth: With the same weights, its outputs and gradients equal those of the class, and operation k
    is `model[k]`.
"""

import copy
from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.networks import Network
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.networks.common import (
    MODULES,
    Sizes,
    activation_modules,
    deep,
    inputs,
    seeds,
    values_and_gradients,
)


def forgets_an_activation(*layers: nn.Module) -> nn.Sequential:
    """Skip the last activation of the list."""
    kinds = tuple(MODULES.values())
    last = [place for place, layer in enumerate(layers) if isinstance(layer, kinds)][-1]
    return nn.Sequential(*layers[:last], *layers[last + 1 :])


def shares_one_layer(*layers: nn.Module) -> nn.Sequential:
    """Use one Linear object for every layer of its shape, so that they share its weights."""
    linear: dict[torch.Size, nn.Module] = {}
    return nn.Sequential(
        *(
            linear.setdefault(layer.weight.shape, layer) if isinstance(layer, nn.Linear) else layer
            for layer in layers
        )
    )


def reverses_the_list(*layers: nn.Module) -> nn.Sequential:
    """List the operations from the output to the input, as nested calls are written."""
    return nn.Sequential(*reversed(layers))


def list_of_operations(model: Network) -> list[nn.Module]:
    # Copies, so that the gradients of the two networks stay apart.
    operations: list[nn.Module] = []
    for layer in model.hidden:
        operations += [copy.deepcopy(layer), MODULES[model.activation]()]
    return [*operations, copy.deepcopy(model.output)]


@law(
    right=nn.Sequential,
    wrong={
        forgets_an_activation: "Sequential computes the same",
        shares_one_layer: "the same parameters",
    },
)
@given(sizes=deep, activation=activation_modules, seed=seeds, data=st.data())
def test_a_list_of_operations_is_the_same_network(
    build: Callable[..., nn.Sequential],
    sizes: Sizes,
    activation: str,
    seed: int,
    data: st.DataObject,
) -> None:
    """With the same weights, Sequential has the outputs and gradients of the class."""
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


@law(right=nn.Sequential, wrong={reverses_the_list: "reachable by position"})
@given(sizes=deep, activation=activation_modules)
def test_layers_are_reachable_by_position(
    build: Callable[..., nn.Sequential], sizes: Sizes, activation: str
) -> None:
    """Operation k of the list is model[k]."""
    operations = list_of_operations(Network(*sizes, activation=activation))

    chain = build(*operations)

    assert list(chain) == operations, "each operation is reachable by position"
