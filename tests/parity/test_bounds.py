"""The bounds of single operations hold, and are no wider than they must be.

A bound that is too narrow blames a device for rounding; one that is too wide hides faults. So each
operation is tested where its worst case is known: in an arithmetic without rounding, at corners
where no terms cancel, and with unit roundoffs so large that they can be added up by hand.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from dlconcepts.parity.bounds import Arithmetic, Bounded, gamma, relu, relu_backward, ulp
from tests.parity.common import COARSE, EXACT, check, stored, within

# ------------------------------------------------- how errors propagate


def test_the_error_of_a_sum_is_the_sum_of_the_errors() -> None:
    """It makes no difference how many terms there are, or whether they are products."""
    a, b = within([2.0], 0.25), within([-3.0], 0.5)

    check(EXACT.add(a, b), [-1.0], [0.75])
    check(EXACT.total(within([[1.0, -2.0]], [[0.5, 0.25]]), 1), [-1.0], [0.75])
    product = within([[2.0, -1.0]], [[0.5, 0.0]]), within([[3.0], [4.0]], [[0.25], [1.0]])
    check(EXACT.matmul(*product), [[2.0]], [[3.125]])
    check(EXACT.matmul(*product, within([1.0], 0.5)), [[3.0]], [[3.625]])


def test_the_error_of_a_product_or_a_quotient_is_that_of_the_worst_corner() -> None:
    """It is 2.25 * -3.5 and 2.25 / 3; a divisor that may be zero has no bound."""
    a = within([2.0], 0.25)

    check(EXACT.multiply(a, within([-3.0], 0.5)), [-6.0], [1.875])
    check(EXACT.scale(a, -3), [-6.0], [0.75])
    check(EXACT.divide(a, within([4.0], 1.0)), [0.5], [0.25])
    check(COARSE.divide(a, within([1.0], 1.0)), [2.0], [math.inf])
    check(COARSE.divide(within([0.0], 0.0), within([1.0], 1.0)), [0.0], [math.inf])
    check(EXACT.divide(a, within([1.0], 2.0), least=0.5), [2.0], [8.5])


def test_the_error_of_a_root_is_largest_at_the_lower_end() -> None:
    """sqrt(4 - 3) is 1; if the value may be zero, the error is the root of its error."""
    check(EXACT.sqrt(within([4.0, 0.0], [3.0, 0.25])), [2.0, 0.0], [1.0, 0.5])


def test_the_error_of_a_log_softmax_is_its_own_and_the_largest_of_its_row() -> None:
    """The rows do not affect one another."""
    found = EXACT.log_softmax(within([[0.0, 1.0], [0.0, 0.0]], [[0.1, 0.3], [0.0, 0.2]]))

    expected = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64).log_softmax(1)
    check(found, expected.tolist(), [[0.4, 0.6], [0.2, 0.4]])


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (-1.0, 0.5, math.exp(-0.5) - math.exp(-1)),
        (-0.1, 0.5, math.exp(-0.1) - math.exp(-0.6)),  # a probability is at most exp(0)
        (-3.0, 10.0, 1 - math.exp(-3)),
        (-800.0, 900.0, 1.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_the_error_of_an_exponential_is_that_of_its_worse_end(
    value: float, error: float, expected: float
) -> None:
    """The result is at most 1, whatever the error of the logarithm."""
    check(EXACT.exp(within([value], error)), [math.exp(value)], [expected])


def test_a_relu_is_exact_where_its_input_is_certainly_negative() -> None:
    """Where the sign of the input is in doubt, the gradient may be the slope or zero."""
    before = within([-2.0, -2.0, -2.0, 1.0, 0.0], [1.0, 2.0, 3.0, 0.5, 0.0])
    check(relu(before), [0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 3.0, 0.5, 0.0])

    before = within([2.0, -2.0, -0.5, 0.5, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    found = relu_backward(within([5.0] * 6, 1.0), before)
    check(found, [5.0, 0.0, 0.0, 5.0, 0.0, 5.0], [1.0, 0.0, 6.0, 6.0, 0.0, 6.0])


def test_value_and_error_are_indexed_and_reshaped_together() -> None:
    """Bounded.exact copies, so a later step of the tensor does not change it."""
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
    """Half precision is summed in float32; each unit includes the roundoff of float64."""
    rule = Arithmetic.of(dtype)
    unit, sum_unit, tiny = units

    assert rule.unit == unit + 2**-53
    assert rule.sum_unit == sum_unit + 2**-53
    assert (rule.product_unit, rule.tiny, rule.most) == (0, tiny, torch.finfo(dtype).max)
    assert Arithmetic.of(dtype, tf32=True).product_unit == 2**-10


def test_gamma_is_infinite_if_n_u_is_at_least_1() -> None:
    """Below that it is n u / (1 - n u)."""
    assert gamma(torch.tensor([1, 2, 63, 64, 65]), 2**-6).tolist() == pytest.approx(
        [1 / 63, 1 / 31, 63, math.inf, math.inf]
    )


def test_a_result_that_may_overflow_cannot_be_held() -> None:
    """Both signs and all results count."""
    small = within([1.0], 0.0)

    assert COARSE.can_hold([small, within([99.0, -99.0], 0.5)])
    assert not COARSE.can_hold([small, within([99.0], 1.0)])
    assert not COARSE.can_hold([within([0.0, -99.0], 1.5), small])
    assert COARSE.can_hold([])


def test_storing_a_number_costs_a_roundoff_and_an_underflow() -> None:
    """A number that is certainly zero stays exact."""
    found = COARSE.stored(within([2.0, -2.0, 0.0, 0.0], [0.5, 0.0, 0.0, 1.0]))

    errors = [0.5 + 2.5 / 16 + 2**-10, 2 / 16 + 2**-10, 0.0, 1 + 1 / 16 + 2**-10]
    check(found, [2.0, -2.0, 0.0, 0.0], errors)


def test_each_operation_stores_its_result() -> None:
    """`scale` also rounds its factor."""
    a, b = within([2.0], 0.0), within([3.0], 0.0)

    check(COARSE.add(a, b), [5.0], [stored(5, 0)])
    check(COARSE.multiply(a, b), [6.0], [stored(6, 0)])
    check(COARSE.scale(a, -3), [-6.0], [stored(6, 6 / 64)])
    check(COARSE.divide(a, within([4.0], 0.0)), [0.5], [stored(0.5, 0)])
    check(COARSE.sqrt(within([4.0], 0.0)), [2.0], [stored(2, 0)])


def test_a_sum_is_rounded_once_for_each_term() -> None:
    """Terms that are certainly zero do not count; each other term may underflow."""
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


def test_tf32_rounds_both_factors_of_a_product_and_no_term_of_a_sum() -> None:
    """The unit roundoff of the factors counts twice in a product."""
    cut = Arithmetic(unit=2**-4, sum_unit=2**-6, product_unit=2**-3, tiny=2**-10, most=100.0)
    lost, one = (9 / 8) ** 2 - 1, 1 / 63

    found = cut.matmul(within([[1.0]], 0.0), within([[4.0]], 0.0))

    check(found, [[4.0]], [[stored(4, 4 * (one * (1 + lost) + lost) + 2**-10)]])
    check(cut.total(within([[4.0]], 0.0), 1), [4.0], [stored(4, 4 * one + 2**-10)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spread", [0.0, 1.0, 50.0])
def test_the_error_of_a_function_is_that_of_its_steps(dtype: torch.dtype, spread: float) -> None:
    """An exponential costs 4 roundoffs; a log-softmax of two scores costs those of its steps.

    These are 4 for the exponentials, 2 for their sum, 4 ln 2 for its logarithm, and the roundoffs
    of the shift by the largest score, of the difference, and of storing the result.
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
def test_the_bound_of_a_log_softmax_covers_all_scores_within_their_errors(
    far: float, error: list[float], apart: int
) -> None:
    """The bound at one score covers the result and the rounding at each end of its range.

    The further apart the scores may be, the more digits their difference loses.
    """
    scores = within([[0.0, far]], error)
    moves = apart * torch.tensor([[-1.0, 1.0]], dtype=torch.float64) * scores.error

    found = COARSE.log_softmax(scores)
    end = COARSE.log_softmax(Bounded.exact(scores.value + moves))

    assert ((end.value - found.value).abs() + end.error <= found.error + 1e-12).all()


def test_the_rounding_of_a_row_depends_on_that_row_alone() -> None:
    """Uncertain or distant scores do not change the bounds of other rows."""
    scores = within([[0.0, 1.0], [0.0, 50.0], [0.0, 1.0]], [[0.1, 0.2], [0.0, 0.0], [9.0, 0.0]])

    found = COARSE.log_softmax(scores)

    for row in (slice(0, 1), slice(1, 2), slice(2, 3)):
        alone = COARSE.log_softmax(scores[row])
        check(found[row], alone.value.tolist(), alone.error.tolist())


def test_a_convolution_of_any_shape_keeps_its_bound() -> None:
    """The images and the kernel need not be square."""
    draw = torch.Generator().manual_seed(0)
    sizes = (2, 3, 5, 7), (4, 3, 2, 3), (4,)
    images, weight, bias = (torch.randn(size, generator=draw) for size in sizes)
    rule = Arithmetic.of(torch.float32)

    bound = rule.convolve(*(Bounded.exact(tensor) for tensor in (images, weight, bias)))

    exact = F.conv2d(images.double(), weight.double(), bias.double())
    torch.testing.assert_close(bound.value, exact)
    assert ((F.conv2d(images, weight, bias) - exact).abs() <= bound.error).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_an_ulp_is_the_distance_to_the_next_number_of_the_dtype(dtype: torch.dtype) -> None:
    """It has the dtype of its value, and goes away from zero."""
    values = torch.tensor([1.0, -2.0, 3.0, 0.25, -1000.0], dtype=dtype)

    units = ulp(values)

    assert units.dtype == dtype
    infinite = torch.full_like(values, math.inf).copysign(values)
    assert (values + units.copysign(values)).equal(torch.nextafter(values, infinite))
