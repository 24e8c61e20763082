"""An OrderedDict drops a layer whose name is repeated.

>>> from collections import OrderedDict
>>> layers = [("fc", nn.Linear(4, 3)), ("relu", nn.ReLU()), ("fc", nn.Linear(3, 2))]
>>> nn.Sequential(OrderedDict(layers))
Sequential(
  (fc): Linear(in_features=3, out_features=2, bias=True)
  (relu): ReLU()
)
>>> from dlconcepts.networks import sequential
>>> sequential(layers)  # doctest: +ELLIPSIS
Traceback (most recent call last):
    ...
ValueError: two layers have the name 'fc'...

Notes: Sequential also takes an OrderedDict of names and layers; the keys must be unique.
Verdict: holds-if
Truth: With unique keys each layer is reachable by name and by position. Nothing enforces unique
    keys: a repeated one silently replaces the earlier layer, and the network is shorter than
    written. The library's builder raises.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.networks import sequential
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law


def through_a_dict(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Build from an OrderedDict, which keeps only the last layer of each name."""
    return nn.Sequential(OrderedDict(layers))


def sorts_by_name(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Sort the layers by name."""
    return nn.Sequential(OrderedDict(sorted(layers)))


def looks_twice(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Look at the names first, after which a generator has no layers left."""
    assert all(name for name, _ in layers), "a layer needs a name"
    return sequential(layers)


def numbers_the_layers(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Ignore the names, so that the layers are numbered."""
    return nn.Sequential(*(layer for _, layer in layers))


# A number and a word that is not ASCII are names, too.
NAMES = ("fc1", "relu", "fc2", "output", "0", "Größe")


@law(
    right=sequential,
    wrong={
        sorts_by_name: "in the order of the list",
        numbers_the_layers: "in the order of the list",
        looks_twice: "in the order of the list",
    },
)
@given(names=st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
def test_layers_are_reachable_by_name_and_position(
    build: Callable[..., nn.Sequential], names: list[str]
) -> None:
    """The layers are in the order of the list, each under its name."""
    layers = [(name, nn.Linear(1, 1)) for name in names]

    model = build(iter(layers))

    found = list(model.named_children())
    assert found == layers, "the layers have their names and are in the order of the list"
    for place, (name, layer) in enumerate(layers):
        assert model[place] is layer, "a layer is reachable by position"
        assert getattr(model, name) is layer, "a layer is reachable by name"
    x = torch.ones(1, 1)
    expected = reduce(lambda value, pair: pair[1](value), layers, x)
    assert same(model(x), expected), "the layers run in the order of the list"


@law(right=sequential, wrong={through_a_dict: "DID NOT RAISE"})
@given(names=st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=3), data=st.data())
def test_a_repeated_name_is_refused(
    build: Callable[..., nn.Sequential], names: list[str], data: st.DataObject
) -> None:
    """A repeated name raises, and the error quotes it; an OrderedDict drops the earlier layer."""
    repeated = data.draw(st.sampled_from(names), label="repeated")
    layers = [(name, nn.Linear(1, 1)) for name in [*names, repeated]]

    with pytest.raises(ValueError, match=f"two layers have the name '{repeated}'"):
        build(layers)

    assert len(layers) == len(names) + 1, "a refused list stays as it was"


def skips_invalid_layers(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Skip whatever is not a module, and ignore the names."""
    return nn.Sequential(*(layer for _, layer in layers if isinstance(layer, nn.Module)))


@st.composite
def invalid_layers(draw: st.DrawFn) -> tuple[str, Any, type[Exception], str]:
    """Draw an invalid name or layer, with the type and the message of the error."""
    case = draw(st.sampled_from(["empty", "dot", "attribute", "no module"]))
    if case == "no module":
        layer = draw(st.sampled_from([nn.ReLU, F.relu, None]))
        return draw(st.sampled_from(NAMES)), layer, TypeError, "must be an nn.Module"
    if case == "attribute":
        name = draw(
            st.sampled_from(sorted(name for name in dir(nn.Sequential()) if name[0] != "_"))
        )
        return name, nn.Linear(1, 1), ValueError, f"'{name}' would hide an attribute"
    name = "" if case == "empty" else draw(st.sampled_from([".", "fc.1", "block."]))
    return name, nn.Linear(1, 1), ValueError, f"no dot, but it is '{name}'"


@law(right=sequential, wrong={skips_invalid_layers: "DID NOT RAISE"})
@given(case=invalid_layers(), before=st.booleans())
def test_invalid_names_and_layers_are_refused(
    build: Callable[..., nn.Sequential],
    case: tuple[str, Any, type[Exception], str],
    before: bool,
) -> None:
    """A name that is empty, has a dot or hides an attribute raises; so does a non-module."""
    name, layer, error, message = case
    layers = [("first", nn.Linear(1, 1))] * before + [(name, layer)]

    with pytest.raises(error, match=message):
        build(layers)
