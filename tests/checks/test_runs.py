"""Two runs from one seed are compared, whatever ran before them and however the model is built."""

import pytest
import torch
from torch import nn

from dlconcepts.checks.laws.runs import cuts, run
from dlconcepts.checks.project import Project, watched

X, Y = torch.arange(8.0).reshape(4, 2) - 3, torch.arange(4) % 2


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, (0,)), (1, (1,)), (3, (3,)), (4, (2, 2)), (5, (3, 2)), (8, (4, 4)), (9, (5, 4))],
)
def test_a_batch_is_cut_in_two_where_both_have_several_examples(count, sizes):
    """A single example has no statistics that BatchNorm could use."""
    assert cuts(count) == sizes


def net():
    """Return a small classifier with dropout, drawn anew."""
    return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))


def sgd(params):
    """Return an optimizer of parameters."""
    return torch.optim.SGD(params, lr=0.1)


def step(model, loss_fn, optimizer, inputs, targets):
    """Take one step."""
    optimizer.zero_grad()
    loss_fn(model(inputs), targets).backward()
    optimizer.step()


def project(**parts):
    """Return a project that trains a network."""
    torch.manual_seed(1)
    usual = {"model": net(), "batch": (X, Y), "loss_fn": nn.CrossEntropyLoss(), "optimizer": sgd}
    return Project(**usual | {"train_step": step} | parts)


def numbers(weights):
    """Return weights as numbers."""
    return {name: value.tolist() for name, value in weights.items()}


@pytest.mark.parametrize("model", [None, net], ids=["a model", "a factory"])
def test_a_run_begins_anew_and_is_the_same_from_its_seed(model):
    """Whatever was drawn before it, the weights before and after are the same."""
    given = project(**({"model": model} if model else {}))

    runs = [run(given, noise) for noise in (1, 2, 1)]

    assert len({str(numbers(before)) for before, _ in runs}) == 1
    assert len({str(numbers(after)) for _, after in runs}) == 1
    assert numbers(runs[0][0]) != numbers(runs[0][1])
    if model is None:
        assert numbers(runs[0][0]) == numbers(dict(given.model.named_parameters()))


def test_a_run_of_a_factory_is_seeded_with_0():
    """As the reader's reproducer is."""
    torch.manual_seed(0)
    expected = numbers(dict(net().named_parameters()))

    assert numbers(run(project(model=net), 3)[0]) == expected


@pytest.mark.parametrize("model", [None, net], ids=["a model", "a factory"])
def test_a_seed_that_sets_nothing_leaves_the_run_to_the_noise(model):
    """What the project seeds with is what counts, and it is given 0; noise is noise of its own."""
    seeds = []
    given = project(**{"seed": seeds.append} | ({"model": model} if model else {}))

    one, other, again = (run(given, noise) for noise in (1, 2, 1))

    assert numbers(one[1]) == numbers(again[1])
    assert numbers(one[1]) != numbers(other[1])
    assert (numbers(one[0]) != numbers(other[0])) == (model is net), (
        "the seed is for the weights too"
    )
    assert seeds == [0, 0, 0], "each run is seeded once"


def test_a_run_is_one_pass_over_both_halves():
    """Until the weights have moved."""
    sizes = []

    def counted(model, loss_fn, optimizer, inputs, targets):
        step(model, loss_fn, optimizer, inputs, targets)
        sizes.append(len(targets))
        return sizes

    given = project(train_step=counted)
    run(given, 1)

    assert sizes == [2, 2]


def test_a_run_goes_on_while_nothing_moves():
    """A step that gathers gradients moves the weights later; one that never does ends too."""
    calls = []

    def third(model, loss_fn, optimizer, inputs, targets):
        calls.append(1)
        if len(calls) == 5:
            step(model, loss_fn, optimizer, inputs, targets)

    before, after = run(project(train_step=third), 1)
    assert len(calls) == 6
    assert numbers(before) != numbers(after)

    before, after = run(project(train_step=lambda *_: None), 1)
    assert numbers(before) == numbers(after)


def test_passes_of_a_model_that_a_factory_builds_are_counted():
    """They are part of what a check costs."""
    given = project(model=net)
    with watched(given):
        given.passes = 0
        run(given, 1)

    assert given.passes == 2
