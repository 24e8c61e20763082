"""The checks of a training step: how they train a project, and how they measure."""

import math

import pytest
import torch
from torch import nn

from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.steps import (
    check_a_step_follows_its_own_batch,
    land,
)
from dlconcepts.checks.project import Project, watched

INPUTS, TARGETS = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.0], [1.0], [8.0]])


def weight(value=1.0):
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(value)
    return model


def project(step=None, *, lr=0.01, value=1.0, **settings):
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
    parts = project(*arguments, **settings)
    with watched(parts):
        before, after, steps = land(parts, clear=clear)
    return before["weight"].item(), after["weight"].item(), steps


def by_hand(value, rounds, *, lr=0.01, zero=True):
    gradient = 0.0
    for number in range(rounds):
        targets = TARGETS if number % 2 == 0 else TARGETS.roll(1, 0)
        new = (2 * INPUTS * (value * INPUTS - targets)).double().mean().item()
        gradient = new if zero else gradient + new
        value -= lr * gradient
    return value


def never_clears(model, loss_fn, optimizer, inputs, targets):
    loss_fn(model(inputs), targets).backward()
    optimizer.step()


# ------------------------------------------------------------------------ land


def test_a_gradient_from_before_is_not_part_of_it():
    """The check starts without gradients, even in the middle of training."""
    parts = project(never_clears)
    parts.model.weight.grad = torch.full((1, 1), 100.0)

    with watched(parts):
        _, after, _ = land(parts, clear=True)

    assert after["weight"].item() == pytest.approx(by_hand(1.0, 2), rel=1e-6)


@pytest.mark.parametrize(
    ("every", "steps"), [(1, 2), (2, 2), (4, 2), (16, 2), (17, 1), (32, 1), (33, 0)]
)
def test_a_step_may_gather_the_gradients_of_several_batches(every, steps):
    """A step that accumulates is called on up to 32 batches until it has stepped twice."""
    count = 0

    def gathers(model, loss_fn, optimizer, inputs, targets):
        nonlocal count
        count += 1
        loss_fn(model(inputs), targets).backward()
        if count % every == 0:
            optimizer.step()
            optimizer.zero_grad()

    assert landed(gathers, clear=False)[2] == steps


def test_only_an_optimizer_of_torch_can_be_followed():
    """Other optimizers have no hooks to count steps."""

    class Own:
        """Not an optimizer of torch."""

    parts = Project(model=weight(), batch=(INPUTS, TARGETS), optimizer=lambda parameters: Own())

    with pytest.raises(NotCheckedError, match=r"needs an optimizer of torch\.optim"):
        land(parts, clear=False)


def test_a_schedule_that_starts_at_zero_is_given_a_rate():
    """With a learning rate of zero, no parameter would move."""
    _, after, _ = landed(clear=False, lr=0.0)

    assert after == pytest.approx(by_hand(1.0, 2, lr=1e-3), rel=1e-6)


# ------------------------------------------------------------------------ marks and the checks


def test_a_step_that_never_clears_is_told_how_far_it_is_off():
    """The distance is relative to the way of a correct step."""
    expected = (by_hand(1.0, 2, zero=False) - by_hand(1.0, 2)) / (by_hand(1.0, 2) - 1.0)
    parts = project(never_clears)

    with pytest.raises(CheckFailedError) as caught:
        check_a_step_follows_its_own_batch(parts)

    assert f"the weights are off by {math.fabs(expected):.0%} of the way" in caught.value.observed
