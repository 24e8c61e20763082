"""Sequential by name.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Sequential also takes an OrderedDict of names and layers; the keys must be unique.
Verdict: corrected
Truth: Nothing enforces it: a repeated key silently replaces the earlier layer, and the network is
    shorter than written. The library's builder raises.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.networks import sequential
from dlconcepts.testing.laws import law


def through_a_dict(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Build through an OrderedDict, which keeps the last layer of each name."""
    return nn.Sequential(OrderedDict(layers))


def sorts_by_name(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Put the layers in the order of their names."""
    return nn.Sequential(OrderedDict(sorted(layers)))


def numbers_the_layers(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Forget the names."""
    return nn.Sequential(*(layer for _, layer in layers))


NAMES = ("fc1", "relu", "fc2", "output", "0", "Größe")


@law(
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


@law(right=sequential, wrong={through_a_dict: "DID NOT RAISE"})
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


@law(
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
