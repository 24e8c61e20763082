"""Each backward adds to the gradients, so they must be zeroed.

>>> w = torch.tensor([1.0, 2.0], requires_grad=True)
>>> for _ in range(3):
...     w.square().sum().backward()
...     print(w.grad)
tensor([2., 4.])
tensor([4., 8.])
tensor([ 6., 12.])

Notes: Each call to `backward` adds to the gradients, so they must be zeroed.
Verdict: holds
Truth: After k backwards `grad` is the sum of k gradients; after `zero_grad` the next gradient
    stands alone. An optimizer skips a parameter whose gradient is None. Zero is the same only to
    plain SGD and Adagrad: momentum, weight decay and Adam move the parameter; RMSprop, Adadelta and
    Rprop leave it, but change their state and so the next step.
"""

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.autograd import LossFunction, accumulate
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


def backward_for_each(model: nn.Module, loss_fn: LossFunction, many: MicroBatches) -> None:
    for batch in many:
        accumulate(model, loss_fn, [batch])


def overwrites(model: nn.Module, loss_fn: LossFunction, many: MicroBatches) -> None:
    """Replace the stored gradient each time."""
    for inputs, labels in many:
        model.zero_grad()
        loss_fn(model(inputs), labels).backward()


def averages(model: nn.Module, loss_fn: LossFunction, many: MicroBatches) -> None:
    """Average the losses, so the gradients are averaged too."""
    torch.stack([loss_fn(model(inputs), labels) for inputs, labels in many]).mean().backward()


@st.composite
def many_batches(draw: st.DrawFn) -> tuple[Problem, MicroBatches]:
    """Draw a problem and more batches for its network."""
    problem = draw(problems(dtype=float64, max_size=3))
    features, classes = problem.model[0].in_features, problem.model[-1].out_features
    drawn = batches(features, classes, max_size=3, dtype=float64)
    return problem, draw(st.lists(drawn, min_size=1, max_size=3))


@law(
    right=backward_for_each,
    wrong={overwrites: "sum of the k gradients", averages: "sum of the k gradients"},
)
@given(drawn=many_batches())
def test_gradients_of_several_backwards_add(
    backward: Callable[..., None], drawn: tuple[Problem, MicroBatches]
) -> None:
    """After k backwards, the grad of each parameter is the sum of k gradients."""
    problem, many = drawn
    model, loss_fn = problem.model, problem.loss_fn
    separate = [gradients_of(model, loss_fn, *batch) for batch in many]

    backward(model, loss_fn, many)

    for found, parts in zip(gradients(model), zip(*separate, strict=True), strict=True):
        assert_close(found, sum(parts[1:], start=parts[0]), "grad is the sum of the k gradients")


def never_zeroes(model: nn.Module) -> None:
    """Keep the gradients of earlier batches."""


def zeroes_the_first_parameter(model: nn.Module) -> None:
    """Zero only the gradient of the first layer's weight."""
    next(iter(model.parameters())).grad = None


def zeroes_the_weights(model: nn.Module) -> None:
    """Zero the weights' gradients and forget the biases."""
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
    """After zero_grad, every parameter gets the gradient of the next batch alone."""
    problem, earlier = drawn
    model, loss_fn = problem.model, problem.loss_fn
    expected = gradients_of(model, loss_fn, problem.inputs, problem.labels)
    for inputs, labels in earlier:
        loss_fn(model(inputs), labels).backward()

    zero_grad(model)
    loss_fn(model(problem.inputs), problem.labels).backward()

    for found, alone in zip(gradients(model), expected, strict=True):
        assert_close(found, alone, "after zero_grad the next gradient stands alone")


def fills_with_zeros(parameter: nn.Parameter) -> None:
    """Set the gradient to zeros, as zero_grad(set_to_none=False) does."""
    parameter.grad = torch.zeros_like(parameter)


def sets_to_none(parameter: nn.Parameter) -> None:
    parameter.grad = None  # as zero_grad() does


def keeps_the_gradient(parameter: nn.Parameter) -> None:
    """Leave the last gradient in place, so that the step is taken again."""


MORE_OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    **OPTIMIZERS,
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.5),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.5),
    "Adadelta": lambda parameters: torch.optim.Adadelta(parameters, lr=0.5),
    "Rprop": lambda parameters: torch.optim.Rprop(parameters, lr=0.5),
}
MOVED_BY_ZERO = ("momentum", "weight decay", "Adam")
BLIND_TO_ZERO = ("plain SGD", "Adagrad")


@law(
    right=sets_to_none,
    wrong={
        fills_with_zeros: "without a gradient stays",
        keeps_the_gradient: "without a gradient stays",
    },
)
@given(
    start=st.integers(1, 9), slope=st.integers(1, 9), name=st.sampled_from(sorted(MORE_OPTIMIZERS))
)
def test_to_an_optimizer_none_is_not_zero(
    zero_grad: Callable[[nn.Parameter], None], start: int, slope: int, name: str
) -> None:
    """Momentum, weight decay and Adam move a parameter whose gradient is zero, not None."""
    parameter = nn.Parameter(torch.tensor(float(start)))
    optimizer = MORE_OPTIMIZERS[name]([parameter])
    parameter.grad = torch.tensor(float(slope))
    optimizer.step()
    before = parameter.detach().clone()

    zero_grad(parameter)
    optimizer.step()

    assert same(parameter.detach(), before), f"a parameter without a gradient stays, under {name}"
    parameter.grad = torch.zeros(())
    optimizer.step()
    moved = not same(parameter.detach(), before)
    assert moved == (name in MOVED_BY_ZERO), (
        f"a gradient of zero moves it under momentum, weight decay and Adam ({name})"
    )


@law(
    right=sets_to_none,
    wrong={fills_with_zeros: "leaves no trace", keeps_the_gradient: "leaves no trace"},
)
@given(
    start=st.integers(1, 9), slope=st.integers(1, 9), name=st.sampled_from(sorted(MORE_OPTIMIZERS))
)
def test_only_none_leaves_no_trace_in_the_optimizer(
    zero_grad: Callable[[nn.Parameter], None], start: int, slope: int, name: str
) -> None:
    """After a step without a gradient, the next one is as if there had been no such step."""

    def end(between: Callable[[nn.Parameter], None] | None) -> Tensor:
        parameter = nn.Parameter(torch.tensor(float(start), dtype=float64))
        optimizer = MORE_OPTIMIZERS[name]([parameter])
        steps = [None, between, None] if between else [None, None]
        for change in steps:
            parameter.grad = torch.tensor(float(slope), dtype=float64)
            if change:
                change(parameter)
            optimizer.step()
        return parameter.detach()

    assert same(end(zero_grad), end(None)), f"a step without a gradient leaves no trace ({name})"
    assert same(end(fills_with_zeros), end(None)) == (name in BLIND_TO_ZERO), (
        f"a step of zero leaves no trace only under plain SGD and Adagrad ({name})"
    )
