"""Lesson 9, how far rounding may take a result: bounds that follow from the arithmetic alone.

A value is computed in float64, and beside it the largest error that any order of summation, fused
or not, can leave in it when it is computed in a given arithmetic: running error analysis. Nothing
here was fitted to what some device was seen to do.

Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002, sections 2.2
(unit roundoff, underflow), 3.1 (gamma_n, lemma 3.1), 3.3 (running error analysis) and 3.5 (matrix
products, |fl(AB) - AB| <= gamma_n |A||B|).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# exp and log are right to 2 units in the last place, each 2 roundoffs (CUDA C++ Programming Guide,
# "Mathematical Functions"; the vector library of the CPU promises 1).
FUNCTION_ROUNDINGS = 4


@dataclass(frozen=True)
class Bounded:
    """A float64 value, and how far from it the computed one may be, of the same shape."""

    value: Tensor
    error: Tensor

    @classmethod
    def exact(cls, tensor: Tensor) -> Bounded:
        """Return a tensor as it stands: what both computations begin with.

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

    def reshape(self, *shape: int) -> Bounded:
        """Return the same elements in another shape."""
        return Bounded(self.value.reshape(shape), self.error.reshape(shape))

    def __getitem__(self, index: Any) -> Bounded:
        """Return some of the elements."""
        return Bounded(self.value[index], self.error[index])


def gamma(terms: Tensor | float, unit: float) -> Tensor:
    """Return n u / (1 - n u), which bounds the relative error of n roundings; inf if n u >= 1.

    Source: Higham, lemma 3.1.

    >>> gamma(784, 2**-24).item() < 4.7e-5
    True
    """
    product = torch.as_tensor(terms, dtype=torch.float64, device="cpu") * unit
    return torch.where(product < 1, product / (1 - product), math.inf)


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are rounded: when stored, within sums, and before they are multiplied.

    unit, sum_unit, product_unit: unit roundoffs (the last is 0 where factors are taken as they
    are); tiny: what is lost where a number underflows; most: the largest number that there is.

    float16 and bfloat16 are multiplied and summed in float32, whatever a sum's order. TF32 keeps 10
    bits of a factor and may cut off the rest, which is a unit roundoff of 2**-10.
    Source: Higham, table 2.1; NVIDIA, "A100 Tensor Core GPU Architecture", TF32.
    """

    unit: float
    sum_unit: float
    product_unit: float
    tiny: float
    most: float

    @classmethod
    def of(cls, dtype: torch.dtype, *, tf32: bool = False) -> Arithmetic:
        """Return the arithmetic of a dtype, for float32 also with TF32 allowed.

        >>> round(Arithmetic.of(torch.float32).unit * 2**24, 6)
        1.0
        """
        info = torch.finfo(dtype)
        # The float64 result that all is compared with is rounded as well.
        unit = info.eps / 2 + 2**-53
        # Devices may flush subnormal numbers to zero; not those of float16, which one meets.
        tiny = info.smallest_normal * (info.eps if dtype == torch.float16 else 1)
        return cls(unit, min(unit, 2**-24 + 2**-53), 2**-10 if tf32 else 0.0, tiny, info.max)

    def can_hold(self, results: Iterable[Bounded]) -> bool:
        """Return whether no result can be larger than any number that there is."""
        return all(bool((result.largest < self.most).all()) for result in results)

    def stored(self, result: Bounded) -> Bounded:
        """Add what is lost when a result is rounded to the dtype.

        What is certainly zero stays zero.
        """
        lost = self.unit * result.largest + self.tiny * (result.largest > 0)
        return Bounded(result.value, result.error + lost)

    def matmul(self, a: Bounded, b: Bounded, bias: Bounded | None = None) -> Bounded:
        """Multiply (I, N) and (N, J), and add a bias of shape (J,).

        Terms that are certainly zero take no part in the rounding, so each sum has its own n.
        """
        value, products = a.value @ b.value, a.largest @ b.largest
        terms = (a.largest > 0).double() @ (b.largest > 0).double()
        error = a.error @ b.largest + a.value.abs() @ b.error
        if bias is not None:
            value, products = value + bias.value, products + bias.largest
            terms, error = terms + (bias.largest > 0), error + bias.error
        return self._summed(value, error, products, terms)

    def convolve(self, images: Bounded, weight: Bounded, bias: Bounded) -> Bounded:
        """Convolve (N, C, H, W) with (O, C, h, w), unpadded, by steps of 1.

        The bound is that of sums of products. Winograd's and Fourier's ways to convolve are none,
        and may exceed it: `dlconcepts.parity.comparison.precision` turns cuDNN off, which has them.
        """
        kernel = (weight.value.shape[2], weight.value.shape[3])
        patches = [
            torch.nn.functional.unfold(part, kernel) for part in (images.value, images.error)
        ]
        n, length, places = patches[0].shape
        rows = [part.transpose(1, 2).reshape(n * places, length) for part in patches]
        flat = weight.reshape(weight.value.shape[0], length)
        columns = Bounded(flat.value.t(), flat.error.t())
        result = self.matmul(Bounded(*rows), columns, bias)
        height = images.value.shape[2] - kernel[0] + 1
        shape = (n, height, places // height, -1)
        parts = [p.reshape(shape).permute(0, 3, 1, 2) for p in (result.value, result.error)]
        return Bounded(*parts)

    def total(self, terms: Bounded, dim: int) -> Bounded:
        """Sum along a dimension."""
        count = (terms.largest > 0).sum(dim)
        return self._summed(
            terms.value.sum(dim), terms.error.sum(dim), terms.largest.sum(dim), count, factors=0
        )

    def add(self, a: Bounded, b: Bounded) -> Bounded:
        """Add two results."""
        return self.stored(Bounded(a.value + b.value, a.error + b.error))

    def multiply(self, a: Bounded, b: Bounded) -> Bounded:
        """Multiply two results, element by element."""
        error = a.error * b.largest + a.value.abs() * b.error
        return self.stored(Bounded(a.value * b.value, error))

    def scale(self, a: Bounded, factor: float) -> Bounded:
        """Multiply with a number, which is rounded too."""
        lost = self.sum_unit * abs(factor) * a.largest
        return self.stored(Bounded(a.value * factor, a.error * abs(factor) + lost))

    def divide(self, a: Bounded, b: Bounded, least: float = 0) -> Bounded:
        """Divide by a result that is nowhere below `least`; inf where it may be zero."""
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

        Moving each logit by its error moves the logarithm of the sum by no more than the largest
        of them; the rest is rounding within the function.
        """
        value = logits.value.log_softmax(dim=1)
        spread = (logits.value - logits.value.amax(dim=1, keepdim=True)).abs()
        spread = spread + logits.error + logits.error.amax(dim=1, keepdim=True)
        classes = value.shape[1]
        summing = FUNCTION_ROUNDINGS * (1 + math.log(classes)) + classes
        rounding = gamma(summing, self.sum_unit) + self.sum_unit * (
            2 * spread + spread.amax(dim=1, keepdim=True) + math.log(classes)
        )
        error = logits.error + logits.error.amax(dim=1, keepdim=True)
        return self.stored(Bounded(value, error + rounding))

    def exp(self, a: Bounded) -> Bounded:
        """Take the exponential of what is nowhere above zero, the logarithm of a probability.

        So the result is nowhere above 1, however far off its logarithm may be.
        """
        value = a.value.exp()
        rise = torch.minimum(a.error, -a.value)
        largest = (a.value + rise).exp()
        # A small rise would lose its digits in the difference; of a large one expm1 is inf.
        above = torch.where(rise < 1, value * torch.expm1(rise), largest - value)
        below = -value * torch.expm1(-a.error)
        rounding = gamma(FUNCTION_ROUNDINGS, self.sum_unit) * largest
        return self.stored(Bounded(value, torch.maximum(above, below) + rounding))

    def _summed(
        self, value: Tensor, error: Tensor, magnitude: Tensor, terms: Tensor, factors: int = 2
    ) -> Bounded:
        """Return a sum of products (or of terms, without factors) after its roundings."""
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
    """Return the gradient before a ReLU; either value where the sign of its input is in doubt."""
    doubtful = (before.value.abs() <= before.error) & (before.error > 0)
    on = before.value > 0
    error = torch.where(on, slope.error, 0)
    return Bounded(slope.value * on, torch.where(doubtful, slope.largest, error))
