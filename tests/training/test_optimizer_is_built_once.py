"""An optimizer is built once, before the loop; a loss can be built anywhere.

>>> one, other = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(10.0))
>>> one.grad, other.grad = torch.tensor(1.0), torch.tensor(1.0)
>>> built_once = torch.optim.SGD([one], lr=1.0, momentum=0.5)
>>> for step in range(3):
...     built_once.step()
...     torch.optim.SGD([other], lr=1.0, momentum=0.5).step()
>>> one.item(), other.item()
(5.75, 7.0)

Notes: In each iteration define the loss and the optimizer, then go forward, back and step.
Verdict: holds-if
Truth: It holds for the loss, which keeps nothing from one step to the next, and for SGD without
    momentum. Momentum and Adam keep running means in the optimizer: built anew, it forgets them,
    and Adam then moves every parameter by lr, whatever the size of its gradient. Build the
    optimizer once, before the loop. A new optimizer does not zero the gradients either.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from dlconcepts.strategies import Problem, problems, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.training.common import assert_close, float64

Build = Callable[[list[nn.Parameter]], Optimizer]


def builds_once(build: Build, parameter: nn.Parameter, slopes: Sequence[Tensor]) -> None:
    """Build the optimizer before the loop."""
    optimizer = build([parameter])
    for slope in slopes:
        parameter.grad = slope.clone()
        optimizer.step()


def builds_in_each_iteration(
    build: Build, parameter: nn.Parameter, slopes: Sequence[Tensor]
) -> None:
    """Build a new optimizer for each step, so it forgets the gradients before."""
    for slope in slopes:
        builds_once(build, parameter, [slope])


def clears_the_state(build: Build, parameter: nn.Parameter, slopes: Sequence[Tensor]) -> None:
    """Keep the optimizer, but clear its state before each step."""
    optimizer = build([parameter])
    for slope in slopes:
        optimizer.state.clear()
        parameter.grad = slope.clone()
        optimizer.step()


def momentum(parameters: list[nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=0.5, momentum=0.9)


def adam(parameters: list[nn.Parameter]) -> Optimizer:
    return Adam(parameters, lr=0.5)


def momentum_formula(start: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    velocity = torch.zeros_like(start)
    for slope in slopes:
        velocity = 0.9 * velocity + slope
        start = start - 0.5 * velocity
    return start


def adam_formula(start: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    # Algorithm 1 of Kingma and Ba, "Adam", 2015.
    mean, square = torch.zeros_like(start), torch.zeros_like(start)
    for t, slope in enumerate(slopes, start=1):
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        root = (square / (1 - 0.999**t)).sqrt()
        start = start - 0.5 * mean / (1 - 0.9**t) / (root + 1e-8)
    return start


FORMULAS = {momentum: momentum_formula, adam: adam_formula}
rows = tensors((3,), float64, max_magnitude=9.0)
runs = st.lists(rows, min_size=2, max_size=4)


@law(
    right=builds_once,
    wrong={
        builds_in_each_iteration: "remembers the gradients before",
        clears_the_state: "remembers the gradients before",
    },
)
@given(build=st.sampled_from(list(FORMULAS)), start=rows, slopes=runs)
def test_an_optimizer_remembers_the_gradients_before(
    run: Callable[..., None], build: Build, start: Tensor, slopes: list[Tensor]
) -> None:
    """The steps of momentum and Adam follow recurrences over all gradients of the run."""
    parameter = nn.Parameter(start.clone())

    run(build, parameter, slopes)

    # Adam divides by |g| + 1e-8, and so magnifies rounding where a gradient is tiny.
    message, expected = (
        "the optimizer remembers the gradients before",
        FORMULAS[build](start, slopes),
    )
    assert_close(parameter, expected, message, rtol=1e-6)


@law(right=builds_in_each_iteration, wrong={builds_once: "moves every parameter by lr"})
@given(start=rows, slopes=runs)
def test_adam_built_anew_ignores_the_size_of_the_gradient(
    run: Callable[..., None], start: Tensor, slopes: list[Tensor]
) -> None:
    """The first step of Adam moves a parameter by lr, and every step is then a first one."""
    # Far above Adam's eps of 1e-8; a gradient of zero moves nothing.
    slopes = [slope.where(slope.abs() > 1e-2, 1.0) for slope in slopes]
    parameter = nn.Parameter(start.clone())

    run(adam, parameter, slopes)

    expected = start - 0.5 * torch.stack(slopes).sign().sum(0)
    # Adam's eps shortens each step by up to a 1e6th part.
    close = torch.allclose(parameter, expected, rtol=0, atol=1e-5)
    assert close, "Adam built anew moves every parameter by lr"


def builds_all_anew(model: nn.Module, problem: Problem, steps: int) -> None:
    """Build the loss and plain SGD in each iteration."""
    for _ in range(steps):
        criterion, optimizer = nn.CrossEntropyLoss(), SGD(model.parameters(), lr=0.5)
        optimizer.zero_grad()
        criterion(model(problem.inputs), problem.labels).backward()
        optimizer.step()


def copies_the_model_too(model: nn.Module, problem: Problem, steps: int) -> None:
    """Copy the model in each iteration, so that the copies learn and are lost."""
    for _ in range(steps):
        builds_all_anew(copy.deepcopy(model), problem, 1)


def takes_the_gradients_for_new(model: nn.Module, problem: Problem, steps: int) -> None:
    """Skip zero_grad, as if a new optimizer started without gradients."""
    for _ in range(steps):
        optimizer = SGD(model.parameters(), lr=0.5)
        nn.CrossEntropyLoss()(model(problem.inputs), problem.labels).backward()
        optimizer.step()


@law(
    right=builds_all_anew,
    wrong={
        copies_the_model_too: "keep nothing",
        takes_the_gradients_for_new: "keep nothing",
    },
)
@given(problem=problems(dtype=float64), steps=st.integers(2, 3))
def test_a_loss_and_plain_sgd_keep_nothing(
    train: Callable[..., None], problem: Problem, steps: int
) -> None:
    """Built in each iteration or once, they give the same weights, bit for bit."""
    twin = copy.deepcopy(problem.model)
    optimizer = SGD(twin.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss_fn(twin(problem.inputs), problem.labels).backward()
        optimizer.step()

    train(problem.model, problem, steps)

    found, expected = ([bits(p) for p in m.parameters()] for m in (problem.model, twin))
    assert found == expected, "a loss and plain SGD keep nothing from one step to the next"
