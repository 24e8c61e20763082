"""A model is copied with its gradients and its optimizer, and the copy stands by itself or not."""

import copy
import functools
import threading

import pytest
import torch
from torch import nn

from dlconcepts.checks.copies import build_optimizer, copies_alone, copy_together

# ------------------------------------------------------------------------ optimizers


def of_parameters(params):
    """Return an optimizer of parameters."""
    return torch.optim.SGD(params, lr=0.5)


def of_a_model(model):
    """Return an optimizer of a model's parameters."""
    return torch.optim.SGD(model.parameters(), lr=0.5)


def of_a_capital_model(Model):  # noqa: N803
    """Return an optimizer of a model's parameters."""
    return of_a_model(Model)


def of_something(x):
    """Return an optimizer of the parameters of something."""
    return of_a_model(x)


def of_parameters_under_a_wrong_name(net):
    """Return an optimizer of what is called a network and is its parameters."""
    return of_parameters(net)


class Unsigned:
    """A factory whose signature cannot be read."""

    __signature__ = "none"

    def __call__(self, *arguments):
        """Return an optimizer of parameters."""
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
    """Whichever it takes; the name of its parameter tells what to try first."""
    model = nn.Linear(2, 1)

    optimizer = build_optimizer(factory, model)

    assert optimizer.param_groups[0]["lr"] == 0.5
    held = optimizer.param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize("name", ["model", "net", "network", "module", "params", "x"])
def test_a_factory_is_called_once_if_it_takes_what_its_name_says(name):
    """A model where its parameter is named so, else the model's parameters."""
    model, given = nn.Linear(2, 1), []
    factory = eval(f"lambda {name}: given.append({name})", {"given": given})

    build_optimizer(factory, model)

    assert len(given) == 1
    assert (given[0] is model) == (name not in ("params", "x"))


def test_a_builtin_without_a_signature_is_given_the_parameters():
    """Some functions written in C have none that can be read."""
    model = nn.Linear(2, 1)

    assert [p for (p,) in build_optimizer(zip, model)] == list(model.parameters())


def test_a_parameter_further_back_does_not_count():
    """It is the first that a factory is given something for."""
    given = []

    build_optimizer(lambda params, model=None: given.append(params), nn.Identity())

    assert [list(params) for params in given] == [[]]


def test_what_a_factory_refuses_is_said_by_the_factory():
    """Its own error is what one sees, also if it takes nothing at all."""
    with pytest.raises(ValueError, match="Invalid learning rate"):
        build_optimizer(lambda params: torch.optim.SGD(params, lr=-1), nn.Linear(1, 1))
    with pytest.raises(TypeError, match="takes 0 positional arguments but 1 was given"):
        build_optimizer(lambda: None, nn.Linear(1, 1))


# ------------------------------------------------------------------------ copies


def trained(model, kind=torch.optim.Adam, **settings):
    """Return a model's optimizer in the middle of training, with gradients there."""
    optimizer = kind(model.parameters(), lr=0.5, **settings)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer


def weights(model):
    """Return the weights of a model as numbers."""
    return [p.tolist() for p in model.parameters()]


@pytest.mark.parametrize(
    ("kind", "more"),
    [(torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1})],
)
def test_a_copy_trains_on_as_the_original_would(kind, more):
    """Weights, gradients, momentum and rates are the same, and the original stays."""
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
    """They are copies too; where there is none there is none, and no optimizer comes of none."""
    model = nn.Linear(2, 1)
    model.weight.grad = torch.ones(1, 2)

    twin, mine = copy_together(model, None)
    twin.weight.grad += 1

    assert mine is None
    assert twin.weight.grad.tolist() == [[2, 2]]
    assert twin.bias.grad is None
    assert model.weight.grad.tolist() == [[1, 1]]


class Own(nn.Linear):
    """A layer that copies itself, and the gradient differently on purpose."""

    def __deepcopy__(self, memo):
        """Return a layer whose weight has a gradient of its own."""
        twin = nn.Linear(self.in_features, self.out_features)
        memo.update({id(p): q for p, q in zip(self.parameters(), twin.parameters(), strict=True)})
        twin.weight.grad = torch.full_like(twin.weight, 5)
        return twin


def test_a_gradient_that_a_copy_has_is_kept():
    """A model that says how it is copied knows best."""
    model = Own(2, 1)
    model.weight.grad = torch.ones(1, 2)

    for optimizer in (None, torch.optim.SGD(model.parameters(), lr=0.5)):
        assert copy_together(model, optimizer)[0].weight.grad.tolist() == [[5, 5]]


def test_parameters_that_the_optimizer_alone_holds_are_copied_with_their_gradients():
    """A loss has parameters too, one of which may be without a gradient yet."""
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
    """The copy steps by itself, and the schedule of the original does not count it."""
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
    """Return what copies_alone says."""
    return copies_alone(model, optimizer, list(functions))


def test_an_ordinary_model_can_be_copied():
    """With its optimizer, or a function that builds one, and whatever functions there are."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    assert is_alone(model, None, len, weights, optimizer=optimizer) is True
    assert is_alone(model, optimizer=of_a_model) is True
    assert is_alone(nn.Identity()) is True


def test_a_model_that_a_function_keeps_is_not_all_that_is_used():
    """A closure works on the model itself, whatever it is given."""
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)

    assert is_alone(model, weights, lambda: model) is False
    assert is_alone(model, lambda: other) is True


class Keeps(nn.Linear):
    """A layer that keeps something besides its weights."""

    def __init__(self, kept):
        """Keep it."""
        super().__init__(2, 1)
        self.kept = kept


class Shallow(nn.Linear):
    """A layer whose copy has the very same weights."""

    def __deepcopy__(self, memo):
        """Return a copy that shares them."""
        return copy.copy(self)


def closes_over_itself():
    """Return a model with a function that uses a layer of the model."""
    model = nn.Sequential(nn.Linear(2, 1))
    model.function = lambda: model[0]
    return model


def closes_over_a_weight():
    """Return a model with a function that uses its weight."""
    model = nn.Linear(2, 1)
    weight = model.weight
    model.function = lambda: weight
    return model


def closes_over_its_dropout():
    """Return a model with a function that uses a layer without weights."""
    model = nn.Sequential(nn.Linear(2, 1), nn.Dropout())
    layer = model[1]
    model.function = lambda: layer
    return model


def computes_its_weight():
    """Return a model whose copy has tensors for parameters."""
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
    """What cannot be copied, or whose copy would use the original's weights."""
    assert is_alone(model()) is False


def test_an_optimizer_that_cannot_be_copied_keeps_the_model_from_it():
    """The two belong together."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer.lock = threading.Lock()

    assert is_alone(model, optimizer=optimizer) is False
