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

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

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


def changes_the_mode(*arguments: Any) -> float:
    """Switch dropout off for the step."""
    arguments[0].eval()
    return train_step(*arguments)


def computes_the_whole_batch(*arguments: Any, accumulate: int = 1) -> float:
    """Ignore `accumulate`, so the memory must hold the whole batch."""
    return train_step(*arguments)


def averages_the_pieces(*arguments: Any, accumulate: int = 1) -> float:
    """Average the means of the pieces, though the last may be smaller."""
    model, loss_fn, optimizer, *batch = arguments
    optimizer.zero_grad()
    cut = list(zip(*(part.chunk(accumulate) for part in batch), strict=True))
    losses = [loss_fn(model(inputs), labels) / len(cut) for inputs, labels in cut]
    sum(losses).backward()
    optimizer.step()
    return sum(losses).item()


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
        averages_the_pieces: "its own batch alone",
        reports_the_loss_after_the_step: "the loss before the step",
        changes_the_mode: "keeps the model's mode",
        computes_the_whole_batch: "in as many pieces",
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
    # Most of the mistakes compute each batch in one piece.
    cut = {"accumulate": accumulate} if takes_accumulate(train_step) else {}
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda model, arguments: sizes.append(len(arguments[0])))

    reported = train_step(model, loss_fn, optimizer, problem.inputs, problem.labels, **cut)

    for parameter, value in zip(model.parameters(), expected, strict=True):
        assert_close(parameter, value, "a step follows the gradient of its own batch alone")
    assert type(reported) is float, "the loss is a Python number"
    # Room for a sum of the pieces' losses in float32.
    assert math.isclose(reported, loss.item(), rel_tol=1e-6, abs_tol=1e-12), (
        "the loss reported is the loss before the step"
    )
    assert model.training, "a step keeps the model's mode"
    largest = math.ceil(len(problem.labels) / cut.get("accumulate", 1))
    assert max(sizes) <= largest, "the batch is computed in as many pieces as asked for"


def takes_accumulate(train_step: Callable[..., float]) -> bool:
    return "accumulate" in inspect.signature(train_step).parameters


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


def cuts_to_the_shorter(
    model: nn.Module, loss_fn: Callable[..., Tensor], optimizer: Optimizer, *batch: Tensor, **_: int
) -> float:
    """Use as many images as labels, without an error."""
    return never_zeroes(model, loss_fn, optimizer, *(part[:1] for part in batch))


@law(right=train_step, wrong={cuts_to_the_shorter: "DID NOT RAISE"})
@given(problem=problems(min_size=2), summed=st.booleans(), accumulate=st.integers(2, 3))
def test_a_batch_that_has_no_mean_is_refused(
    train_step: Callable[..., float], problem: Problem, summed: bool, accumulate: int
) -> None:
    """Too few labels, or pieces of a loss that is a sum, raise ValueError; no parameter moves."""
    before = [bits(parameter) for parameter in problem.model.parameters()]
    optimizer = SGD(problem.model.parameters(), lr=0.5)
    loss_fn = nn.CrossEntropyLoss(reduction="sum" if summed else "mean")
    labels = problem.labels if summed else problem.labels[1:]

    with pytest.raises(ValueError, match="a mean over the batch" if summed else "images but"):
        train_step(problem.model, loss_fn, optimizer, problem.inputs, labels, accumulate=accumulate)

    assert [bits(p) for p in problem.model.parameters()] == before, "the parameters stay"
