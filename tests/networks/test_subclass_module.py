"""nn.Module finds the layers that are assigned after super().__init__().

>>> class Net(nn.Module):
...     def __init__(self, call_super):
...         if call_super:
...             super().__init__()
...         self.fc1 = nn.Linear(2, 3)
>>> list(Net(call_super=True).state_dict())
['fc1.weight', 'fc1.bias']
>>> Net(call_super=False)
Traceback (most recent call last):
    ...
AttributeError: cannot assign module before Module.__init__() call

Notes: Define a class that inherits from nn.Module and call super().__init__() in its constructor.
Verdict: holds
Truth: After the call, each layer that is assigned to an attribute is found under its name. Before
    it, assigning one raises. A layer in a plain dictionary is never found.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.testing.laws import law
from tests.networks.common import sides


class CallsSuperFirst(nn.Module):
    """A network that calls super().__init__() and then assigns its layers."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


class AssignsBeforeSuper(nn.Module):
    """A network that assigns its layers and then calls super().__init__()."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        for name, layer in layers.items():
            setattr(self, name, layer)
        super().__init__()


class KeepsADict(nn.Module):
    """A network that keeps its layers in a plain dictionary."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = dict(layers)

    def __getattr__(self, name: str) -> nn.Module:
        return self.__dict__["layers"][name]


class ForgetsNnModule:
    """A plain class, which does not inherit from nn.Module."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        for name, layer in layers.items():
            setattr(self, name, layer)


@law(
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
