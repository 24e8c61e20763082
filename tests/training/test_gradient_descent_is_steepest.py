"""The steepest direction is only local: a step that is too long raises the loss.

>>> from dlconcepts.training import gradient_descent
>>> parabola = lambda x: x**2 / 2
>>> gradient_descent(parabola, torch.tensor(8.0), lr=0.5, steps=3)
tensor([8., 4., 2., 1.])
>>> gradient_descent(parabola, torch.tensor(8.0), lr=3.0, steps=3)
tensor([  8., -16.,  32., -64.])

Notes: Gradient descent always goes in the direction of fastest change, and that is why it finds
    the minimum quickly.
Verdict: corrected
Truth: The negative gradient is the direction of steepest descent at that point, and a small enough
    step lowers the loss. On a quadratic with largest curvature L every step with lr < 2/L lowers
    the loss, and a step with lr > 2/L raises it along the direction of largest curvature. At the
    best rate for condition number k, it zigzags across the steep direction and comes closer by only
    (k - 1) / (k + 1) in each step. It finds a local minimum at best.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.autograd import gradient
from dlconcepts.strategies import tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from dlconcepts.training import descent_direction, gradient_descent
from tests.training.common import assert_close, float64

Function = Callable[[Tensor], Tensor]


def steps_up(function: Function, x: Tensor) -> Tensor:
    """Forget the minus sign."""
    return -descent_direction(function, x)


def along_one_coordinate(function: Function, x: Tensor) -> Tensor:
    """Step along the coordinates with the largest slope, by their signs."""
    slope = gradient(function, x)
    largest = slope.abs() == slope.abs().max()
    return -slope.sign() * largest / largest.double().sum().sqrt()


def along_all_signs(function: Function, x: Tensor) -> Tensor:
    """Use only the sign of each coordinate of the gradient, not its size."""
    signs = gradient(function, x).sign()
    return -signs / signs.norm()


def normalizes_each_row(function: Function, x: Tensor) -> Tensor:
    """Divide each row of a matrix by its own length."""
    return -F.normalize(gradient(function, x), dim=-1)


def as_long_as_the_gradient(function: Function, x: Tensor) -> Tensor:
    """Forget to normalize: a long step falls further, but not faster."""
    return -gradient(function, x)


@law(
    right=descent_direction,
    wrong={
        steps_up: "falls faster",
        along_one_coordinate: "falls faster",
        along_all_signs: "falls faster",
        normalizes_each_row: "one unit long",
        as_long_as_the_gradient: "one unit long",
    },
)
@given(
    pair=st.sampled_from([(3,), (2, 3), (2, 1, 2)]).flatmap(
        lambda shape: st.tuples(*[tensors(shape, float64, max_magnitude=9.0)] * 2)
    )
)
def test_no_direction_falls_faster_than_against_the_gradient(
    direction: Callable[[Function, Tensor], Tensor], pair: tuple[Tensor, Tensor]
) -> None:
    """Of all unit vectors, the negative gradient has the smallest directional derivative."""
    slope, other = pair
    # Without a gradient there is no direction; a tiny vector cannot be normalized accurately.
    assume(bool(slope.norm() > 1e-6) and bool(other.norm() > 1e-6))
    before = bits(slope)

    # The cubic term vanishes at zero, where the gradient is `slope`, but not a step away from it.
    found = direction(lambda x: (slope * x).sum() + (x**3).sum(), torch.zeros_like(slope))

    length = np.linalg.norm(found.numpy(force=True))
    assert abs(length - 1) < 1e-9, "a direction is one unit long"
    rounding = 1e-9 * float(slope.norm())  # a million times what float64 needs
    for unit in (other / other.norm(), -slope / slope.norm()):
        assert float((slope * found).sum()) <= float((slope * unit).sum()) + rounding, (
            "no other direction falls faster"
        )
    assert bits(slope) == before, "the function is unchanged"


def divides_by_zero(function: Function, x: Tensor) -> Tensor:
    """Divide by the gradient's length, which gives NaN if it is zero."""
    slope = gradient(function, x)
    return -slope / slope.norm()


def stays(function: Function, x: Tensor) -> Tensor:
    """Return zeros, which are no direction, if the gradient is zero."""
    slope = gradient(function, x)
    return -F.normalize(slope, dim=0)


@law(right=descent_direction, wrong={divides_by_zero: "DID NOT RAISE", stays: "DID NOT RAISE"})
@given(x=tensors((3,), float64, max_magnitude=9.0), curvatures=tensors((3,), max_magnitude=9.0))
def test_no_direction_is_steepest_if_the_gradient_is_zero(
    direction: Callable[[Function, Tensor], Tensor], x: Tensor, curvatures: Tensor
) -> None:
    """At a minimum, a maximum or a saddle no direction falls fastest."""
    with pytest.raises(ValueError, match="the gradient is zero, so no direction is steepest"):
        direction(lambda y: (curvatures * (y - x) ** 2).sum(), x)


def forgets_the_half(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Forget the factor 1/2: use 2x as the derivative of x**2 / 2."""
    return gradient_descent(lambda x: 2 * function(x), start, lr=lr, steps=steps)


def climbs(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Add the gradient."""
    return gradient_descent(function, start, lr=-lr, steps=steps)


def takes_steps_of_one_length(
    function: Function, start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Move by lr in the steepest direction, however close the minimum is."""
    points = [start]
    for _ in range(steps):
        slope = gradient(function, points[-1])
        points.append(points[-1] - lr * F.normalize(slope, dim=0))
    return torch.stack(points)


@st.composite
def bowls(draw: st.DrawFn) -> tuple[Tensor, float]:
    """Draw a symmetric matrix with eigenvalues from 1 to 1000, and the largest of them."""
    sizes = st.integers(1, 9) | st.sampled_from([100, 1000])
    eigenvalues = [float(draw(sizes)) for _ in range(2)]
    angle = math.radians(draw(st.integers(0, 90)))
    rows = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    rotation = torch.tensor(rows, dtype=float64)
    return rotation @ torch.tensor(eigenvalues, dtype=float64).diag() @ rotation.T, max(eigenvalues)


@law(
    right=gradient_descent,
    wrong={
        forgets_the_half: "below 2/L lowers the loss",
        climbs: "below 2/L lowers the loss",
        takes_steps_of_one_length: "below 2/L lowers the loss",
    },
)
@given(
    bowl=bowls(),
    start=tensors((2,), float64, max_magnitude=9.0),
    length=st.sampled_from([0.25, 0.5, 1.0, 1.5, 1.75]),  # lr * L
)
def test_a_short_step_lowers_the_loss(
    descend: Callable[..., Tensor], bowl: tuple[Tensor, float], start: Tensor, length: float
) -> None:
    """On x'Ax / 2 with largest curvature L, each step with lr below 2/L lowers the loss."""
    matrix, curvature = bowl

    points = descend(lambda x: x @ matrix @ x / 2, start, lr=length / curvature, steps=4)

    losses = [float(x @ matrix @ x / 2) for x in points]
    for before, after in itertools.pairwise(losses):
        # At the minimum there is nothing left to lower but rounding errors.
        assert after < before or before < 1e-12, "a step with lr below 2/L lowers the loss"


def shortens_the_step(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Halve the step until the loss falls, and so ignore the learning rate."""
    points = [start]
    for _ in range(steps):
        slope, rate = gradient(function, points[-1]), lr
        while function(points[-1] - rate * slope) > function(points[-1]):
            rate /= 2
        points.append(points[-1] - rate * slope)
    return torch.stack(points)


@law(
    right=gradient_descent,
    wrong={shortens_the_step: "above 2/L raises the loss", climbs: "to the other side"},
)
@given(
    curvature=st.integers(1, 9),
    start=st.integers(1, 9),
    length=st.sampled_from([2.25, 3, 4]),  # lr * L
)
def test_a_long_step_raises_the_loss_and_zigzags(
    descend: Callable[..., Tensor], curvature: int, start: int, length: float
) -> None:
    """On L x**2 / 2 each step multiplies x by 1 - lr * L, which is below -1 if lr is above 2/L."""
    x = torch.tensor([float(start)], dtype=float64)

    points = descend(
        lambda x: (curvature * x**2 / 2).sum(), x, lr=length / curvature, steps=3
    ).flatten()

    for before, after in itertools.pairwise(points.tolist()):
        assert before * after < 0, "a step with lr above 1/L leads to the other side"
        assert after**2 > before**2, "a step with lr above 2/L raises the loss"
    expected = start * (1.0 - length) ** np.arange(4)
    assert_close(points, expected, "each step multiplies by 1 - lr * L")


def stops_there(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Stop where the gradient is zero, and return fewer points."""
    points = [start]
    while len(points) <= steps and gradient(function, points[-1]).any():
        points.append(points[-1] - lr * gradient(function, points[-1]))
    return torch.stack(points)


def divides_by_the_length(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Divide by the gradient's length, which gives NaN if it is zero."""
    points = [start]
    for _ in range(steps):
        slope = gradient(function, points[-1])
        points.append(points[-1] - lr * slope / slope.norm())
    return torch.stack(points)


@law(
    right=gradient_descent,
    wrong={stops_there: "steps + 1 points", divides_by_the_length: "stays where the gradient is"},
)
@given(
    x=tensors((3,), float64, max_magnitude=9.0),
    curvatures=tensors((3,), max_magnitude=9.0),
    steps=st.integers(1, 4),
)
def test_descent_stays_where_the_gradient_is_zero(
    descend: Callable[..., Tensor], x: Tensor, curvatures: Tensor, steps: int
) -> None:
    """At a minimum, a maximum or a saddle each step leads to the same point again."""
    points = descend(lambda y: (curvatures * (y - x) ** 2).sum(), x, lr=0.5, steps=steps)

    assert len(points) == steps + 1, "the start and each step make steps + 1 points"
    assert points.tolist() == [x.tolist()] * (steps + 1), "descent stays where the gradient is zero"


def adds_momentum(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Add half of the step before, as momentum does."""
    points, velocity = [start], torch.zeros_like(start)
    for _ in range(steps):
        velocity = velocity / 2 + gradient(function, points[-1])
        points.append(points[-1] - lr * velocity)
    return torch.stack(points)


def divides_by_the_curvature(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Take Newton's steps, which need no second one on a quadratic."""
    hessian = torch.autograd.functional.hessian(function, start)
    minimum = start - torch.linalg.solve(hessian, gradient(function, start))
    return torch.stack([start] + [minimum] * steps)


@law(
    right=gradient_descent,
    wrong={
        adds_momentum: "comes closer by",
        divides_by_the_curvature: "comes closer by",
        climbs: "comes closer by",
    },
)
@given(
    condition=st.sampled_from([2, 10, 100, 1000, 10_000]),
    angle=st.integers(0, 90),
    start=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_descent_zigzags_slowly_if_the_curvatures_differ(
    descend: Callable[..., Tensor], condition: int, angle: int, start: tuple[int, int]
) -> None:
    """With curvatures 1 and k, each step at the best rate leaves (k - 1) / (k + 1) of the way."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    axes = torch.tensor([[cos, -sin], [sin, cos]], dtype=float64)
    curvatures = torch.tensor([1.0, float(condition)], dtype=float64)
    along = torch.tensor(start, dtype=float64)

    # The best rate is 2 / (smallest + largest curvature): both directions then shrink alike.
    points = descend(
        lambda x: (curvatures * (axes.T @ x) ** 2).sum() / 2,
        axes @ along,
        lr=2 / (1 + condition),
        steps=20,
    )

    shrink = (condition - 1) / (condition + 1)
    factors = shrink ** np.arange(21)[:, None] * np.array([[1, 1], [1, -1]])[np.arange(21) % 2]
    # Rounding in the steep direction, of a 1e16th part, is multiplied by the condition number.
    message = f"each step comes closer by {shrink:.4f} and crosses the steep direction"
    assert_close(points @ axes, factors * along.numpy(force=True), message, rtol=1e-8)


def tries_another_start(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Start on the other side too, and return the run that ends lower."""
    runs = [gradient_descent(function, x, lr=lr, steps=steps) for x in (start, -start)]
    return min(runs, key=lambda points: float(function(points[-1])))


@law(right=gradient_descent, wrong={tries_another_start: "the valley it starts in"})
@given(start=st.integers(70, 150), tilt=st.integers(1, 30))
def test_descent_ends_in_the_valley_it_starts_in(
    descend: Callable[..., Tensor], start: int, tilt: int
) -> None:
    """Of two valleys, descent finds the one it starts in, though the other is deeper."""

    def loss(x: Tensor) -> Tensor:
        # Two valleys, near -1 and near 1; the tilt makes the left one deeper.
        return (x**4 / 4 - x**2 / 2 + tilt / 100 * x).sum()

    # Every start is right of the ridge, and lr 0.3 never jumps over it; 60 steps converge.
    points = descend(loss, torch.tensor([start / 100], dtype=float64), lr=0.3, steps=60)

    assert bool((points > 0).all()), "descent stays in the valley it starts in"
    assert abs(float(gradient(loss, points[-1]))) < 1e-3, "descent ends where the slope is zero"
    assert float(loss(-points[-1])) < float(loss(points[-1])), "the other valley is deeper"
