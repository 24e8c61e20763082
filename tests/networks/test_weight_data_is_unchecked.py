"""PyTorch checks neither shapes nor gradients if weights are set through `.data`.

>>> layer = nn.Linear(3, 2, bias=False)
>>> layer.weight.data = torch.ones(5, 3)  # no error: the layer now has five outputs
>>> layer(torch.ones(1, 3)).shape, layer.out_features
(torch.Size([1, 5]), 2)
>>> w = torch.tensor(3.0, requires_grad=True)
>>> y = w**2  # its gradient is 2 * w = 6
>>> w.data.fill_(50.0).item(), torch.autograd.grad(y, w)
(50.0, (tensor(100.),))

Notes: Set a layer's weights by assigning a tensor to layer.weight.data.
Verdict: holds-if
Truth: The layer computes with the new values, and an optimizer built earlier trains them, if shape
    and dtype are the same; PyTorch checks neither. After a forward pass, backward silently returns
    other gradients: a write into `.data` changes values that backward uses, and after an assignment
    it returns the gradient of the old weights. `copy_` under no_grad raises in both cases.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.networks.common import seeds, sides

SetWeight = Callable[[nn.Linear, Tensor], object]


def assigns_data(layer: nn.Linear, weight: Tensor) -> None:
    """Assign a tensor to layer.weight.data, as the notes do."""
    layer.weight.data = weight


def copies_under_no_grad(layer: nn.Linear, weight: Tensor) -> None:
    """Copy the values into the weight under no_grad."""
    with torch.no_grad():
        layer.weight.copy_(weight)


def replaces_the_parameter(layer: nn.Linear, weight: Tensor) -> None:
    """Assign a new Parameter, which the optimizer does not hold."""
    layer.weight = nn.Parameter(weight)


def assigns_to_a_detached(layer: nn.Linear, weight: Tensor) -> None:
    """Assign to the `.data` of a detached tensor, which the layer never sees."""
    layer.weight.detach().data = weight


@law(
    right=assigns_data,
    wrong={
        replaces_the_parameter: "the optimizer trains the new values",
        assigns_to_a_detached: "the layer computes with the new values",
    },
)
@given(sizes=st.tuples(sides, sides), seed=seeds)
def test_a_weight_of_the_same_shape_is_trained(
    set_weight: SetWeight, sizes: tuple[int, int], seed: int
) -> None:
    """The layer computes with the values assigned, and an optimizer built earlier trains them."""
    layer, images = nn.Linear(*sizes, bias=False), torch.ones(1, sizes[0])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.rand(layer.weight.shape, generator=generator, device="cpu") + 1
    weight = drawn.to(layer.weight.device)
    expected = weight - 0.5  # each slope of the sum of the outputs is 1

    set_weight(layer, weight)
    output = layer(images)
    output.sum().backward()
    optimizer.step()

    # float32 sums of up to four numbers below 2, in an unknown order
    torch.testing.assert_close(
        output[0], (expected + 0.5).sum(1), msg="the layer computes with the new values"
    )
    assert same(layer.weight.detach(), expected), "the optimizer trains the new values"


@law(right=assigns_data, wrong={copies_under_no_grad: "takes any shape"})
@given(
    sizes=st.tuples(sides, sides),
    # Five outputs or more: no layer drawn has so many, and nothing broadcasts to it.
    outputs=st.integers(5, 7),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_data_takes_any_shape_and_dtype(
    set_weight: SetWeight, sizes: tuple[int, int], outputs: int, dtype: torch.dtype
) -> None:
    """An assignment to `.data` changes shape and dtype; the layer's own sizes then are wrong."""
    layer = nn.Linear(*sizes, bias=False)

    try:
        set_weight(layer, torch.ones(outputs, sizes[0], dtype=dtype))
    except RuntimeError as error:
        pytest.fail(f"data takes any shape: {error}")

    assert layer.weight.dtype == dtype, "data takes any dtype"
    scores = layer(torch.ones(1, sizes[0], dtype=dtype))
    assert scores.shape == (1, outputs), "the layer has as many outputs as the new weight has rows"
    assert layer.out_features == sizes[1], "the layer still reports its old size"


def writes_into_data(layer: nn.Linear, weight: Tensor) -> None:
    """Write the values into `.data` in place."""
    layer.weight.data.copy_(weight)


@law(
    right=writes_into_data,
    wrong={
        copies_under_no_grad: "raises no error",
        assigns_data: "the gradient of the new weights",
    },
)
@given(old=st.integers(1, 9), new=st.integers(10, 99), value=st.integers(1, 9))
def test_a_write_into_data_after_forward_changes_the_gradient(
    set_weight: SetWeight, old: int, new: int, value: int
) -> None:
    """Without an error, backward uses the weights written after forward: a wrong gradient."""
    assert gradient_after(set_weight, old, new, value) == new, (
        "it is the gradient of the new weights"
    )


@law(
    right=assigns_data,
    wrong={
        copies_under_no_grad: "raises no error",
        writes_into_data: "the gradient of the old weights",
    },
)
@given(old=st.integers(1, 9), new=st.integers(10, 99), value=st.integers(1, 9))
def test_an_assignment_after_forward_keeps_the_old_gradient(
    set_weight: SetWeight, old: int, new: int, value: int
) -> None:
    """Without an error, backward uses the weights of the forward pass, which the layer lost."""
    assert gradient_after(set_weight, old, new, value) == old, (
        "it is the gradient of the old weights"
    )


def gradient_after(set_weight: SetWeight, old: int, new: int, value: int) -> float:
    # The slope of weight * x is the weight that backward uses.
    layer, x = nn.Linear(1, 1, bias=False), torch.tensor([[float(value)]], requires_grad=True)
    nn.init.constant_(layer.weight, old)
    output = layer(x)
    set_weight(layer, torch.tensor([[float(new)]]))
    try:
        output.backward()
    except RuntimeError as error:
        pytest.fail(f"backward raises no error: {error}")
    return x.grad.item()
