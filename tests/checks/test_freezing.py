"""The checks of what is frozen by themselves: which part a buffer is of, and why it would move."""

import pytest
import torch
from torch import nn

from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.freezing import (
    cause,
    check_frozen_parameters_stay,
    in_frozen_part,
    known,
)
from dlconcepts.checks.project import Project


def network():
    """Return a model of a body with BatchNorm, a scale that is a buffer, and a head."""
    body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    body.register_buffer("scale", torch.ones(1))
    return nn.Sequential(body, nn.Linear(2, 1))


def frozen(model, *parts):
    """Return a model, the parameters of some parts of which require no gradient."""
    for part in parts:
        model.get_submodule(part).requires_grad_(False)
    return model


# ------------------------------------------------------------------------ known


@pytest.mark.parametrize("names", [None, [], ["0"], ["0.1", "1.bias"], ["0.0.weight", "1"]])
def test_the_names_of_modules_and_parameters_are_known(names):
    """Also none at all."""
    known(Project(frozen=names), network())


@pytest.mark.parametrize("name", ["2", "0.1.running_mean", "wight", "0.", "0.0.weigh"])
def test_a_name_that_the_model_lacks_is_refused(name):
    """A misspelt name would look like a part that stays."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared below
        known(Project(frozen=["0", name]), network())

    assert str(caught.value) == f"frozen names {name!r}, but the model has no such part"


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
    """One that can be trained makes the whole part one that is trained."""
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
    """What is named counts alone, whatever requires a gradient."""
    model = frozen(network(), "0", "1")

    assert in_frozen_part(Project(frozen=names), model, buffer) is belongs


def without_parameters(*frozen_parts):
    """Return a model whose BatchNorm has no parameters, deep inside a part that has some."""
    inner = nn.Sequential(nn.Sequential(nn.BatchNorm1d(2, affine=False)))
    return frozen(
        nn.Sequential(nn.Sequential(nn.Linear(2, 2), inner), nn.Linear(2, 1)), *frozen_parts
    )


@pytest.mark.parametrize(
    ("parts", "belongs"), [([], False), (["0"], True), (["1"], False), (["0", "1"], True)]
)
def test_a_buffer_of_a_layer_without_parameters_goes_with_the_part_around_it(parts, belongs):
    """The nearest part that has parameters says whether it is frozen."""
    model = without_parameters(*parts)

    assert in_frozen_part(Project(), model, "0.1.0.0.running_mean") is belongs


def test_a_buffer_of_the_model_itself_goes_with_the_whole_model():
    """A name without a dot belongs to no part of its own."""
    model = network()
    model.register_buffer("mean", torch.zeros(1))

    assert not in_frozen_part(Project(), model, "mean")
    assert in_frozen_part(Project(), model.requires_grad_(False), "mean")


def test_a_model_without_parameters_has_no_frozen_part():
    """Nothing was frozen where nothing can be."""
    model = nn.Sequential(nn.BatchNorm1d(2, affine=False))

    assert in_frozen_part(Project(), model, "0.running_mean") is False


# ------------------------------------------------------------------------ cause


def parameter(gradient=None, *, requires_grad=False):
    """Return a parameter with a gradient."""
    made = nn.Parameter(torch.ones(2))
    made.grad = None if gradient is None else torch.tensor(gradient)
    return made.requires_grad_(requires_grad)


def stepped(kind, **settings):
    """Return a frozen parameter and an optimizer that has a state for it, but no gradient."""
    made = parameter([1.0, 1.0], requires_grad=True)
    optimizer = kind([made], lr=0.1, **settings)
    optimizer.step()
    made.grad = None
    return made.requires_grad_(False), optimizer


OLD = "a gradient of an earlier backward is in place"
ZERO = "a gradient of zero is in place"


@pytest.mark.parametrize(
    ("gradient", "decay", "says"),
    [
        (None, 0, "the optimizer holds it"),
        ([0.0, 2.0], 0, OLD),
        ([0.0, 0.0], 0, ZERO),
        (None, 0.5, "weight_decay is 0.5"),
        ([0.0, 0.0], 0.5, f"{ZERO}, and weight_decay is 0.5"),
        ([1.0, 1.0], 0.25, f"{OLD}, and weight_decay is 0.25"),
    ],
)
def test_the_cause_names_the_gradient_in_place_and_the_weight_decay(gradient, decay, says):
    """Both move what is frozen, as far as they are there."""
    made = parameter(gradient)

    assert cause(made, torch.optim.SGD([made], lr=0.1, weight_decay=decay)) == says


def test_the_cause_is_first_that_it_is_not_frozen():
    """A name in frozen freezes nothing by itself."""
    made = parameter([1.0, 1.0], requires_grad=True)

    optimizer = torch.optim.SGD([made], lr=0.1, weight_decay=0.5)

    assert cause(made, optimizer) == "its requires_grad is still True"


@pytest.mark.parametrize(
    ("kind", "settings"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {})]
)
def test_the_cause_names_the_momentum_of_earlier_steps(kind, settings):
    """SGD keeps it in a buffer, Adam as a mean of gradients."""
    assert cause(*stepped(kind, **settings)) == "the optimizer has momentum for it"


@pytest.mark.parametrize(
    ("kind", "settings"), [(torch.optim.SGD, {}), (torch.optim.RMSprop, {"centered": True})]
)
def test_a_state_without_momentum_is_no_cause(kind, settings):
    """A mean of squares scales a gradient, and moves nothing by itself."""
    assert cause(*stepped(kind, **settings)) == "the optimizer holds it"


def test_the_cause_has_everything_that_is_there():
    """Gradient, momentum and weight decay, in this order."""
    made, optimizer = stepped(torch.optim.SGD, momentum=0.9, weight_decay=0.5)
    made.grad = torch.zeros(2)

    says = f"{ZERO}, and the optimizer has momentum for it, and weight_decay is 0.5"
    assert cause(made, optimizer) == says


def test_only_the_weight_decay_of_its_own_group_is_a_cause():
    """Other groups are about other parameters."""
    made, another = parameter(), parameter()
    groups = [{"params": [another], "weight_decay": 0.5}, {"params": [made], "weight_decay": 0.25}]

    assert cause(made, torch.optim.SGD(groups, lr=0.1)) == "weight_decay is 0.25"
    del groups[1]["weight_decay"]
    assert cause(made, torch.optim.SGD(groups, lr=0.1)) == "the optimizer holds it"


class ByHand(torch.optim.Optimizer):
    """An optimizer of one's own, which knows no weight decay."""

    def __init__(self, parameters):
        """Take the parameters only."""
        super().__init__(parameters, {})


def test_an_optimizer_that_knows_no_weight_decay_has_none():
    """Its groups have no such entry."""
    made = parameter()

    assert cause(made, ByHand([made])) == "the optimizer holds it"


# ------------------------------------------------------------------------ the check


def transfer(model, optimizer=None, **changes):
    """Return a project that trains a model of two inputs by plain steps."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    parts = {"model": model, "batch": (torch.eye(2), torch.ones(2, 1)), "optimizer": optimizer}
    return parts | {"loss_fn": nn.MSELoss()} | changes


def test_what_is_not_frozen_by_requires_grad_or_by_name_is_not_checked():
    """There is nothing to look at."""
    with pytest.raises(NotCheckedError, match="needs frozen"):
        check_frozen_parameters_stay(**transfer(network()))


def test_a_part_that_is_frozen_by_name_only_is_told():
    """How many moved, which, and why."""
    with pytest.raises(CheckFailedError) as caught:
        check_frozen_parameters_stay(**transfer(network(), frozen="1"))

    assert caught.value.observed == (
        "a plain step moved 2 of 2 frozen parameters, 1.weight, 1.bias: "
        "its requires_grad is still True"
    )


def test_a_part_that_is_frozen_before_the_first_step_stays():
    """No gradient, no momentum: nothing moves it."""
    check_frozen_parameters_stay(**transfer(frozen(network(), "0")))
