"""What the checks of validation find, report and accept."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlconcepts import checks
from dlconcepts.checks import NotCheckedError
from tests.checks.small_projects import Gives, observed, sgd

X = torch.tensor([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0], [7.0, 8.0]])
Y = torch.tensor([0, 1, 1, 0])

IN_EVAL = checks.check_validation_is_in_eval_mode
RESTORED = checks.check_the_mode_is_restored
WITHOUT = checks.check_validation_records_no_gradients
UNCHANGED = checks.check_validation_changes_nothing


def project(**changes):
    return {"batch": (X, Y), "loss_fn": F.cross_entropy, "optimizer": sgd} | changes


def evaluate(model, loader, loss_fn):
    was_training = [(part, part.training) for part in model.modules()]
    model.eval()
    with torch.no_grad():
        losses = [loss_fn(model(inputs), targets).item() for inputs, targets in loader]
    for part, training in was_training:
        part.training = training
    return sum(losses)


def predict(model, inputs):
    return evaluate(model, [(inputs, None)], lambda outputs, _: outputs.sum())


def carelessly(model, loader, loss_fn):
    return sum(loss_fn(model(inputs), targets) for inputs, targets in loader)


def carelessly_predicted(model, inputs):
    return model(inputs)


def twice(model, loader, loss_fn):
    evaluate(model, loader, loss_fn)
    return carelessly(model, loader, loss_fn)


# ------------------------------------------------------------------------ what is evaluated


@pytest.mark.parametrize("check", [IN_EVAL, WITHOUT, UNCHANGED])
@pytest.mark.parametrize("also", [{}, {"predict": predict}])
def test_without_a_loss_an_evaluate_that_calls_it_is_not_checked(check, also):
    """What evaluate does with None tells nothing of the project."""
    with pytest.raises(NotCheckedError, match="needs loss_fn"):
        check(model=Gives(), batch=X, evaluate=evaluate, **also)


@pytest.mark.parametrize("check", [IN_EVAL, WITHOUT, UNCHANGED])
@pytest.mark.parametrize(
    "parts",
    [{"batch": X, "predict": predict}, project(evaluate=evaluate), project(predict=predict)],
)
def test_a_careful_validation_is_left_alone(check, parts):
    """It uses eval mode, records no gradients, and restores everything."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))

    assert observed(check, model=model, **parts) == ""
    assert observed(check, model=model.eval(), **parts) == ""


# ------------------------------------------------------------------------ eval mode


def on_and_off(*layers):
    linear = nn.Linear(2, 2)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, *layers)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            on_and_off(nn.Dropout(0.5)),
            "3 modules in training mode, Dropout: the outputs differ from ",
        ),
        (on_and_off(nn.Dropout(0.5), nn.Dropout(0.5)), "4 modules in training mode, Dropout: "),
        (
            on_and_off(nn.BatchNorm1d(2), nn.Dropout(0.5)),
            "4 modules in training mode, BatchNorm1d, D",
        ),
        (on_and_off(nn.BatchNorm1d(2), nn.ReLU()), "4 modules in training mode, BatchNorm1d: the "),
        (nn.Sequential(on_and_off(), nn.Dropout(0.5)), "4 modules in training mode, Dropout: the"),
        (on_and_off(nn.RReLU()), "3 modules in training mode, Linear, RReLU: the outputs differ "),
    ],
)
@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (project(evaluate=carelessly), "evaluate"),
        (project(evaluate=twice), "evaluate"),
        ({"batch": X, "predict": carelessly_predicted}, "predict"),
    ],
)
def test_a_validation_in_training_mode_is_found_by_what_it_changes(model, says, parts, name):
    """The message counts the modules, and names the layers that behave differently."""
    seen = observed(IN_EVAL, model=model.eval(), **parts)

    assert seen.startswith(f"{name} ran the model with {says}")
    assert " of their largest value" in seen


class Doubles(Gives):
    def forward(self, x):
        return super().forward(x) * (2 if self.training else 1)


def test_the_message_says_how_far_the_outputs_are_from_those_in_eval_mode():
    """The difference is relative to the largest output."""
    seen = observed(IN_EVAL, model=Doubles(), **project(evaluate=carelessly))

    assert seen == (
        "evaluate ran the model with 1 modules in training mode, Doubles: the outputs differ from "
        "those in eval mode by 0.5 of their largest value"
    )


class Branches(Gives):
    def forward(self, x):
        return {"a": x * self.one} if self.training else {"a": x * self.one, "b": x}


@pytest.mark.parametrize("model", [Gives(), on_and_off(nn.ReLU()), Branches()])
def test_a_mode_that_makes_no_difference_is_left_alone(model):
    """The figures are right if no output depends on the mode."""
    parts = {"batch": X, "predict": carelessly_predicted}

    assert observed(IN_EVAL, model=model, **parts) == ""


class Shifts(Gives):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        return super().forward(x) + self.shift * self.training


@pytest.mark.parametrize(("shift", "found"), [(2**-18, False), (2**-17, True)])
def test_rounding_is_no_difference_of_the_modes(shift, found):
    """float32 may round differently by a few units of 2**-23 near one."""
    parts = {"batch": torch.tensor([[0.0], [-1.0]]), "predict": carelessly_predicted}

    assert bool(observed(IN_EVAL, model=Shifts(shift), **parts)) is found


def only_the_dropout(model, loader, loss_fn):
    model.eval()
    model[1].train()
    with torch.no_grad():
        return carelessly(model, loader, loss_fn)


def test_one_module_in_training_mode_is_counted():
    """The message counts only that module."""
    model = on_and_off(nn.Dropout(0.5), nn.BatchNorm1d(2))

    seen = observed(IN_EVAL, model=model, **project(evaluate=only_the_dropout))

    assert seen.startswith("evaluate ran the model with 1 modules in training mode, Dropout: the o")


# ------------------------------------------------------------------------ modes


def leaves_eval(model, loader, loss_fn):
    model.eval()
    return carelessly(model, loader, loss_fn)


def switches_all(model, loader, loss_fn):
    model.eval()
    loss = carelessly(model, loader, loss_fn)
    model.train()
    return loss


def switches_a_part(model, loader, loss_fn):
    model[1].eval()
    return carelessly(model, loader, loss_fn)


def fit(model, loader, loss_fn, optimizer):
    return carelessly(model, loader, loss_fn).item()


def fit_in_training(model, loader, loss_fn, optimizer):
    optimizer.zero_grad()
    model.train()
    fit(model, loader, loss_fn, optimizer)
    model.eval()


def fit_nothing(model, loader, loss_fn, optimizer):
    """Do without the model."""


def with_a_part_in_eval():
    model = on_and_off(nn.Dropout(0.5))
    model[1].eval()
    return model


@pytest.mark.parametrize(
    ("model", "parts", "says"),
    [
        (on_and_off(), {"evaluate": leaves_eval, "fit": fit}, "2 of 2 modules are in another mode: "
         "the model, 0, now in eval mode"),
        (on_and_off().eval(), {"evaluate": leaves_eval, "fit": fit}, "2 of 2 modules are in "),
        (on_and_off(nn.Dropout()), {"evaluate": switches_a_part, "fit": fit}, "1 of 3 modules are "
         "in another mode: 1, now in eval mode"),
        (with_a_part_in_eval(), {"evaluate": switches_all}, "1 of 3 modules are in another mode: "
         "1, now in training mode"),
        (on_and_off(), {"evaluate": leaves_eval, "fit": fit_in_training, "optimizer": None}, "2 "),
        (with_a_part_in_eval(), {"evaluate": leaves_eval, "fit": fit_in_training}, "1 of 3 modules "
         "are in another mode: 1, now in training mode"),
        (with_a_part_in_eval().eval(), {"evaluate": leaves_eval, "fit": fit}, "3 of 3 modules are"),
    ],
)  # fmt: skip
def test_a_mode_that_is_not_restored_is_named(model, parts, says):
    """The message counts the modules, names the first, and says which mode they are in."""
    seen = observed(RESTORED, model=model, **project(**parts))

    assert seen.startswith(f"after evaluate {says}")


def test_eval_mode_after_a_single_evaluation_is_not_judged():
    """A script may evaluate once at its end, or call train() in its loop; only fit shows it."""
    with pytest.raises(NotCheckedError, match="needs fit"):
        RESTORED(model=on_and_off(), **project(evaluate=leaves_eval))


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (on_and_off(), {"evaluate": evaluate}),
        (on_and_off(), {"evaluate": carelessly}),
        (on_and_off(), {"evaluate": switches_all}),
        (on_and_off().eval(), {"evaluate": switches_all}),
        (with_a_part_in_eval(), {"evaluate": evaluate}),
        (on_and_off(), {"evaluate": leaves_eval, "fit": fit_in_training}),
        (on_and_off().eval(), {"evaluate": leaves_eval, "fit": fit_in_training}),
        (on_and_off(), {"evaluate": leaves_eval, "fit": fit_nothing}),
    ],
)
def test_a_mode_that_is_restored_when_training_goes_on_is_left_alone(model, parts):
    """Either evaluate restores it, or fit does before its first pass."""
    assert observed(RESTORED, model=model, **project(**parts)) == ""


# ------------------------------------------------------------------------ gradients


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (
            project(evaluate=carelessly),
            "evaluate ran 1 of 1 forward passes with gradients recorded",
        ),
        (project(evaluate=twice), "evaluate ran 1 of 2 forward passes with gradients recorded"),
        (
            project(predict=carelessly_predicted),
            "predict ran 1 of 1 forward passes with gradients recorded",
        ),
    ],
)
def test_a_pass_with_gradients_is_counted(parts, says):
    """One of several outputs with a graph is enough."""
    assert observed(WITHOUT, model=nn.Linear(2, 2), **parts) == says
    if "predict" in parts:
        model = Gives(lambda x: (x.detach(), x, x.long()))
        assert observed(WITHOUT, model=model, **parts) == says


def switches_off(model, inputs):
    torch.set_grad_enabled(False)
    return model(inputs)


def test_gradients_that_stay_off_are_found():
    """Training could not learn afterwards; the next check has gradients enabled again."""
    seen = observed(WITHOUT, model=nn.Linear(2, 2), batch=X, predict=switches_off)

    assert seen == "predict switched gradients off and left them off"
    assert torch.is_grad_enabled()


def clears(model, inputs):
    model.zero_grad()
    return predict(model, inputs)


def zeroes(model, inputs):
    model.zero_grad(set_to_none=False)
    return predict(model, inputs)


def adds(model, inputs):
    model[1].bias.grad[0] += 1
    return predict(model, inputs)


@pytest.mark.parametrize(
    ("part", "touched"),
    [
        (clears, "0.weight, 1.weight, 1.bias"),
        (zeroes, "0.weight, 1.weight, 1.bias"),
        (adds, "1.bias"),
    ],
)
def test_gradients_that_validation_changes_are_named(part, touched):
    """Training would lose them; frozen parameters have none."""
    model = on_and_off(nn.Linear(2, 2))
    model[0].bias.requires_grad_(False)

    seen = observed(WITHOUT, model=model, batch=X, predict=part)

    assert seen == f"predict changed the gradients of {touched}"


def test_complex_parameters_have_gradients_too():
    """They stay as they are, like others."""
    model = Gives()
    model.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))

    assert observed(WITHOUT, model=model, batch=X, predict=predict) == ""
    assert "phase" in observed(WITHOUT, model=model, batch=X, predict=clears)


# ------------------------------------------------------------------------ nothing changes


def steps(model, loader, loss_fn):
    with torch.no_grad():
        model[0].bias.add_(1e-6)
    return evaluate(model, loader, loss_fn)


def registers(model, loader, loss_fn):
    model.register_buffer("last", torch.tensor(evaluate(model, loader, loss_fn)))
    return model.last


def predicts_and_moves(model, inputs):
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    return predict(model, inputs)


NORMED = "BatchNorm statistics: 3 tensors, 1.running_mean, 1.running_var, 1.num_batches_tracked"


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (project(evaluate=carelessly), f"evaluate changed {NORMED}"),
        (project(predict=carelessly_predicted), f"predict changed {NORMED}"),
        (project(evaluate=steps), "evaluate changed the model: 1 tensors, 0.bias"),
        (project(evaluate=registers), "evaluate changed the model: 1 tensors, last"),
        (project(predict=predicts_and_moves), "predict changed the model: 1 tensors, 0.weight"),
    ],
)
def test_what_validation_changes_in_the_model_is_named(parts, says):
    """The message counts the parameters and buffers that changed."""
    model = on_and_off(nn.BatchNorm1d(2)).eval()

    assert observed(UNCHANGED, model=model, **parts) == says
