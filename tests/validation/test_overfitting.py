"""Overfitting.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Networks do too well on training data and fail to generalise: overfitting.
Verdict: holds
"""

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.testing.laws import law
from dlconcepts.training import fit
from dlconcepts.validation import Data, evaluate
from tests.validation.common import FALSE_ALARM, binomial_interval


def on_held_out_examples(model: nn.Module, examples: Data, held_out: Data) -> float:
    """Measure on examples that the model has not seen."""
    return evaluate(model, held_out).accuracy


def on_the_training_set(model: nn.Module, examples: Data, held_out: Data) -> float:
    """Measure on what the model was trained on."""
    return evaluate(model, examples).accuracy


def on_a_leaky_set(model: nn.Module, examples: Data, held_out: Data) -> float:
    """Measure on held-out examples among which half are copies of training examples."""
    (images, labels), (others, other_labels) = examples, held_out
    copies = len(others) // len(images)
    mixed = torch.cat([others, images.repeat(copies, 1)])
    return evaluate(model, (mixed, torch.cat([other_labels, labels.repeat(copies)]))).accuracy


@law(
    right=on_held_out_examples,
    wrong={on_the_training_set: "at chance", on_a_leaky_set: "at chance"},
    share=0.1,
    because="each example trains a network",
)
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 10))
def test_random_labels_are_learnt_by_heart_and_teach_nothing(
    measure: Callable[[nn.Module, Data, Data], float], seed: int, classes: int
) -> None:
    """A wide network fits random labels without an error, and guesses those held out.

    The held-out labels are independent of all that the network saw, so that the number guessed
    rightly is binomial; its two-sided interval fails once in 1e11 runs.
    """
    torch.manual_seed(seed)
    examples, held_out = ((torch.randn(n, 32), torch.randint(classes, (n,))) for n in (24, 2000))
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    fit(model, examples, epochs=60, batch_size=24, optimizer=optimizer)
    share = measure(model, examples, held_out)

    low, high = binomial_interval(2000, 1 / classes, FALSE_ALARM)
    assert evaluate(model, examples).accuracy == 1, "random labels are learnt by heart"
    assert low <= 2000 * share <= high, "the accuracy on held-out examples stays at chance"
