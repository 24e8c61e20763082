"""Lesson 9, how far rounding may take a result: bounds that follow from the arithmetic alone.

Each operation returns its float64 result with the largest error that any order of summation, fused
or not, can leave when a given arithmetic computes it: running error analysis. No number here was
fitted to what a device does.

Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002, sections 2.2
(unit roundoff, underflow), 3.1 (gamma_n, lemma 3.1), 3.3 (running error analysis) and 3.5 (matrix
products, |fl(AB) - AB| <= gamma_n |A||B|).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# exp and log are right to 2 units in the last place, each 2 roundoffs (CUDA C++ Programming Guide,
# "Mathematical Functions"; the vector library of the CPU promises 1).
FUNCTION_ROUNDINGS = 4


@dataclass(frozen=True)
class Bounded:
    """A float64 value and a bound on the error of the computed one, of the same shape."""

    value: Tensor
    error: Tensor

    @classmethod
    def exact(cls, tensor: Tensor) -> Bounded:
        """Return a tensor without error: an input that both computations share.

        >>> Bounded.exact(torch.ones(1)).error.item()
        0.0
        """
        # On the CPU first: MPS has no float64.
        value = tensor.detach().cpu().to(torch.float64, copy=True)
        return cls(value, torch.zeros_like(value))

    @property
    def largest(self) -> Tensor:
        """The largest magnitude that the computed value can have."""
        return self.value.abs() + self.error

    def rearranged(self, move: Callable[[Tensor], Tensor]) -> Bounded:
        """Apply a function that moves or selects elements to value and error."""
        return Bounded(move(self.value), move(self.error))

    def reshape(self, *shape: int) -> Bounded:
        return self.rearranged(lambda part: part.reshape(shape))

    def t(self) -> Bounded:
        return self.rearranged(Tensor.t)

    def patches(self, kernel: Bounded) -> Bounded:
        """Unfold images (N, C, H, W) into rows, one for each place of a kernel (O, C, h, w)."""
        sides = kernel.value.shape[2:]
        return self.rearranged(lambda part: F.unfold(part, sides).transpose(1, 2).flatten(0, 1))

    def __getitem__(self, index: Any) -> Bounded:
        return self.rearranged(lambda part: part[index])


def gamma(terms: Tensor | float, unit: float) -> Tensor:
    """Return n u / (1 - n u), which bounds the relative error of n roundings; inf if n u >= 1.

    Source: Higham, lemma 3.1.

    >>> gamma(784, 2**-24).item() < 4.7e-5
    True
    """
    product = torch.as_tensor(terms, dtype=torch.float64, device="cpu") * unit
    return torch.where(product < 1, product / (1 - product), math.inf)


def ulp(values: Tensor) -> Tensor:
    """Return the unit in the last place: the distance to the next value, away from zero.

    Source: Higham, section 2.1: an ulp of x is eps times the power of 2 at or below |x|.

    >>> ulp(torch.tensor([1.0, 3.0])) / torch.finfo(torch.float32).eps
    tensor([1., 2.])
    """
    info = torch.finfo(values.dtype)
    _, exponent = values.detach().cpu().abs().double().clamp(min=info.smallest_normal).frexp()
    # frexp returns a fraction between 1/2 and 1, so half an eps belongs to its exponent.
    half = torch.full_like(exponent, info.eps / 2, dtype=torch.float64)
    return torch.ldexp(half, exponent).to(values.dtype).to(values.device)


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are rounded: when stored, within sums, and before they are multiplied.

    unit, sum_unit, product_unit: unit roundoffs (the last is 0 if factors are not rounded); tiny:
    the error where a number underflows; most: the largest finite number.

    float16 and bfloat16 are multiplied and summed in float32, in any order. TF32 keeps 10 bits of a
    factor and may cut off the rest, which is a unit roundoff of 2**-10.
    Source: Higham, table 2.1; NVIDIA, "A100 Tensor Core GPU Architecture", TF32.
    """

    unit: float
    sum_unit: float
    product_unit: float
    tiny: float
    most: float

    @classmethod
    def of(cls, dtype: torch.dtype, *, tf32: bool = False) -> Arithmetic:
        """Return the arithmetic of a dtype; `tf32` allows TF32 for float32.

        >>> round(Arithmetic.of(torch.float32).unit * 2**24, 6)
        1.0
        """
        info = torch.finfo(dtype)
        # The float64 result that everything is compared with is rounded, too.
        unit = info.eps / 2 + 2**-53
        # Devices may flush subnormal numbers to zero, except those of float16, which are common.
        tiny = info.smallest_normal * (info.eps if dtype == torch.float16 else 1)
        return cls(unit, min(unit, 2**-24 + 2**-53), 2**-10 if tf32 else 0.0, tiny, info.max)

    def can_hold(self, results: Iterable[Bounded]) -> bool:
        """Return whether no result can overflow."""
        return all(bool((result.largest < self.most).all()) for result in results)

    def stored(self, result: Bounded) -> Bounded:
        """Add the error of rounding a result to the dtype; what is certainly zero stays exact."""
        lost = self.unit * result.largest + self.tiny * (result.largest > 0)
        return Bounded(result.value, result.error + lost)

    def matmul(self, a: Bounded, b: Bounded, bias: Bounded | None = None) -> Bounded:
        """Multiply (I, N) and (N, J), and add a bias of shape (J,).

        Terms that are certainly zero are not rounded, so each sum has its own n.
        """
        value, products = a.value @ b.value, a.largest @ b.largest
        terms = (a.largest > 0).double() @ (b.largest > 0).double()
        error = a.error @ b.largest + a.value.abs() @ b.error
        if bias is not None:
            value, products = value + bias.value, products + bias.largest
            terms, error = terms + (bias.largest > 0), error + bias.error
        return self._summed(value, error, products, terms)

    def convolve(self, images: Bounded, weight: Bounded, bias: Bounded) -> Bounded:
        """Convolve (N, C, H, W) with (O, C, h, w), without padding, with stride 1.

        The bound is for sums of products. Winograd and Fourier convolutions compute other sums and
        may exceed it: `dlconcepts.parity.comparison.precision` turns cuDNN off, which has them.
        """
        channels, _, side, _ = weight.value.shape
        places = (len(images.value), images.value.shape[2] - side + 1, -1, channels)
        rows = self.matmul(images.patches(weight), weight.reshape(channels, -1).t(), bias)
        return rows.rearranged(lambda part: part.reshape(places).permute(0, 3, 1, 2))

    def total(self, terms: Bounded, dim: int) -> Bounded:
        count = (terms.largest > 0).sum(dim)
        return self._summed(
            terms.value.sum(dim), terms.error.sum(dim), terms.largest.sum(dim), count, factors=0
        )

    def add(self, a: Bounded, b: Bounded) -> Bounded:
        return self.stored(Bounded(a.value + b.value, a.error + b.error))

    def multiply(self, a: Bounded, b: Bounded) -> Bounded:
        error = a.error * b.largest + a.value.abs() * b.error
        return self.stored(Bounded(a.value * b.value, error))

    def scale(self, a: Bounded, factor: float) -> Bounded:
        """Multiply by a Python number, which is rounded, too."""
        lost = self.sum_unit * abs(factor) * a.largest
        return self.stored(Bounded(a.value * factor, a.error * abs(factor) + lost))

    def divide(self, a: Bounded, b: Bounded, least: float = 0) -> Bounded:
        """Divide by a result that is at least `least`; inf where it may be zero."""
        value, divisor = a.value / b.value, (b.value - b.error).clamp(min=least)
        error = torch.where(divisor > 0, (a.error + value.abs() * b.error) / divisor, math.inf)
        return self.stored(Bounded(value, error))

    def sqrt(self, a: Bounded) -> Bounded:
        """Take the square root of a result that is not negative."""
        value = a.value.sqrt()
        least = (a.value - a.error).clamp(min=0).sqrt()
        # Both are bounds: sqrt(x + d) - sqrt(x) is at most sqrt(d).
        error = torch.minimum(a.error.sqrt(), a.error / (value + least).clamp(min=1e-300))
        return self.stored(Bounded(value, error))

    def log_softmax(self, logits: Bounded) -> Bounded:
        """Take the log-softmax of each row of (N, K).

        The errors of the logits move the logarithm of the sum by at most the largest of them; the
        rest is rounding within the function.
        """
        value = logits.value.log_softmax(dim=1)
        error = logits.error + logits.error.amax(dim=1, keepdim=True)
        spread = (logits.value - logits.value.amax(dim=1, keepdim=True)).abs() + error
        classes = value.shape[1]
        summing = FUNCTION_ROUNDINGS * (1 + math.log(classes)) + classes
        rounding = gamma(summing, self.sum_unit) + self.sum_unit * (
            2 * spread + spread.amax(dim=1, keepdim=True) + math.log(classes)
        )
        return self.stored(Bounded(value, error + rounding))

    def exp(self, a: Bounded) -> Bounded:
        """Take the exponential of the logarithm of a probability, which is never above zero.

        So the result is never above 1, whatever the error of the logarithm.
        """
        value = a.value.exp()
        rise = torch.minimum(a.error, -a.value)
        largest = (a.value + rise).exp()
        # The difference loses the digits of a small rise; expm1 overflows for a large one.
        above = torch.where(rise < 1, value * torch.expm1(rise), largest - value)
        below = -value * torch.expm1(-a.error)
        rounding = gamma(FUNCTION_ROUNDINGS, self.sum_unit) * largest
        return self.stored(Bounded(value, torch.maximum(above, below) + rounding))

    def _summed(
        self, value: Tensor, error: Tensor, magnitude: Tensor, terms: Tensor, factors: int = 2
    ) -> Bounded:
        """Add the rounding of a sum of products, or of plain terms if `factors` is 0."""
        rounded = (1 + self.product_unit) ** factors - 1
        relative = gamma(terms, self.sum_unit) * (1 + rounded) + rounded
        return self.stored(Bounded(value, error + relative * magnitude + self.tiny * terms))


def relu(a: Bounded) -> Bounded:
    """Return max(0, x), exactly zero where the computed value cannot be above zero.

    >>> relu(Bounded(torch.tensor([-2.0]), torch.tensor([1.0]))).error.item()
    0.0
    """
    certainly_zero = a.value + a.error <= 0
    return Bounded(a.value.clamp(min=0), a.error.masked_fill(certainly_zero, 0))


def relu_backward(slope: Bounded, before: Bounded) -> Bounded:
    """Return the gradient before a ReLU; where the sign of its input is in doubt, slope or 0."""
    doubtful = (before.value.abs() <= before.error) & (before.error > 0)
    on = before.value > 0
    error = torch.where(on, slope.error, 0)
    return Bounded(slope.value * on, torch.where(doubtful, slope.largest, error))
