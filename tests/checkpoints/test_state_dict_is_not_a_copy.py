"""Keeping the best weights.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: (gotcha of the above) Keep the best weights while training goes on.
Verdict: holds-if
Truth: Only if they are copied: a kept state_dict changes with further training.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from torch import nn

from dlconcepts.checkpoints import restore, snapshot
from dlconcepts.strategies import problems
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.checkpoints.common import State, train_a_step, values_of


def keeps_a_reference(model: nn.Module) -> State:
    """Keep the state_dict itself."""
    return model.state_dict()


def copies_the_dict_alone(model: nn.Module) -> State:
    """Copy the dict, whose tensors stay the model's."""
    return model.state_dict().copy()


def forgets_the_buffers(model: nn.Module) -> State:
    """Copy the parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@law(
    right=snapshot,
    wrong={
        keeps_a_reference: "further training leaves the snapshot",
        copies_the_dict_alone: "further training leaves the snapshot",
        forgets_the_buffers: "all of the state",
    },
)
@given(problem=problems(min_size=2))
def test_a_snapshot_stays_as_the_model_was(
    keep: Callable[[nn.Module], State], problem: Any
) -> None:
    """The best weights are kept, bit for bit, while training goes on, and can be brought back."""
    model = nn.Sequential(nn.BatchNorm1d(problem.inputs.shape[1]), *problem.model)
    before = values_of(model)
    best = keep(model)

    train_a_step(model, problem.inputs, problem.labels)

    assert set(best) == set(before), "a snapshot holds all of the state, buffers included"
    kept = {name: bits(tensor) for name, tensor in best.items()}
    assert kept == before, "further training leaves the snapshot as it is"
    assert values_of(model) != before, "the step did change the model"
    restore(model, best)
    assert values_of(model) == before, "the snapshot brings the model back"
