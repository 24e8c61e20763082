"""What a step applies.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: optimizer.step() applies the gradients to the weights and biases.
Verdict: holds
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
from tests.training.common import Array, assert_close, float64

Parameters = list[nn.Parameter]


def sgd_formula(
    weight: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> Array:
    """Return where stochastic gradient descent leads, as PyTorch documents it, in float64."""
    velocity: Array | None = None
    for slope in gradients:
        slope = slope + weight_decay * weight
        velocity = slope if velocity is None else momentum * velocity + slope
        weight = weight - lr * (slope + momentum * velocity if nesterov else velocity)
    return weight


def adam_formula(
    weight: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Array:
    """Return where Adam leads by algorithm 1 of Kingma and Ba, 2015, in float64."""
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for step, slope in enumerate(gradients, start=1):
        slope = slope + weight_decay * weight
        mean = betas[0] * mean + (1 - betas[0]) * slope
        square = betas[1] * square + (1 - betas[1]) * slope**2
        unbiased_mean, unbiased_square = (
            mean / (1 - betas[0] ** step),
            square / (1 - betas[1] ** step),
        )
        weight = weight - lr * unbiased_mean / (np.sqrt(unbiased_square) + eps)
    return weight


def skips_the_biases(parameters: Parameters, **settings: Any) -> Optimizer:
    """Give the optimizer the matrices only."""
    return SGD([p for p in parameters if p.ndim > 1], **settings)


def forgets_weight_decay(parameters: Parameters, **settings: Any) -> Optimizer:
    """Leave out the weight decay."""
    return SGD(parameters, **{**settings, "weight_decay": 0})


class DampedSGD(SGD):
    """SGD whose momentum is a running mean of the gradients."""

    def __init__(self, parameters: Parameters, **settings: Any) -> None:
        """Damp each gradient by what the momentum keeps."""
        nesterov = settings["nesterov"]
        super().__init__(parameters, **settings, dampening=0 if nesterov else settings["momentum"])


@st.composite
def runs_of_gradients(draw: st.DrawFn) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Draw the values of a weight and a bias, and gradients for one to three steps."""
    of_both = [tensors(shape, float64, max_magnitude=9.0) for shape in ((2, 2), (2,))]
    values = [draw(strategy) for strategy in of_both]
    steps = draw(st.integers(1, 3))
    return values, [[draw(strategy) for strategy in of_both] for _ in range(steps)]


def apply_steps(
    make_optimizer: Callable[..., Optimizer],
    values: list[Tensor],
    gradients: list[list[Tensor]],
    settings: dict[str, Any],
) -> Parameters:
    """Return the parameters after an optimizer has seen each step's gradients."""
    parameters = [nn.Parameter(value.clone()) for value in values]
    optimizer = make_optimizer(parameters, **settings)
    for step in gradients:
        for parameter, slope in zip(parameters, step, strict=True):
            parameter.grad = slope.clone()
        optimizer.step()
    return parameters


def assert_formula(
    parameters: Parameters,
    values: list[Tensor],
    gradients: list[list[Tensor]],
    formula: Callable[..., Array],
    settings: dict[str, Any],
    law: str,
) -> None:
    """Assert that each parameter is where the formula leads from its value by its gradients."""
    for position, parameter in enumerate(parameters):
        slopes = [step[position].numpy(force=True) for step in gradients]
        expected = formula(values[position].numpy(force=True), slopes, **settings)
        assert_close(parameter, expected, law)


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
    make_optimizer: Callable[..., Optimizer],
    run: tuple[list[Tensor], list[list[Tensor]]],
    **settings: Any,
) -> None:
    """Without momentum w - lr * g; with momentum and weight decay by their recurrences."""
    values, gradients = run
    settings["nesterov"] = settings["nesterov"] and settings["momentum"] > 0

    parameters = apply_steps(make_optimizer, values, gradients, settings)

    assert_formula(
        parameters, values, gradients, sgd_formula, settings, "a step follows the recurrence of SGD"
    )


class UncorrectedAdam(Adam):
    """Adam that takes its running means for unbiased from the first step on."""

    def step(self, closure: Any = None) -> None:
        """Set the step count so high that the corrections are one."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] = torch.tensor(1e6, device="cpu")
        super().step(closure)


def eps_too_large(parameters: Parameters, **settings: Any) -> Optimizer:
    """Take eps for its square root."""
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
    make_optimizer: Callable[..., Optimizer],
    run: tuple[list[Tensor], list[list[Tensor]]],
    **settings: Any,
) -> None:
    """Running means of gradients and their squares, both corrected for their start at zero."""
    values, gradients = run
    settings["eps"] = 1e-8

    parameters = apply_steps(make_optimizer, values, gradients, settings)

    assert_formula(
        parameters, values, gradients, adam_formula, settings, "a step is Adam's published update"
    )


def replace_head_and_step(
    model: nn.Sequential, head: nn.Module, loss: Callable[[], Tensor], lr: float
) -> None:
    """Replace the last layer, then build the optimizer, call backward and step."""
    model[-1] = head
    optimizer = SGD(model.parameters(), lr=lr)
    loss().backward()
    optimizer.step()


def builds_on_another_model(
    model: nn.Sequential, head: nn.Module, loss: Callable[[], Tensor], lr: float
) -> None:
    """Build the optimizer on a copy of the model."""
    model[-1] = head
    optimizer = SGD(copy.deepcopy(model).parameters(), lr=lr)
    loss().backward()
    optimizer.step()


def builds_before_the_head(
    model: nn.Sequential, head: nn.Module, loss: Callable[[], Tensor], lr: float
) -> None:
    """Build the optimizer, then replace the last layer, which it does not know."""
    optimizer = SGD(model.parameters(), lr=lr)
    model[-1] = head
    loss().backward()
    optimizer.step()


def steps_without_backward(
    model: nn.Sequential, head: nn.Module, loss: Callable[[], Tensor], lr: float
) -> None:
    """Step first, when there are no gradients yet."""
    model[-1] = head
    optimizer = SGD(model.parameters(), lr=lr)
    optimizer.step()
    loss().backward()


def moves_the_frozen(
    model: nn.Sequential, head: nn.Module, loss: Callable[[], Tensor], lr: float
) -> None:
    """Make everything trainable again, to be on the safe side."""
    model[-1] = head
    model.requires_grad_(True)
    optimizer = SGD(model.parameters(), lr=lr)
    loss().backward()
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
    """Every parameter with a gradient goes to w - lr * g; frozen ones, inputs and labels stay."""
    model, inputs, labels = problem.model, problem.inputs, problem.labels
    head = copy.deepcopy(model[-1])
    if frozen:
        head.bias.requires_grad_(False)
    whole = nn.Sequential(*model[:-1], head)
    trainable = {n: p for n, p in whole.named_parameters() if p.requires_grad}
    slopes = torch.autograd.grad(problem.loss_fn(whole(inputs), labels), list(trainable.values()))
    expected = {
        name: (p - 0.5 * slope).detach()
        for (name, p), slope in zip(trainable.items(), slopes, strict=True)
    }
    data, bias = (bits(inputs), bits(labels)), bits(head.bias)

    step(model, head, lambda: problem.loss_fn(model(inputs), labels), 0.5)

    if frozen:
        assert bits(head.bias) == bias, "a frozen parameter stays where it is"
    found = dict(model.named_parameters())
    for name, value in expected.items():
        assert_close(found[name], value, f"a step moves every parameter of the model, {name}")
    assert (bits(inputs), bits(labels)) == data, "inputs and labels stay as they are"
