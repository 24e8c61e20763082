"""The checks of the step by themselves: how they train a project, and how far it went."""

import math

import pytest
import torch
from torch import nn

from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.steps import (
    Mark,
    check_a_step_follows_its_own_batch,
    far,
    land,
    state,
    two_batches,
    warm_up,
)
from dlconcepts.checks.project import Project, watched

INPUTS, TARGETS = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.0], [1.0], [8.0]])


def weight(value=1.0):
    """Return a model that multiplies by a number."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(value)
    return model


def project(step=None, *, lr=0.01, value=1.0, **settings):
    """Return a project of one number, trained by a step."""
    model = weight(value)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **settings)
    return Project(
        model=model,
        batch=(INPUTS, TARGETS),
        loss_fn=nn.MSELoss(),
        optimizer=optimizer,
        train_step=step,
    )


def landed(*arguments, clear, **settings):
    """Return from where to where a project's weight went, and in how many steps."""
    parts = project(*arguments, **settings)
    with watched(parts):
        before, after, steps = land(parts, clear=clear)
    return before["weight"].item(), after["weight"].item(), steps


def by_hand(value, rounds, *, lr=0.01, zero=True):
    """Return where gradient descent in float64 lands, on the batch and on the other in turn."""
    gradient = 0.0
    for number in range(rounds):
        targets = TARGETS if number % 2 == 0 else TARGETS.roll(1, 0)
        new = (2 * INPUTS * (value * INPUTS - targets)).double().mean().item()
        gradient = new if zero else gradient + new
        value -= lr * gradient
    return value


def never_clears(model, loss_fn, optimizer, inputs, targets):
    """Take a step along the gradients of all batches so far."""
    loss_fn(model(inputs), targets).backward()
    optimizer.step()


# ------------------------------------------------------------------------ land


def test_a_project_lands_where_two_steps_on_two_batches_lead():
    """The second batch has the targets of other examples."""
    before, after, steps = landed(clear=False)

    assert (before, steps) == (1.0, 2)
    assert after == pytest.approx(by_hand(1.0, 2), rel=1e-6)


@pytest.mark.parametrize("clear", [True, False])
def test_gradients_are_cleared_after_each_step_where_that_is_asked(clear):
    """The step itself leaves them: only if they are cleared does it follow its own batch."""
    _, after, steps = landed(never_clears, clear=clear)

    assert steps == 2
    assert after == pytest.approx(by_hand(1.0, 2, zero=clear), rel=1e-6)


def test_a_gradient_from_before_is_not_part_of_it():
    """The parameters start without a gradient, wherever the model's training stands."""
    parts = project(never_clears)
    parts.model.weight.grad = torch.full((1, 1), 100.0)

    with watched(parts):
        _, after, _ = land(parts, clear=True)

    assert after["weight"].item() == pytest.approx(by_hand(1.0, 2), rel=1e-6)


def test_a_parameter_without_a_gradient_has_none_to_clear():
    """A layer that is not used is left alone."""
    parts = project()
    parts.model.spare = nn.Linear(1, 1)
    parts.optimizer.add_param_group({"params": parts.model.spare.parameters()})

    with watched(parts):
        before, after, steps = land(parts, clear=True)

    assert steps == 2
    assert torch.equal(before["spare.weight"], after["spare.weight"])


@pytest.mark.parametrize(
    ("every", "steps"), [(1, 2), (2, 2), (4, 2), (16, 2), (17, 1), (32, 1), (33, 0)]
)
def test_a_step_may_gather_the_gradients_of_several_batches(every, steps):
    """It is called on 32 batches at most, until the optimizer has stepped twice."""
    count = 0

    def gathers(model, loss_fn, optimizer, inputs, targets):
        nonlocal count
        count += 1
        loss_fn(model(inputs), targets).backward()
        if count % every == 0:
            optimizer.step()
            optimizer.zero_grad()

    assert landed(gathers, clear=False)[2] == steps


def test_training_ends_with_the_call_in_which_the_second_step_was():
    """More would cost passes and say nothing new."""
    calls = []

    def counted(model, loss_fn, optimizer, inputs, targets):
        calls.append(inputs)
        never_clears(model, loss_fn, optimizer, inputs, targets)

    parts = project(counted)
    with watched(parts):
        land(parts, clear=False)
        assert len(calls) == 2, "both batches are trained on in one call"


def test_only_an_optimizer_of_torch_can_be_followed():
    """Others have no hooks."""

    class Own:
        """Not an optimizer of torch."""

    parts = Project(model=weight(), batch=(INPUTS, TARGETS), optimizer=lambda parameters: Own())

    with pytest.raises(NotCheckedError, match=r"needs an optimizer of torch\.optim"):
        land(parts, clear=False)


def test_a_schedule_that_starts_at_zero_is_given_a_rate():
    """Nothing would move otherwise."""
    _, after, _ = landed(clear=False, lr=0.0)

    assert after == pytest.approx(by_hand(1.0, 2, lr=1e-3), rel=1e-6)


@pytest.mark.parametrize(("lr", "warm"), [(0, 1e-3), (0.0, 1e-3), (1e-9, 1e-9), (2.0, 2.0)])
def test_only_a_rate_of_zero_is_changed(lr, warm):
    """Each group is looked at by itself."""
    model, other = weight(), weight()
    groups = [{"params": model.parameters(), "lr": lr}, {"params": other.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.5)

    warm_up(optimizer)

    assert [group["lr"] for group in optimizer.param_groups] == [warm, 0.5]


def test_an_optimizer_without_a_rate_is_left_alone():
    """One of one's own may have none."""

    class Own(torch.optim.Optimizer):
        """An optimizer without settings."""

    optimizer = Own(weight().parameters(), {})

    warm_up(optimizer)

    assert "lr" not in optimizer.param_groups[0]


# ------------------------------------------------------------------------ far


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({}, {}, 0.0),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, 0.0),
        ({"a": [3.0, 0.0]}, {"a": [0.0, 4.0]}, 5.0),
        ({"a": [0.0], "b": [1.0, 1.0]}, {"a": [2.0], "b": [0.0, -1.0]}, 3.0),
        ({"a": [1e30]}, {"a": [-1e30]}, 2e30),  # whose square is no float32
    ],
)
def test_the_distance_of_parameters_is_that_of_one_long_vector(one, other, expected):
    """The root of the sum of all squares, in float64."""
    one, other = ({name: torch.tensor(x) for name, x in side.items()} for side in (one, other))

    assert far(one, other) == pytest.approx(expected, rel=1e-6)


def test_a_state_is_a_copy_of_the_parameters_by_name():
    """Later steps do not change it."""
    model = nn.Sequential(weight(2.0), nn.BatchNorm1d(1))

    kept = state(model)
    model[0].weight.data.zero_()

    assert list(kept) == ["0.weight", "1.weight", "1.bias"]
    assert kept["0.weight"].item() == 2.0
    assert not kept["0.weight"].requires_grad


# ------------------------------------------------------------------------ two_batches


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_second_batch_has_other_inputs_and_other_targets(count):
    """It repeats the first example, but for the last, with targets that were another's."""
    inputs, targets = torch.arange(float(count)).unsqueeze(1), torch.arange(count)

    first, second = two_batches(Project(model=weight(), batch=(inputs, targets)))

    assert torch.equal(first[0], inputs)
    assert torch.equal(first[1], targets)
    assert second[0].flatten().tolist() == [0.0] * (count - 1) + [1.0]
    assert second[1].tolist() == [count - 1] * (count - 1) + [0]


def test_the_second_batch_of_a_time_series_is_taken_along_its_examples():
    """What counts the examples may be the second dimension."""
    inputs, targets = torch.arange(6.0).reshape(2, 3, 1), torch.arange(3)

    _, second = two_batches(Project(model=weight(), batch=(inputs, targets), batch_dim=1))

    assert second[0].squeeze().tolist() == [[0.0, 0.0, 1.0], [3.0, 3.0, 4.0]]
    assert second[1].tolist() == [2, 2, 0]


# ------------------------------------------------------------------------ marks and the checks


def test_a_mark_remembers_the_backward_pass():
    """The graph of a batch whose backward is done is no longer needed."""
    mark, x = Mark(), torch.ones(1, requires_grad=True)
    outputs = 2 * x
    outputs.register_hook(mark.walk)

    before = mark.walked
    outputs.backward()

    assert (before, mark.walked) == (False, True)
    assert x.grad.item() == 2.0, "and leaves the gradient as it is"


def test_a_step_that_never_clears_is_told_how_far_it_is_off():
    """A share of the way that a right step goes."""
    expected = (by_hand(1.0, 2, zero=False) - by_hand(1.0, 2)) / (by_hand(1.0, 2) - 1.0)
    parts = project(never_clears)

    with pytest.raises(CheckFailedError) as caught:
        check_a_step_follows_its_own_batch(parts)

    assert f"the weights are off by {math.fabs(expected):.0%} of the way" in caught.value.observed
