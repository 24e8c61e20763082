"""A gradient is the product of Jacobians along a path, summed over all paths.

>>> w = torch.tensor(3.0, requires_grad=True)
>>> u = 2 * w
>>> (u.square() + 5 * w).backward()
>>> w.grad
tensor(29.)
>>> 2 * u.item() * 2 + 5
29.0

Notes: The gradient for a weight is the product of the gradients along the path from the loss to
    it.
Verdict: holds-if
Truth: Along one path the Jacobians are multiplied, the last layer's first. If several paths lead
    from the loss to a weight, the products of all paths add.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.autograd import ByHand, central_differences, chain_rule, gradient, sum_over_paths
from dlconcepts.strategies import Problem, networks, problems, tensors
from dlconcepts.support.bitwise import state_of
from dlconcepts.testing.laws import law
from tests.autograd.common import assert_close, float64, gradients_of


def multiplies_in_the_wrong_order(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor
) -> Tensor:
    """Multiply the Jacobians from left to right, in the order of the layers."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        product = product @ torch.func.jacrev(function)(x)
        x = function(x)
    return product.detach()


def takes_every_jacobian_at_the_input(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor
) -> Tensor:
    """Take every Jacobian at the network's input instead of at the layer's."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        product = torch.func.jacrev(function)(x) @ product
    return product.detach()


def takes_each_jacobian_at_the_output(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor
) -> Tensor:
    """Take a layer's Jacobian at what the layer returned, where ReLU has the same one."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        x = function(x)
        product = torch.func.jacrev(function)(x) @ product
    return product.detach()


@st.composite
def square_chains(draw: st.DrawFn) -> tuple[nn.Sequential, Tensor]:
    # Layers of one width, so that the Jacobians can be multiplied in any order.
    width, depth = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    model = draw(networks([width] * depth, dtype=float64))
    # ReLU has the same Jacobian at its output as at its input, the others do not.
    activation = draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.Softplus]))
    layers = [activation() if isinstance(layer, nn.ReLU) else layer for layer in model]
    # Not "expanded": torch.func.jvp refuses elements that share memory.
    x = draw(tensors((width,), float64, layouts=["contiguous", "strided"], max_magnitude=9.0))
    return nn.Sequential(*layers), x


@law(
    right=chain_rule,
    wrong={
        multiplies_in_the_wrong_order: "product of the layers' Jacobians",
        takes_every_jacobian_at_the_input: "product of the layers' Jacobians",
        takes_each_jacobian_at_the_output: "product of the layers' Jacobians",
    },
)
@given(chain=square_chains())
def test_the_jacobian_is_the_product_of_the_layers_jacobians(
    chain_rule: Callable[..., Tensor], chain: tuple[nn.Sequential, Tensor]
) -> None:
    """The layers' Jacobians, the last one first, multiply to the Jacobian of the network."""
    model, x = chain

    product = chain_rule(list(model), x)

    expected = torch.autograd.functional.jacobian(model, x)
    assert_close(product, expected, "the Jacobian is the product of the layers' Jacobians")


def takes_the_last_path_only(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Count only the path through the last use of the weight."""
    constants = [weight.detach()] * (uses - 1)
    return gradient(lambda last: function(*constants, last), weight)


def multiplies_the_paths(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Multiply the gradients of different paths, which is right only along one path."""
    copies = [weight.detach().clone().requires_grad_() for _ in range(uses)]
    along_each = torch.autograd.grad(function(*copies), copies, materialize_grads=True)
    return torch.stack(along_each).prod(0)


def insists_on_every_path(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Fail if the function ignores one of its arguments."""
    copies = [weight.detach().clone().requires_grad_() for _ in range(uses)]
    return torch.stack(torch.autograd.grad(function(*copies), copies)).sum(0)


def goes_back_to_the_weight(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Add to the weight's own gradient."""
    function(*[weight.requires_grad_()] * uses).backward()
    return weight.grad


@law(
    right=sum_over_paths,
    wrong={
        takes_the_last_path_only: "paths add",
        multiplies_the_paths: "paths add",
        insists_on_every_path: "ignores adds zero",
        goes_back_to_the_weight: "stays as it was",
    },
)
@given(
    weight=tensors((2, 2), float64, max_magnitude=3.0, layouts=["contiguous"]),
    x=tensors((2,), float64, max_magnitude=3.0),
    uses=st.integers(1, 3),
    ignored=st.integers(0, 1),
)
def test_the_paths_of_a_shared_weight_add(
    sum_over_paths: Callable[..., Tensor], weight: Tensor, x: Tensor, uses: int, ignored: int
) -> None:
    """The gradient of a weight that is used several times is the sum over all its paths."""
    uses += ignored
    factors = torch.tensor([1.0, 2.0])

    def loss(*weights: Tensor) -> Tensor:
        return (reduce(lambda value, w: w @ value, weights[ignored:], x) * factors).sum()

    try:
        found = sum_over_paths(loss, weight, uses)
    except RuntimeError as error:
        pytest.fail(f"an argument that the function ignores adds zero: {error}")

    assert (weight.requires_grad, weight.grad) == (False, None), "the weight stays as it was"
    shared = gradient(lambda w: loss(*[w] * uses), weight)
    assert_close(found, shared, "the gradients of the paths add")
    numeric = central_differences(lambda w: loss(*[w] * uses), weight)
    # Values near 1e3 carry rounding of 1e-13, which is divided by the step of 1e-5.
    assert_close(found, numeric, "the gradients of the paths add", rtol=1e-7, atol=1e-7)


def gradients_by_hand(problem: Problem) -> Tensor:
    by_hand = ByHand(problem.model)
    loss = problem.loss_fn(outputs := by_hand(problem.inputs), problem.labels)
    loss.backward()
    parameters = list(by_hand.parameters())
    assert len(parameters) == 1, "the module has one parameter"
    (flat,) = parameters
    found = []
    for part in problem.model.parameters():
        inside = part.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        assert inside, "the model's parameters are views of the flat one"
        found.append(flat.grad.as_strided(part.shape, part.stride(), part.storage_offset()))
    sources = {source for source, _ in outputs.grad_fn.next_functions if source is not None}
    assert all(hasattr(source, "variable") for source in sources), "autograd visits one node"
    return torch.cat([part.flatten() for part in found])


Rule = Callable[[Tensor, Tensor], Tensor]


def with_rules(problem: Problem, through_relu: Rule, bias: Callable[..., Tensor]) -> Tensor:
    # The usual backpropagation by hand; `outputs` are the inputs and what each ReLU returned.
    linears = [layer for layer in problem.model if isinstance(layer, nn.Linear)]
    outputs = [problem.inputs.flatten(1)]
    for layer in linears[:-1]:
        outputs.append(layer(outputs[-1]).relu().detach())
    logits = linears[-1](outputs[-1]).detach().requires_grad_()
    problem.loss_fn(logits, problem.labels).backward()
    delta, gradients = logits.grad, []
    for layer, x in reversed(list(zip(linears, outputs, strict=True))):
        gradients = [(delta.T @ x).flatten(), bias(delta, 0), *gradients]
        delta = through_relu(delta @ layer.weight, x).detach()
    return torch.cat(gradients).detach()


def forgets_the_slope_of_relu(problem: Problem) -> Tensor:
    """Go back through the layers as if there were no ReLU between them."""
    return with_rules(problem, lambda delta, x: delta, torch.sum)


def slope_from_the_wrong_sign(problem: Problem) -> Tensor:
    """Pass the gradient on where the output of ReLU is zero, not where it is positive."""
    return with_rules(problem, lambda delta, x: delta * (x <= 0), torch.sum)


def treats_small_outputs_as_zero(problem: Problem) -> Tensor:
    """Stop the gradient where the output of ReLU is below 0.001."""
    return with_rules(problem, lambda delta, x: delta * (x > 1e-3), torch.sum)


def passes_at_zero(problem: Problem) -> Tensor:
    """Pass the gradient on where the sum before ReLU is exactly zero."""
    return with_rules(problem, lambda delta, x: delta * (x >= 0), torch.sum)


def averages_the_bias(problem: Problem) -> Tensor:
    """Average the bias gradient over the batch, though the loss is already a mean."""
    return with_rules(problem, lambda delta, x: delta * (x > 0), torch.mean)


def of_images(problem: Problem) -> Problem:
    model = nn.Sequential(nn.Flatten(), *problem.model)
    return replace(problem, model=model, inputs=problem.inputs[:, None, :, None])


@law(
    right=gradients_by_hand,
    wrong={
        forgets_the_slope_of_relu: "autograd's gradient",
        slope_from_the_wrong_sign: "autograd's gradient",
        treats_small_outputs_as_zero: "autograd's gradient",
        passes_at_zero: "autograd's gradient",
        averages_the_bias: "autograd's gradient",
    },
)
@given(
    problem=problems(dtype=float64), scale=st.sampled_from([1.0, 1e-6, 0.0]), images=st.booleans()
)
def test_the_backward_by_hand_equals_autograd(
    by_hand: Callable[[Problem], Tensor], problem: Problem, scale: float, images: bool
) -> None:
    """Backpropagation by hand, layer by layer, gives each weight the gradient of autograd."""
    with torch.no_grad():
        for parameter in problem.model[0].parameters():
            # With 1e-6, the first ReLU returns numbers just above zero; with 0, it gets zeros.
            parameter.mul_(scale)
    problem = of_images(problem) if images else problem
    grads = gradients_of(problem.model, problem.loss_fn, problem.inputs, problem.labels)
    expected = torch.cat([grad.flatten() for grad in grads])

    assert_close(by_hand(problem), expected, "each weight gets autograd's gradient")


def input_gradient_by_hand(problem: Problem) -> Tensor | None:
    inputs = problem.inputs.detach().requires_grad_()
    problem.loss_fn(ByHand(problem.model)(inputs), problem.labels).backward()
    return inputs.grad


def stops_at_the_first_layer(problem: Problem) -> Tensor | None:
    """Return the gradients of the parameters only, and none for the inputs."""
    inputs = problem.inputs.detach().requires_grad_()
    problem.loss_fn(ByHand(problem.model)(inputs.detach()), problem.labels).backward()
    return inputs.grad


def treats_the_inputs_as_relus(problem: Problem) -> Tensor | None:
    """Stop the gradient where an input is not positive, as behind a ReLU."""
    found = input_gradient_by_hand(problem)
    return None if found is None else found * (problem.inputs > 0)


@law(
    right=input_gradient_by_hand,
    wrong={
        stops_at_the_first_layer: "inputs get autograd's gradient: there is none",
        treats_the_inputs_as_relus: "inputs get autograd's gradient",
    },
)
@given(problem=problems(dtype=float64), images=st.booleans())
def test_the_backward_by_hand_reaches_the_inputs(
    by_hand: Callable[[Problem], Tensor | None], problem: Problem, images: bool
) -> None:
    """Backpropagation by hand gives each input the gradient of autograd."""
    problem = of_images(problem) if images else problem
    inputs = problem.inputs.detach().requires_grad_()
    loss = problem.loss_fn(problem.model(inputs), problem.labels)
    (expected,) = torch.autograd.grad(loss, [inputs])

    assert_close(by_hand(problem), expected, "the inputs get autograd's gradient")


def skips_other_layers(model: nn.Sequential) -> ByHand:
    """Ignore the layers that it does not know."""
    linears = [copy.deepcopy(layer) for layer in model if isinstance(layer, nn.Linear)]
    chain = [part for layer in linears for part in (nn.ReLU(), layer)][1:]
    return ByHand(nn.Sequential(*chain).requires_grad_())


def thaws(model: nn.Sequential) -> ByHand:
    """Train what is frozen."""
    return ByHand(model.requires_grad_())


def frozen(name: str) -> nn.Linear:
    layer = nn.Linear(2, 2)
    getattr(layer, name).requires_grad_(False)
    return layer


def other_layers() -> dict[str, list[nn.Module]]:
    layer = nn.Linear(2, 2)
    return {
        "nothing": [],
        "ReLU at the end": [layer, nn.ReLU()],
        "no ReLU": [layer, nn.Linear(2, 2)],
        "Tanh": [layer, nn.Tanh(), nn.Linear(2, 2)],
        "Dropout": [layer, nn.Dropout(), nn.Linear(2, 2)],
        "frozen weight": [layer, nn.ReLU(), frozen("weight")],
        "frozen bias": [frozen("bias")],
        "one layer twice": [layer, nn.ReLU(), layer],
    }


@law(right=ByHand, wrong={skips_other_layers: "DID NOT RAISE", thaws: "DID NOT RAISE"})
@given(kind=st.sampled_from(sorted(other_layers())))
def test_other_layers_cannot_be_differentiated_by_hand(
    by_hand: Callable[[nn.Sequential], nn.Module], kind: str
) -> None:
    """Other layers and frozen parameters raise ValueError, and the model does not change."""
    model = nn.Sequential(*other_layers()[kind])
    before = state_of(model)

    with pytest.raises(ValueError, match="Linear layer"):
        by_hand(model)

    assert state_of(model) == before, "a refused model stays as it was"
