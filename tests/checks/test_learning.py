"""What the checks of what learns see, say and leave alone, on models of a few numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlconcepts import checks
from dlconcepts.checks import NotCheckedError
from dlconcepts.checks.laws.learning import gradients, graph_leaves, layer_sleeps, names, shake
from dlconcepts.checks.project import Project
from tests.checks.small_projects import Gives, observed, sgd

X = torch.tensor([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0]])
Y = torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
        (list("abcdefgh"), "a, b, c and 5 more"),
    ],
)
def test_three_names_are_said_and_the_others_counted(found, words):
    """A message stays one line."""
    assert names(found) == words


class Adds(nn.Module):
    """A linear layer whose output functions of the model are added to."""

    def __init__(self, *functions, **kept):
        """Keep the functions, and attributes of any kind."""
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.functions = functions
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x):
        """Return the sum."""
        return sum((function(self, x) for function in self.functions), self.linear(x))


# ------------------------------------------------------------------------ registered

REGISTERED = checks.check_every_layer_is_registered


def layers(count):
    """Return some linear layers."""
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
    """The message says how many there are, of which shape, and the attribute that holds them."""
    seen = observed(REGISTERED, model=model, batch=(X, Y))

    assert seen.startswith("the output depends ") == bool(says)
    assert seen.endswith(says)
    assert bool(says) == bool(seen)


def test_the_part_that_holds_them_is_named_with_its_own_name():
    """Deep in the model, and each attribute once."""
    inner = Adds(lambda model, x: model.X[0](x) + model.X[1](x) + x * model.z, X=layers(2))
    inner.z = torch.ones(2, requires_grad=True)

    seen = observed(REGISTERED, model=nn.Sequential(nn.Sequential(inner)), batch=(X, Y))

    assert seen.endswith("kept in 0.0.X, 0.0.z")


@pytest.mark.parametrize(
    "function", [lambda x: x.requires_grad_(), lambda x: x.detach().requires_grad_()]
)
def test_an_input_that_requires_a_gradient_is_no_parameter(function):
    """A penalty of the gradient with respect to the input needs it."""
    model = Adds(lambda model, x: function(x).square())

    assert observed(REGISTERED, model=model, batch=(X, Y)) == ""


class Warms(nn.Module):
    """A model scaled by a temperature that it is given."""

    def __init__(self, temperature):
        """Keep the tensor out of the parameters."""
        super().__init__()
        self.linear, self.temperature = nn.Linear(2, 2), [temperature]

    def forward(self, x):
        """Return the scaled logits."""
        return self.linear(x) / self.temperature[0]

    def __deepcopy__(self, memo):
        """Share the temperature."""
        other = Warms(self.temperature[0])
        other.linear = copy.deepcopy(self.linear, memo)
        return other


@pytest.mark.parametrize("held", [True, False])
def test_what_the_optimizer_holds_is_trained_without_being_registered(held):
    """A temperature beside the model is learnt, if the optimizer knows it."""
    temperature = torch.ones((), requires_grad=True)
    model = Warms(temperature)
    optimizer = torch.optim.SGD([*model.parameters(), *([temperature] if held else [])], lr=0.1)

    seen = observed(REGISTERED, model=model, batch=(X, Y), optimizer=optimizer)

    assert bool(seen) is not held


class OnlyInTraining(Adds):
    """A model that adds to its output in training alone."""

    def forward(self, x):
        """Return the sum, or the logits."""
        return super().forward(x) if self.training else self.linear(x)


def test_layers_are_looked_for_in_training_mode():
    """A branch for training counts, whatever the model's own mode is."""
    model = OnlyInTraining(lambda model, x: model.z[0](x), z=layers(1)).eval()

    assert observed(REGISTERED, model=model, batch=(X, Y)).endswith("kept in z")


def test_the_leaves_of_a_graph_are_found_once_each():
    """Through every output, and every operation on the way."""
    a, b, c = (torch.full((2,), value, requires_grad=True) for value in (1.0, 2.0, 3.0))
    shared = a * b

    found = graph_leaves({"x": [c.exp(), shared], "y": (shared + shared).sum(), "z": torch.ones(1)})

    assert sorted(leaf[0].item() for leaf in found) == [1, 2, 3]
    assert {id(leaf) for leaf in found} == {id(a), id(b), id(c)}


# ------------------------------------------------------------------------ gradients

LEARNS = checks.check_every_parameter_gets_a_gradient


def left_out(model, x):
    """Use a layer, but for its gradient."""
    return model.z(x).detach()


def rounded(model, x):
    """Use a layer, whose gradient is zero everywhere."""
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
    """The message says whether there was none, or it was zero."""
    model = Adds(*functions, z=nn.Linear(2, 2))

    assert observed(LEARNS, model=model, batch=(X, Y), loss_fn=loss_fn) == ALWAYS + says


def test_a_layer_that_is_unused_is_named_before_one_whose_gradient_is_zero():
    """Both are listed, in the order of the model."""
    model = Adds(rounded, z=nn.Linear(2, 2, bias=False), a=nn.Linear(2, 2, bias=False))

    assert observed(LEARNS, model=model, batch=(X, Y)) == (
        ALWAYS + "z.weight, a.weight is None: 2 of 4 parameters"
    )


def by_chance(model, x):
    """Use a layer in half of the passes."""
    return model.z(x) if torch.rand(()) < 0.5 else 0


def gated(model, x):
    """Use a layer behind a gate that starts closed."""
    return model.gate * model.z(x)


def normalised(model, x):
    """Use a layer whose bias a normalisation takes away."""
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
    """By chance, once a gate has opened, or but for a bias that the mean takes away."""
    model = Adds(*functions, z=nn.Linear(2, 2), **kept)

    assert observed(LEARNS, model=model, batch=(X, Y), loss_fn=loss_fn) == ""


def test_without_a_loss_every_output_counts_and_none_cancels():
    """The sum of a softmax does not depend on its scores; a mixture of them does."""
    model = Adds(z=nn.Linear(2, 2))
    model.forward = lambda x: (model.linear(x).softmax(1), model.z(x), x, x.long())

    assert observed(LEARNS, model=model, batch=(X, Y)) == ""


def test_a_model_without_any_gradient_is_found():
    """An output that is cut off everywhere makes no error of autograd."""
    model = Gives(lambda x: x.detach())

    assert observed(LEARNS, model=model, batch=(X, Y)) == ALWAYS + "one is None: 1 of 1 parameters"


def test_parameters_that_are_frozen_need_no_gradient():
    """By requires_grad, or by name."""
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
    """A head for training alone learns there."""
    model = OnlyInTraining(lambda model, x: model.z(x), z=nn.Linear(2, 2)).eval()

    assert observed(LEARNS, model=model, batch=(X, Y)) == ""


def test_gradients_are_those_of_the_loss():
    """Of a frozen or unused parameter there is none, even if it had one before."""
    model = Adds(z=nn.Linear(2, 2), y=nn.Linear(2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.y.requires_grad_(False)
    project = Project(model=model, batch=(X, Y), loss_fn=F.cross_entropy)

    found = gradients(project, model, 0)

    expected = torch.autograd.grad(F.cross_entropy(model(X), Y), [*model.linear.parameters()])
    assert list(found) == ["linear.weight", "linear.bias"]
    assert all(map(torch.allclose, found.values(), expected))


def test_gradients_without_a_loss_mix_the_outputs_at_random():
    """The same for a seed, another for another; outputs of any floating-point type."""
    model = Adds()
    model.forward = lambda x: [model.linear(x), model.linear(x)[0].double(), x]
    project = Project(model=model, batch=X)

    first, again, other = (gradients(project, model, seed)["linear.bias"] for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert first[0] != first[1]


def test_random_passes_are_drawn_from_the_seed():
    """Each pass of the check meets other random numbers."""
    model = Adds(lambda model, x: torch.rand(2) * model.z, z=nn.Parameter(torch.ones(2)))
    project = Project(model=model, batch=(X, X), loss_fn=lambda outputs, y: outputs.sum() / 3)

    for seed in (0, 5):
        torch.manual_seed(seed)
        drawn = torch.rand(2)
        assert torch.allclose(gradients(project, model, seed)["z"], drawn)


@pytest.mark.parametrize(("value", "size"), [(0.0, 0.01), (0.1, 0.02), (1.0, 0.11), (-1.0, 0.11)])
def test_weights_are_shaken_by_a_tenth_of_their_size(value, size):
    """And by a hundredth, so that zeros move too."""
    model = nn.ParameterList([torch.full((100, 100), value)])

    shake(model, 1)

    moved = (model[0] - value).detach()
    assert moved.std().item() == pytest.approx(size, rel=0.05)
    assert abs(moved.mean().item()) < 0.05 * size


def test_a_shake_is_the_same_for_a_seed_and_leaves_whole_numbers():
    """It does not draw from the generator of the project."""
    integers = nn.Parameter(torch.arange(3), requires_grad=False)
    models = [nn.ParameterList([torch.zeros(3, dtype=torch.float64), integers]) for _ in range(3)]
    state = torch.get_rng_state()

    for model, seed in zip(models, (1, 1, 2), strict=True):
        shake(model, seed)

    assert torch.equal(models[0][0], models[1][0])
    assert not torch.equal(models[0][0], models[2][0])
    assert models[0][1].tolist() == [0, 1, 2]
    assert torch.equal(torch.get_rng_state(), state)


class Deep(nn.Module):
    """A model with a parameter beside its parts."""

    def __init__(self):
        """Make the layers."""
        super().__init__()
        self.part = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        self.X = nn.Parameter(torch.ones(1))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)


@pytest.mark.parametrize(
    ("name", "left", "sleeps"),
    [
        ("part.0.bias", {"part.0.bias", "part.0.weight"}, True),
        ("part.0.bias", {"part.0.bias", "part.1.weight"}, False),
        ("part.0.bias", {"part.0.bias"}, False),
        ("X", {"X"}, True),
        ("X", set(), False),
    ],
)
def test_a_layer_sleeps_if_none_of_its_own_parameters_has_a_gradient(name, left, sleeps):
    """What is frozen, or belongs to a part of it, does not count."""
    assert layer_sleeps(Deep(), name, left) is sleeps


# ------------------------------------------------------------------------ the optimizer

HOLDS = checks.check_the_optimizer_holds_the_model


def new_head(held):
    """Return a model whose head was replaced after the optimizer was built."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if not held:
        model[1] = nn.Linear(2, 3)
    return {"model": model, "optimizer": optimizer}


def half_frozen():
    """Return a model whose second layer is not trained."""
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
    """The message counts what is outside, and what it holds of another model."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    assert observed(HOLDS, **{"model": model} | parts) == says
