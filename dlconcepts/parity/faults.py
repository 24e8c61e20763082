"""Lesson 9, faults to plant: what a device may do wrong without any error message.

Each fault adds hooks that change what the layers of a model compute; the parameters stay the same.
A parity law that misses a fault says nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlconcepts.parity.bounds import ulp

Fault: TypeAlias = Callable[[nn.Module], None]
Layer: TypeAlias = "nn.Linear | nn.Conv2d"

TF32_CUT = ~0x1FFF  # TF32 keeps 10 of the 23 bits of a float32's fraction


def drops_a_bias(model: nn.Module) -> None:
    """Lose the bias of the last layer."""
    *_, last = layers_with_weights(model)
    replace_results([last], lambda layer, x: apply(layer, x, layer.weight, None))


def rounds_weights_to_bfloat16(model: nn.Module) -> None:
    """Keep 8 bits of each weight."""

    def rounded(layer: Layer, x: Tensor) -> Tensor:
        weight = layer.weight.bfloat16().to(layer.weight.dtype)
        return apply(layer, x, with_gradient_of(layer.weight, weight), layer.bias)

    replace_results(layers_with_weights(model), rounded)


def multiplies_in_tf32(model: nn.Module) -> None:
    """Keep 11 bits of each factor, as tensor cores do if TF32 is allowed."""

    def in_tf32(layer: Layer, x: Tensor) -> Tensor:
        x, weight = (with_gradient_of(part, cut_to_tf32(part)) for part in (x, layer.weight))
        return apply(layer, x, weight, layer.bias)

    replace_results(layers_with_weights(model), in_tf32)


def sums_in_the_dtype(model: nn.Module) -> None:
    """Round after each term of a sum, although float16 and bfloat16 must be summed in float32."""

    def summed(layer: Layer, x: Tensor) -> Tensor:
        bias = layer.bias
        total = x.new_zeros(*x.shape[:-1], len(layer.weight)) if bias is None else bias
        for column, weights in zip(x.unbind(-1), layer.weight.unbind(1), strict=True):
            total = total + column[..., None] * weights
        return total

    linears = [layer for layer in layers_with_weights(model) if isinstance(layer, nn.Linear)]
    replace_results(linears, summed)


def moves_one_logit(ulps: int) -> Fault:
    """Return the fault that shifts the largest logit by this many units in the last place."""

    def moves_a_logit(model: nn.Module) -> None:
        """Shift the largest logit away from zero."""
        model.register_forward_hook(move)

    def move(model: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        flat = logits.detach().reshape(-1)
        at, shift = flat.abs().argmax(), torch.zeros_like(flat)
        shift[at] = ulps * ulp(flat[at]).copysign(flat[at])
        return logits + shift.view(logits.shape)

    return moves_a_logit


def layers_with_weights(model: nn.Module) -> list[Layer]:
    return [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


def replace_results(layers: Iterable[Layer], compute: Callable[[Layer, Tensor], Tensor]) -> None:
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, result: compute(module, inputs[0]))


def apply(layer: Layer, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return (F.conv2d if isinstance(layer, nn.Conv2d) else F.linear)(inputs, weight, bias)


def with_gradient_of(values: Tensor, others: Tensor) -> Tensor:
    """Return the other values; their gradient goes to `values`."""
    return values + (others - values).detach()


def cut_to_tf32(values: Tensor) -> Tensor:
    """Cut values to the 10 bits of fraction that TF32 keeps.

    >>> cut_to_tf32(torch.tensor([1 + 2**-10, 1 + 2**-11])) - 1
    tensor([0.0010, 0.0000])
    """
    bits = values.float().view(torch.int32) & TF32_CUT
    return bits.view(torch.float32).to(values.dtype)


FAULTS: dict[str, Fault] = {
    "a bias dropped": drops_a_bias,
    "bfloat16 weights": rounds_weights_to_bfloat16,
    "TF32 factors": multiplies_in_tf32,
    "sums in the dtype": sums_in_the_dtype,
}
# No fault in a dtype: its own arithmetic, or a finer one.
HARMLESS: dict[torch.dtype, set[Fault]] = {
    torch.float64: {sums_in_the_dtype},
    torch.float32: {sums_in_the_dtype},
    torch.bfloat16: {rounds_weights_to_bfloat16, multiplies_in_tf32},
    torch.float16: {multiplies_in_tf32},
}
