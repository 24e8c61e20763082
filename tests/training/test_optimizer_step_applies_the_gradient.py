"""A step moves the parameters that the optimizer was given, and no others.

>>> weight, bias = nn.Parameter(torch.tensor(5.0)), nn.Parameter(torch.tensor(7.0))
>>> sgd = torch.optim.SGD([weight], lr=0.5)
>>> (2 * weight + 4 * bias).backward()
>>> sgd.step()
>>> weight.item(), bias.item()
(4.0, 7.0)

Notes: optimizer.step() applies the gradients to the weights and biases.
Verdict: holds
Truth: SGD moves w to w - lr * g; with momentum, weight decay and Adam, w follows their published
    recurrences. Only parameters that the optimizer was given and that have a gradient move; inputs
    and labels do not.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dlconcepts.strategies import Problem, problems, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from dlconcepts.training import train_step
from tests.training.common import Array, assert_close, float64

Parameters = list[nn.Parameter]
Run = tuple[list[Tensor], list[list[Tensor]]]  # values, and their gradients in each step


@st.composite
def runs_of_gradients(draw: st.DrawFn) -> Run:
    """Draw the values of a weight and a bias, and gradients for one to three steps."""
    both = [tensors(shape, float64, max_magnitude=9.0) for shape in ((2, 2), (2,))]
    values = [draw(strategy) for strategy in both]
    # Momentum shows from the second step on, and its recurrence from the third.
    steps = draw(st.integers(1, 3))
    return values, [[draw(strategy) for strategy in both] for _ in range(steps)]


def assert_formula(
    make_optimizer: Callable[..., Optimizer],
    formula: Callable[..., Array],
    run: Run,
    settings: dict[str, Any],
    message: str,
) -> None:
    """Assert that optimizer and formula move each value to the same place."""
    values, gradients = run
    parameters = [nn.Parameter(value.clone()) for value in values]
    optimizer = make_optimizer(parameters, **settings)
    for step in gradients:
        for parameter, slope in zip(parameters, step, strict=True):
            parameter.grad = slope.clone()
        optimizer.step()
    for position, parameter in enumerate(parameters):
        slopes = [step[position].numpy(force=True) for step in gradients]
        expected = formula(values[position].numpy(force=True), slopes, **settings)
        assert_close(parameter, expected, message)


def skips_the_biases(parameters: Parameters, **settings: Any) -> Optimizer:
    """Give the optimizer only the matrices."""
    return SGD([p for p in parameters if p.ndim > 1], **settings)


def forgets_weight_decay(parameters: Parameters, **settings: Any) -> Optimizer:
    """Ignore the weight decay."""
    return SGD(parameters, **{**settings, "weight_decay": 0})


class DampedSGD(SGD):
    """Average the gradients: damp each by 1 - momentum."""

    def __init__(self, parameters: Parameters, **settings: Any) -> None:
        # PyTorch refuses dampening together with Nesterov momentum.
        dampening = 0 if settings["nesterov"] else settings["momentum"]
        super().__init__(parameters, **settings, dampening=dampening)


def sgd_formula(
    weight: Array,
    slopes: Sequence[Array],
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> Array:
    # PyTorch's documentation of SGD, in float64.
    velocity: Array | None = None
    for slope in slopes:
        slope = slope + weight_decay * weight
        # The first velocity is the gradient itself, not (1 - momentum) times it as in a mean.
        velocity = slope if velocity is None else momentum * velocity + slope
        weight = weight - lr * (slope + momentum * velocity if nesterov else velocity)
    return weight


@law(
    right=SGD,
    wrong={
        skips_the_biases: "recurrence of SGD",
        forgets_weight_decay: "recurrence of SGD",
        DampedSGD: "recurrence of SGD",
    },
)
@given(
    run=runs_of_gradients(),
    lr=st.sampled_from([1.0, 0.1]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.25]),
    nesterov=st.booleans(),
)
def test_sgd_follows_its_recurrence(
    make_optimizer: Callable[..., Optimizer], run: Run, **settings: Any
) -> None:
    """SGD moves w to w - lr * g; momentum and weight decay follow their recurrences."""
    # PyTorch refuses Nesterov momentum without momentum.
    settings["nesterov"] = settings["nesterov"] and settings["momentum"] > 0

    message = "a step follows the recurrence of SGD"
    assert_formula(make_optimizer, sgd_formula, run, settings, message)


def adam_formula(
    weight: Array,
    slopes: Sequence[Array],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Array:
    # Algorithm 1 of Kingma and Ba, "Adam", 2015, in float64.
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for step, slope in enumerate(slopes, start=1):
        slope = slope + weight_decay * weight
        mean = betas[0] * mean + (1 - betas[0]) * slope
        square = betas[1] * square + (1 - betas[1]) * slope**2
        unbiased_mean = mean / (1 - betas[0] ** step)
        unbiased_square = square / (1 - betas[1] ** step)
        weight = weight - lr * unbiased_mean / (np.sqrt(unbiased_square) + eps)
    return weight


class UncorrectedAdam(Adam):
    """Skip the bias correction of the running means, which start at zero."""

    def step(self, closure: Any = None) -> None:
        # After a million steps the corrections are 1, so pretend that there were that many.
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] = torch.tensor(1e6, device="cpu")
        super().step(closure)


def eps_too_large(parameters: Parameters, **settings: Any) -> Optimizer:
    """Use the square root of eps instead of eps."""
    return Adam(parameters, **{**settings, "eps": settings["eps"] ** 0.5})


@law(
    right=Adam,
    wrong={
        AdamW: "published update",
        UncorrectedAdam: "published update",
        eps_too_large: "published update",
    },
)
@given(
    run=runs_of_gradients(),
    lr=st.sampled_from([1.0, 0.1]),
    betas=st.sampled_from([(0.9, 0.999), (0.5, 0.75)]),
    weight_decay=st.sampled_from([0.0, 0.25]),
)
def test_adam_follows_its_publication(
    make_optimizer: Callable[..., Optimizer], run: Run, **settings: Any
) -> None:
    """Adam divides a mean of gradients by one of their squares, corrected for starting at 0."""
    settings["eps"] = 1e-8

    message = "a step is Adam's published update"
    assert_formula(make_optimizer, adam_formula, run, settings, message)


def replace_head_and_step(problem: Problem, head: nn.Module, lr: float) -> None:
    """Replace the last layer first, then build the optimizer and take a step."""
    problem.model[-1] = head
    optimizer = SGD(problem.model.parameters(), lr=lr)
    train_step(problem.model, problem.loss_fn, optimizer, problem.inputs, problem.labels)


def loss_of(problem: Problem) -> Tensor:
    return problem.loss_fn(problem.model(problem.inputs), problem.labels)


def builds_on_another_model(problem: Problem, head: nn.Module, lr: float) -> None:
    """Build the optimizer on a copy of the model."""
    problem.model[-1] = head
    optimizer = SGD(copy.deepcopy(problem.model).parameters(), lr=lr)
    loss_of(problem).backward()
    optimizer.step()


def builds_before_the_head(problem: Problem, head: nn.Module, lr: float) -> None:
    """Build the optimizer before replacing the last layer, so it misses the new one."""
    optimizer = SGD(problem.model.parameters(), lr=lr)
    problem.model[-1] = head
    loss_of(problem).backward()
    optimizer.step()


def steps_without_backward(problem: Problem, head: nn.Module, lr: float) -> None:
    """Step before backward, when there are no gradients yet."""
    problem.model[-1] = head
    optimizer = SGD(problem.model.parameters(), lr=lr)
    optimizer.step()
    loss_of(problem).backward()


def moves_the_frozen(problem: Problem, head: nn.Module, lr: float) -> None:
    """Make every parameter trainable, including the frozen ones."""
    problem.model[-1] = head
    problem.model.requires_grad_(True)
    optimizer = SGD(problem.model.parameters(), lr=lr)
    loss_of(problem).backward()
    optimizer.step()


@law(
    right=replace_head_and_step,
    wrong={
        builds_on_another_model: "every parameter of the model",
        builds_before_the_head: "every parameter of the model",
        steps_without_backward: "every parameter of the model",
        moves_the_frozen: "stays where it is",
    },
)
@given(problem=problems(dtype=float64), frozen=st.booleans())
def test_a_step_moves_the_parameters_it_was_given_and_no_others(
    step: Callable[..., None], problem: Problem, frozen: bool
) -> None:
    """Every parameter with a gradient moves to w - lr * g; the frozen, inputs and labels stay."""
    model, inputs, labels = problem.model, problem.inputs, problem.labels
    head = copy.deepcopy(model[-1])
    if frozen:
        head.bias.requires_grad_(False)
    # The oracle: torch.autograd.grad on the network as it will be, which shares all other layers.
    whole = nn.Sequential(*model[:-1], head)
    trainable = {n: p for n, p in whole.named_parameters() if p.requires_grad}
    slopes = torch.autograd.grad(problem.loss_fn(whole(inputs), labels), list(trainable.values()))
    expected = {
        name: (p - 0.5 * slope).detach()
        for (name, p), slope in zip(trainable.items(), slopes, strict=True)
    }
    data, bias = (bits(inputs), bits(labels)), bits(head.bias)

    step(problem, head, 0.5)

    if frozen:
        assert bits(head.bias) == bias, "a frozen parameter stays where it is"
    found = dict(model.named_parameters())
    for name, value in expected.items():
        assert_close(found[name], value, f"a step moves every parameter of the model, {name}")
    assert (bits(inputs), bits(labels)) == data, "inputs and labels stay as they are"
