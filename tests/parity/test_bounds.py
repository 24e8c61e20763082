"""What the parity laws rest on: bounds that hold, and that are no wider than they must be.

A bound that is too narrow blames a device for rounding; one that is too wide lets faults through.
So each operation is asked for the worst case where that is known: in an arithmetic that rounds
nothing, at corners where no term cancels another, and with unit roundoffs so large that they can be
added up by hand.
"""

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dlconcepts.networks import Network
from dlconcepts.parity.bounds import Arithmetic, Bounded, gamma, relu, relu_backward
from dlconcepts.parity.reference import (
    backward,
    forward,
    gradients_of,
    layers_of,
    loss_of,
    softmax_of,
    step_of,
    weights_of,
)

EXACT = Arithmetic(unit=0.0, sum_unit=0.0, product_unit=0.0, tiny=0.0, most=math.inf)
COARSE = Arithmetic(unit=2**-4, sum_unit=2**-6, product_unit=0.0, tiny=2**-10, most=100.0)
STORED = 2**-4, 2**-10


def within(values: object, errors: object) -> Bounded:
    """Return float64 values that may be off by these errors."""
    value = torch.tensor(values, dtype=torch.float64)
    return Bounded(value, torch.tensor(errors, dtype=torch.float64).expand(value.shape))


def stored(value: float, error: float) -> float:
    """Return the error of a COARSE result once it is stored, by hand."""
    unit, tiny = STORED
    return error + unit * (abs(value) + error) + tiny


def check(found: Bounded, value: object, error: object) -> None:
    """Compare a result and its bound with what they must be."""
    for tensor, expected in ((found.value, value), (found.error, error)):
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(tensor, expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------- what errors become


def test_a_sum_is_off_by_both_errors() -> None:
    """So is a sum of many, and one of products by what each product may be off."""
    a, b = within([2.0], 0.25), within([-3.0], 0.5)

    check(EXACT.add(a, b), [-1.0], [0.75])
    check(EXACT.total(within([[1.0, -2.0]], [[0.5, 0.25]]), 1), [-1.0], [0.75])
    product = within([[2.0, -1.0]], [[0.5, 0.0]]), within([[3.0], [4.0]], [[0.25], [1.0]])
    check(EXACT.matmul(*product), [[2.0]], [[3.125]])
    check(EXACT.matmul(*product, within([1.0], 0.5)), [[3.0]], [[3.625]])


def test_a_product_and_a_quotient_are_off_by_their_worst_corner() -> None:
    """2.25 * -3.5 and 2.25 / 3; a divisor that may be zero allows anything."""
    a = within([2.0], 0.25)

    check(EXACT.multiply(a, within([-3.0], 0.5)), [-6.0], [1.875])
    check(EXACT.scale(a, -3), [-6.0], [0.75])
    check(EXACT.divide(a, within([4.0], 1.0)), [0.5], [0.25])
    check(COARSE.divide(a, within([1.0], 1.0)), [2.0], [math.inf])
    check(COARSE.divide(within([0.0], 0.0), within([1.0], 1.0)), [0.0], [math.inf])
    check(EXACT.divide(a, within([1.0], 2.0), least=0.5), [2.0], [8.5])


def test_a_root_is_off_most_at_the_lower_end() -> None:
    """sqrt(4 - 3) is 1, and what may be zero is off by the root of its error."""
    check(EXACT.sqrt(within([4.0, 0.0], [3.0, 0.25])), [2.0, 0.0], [1.0, 0.5])


def test_a_logarithm_of_the_softmax_is_off_by_its_own_error_and_the_largest() -> None:
    """Row by row."""
    found = EXACT.log_softmax(within([[0.0, 1.0], [0.0, 0.0]], [[0.1, 0.3], [0.0, 0.2]]))

    expected = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64).log_softmax(1)
    check(found, expected.tolist(), [[0.4, 0.6], [0.2, 0.4]])


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (-1.0, 0.5, math.exp(-0.5) - math.exp(-1)),
        (-0.1, 0.5, math.exp(-0.1) - math.exp(-0.6)),  # above 0 there is no probability
        (-3.0, 10.0, 1 - math.exp(-3)),
        (-800.0, 900.0, 1.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_an_exponential_is_off_by_its_worse_end(
    value: float, error: float, expected: float
) -> None:
    """Never above 1, however far off its logarithm may be."""
    check(EXACT.exp(within([value], error)), [math.exp(value)], [expected])


def test_a_relu_is_exact_where_its_input_is_certainly_negative() -> None:
    """Its gradient is in doubt where the sign is, and may then be either."""
    before = within([-2.0, -2.0, -2.0, 1.0, 0.0], [1.0, 2.0, 3.0, 0.5, 0.0])
    check(relu(before), [0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 3.0, 0.5, 0.0])

    before = within([2.0, -2.0, -0.5, 0.5, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    found = relu_backward(within([5.0] * 6, 1.0), before)
    check(found, [5.0, 0.0, 0.0, 5.0, 0.0, 5.0], [1.0, 0.0, 6.0, 6.0, 0.0, 6.0])


def test_bounded_numbers_are_taken_apart_and_put_in_shape_together() -> None:
    """The value beside its error; and a copy, which a step that moves the tensor leaves alone."""
    tensor = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    exact, found = Bounded.exact(tensor), within([[1.0, -2.0]], [[0.5, 0.25]])
    tensor.zero_()

    check(exact, [[1.0, -2.0]], [[0.0, 0.0]])
    check(found.reshape(2, 1), [[1.0], [-2.0]], [[0.5], [0.25]])
    check(found[0], [1.0, -2.0], [0.5, 0.25])
    assert found.largest.tolist() == [[1.5, 2.25]]


# ------------------------------------------------- what rounding adds


@pytest.mark.parametrize(
    ("dtype", "units"),
    [
        (torch.float64, (2**-53, 2**-53, 2**-1022)),
        (torch.float32, (2**-24, 2**-24, 2**-126)),
        (torch.bfloat16, (2**-8, 2**-24, 2**-126)),
        (torch.float16, (2**-11, 2**-24, 2**-24)),
    ],
)
def test_each_dtype_has_its_units(dtype: torch.dtype, units: tuple[float, float, float]) -> None:
    """Halves are summed in float32; what float64 itself loses is added to each."""
    rule = Arithmetic.of(dtype)
    unit, sum_unit, tiny = units

    assert rule.unit == unit + 2**-53
    assert rule.sum_unit == sum_unit + 2**-53
    assert (rule.product_unit, rule.tiny, rule.most) == (0, tiny, torch.finfo(dtype).max)
    assert Arithmetic.of(dtype, tf32=True).product_unit == 2**-10


def test_n_roundings_are_bounded_until_they_may_lose_everything() -> None:
    """That is n u / (1 - n u), and infinite from n u = 1 on."""
    assert gamma(torch.tensor([1, 2, 63, 64, 65]), 2**-6).tolist() == pytest.approx(
        [1 / 63, 1 / 31, 63, math.inf, math.inf]
    )


def test_a_number_that_may_be_too_large_cannot_be_held() -> None:
    """Of either sign, and in any of the results."""
    small = within([1.0], 0.0)

    assert COARSE.can_hold([small, within([99.0, -99.0], 0.5)])
    assert not COARSE.can_hold([small, within([99.0], 1.0)])
    assert not COARSE.can_hold([within([0.0, -99.0], 1.5), small])
    assert COARSE.can_hold([])


def test_to_store_a_number_loses_a_unit_of_it_and_what_underflows() -> None:
    """What is certainly zero loses nothing."""
    found = COARSE.stored(within([2.0, -2.0, 0.0, 0.0], [0.5, 0.0, 0.0, 1.0]))

    errors = [0.5 + 2.5 / 16 + 2**-10, 2 / 16 + 2**-10, 0.0, 1 + 1 / 16 + 2**-10]
    check(found, [2.0, -2.0, 0.0, 0.0], errors)


def test_each_operation_stores_its_result() -> None:
    """A scale rounds its factor as well."""
    a, b = within([2.0], 0.0), within([3.0], 0.0)

    check(COARSE.add(a, b), [5.0], [stored(5, 0)])
    check(COARSE.multiply(a, b), [6.0], [stored(6, 0)])
    check(COARSE.scale(a, -3), [-6.0], [stored(6, 6 / 64)])
    check(COARSE.divide(a, within([4.0], 0.0)), [0.5], [stored(0.5, 0)])
    check(COARSE.sqrt(within([4.0], 0.0)), [2.0], [stored(2, 0)])


def test_a_sum_is_rounded_as_often_as_it_has_terms() -> None:
    """Terms that are certainly zero are none; each of the others may underflow."""
    two, tiny = 1 / 31, 2**-10

    found = COARSE.total(within([[1.0, 2.0, 0.0], [0.0, 0.0, 0.5]], 0.0), 1)
    check(found, [3.0, 0.5], [stored(3, two * 3 + 2 * tiny), stored(0.5, 0.5 / 63 + tiny)])

    a, b = within([[1.0, 2.0, 0.0]], 0.0), within([[4.0], [0.0], [5.0]], 0.0)
    found = COARSE.matmul(a, b, within([3.0], 0.0))
    check(found, [[7.0]], [[stored(7, two * 7 + 2 * tiny)]])
    one = [[stored(4, 4 / 63 + tiny)]]
    check(COARSE.matmul(a, b), [[4.0]], one)
    check(COARSE.matmul(a, b, within([0.0], 0.0)), [[4.0]], one)
    small = within([[0.5]], 0.0)
    check(COARSE.matmul(small, small), [[0.25]], [[stored(0.25, 0.25 / 63 + tiny)]])
    found = COARSE.matmul(small, small, within([0.5], 0.0))
    check(found, [[0.75]], [[stored(0.75, two * 0.75 + 2 * tiny)]])


def test_factors_that_lose_digits_are_counted_twice_in_a_product_and_not_in_a_sum() -> None:
    """Both factors of TF32 are cut; terms are not."""
    cut = Arithmetic(unit=2**-4, sum_unit=2**-6, product_unit=2**-3, tiny=2**-10, most=100.0)
    lost, one = (9 / 8) ** 2 - 1, 1 / 63

    found = cut.matmul(within([[1.0]], 0.0), within([[4.0]], 0.0))

    check(found, [[4.0]], [[stored(4, 4 * (one * (1 + lost) + lost) + 2**-10)]])
    check(cut.total(within([[4.0]], 0.0), 1), [4.0], [stored(4, 4 * one + 2**-10)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spread", [0.0, 1.0, 50.0])
def test_functions_are_off_by_the_units_of_their_steps(dtype: torch.dtype, spread: float) -> None:
    """An exponential by 4; a logarithm of the softmax of two scores by those of each of its steps.

    They are 4 for the exponentials and 2 for their sum, 4 ln 2 for its logarithm, and what the
    shift by the largest score, the difference and storing the result lose.
    """
    rule = Arithmetic.of(dtype)

    logs = rule.log_softmax(within([[0.0, spread], [300.0, 300.0 + spread]], 0.0))
    exp = rule.exp(within([-spread], 0.0))

    steps = 4 + 2 + 5 * math.log(2) + torch.tensor([3 * spread, spread])
    for row, error in zip(logs.value, logs.error, strict=True):
        expected = (steps + row.abs()) * rule.unit
        torch.testing.assert_close(error, expected, rtol=1e-3, atol=0)
    assert 4 <= (exp.error - rule.tiny) / (rule.unit * exp.value) <= 5.01


@pytest.mark.parametrize(("far", "error"), [(0.0, [0.5, 0.5]), (20.0, [0.5, 1.0]), (20.0, [3, 0])])
@pytest.mark.parametrize("apart", [-1, 1])
def test_scores_in_doubt_are_rounded_as_any_that_they_may_be(
    far: float, error: list[float], apart: int
) -> None:
    """A logarithm of the softmax allows for each end of what its scores may be, with its rounding.

    The further the scores may be apart, the more digits their difference loses.
    """
    scores = within([[0.0, far]], error)
    moves = apart * torch.tensor([[-1.0, 1.0]], dtype=torch.float64) * scores.error

    found = COARSE.log_softmax(scores)
    end = COARSE.log_softmax(Bounded.exact(scores.value + moves))

    assert ((end.value - found.value).abs() + end.error <= found.error + 1e-12).all()


def test_the_rounding_of_a_row_depends_on_that_row_alone() -> None:
    """Scores that are in doubt or far apart leave what is allowed to the other rows as it is."""
    scores = within([[0.0, 1.0], [0.0, 50.0], [0.0, 1.0]], [[0.1, 0.2], [0.0, 0.0], [9.0, 0.0]])

    found = COARSE.log_softmax(scores)

    for row in (slice(0, 1), slice(1, 2), slice(2, 3)):
        alone = COARSE.log_softmax(scores[row])
        check(found[row], alone.value.tolist(), alone.error.tolist())


# ------------------------------------------------- a network, its gradients and its steps


def doubled(model: nn.Module) -> nn.Module:
    """Return the model in float64, each parameter above zero."""
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
    """Return the model and some images for it, above zero as its parameters are."""
    torch.manual_seed(0)
    return doubled(MODELS[name]()), torch.rand(SHAPES[name], dtype=torch.float64) + 0.01


@pytest.mark.parametrize("name", MODELS)
def test_without_rounding_the_reference_is_torchs_float64(name: str) -> None:
    """Logits, loss, probabilities and gradients, none of which is off by anything."""
    model, images = drawn(name)
    with torch.no_grad():
        for parameter in model.parameters():  # of both signs again
            parameter -= 0.3
    images -= 0.5
    layers, weights = layers_of(model), weights_of(model)
    logits = model(images)
    loss = F.cross_entropy(logits, LABELS)
    loss.backward()

    found = forward(EXACT, layers, weights, images)[-1]
    gradients = gradients_of(EXACT, layers, weights, images, LABELS)

    check(found, logits.tolist(), torch.zeros_like(logits).tolist())
    check(loss_of(EXACT, found, LABELS)[0], loss.item(), 0.0)
    check(softmax_of(EXACT, found), logits.softmax(1).tolist(), [[0.0, 0.0, 0.0]] * 3)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        zeros = torch.zeros_like(parameter).tolist()
        check(gradients[name], parameter.grad.tolist(), zeros)


@pytest.mark.parametrize("name", MODELS)
def test_where_nothing_cancels_the_bound_is_the_worst_case(name: str) -> None:
    """With all above zero, everything is largest where every weight and slope is."""
    model, images = drawn(name)
    layers, off = layers_of(model), 0.01
    weights = {
        n: Bounded(w.value, torch.full_like(w.value, off)) for n, w in weights_of(model).items()
    }
    highest = copy.deepcopy(model)
    for parameter in highest.parameters():
        parameter.data += off
    slope = within([[1.0, 2.0, 4.0], [0.5, 1.0, 2.0], [3.0, 0.25, 1.0]], 0.125)

    values = forward(EXACT, layers, weights, images)
    gradients = backward(EXACT, layers, weights, values, slope)

    low, high = model(images), highest(images)
    check(values[-1], low.tolist(), (high - low).tolist())
    low.backward(slope.value)
    high.backward(slope.value + slope.error)
    for (name, one), other in zip(model.named_parameters(), highest.parameters(), strict=True):
        check(gradients[name], one.grad.tolist(), (other.grad - one.grad).tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_loss_of_equal_scores_is_off_by_a_few_units(dtype: torch.dtype) -> None:
    """One for each logarithm, one for each term of the sum and a few for the mean, no more."""
    rule = Arithmetic.of(dtype)

    loss, slope = loss_of(rule, within([[0.0, 0.0]] * 4, 0.0), torch.tensor([0, 1, 1, 0]))

    units = 24 if dtype == torch.float32 else 9
    assert 5 * rule.unit * math.log(2) <= loss.error <= units * rule.unit * math.log(2)
    assert ((slope.value.abs() - 1 / 8).abs() <= 1e-12).all()
    assert (slope.error >= 2 * rule.unit / 8).all()
    assert (slope.error <= (30 if dtype == torch.float32 else 3.1) * rule.unit / 8).all()


def test_the_slope_of_a_score_allows_for_each_of_its_roundings() -> None:
    """A probability at either end of its bound, less 1 at the label, and divided by the examples.

    The difference, the share that each example has in the mean, and the product are rounded.
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
def test_without_rounding_each_step_is_torchs_float64(name: str) -> None:
    """The parameter, and what is remembered of it, over four steps."""
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
def test_a_step_is_off_by_what_its_gradient_may_be_off(
    name: str, steps_before: int, slope: float, error: float
) -> None:
    """No gradient in its range leads further than the bound.

    Some of SGD's lead as far. Adam divides by a root that moves with the gradient, which the bound
    does not know; but no step of it is much longer than the learning rate, and the first is no
    longer.
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


def test_a_step_of_adam_may_be_longer_than_its_rate_by_its_roundings() -> None:
    """Where the sign of a gradient is in doubt, the step may lead the other way, and a bit further.

    Each rounding goes the way that makes it longer: in the mean up, and in the root down.
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
def test_adam_divides_by_no_less_than_eps_is_stored_as(eps: float) -> None:
    """So far may a step lead where the root may be zero: any distance if eps may underflow."""
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
def test_a_step_that_is_not_written_out_is_named(
    optimizer: Callable[[Sequence[Tensor]], Optimizer], what: str
) -> None:
    """Neither another optimizer nor another option is taken for a known one."""
    exact = within([1.0], 0.0)

    with pytest.raises(TypeError, match=f"^no error bound is known for a step of {what}$"):
        step_of(EXACT, optimizer([nn.Parameter(torch.ones(1))]), {}, exact, exact)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rounding_of_a_step_is_a_few_units(name: str) -> None:
    """Of the parameter, and of what is remembered."""
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
