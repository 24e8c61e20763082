"""A model is copied with its gradients and its optimizer, if the copy is independent."""

import copy
import functools
import threading

import pytest
import torch
from torch import nn

from dlconcepts.checks.copies import (
    build_optimizer,
    copies_alone,
    copy_together,
    held_by,
    optimizers,
)
from dlconcepts.checks.state import reachable

# ------------------------------------------------------------------------ optimizers


def of_parameters(params):
    return torch.optim.SGD(params, lr=0.5)


def of_a_model(model):
    return torch.optim.SGD(model.parameters(), lr=0.5)


def of_a_capital_model(Model):  # noqa: N803
    return of_a_model(Model)


def of_something(x):
    return of_a_model(x)


def of_parameters_under_a_wrong_name(net):
    return of_parameters(net)


class Unsigned:
    __signature__ = "none"

    def __call__(self, *arguments):
        return of_parameters(*arguments)


@pytest.mark.parametrize(
    "factory",
    [
        *(of_parameters, of_a_model, of_a_capital_model, of_something),
        of_parameters_under_a_wrong_name,
        functools.partial(torch.optim.SGD, lr=0.5),
        Unsigned(),
    ],
)
def test_a_factory_is_given_a_model_or_its_parameters(factory):
    """A function gets the model or its parameters, whichever it takes."""
    model = nn.Linear(2, 1)

    optimizer = build_optimizer(factory, model)

    assert optimizer.param_groups[0]["lr"] == 0.5
    held = optimizer.param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize("name", ["model", "net", "network", "module", "params", "x"])
def test_a_factory_is_called_once_if_it_takes_what_its_name_says(name):
    """A parameter named model gets the model at once, any other gets the parameters."""
    model, given = nn.Linear(2, 1), []
    factory = eval(f"lambda {name}: given.append({name})", {"given": given})

    build_optimizer(factory, model)

    assert len(given) == 1
    assert (given[0] is model) == (name not in ("params", "x"))


def test_what_a_factory_refuses_is_said_by_the_factory():
    """If neither works, the error is the function's own."""
    with pytest.raises(ValueError, match="Invalid learning rate"):
        build_optimizer(lambda params: torch.optim.SGD(params, lr=-1), nn.Linear(1, 1))
    with pytest.raises(TypeError, match="takes 0 positional arguments but 1 was given"):
        build_optimizer(lambda: None, nn.Linear(1, 1))


# ------------------------------------------------------------------------ copies


def trained(model, kind=torch.optim.Adam, **settings):
    optimizer = kind(model.parameters(), lr=0.5, **settings)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer


def weights(model):
    return [p.tolist() for p in model.parameters()]


@pytest.mark.parametrize(
    ("kind", "more"),
    [(torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1})],
)
def test_a_copy_trains_on_as_the_original_would(kind, more):
    """Weights, gradients, momentum and learning rates are the same, and the original stays."""
    model = nn.Linear(2, 1)
    optimizer = trained(model, kind, **more)
    before = weights(model)

    twin, mine = copy_together(model, optimizer)
    assert weights(twin) == before
    mine.step()
    landed = weights(twin)

    assert landed != before
    assert weights(model) == before
    assert type(mine) is kind
    optimizer.step()
    assert weights(model) == landed, "the copy's step changed nothing of the original's"


def test_a_model_alone_is_copied_with_its_gradients():
    """Gradients are copied too, and a missing gradient stays missing."""
    model = nn.Linear(2, 1)
    model.weight.grad = torch.ones(1, 2)

    twin, mine = copy_together(model, None)
    twin.weight.grad += 1

    assert mine is None
    assert twin.weight.grad.tolist() == [[2, 2]]
    assert twin.bias.grad is None
    assert model.weight.grad.tolist() == [[1, 1]]


def test_parameters_that_the_optimizer_alone_holds_are_copied_with_their_gradients():
    """A loss may have parameters too, some without a gradient yet."""
    model = nn.Linear(2, 1)
    scale, shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    scale.grad = torch.ones(1)
    optimizer = torch.optim.SGD([*model.parameters(), scale, shift], lr=0.5)

    twin, mine = copy_together(model, optimizer)
    *held, scale_copy, shift_copy = mine.param_groups[0]["params"]
    mine.step()

    assert [id(p) for p in held] == [id(p) for p in twin.parameters()]
    assert (scale_copy.item(), scale.item()) == (0.5, 1)
    assert (shift_copy.item(), shift_copy.grad, shift.item()) == (1, None, 1)
    scale_copy.grad.zero_()
    assert scale.grad.item() == 1


def test_what_a_scheduler_patched_does_not_go_along():
    """The copy steps itself, and the original's scheduler does not count the steps."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    model(torch.ones(1, 2)).sum().backward()
    before = weights(model)

    twin, mine = copy_together(model, optimizer)
    mine.step()

    assert weights(model) == before
    assert weights(twin) != before
    assert calls == []
    assert "step" not in vars(mine)


# ------------------------------------------------------------------------ standing alone


def is_alone(model, *functions, optimizer=None):
    return copies_alone(model, optimizer, list(functions))


def test_an_ordinary_model_can_be_copied():
    """So can its optimizer, whatever other functions the project has."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    assert is_alone(model, None, len, weights, optimizer=optimizer) is True
    assert is_alone(model, optimizer=of_a_model) is True
    assert is_alone(nn.Identity()) is True


def test_a_model_that_a_function_keeps_is_not_all_that_is_used():
    """A function that reaches the model through a closure would not use the copy."""
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)

    assert is_alone(model, weights, lambda: model) is False
    assert is_alone(model, lambda: other) is True


class Keeps(nn.Linear):
    def __init__(self, kept):
        super().__init__(2, 1)
        self.kept = kept


class Shallow(nn.Linear):
    def __deepcopy__(self, memo):
        return copy.copy(self)


def closes_over_itself():
    model = nn.Sequential(nn.Linear(2, 1))
    model.function = lambda: model[0]
    return model


def closes_over_a_weight():
    model = nn.Linear(2, 1)
    weight = model.weight
    model.function = lambda: weight
    return model


def closes_over_its_dropout():
    model = nn.Sequential(nn.Linear(2, 1), nn.Dropout())
    layer = model[1]
    model.function = lambda: layer
    return model


def computes_its_weight():
    return torch.jit.script(nn.Linear(2, 1))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize(
    "model",
    [
        lambda: Keeps(threading.Lock()),
        lambda: Shallow(2, 1),
        closes_over_itself,
        closes_over_a_weight,
        closes_over_its_dropout,
        computes_its_weight,
    ],
)
def test_a_model_whose_copy_is_none_is_worked_on_itself(model):
    """The check uses the model itself if a copy fails or shares the original's weights."""
    assert is_alone(model()) is False


def test_an_optimizer_that_cannot_be_copied_keeps_the_model_from_it():
    """Without a copy of its optimizer, a copy of the model is useless."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer.lock = threading.Lock()

    assert is_alone(model, optimizer=optimizer) is False


class Own:
    """An optimizer of one's own."""

    def __init__(self, parameters):
        self.parameters = list(parameters)

    def step(self):
        """Do nothing."""


@pytest.mark.filterwarnings("ignore:Seems like")  # the copy's step is not patched
@pytest.mark.parametrize("wrap", [lambda o, s: (o, s), lambda o, s: ([o], [s]), lambda o, s: s])
def test_an_optimizer_is_copied_with_its_schedule(wrap):
    """The copy of the schedule steps the copy of the optimizer, over the copied parameters."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    part = wrap(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5))

    twin, mine = copy_together(model, part)
    (copied,) = optimizers(mine)
    (schedule,) = [x for x in reachable(mine) if hasattr(x, "step_size")]
    copied.step()
    schedule.step()

    assert [id(p) for p in held_by(mine)] == [id(p) for p in twin.parameters()]
    assert (copied.param_groups[0]["lr"], optimizer.param_groups[0]["lr"]) == (0.5, 1.0)


def test_an_optimizer_of_ones_own_is_copied_with_its_model():
    """Its list of parameters leads to the copies."""
    model = nn.Linear(2, 1)

    twin, mine = copy_together(model, Own(model.parameters()))

    assert all(p is q for p, q in zip(mine.parameters, twin.parameters(), strict=True))
    assert [id(p) for p in held_by(mine)[::-1]] == [id(p) for p in twin.parameters()]
    assert optimizers(mine) == []


class Wraps(torch.optim.Optimizer):
    """An optimizer around another one, as accelerate has."""

    def __init__(self, inner):
        self.inner = inner

    @property
    def param_groups(self):
        return self.inner.param_groups


def test_the_optimizer_inside_another_is_the_one_that_steps():
    """Steps are counted where they are made."""
    inner = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=1.0)

    assert optimizers(Wraps(inner)) == [inner]
