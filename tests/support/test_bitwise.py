"""Tensors and modules are compared exactly, with NaN equal to itself."""

import math

import pytest
import torch
from torch import Tensor, nn

from dlconcepts.support.bitwise import bits, same, state_of

NAN = math.nan


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, NAN]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), True),
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, 2.0]), False),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, NAN]), False),
        (torch.tensor([1.0]), torch.tensor([1.0, 1.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.ones(0, 2), torch.ones(0, 3), False),
    ],
)
def test_tensors_are_the_same_if_shapes_dtypes_and_elements_agree(
    one: Tensor, other: Tensor, equal: bool
) -> None:
    """Tensors that would broadcast or be converted are not the same."""
    assert same(one, other) is equal


def test_bits_are_those_of_the_elements_in_order() -> None:
    """Strides make no difference, nor do lazy conjugates and negatives."""
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    number = torch.tensor([1 + 2j])

    assert bits(matrix.t()) == bits(torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    assert bits(torch.tensor([0.0])) != bits(torch.tensor([-0.0]))
    assert bits(number.conj()) == bits(torch.tensor([1 - 2j]))
    assert bits(number.conj().imag) == bits(torch.tensor([-2.0]))


def test_each_change_of_a_module_is_a_change_of_its_state() -> None:
    """The state has modes, tensors, gradients, and whether parameters require them."""
    layer = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    before = state_of(layer)

    def changed(change: object) -> set[str]:
        """Return the parts that differ since the last call."""
        after = state_of(layer)
        parts = {name for name in after if after[name] != before[name]}
        before.update(after)
        return parts

    assert changed(None) == set()
    assert changed(layer[1].eval()) == {"1: training"}
    assert changed(layer[0].bias.requires_grad_(False)) == {"0.bias"}
    assert changed(layer[1].running_mean.add_(1)) == {"1.running_mean"}
    assert changed(layer(torch.ones(2, 1)).sum().backward()) == {
        "0.weight",
        "1.weight",
        "1.bias",
    }


def test_a_tensor_that_two_layers_share_has_both_names_in_the_state() -> None:
    """So the state changes if either layer or the sharing changes."""
    layers = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    layers[1].weight, layers[1].running_mean = layers[0].weight, layers[0].running_mean

    assert {"0.weight", "1.weight", "0.running_mean", "1.running_mean"} <= set(state_of(layers))
