"""A state_dict holds the parameters and the buffers, by name.

>>> model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
>>> for name, tensor in model.state_dict().items():
...     print(name, tuple(tensor.shape))
0.weight (2, 3)
0.bias (2,)
1.weight (2,)
1.bias (2,)
1.running_mean (2,)
1.running_var (2,)
1.num_batches_tracked ()

Notes: state_dict holds the weights and biases; its keys are the layers' names.
Verdict: holds-if
Truth: It also holds the persistent buffers, such as BatchNorm's running statistics. Its keys are
    exactly the names of parameters and persistent buffers. Its tensors are references, not copies.
"""

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.checkpoints import snapshot
from dlconcepts.networks import Network
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.checkpoints.common import State, models


class Positions(nn.Module):
    """A module with two buffers; one is computed from its size, so it is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("positions", torch.arange(3), persistent=False)


# The names that each kind of layer adds, from its documentation.
LAYERS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "relu": (nn.ReLU, []),
    "linear": (lambda: nn.Linear(2, 2), ["weight", "bias"]),
    "linear without bias": (lambda: nn.Linear(2, 2, bias=False), ["weight"]),
    "batch norm": (
        lambda: nn.BatchNorm1d(2),
        ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"],
    ),
    "positions": (Positions, ["scale"]),
    "nested": (lambda: nn.Sequential(nn.Linear(2, 2)), ["0.weight", "0.bias"]),
}


def parameters_only(model: nn.Module) -> State:
    """Save only the parameters, which is all that an optimizer sees."""
    return dict(model.named_parameters())


def every_buffer(model: nn.Module) -> State:
    """Save the parameters and all buffers, persistent or not."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def numbers_the_layers(model: nn.Module) -> State:
    """Name each entry by the position of its layer instead of its name."""
    return {
        f"{number}.{name}": tensor
        for number, layer in enumerate(model.children())
        for name, tensor in layer.state_dict().items()
    }


@law(
    right=snapshot,
    wrong={
        parameters_only: "the parameters and the persistent buffers",
        every_buffer: "the parameters and the persistent buffers",
        numbers_the_layers: "the parameters and the persistent buffers",
    },
)
@given(kinds=st.lists(st.sampled_from(list(LAYERS)), max_size=4))
def test_a_state_dict_names_parameters_and_persistent_buffers(
    state_dict: Callable[[nn.Module], State], kinds: list[str]
) -> None:
    """A state_dict, and a snapshot of it, names all parameters and persistent buffers by layer."""
    model = nn.Module()
    for number, kind in enumerate(kinds):
        model.add_module(f"layer{number}", LAYERS[kind][0]())

    names = {
        f"layer{number}.{name}" for number, kind in enumerate(kinds) for name in LAYERS[kind][1]
    }
    for keys in (set(state_dict(model)), set(model.state_dict())):
        assert keys == names, (
            "a state_dict names the parameters and the persistent buffers, and nothing else"
        )


@law(right=nn.Module.state_dict, wrong={snapshot: "reaches the model"})
@given(model=models(), data=st.data())
def test_a_state_dict_refers_to_the_model(
    state_dict: Callable[[nn.Module], State], model: Network, data: st.DataObject
) -> None:
    """A write into an entry of a state_dict is a write into the model."""
    name, parameter = data.draw(st.sampled_from(list(model.named_parameters())))
    before = bits(parameter)

    state_dict(model)[name].add_(1)

    assert bits(parameter) != before, "a write into a state_dict reaches the model"
