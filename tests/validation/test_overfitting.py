"""A network can memorize random labels and still only guess new ones.

>>> from dlconcepts.training import fit
>>> from dlconcepts.validation import evaluate
>>> x, labels = torch.randn(10_000, 32), torch.randint(2, (10_000,))
>>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))
>>> adam = torch.optim.Adam(model.parameters(), lr=0.01)
>>> _ = fit(model, (x[:24], labels[:24]), epochs=60, batch_size=24, optimizer=adam)
>>> seen, unseen = (evaluate(model, (x[i], labels[i])) for i in (slice(24), slice(24, None)))
>>> seen.accuracy, round(unseen.accuracy, 1)
(1.0, 0.5)

Notes: Networks do too well on training data and fail to generalise: overfitting.
Verdict: holds
Truth: A network that is large enough fits random labels perfectly. Its accuracy on other random
    labels stays at chance: accuracy on the training set says nothing about new examples.
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
    """Measure on the examples that the model was trained on."""
    return evaluate(model, examples).accuracy


def on_a_leaky_set(model: nn.Module, examples: Data, held_out: Data) -> float:
    """Measure on a held-out set of which about half are copies of training examples."""
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
def test_random_labels_are_memorized_and_teach_nothing(
    measure: Callable[[nn.Module, Data, Data], float], seed: int, classes: int
) -> None:
    """A wide network fits random labels perfectly and guesses the labels of held-out examples."""
    torch.manual_seed(seed)
    # 24 examples with 32 random features: even a linear layer could fit any labels.
    examples, held_out = ((torch.randn(n, 32), torch.randint(classes, (n,))) for n in (24, 2000))
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    fit(model, examples, epochs=60, batch_size=24, optimizer=optimizer)
    share = measure(model, examples, held_out)

    # The held-out labels are independent of everything the network saw, so the number of correct
    # guesses is binomial.
    low, high = binomial_interval(2000, 1 / classes, FALSE_ALARM)
    assert evaluate(model, examples).accuracy == 1, "the network memorizes random labels"
    assert low <= 2000 * share <= high, "accuracy on held-out examples stays at chance"
