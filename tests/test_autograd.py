"""Lesson 3: autograd.

While a result is computed, autograd writes down the operations: each result that depends on a
tracked tensor holds, as `grad_fn`, the last of them, which points to those before. `backward`
walks that graph from the loss to the leaves, multiplies by the Jacobian of each operation on the
way, and adds what arrives at a leaf to its `grad`. Because it adds, a gradient that was not zeroed
is wrong, a weight that is used twice is right, and a batch too large for the memory can be cut up.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

import copy
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import cache, partial, reduce
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.autograd import (
    ByHand,
    accumulate,
    central_differences,
    chain_rule,
    draw_history,
    gradient,
    history,
    leaves,
    sum_over_paths,
)
from dlconcepts.compare import bits, same, state_of
from dlconcepts.strategies import FLOATS, Problem, batches, networks, problems, shapes, tensors
from dlconcepts.training import train_step

claim = pytest.mark.claim
float64 = torch.float64

MicroBatches = Sequence[tuple[Tensor, Tensor]]


def assert_close(
    actual: Tensor | None,
    expected: Tensor,
    law: str,
    *,
    rtol: float = 1e-9,
    atol: float = 1e-12,
) -> None:
    """Assert that tensors agree up to rounding, relative to the largest element expected."""
    assert actual is not None, f"{law}: there is none"
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=rtol * scale + atol, msg=lambda text: f"{law}: {text}"
    )


def gradients(model: nn.Module) -> list[Tensor | None]:
    """Return copies of the gradients of a model's parameters."""
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def gradients_of(
    model: nn.Module, loss_fn: Callable[..., Tensor], inputs: Tensor, labels: Tensor
) -> list[Tensor]:
    """Return the gradients of one batch's loss by torch.autograd.grad, which stores none."""
    return list(torch.autograd.grad(loss_fn(model(inputs), labels), list(model.parameters())))


# ------------------------------------------------- requires_grad


def compute(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Apply an operation to tensors."""
    return operation(*inputs)


def detaches_on_the_way(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Detach the first input, as one does to be able to print it."""
    return operation(inputs[0].detach(), *inputs[1:])


def goes_through_numpy(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Compute on arrays and make a tensor of the result."""
    arrays = [tensor.numpy(force=True) for tensor in inputs]
    return torch.as_tensor(operation(*map(torch.as_tensor, arrays)))


def goes_through_python_numbers(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Take the numbers out and put them back into a new tensor, which is asked to track."""
    result = operation(*inputs)
    tracked = result.requires_grad and result.numel() > 1
    return torch.tensor(result.tolist(), dtype=result.dtype).requires_grad_(tracked)


@st.composite
def operands(draw: st.DrawFn) -> list[Tensor]:
    """Draw two tensors of one shape, integer or floating point, the latter tracked or not."""
    shape = draw(shapes(max_dims=2, max_side=3))
    result = []
    for _ in range(2):
        dtype = draw(st.sampled_from([torch.float32, float64, torch.float16, torch.int64]))
        tracked = dtype.is_floating_point and draw(st.booleans())
        result.append(draw(tensors(shape, dtype, max_magnitude=9.0, requires_grad=tracked)))
    return result


@claim(
    "autograd.requires-grad-tracks",
    right=compute,
    wrong={
        detaches_on_the_way: "tracked exactly when an input is",
        goes_through_numpy: "tracked exactly when an input is",
        goes_through_python_numbers: "tracked exactly when an input is",
    },
)
@given(inputs=operands(), enabled=st.booleans())
def test_a_result_is_tracked_exactly_when_an_input_is(
    compute: Callable[..., Tensor], inputs: list[Tensor], enabled: bool
) -> None:
    """A result requires grad, and has a history, if some input does and gradients are enabled."""
    tracked = enabled and any(tensor.requires_grad for tensor in inputs)

    for operation in (torch.add, torch.sub, torch.mul, torch.maximum):
        with torch.set_grad_enabled(enabled):
            result = compute(operation, *inputs)

        assert result.requires_grad == tracked, "a result is tracked exactly when an input is"
        assert (result.grad_fn is not None) == tracked, "a tracked result has a history"


def inherits_tracking(tensor: Tensor) -> Tensor:
    """Expect a new tensor to be tracked like the one whose shape it takes."""
    return torch.zeros_like(tensor, requires_grad=tensor.requires_grad)


@claim(
    "autograd.requires-grad-tracks",
    right=torch.zeros_like,
    wrong={inherits_tracking: "untracked unless asked"},
)
@given(
    tensor=st.booleans().flatmap(
        lambda tracked: tensors(dtype=st.sampled_from(FLOATS), requires_grad=tracked)
    )
)
def test_a_new_tensor_is_untracked(make: Callable[[Tensor], Tensor], tensor: Tensor) -> None:
    """requires_grad is False by default, also for a tensor made after a tracked one."""
    new = make(tensor)

    assert not new.requires_grad, "a new tensor is untracked unless asked"
    assert new.is_leaf, "a new tensor is a leaf"


def converts_silently(tensor: Tensor) -> Tensor:
    """Track a floating-point copy, whose gradient the caller's tensor never gets."""
    return tensor.float().requires_grad_()


@claim(
    "autograd.requires-grad-tracks",
    right=Tensor.requires_grad_,
    wrong={converts_silently: "DID NOT RAISE"},
)
@given(
    tensor=tensors(
        dtype=st.sampled_from([torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool])
    )
)
def test_integers_and_booleans_cannot_be_tracked(
    track: Callable[[Tensor], Tensor], tensor: Tensor
) -> None:
    """Nothing is differentiable with respect to integers: asking for it raises."""
    before = bits(tensor)

    with pytest.raises(RuntimeError, match="only Tensors of floating point"):
        track(tensor)

    assert not tensor.requires_grad, "a refused tensor stays untracked"
    assert bits(tensor) == before, "a refused tensor stays as it was"


# ------------------------------------------------- grad_fn

UNARY = {
    "Sin": torch.sin,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Neg": torch.neg,
    "Pow": torch.square,
    "Abs": torch.abs,
}
chains = st.lists(st.sampled_from(sorted(UNARY)), min_size=1, max_size=5)


def apply_chain(names: Sequence[str], x: Tensor) -> Tensor:
    """Apply operations one after the other."""
    return reduce(lambda value, name: UNARY[name](value), names, x)


def rebuilds_under_no_grad(names: Sequence[str], x: Tensor) -> Tensor:
    """Compute the same values where nothing is recorded."""
    with torch.no_grad():
        return apply_chain(names, x)


def cuts_the_chain(names: Sequence[str], x: Tensor) -> Tensor:
    """Take .data after the first of several operations, and go on with a new leaf."""
    if len(names) == 1:
        return apply_chain(names, x)
    return apply_chain(names[1:], UNARY[names[0]](x).data.requires_grad_())


def name_of(node: torch.autograd.graph.Node) -> str:
    """Return the name of a node without its namespace, 'Backward' and number."""
    return node.name().split("::")[-1].split("Backward")[0]


@claim(
    "autograd.grad-fn-is-the-history",
    right=apply_chain,
    wrong={
        rebuilds_under_no_grad: "a tracked result has a history",
        cuts_the_chain: "the last operation first",
    },
)
@given(names=chains, x=tensors((2,), float64, max_magnitude=3.0, requires_grad=True))
def test_grad_fn_leads_back_through_the_operations(
    apply_chain: Callable[[Sequence[str], Tensor], Tensor], names: list[str], x: Tensor
) -> None:
    """Following next_functions from a result meets its operations in reverse, then the leaf."""
    result = apply_chain(names, x)

    assert x.grad_fn is None, "a leaf has no history"
    assert result.grad_fn is not None, "a tracked result has a history"
    met, node = [], result.grad_fn
    while node.next_functions:
        met.append(name_of(node))
        assert len(node.next_functions) == 1, "an operation on one tensor leads back to one"
        ((node, _),) = node.next_functions
    assert met == names[::-1], "the history names the operations, the last operation first"
    assert name_of(node) == "AccumulateGrad", "the history ends where gradients accumulate"
    assert node.variable is x, "the history ends at the leaf itself"


def follows_the_first_input(tensor: Tensor) -> list[Any]:
    """Walk from each operation to its first input only."""
    nodes, node = [], tensor.grad_fn
    while node is not None:
        nodes.append(node)
        node = node.next_functions[0][0] if node.next_functions else None
    return nodes


def meets_shared_nodes_twice(tensor: Tensor) -> list[Any]:
    """Walk a tree, although a result that was used twice makes it a graph."""

    def walk(node: Any) -> Iterator[Any]:
        if node is not None:
            yield node
            for source, _ in node.next_functions:
                yield from walk(source)

    return list(walk(tensor.grad_fn))


def in_order_of_discovery(tensor: Tensor) -> list[Any]:
    """Walk depth first, and so meet a shared input before all that used it."""
    return list(dict.fromkeys(meets_shared_nodes_twice(tensor)))


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Draw leaves, some of them tracked, and pairs of positions to add: leaves, then results."""
    tracked = draw(st.lists(st.booleans(), min_size=1, max_size=3))
    inputs = [torch.ones(k + 1, 1, requires_grad=flag) for k, flag in enumerate(tracked)]
    steps = [
        (draw(st.integers(0, last)), draw(st.integers(0, last)))
        for last in range(len(inputs) - 1, len(inputs) + draw(st.integers(0, 4)))
    ]
    return inputs, steps


@claim(
    "autograd.grad-fn-is-the-history",
    right=history,
    wrong={
        follows_the_first_input: "every operation",
        meets_shared_nodes_twice: "once",
        in_order_of_discovery: "before those it used",
    },
)
@given(program=programs())
def test_the_history_is_the_graph_of_all_that_was_used(
    history: Callable[[Tensor], list[Any]], program: tuple[list[Tensor], list[tuple[int, int]]]
) -> None:
    """It holds every tracked operation and leaf once, each before those that it used."""
    inputs, steps = program
    values, sources = list(inputs), dict[int, tuple[int, int]]()
    for left, right in steps:
        sources[len(values)] = (left, right)
        values.append(values[left].sum() + values[right].sum())
    used = {len(values) - 1}
    for position in range(len(values) - 1, -1, -1):
        if position in used:
            used.update(sources.get(position, ()))
    expected = {k for k in used if values[k].requires_grad}

    nodes = history(values[-1])

    assert len(nodes) == len(set(nodes)), "the history has each node once"
    adds = [node for node in nodes if name_of(node) == "Add"]
    assert set(adds) == {values[k].grad_fn for k in expected if k in sources}, (
        "the history has every operation that was tracked"
    )
    variables = [node.variable for node in nodes if hasattr(node, "variable")]
    assert {id(v) for v in variables} == {id(values[k]) for k in expected if k not in sources}, (
        "the history ends in exactly the leaves that are tracked"
    )
    place = {node: number for number, node in enumerate(nodes)}
    for node in nodes:
        for source, _ in node.next_functions:
            if source is not None:
                assert source in place, "the history has every operation that was used"
                assert place[node] < place[source], "an operation comes before those it used"


def test_the_history_of_a_long_chain_is_no_recursion() -> None:
    """Ten thousand operations are walked without running out of stack; the drawing shows each."""
    x = torch.ones((), requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y * 1.0

    assert len(history(y)) == 10_001
    assert leaves(y)[0] is x
    assert len(draw_history(y).splitlines()) == 10_001


def test_the_drawing_names_inputs_by_their_lines() -> None:
    """Each line has a number, an operation and the numbers of its inputs; leaves have shapes."""
    weight = torch.ones(2, 3, requires_grad=True)
    drawing = draw_history((weight * weight.exp()).mean())

    assert [line.split() for line in drawing.splitlines()] == [
        ["1", "Mean", "of", "2"],
        ["2", "Mul", "of", "4,", "3"],
        ["3", "Exp", "of", "4"],
        ["4", "leaf", "of", "shape", "(2,", "3)"],
    ]
    assert draw_history(torch.ones(1)) == ""


# ------------------------------------------------- backward


def mean_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """Return the gradient of the mean of function(x) with respect to x."""
    return gradient(lambda x: function(x).mean(), x)


def differentiates_the_sum(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """Take the sum for the mean."""
    return gradient(lambda x: function(x).sum(), x)


def reads_grad_of_a_non_leaf(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """Move or scale the input after it was asked to track, and read the gradient of the result."""
    x = x.detach().clone().requires_grad_() * 1
    function(x).mean().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of exactly this mistake
        return x.grad


def gradient_of_the_flat_input(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """Return the gradient as a vector, whatever the shape of the input."""
    return gradient(lambda x: function(x).mean(), x.reshape(-1))


CLOSED_FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Any], Any]]] = {
    "square": (torch.square, lambda x: 2 * x),
    "cube": (lambda x: x**3, lambda x: 3 * x**2),
    "exp": (torch.exp, np.exp),
    "sin": (torch.sin, np.cos),
    "relu": (torch.relu, lambda x: (x > 0).astype(x.dtype)),
    "softplus": (nn.functional.softplus, lambda x: 1 / (1 + np.exp(-x))),
}


@claim(
    "autograd.backward-computes-gradients",
    right=mean_gradient,
    wrong={
        differentiates_the_sum: "closed form",
        reads_grad_of_a_non_leaf: "only leaves keep their gradient",
        gradient_of_the_flat_input: "its tensor's shape",
    },
)
@given(
    name=st.sampled_from(sorted(CLOSED_FORMS)),
    x=tensors(shapes(min_side=1), float64, max_magnitude=5.0),
)
def test_gradients_equal_their_closed_forms(
    mean_gradient: Callable[..., Tensor | None], name: str, x: Tensor
) -> None:
    """The gradient of the mean of n squares is 2x/n, and so for other functions."""
    function, derivative = CLOSED_FORMS[name]
    before = bits(x)

    found = mean_gradient(function, x)

    assert found is not None, "only leaves keep their gradient: here there is none"
    assert found.shape == x.shape, "a gradient has its tensor's shape"
    expected = torch.as_tensor(derivative(x.numpy(force=True)) / x.numel(), device=x.device)
    assert_close(found, expected, "the gradient is the closed form")
    assert bits(x) == before, "the argument stays as it was"


def takes_a_long_step(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Approximate the gradient by differences over a step that is easily seen."""
    return central_differences(function, x, step=0.01)


def differentiates_in_half_precision(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute in bfloat16, which keeps eight bits."""
    return gradient(lambda x: function(x.bfloat16().double()), x)


@claim(
    "autograd.backward-computes-gradients",
    right=gradient,
    wrong={
        takes_a_long_step: "central differences",
        differentiates_in_half_precision: "central differences",
    },
)
@given(names=chains, x=tensors((3,), float64, max_magnitude=2.0))
def test_gradients_equal_central_differences(
    gradient: Callable[..., Tensor], names: list[str], x: Tensor
) -> None:
    """For compositions of operations, backward agrees with differences of the function's values."""
    assume(names.count("Pow") < 3 and "Abs" not in names)
    factors = torch.tensor([1.0, -2.0, 3.0], dtype=float64)

    def function(x: Tensor) -> Tensor:
        return (apply_chain(names, x) * factors).sum()

    expected = central_differences(function, x)
    # The third derivative of these functions is below 1e5, times a sixth of the step squared.
    assert_close(
        gradient(function, x), expected, "backward agrees with central differences", atol=1e-5
    )


def forward_differences(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Take one value beside each coordinate: the error falls with the step, not its square."""
    h = 1e-5
    steps = h * torch.eye(len(x), dtype=x.dtype)
    return torch.stack([(function(x + step) - function(x)) / h for step in steps])


def differences_in_float32(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Take differences of float32 values, whose rounding is as large as they are."""
    return central_differences(lambda y: function(y).float().double(), x)


@claim(
    "autograd.backward-computes-gradients",
    right=central_differences,
    wrong={forward_differences: "quadratic", differences_in_float32: "quadratic"},
)
@given(
    x=tensors((3,), float64, max_magnitude=9.0), matrix=tensors((3, 3), float64, max_magnitude=9.0)
)
def test_central_differences_are_exact_for_quadratics(
    differences: Callable[..., Tensor], x: Tensor, matrix: Tensor
) -> None:
    """The yardstick itself: the error of central differences begins with the third derivative."""
    expected = (matrix + matrix.T) @ x

    found = differences(lambda x: (x @ matrix @ x).sum(), x)

    # Rounding: values up to 9**3 * 9 carry 1e-12, which is divided by a step of 1e-5.
    torch.testing.assert_close(
        found, expected, rtol=0, atol=5e-7, msg="the derivative of a quadratic is exact"
    )


@pytest.mark.parametrize("differentiate", [gradient, central_differences])
def test_a_tensor_without_elements_has_a_gradient_without_elements(
    differentiate: Callable[..., Tensor],
) -> None:
    """Where there is no coordinate there is no slope, in the shape of the argument."""
    assert differentiate(torch.sum, torch.zeros(0, 2, dtype=float64)).shape == (0, 2)


def test_what_a_function_does_not_depend_on_has_the_gradient_zero() -> None:
    """Neither a constant nor a function of another tensor has a slope at x."""
    x, other = torch.ones(2, dtype=float64), torch.ones(2, dtype=float64, requires_grad=True)

    for function in (lambda x: torch.ones(()), lambda x: other.sum()):
        assert same(gradient(function, x), torch.zeros_like(x))


# ------------------------------------------------- the chain rule


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


@claim(
    "autograd.chain-rule",
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


@claim(
    "autograd.chain-rule",
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


@claim(
    "autograd.chain-rule",
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


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [nn.ReLU()],
        [nn.Linear(2, 2), nn.ReLU()],
        [nn.Linear(2, 2), nn.Linear(2, 2)],
        [nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)],
        [nn.Linear(2, 2, bias=False)],
        [shared := nn.Linear(2, 2), nn.ReLU(), shared],
    ],
    ids=str,
)
def test_a_chain_that_is_none_is_refused(layers: list[nn.Module]) -> None:
    """The backward by hand says which layers it takes, before it touches a parameter."""
    model = nn.Sequential(*layers)
    before = state_of(model)

    with pytest.raises(ValueError, match="Linear layer"):
        ByHand(model)

    assert state_of(model) == before


@given(problem=problems(dtype=float64))
def test_the_model_learns_what_is_learnt_by_hand(problem: Problem) -> None:
    """The model's parameters are views of the flat one; inputs can have a gradient, too."""
    by_hand = ByHand(nn.Sequential(nn.Flatten(), *problem.model))
    inputs = problem.inputs.clone().requires_grad_()
    by_hand(inputs).sum().backward()
    expected = gradient(lambda x: problem.model(x).sum(), problem.inputs)

    torch.optim.SGD(by_hand.parameters(), lr=0.5).step()

    assert_close(inputs.grad, expected, "the gradient of the inputs")
    assert_close(by_hand(inputs).detach(), problem.model(problem.inputs).detach(), "one function")


# ------------------------------------------------- backward starts from a scalar


def sums_silently(tensor: Tensor, gradient: Tensor | None = None) -> None:
    """Differentiate the sum where nobody said how the elements count."""
    tensor.sum().backward() if gradient is None else tensor.backward(gradient)


@claim(
    "autograd.backward-starts-from-a-scalar",
    right=Tensor.backward,
    wrong={sums_silently: "DID NOT RAISE"},
)
@given(x=tensors(shapes(max_dims=2), float64, max_magnitude=9.0, requires_grad=True))
def test_more_or_less_than_one_element_needs_a_gradient(
    backward: Callable[..., None], x: Tensor
) -> None:
    """From one element backward goes by itself; from none or several it raises."""
    result = 3 * x

    if x.numel() == 1:
        backward(result)
        assert_close(x.grad, torch.full_like(x, 3), "from one element, the gradient is its own")
    else:
        with pytest.raises(RuntimeError, match="can be implicitly created only for scalar"):
            backward(result)
        assert x.grad is None, "a refused backward stores no gradient"


def ignores_the_vector(tensor: Tensor, gradient: Tensor) -> None:
    """Count each element the same, whatever gradient came in."""
    tensor.backward(torch.ones_like(gradient))


def normalizes_the_vector(tensor: Tensor, gradient: Tensor) -> None:
    """Scale the incoming gradient to length one, as if only its direction counted."""
    tensor.backward(nn.functional.normalize(gradient, dim=0))


@claim(
    "autograd.backward-starts-from-a-scalar",
    right=Tensor.backward,
    wrong={
        ignores_the_vector: "vector-Jacobian product",
        normalizes_the_vector: "vector-Jacobian product",
    },
)
@given(
    matrix=tensors((2, 3), float64, max_magnitude=9.0),
    x=tensors((3,), float64, max_magnitude=9.0, requires_grad=True),
    v=tensors((2,), float64, max_magnitude=9.0),
)
def test_with_a_vector_backward_gives_the_vector_jacobian_product(
    backward: Callable[..., None], matrix: Tensor, x: Tensor, v: Tensor
) -> None:
    """With a gradient of the result's shape, x.grad is that vector times the Jacobian."""
    backward((matrix @ x).square(), gradient=v)

    arrays = [tensor.numpy(force=True) for tensor in (matrix, x, v)]
    expected = arrays[2] @ (2 * (arrays[0] @ arrays[1])[:, None] * arrays[0])
    assert_close(
        x.grad, torch.as_tensor(expected, device=x.device), "x.grad is the vector-Jacobian product"
    )


# ------------------------------------------------- the graph is used up


def backward_twice(loss: Tensor) -> None:
    """Call backward a second time, as it stands."""
    loss.backward()
    loss.backward()


def retains_the_graph(loss: Tensor) -> None:
    """Follow the advice of the error message without asking why the graph is walked twice."""
    loss.backward(retain_graph=True)
    loss.backward()


@claim(
    "autograd.graph-is-used-up",
    right=backward_twice,
    wrong={retains_the_graph: "DID NOT RAISE"},
)
@given(problem=problems(dtype=float64))
def test_a_second_backward_raises(
    backward_twice: Callable[[Tensor], None], problem: Problem
) -> None:
    """The values that the operations saved are gone: the second walk raises, and adds nothing."""
    loss = problem.loss_fn(problem.model(problem.inputs), problem.labels)
    expected = gradients_of(problem.model, problem.loss_fn, problem.inputs, problem.labels)

    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        backward_twice(loss)

    for found, once in zip(gradients(problem.model), expected, strict=True):
        assert_close(found, once, "after the error, the gradient is that of one backward")


def adds_once(loss: Tensor) -> None:
    """Expect the second walk to have no effect."""
    loss.backward()


@claim(
    "autograd.graph-is-used-up",
    right=backward_twice,
    wrong={adds_once: "walked again without a word"},
)
@given(x=tensors(shapes(min_side=1, max_dims=2), float64, max_magnitude=9.0, requires_grad=True))
def test_a_graph_that_saved_nothing_goes_twice(
    backward_twice: Callable[[Tensor], None], x: Tensor
) -> None:
    """A sum needs no saved value: its graph is walked again, and the gradients add in silence."""
    backward_twice((x + 1).sum())

    assert_close(x.grad, torch.full_like(x, 2), "a sum is walked again without a word")


def step_after_one_backward(weight: Tensor, loss: Tensor, lr: float) -> None:
    """Step along the gradient of one backward."""
    loss.backward(retain_graph=True)
    with torch.no_grad():
        weight -= lr * weight.grad


def steps_on_doubled_gradients(weight: Tensor, loss: Tensor, lr: float) -> None:
    """Call backward twice with retain_graph=True, then step."""
    loss.backward(retain_graph=True)
    step_after_one_backward(weight, loss, lr)


@claim(
    "autograd.graph-is-used-up",
    right=step_after_one_backward,
    wrong={steps_on_doubled_gradients: "w - lr * gradient"},
)
@given(
    start=tensors((2,), float64, max_magnitude=9.0, layouts=["contiguous"]),
    x=tensors((2,), float64, max_magnitude=9.0),
)
def test_a_retained_graph_doubles_the_step(
    step: Callable[..., None], start: Tensor, x: Tensor
) -> None:
    """One backward and a step land at w - lr * gradient; a second backward adds the same again."""
    weight = start.clone().requires_grad_()
    slope = 2 * ((start * x).sum() - 1) * x
    loss = ((weight * x).sum() - 1).square()

    step(weight, loss, 0.5)

    assert_close(weight.detach(), start - 0.5 * slope, "the step lands at w - lr * gradient")
    loss.backward()
    assert_close(weight.grad, 2 * slope, "with retain_graph, the gradients of two walks add")


# ------------------------------------------------- gradients accumulate


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


@claim(
    "autograd.gradients-accumulate",
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


@claim(
    "autograd.gradients-accumulate",
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


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "plain SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.5),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9),
    "weight decay": lambda parameters: torch.optim.SGD(parameters, lr=0.5, weight_decay=0.1),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.5),
}


@claim(
    "autograd.gradients-accumulate",
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


# ------------------------------------------------- micro-batches


def adds_mean_losses(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Add the gradients of the mean losses, unscaled."""
    for inputs, labels in micro_batches:
        loss_fn(model(inputs), labels).backward()


def divides_by_their_number(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Give each micro-batch the same weight, though one is smaller."""
    for inputs, labels in micro_batches:
        (loss_fn(model(inputs), labels) / len(micro_batches)).backward()


def zeroes_in_between(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Zero the gradients where a loop over batches does it."""
    examples = sum(len(labels) for _, labels in micro_batches)
    for inputs, labels in micro_batches:
        model.zero_grad()
        (loss_fn(model(inputs), labels) * len(labels) / examples).backward()


def weights_by_the_first(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Take the size of the first micro-batch for that of all: wrong for the last, smaller one."""
    examples = sum(len(labels) for _, labels in micro_batches)
    for inputs, labels in micro_batches:
        (loss_fn(model(inputs), labels) * len(micro_batches[0][1]) / examples).backward()


@st.composite
def splits(
    draw: st.DrawFn, problem: st.SearchStrategy[Problem], smallest: int = 1
) -> tuple[Problem, MicroBatches]:
    """Draw a problem and its batch, cut into micro-batches of any sizes."""
    drawn = draw(problem)
    sizes, rest = [], len(drawn.labels)
    while rest:
        size = draw(st.integers(smallest, rest))
        sizes.append(size if rest - size >= smallest else rest)
        rest -= sizes[-1]
    pieces = zip(drawn.inputs.split(sizes), drawn.labels.split(sizes), strict=True)
    return drawn, list(pieces)


@claim(
    "autograd.micro-batches-add-up-to-a-batch",
    right=accumulate,
    wrong={
        adds_mean_losses: "full batch's gradient",
        divides_by_their_number: "full batch's gradient",
        zeroes_in_between: "full batch's gradient",
        weights_by_the_first: "full batch's gradient",
    },
)
@given(split=splits(problems(dtype=float64)), name=st.sampled_from(sorted(OPTIMIZERS)))
def test_any_split_of_a_batch_gives_its_gradient_and_its_step(
    accumulate: Callable[..., None], split: tuple[Problem, MicroBatches], name: str
) -> None:
    """Micro-batches, even or uneven, lead to the gradient and the step of the whole batch."""
    problem, micro_batches = split
    parameters = list(problem.model.parameters())
    expected = gradients_of(problem.model, problem.loss_fn, problem.inputs, problem.labels)
    whole = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    for parameter, grad in zip(whole, expected, strict=True):
        parameter.grad = grad

    accumulate(problem.model, problem.loss_fn, micro_batches)

    for found, grad in zip(gradients(problem.model), expected, strict=True):
        assert_close(found, grad, "a split gives the full batch's gradient")
    OPTIMIZERS[name](whole).step()
    OPTIMIZERS[name](parameters).step()
    for parameter, other in zip(parameters, whole, strict=True):
        # Adam divides by |g| + 1e-8: rounding of 1e-15 becomes 1e-7 of a step of 0.5.
        torch.testing.assert_close(
            parameter, other, rtol=1e-6, atol=1e-6, msg="a split takes the full batch's step"
        )


@st.composite
def normalized_problems(draw: st.DrawFn) -> Problem:
    """Draw batches of different examples for a network of one layer."""
    inputs, labels = draw(batches(2, 2, min_size=4, dtype=float64, max_magnitude=5.0))
    return Problem(draw(networks([2, 2], dtype=float64)), nn.CrossEntropyLoss(), inputs, labels)


@claim(
    "autograd.micro-batches-add-up-to-a-batch",
    right=nn.LayerNorm,
    wrong={nn.BatchNorm1d: "full batch's gradient"},
)
@given(split=splits(normalized_problems(), smallest=2))
def test_no_layer_may_mix_the_examples(
    normalization: Callable[..., nn.Module], split: tuple[Problem, MicroBatches]
) -> None:
    """A layer that normalises each example can be split; one that normalises the batch cannot."""
    problem, micro_batches = split
    model = nn.Sequential(normalization(2, dtype=float64), *problem.model)
    expected = gradients_of(model, problem.loss_fn, problem.inputs, problem.labels)

    accumulate(model, problem.loss_fn, micro_batches)

    for found, grad in zip(gradients(model), expected, strict=True):
        # Normalising equal values divides rounding by the square root of eps, 3e-3.
        assert_close(found, grad, "a split gives the full batch's gradient", rtol=1e-6)


# ------------------------------------------------- micro-batches in several processes


def worker_step(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    workers: dist.ProcessGroup,
    combine: Callable[[Tensor, float], Tensor | None],
) -> None:
    """Step on what `combine` makes of each worker's gradient and its share of the examples."""
    mine = slice(workers.rank(), None, workers.size())
    share = len(labels[mine]) / len(labels)
    optimizer.zero_grad()
    loss = loss_fn(model(inputs[mine]), labels[mine]) if share else 0 * model(inputs).sum()
    loss.backward()
    for parameter in model.parameters():
        to_sum = combine(parameter.grad, share)
        if to_sum is not None:
            dist.all_reduce(to_sum, group=workers)
            parameter.grad = to_sum
    optimizer.step()


def never_communicates(*arguments: Any, workers: dist.ProcessGroup) -> None:
    """Let each worker step on its own part: the models drift apart."""
    worker_step(*arguments, workers, lambda grad, share: None)


def averages_over_workers(*arguments: Any, workers: dist.ProcessGroup) -> None:
    """Take the mean of the gradients, as DistributedDataParallel does: right for even parts."""
    worker_step(*arguments, workers, lambda grad, share: grad / workers.size())


def sums_mean_gradients(*arguments: Any, workers: dist.ProcessGroup) -> None:
    """Add the gradients of mean losses: the step is as many times too long as there are workers."""
    worker_step(*arguments, workers, lambda grad, share: grad)


@cache
def groups_of_threads(size: int) -> list[dist.ProcessGroup]:
    """Return process groups of torch.distributed, one for each thread that plays a worker."""
    store = dist.HashStore()
    limit = timedelta(seconds=30)
    with ThreadPoolExecutor(size) as pool:
        ranks = range(size)
        return list(pool.map(lambda r: dist.ProcessGroupGloo(store, r, size, limit), ranks))


@claim(
    "autograd.micro-batches-add-up-to-a-batch",
    right=train_step,
    wrong={
        never_communicates: "step of one process",
        averages_over_workers: "step of one process",
        sums_mean_gradients: "step of one process",
    },
    cpu_only="gloo, which connects processes on one machine, works on the CPU",
)
@given(problem=problems(dtype=float64), size=st.integers(2, 3), accumulate=st.integers(1, 2))
def test_workers_that_share_a_batch_take_the_step_of_one_process(
    step: Callable[..., object], problem: Problem, size: int, accumulate: int
) -> None:
    """Workers are micro-batches at the same time: any number of them, the parts even or uneven."""
    inputs, labels = problem.inputs, problem.labels
    slopes = gradients_of(problem.model, problem.loss_fn, inputs, labels)
    expected = [
        (p - 0.5 * slope).detach()
        for p, slope in zip(problem.model.parameters(), slopes, strict=True)
    ]
    models, groups = [copy.deepcopy(problem.model) for _ in range(size)], groups_of_threads(size)
    step = partial(step, accumulate=accumulate) if step is train_step else step

    def work(rank: int) -> None:
        optimizer = torch.optim.SGD(models[rank].parameters(), lr=0.5)
        step(models[rank], problem.loss_fn, optimizer, inputs, labels, workers=groups[rank])

    with ThreadPoolExecutor(size) as pool:
        list(pool.map(work, range(size)))

    for model in models:
        for parameter, value in zip(model.parameters(), expected, strict=True):
            assert_close(parameter.detach(), value, "workers take the step of one process")


# ------------------------------------------------- no_grad


@contextmanager
def never_restores_after_an_exception() -> Iterator[None]:
    """Switch gradients off and on again, in a function that an exception leaves early."""
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


@contextmanager
def always_switches_on_again() -> Iterator[None]:
    """Switch gradients on at the end, whatever they were before."""
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)


@contextmanager
def records_everything() -> Iterator[None]:
    """Do nothing at all."""
    yield


@claim(
    "autograd.no-grad-turns-tracking-off",
    right=torch.no_grad,
    wrong={
        never_restores_after_an_exception: "as it was before an exception",
        always_switches_on_again: "as it was around the block",
        records_everything: "nothing is recorded",
    },
)
@given(around=st.lists(st.booleans(), max_size=3), x=tensors((2,), requires_grad=True))
def test_tracking_is_off_in_the_block_and_as_before_after_it(
    no_grad: Callable[[], AbstractContextManager[None]], around: list[bool], x: Tensor
) -> None:
    """Whatever the nesting: off inside, restored after the block, an exception, a decorator."""
    try:
        for enabled in around:
            torch.set_grad_enabled(enabled)
        before = torch.is_grad_enabled()
        others: list[bool] = []
        with no_grad():
            assert (x * 2).grad_fn is None, "nothing is recorded inside the block"
            with torch.enable_grad():
                assert (x * 2).grad_fn is not None, "enable_grad records inside the block"
            assert (x * 2).grad_fn is None, "nothing is recorded after enable_grad ends"
            other = threading.Thread(target=lambda: others.append(torch.is_grad_enabled()))
            other.start()
            other.join()
        assert torch.is_grad_enabled() == before, "tracking is as it was around the block"
        assert others == [True], "other threads go on recording"
        assert no_grad()(torch.is_grad_enabled)() is False, "off in a decorated function"
        assert torch.is_grad_enabled() == before, "tracking is as it was before a decorated call"
        with pytest.raises(KeyError), no_grad():
            raise KeyError
        assert torch.is_grad_enabled() == before, "tracking is as it was before an exception"
    finally:
        torch.set_grad_enabled(True)


def compute_untracked(model: nn.Module, inputs: Tensor) -> Tensor:
    """Call a model inside no_grad."""
    with torch.no_grad():
        return model(inputs)


def freezes_for_good(model: nn.Module, inputs: Tensor) -> Tensor:
    """Set requires_grad to False on the parameters, and leave it so."""
    return model.requires_grad_(False)(inputs)


def calls_eval_and_tracks(model: nn.Module, inputs: Tensor) -> Tensor:
    """Take eval mode for no_grad."""
    result = model.eval()(inputs)
    model.train()
    return result


def switches_dropout_off(model: nn.Module, inputs: Tensor) -> Tensor:
    """Expect no_grad to switch dropout off as well."""
    model.eval()
    result = compute_untracked(model, inputs)
    model.train()
    return result


def clears_gradients(model: nn.Module, inputs: Tensor) -> Tensor:
    """Take 'turns off all gradients' at its word."""
    model.zero_grad()
    return compute_untracked(model, inputs)


@claim(
    "autograd.no-grad-turns-tracking-off",
    right=compute_untracked,
    wrong={
        freezes_for_good: "leaves the model as it was",
        calls_eval_and_tracks: "nothing is recorded",
        switches_dropout_off: "changes no value",
        clears_gradients: "leaves the model as it was",
    },
)
@given(problem=problems(), seed=st.integers(0, 99))
def test_no_grad_changes_neither_values_nor_model(
    compute: Callable[[nn.Module, Tensor], Tensor], problem: Problem, seed: int
) -> None:
    """Same values, dropout included; requires_grad and the gradients stored stay as they were."""
    model = nn.Sequential(*problem.model, nn.Dropout(0.5))
    problem.loss_fn(model(problem.inputs), problem.labels).backward()
    torch.manual_seed(seed)
    tracked = model(problem.inputs)
    before = state_of(model)
    torch.manual_seed(seed)

    result = compute(model, problem.inputs)

    assert state_of(model) == before, "no_grad leaves the model as it was"
    assert result.grad_fn is None, "nothing is recorded inside no_grad"
    assert same(result, tracked.detach()), "no_grad changes no value"
