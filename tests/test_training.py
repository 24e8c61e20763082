"""Lesson 4: training.

Forward, loss, backward, step. The gradient says which way the loss falls fastest from where the
weights are, and nothing about how far that holds: a step longer than the curvature allows lands
higher than it began. An optimizer applies the gradients to the parameters that it was given, and to
no others. One pass through all examples, cut into batches, is an epoch; the mean loss of its
examples, kept as a number, is what one watches.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

import copy
import gc
import itertools
import math
import os
import random
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from dlconcepts import checkpoints, training
from dlconcepts.autograd import ByHand, gradient
from dlconcepts.compare import bits, state_of
from dlconcepts.runs import joined_workers, one_thread, seeded
from dlconcepts.strategies import DTYPES, Problem, batches, easily_lost, problems, shapes, tensors
from dlconcepts.training import (
    DivergedError,
    Epoch,
    descent_direction,
    fit,
    gradient_descent,
    train_epoch,
    train_step,
)
from dlconcepts.validation import evaluate

claim = pytest.mark.claim
float64 = torch.float64

Array = NDArray[np.float64]
Function = Callable[[Tensor], Tensor]
Parameters = list[nn.Parameter]


def assert_close(actual: Tensor, expected: Tensor | Array, law: str, *, rtol: float = 1e-9) -> None:
    """Assert that tensors agree up to rounding, relative to the largest element expected."""
    actual, expected = actual.detach(), torch.as_tensor(expected, device=actual.device).detach()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual,
        expected,
        rtol=0,
        atol=rtol * scale + 1e-12,
        msg=lambda text: f"{law}: {text}",
    )


# ------------------------------------------------- gradient descent


def steps_up(function: Function, x: Tensor) -> Tensor:
    """Forget the minus."""
    return -descent_direction(function, x)


def along_one_coordinate(function: Function, x: Tensor) -> Tensor:
    """Go along the coordinate whose slope is the largest, by its sign."""
    slope = gradient(function, x)
    step = torch.zeros_like(x)
    step[slope.abs().argmax()] = -slope[slope.abs().argmax()].sign()
    return step


def along_all_signs(function: Function, x: Tensor) -> Tensor:
    """Go by the sign of each coordinate, whatever its size."""
    return -F.normalize(gradient(function, x).sign(), dim=0)


def as_long_as_the_gradient(function: Function, x: Tensor) -> Tensor:
    """Compare a long step with short ones."""
    return -gradient(function, x)


@claim(
    "training.gradient-descent-is-steepest",
    right=descent_direction,
    wrong={
        steps_up: "falls faster",
        along_one_coordinate: "falls faster",
        along_all_signs: "falls faster",
        as_long_as_the_gradient: "one unit long",
    },
)
@given(
    slope=tensors((3,), float64, max_magnitude=9.0),
    other=tensors((3,), float64, max_magnitude=9.0),
)
def test_no_direction_falls_faster_than_against_the_gradient(
    direction: Callable[[Function, Tensor], Tensor], slope: Tensor, other: Tensor
) -> None:
    """Of all steps of one length, the one against the gradient has the steepest slope."""
    assume(bool(slope.norm() > 1e-6) and bool(other.norm() > 1e-6))
    before = bits(slope)

    found = direction(lambda x: (slope * x).sum() + (x**3).sum(), torch.zeros_like(slope))

    length = np.linalg.norm(found.numpy(force=True))
    assert abs(length - 1) < 1e-9, "a direction is one unit long"
    rounding = 1e-9 * float(slope.norm())
    for unit in (other / other.norm(), -slope / slope.norm()):
        assert float(slope @ found) <= float(slope @ unit) + rounding, (
            "no other direction falls faster"
        )
    assert bits(slope) == before, "the function is left alone"


def test_where_the_gradient_is_zero_no_direction_is_steepest() -> None:
    """At a minimum, a maximum or a saddle the question has no answer."""
    with pytest.raises(ValueError, match="the gradient is zero"):
        descent_direction(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))


def forgets_the_half(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Take 2x for the derivative of x**2 / 2."""
    return gradient_descent(lambda x: 2 * function(x), start, lr=lr, steps=steps)


def climbs(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Add the gradient."""
    return gradient_descent(function, start, lr=-lr, steps=steps)


def takes_steps_of_one_length(
    function: Function, start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Go on by lr in the steepest direction, however close the minimum is."""
    points = [start]
    for _ in range(steps):
        slope = gradient(function, points[-1])
        points.append(points[-1] - lr * F.normalize(slope, dim=0))
    return torch.stack(points)


@st.composite
def bowls(draw: st.DrawFn) -> tuple[Tensor, float]:
    """Draw a symmetric matrix with eigenvalues 1 to 9, and the largest of them."""
    eigenvalues = [float(draw(st.integers(1, 9))) for _ in range(2)]
    angle = math.radians(draw(st.integers(0, 90)))
    rows = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    rotation = torch.tensor(rows, dtype=float64)
    return rotation @ torch.tensor(eigenvalues, dtype=float64).diag() @ rotation.T, max(eigenvalues)


@claim(
    "training.gradient-descent-is-steepest",
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
    length=st.sampled_from([0.25, 0.5, 1.0, 1.5, 1.75]),
)
def test_a_short_step_lowers_the_loss(
    descend: Callable[..., Tensor], bowl: tuple[Tensor, float], start: Tensor, length: float
) -> None:
    """On x'Ax / 2 with largest curvature L, each step with lr below 2/L goes down."""
    matrix, curvature = bowl

    points = descend(lambda x: x @ matrix @ x / 2, start, lr=length / curvature, steps=4)

    losses = [float(x @ matrix @ x / 2) for x in points]
    for before, after in itertools.pairwise(losses):
        assert after < before or before < 1e-12, "a step with lr below 2/L lowers the loss"


def shortens_the_step(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Halve the step until the loss falls, which is not what the learning rate says."""
    points = [start]
    for _ in range(steps):
        slope, rate = gradient(function, points[-1]), lr
        while function(points[-1] - rate * slope) > function(points[-1]):
            rate /= 2
        points.append(points[-1] - rate * slope)
    return torch.stack(points)


@claim(
    "training.gradient-descent-is-steepest",
    right=gradient_descent,
    wrong={shortens_the_step: "above 2/L raises the loss", climbs: "to the other side"},
)
@given(curvature=st.integers(1, 9), start=st.integers(1, 9), length=st.sampled_from([2.25, 3, 4]))
def test_a_long_step_raises_the_loss_and_zigzags(
    descend: Callable[..., Tensor], curvature: int, start: int, length: float
) -> None:
    """On L x**2 / 2, lr above 2/L lands higher on the other side: by 1 - lr * L with each step."""
    x = torch.tensor([float(start)], dtype=float64)

    points = descend(
        lambda x: (curvature * x**2 / 2).sum(), x, lr=length / curvature, steps=3
    ).flatten()

    for before, after in itertools.pairwise(points.tolist()):
        assert before * after < 0, "a step with lr above 1/L leads to the other side"
        assert after**2 > before**2, "a step with lr above 2/L raises the loss"
    expected = start * (1.0 - length) ** np.arange(4)
    assert_close(points, expected, "each step multiplies by 1 - lr * L")


def tries_another_start(function: Function, start: Tensor, *, lr: float, steps: int) -> Tensor:
    """Start from the other side as well, and keep what is lower."""
    runs = [gradient_descent(function, x, lr=lr, steps=steps) for x in (start, -start)]
    return min(runs, key=lambda points: float(function(points[-1])))


@claim(
    "training.gradient-descent-is-steepest",
    right=gradient_descent,
    wrong={tries_another_start: "the valley it starts in"},
)
@given(start=st.integers(70, 150), tilt=st.integers(1, 30))
def test_descent_ends_in_the_valley_it_starts_in(
    descend: Callable[..., Tensor], start: int, tilt: int
) -> None:
    """Of two valleys it finds the one where it starts, though the other is deeper."""

    def loss(x: Tensor) -> Tensor:
        return (x**4 / 4 - x**2 / 2 + tilt / 100 * x).sum()

    points = descend(loss, torch.tensor([start / 100], dtype=float64), lr=0.3, steps=60)

    assert bool((points > 0).all()), "descent stays in the valley it starts in"
    assert abs(float(gradient(loss, points[-1]))) < 1e-3, "descent ends where the slope is zero"
    assert float(loss(-points[-1])) < float(loss(points[-1])), "the other valley is deeper"


# ------------------------------------------------- what a step applies


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


@claim(
    "training.optimizer-step-applies-the-gradient",
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


@claim(
    "training.optimizer-step-applies-the-gradient",
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


@claim(
    "training.optimizer-step-applies-the-gradient",
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


# ------------------------------------------------- the order of a step


def never_zeroes(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Forget zero_grad."""
    loss = loss_fn(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss.item()


def zeroes_before_the_step(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Zero between backward and step."""
    loss = loss_fn(model(batch[0]), batch[1])
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


def goes_back_twice(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Call backward twice."""
    optimizer.zero_grad()
    loss = loss_fn(model(batch[0]), batch[1])
    loss.backward(retain_graph=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def steps_before_backward(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Step on the gradients of the batch before."""
    loss = loss_fn(model(batch[0]), batch[1])
    optimizer.step()
    optimizer.zero_grad()
    loss.backward()
    return loss.item()


def detaches_the_outputs(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Compute the loss on outputs that are cut off, and silence the error."""
    optimizer.zero_grad()
    loss = loss_fn(model(batch[0]).detach().requires_grad_(), batch[1])
    loss.backward()
    optimizer.step()
    return loss.item()


def reports_the_loss_after_the_step(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Call the model again for the loss to report."""
    train_step(model, loss_fn, optimizer, *batch)
    return loss_fn(model(batch[0]), batch[1]).item()


@st.composite
def problems_with_a_past(draw: st.DrawFn) -> tuple[Problem, tuple[Tensor, Tensor]]:
    """Draw a problem, and a batch that its model has seen before."""
    problem = draw(problems(dtype=float64))
    sizes = problem.model[0].in_features, problem.model[-1].out_features
    return problem, draw(batches(*sizes, max_size=2, dtype=float64))


@claim(
    "training.step-order",
    right=train_step,
    wrong={
        never_zeroes: "its own batch alone",
        zeroes_before_the_step: "its own batch alone",
        goes_back_twice: "its own batch alone",
        steps_before_backward: "its own batch alone",
        detaches_the_outputs: "its own batch alone",
        reports_the_loss_after_the_step: "the loss before the step",
    },
)
@given(drawn=problems_with_a_past(), accumulate=st.integers(1, 3))
def test_a_step_follows_its_own_batch_alone(
    train_step: Callable[..., float],
    drawn: tuple[Problem, tuple[Tensor, Tensor]],
    accumulate: int,
) -> None:
    """It lands at w - lr * gradient of its batch's loss, whatever earlier batches have left."""
    problem, earlier = drawn
    model, loss_fn = problem.model, problem.loss_fn
    optimizer = SGD(model.parameters(), lr=0.5)
    loss_fn(model(earlier[0]), earlier[1]).backward()
    loss = loss_fn(model(problem.inputs), problem.labels)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    expected = [(p - 0.5 * g).detach() for p, g in zip(model.parameters(), slopes, strict=True)]
    pieces = {"accumulate": accumulate} if train_step.__name__ == "train_step" else {}

    reported = train_step(model, loss_fn, optimizer, problem.inputs, problem.labels, **pieces)

    for parameter, value in zip(model.parameters(), expected, strict=True):
        assert_close(parameter, value, "a step follows the gradient of its own batch alone")
    assert type(reported) is float, "the loss is a Python number"
    assert math.isclose(reported, loss.item(), rel_tol=1e-9, abs_tol=1e-12), (
        "the loss reported is the loss before the step"
    )


def steps_on_anything(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Step without a look at the loss: the weights are NaN from then on."""
    return never_zeroes(model, loss_fn, optimizer, *batch)


@claim("training.step-order", right=train_step, wrong={steps_on_anything: "DID NOT RAISE"})
@given(problem=problems(), bad=st.sampled_from([math.nan, math.inf]), lr=st.sampled_from([0.1, 2]))
def test_a_loss_that_is_not_finite_stops_before_the_step(
    train_step: Callable[..., float], problem: Problem, bad: float, lr: float
) -> None:
    """A NaN or infinite loss raises an error with the learning rate; the parameters stay."""
    before = [bits(parameter) for parameter in problem.model.parameters()]
    optimizer = SGD(problem.model.parameters(), lr=lr)

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return problem.loss_fn(outputs, labels) + bad

    with pytest.raises(DivergedError, match=f"the loss is {bad} with learning rate {lr};"):
        train_step(problem.model, loss_fn, optimizer, problem.inputs, problem.labels)

    assert [bits(p) for p in problem.model.parameters()] == before, "the parameters stay"


# ------------------------------------------------- an epoch


class Recorder(nn.Module):
    """A model that keeps what went in; its loss keeps the labels beside it."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []
        self.labels: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Keep the inputs and return something that depends on the weight."""
        self.seen += inputs.flatten().tolist()
        return inputs * self.weight

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Keep the labels and return a loss."""
        self.labels += labels.tolist()
        return outputs.mean()


Train = Callable[..., object]


def loop(
    model: Recorder,
    optimizer: Optimizer,
    batches_of_epochs: Iterable[Iterable[tuple[Tensor, Tensor]]],
) -> None:
    """Train on the batches of each epoch."""
    for batches_of_epoch in batches_of_epochs:
        for inputs, labels in batches_of_epoch:
            train_step(model, model.loss, optimizer, inputs, labels)


def cut(data: tuple[Tensor, Tensor], batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Cut examples into batches, in order."""
    return list(zip(data[0].split(batch_size), data[1].split(batch_size), strict=True))


def one_batch_per_epoch(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Take next(iter(loader)) for an epoch."""
    loop(model, optimizer, [cut(data, batch_size)[:1]] * epochs)


def builds_the_iterator_once(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Make an iterator before the loop over the epochs: the second epoch sees nothing."""
    loop(model, optimizer, [iter(cut(data, batch_size))] * epochs)


def drops_the_last_batch(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Round the number of batches down."""
    loop(model, optimizer, [cut(data, batch_size)[: len(data[1]) // batch_size]] * epochs)


def draws_with_replacement(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Draw each batch anew from all examples."""
    n, batches_of_epochs = len(data[1]), []
    for _ in range(epochs):
        chosen = torch.randint(n, (n,))
        batches_of_epochs.append(cut((data[0][chosen], data[1][chosen]), batch_size))
    loop(model, optimizer, batches_of_epochs)


def shuffles_the_images_alone(
    model: Recorder, data: Any, *, epochs: int, batch_size: int, optimizer: Optimizer, **_: Any
) -> None:
    """Draw one order for the images and another for the labels."""
    n = len(data[1])
    shuffled = data[0][torch.randperm(n)], data[1][torch.randperm(n)]
    loop(model, optimizer, [cut(shuffled, batch_size)] * epochs)


def train_and_check(
    train: Train, data: object, *, n: int, epochs: int, batch_size: int, **options: Any
) -> None:
    """Train a recorder on examples whose value is their number, and check what it has seen."""
    model = Recorder()
    optimizer, steps = SGD(model.parameters(), lr=0.0), []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))

    train(
        model,
        data,
        epochs=epochs,
        optimizer=optimizer,
        loss_fn=model.loss,
        **({} if isinstance(data, DataLoader) else {"batch_size": batch_size}),
        **options,
    )

    seen = [int(value) for value in model.seen]
    assert len(seen) == epochs * n, "every epoch has as many examples as the data"
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n)), (
            "every example is seen exactly once in each epoch"
        )
    assert model.labels == seen, "every example comes with its own label"
    assert len(steps) == epochs * math.ceil(n / batch_size), "there is one step for each batch"


@claim(
    "training.epoch-is-one-pass",
    right=fit,
    wrong={
        one_batch_per_epoch: "as many examples as the data",
        builds_the_iterator_once: "as many examples as the data",
        drops_the_last_batch: "as many examples as the data",
        draws_with_replacement: "exactly once in each epoch",
        shuffles_the_images_alone: "its own label",
    },
)
@given(
    n=st.integers(1, 9),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 10),
    seed=st.integers(0, 9),
)
def test_every_example_is_seen_once_an_epoch(
    train: Train, n: int, epochs: int, batch_size: int, seed: int
) -> None:
    """There are epochs * ceil(n / b) steps, and every example is seen with its label each epoch."""
    data = torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n)

    train_and_check(train, data, n=n, epochs=epochs, batch_size=batch_size, seed=seed)


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Examples that are found one by one."""

    def __init__(self, n: int) -> None:
        """Have n examples."""
        self.n = n

    def __len__(self) -> int:
        """Return the number of examples."""
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return an example that is its own number."""
        return torch.tensor([float(index)]), torch.tensor(index)


def as_tensors(n: int, batch_size: int) -> object:
    """Return a TensorDataset."""
    return TensorDataset(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n))


def as_examples(n: int, batch_size: int) -> object:
    """Return a Dataset that gives one example at a time."""
    return Pairs(n)


def as_loader(n: int, batch_size: int) -> object:
    """Return a DataLoader."""
    return DataLoader(Pairs(n), batch_size, shuffle=True)


def as_generator_once(
    model: Recorder, data: Any, *, epochs: int, batch_size: int = 0, optimizer: Optimizer, **_: Any
) -> None:
    """Turn the data into an iterator, to take batches or examples from."""
    once = iter(data if isinstance(data, DataLoader) else DataLoader(data, batch_size))
    loop(model, optimizer, [once] * epochs)


@claim(
    "training.epoch-is-one-pass",
    right=fit,
    wrong={as_generator_once: "as many examples as the data"},
    cpu_only="a DataLoader shuffles with a generator on the CPU",
)
@given(
    form=st.sampled_from([as_tensors, as_examples, as_loader]),
    n=st.integers(1, 5),
    epochs=st.integers(1, 2),
    batch_size=st.integers(1, 6),
)
def test_any_form_of_data_is_seen_once_an_epoch(
    train: Train, form: Callable[[int, int], object], n: int, epochs: int, batch_size: int
) -> None:
    """A Dataset and a DataLoader are passed through as a pair of tensors is."""
    train_and_check(train, form(n, batch_size), n=n, epochs=epochs, batch_size=batch_size)


# ------------------------------------------------- the running loss


class KeepsEveryLoss:
    """Adds the loss tensors themselves; called like train_epoch."""

    __name__ = "adds_the_loss_tensors"

    def __call__(
        self,
        model: nn.Module,
        loader: Iterable[tuple[Tensor, Tensor]],
        loss_fn: Callable[..., Tensor],
        optimizer: Optimizer,
    ) -> float:
        """Take the item of the sum at the end of the epoch."""
        running_loss, seen = torch.zeros(()), 0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss = running_loss + loss * len(labels)
            seen += len(labels)
        return running_loss.item() / seen


def epoch_with(total: Callable[[list[float], list[int]], Any]) -> Train:
    """Return an epoch that makes this of the losses and sizes of its batches."""

    def epoch(
        model: nn.Module,
        loader: Iterable[tuple[Tensor, Tensor]],
        loss_fn: Callable[..., Tensor],
        optimizer: Optimizer,
    ) -> Any:
        """Take one step for each batch."""
        losses, sizes = [], []
        for inputs, labels in loader:
            losses.append(train_step(model, loss_fn, optimizer, inputs, labels))
            sizes.append(len(labels))
        return total(losses, sizes)

    return epoch


def averages_batch_means(*arguments: Any) -> Any:
    """Divide the sum of the batch means by the number of batches, though the last is smaller."""
    return epoch_with(lambda losses, sizes: sum(losses) / len(losses))(*arguments)


def divides_by_the_examples(*arguments: Any) -> Any:
    """Add batch means, but divide by the number of examples."""
    return epoch_with(lambda losses, sizes: sum(losses) / sum(sizes))(*arguments)


def never_resets(*arguments: Any) -> Any:
    """Go on adding where the last epoch stopped."""
    epoch = epoch_with(lambda losses, sizes: float(np.average(losses, weights=sizes)))
    model = arguments[0]
    model.running_loss = getattr(model, "running_loss", 0.0) + epoch(*arguments)
    return model.running_loss


def returns_a_tensor(*arguments: Any) -> Any:
    """Return the mean as a tensor."""
    return torch.tensor(train_epoch(*arguments))


@st.composite
def problems_in_batches(
    draw: st.DrawFn,
) -> tuple[Problem, list[tuple[Tensor, Tensor]]]:
    """Draw a problem and batches for it, of different sizes."""
    problem = draw(problems(dtype=float64, max_size=1))
    sizes = problem.model[0].in_features, problem.model[-1].out_features
    drawn = batches(*sizes, max_size=3, dtype=float64)
    return problem, draw(st.lists(drawn, min_size=1, max_size=3))


@claim(
    "training.running-loss",
    right=train_epoch,
    wrong={
        averages_batch_means: "example-weighted mean",
        divides_by_the_examples: "example-weighted mean",
        never_resets: "starts anew",
        returns_a_tensor: "a Python float",
    },
)
@given(drawn=problems_in_batches())
def test_the_loss_of_an_epoch_is_the_mean_over_its_examples(
    train_epoch: Callable[..., float], drawn: tuple[Problem, list[tuple[Tensor, Tensor]]]
) -> None:
    """Each batch's mean loss counts by its examples; every epoch starts anew at zero."""
    problem, loader = drawn
    optimizer = SGD(problem.model.parameters(), lr=0.1)
    recorded: list[tuple[float, int]] = []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        loss = problem.loss_fn(outputs, labels)
        recorded.append((loss.item(), len(labels)))
        return loss

    for epoch in ("first", "second"):
        recorded.clear()
        found = train_epoch(problem.model, loader, loss_fn, optimizer)
        expected = sum(loss * size for loss, size in recorded) / sum(size for _, size in recorded)
        assert type(found) is float, "the loss of an epoch is a Python float"
        law = "is the example-weighted mean" if epoch == "first" else "starts anew"
        assert math.isclose(found, expected, rel_tol=1e-9), f"the {epoch} epoch's loss {law}"


class Trace(torch.autograd.Function):
    """The identity, which leaves in the graph an object that lives as long as the graph does."""

    alive: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        """Return the inputs."""
        ctx.trace = nn.Identity()
        Trace.alive.add(ctx.trace)
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient."""
        return gradients[0]


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python's collector from finding what reference counts did not free."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@claim(
    "training.running-loss",
    right=train_epoch,
    wrong={KeepsEveryLoss(): "one graph is alive"},
)
@given(count=st.integers(1, 5))
def test_no_graph_outlives_its_batch(train_epoch: Callable[..., float], count: int) -> None:
    """However many batches there were, at most the last one's graph is there when one begins."""
    model = nn.Linear(1, 1)
    alive: list[int] = []
    Trace.alive.clear()

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(count):
            alive.append(len(Trace.alive))
            yield torch.ones(1, 1), torch.ones(1, 1)

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(Trace.apply(outputs), labels)

    with without_collector():
        train_epoch(model, loader(), loss_fn, SGD(model.parameters(), lr=0.1))

    assert max(alive) <= 1, "at most one graph is alive when a batch begins"
    assert not Trace.alive, "no graph is alive after the epoch"


def test_ten_thousand_batches_leave_no_tensor_behind() -> None:
    """There are as many tensors after 10,000 batches as after the first."""
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=0.01)
    counts = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(10_000):
            if number in (1, 9_999):
                counts.append(sum(type(o) is Tensor for o in gc.get_objects()))
            yield torch.ones(1, 1), torch.ones(1, 1)

    train_epoch(model, loader(), F.mse_loss, optimizer)

    assert counts[0] == counts[1]


# ------------------------------------------------- item


def takes_the_first(tensor: Tensor) -> float:
    """Take the first element, whether or not it is the only one."""
    return tensor.flatten().tolist()[0] if tensor.numel() else math.nan


@claim(
    "training.item-is-for-scalars",
    right=Tensor.item,
    wrong={takes_the_first: "DID NOT RAISE"},
)
@given(tensor=tensors(shapes(max_dims=3, max_side=2), st.sampled_from(DTYPES)))
def test_more_or_less_than_one_element_has_no_item(
    item: Callable[[Tensor], object], tensor: Tensor
) -> None:
    """item() of no element or of several raises."""
    assume(tensor.numel() != 1)

    with pytest.raises(RuntimeError, match="cannot be converted to Scalar"):
        item(tensor)


def goes_through_float(tensor: Tensor) -> object:
    """Convert to float, which rounds large integers and is no bool."""
    return complex(tensor) if tensor.is_complex() else float(tensor)


def rounds_for_display(tensor: Tensor) -> object:
    """Round to the four digits that are printed."""
    number = tensor.item()
    return round(number, 4) if isinstance(number, float) else number


KINDS = {torch.bool: bool, torch.complex64: complex, torch.complex128: complex}


@claim(
    "training.item-is-for-scalars",
    right=Tensor.item,
    wrong={goes_through_float: "the right kind", rounds_for_display: "exactly"},
)
@given(
    tensor=easily_lost()
    | tensors(
        st.sampled_from([(), (1,), (1, 1)]),
        st.sampled_from(DTYPES),
        allow_nan=True,
        allow_infinity=True,
    )
)
def test_an_item_is_the_number_itself(item: Callable[[Tensor], object], tensor: Tensor) -> None:
    """It is a bool, int, float or complex, equal to the element to the last bit."""
    number = item(tensor)

    kind = KINDS.get(tensor.dtype, float if tensor.is_floating_point() else int)
    assert type(number) is kind, "an item is a Python number of the right kind"
    again = torch.full_like(tensor, number)
    assert bits(again) == bits(tensor), "an item is exactly the element, signs of zeros included"


# ------------------------------------------------- the loss goes down


def fit_all(
    model: nn.Module, data: tuple[Tensor, Tensor], loss_fn: Callable[..., Tensor], **settings: Any
) -> list[float]:
    """Train on all examples at once with SGD and return the loss of each epoch."""
    optimizer = SGD(model.parameters(), lr=settings["lr"])
    size = len(data[1])
    history = fit(
        *(model, data),
        epochs=settings["epochs"],
        batch_size=size,
        optimizer=optimizer,
        loss_fn=loss_fn,
    )
    return [epoch.train_loss for epoch in history]


def learns_too_fast(model: nn.Module, *arguments: Any, lr: float, epochs: int) -> list[float]:
    """Take a learning rate far too large."""
    return fit_all(model, *arguments, lr=200 * lr, epochs=epochs)


def shuffles_the_labels_anew(
    model: nn.Module, data: tuple[Tensor, Tensor], *arguments: Any, lr: float, epochs: int
) -> list[float]:
    """Give each example another example's label, in each epoch another one."""
    losses, (inputs, labels) = [], data
    for epoch in range(epochs):
        losses += fit_all(model, (inputs, labels.roll(epoch)), *arguments, lr=lr, epochs=1)
    return losses


def trains_another_model(model: nn.Module, *arguments: Any, **settings: Any) -> list[float]:
    """Never give the parameters to the optimizer: it has those of a copy, the model stays."""
    twin, frozen = copy.deepcopy(model), settings["epochs"]
    fit_all(twin, *arguments, **settings)
    return fit_all(model, *arguments, **{**settings, "lr": 0.0, "epochs": frozen})


@st.composite
def regressions(draw: st.DrawFn) -> tuple[nn.Linear, tuple[Tensor, Tensor], float]:
    """Draw a linear model, examples, and the largest curvature of their mean squared error."""
    n, features = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    inputs = draw(tensors((n, features), float64, max_magnitude=9.0))
    labels = draw(tensors((n, 1), float64, max_magnitude=9.0))
    model = nn.Linear(features, 1, bias=False, dtype=float64)
    nn.init.zeros_(model.weight)
    curvature = 2 * float(torch.linalg.matrix_norm(inputs, 2)) ** 2 / n
    return model, (inputs, labels), curvature


@claim(
    "training.loss-goes-down",
    right=fit_all,
    wrong={
        learns_too_fast: "no epoch raises a convex loss",
        shuffles_the_labels_anew: "no epoch raises a convex loss",
        trains_another_model: "the loss falls",
    },
)
@given(regression=regressions())
def test_full_batches_lower_a_convex_loss_every_time(
    train: Callable[..., list[float]],
    regression: tuple[nn.Linear, tuple[Tensor, Tensor], float],
) -> None:
    """With lr below 1/L the mean squared error of a linear model never rises, and it falls."""
    model, data, curvature = regression
    slope = float((data[0].T @ data[1]).norm())
    assume(curvature > 1e-6 and slope > 1e-6)

    losses = train(model, data, F.mse_loss, lr=0.9 / curvature, epochs=3)

    for before, after in itertools.pairwise(losses):
        assert after <= before * (1 + 1e-12), "no epoch raises a convex loss"
    assert losses[1] < losses[0], "the loss falls where the gradient is not zero"


SEEDS = 40
# If a training of this kind ended higher than it began one time in ten, more than ENOUGH of SEEDS
# would still fall, but for one law in 1e11.
ENOUGH = int(stats.binom.ppf(1e-11, SEEDS, 0.9))


@claim(
    "training.loss-goes-down",
    right=fit_all,
    wrong={learns_too_fast: "falls for most seeds", trains_another_model: "falls for most seeds"},
    share=0.04,
    because="each example trains 40 networks",
)
@given(first=st.integers(0, 2**16), hidden=st.integers(4, 16))
def test_a_network_ends_lower_than_it_began(
    train: Callable[..., list[float]], first: int, hidden: int
) -> None:
    """No single epoch is sure to lower a network's loss, but over ten steps it falls.

    The law wants ENOUGH of SEEDS networks to fall, which fails with a chance of 1e-11 if each
    fails with a chance of 0.1; of 4,000 that were trained to see, none did.
    """
    falls = 0
    for seed in range(first, first + SEEDS):
        generator = torch.Generator(device="cpu").manual_seed(seed)
        labels = torch.arange(12, device="cpu") % 3
        inputs = torch.randn(12, 2, generator=generator, device="cpu") + 2 * labels[:, None]
        device = torch.get_default_device()
        with seeded(seed, device):
            model = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        data = inputs.to(device), labels.to(device)
        losses = train(model, data, F.cross_entropy, lr=0.1, epochs=10)
        falls += losses[-1] < losses[0]

    assert falls > ENOUGH, f"the loss falls for most seeds: more than {ENOUGH} of {SEEDS}"


def memorizes(inputs: Tensor, labels: Tensor, epochs: int) -> float:
    """Train on one batch again and again, and return its last loss."""
    model = nn.Sequential(nn.Linear(inputs.shape[1], 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = Adam(model.parameters(), lr=0.05)
    return fit(model, (inputs, labels), epochs=epochs, optimizer=optimizer)[-1].train_loss


def memorizes_with_a_dead_optimizer(inputs: Tensor, labels: Tensor, epochs: int) -> float:
    """Give the optimizer other parameters than the model's."""
    model = nn.Sequential(nn.Linear(inputs.shape[1], 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = Adam(copy.deepcopy(model).parameters(), lr=0.05)
    return fit(model, (inputs, labels), epochs=epochs, optimizer=optimizer)[-1].train_loss


def memorizes_moving_labels(inputs: Tensor, labels: Tensor, epochs: int) -> float:
    """Move the labels on by one class in each epoch."""
    model = nn.Sequential(nn.Linear(inputs.shape[1], 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = Adam(model.parameters(), lr=0.05)
    for epoch in range(epochs):
        data = inputs, (labels + epoch) % 3
        history = fit(model, data, epochs=1, optimizer=optimizer)
    return history[-1].train_loss


@claim(
    "training.loss-goes-down",
    right=memorizes,
    wrong={
        memorizes_with_a_dead_optimizer: "nearly zero",
        memorizes_moving_labels: "nearly zero",
    },
    share=0.1,
    because="each example trains a network for 100 steps",
)
@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_one_small_batch_can_be_learnt_by_heart(
    train: Callable[[Tensor, Tensor, int], float], labels: list[int]
) -> None:
    """A network that cannot drive the loss of a few examples to nearly zero has a mistake in it."""
    inputs = torch.eye(len(labels))

    loss = train(inputs, torch.tensor(labels), 100)

    assert loss < 0.05, "the loss of one small batch goes to nearly zero"


# ------------------------------------------------- the same seed


class NoisyExamples(Dataset[tuple[Tensor, Tensor]]):
    """Examples that Python's and numpy's random numbers change each time, as augmentation does."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return an example with noise."""
        noise = float(np.random.normal()) + random.random()  # noqa: NPY002
        return torch.tensor([index + noise, 1.0]), torch.tensor(index % 2)


def new_model() -> nn.Sequential:
    """Return a small network with dropout."""
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2))


Run = tuple[list[bytes], list[float]]


def outcome(model: nn.Module, losses: list[float]) -> Run:
    """Return the bits of the weights, and the losses."""
    return [bits(parameter) for parameter in model.parameters()], losses


def run_from_seed(seed: int, data: Any) -> Run:
    """Build and train a model, all from one seed."""
    with seeded(seed, torch.get_default_device()):
        model = new_model()
        history = fit(model, data, epochs=2, batch_size=2, seed=seed)
    return outcome(model, [epoch.train_loss for epoch in history])


def seeds_after_building(seed: int, data: Any) -> Run:
    """Build the model, then seed."""
    model = new_model()
    history = fit(model, data, epochs=2, batch_size=2, seed=seed)
    return outcome(model, [epoch.train_loss for epoch in history])


def shuffles_with_numpy(seed: int, data: Any) -> Run:
    """Seed torch, and shuffle with numpy's generator, which nobody seeded."""
    with seeded(seed, torch.get_default_device()):
        model = new_model()
    order = torch.as_tensor(np.random.permutation(4), device="cpu")  # noqa: NPY002
    examples = [data[int(k)] for k in order] if isinstance(data, Dataset) else None
    if examples is not None:
        data = torch.stack([x for x, _ in examples]), torch.stack([y for _, y in examples])
    else:
        data = data[0][order], data[1][order]
    history = fit(model, data, epochs=2, batch_size=2, seed=seed)
    return outcome(model, [epoch.train_loss for epoch in history])


def seeds_the_caller(seed: int, data: Any) -> Run:
    """Seed the global generators, as scripts do, and leave them so."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    return run_from_seed(seed, data)


def ignores_the_seed(seed: int, data: Any) -> Run:
    """Take the same seed always."""
    return run_from_seed(0, data)


def random_states() -> tuple[Any, ...]:
    """Return the states of the global generators."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    return bits(torch.get_rng_state()), random.getstate(), str(numpy_state)


@claim(
    "training.same-seed-same-run",
    right=run_from_seed,
    wrong={
        seeds_after_building: "bit for bit",
        shuffles_with_numpy: "bit for bit",
        ignores_the_seed: "another seed",
        seeds_the_caller: "caller's random state",
    },
    share=0.5,
    because="each example trains three networks",
    cpu_only="a DataLoader shuffles with a generator on the CPU",
)
@given(seed=st.integers(0, 2**16), noisy=st.booleans())
def test_one_seed_gives_one_run(run: Callable[[int, Any], Run], seed: int, noisy: bool) -> None:
    """Weights and losses repeat bit for bit, and another seed gives others.

    Two seeds could give the same weights by chance, with a probability below 2**-200.
    """
    data: Any = NoisyExamples() if noisy else (torch.eye(4)[:, :2], torch.tensor([0, 1, 0, 1]))
    before = random_states()

    first = run(seed, data)

    untouched = random_states() == before
    torch.rand(3), random.random(), np.random.random()  # noqa: NPY002
    repeated = run(seed, data) == first
    assert repeated, "the same seed gives the same run, bit for bit"
    assert run(seed + 1, data)[0] != first[0], "another seed gives another run"
    assert untouched, "the caller's random state is as it was"


# ------------------------------------------------- what fit promises besides


def examples(n: int = 6) -> tuple[Tensor, Tensor]:
    """Return examples of two classes."""
    return torch.arange(2.0 * n).reshape(n, 2), torch.arange(n) % 2


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        (examples(), {"epochs": 0}, "at least 1 epoch, but epochs is 0$"),
        (examples(), {"epochs": 2, "start_epoch": 2}, "epochs is 2 and 2 are done$"),
        (examples(), {"epochs": 1, "batch_size": 0}, "at least 1 example"),
        (examples(), {"epochs": 1, "accumulate": 0}, "at least 1 piece"),
        (examples(0), {"epochs": 1}, "no examples"),
        ((torch.ones(3, 2), torch.ones(2)), {"epochs": 1}, "3 images but 2 labels"),
        (examples(), {"epochs": 1, "validate": examples(0)}, "no examples"),
        (DataLoader(Pairs(2)), {"epochs": 1, "batch_size": 2}, "leave out batch_size"),
        (
            DataLoader(Pairs(2), sampler=DistributedSampler(Pairs(2), 2, 0)),
            {"epochs": 1},
            "leave out the DistributedSampler",
        ),
        (DataLoader(Pairs(2), batch_size=3, drop_last=True), {"epochs": 1}, "no batch"),
        (
            DataLoader(Pairs(2), collate_fn=lambda _: (torch.ones(2, 2), torch.tensor([0]))),
            {"epochs": 1, "accumulate": 2},
            "a batch has 2 images but 1 labels",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(data: Any, options: dict[str, Any], reason: str) -> None:
    """The error says what is wrong, and the model is as it was, in eval mode if it was."""
    model = nn.Linear(2, 2).eval()
    before = [bits(parameter) for parameter in model.parameters()]

    with pytest.raises(ValueError, match=reason):
        fit(model, data, **options)

    assert [bits(parameter) for parameter in model.parameters()] == before


def test_a_batch_is_computed_in_one_piece_if_nothing_is_said() -> None:
    """Models that look at the batch as a whole, as BatchNorm does, see it whole."""
    computed: list[int] = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda _module, _inputs, outputs: computed.append(len(outputs)))

    train_step(model, F.cross_entropy, SGD(model.parameters(), lr=0.1), *examples(6))

    assert computed == [6]


def test_a_loss_that_diverges_names_epoch_batch_and_learning_rate() -> None:
    """The error says where it happened, and the weights are those of the step before."""
    model = nn.Linear(2, 2)
    calls = []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return F.cross_entropy(outputs, labels) * (math.nan if len(calls) == 5 else 1)

    with pytest.raises(DivergedError, match=r"epoch 2, batch 2: the loss is nan .* rate 0\.001"):
        fit(model, examples(), epochs=3, batch_size=2, loss_fn=loss_fn)

    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_ctrl_c_returns_the_epochs_that_are_done() -> None:
    """An interrupted training returns its history, and the model can be used and trained on."""
    model, calls = nn.Linear(2, 2), []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, labels)

    history = fit(model, examples(), epochs=3, batch_size=3, loss_fn=loss_fn)

    assert [record.epoch for record in history] == [1, 2]
    assert len(fit(model, examples(), epochs=1)) == 1


def test_each_epoch_is_reported_with_its_held_out_loss() -> None:
    """The callback gets each record, in order: what `evaluate` says then, and the time it took."""
    model, held_out, records = nn.Linear(2, 2), examples(3), []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return 2 * F.cross_entropy(outputs, labels)

    def callback(record: Epoch) -> None:
        records.append(record)
        found = evaluate(model, held_out, loss_fn=loss_fn)
        assert (record.held_out_loss, record.held_out_accuracy) == (found.loss, found.accuracy)

    options: dict[str, Any] = {"loss_fn": loss_fn, "validate": held_out, "callback": callback}
    started = time.perf_counter()

    history = fit(model, examples(), epochs=2, **options)

    assert records == history
    assert 0 < sum(record.seconds for record in history) < time.perf_counter() - started


@pytest.mark.parametrize("form", [tuple, lambda data: DataLoader(TensorDataset(*data), 2)])
def test_a_progress_bar_moves_on_with_each_batch(
    monkeypatch: pytest.MonkeyPatch, form: Callable[[Any], Any]
) -> None:
    """It is told how many batches there will be, and after each the epoch and its loss so far."""
    bars: list[tuple[int, bool]] = []
    lines: list[str] = []

    @contextmanager
    def recorded(total: int, shown: bool) -> Iterator[Callable[[str], None]]:
        """Stand in the place of a bar on a terminal."""
        bars.append((total, shown))
        yield lines.append

    monkeypatch.setattr(training, "progress_bar", recorded)
    data = form(examples(5))
    size = None if isinstance(data, DataLoader) else 2

    history = fit(nn.Linear(2, 2), data, epochs=3, start_epoch=1, batch_size=size, progress=True)

    assert bars == [(6, True)]
    assert [line.partition(",")[0] for line in lines] == ["epoch 2"] * 3 + ["epoch 3"] * 3
    ends = [f"epoch {record.epoch}, loss {record.train_loss:.3f}" for record in history]
    assert [lines[2], lines[5]] == ends


def orders(form: Callable[[int, int], object], **options: Any) -> list[list[float]]:
    """Return the order in which two epochs of `fit` show a model a hundred examples."""
    model = Recorder()
    data = as_pair(100, 100) if form is as_pair else form(100, 100)
    fit(model, data, epochs=2, loss_fn=model.loss, optimizer=SGD(model.parameters()), **options)
    return [model.seen[:100], model.seen[100:]]


def as_pair(n: int, batch_size: int) -> object:
    """Return a pair of tensors."""
    return torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n)


@pytest.mark.parametrize("form", [as_pair, as_tensors, as_examples])
def test_each_epoch_has_an_order_of_its_own_that_the_seed_or_the_generator_draws(
    form: Callable[[int, int], object],
) -> None:
    """Without either the seed is 0; a generator goes on from where it stands."""
    first, second = orders(form)

    assert sorted(first) == sorted(second) == list(range(100))
    assert first != sorted(first)
    assert second != first
    assert orders(form, seed=0) == [first, second]
    assert orders(form, generator=torch.Generator().manual_seed(0)) == [first, second]
    assert orders(form, seed=1) != [first, second]
    assert orders(form, generator=torch.Generator().manual_seed(1)) == orders(form, seed=1)


def test_a_tensor_dataset_of_images_and_labels_is_the_pair_of_them() -> None:
    """It is cut by index as the pair is; one of three tensors is no data of `fit`."""
    model, shapes_seen = nn.Linear(3, 2), []
    model.register_forward_pre_hook(lambda model, args: shapes_seen.append(args[0].shape))
    images, labels = torch.ones(2, 3), torch.tensor([0, 1])

    fit(model, TensorDataset(images, labels), epochs=1)

    assert shapes_seen == [(2, 3)]
    assert orders(as_tensors) == orders(as_pair)
    with pytest.raises(ValueError, match="too many values"):
        fit(model, TensorDataset(images, labels, labels), epochs=1)


def batches_seen(examples: int, **options: Any) -> list[int]:
    """Return the sizes of the batches that `fit` gives a model of one parameter."""
    model, sizes = nn.Linear(1, 2), []
    model.register_forward_pre_hook(lambda model, args: sizes.append(len(args[0])))
    labels = torch.zeros(examples, dtype=torch.int64)
    fit(model, (torch.ones(examples, 1), labels), epochs=1, **options)
    return sizes


def test_a_batch_has_64_examples_and_comes_in_one_piece_unless_asked_otherwise() -> None:
    """Pieces are cut from batches: they do not run over into the next one."""
    assert batches_seen(130) == [64, 64, 2]
    assert batches_seen(6, batch_size=4) == [4, 2]
    assert batches_seen(6, batch_size=4, accumulate=2) == [2, 2, 1, 1]


def test_an_epoch_counts_from_1_and_takes_whole_batches() -> None:
    """Called by itself, without `fit`."""
    model, sizes = nn.Linear(1, 2), []
    model.register_forward_pre_hook(lambda model, args: sizes.append(len(args[0])))
    loader = [(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))]
    sgd = SGD(model.parameters(), lr=0.1)

    train_epoch(model, loader, F.cross_entropy, sgd)

    assert sizes == [2]
    with pytest.raises(DivergedError, match=r"^epoch 1, batch 1: "):
        train_epoch(model, [(loader[0][0] * math.nan, loader[0][1])], F.cross_entropy, sgd)


def test_no_progress_is_shown_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is for those who want one."""
    shown: list[bool] = []
    bar = training.progress_bar
    monkeypatch.setattr(
        training, "progress_bar", lambda total, asked: shown.append(asked) or bar(total, False)
    )

    fit(nn.Linear(2, 2), examples(), epochs=1)
    fit(nn.Linear(2, 2), examples(), epochs=1, progress=True)

    assert shown == [False, True]


def test_the_workers_of_a_training_share_each_of_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model begins as that of the first worker, and every step gets the group."""
    model, group, started, given = nn.Linear(2, 2), object(), [], []
    monkeypatch.setattr(training, "joined_workers", lambda model: started.append(model) or group)
    monkeypatch.setattr(
        training, "train_step", lambda *batch, **options: given.append(options) or 1.0
    )

    fit(model, examples(), epochs=1, batch_size=2, accumulate=3)

    assert started == [model]
    assert given
    assert all(options == {"accumulate": 3, "workers": group} for options in given)


def test_a_worker_begins_with_the_tensors_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and buffers, once torch.distributed has joined processes, and not before."""
    model, sent = nn.BatchNorm1d(2), []
    monkeypatch.setattr(
        torch.distributed, "broadcast", lambda tensor, *, src: sent.append((tensor, src))
    )

    assert joined_workers(model) is None
    assert not sent
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    joined_workers(model)

    tensors_of_it = list(model.state_dict().values())
    assert [src for _, src in sent] == [0] * len(tensors_of_it)
    assert [tensor.data_ptr() for tensor, _ in sent] == [t.data_ptr() for t in tensors_of_it]


def test_bytes_are_normalized_batch_by_batch() -> None:
    """Images of dtype uint8, from any form of data, reach the model as floats from -1 to 1."""
    images, labels = torch.tensor([[0, 255], [51, 204]], dtype=torch.uint8), torch.tensor([0, 1])
    for data in ((images, labels), DataLoader(TensorDataset(images, labels), batch_size=2)):
        model = Recorder()

        fit(model, data, epochs=1, loss_fn=model.loss, optimizer=SGD(model.parameters(), lr=0.1))

        torch.testing.assert_close(sorted(model.seen), [-1.0, -0.6, 0.6, 1.0])


@pytest.mark.parametrize(("width", "expected"), [(2, 1), (1001, 2)])
def test_small_models_train_on_one_thread(width: int, expected: int) -> None:
    """A model below a million parameters gets one thread; the caller's number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suppress(KeyError), one_thread(nn.Linear(width, width)):
            assert torch.get_num_threads() == expected
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@settings(max_examples=25)  # each example trains two networks
@given(problem=problems(), accumulate=st.integers(1, 3))
def test_the_fast_route_is_the_same_training(problem: Problem, accumulate: int) -> None:
    """A chain of layers differentiated by hand is trained as the layers are, to the same end."""
    twin = copy.deepcopy(problem.model)
    data = problem.inputs, problem.labels
    options: dict[str, Any] = {"epochs": 1, "batch_size": 3, "accumulate": accumulate}
    by_hand = ByHand(twin)

    slow = fit(problem.model, data, optimizer=SGD(problem.model.parameters(), lr=0.1), **options)
    fast = fit(by_hand, data, optimizer=SGD(by_hand.parameters(), lr=0.1), **options)

    for parameter, other in zip(problem.model.parameters(), twin.parameters(), strict=True):
        assert_close(parameter, other, "both routes lead to the same weights", rtol=1e-4)
    for record, other_record in zip(slow, fast, strict=True):
        assert math.isclose(record.train_loss, other_record.train_loss, rel_tol=1e-4)


def test_the_state_of_a_model_is_that_of_its_training() -> None:
    """A trained model is left in training mode, with nothing frozen that was free."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()

    fit(model, examples(), epochs=1)

    assert state_of(model)["1: training"] is True


def test_two_processes_of_torchrun_train_as_one_does(tmp_path: Path) -> None:
    """The command under torchrun prints once, writes once, and ends with the same weights."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["train", "--epochs=1", "--batch-size=999", "--hidden", "8", "--dropout=0", "--out"]
    outputs = []
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, "-m", "dlconcepts", *options, str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        )
        outputs.append([line for line in finished.stdout.splitlines() if "seconds" not in line])

    one, two = (
        checkpoints.load(tmp_path / name / "checkpoint.pt").model.state_dict()
        for name in ("one", "two")
    )
    for name, value in one.items():
        # The sums have another order, and Adam divides by the root of tiny squares.
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)
    assert [line.replace("/two/", "/one/") for line in outputs[1]] == outputs[0]
