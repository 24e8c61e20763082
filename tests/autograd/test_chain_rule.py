"""The chain rule.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: The gradient for a weight is the product of the gradients along the path from the loss to
    it.
Verdict: holds-if
Truth: The product of Jacobians along a path, summed over all paths.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.autograd import ByHand, central_differences, chain_rule, gradient, sum_over_paths
from dlconcepts.strategies import Problem, networks, problems, tensors
from dlconcepts.testing.laws import law
from tests.autograd.common import assert_close, float64, gradients_of


def multiplies_in_the_wrong_order(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor
) -> Tensor:
    """Multiply the Jacobians in the order in which the functions are applied."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        product = product @ torch.func.jacrev(function)(x)
        x = function(x)
    return product.detach()


def takes_every_jacobian_at_the_input(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor
) -> Tensor:
    """Forget that each function is differentiated where the one before has led to."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        product = torch.func.jacrev(function)(x) @ product
    return product.detach()


@st.composite
def square_chains(draw: st.DrawFn) -> tuple[nn.Sequential, Tensor]:
    """Draw a network whose layers all have one width, and one input for it."""
    width, depth = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    model = draw(networks([width] * depth, dtype=float64))
    return model, draw(tensors((width,), float64, max_magnitude=9.0))


@law(
    right=chain_rule,
    wrong={
        multiplies_in_the_wrong_order: "product of the layers' Jacobians",
        takes_every_jacobian_at_the_input: "product of the layers' Jacobians",
    },
)
@given(chain=square_chains())
def test_the_jacobian_is_the_product_of_the_layers_jacobians(
    chain_rule: Callable[..., Tensor], chain: tuple[nn.Sequential, Tensor]
) -> None:
    """The last layer's Jacobian comes first; autograd gives the same for the whole network."""
    model, x = chain

    product = chain_rule(list(model), x)

    expected = torch.autograd.functional.jacobian(model, x)
    assert_close(product, expected, "the Jacobian is the product of the layers' Jacobians")


def takes_the_last_path_only(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Follow the weight to its last use and stop."""
    constants = [weight.detach()] * (uses - 1)
    return gradient(lambda last: function(*constants, last), weight)


def multiplies_the_paths(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Multiply the gradients of different paths, as one does along a path."""
    copies = [weight.detach().clone().requires_grad_() for _ in range(uses)]
    return torch.stack(torch.autograd.grad(function(*copies), copies)).prod(0)


@law(
    right=sum_over_paths,
    wrong={takes_the_last_path_only: "paths add", multiplies_the_paths: "paths add"},
)
@given(
    weight=tensors((2, 2), float64, max_magnitude=3.0, layouts=["contiguous"]),
    x=tensors((2,), float64, max_magnitude=3.0),
    uses=st.integers(1, 3),
)
def test_the_paths_of_a_shared_weight_add(
    sum_over_paths: Callable[..., Tensor], weight: Tensor, x: Tensor, uses: int
) -> None:
    """A weight that is used several times gets the sum of the gradients along all its paths."""

    def loss(*weights: Tensor) -> Tensor:
        return (reduce(lambda value, w: w @ value, weights, x) * torch.tensor([1.0, 2.0])).sum()

    found = sum_over_paths(loss, weight, uses)

    shared = gradient(lambda w: loss(*[w] * uses), weight)
    assert_close(found, shared, "the gradients of the paths add")
    numeric = central_differences(lambda w: loss(*[w] * uses), weight)
    assert_close(found, numeric, "the gradients of the paths add", rtol=1e-7, atol=1e-7)


def gradients_by_hand(problem: Problem) -> Tensor:
    """Return the gradients of all parameters, flat, by the backward written by hand."""
    by_hand = ByHand(problem.model)
    problem.loss_fn(by_hand(problem.inputs), problem.labels).backward()
    return by_hand.flat.grad


def with_rules(relu_slope: Callable[[Tensor, Tensor], Tensor], transpose: bool, mean: bool) -> Any:
    """Return a backward by hand, as it is often written, with rules that may be wrong."""

    def by_hand(problem: Problem) -> Tensor:
        linears, taken = list(problem.model)[::2], [problem.inputs]
        for layer in linears[:-1]:
            taken.append(layer(taken[-1]).relu().detach())
        logits = linears[-1](taken[-1]).detach().requires_grad_()
        problem.loss_fn(logits, problem.labels).backward()
        delta, gradients = logits.grad, []
        for layer, x in reversed(list(zip(linears, taken, strict=True))):
            weight = (x.T @ delta).T if transpose else delta.T @ x
            gradients = [weight.flatten(), delta.mean(0) if mean else delta.sum(0), *gradients]
            delta = relu_slope(delta @ layer.weight, x).detach()
        return torch.cat(gradients).detach()

    return by_hand


def forgets_the_slope_of_relu(problem: Problem) -> Tensor:
    """Go back through the layers as if nothing were between them."""
    return with_rules(lambda delta, x: delta, transpose=False, mean=False)(problem)


def slope_from_the_wrong_sign(problem: Problem) -> Tensor:
    """Let the gradient through where ReLU is zero, too."""
    return with_rules(lambda delta, x: delta * (x >= 0), transpose=False, mean=False)(problem)


def takes_little_for_nothing(problem: Problem) -> Tensor:
    """Take for zero what hardly came out of a ReLU."""
    return with_rules(lambda delta, x: delta * (x > 1e-3), transpose=False, mean=False)(problem)


def averages_the_bias(problem: Problem) -> Tensor:
    """Take the mean over the batch for the bias, though the loss is a mean already."""
    return with_rules(lambda delta, x: delta * (x > 0), transpose=False, mean=True)(problem)


@law(
    right=gradients_by_hand,
    wrong={
        forgets_the_slope_of_relu: "autograd's gradient",
        slope_from_the_wrong_sign: "autograd's gradient",
        takes_little_for_nothing: "autograd's gradient",
        averages_the_bias: "autograd's gradient",
    },
)
@given(problem=problems(dtype=float64), scale=st.sampled_from([1.0, 1e-6]))
def test_the_backward_by_hand_equals_autograd(
    by_hand: Callable[[Problem], Tensor], problem: Problem, scale: float
) -> None:
    """Layer by layer, the gradient that comes in times the layer's Jacobian is autograd's."""
    with torch.no_grad():
        for parameter in problem.model[0].parameters():
            parameter.mul_(scale)  # so that little comes out of the first layer
    expected = torch.cat(
        [
            grad.flatten()
            for grad in gradients_of(problem.model, problem.loss_fn, problem.inputs, problem.labels)
        ]
    )

    assert_close(by_hand(problem), expected, "each weight gets autograd's gradient")
