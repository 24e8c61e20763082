"""The reference of a network, its gradients and its steps: right values, and tight bounds."""

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dlconcepts.networks import Network
from dlconcepts.parity.bounds import Arithmetic, Bounded
from dlconcepts.parity.reference import (
    Reference,
    layers_of,
    loss_of,
    softmax_of,
    step_of,
    weights_of,
)
from tests.parity.common import COARSE, EXACT, STORED, check, stored, within


def positive(model: nn.Module) -> nn.Module:
    """Return the model in float64, with each parameter above zero."""
    model = model.double()
    for parameter in model.parameters():
        parameter.data = parameter.data.abs() + 0.01
    return model


MODELS = {
    "a Network": lambda: Network(4, [3, 5], 3),
    "a convolution": lambda: nn.Sequential(
        nn.Conv2d(2, 3, (2, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 3 * 2, 3)
    ),
}
SHAPES = {"a Network": (3, 2, 2), "a convolution": (3, 2, 4, 4)}
LABELS = torch.tensor([1, 0, 1])


def drawn(name: str) -> tuple[nn.Module, Tensor]:
    """Return the model and images for it, all above zero."""
    torch.manual_seed(0)
    return positive(MODELS[name]()), torch.rand(SHAPES[name], dtype=torch.float64) + 0.01


@pytest.mark.parametrize("name", MODELS)
def test_without_rounding_the_reference_equals_torchs_float64(name: str) -> None:
    """Logits, loss, probabilities and gradients agree, and their bounds are zero."""
    model, images = drawn(name)
    with torch.no_grad():
        for parameter in model.parameters():  # of both signs again
            parameter -= 0.3
    images -= 0.5
    reference = Reference.of(EXACT, model)
    logits = model(images)
    loss = F.cross_entropy(logits, LABELS)
    loss.backward()

    found = reference.forward(images)[-1]
    gradients = reference.gradients(images, LABELS)

    check(found, logits.tolist(), torch.zeros_like(logits).tolist())
    check(loss_of(EXACT, found, LABELS)[0], loss.item(), 0.0)
    check(softmax_of(EXACT, found), logits.softmax(1).tolist(), [[0.0, 0.0, 0.0]] * 3)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        zeros = torch.zeros_like(parameter).tolist()
        check(gradients[name], parameter.grad.tolist(), zeros)


@pytest.mark.parametrize("name", MODELS)
def test_where_nothing_cancels_the_bound_is_the_worst_case(name: str) -> None:
    """If all numbers are positive, results are largest where weights and slopes are."""
    model, images = drawn(name)
    off = 0.01
    weights = {
        n: Bounded(w.value, torch.full_like(w.value, off)) for n, w in weights_of(model).items()
    }
    highest = copy.deepcopy(model)
    for parameter in highest.parameters():
        parameter.data += off
    slope = within([[1.0, 2.0, 4.0], [0.5, 1.0, 2.0], [3.0, 0.25, 1.0]], 0.125)

    reference = Reference(EXACT, layers_of(model), weights)
    values = reference.forward(images)
    gradients = reference.backward(values, slope)

    low, high = model(images), highest(images)
    check(values[-1], low.tolist(), (high - low).tolist())
    low.backward(slope.value)
    high.backward(slope.value + slope.error)
    for (name, one), other in zip(model.named_parameters(), highest.parameters(), strict=True):
        check(gradients[name], one.grad.tolist(), (other.grad - one.grad).tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_error_of_the_loss_of_equal_scores_is_a_few_units(dtype: torch.dtype) -> None:
    """It has one for each logarithm, one for each term of the sum, and a few for the mean."""
    rule = Arithmetic.of(dtype)

    loss, slope = loss_of(rule, within([[0.0, 0.0]] * 4, 0.0), torch.tensor([0, 1, 1, 0]))

    units = 24 if dtype == torch.float32 else 9
    assert 5 * rule.unit * math.log(2) <= loss.error <= units * rule.unit * math.log(2)
    assert ((slope.value.abs() - 1 / 8).abs() <= 1e-12).all()
    assert (slope.error >= 2 * rule.unit / 8).all()
    assert (slope.error <= (30 if dtype == torch.float32 else 3.1) * rule.unit / 8).all()


def test_the_bound_of_the_loss_gradient_covers_each_rounding() -> None:
    """The gradient is the probability, minus 1 at the label, divided by the number of examples.

    The difference, 1 / n and the product are rounded.
    """
    unit = 2**-6
    rule = Arithmetic(unit=unit, sum_unit=unit, product_unit=0.0, tiny=0.0, most=math.inf)
    scores = within([[0.0, 0.0, -3.0]], 0.0)
    wanted = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)

    _, slope = loss_of(rule, scores, torch.tensor([0]))

    share = rule.exp(rule.log_softmax(scores))
    for end in (share.value - share.error, share.value + share.error):
        for rounding in (1 - unit, 1 + unit):
            off = ((end - wanted) * rounding**3 - slope.value).abs()
            assert (off <= slope.error + 1e-12).all()


OPTIMIZERS: dict[str, Callable[[Sequence[Tensor]], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "SGD with momentum and decay": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.3),
    "Adam": lambda p: Adam(p, lr=0.1),
    "Adam with decay": lambda p: Adam(p, lr=0.1, betas=(0.8, 0.95), eps=0.1, weight_decay=0.3),
    "AdamW": lambda p: AdamW(p, lr=0.1, weight_decay=0.3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_rounding_each_step_equals_torchs_float64(name: str) -> None:
    """The parameter and its optimizer state agree over four steps."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([weight])
    for gradient in ([1.0, -0.5, 0.0], [0.25, 0.5, -1.0], [-2.0, 3.0, 0.5], [0.5, 0.0, 0.1]):
        state = copy.deepcopy(optimizer.state.get(weight, {}))
        before = Bounded.exact(weight)
        weight.grad = torch.tensor(gradient, dtype=torch.float64)

        found, remembered = step_of(EXACT, optimizer, state, before, within(gradient, 0.0))
        optimizer.step()

        check(found, weight.tolist(), [0.0] * 3)
        kept = {n: v for n, v in optimizer.state[weight].items() if n != "step" and v is not None}
        assert remembered.keys() == kept.keys()
        for part, value in kept.items():
            check(remembered[part], value.tolist(), [0.0] * 3)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize(
    ("slope", "error"), [(1.0, 0.25), (-0.5, 0.1), (0.1, 0.3), (0.0, 0.2), (-1.71, 1.71)]
)
def test_the_bound_of_a_step_covers_every_gradient_within_its_error(
    name: str, steps_before: int, slope: float, error: float
) -> None:
    """No gradient in its range moves the parameter further than the bound.

    For SGD the bound is tight. Adam divides by a root that changes with the gradient, which the
    bound ignores; but no step of Adam is much longer than the learning rate, and its first step is
    not longer at all.
    """
    weight = nn.Parameter(torch.tensor([1.5], dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([weight])
    for _ in range(steps_before):
        weight.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    start, state = weight.detach().clone(), copy.deepcopy(optimizer.state.get(weight, {}))
    saved = copy.deepcopy(optimizer.state_dict())

    found, _ = step_of(EXACT, optimizer, state, Bounded.exact(weight), within([slope], error))

    furthest = 0.0
    for gradient in torch.linspace(slope - error, slope + error, 41, dtype=torch.float64):
        weight.data = start.clone()
        optimizer.load_state_dict(copy.deepcopy(saved))
        weight.grad = gradient.reshape(1)
        optimizer.step()
        furthest = max(furthest, abs(weight.item() - found.value.item()))
    assert furthest <= found.error.item() * (1 + 1e-9)
    if isinstance(optimizer, SGD):
        assert found.error.item() == pytest.approx(furthest)
    elif slope or steps_before:
        assert found.error.item() <= (5 if steps_before else 2 * (1 + 1e-9)) * 0.1


def test_a_step_of_adam_may_exceed_the_learning_rate_by_its_roundings() -> None:
    """If the sign of the gradient is in doubt, the step may go the other way and be longer.

    Here each rounding makes it longer: up in the mean, down in the root.
    """
    unit = 2**-12
    rule = Arithmetic(unit=unit, sum_unit=unit, product_unit=0.0, tiny=0.0, most=math.inf)
    adam = Adam([nn.Parameter(torch.zeros(1))], lr=1.0, betas=(0.5, 0.5), eps=1e-30)

    found, _ = step_of(rule, adam, {}, within([0.0], 0.0), within([0.5], 1.0))

    up, down = 1 + unit, 1 - unit
    mean, square = -0.5 * 0.5 * up**3, 0.5**2 * 0.5 * down**3
    root = math.sqrt(square) * down / math.sqrt(0.5) * down**2
    step = -mean / root * up / 0.5 * up
    assert step > 1
    assert abs(step - found.value.item()) <= found.error.item() <= 2 * (1 + 100 * unit)


@pytest.mark.parametrize("eps", [0.25, 2**-11])
def test_adam_divides_by_at_least_the_stored_eps(eps: float) -> None:
    """If the root may be zero, eps bounds the step; if eps may underflow, nothing does."""
    adam = Adam([nn.Parameter(torch.zeros(1))], lr=0.5, betas=(0.5, 0.5), eps=eps)

    found, remembered = step_of(COARSE, adam, {}, within([0.0], 0.0), within([0.0], 0.125))

    unit, tiny = STORED
    least = eps - unit * eps - tiny
    ratio = stored(0, remembered["exp_avg"].error.item() / least if least > 0 else math.inf)
    check(found, [0.0], [stored(0, stored(0, ratio + ratio / 64))])


@pytest.mark.parametrize(
    ("optimizer", "what"),
    [
        (lambda p: SGD(p, momentum=0.9, nesterov=True), "SGD, nesterov"),
        (lambda p: SGD(p, momentum=0.9, dampening=0.1), "SGD, dampening"),
        (lambda p: SGD(p, maximize=True), "SGD, maximize"),
        (lambda p: Adam(p, amsgrad=True, maximize=True), "Adam, amsgrad, maximize"),
        (torch.optim.RMSprop, "RMSprop"),
    ],
)
def test_a_step_without_a_known_bound_is_an_error(
    optimizer: Callable[[Sequence[Tensor]], Optimizer], what: str
) -> None:
    """Other optimizers and options are refused by name."""
    exact = within([1.0], 0.0)

    with pytest.raises(TypeError, match=f"^no error bound is known for a step of {what}$"):
        step_of(EXACT, optimizer([nn.Parameter(torch.ones(1))]), {}, exact, exact)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rounding_of_a_step_is_a_few_units(name: str) -> None:
    """Both the parameter and the optimizer state have at most 8."""
    rule = Arithmetic.of(torch.float32)
    weight = nn.Parameter(torch.tensor([1.5], dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([weight])
    weight.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step()
    state = copy.deepcopy(optimizer.state[weight])

    found, remembered = step_of(rule, optimizer, state, Bounded.exact(weight), within([1.0], 0.0))

    assert 1 <= found.error.item() / (rule.unit * found.value.item()) <= 4.5
    for bound in remembered.values():
        assert 1 <= bound.error.item() / (rule.unit * bound.value.abs().item()) <= 8


def test_a_float16_softmax_is_rounded_only_when_it_is_stored() -> None:
    """Within the softmax float16 is computed in float32."""
    rule = Arithmetic.of(torch.float16)

    found = softmax_of(rule, Bounded.exact(torch.tensor([[1.0, -2.0, 0.5]])))

    assert (found.error <= 1.05 * rule.unit * found.value).all()


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.GELU()), "Tanh, GELU"),
        (nn.Linear(2, 2), "Linear"),
        (Network(2, [2], 2, activation="gelu"), "a Network with dropout or without ReLU"),
        (Network(2, [2], 2, dropout=0.5), "a Network with dropout or without ReLU"),
        (nn.ModuleList([nn.Linear(2, 2)]), "ModuleList"),
    ],
)
def test_a_layer_without_a_known_bound_is_an_error(model: nn.Module, named: str) -> None:
    """The error names the layers; the reference never guesses a bound."""
    with pytest.raises(TypeError, match=f"^no error bound is known for {named}$"):
        layers_of(model)
