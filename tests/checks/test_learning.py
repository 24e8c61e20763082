"""What the checks of learning find, report and accept."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlconcepts import checks
from dlconcepts.checks import NotCheckedError
from tests.checks.small_projects import Gives, observed, sgd

X = torch.tensor([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0]])
Y = torch.tensor([0, 1, 1])


class Adds(nn.Module):
    def __init__(self, *functions, **kept):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.functions = functions
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x):
        return sum((function(self, x) for function in self.functions), self.linear(x))


# ------------------------------------------------------------------------ registered

REGISTERED = checks.check_every_layer_is_registered


def layers(count):
    return [nn.Linear(2, 2, bias=False) for _ in range(count)]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Adds(lambda model, x: model.X(x), X=layers(1)[0]), ""),
        (Adds(lambda model, x: model.X[0](x), X=nn.ModuleList(layers(1))), ""),
        (
            Adds(lambda model, x: model.X[0](x) + model.X[1](x), X=layers(2)),
            "2 trainable tensors that model.parameters() does not list, of shape (2, 2), (2, 2), "
            "kept in X",
        ),
        (Adds(lambda model, x: model.Y["a"](x), Y={"a": layers(1)[0]}), "(2, 2), kept in Y"),
        (Adds(lambda model, x: model._z[0](x), _z=layers(1)), "(2, 2), kept in _z"),
        (
            Adds(lambda model, x: x * model.z, z=torch.ones(2, requires_grad=True)),
            "1 trainable tensors that model.parameters() does not list, of shape (2,), kept in z",
        ),
        (
            Adds(lambda model, x: x * sum(model.z), z=[torch.ones(1).requires_grad_()] * 2),
            "1 trainable tensors that model.parameters() does not list, of shape (1,), kept in z",
        ),
        (Adds(lambda model, x: nn.Linear(2, 2, bias=False)(x)), "of shape (2, 2)"),
        (Adds(lambda model, x: nn.Linear(2, 2).requires_grad_(False)(x)), ""),
        (Adds(lambda model, x: x * model.z, z=torch.ones(2)), ""),
    ],
)
def test_a_trainable_tensor_that_is_no_parameter_is_found(model, says):
    """The message says how many tensors there are, their shapes, and what holds them."""
    seen = observed(REGISTERED, model=model, batch=(X, Y))

    assert seen.startswith("the output depends ") == bool(says)
    assert seen.endswith(says)
    assert bool(says) == bool(seen)


def test_the_part_that_holds_them_is_named_with_its_own_name():
    """The attribute is named with its path, once."""
    inner = Adds(lambda model, x: model.X[0](x) + model.X[1](x) + x * model.z, X=layers(2))
    inner.z = torch.ones(2, requires_grad=True)

    seen = observed(REGISTERED, model=nn.Sequential(nn.Sequential(inner)), batch=(X, Y))

    assert seen.endswith("kept in 0.0.X, 0.0.z")


@pytest.mark.parametrize(
    "function", [lambda x: x.requires_grad_(), lambda x: x.detach().requires_grad_()]
)
def test_an_input_that_requires_a_gradient_is_no_parameter(function):
    """A gradient penalty needs such an input."""
    model = Adds(lambda model, x: function(x).square())

    assert observed(REGISTERED, model=model, batch=(X, Y)) == ""


class Warms(nn.Module):
    def __init__(self, temperature):
        super().__init__()
        self.linear, self.temperature = nn.Linear(2, 2), [temperature]

    def forward(self, x):
        return self.linear(x) / self.temperature[0]

    def __deepcopy__(self, memo):
        other = Warms(self.temperature[0])
        other.linear = copy.deepcopy(self.linear, memo)
        return other


@pytest.mark.parametrize("held", [True, False])
def test_what_the_optimizer_holds_is_trained_without_being_registered(held):
    """A temperature outside the model is trained if the optimizer holds it."""
    temperature = torch.ones((), requires_grad=True)
    model = Warms(temperature)
    optimizer = torch.optim.SGD([*model.parameters(), *([temperature] if held else [])], lr=0.1)

    seen = observed(REGISTERED, model=model, batch=(X, Y), optimizer=optimizer)

    assert bool(seen) is not held


class OnlyInTraining(Adds):
    def forward(self, x):
        return super().forward(x) if self.training else self.linear(x)


def test_layers_are_looked_for_in_training_mode():
    """A branch that runs only in training counts, whatever mode the model was in."""
    model = OnlyInTraining(lambda model, x: model.z[0](x), z=layers(1)).eval()

    assert observed(REGISTERED, model=model, batch=(X, Y)).endswith("kept in z")


# ------------------------------------------------------------------------ gradients

LEARNS = checks.check_every_parameter_gets_a_gradient


def left_out(model, x):
    return model.z(x).detach()


def rounded(model, x):
    return model.z(x).round()


ALWAYS = "after 8 backward passes from 8 different weights the gradient of "


@pytest.mark.parametrize("loss_fn", [None, F.cross_entropy])
@pytest.mark.parametrize(
    ("functions", "says"),
    [
        ([], "z.weight, z.bias is None: 2 of 4 parameters"),
        ([left_out], "z.weight, z.bias is None: 2 of 4 parameters"),
        ([rounded], "z.weight, z.bias is exactly zero: 2 of 4 parameters"),
        ([lambda model, x: x @ model.z.weight.T], "z.bias is None: 1 of 4 parameters"),
    ],
)
def test_a_parameter_without_a_gradient_is_named(functions, says, loss_fn):
    """The message says whether the gradient is None or zero."""
    model = Adds(*functions, z=nn.Linear(2, 2))

    assert observed(LEARNS, model=model, batch=(X, Y), loss_fn=loss_fn) == ALWAYS + says


def test_a_layer_that_is_unused_is_named_before_one_whose_gradient_is_zero():
    """The message lists unused and zero-gradient parameters in the order of the model."""
    model = Adds(rounded, z=nn.Linear(2, 2, bias=False), a=nn.Linear(2, 2, bias=False))

    assert observed(LEARNS, model=model, batch=(X, Y)) == (
        ALWAYS + "z.weight, a.weight is None: 2 of 4 parameters"
    )


def by_chance(model, x):
    return model.z(x) if torch.rand(()) < 0.5 else 0


def gated(model, x):
    return model.gate * model.z(x)


def normalised(model, x):
    return F.batch_norm(model.z(x), None, None, training=True)


@pytest.mark.parametrize("loss_fn", [None, F.cross_entropy])
@pytest.mark.parametrize(
    ("functions", "kept"),
    [
        ([lambda model, x: model.z(x)], {}),
        ([by_chance], {}),
        ([gated], {"gate": nn.Parameter(torch.zeros(()))}),
        ([normalised], {}),
    ],
)
def test_a_parameter_that_learns_at_times_is_left_alone(functions, kept, loss_fn):
    """Chance, a closed gate, or a bias before BatchNorm may leave no gradient in a pass."""
    model = Adds(*functions, z=nn.Linear(2, 2), **kept)

    assert observed(LEARNS, model=model, batch=(X, Y), loss_fn=loss_fn) == ""


def test_without_a_loss_every_output_counts_and_none_cancels():
    """The sum of a softmax does not depend on its scores, but a random mixture does."""
    model = Adds(z=nn.Linear(2, 2))
    model.forward = lambda x: (model.linear(x).softmax(1), model.z(x), x, x.long())

    assert observed(LEARNS, model=model, batch=(X, Y)) == ""


def test_a_model_without_any_gradient_is_found():
    """The check reports outputs without a graph instead of an error of autograd."""
    model = Gives(lambda x: x.detach())

    assert observed(LEARNS, model=model, batch=(X, Y)) == ALWAYS + "one is None: 1 of 1 parameters"


def test_parameters_that_are_frozen_need_no_gradient():
    """They may be frozen by requires_grad or by name."""
    model = Adds(left_out, z=nn.Linear(2, 2))

    assert observed(LEARNS, model=model, batch=(X, Y), frozen=["z"]) == ""
    assert observed(LEARNS, model=model, batch=(X, Y), frozen=["linear"]).endswith(
        "2 of 2 parameters"
    )
    model.z.requires_grad_(False)
    assert observed(LEARNS, model=model, batch=(X, Y)) == ""
    model.requires_grad_(False)
    with pytest.raises(NotCheckedError, match="needs a parameter that requires a gradient"):
        LEARNS(model=model, batch=(X, Y))


def test_gradients_are_looked_for_in_training_mode():
    """A head that runs only in training learns there."""
    model = OnlyInTraining(lambda model, x: model.z(x), z=nn.Linear(2, 2)).eval()

    assert observed(LEARNS, model=model, batch=(X, Y)) == ""


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        self.X = nn.Parameter(torch.ones(1))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)


# ------------------------------------------------------------------------ the optimizer

HOLDS = checks.check_the_optimizer_holds_the_model


def new_head(held):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if not held:
        model[1] = nn.Linear(2, 3)
    return {"model": model, "optimizer": optimizer}


def half_frozen():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (new_head(True), ""),
        (
            new_head(False),
            "2 of 4 trainable parameters are not in the optimizer: 1.weight, 1.bias; it holds 2 "
            "tensors that are not the model's",
        ),
        (
            {"optimizer": lambda model: sgd(model[0])},
            "2 of 4 trainable parameters are not in the optimizer: 1.weight, 1.bias",
        ),
        ({"optimizer": lambda model: sgd(model[0]), "frozen": ["1"]}, ""),
        (
            {"optimizer": lambda model: sgd(model[0]), "frozen": ["0"]},
            "2 of 2 trainable parameters are not in the optimizer: 1.weight, 1.bias",
        ),
        ({"model": half_frozen(), "optimizer": lambda model: sgd(model[0])}, ""),
        (
            {
                "optimizer": lambda model: torch.optim.SGD(
                    [{"params": part.parameters()} for part in model], lr=0.1
                )
            },
            "",
        ),
    ],
)
def test_what_the_optimizer_does_not_hold_is_named(parts, says):
    """The message counts the parameters outside, and foreign ones in the optimizer."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    assert observed(HOLDS, **{"model": model} | parts) == says
