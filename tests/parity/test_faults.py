"""The planted faults change the results of the layers, and nothing else."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dlconcepts.parity.faults import (
    cut_to_tf32,
    drops_a_bias,
    moves_one_logit,
    multiplies_in_tf32,
    rounds_weights_to_bfloat16,
    sums_in_the_dtype,
)


@pytest.mark.parametrize(
    ("make", "size"),
    [(lambda: nn.Linear(3, 3), (2, 3)), (lambda: nn.Conv2d(3, 3, 2), (2, 3, 6, 5))],
)
def test_only_the_last_layer_loses_its_bias(
    make: Callable[[], nn.Linear | nn.Conv2d], size: tuple[int, ...]
) -> None:
    """All other layers keep theirs, linear or convolution."""
    model = nn.Sequential(*[make() for _ in range(4)])
    images = torch.randn(size)
    bias = model[-1].bias
    expected = model(images) - bias.reshape(-1, *[1] * (len(size) - 2))

    drops_a_bias(model)

    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    ("fault", "rounded"),
    [
        (rounds_weights_to_bfloat16, lambda x, w: (x, w.bfloat16().float())),
        (multiplies_in_tf32, lambda x, w: (cut_to_tf32(x), cut_to_tf32(w))),
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(6, 2), nn.Conv2d(3, 2, (2, 3))])
def test_a_fault_of_precision_rounds_the_factors_and_not_the_gradient(
    fault: Callable[[nn.Module], None],
    rounded: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    layer: nn.Linear | nn.Conv2d,
) -> None:
    """It applies to both kinds of layers; the stored weights do not change."""
    images = torch.randn((2, 6) if isinstance(layer, nn.Linear) else (2, 3, 4, 5))
    faulty, exact = copy.deepcopy(layer), copy.deepcopy(layer)
    fault(faulty)
    x, weight = rounded(images, layer.weight.detach())
    exact.weight.data = weight
    expected = exact(x)

    result = faulty(images)

    for output in (result, expected):
        output.sum().backward()
    assert result.equal(expected)
    assert not result.equal(layer(images))
    assert faulty.weight.equal(layer.weight)
    torch.testing.assert_close(faulty.weight.grad, exact.weight.grad)


@pytest.mark.parametrize("bias", [False, True])
def test_the_fault_of_the_sums_rounds_after_each_term(bias: bool) -> None:
    """In float16 a sum of ones stops at 2048; torch sums in float32 and does not."""
    layer = nn.Linear(3000, 2, bias=bias, dtype=torch.float16)
    layer.weight.data = torch.ones(2, 3000, dtype=torch.float16)
    if bias:
        layer.bias.data = torch.tensor([4000.0, 0.0], dtype=torch.float16)
    sums_in_the_dtype(layer)

    result = layer(torch.tensor([[1.0], [2.0]], dtype=torch.float16).expand(2, 3000))

    assert result.tolist() == [[4000.0 if bias else 2048.0, 2048.0], [4096.0, 4096.0]]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(4,), (2, 4), (2, 3, 4), (2, 1)])
def test_the_fault_of_the_sums_accepts_all_inputs_of_a_linear_layer(
    bias: bool, size: tuple[int, ...]
) -> None:
    """In float64 it gives the result of the layer, for any number of dimensions and features."""
    layer = nn.Linear(size[-1], 3, bias=bias, dtype=torch.float64)
    images = torch.randn(size, dtype=torch.float64)
    expected = layer(images)

    sums_in_the_dtype(layer)

    torch.testing.assert_close(layer(images), expected)


def test_tf32_keeps_the_dtype() -> None:
    """Cut float16 stays float16."""
    assert cut_to_tf32(torch.ones(1, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize("ulps", [1, 512])
def test_the_fault_moves_the_largest_logit_away_from_zero(ulps: int) -> None:
    """It shifts this logit by units in its last place; the others do not change."""
    model = nn.Identity()
    moves_one_logit(ulps)(model)

    moved = model(torch.tensor([[1.0, -3.0], [2.0, 0.0], [0.5, 0.25]]))

    unit = 2 * torch.finfo(torch.float32).eps
    assert moved.equal(torch.tensor([[1.0, -3.0 - ulps * unit], [2.0, 0.0], [0.5, 0.25]]))
