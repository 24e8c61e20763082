"""Arithmetics and helpers that the tests of the bounds share."""

import math

import torch

from dlconcepts.parity.bounds import Arithmetic, Bounded

# Rounds nothing, so a bound is the propagated error alone.
EXACT = Arithmetic(unit=0.0, sum_unit=0.0, product_unit=0.0, tiny=0.0, most=math.inf)
# Its unit roundoffs are so large that the roundings can be added up by hand.
COARSE = Arithmetic(unit=2**-4, sum_unit=2**-6, product_unit=0.0, tiny=2**-10, most=100.0)
STORED = 2**-4, 2**-10


def within(values: object, errors: object) -> Bounded:
    """Return float64 values with these error bounds."""
    value = torch.tensor(values, dtype=torch.float64)
    return Bounded(value, torch.tensor(errors, dtype=torch.float64).expand(value.shape))


def stored(value: float, error: float) -> float:
    """Return the error of a COARSE result after it is stored, by hand."""
    unit, tiny = STORED
    return error + unit * (abs(value) + error) + tiny


def check(found: Bounded, value: object, error: object) -> None:
    """Assert that a result has this value and this bound."""
    for tensor, expected in ((found.value, value), (found.error, error)):
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(tensor, expected, rtol=1e-9, atol=1e-12)
