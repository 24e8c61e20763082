"""The gallery: small projects with one mistake each, beside the same project without it.

Each project is whole, with every part that `dlconcepts.checks` can look at, so that a check which
complains about what is right is seen at once. A mistake names the check that must find it, a piece
of what that check must say, and in `also` the checks that are rightly concerned too.
"""

from tests.gallery import (
    checkpoints,
    correct,
    data,
    forward,
    freezing,
    learning,
    loss,
    validation,
)
from tests.gallery.base import CORRECT, MISTAKES, Mistake, Parts

__all__ = [
    "CORRECT",
    "MISTAKES",
    "Mistake",
    "Parts",
    "checkpoints",
    "correct",
    "data",
    "forward",
    "freezing",
    "learning",
    "loss",
    "validation",
]
