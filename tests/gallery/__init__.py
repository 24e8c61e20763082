"""The gallery: small projects with one mistake each, and the same projects without it.

Each project has every part that `dlconcepts.checks` can check, so a false alarm of any check shows.
A mistake names the check that must find it, a piece of the message, and in `also` the other checks
that may fail because of it.
"""

from tests.gallery import (
    checkpoints,
    correct,
    data,
    forms,
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
    "forms",
    "forward",
    "freezing",
    "learning",
    "loss",
    "validation",
]
