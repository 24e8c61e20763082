"""Two runs from one seed are compared, whatever ran before and however the model is built."""

import pytest
import torch
from torch import nn

from dlconcepts.checks.laws.steps import run
from dlconcepts.checks.project import Project, watched

X, Y = torch.arange(8.0).reshape(4, 2) - 3, torch.arange(4) % 2


def net():
    return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))


def sgd(params):
    return torch.optim.SGD(params, lr=0.1)


def step(model, loss_fn, optimizer, inputs, targets):
    optimizer.zero_grad()
    loss_fn(model(inputs), targets).backward()
    optimizer.step()


def project(**parts):
    torch.manual_seed(1)
    usual = {"model": net(), "batch": (X, Y), "loss_fn": nn.CrossEntropyLoss(), "optimizer": sgd}
    return Project(**usual | {"train_step": step} | parts)


def numbers(weights):
    return {name: value.tolist() for name, value in weights.items()}


@pytest.mark.parametrize("model", [None, net], ids=["a model", "a factory"])
def test_a_seed_that_sets_nothing_leaves_the_run_to_the_noise(model):
    """The project's own seed function is used, so runs differ if it seeds nothing."""
    seeds = []
    given = project(**{"seed": seeds.append} | ({"model": model} if model else {}))

    one, other, again = (run(given, noise) for noise in (1, 2, 1))

    assert numbers(one[1]) == numbers(again[1])
    assert numbers(one[1]) != numbers(other[1])
    assert (numbers(one[0]) != numbers(other[0])) == (model is net), (
        "the seed is for the weights too"
    )
    assert seeds == [0, 0, 0], "each run is seeded once"


def test_passes_of_a_model_that_a_factory_builds_are_counted():
    """A model that a function builds counts like any other."""
    given = project(model=net)
    with watched(given):
        given.passes = 0
        run(given, 1)

    assert given.passes == 2
