"""Gradients accumulate.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Each call to backward adds to the gradients, so they must be zeroed.
Verdict: holds
"""

from collections.abc import Callable, Iterable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import Problem, batches, problems
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.autograd.common import (
    OPTIMIZERS,
    MicroBatches,
    assert_close,
    float64,
    gradients,
    gradients_of,
)


def backward_for_each(model: nn.Module, losses: Iterable[Tensor]) -> None:
    """Call backward on each loss."""
    for loss in losses:
        loss.backward()


def overwrites(model: nn.Module, losses: Iterable[Tensor]) -> None:
    """Store each gradient in place of the last."""
    for loss in losses:
        model.zero_grad()
        loss.backward()


def averages(model: nn.Module, losses: Iterable[Tensor]) -> None:
    """Expect the mean of the gradients."""
    losses = list(losses)
    (torch.stack(losses).mean()).backward()


@st.composite
def many_batches(draw: st.DrawFn, count: int = 3) -> tuple[Problem, MicroBatches]:
    """Draw a problem and some batches for it."""
    problem = draw(problems(dtype=float64, max_size=3))
    features, classes = problem.model[0].in_features, problem.model[-1].out_features
    drawn = batches(features, classes, max_size=3, dtype=float64)
    return problem, draw(st.lists(drawn, min_size=1, max_size=count))


@law(
    right=backward_for_each,
    wrong={overwrites: "sum of the k gradients", averages: "sum of the k gradients"},
)
@given(drawn=many_batches())
def test_gradients_of_several_backwards_add(
    backward: Callable[[nn.Module, Iterable[Tensor]], None], drawn: tuple[Problem, MicroBatches]
) -> None:
    """After k backwards each parameter holds the sum of the k gradients."""
    problem, many = drawn
    model, loss_fn = problem.model, problem.loss_fn
    separate = [gradients_of(model, loss_fn, *batch) for batch in many]

    backward(model, [loss_fn(model(inputs), labels) for inputs, labels in many])

    for found, parts in zip(gradients(model), zip(*separate, strict=True), strict=True):
        assert_close(found, sum(parts[1:], start=parts[0]), "grad is the sum of the k gradients")


def never_zeroes(model: nn.Module) -> None:
    """Leave the gradients of the last batch where they are."""


def zeroes_the_first_parameter(model: nn.Module) -> None:
    """Zero the gradient of the first layer's weight only."""
    next(iter(model.parameters())).grad = None


def zeroes_the_weights(model: nn.Module) -> None:
    """Forget the biases."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.grad = None


@law(
    right=nn.Module.zero_grad,
    wrong={
        never_zeroes: "stands alone",
        zeroes_the_first_parameter: "stands alone",
        zeroes_the_weights: "stands alone",
    },
)
@given(drawn=many_batches())
def test_after_zeroing_the_next_gradient_stands_alone(
    zero_grad: Callable[[nn.Module], None], drawn: tuple[Problem, MicroBatches]
) -> None:
    """What earlier batches left is gone from every parameter."""
    problem, earlier = drawn
    model, loss_fn = problem.model, problem.loss_fn
    expected = gradients_of(model, loss_fn, problem.inputs, problem.labels)
    for inputs, labels in earlier:
        loss_fn(model(inputs), labels).backward()

    zero_grad(model)
    loss_fn(model(problem.inputs), problem.labels).backward()

    for found, alone in zip(gradients(model), expected, strict=True):
        assert_close(found, alone, "after zero_grad the next gradient stands alone")


def forgets(parameter: nn.Parameter) -> None:
    """Leave no gradient, as zero_grad() does."""
    parameter.grad = None


def fills_with_zeros(parameter: nn.Parameter) -> None:
    """Leave a gradient of zeros, as zero_grad(set_to_none=False) does."""
    parameter.grad = torch.zeros_like(parameter)


@law(
    right=forgets,
    wrong={fills_with_zeros: "without a gradient stays"},
)
@given(start=st.integers(1, 9), slope=st.integers(1, 9), name=st.sampled_from(sorted(OPTIMIZERS)))
def test_none_is_not_zero_to_an_optimizer_with_a_memory(
    zero_grad: Callable[[nn.Parameter], None], start: int, slope: int, name: str
) -> None:
    """A gradient of zero moves a parameter by momentum or weight decay; None never does."""
    parameter = nn.Parameter(torch.tensor(float(start)))
    optimizer = OPTIMIZERS[name]([parameter])
    parameter.grad = torch.tensor(float(slope))
    optimizer.step()
    before = parameter.detach().clone()

    zero_grad(parameter)
    optimizer.step()

    assert same(parameter.detach(), before), f"a parameter without a gradient stays, under {name}"
    parameter.grad = torch.zeros(())
    optimizer.step()
    moved = not same(parameter.detach(), before)
    assert moved == (name != "plain SGD"), f"a gradient of zero moves it, under {name} as well"
