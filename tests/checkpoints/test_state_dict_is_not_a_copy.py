"""A kept state_dict changes with further training; only a copy stays.

>>> import copy
>>> model = nn.BatchNorm1d(2)
>>> kept, copied = model.state_dict(), copy.deepcopy(model.state_dict())
>>> with torch.no_grad():
...     model.weight += 4
>>> kept["weight"], copied["weight"]
(tensor([5., 5.]), tensor([1., 1.]))

Notes: (gotcha of the previous claim) Keep the best weights while training continues.
Verdict: holds-if
Truth: Only if parameters and buffers are copied: a kept state_dict, or a shallow copy of it,
    changes with further training.
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
    """Keep the state_dict itself, which refers to the model's tensors."""
    return model.state_dict()


def copies_the_dict_alone(model: nn.Module) -> State:
    """Copy the dict, but not the tensors in it."""
    return model.state_dict().copy()


def forgets_the_buffers(model: nn.Module) -> State:
    """Copy only the parameters, not the running statistics."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@law(
    right=snapshot,
    wrong={
        keeps_a_reference: "further training leaves the snapshot",
        copies_the_dict_alone: "further training leaves the snapshot",
        forgets_the_buffers: "all of the state",
    },
)
@given(problem=problems(min_size=2))  # in training mode, BatchNorm needs two examples
def test_a_snapshot_stays_as_the_model_was(
    keep: Callable[[nn.Module], State], problem: Any
) -> None:
    """Further training leaves a snapshot as it is, bit for bit, and `restore` brings it back."""
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
