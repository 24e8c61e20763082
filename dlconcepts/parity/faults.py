"""Lesson 9, faults to plant: what a device may do wrong without any error message.

Each changes, by hooks, what the layers of a model compute; its parameters stay as they are. A
parity law that does not notice one of them says nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Fault: TypeAlias = Callable[[nn.Module], None]
Layer: TypeAlias = "nn.Linear | nn.Conv2d"

TF32_CUT = ~0x1FFF  # of the 23 bits of a float32's fraction TF32 keeps 10


def drops_a_bias(model: nn.Module) -> None:
    """Lose the bias of the last layer."""
    layers_with_weights(model)[-1].register_forward_hook(_without_bias)


def rounds_weights_to_bfloat16(model: nn.Module) -> None:
    """Keep 8 bits of each weight."""
    for layer in layers_with_weights(model):
        layer.register_forward_hook(_weights_in_bfloat16)


def multiplies_in_tf32(model: nn.Module) -> None:
    """Keep 11 bits of what is multiplied, as tensor cores do where TF32 is allowed."""
    for layer in layers_with_weights(model):
        layer.register_forward_hook(_multiply_in_tf32)


def sums_in_the_dtype(model: nn.Module) -> None:
    """Round after each term of a sum, where float16 and bfloat16 are to be summed in float32."""
    for layer in layers_with_weights(model):
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(_sum_in_the_dtype)


def moves_one_logit(ulps: int) -> Fault:
    """Return the fault that puts the largest logit off by so many units in the last place."""

    def moves_a_logit(model: nn.Module) -> None:
        """Put the largest logit off."""
        model.register_forward_hook(move)

    def move(model: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        """Move it away from zero."""
        flat = logits.detach().reshape(-1)
        at, shift = flat.abs().argmax(), torch.zeros_like(flat)
        shift[at] = ulps * ulp(flat[at]).copysign(flat[at])
        return logits + shift.view(logits.shape)

    return moves_a_logit


def ulp(values: Tensor) -> Tensor:
    """Return the distance from each value to the next one of its dtype, away from zero.

    >>> ulp(torch.tensor([1.0, 3.0])) / torch.finfo(torch.float32).eps
    tensor([1., 2.])
    """
    info = torch.finfo(values.dtype)
    _, exponent = values.detach().cpu().abs().double().clamp(min=info.smallest_normal).frexp()
    half = torch.full_like(exponent, info.eps / 2, dtype=torch.float64)
    return torch.ldexp(half, exponent).to(values.dtype).to(values.device)


def layers_with_weights(model: nn.Module) -> list[Layer]:
    """Return the layers that multiply."""
    return [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


def cut_to_tf32(values: Tensor) -> Tensor:
    """Return values with the 10 bits of fraction that TF32 keeps.

    >>> cut_to_tf32(torch.tensor([1 + 2**-10, 1 + 2**-11])) - 1
    tensor([0.0010, 0.0000])
    """
    bits = values.float().view(torch.int32) & TF32_CUT
    return bits.view(torch.float32).to(values.dtype)


def _in_place_of(values: Tensor, others: Tensor) -> Tensor:
    """Return the other values, with the gradient of these."""
    return values + (others - values).detach()


def _apply(layer: Layer, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a layer gives with another input, weight and bias."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(inputs, weight, bias)
    return F.linear(inputs, weight, bias)


def _without_bias(layer: Layer, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
    """Return what a layer gives without its bias."""
    return _apply(layer, inputs[0], layer.weight, None)


def _weights_in_bfloat16(layer: Layer, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
    """Return what a layer gives with rounded weights."""
    rounded = layer.weight.bfloat16().to(layer.weight.dtype)
    return _apply(layer, inputs[0], _in_place_of(layer.weight, rounded), layer.bias)


def _multiply_in_tf32(layer: Layer, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
    """Return what a layer gives with TF32."""
    before, weight = (_in_place_of(x, cut_to_tf32(x)) for x in (inputs[0], layer.weight))
    return _apply(layer, before, weight, layer.bias)


def _sum_in_the_dtype(layer: Layer, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
    """Return what a layer gives if its sums are held in the dtype."""
    total = torch.zeros_like(result) if layer.bias is None else layer.bias
    for column, weights in zip(inputs[0].unbind(-1), layer.weight.unbind(1), strict=True):
        total = total + column[..., None] * weights
    return total


FAULTS: dict[str, Fault] = {
    "a bias dropped": drops_a_bias,
    "bfloat16 weights": rounds_weights_to_bfloat16,
    "TF32 factors": multiplies_in_tf32,
    "sums in the dtype": sums_in_the_dtype,
}
# What is no fault in a dtype: its own arithmetic, or one that is finer still.
HARMLESS: dict[torch.dtype, set[Fault]] = {
    torch.float64: {sums_in_the_dtype},
    torch.float32: {sums_in_the_dtype},
    torch.bfloat16: {rounds_weights_to_bfloat16, multiplies_in_tf32},
    torch.float16: {multiplies_in_tf32},
}
