"""The checks of frozen parts: which buffers belong to them, and why they would move."""

import pytest
import torch
from torch import nn

from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.freezing import (
    cause,
    check_frozen_parameters_stay,
    in_frozen_part,
)
from dlconcepts.checks.project import Project


def network():
    body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    body.register_buffer("scale", torch.ones(1))
    return nn.Sequential(body, nn.Linear(2, 1))


def frozen(model, *parts):
    for part in parts:
        model.get_submodule(part).requires_grad_(False)
    return model


# ------------------------------------------------------------------------ in_frozen_part


@pytest.mark.parametrize(
    ("parts", "buffer", "belongs"),
    [
        ([], "0.1.running_mean", False),
        (["0.1"], "0.1.running_mean", True),
        (["0.0"], "0.1.running_mean", False),
        (["0"], "0.1.running_mean", True),
        (["0"], "0.scale", True),
        (["0.1"], "0.scale", False),
        (["1"], "0.scale", False),
    ],
)
def test_a_buffer_is_of_a_frozen_part_if_all_its_parameters_are(parts, buffer, belongs):
    """A single trainable parameter makes a part trainable."""
    assert in_frozen_part(Project(), frozen(network(), *parts), buffer) is belongs


@pytest.mark.parametrize(
    ("names", "buffer", "belongs"),
    [
        ([], "0.1.running_mean", False),
        (["0"], "0.1.running_mean", True),
        (["0.1"], "0.1.running_mean", True),
        (["0.1"], "0.scale", False),
        (["1"], "0.1.running_mean", False),
    ],
)
def test_a_buffer_is_of_a_frozen_part_if_a_name_says_so(names, buffer, belongs):
    """If names are given, requires_grad does not matter."""
    model = frozen(network(), "0", "1")

    assert in_frozen_part(Project(frozen=names), model, buffer) is belongs


def without_parameters(*frozen_parts):
    inner = nn.Sequential(nn.Sequential(nn.BatchNorm1d(2, affine=False)))
    return frozen(
        nn.Sequential(nn.Sequential(nn.Linear(2, 2), inner), nn.Linear(2, 1)), *frozen_parts
    )


@pytest.mark.parametrize(
    ("parts", "belongs"), [([], False), (["0"], True), (["1"], False), (["0", "1"], True)]
)
def test_a_buffer_of_a_layer_without_parameters_goes_with_the_part_around_it(parts, belongs):
    """The nearest owner that has parameters decides."""
    model = without_parameters(*parts)

    assert in_frozen_part(Project(), model, "0.1.0.0.running_mean") is belongs


def test_a_buffer_of_the_model_itself_goes_with_the_whole_model():
    """A buffer of the model itself is frozen if all parameters are."""
    model = network()
    model.register_buffer("mean", torch.zeros(1))

    assert not in_frozen_part(Project(), model, "mean")
    assert in_frozen_part(Project(), model.requires_grad_(False), "mean")


def test_a_model_without_parameters_has_no_frozen_part():
    """Without parameters nothing can be frozen."""
    model = nn.Sequential(nn.BatchNorm1d(2, affine=False))

    assert in_frozen_part(Project(), model, "0.running_mean") is False


# ------------------------------------------------------------------------ cause


def parameter(gradient=None, *, requires_grad=False):
    made = nn.Parameter(torch.ones(2))
    made.grad = None if gradient is None else torch.tensor(gradient)
    return made.requires_grad_(requires_grad)


def stepped(kind, **settings):
    made = parameter([1.0, 1.0], requires_grad=True)
    optimizer = kind([made], lr=0.1, **settings)
    optimizer.step()
    made.grad = None
    return made.requires_grad_(False), optimizer


ZERO = "a gradient of zero is in place"


def test_the_cause_has_everything_that_is_there():
    """The message lists gradient, momentum and weight decay, in this order."""
    made, optimizer = stepped(torch.optim.SGD, momentum=0.9, weight_decay=0.5)
    made.grad = torch.zeros(2)

    says = f"{ZERO}, and the optimizer has momentum for it, and weight_decay is 0.5"
    assert cause(made, optimizer) == says


def test_only_the_weight_decay_of_its_own_group_is_a_cause():
    """The weight decay of another group does not move the parameter."""
    made, another = parameter(), parameter()
    groups = [{"params": [another], "weight_decay": 0.5}, {"params": [made], "weight_decay": 0.25}]

    assert cause(made, torch.optim.SGD(groups, lr=0.1)) == "weight_decay is 0.25"
    del groups[1]["weight_decay"]
    assert cause(made, torch.optim.SGD(groups, lr=0.1)) == "the optimizer holds it"


# ------------------------------------------------------------------------ the check


def transfer(model, optimizer=None, **changes):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    parts = {"model": model, "batch": (torch.eye(2), torch.ones(2, 1)), "optimizer": optimizer}
    return parts | {"loss_fn": nn.MSELoss()} | changes


def test_what_is_not_frozen_by_requires_grad_or_by_name_is_not_checked():
    """The check needs a frozen parameter."""
    with pytest.raises(NotCheckedError, match="needs frozen"):
        check_frozen_parameters_stay(**transfer(network()))


def test_a_part_that_is_frozen_by_name_only_is_told():
    """The message says how many parameters moved, which, and why."""
    with pytest.raises(CheckFailedError) as caught:
        check_frozen_parameters_stay(**transfer(network(), frozen="1"))

    assert caught.value.observed == (
        "a plain step moved 2 of 2 frozen parameters, 1.weight, 1.bias: "
        "its requires_grad is still True"
    )


def test_a_part_that_is_frozen_before_the_first_step_stays():
    """Without gradient and momentum nothing moves the parameter."""
    check_frozen_parameters_stay(**transfer(frozen(network(), "0")))
