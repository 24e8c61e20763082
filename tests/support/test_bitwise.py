"""What the laws compare with: to the last bit, and with NaN equal to itself."""

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
    """What would broadcast, or be converted, is not the same."""
    assert same(one, other) is equal


def test_bits_are_those_of_the_elements_in_order() -> None:
    """Whatever the strides, and for a lazy conjugate and negative too."""
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    number = torch.tensor([1 + 2j])

    assert bits(matrix.t()) == bits(torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    assert bits(torch.tensor([0.0])) != bits(torch.tensor([-0.0]))
    assert bits(number.conj()) == bits(torch.tensor([1 - 2j]))
    assert bits(number.conj().imag) == bits(torch.tensor([-2.0]))


def test_the_state_of_a_module_has_all_that_a_law_may_ask_for() -> None:
    """Modes, tensors, gradients and what requires one; each change is a change of the state."""
    layer = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    before = state_of(layer)

    def changed(change: object) -> set[str]:
        """Return which parts are not as before, and hold those against the next change."""
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


def test_a_tensor_that_two_layers_share_is_there_under_both_names() -> None:
    """So that a change of either, or of the sharing, is seen."""
    layers = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    layers[1].weight, layers[1].running_mean = layers[0].weight, layers[0].running_mean

    assert {"0.weight", "1.weight", "0.running_mean", "1.running_mean"} <= set(state_of(layers))
