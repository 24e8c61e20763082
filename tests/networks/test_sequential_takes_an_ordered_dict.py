"""nn.Sequential takes names only as an OrderedDict; a dict or a list raises.

>>> from collections import OrderedDict
>>> layers = [("fc1", nn.Linear(4, 3)), ("fc2", nn.Linear(3, 2))]
>>> nn.Sequential(OrderedDict(layers)).fc2
Linear(in_features=3, out_features=2, bias=True)
>>> nn.Sequential(dict(layers))
Traceback (most recent call last):
    ...
TypeError: dict is not a Module subclass

Notes: nn.Sequential takes an ordered dictionary of tuples, each a name and an operation.
Verdict: holds-if
Truth: The one argument must be a collections.OrderedDict, built from a list of tuples or from a
    dict. A plain dict raises TypeError although it keeps its order; so does the list of tuples, or
    of layers, and the tuples as arguments.
"""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.networks.common import fill, seeds

Named = list[tuple[str, nn.Module]]


def from_an_ordered_dict(layers: Named) -> nn.Sequential:
    """Build an OrderedDict from the tuples."""
    return nn.Sequential(OrderedDict(layers))


def from_a_dict(layers: Named) -> nn.Sequential:
    """Pass a plain dict, which keeps its order too."""
    return nn.Sequential(dict(layers))


def from_a_list(layers: Named) -> nn.Sequential:
    """Pass the list of tuples."""
    return nn.Sequential(layers)


def from_tuples(layers: Named) -> nn.Sequential:
    """Pass the tuples as arguments."""
    return nn.Sequential(*layers)


def from_a_list_of_layers(layers: Named) -> nn.Sequential:
    """Pass a list of layers without names."""
    return nn.Sequential([layer for _, layer in layers])


def from_a_module_dict(layers: Named) -> nn.Sequential:
    """Pass an nn.ModuleDict, which counts as one single layer."""
    return nn.Sequential(nn.ModuleDict(layers))


def from_a_set_of_names(layers: Named) -> nn.Sequential:
    """Sort the names on the way, as a set or a JSON file may."""
    return nn.Sequential(OrderedDict(sorted(layers)))


NAMES = ["fc1", "relu", "fc2", "output", "dropout"]


@law(
    right=from_an_ordered_dict,
    wrong={
        from_a_dict: "dict is not a Module subclass",
        from_a_list: "list is not a Module subclass",
        from_tuples: "tuple is not a Module subclass",
        from_a_list_of_layers: "list is not a Module subclass",
        from_a_module_dict: "each operation under its name",
        from_a_set_of_names: "in the order of the tuples",
    },
)
@given(names=st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=4), seed=seeds)
def test_an_ordered_dict_chains_the_operations_in_order(
    build: Callable[[Named], nn.Sequential], names: list[str], seed: int
) -> None:
    """Each operation has its name, and they run in the order of the tuples."""
    layers: Named = [(name, nn.Linear(2, 2)) for name in names]
    x = torch.ones(1, 2)

    try:
        model = build(layers)
    except TypeError as error:
        pytest.fail(str(error))
    fill(model, seed)

    assert dict(model.named_children()) == dict(layers), (
        "the model has each operation under its name"
    )
    expected = x
    for _, layer in layers:
        expected = layer(expected)
    found = [name for name, _ in model.named_children()]
    assert found == names, "the operations are in the order of the tuples"
    assert same(model(x), expected), "the operations run in the order of the tuples"
