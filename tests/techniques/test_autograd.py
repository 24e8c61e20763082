"""Techniques of autograd, beyond the claims: bad input and edge cases."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from dlconcepts.autograd import ByHand, central_differences, draw_history, gradient, history, leaves
from dlconcepts.strategies import Problem, problems
from dlconcepts.support.bitwise import state_of
from tests.autograd.common import assert_close, float64


def test_a_long_history_needs_no_recursion() -> None:
    """A history of ten thousand operations overflows no stack, and its drawing shows each one."""
    x = torch.ones((), requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y * 1.0

    assert len(history(y)) == 10_001
    assert leaves(y)[0] is x
    assert len(draw_history(y).splitlines()) == 10_001


def test_the_drawing_names_inputs_by_their_lines() -> None:
    """Each line has a number, an operation and its inputs' numbers; a leaf has its shape."""
    weight = torch.ones(2, 3, requires_grad=True)
    drawing = draw_history((weight * weight.exp()).mean())

    assert [line.split() for line in drawing.splitlines()] == [
        ["1", "Mean", "of", "2"],
        ["2", "Mul", "of", "4,", "3"],
        ["3", "Exp", "of", "4"],
        ["4", "leaf", "of", "shape", "(2,", "3)"],
    ]
    assert draw_history(torch.ones(1)) == ""


@pytest.mark.parametrize("differentiate", [gradient, central_differences])
def test_a_tensor_without_elements_has_a_gradient_without_elements(
    differentiate: Callable[..., Tensor],
) -> None:
    """The gradient of a tensor without elements has its shape."""
    assert differentiate(torch.sum, torch.zeros(0, 2, dtype=float64)).shape == (0, 2)


def test_a_layer_without_bias_cannot_be_differentiated_by_hand() -> None:
    """ByHand refuses it before it changes the model."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    before = state_of(model)

    with pytest.raises(ValueError, match="needs a weight and a bias"):
        ByHand(model)

    assert state_of(model) == before


@given(problem=problems(dtype=float64))
def test_a_model_learns_with_the_module_that_wraps_it(problem: Problem) -> None:
    """A step on ByHand's parameter changes the model; the inputs get a gradient, too."""
    by_hand = ByHand(nn.Sequential(nn.Flatten(), *problem.model))
    inputs = problem.inputs.clone().requires_grad_()
    by_hand(inputs).sum().backward()
    expected = gradient(lambda x: problem.model(x).sum(), problem.inputs)

    torch.optim.SGD(by_hand.parameters(), lr=0.5).step()

    assert_close(inputs.grad, expected, "the inputs get their gradient")
    assert_close(
        by_hand(inputs).detach(),
        problem.model(problem.inputs).detach(),
        "both compute one function",
    )
