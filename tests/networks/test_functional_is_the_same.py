"""A module and its function compute the same.

>>> layer, x = nn.Linear(3, 2), torch.tensor([[1.0, 2.0, 3.0]])
>>> layer(x).equal(F.linear(x, layer.weight, layer.bias))
True
>>> dropout, ones = nn.Dropout(0.5).eval(), torch.ones(1000)
>>> dropout(ones).equal(ones)
True
>>> F.dropout(ones, 0.5).equal(ones)  # training=True is the default
False

Notes: torch.nn.functional has the same functions.
Verdict: holds-if
Truth: With the parameters and settings of the module as arguments, values and gradients are the
    same. One setting is the mode: `F.dropout` drops by default, even in a model in eval mode.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import shapes
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.networks.common import inputs, seeds, values_and_gradients


def functional_form(module: Any, *arguments: Tensor) -> Tensor:
    # The module's own parameters and settings go to the function; only Dropout has a mode.
    forms: dict[type[nn.Module], Callable[..., Tensor]] = {
        nn.Linear: lambda x: F.linear(x, module.weight, module.bias),
        nn.ReLU: F.relu,
        nn.LeakyReLU: lambda x: F.leaky_relu(x, module.negative_slope),
        nn.PReLU: lambda x: F.prelu(x, module.weight),
        nn.GELU: F.gelu,
        nn.Tanh: torch.tanh,
        nn.Sigmoid: torch.sigmoid,
        nn.Softmax: lambda x: F.softmax(x, dim=module.dim),
        nn.LogSoftmax: lambda x: F.log_softmax(x, dim=module.dim),
        nn.Dropout: lambda x: F.dropout(x, module.p, training=module.training),
        nn.NLLLoss: lambda x, labels: F.nll_loss(x, labels, reduction=module.reduction),
        nn.CrossEntropyLoss: lambda x, labels: F.cross_entropy(
            x, labels, reduction=module.reduction
        ),
    }
    return forms[type(module)](*arguments)


def dropout_by_default(module: Any, *arguments: Tensor) -> Tensor:
    """Call F.dropout(x), which drops in eval mode too: its default is training=True."""
    if isinstance(module, nn.Dropout):
        return F.dropout(*arguments, module.p)
    return functional_form(module, *arguments)


def forgets_the_bias(module: Any, *arguments: Tensor) -> Tensor:
    """Call F.linear with the weight alone."""
    if isinstance(module, nn.Linear):
        return F.linear(*arguments, module.weight)
    return functional_form(module, *arguments)


def forgets_the_slope(module: Any, *arguments: Tensor) -> Tensor:
    """Call F.leaky_relu with its default slope instead of the module's."""
    if isinstance(module, nn.LeakyReLU):
        return F.leaky_relu(*arguments)
    return functional_form(module, *arguments)


def forgets_the_reduction(module: Any, *arguments: Tensor) -> Tensor:
    """Average over the batch, whatever reduction the module has."""
    if isinstance(module, nn.CrossEntropyLoss):
        return F.cross_entropy(*arguments)
    return functional_form(module, *arguments)


def cuts_the_slope(module: Any, *arguments: Tensor) -> Tensor:
    """Detach the slope of PReLU before passing it, so that it gets no gradient."""
    if isinstance(module, nn.PReLU):
        return F.prelu(*arguments, module.weight.detach())
    return functional_form(module, *arguments)


LOSSES = (nn.NLLLoss, nn.CrossEntropyLoss)
# Dropout first: Hypothesis shrinks towards it, and its mode is the surprise.
KINDS = (
    *(nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Softmax),
    *(nn.LogSoftmax, nn.Linear, *LOSSES),
)


@st.composite
def module_calls(draw: st.DrawFn) -> tuple[nn.Module, list[Tensor]]:
    """Draw a module in train or eval mode, and its arguments."""
    batch, width = draw(shapes(2, 2, min_side=1, max_side=4))
    kind = draw(st.sampled_from(KINDS))
    options: dict[str, Any] = {}
    if kind is nn.Linear:
        options = {"in_features": width, "out_features": 3}
    elif kind is nn.LeakyReLU:
        options = {"negative_slope": 0.2}
    elif kind in (nn.Softmax, nn.LogSoftmax):
        options = {"dim": draw(st.integers(0, 1))}
    elif kind in LOSSES:
        options = {"reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    arguments = [draw(inputs(batch, width, requires_grad=True))]
    if kind in LOSSES:
        labels = draw(st.lists(st.integers(0, width - 1), min_size=batch, max_size=batch))
        arguments.append(torch.tensor(labels))
    return kind(**options).double().train(draw(st.booleans())), arguments


@law(
    right=functional_form,
    wrong={
        dropout_by_default: "of Dropout in eval mode",
        forgets_the_bias: "of Linear",
        forgets_the_slope: "of LeakyReLU",
        forgets_the_reduction: "of CrossEntropyLoss",
        cuts_the_slope: "the gradients of PReLU",
    },
)
@given(drawn=module_calls(), seed=seeds)
def test_a_module_and_its_function_are_the_same(
    functional: Callable[..., Tensor], drawn: tuple[nn.Module, list[Tensor]], seed: int
) -> None:
    """Given a module's parameters and settings, its function has the same values and gradients."""
    module, arguments = drawn
    # The same seed before both calls, so that Dropout draws the same mask.
    expected, *gradients = values_and_gradients(
        lambda module, *arguments: module(*arguments), module, arguments, seed
    )

    values, *found = values_and_gradients(functional, module, arguments, seed)

    name, mode = type(module).__name__, "training" if module.training else "eval"
    assert bits(values) == bits(expected), f"the function has the values of {name} in {mode} mode"
    assert [bits(gradient) for gradient in found] == [bits(gradient) for gradient in gradients], (
        f"the function has the gradients of {name} in {mode} mode"
    )


class ForgetsTheMode(nn.Module):
    """A model that calls F.dropout(x), which knows nothing of its mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x)


class PassesTheMode(nn.Module):
    """A model that passes its mode to F.dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, training=self.training)


@law(
    right=ForgetsTheMode,
    wrong={PassesTheMode: "drops in eval mode", nn.Dropout: "drops in eval mode"},
)
@given(seed=seeds)
def test_f_dropout_drops_in_eval_mode_too(build: Callable[[], nn.Module], seed: int) -> None:
    """Half of what F.dropout gets becomes 0 by default, though the model is in eval mode."""
    torch.manual_seed(seed)

    dropped = build().eval()(torch.ones(1000)) == 0

    # The deviation is 16: chance leaves these limits once in 1e23 times.
    assert 340 < int(dropped.sum()) < 660, "F.dropout drops in eval mode too, by default"
