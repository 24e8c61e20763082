"""A training step zeroes the gradients, then calls forward, loss, backward, step.

>>> w = nn.Parameter(torch.tensor(9.0))
>>> sgd = torch.optim.SGD([w], lr=1.0)
>>> for slope in (1, 2):
...     sgd.zero_grad()  # without this line the second step would use 1 + 2
...     (slope * w).backward()
...     sgd.step()
...     print(w.item())
8.0
6.0

Notes: Forward, loss, backward, step, with the gradients zeroed once in each iteration.
Verdict: holds
Truth: A step of plain SGD depends only on the current weights and on its own batch: it moves w to
    w - lr * the gradient of that batch's loss. Momentum and Adam remember the gradients of earlier
    batches in the optimizer. Neither depends on the gradients that a batch before left in `.grad`.
    zero_grad sets them to None, so a parameter that takes no part in a batch stays where it is.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from dlconcepts.strategies import Problem, batches, problems
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from dlconcepts.training import DivergedError, train_step
from tests.training.common import assert_close, float64


def never_zeroes(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Forget `zero_grad`."""
    loss = loss_fn(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss.item()


def zeroes_before_the_step(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Zero the gradients between backward and step, so nothing is learnt."""
    loss = loss_fn(model(batch[0]), batch[1])
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


def goes_back_twice(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Call backward twice, which doubles the gradient."""
    optimizer.zero_grad()
    loss = loss_fn(model(batch[0]), batch[1])
    loss.backward(retain_graph=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def steps_before_backward(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Step before backward, on the gradients of the previous batch."""
    loss = loss_fn(model(batch[0]), batch[1])
    optimizer.step()
    optimizer.zero_grad()
    loss.backward()
    return loss.item()


def detaches_the_outputs(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Detach the outputs and silence the error, so no gradient reaches the model."""
    optimizer.zero_grad()
    loss = loss_fn(model(batch[0]).detach().requires_grad_(), batch[1])
    loss.backward()
    optimizer.step()
    return loss.item()


def reports_the_loss_after_the_step(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Compute the reported loss again after the step."""
    train_step(model, loss_fn, optimizer, *batch)
    return loss_fn(model(batch[0]), batch[1]).item()


def averages_two_halves(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Cut the batch in two, and weight each mean by its examples, though class weights count."""
    optimizer.zero_grad()
    total = 0.0
    for inputs, labels in zip(batch[0].chunk(2), batch[1].chunk(2), strict=True):
        loss = loss_fn(model(inputs), labels) * len(labels) / len(batch[1])
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


@st.composite
def problems_with_a_past(draw: st.DrawFn) -> tuple[Problem, tuple[Tensor, Tensor]]:
    """Draw a problem, and an earlier batch for its model."""
    problem = draw(problems(dtype=float64, any_loss=True))
    sizes = problem.model[0].in_features, problem.model[-1].out_features
    return problem, draw(batches(*sizes, max_size=2, dtype=float64))


@law(
    right=train_step,
    wrong={
        never_zeroes: "its own batch alone",
        zeroes_before_the_step: "its own batch alone",
        goes_back_twice: "its own batch alone",
        steps_before_backward: "its own batch alone",
        detaches_the_outputs: "its own batch alone",
        averages_two_halves: "its own batch alone",
        reports_the_loss_after_the_step: "the loss before the step",
    },
)
@given(drawn=problems_with_a_past(), accumulate=st.integers(1, 3))
def test_a_step_follows_its_own_batch_alone(
    train_step: Callable[..., float],
    drawn: tuple[Problem, tuple[Tensor, Tensor]],
    accumulate: int,
) -> None:
    """A step moves w to w - lr * gradient of its batch's loss, whatever gradients were left."""
    problem, earlier = drawn
    model, loss_fn = problem.model, problem.loss_fn
    optimizer = SGD(model.parameters(), lr=0.5)
    F.cross_entropy(model(earlier[0]), earlier[1]).backward()
    loss = loss_fn(model(problem.inputs), problem.labels)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    expected = [(p - 0.5 * g).detach() for p, g in zip(model.parameters(), slopes, strict=True)]
    # The mistakes compute each batch in one piece.
    pieces = {"accumulate": accumulate} if train_step.__name__ == "train_step" else {}

    reported = train_step(model, loss_fn, optimizer, problem.inputs, problem.labels, **pieces)

    for parameter, value in zip(model.parameters(), expected, strict=True):
        assert_close(parameter, value, "a step follows the gradient of its own batch alone")
    assert type(reported) is float, "the loss is a Python number"
    assert math.isclose(reported, loss.item(), rel_tol=1e-9, abs_tol=1e-12), (
        "the loss reported is the loss before the step"
    )


def starts_without_momentum(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Build the optimizer anew in each iteration, so it forgets its momentum."""
    fresh = SGD(model.parameters(), **optimizer.defaults)
    return train_step(model, loss_fn, fresh, *batch)


@law(right=train_step, wrong={starts_without_momentum: "continues the momentum"})
@given(drawn=problems_with_a_past(), momentum=st.sampled_from([0.5, 0.9]))
def test_a_step_continues_the_momentum(
    train_step: Callable[..., float],
    drawn: tuple[Problem, tuple[Tensor, Tensor]],
    momentum: float,
) -> None:
    """With momentum m, a step moves w by -lr * (gradient + m * the previous velocity)."""
    problem, earlier = drawn
    model, loss_fn = problem.model, problem.loss_fn
    optimizer = SGD(model.parameters(), lr=0.5, momentum=momentum)
    first = torch.autograd.grad(F.cross_entropy(model(earlier[0]), earlier[1]), model.parameters())
    for parameter, velocity in zip(model.parameters(), first, strict=True):
        parameter.grad = velocity.clone()
    optimizer.step()  # the first velocity is the gradient itself
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = loss_fn(model(problem.inputs), problem.labels)
    slopes = torch.autograd.grad(loss, list(model.parameters()))

    train_step(model, loss_fn, optimizer, problem.inputs, problem.labels)

    for parameter, start, velocity, g in zip(
        model.parameters(), before, first, slopes, strict=True
    ):
        expected = start - 0.5 * (g + momentum * velocity)
        assert_close(parameter, expected, "a step continues the momentum")


def keeps_zeros(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Set the gradients to 0 instead of None, so momentum and weight decay still act."""
    optimizer.zero_grad(set_to_none=False)
    return never_zeroes(model, loss_fn, optimizer, *batch)


@law(
    right=train_step,
    wrong={keeps_zeros: "takes no part", never_zeroes: "takes no part"},
)
@given(
    problem=problems(dtype=float64),
    make=st.sampled_from([partial(SGD, momentum=0.9), partial(SGD, weight_decay=0.1), Adam]),
)
def test_a_parameter_that_takes_no_part_stays(
    train_step: Callable[..., float],
    problem: Problem,
    make: Callable[..., Optimizer],
) -> None:
    """A parameter without a gradient stays, whatever the optimizer remembers of it."""
    model = problem.model
    model.other = nn.Parameter(torch.ones(2, dtype=float64))  # the forward pass does not use it
    optimizer = make([model.other], lr=0.1)
    optimizer.add_param_group({"params": list(model[0].parameters())})
    model.other.grad = torch.ones_like(model.other)  # as a batch before may have left it
    optimizer.step()
    before = bits(model.other)

    train_step(model, problem.loss_fn, optimizer, problem.inputs, problem.labels)

    assert bits(model.other) == before, "a parameter that takes no part in a batch stays"


def steps_on_anything(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor
) -> float:
    """Step without checking the loss, which turns the weights into NaN."""
    return never_zeroes(model, loss_fn, optimizer, *batch)


@law(right=train_step, wrong={steps_on_anything: "DID NOT RAISE"})
@given(problem=problems(), bad=st.sampled_from([math.nan, math.inf]), lr=st.sampled_from([0.1, 2]))
def test_a_loss_that_is_not_finite_stops_before_the_step(
    train_step: Callable[..., float], problem: Problem, bad: float, lr: float
) -> None:
    """A NaN or infinite loss raises an error that names the learning rate; no parameter moves."""
    before = [bits(parameter) for parameter in problem.model.parameters()]
    optimizer = SGD(problem.model.parameters(), lr=lr)

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return problem.loss_fn(outputs, labels) + bad

    with pytest.raises(DivergedError, match=f"the loss is {bad} with learning rate {lr};"):
        train_step(problem.model, loss_fn, optimizer, problem.inputs, problem.labels)

    assert [bits(p) for p in problem.model.parameters()] == before, "the parameters stay"
