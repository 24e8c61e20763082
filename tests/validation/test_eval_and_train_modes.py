"""eval() switches layers; it switches neither your code nor the gradients.

>>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval()
>>> x = torch.tensor([[1.0, 2.0]])
>>> torch.equal(model(x), model(x)), model(x).requires_grad  # no dropout, but gradients
(True, True)
>>> with torch.no_grad():
...     model(x).requires_grad
False

Notes: Switch between model.eval() and model.train() so that the validation code does not run in
    training and the other way round.
Verdict: corrected
Truth: The modes switch layers, not your code. In eval mode, dropout stops and BatchNorm uses its
    running statistics; `no_grad` switches gradients off. An evaluation restores the mode of each
    module and leaves parameters, buffers and gradients unchanged, even if it raises.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.loading import batches
from dlconcepts.strategies import tensors
from dlconcepts.support.bitwise import bits, state_of
from dlconcepts.testing.laws import law
from dlconcepts.validation import Data, Evaluation, evaluate, inference
from tests.validation.common import close, in_training_mode, modes_of, set_modes


class Noise(nn.Module):
    """Dropout that ignores the mode: many models make this mistake."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1)


@st.composite
def restless_networks(draw: st.DrawFn, features: int = 3, classes: int = 2) -> nn.Module:
    # Networks with everything that a mode can change. Each module draws its own mode; some
    # parameters have a gradient, some are frozen.
    inner = nn.Sequential(nn.Dropout(0.5), nn.ReLU())
    layers = [nn.Linear(features, 4), nn.BatchNorm1d(4), inner, nn.Linear(4, classes)]
    layers[1].running_mean.fill_(0.5)  # an update scales the mean; at 0 nobody would see it
    model = nn.Sequential(*layers, *[Noise()] * draw(st.booleans()))
    # One number instead of 14 booleans: it shrinks in a few steps.
    switches = draw(st.integers(0, 2**14 - 1))
    for k, module in enumerate(model.modules()):
        module.training = bool(switches >> k & 1)
    note(f"(in training mode: {[name for name, m in model.named_modules() if m.training]})")
    for k, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(not switches >> k & 1)
        parameter.grad = torch.ones_like(parameter) if switches >> k & 2 else None
    return model


class BrokenError(Exception):
    """An error in the middle of an evaluation."""


@contextmanager
def forgets_to_return(model: nn.Module) -> Iterator[nn.Module]:
    """Leave the model in eval mode."""
    with torch.no_grad():
        yield model.eval()


@contextmanager
def returns_to_train(model: nn.Module) -> Iterator[nn.Module]:
    """Call train() afterwards, whatever the mode was before."""
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        model.train()


@contextmanager
def returns_to_the_outermost_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put every module into the mode of the outermost one."""
    training = model.training
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        model.train(training)


@contextmanager
def returns_unless_it_raises(model: nn.Module) -> Iterator[nn.Module]:
    """Restore the modes after the block, which an error skips."""
    modes = modes_of(model)
    with torch.no_grad():
        yield model.eval()
    set_modes(model, modes)


@contextmanager
def with_gradients(model: nn.Module) -> Iterator[nn.Module]:
    """Expect eval mode to switch the gradients off."""
    modes = modes_of(model)
    try:
        yield model.eval()
    finally:
        set_modes(model, modes)


@law(
    right=inference,
    wrong={
        forgets_to_return: "mode is restored",
        returns_to_train: "mode is restored",
        returns_to_the_outermost_mode: "mode is restored",
        returns_unless_it_raises: "mode is restored",
        with_gradients: "no gradient is recorded",
    },
)
@given(model=restless_networks(), raises=st.booleans(), grad=st.booleans())
def test_inference_restores_the_mode_of_each_module(
    inference: Callable[[nn.Module], AbstractContextManager[nn.Module]],
    model: nn.Module,
    raises: bool,
    grad: bool,
) -> None:
    """Inside, every module is in eval mode without gradients; afterwards all is as before."""
    before, modes = state_of(model), modes_of(model)

    with torch.set_grad_enabled(grad):
        with pytest.raises(BrokenError) if raises else nullcontext(), inference(model) as inside:
            assert inside is model, "the block receives the model itself"
            assert not any(modes_of(model)), "each module is in eval mode"
            assert not torch.is_grad_enabled(), "no gradient is recorded"
            if raises:
                raise BrokenError
        assert torch.is_grad_enabled() == grad, "the switch of the gradients is restored"

    assert modes_of(model) == modes, "each module's mode is restored"
    assert state_of(model) == before, "parameters, buffers and gradients are unchanged"


def clears_gradients(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Zero the gradients, as in a training step."""
    model.zero_grad()
    return evaluate(model, data, **options)


def shifts_the_random_numbers(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Let the model draw from the global generator, which the training uses."""
    with inference(model):
        losses = [options["loss_fn"](model(x), y) for x, y in batches(data, options["batch_size"])]
    return Evaluation(torch.stack(losses).mean().item(), 0.0)


def seeds_the_evaluation(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Seed the global generator, to repeat the noise in each evaluation."""
    torch.manual_seed(0)
    return evaluate(model, data, **options)


def records_the_graph(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Set eval mode, and let the graphs of all batches fill the memory."""
    loss_fn, modes = options["loss_fn"], modes_of(model)
    try:
        with torch.random.fork_rng():
            logits = torch.cat([model.eval()(x) for x, _ in batches(data, options["batch_size"])])
            return Evaluation(loss_fn(logits, data[1]).item(), 0.0)
    finally:
        set_modes(model, modes)


def restores_unless_it_raises(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Restore the modes after the loop, which an error skips."""
    modes = modes_of(model)
    model.eval()
    result = evaluate(model, data, **options)
    set_modes(model, modes)
    return result


@law(
    right=evaluate,
    wrong={
        in_training_mode: "statistics are unchanged",
        clears_gradients: "gradients",
        restores_unless_it_raises: "mode is restored",
        shifts_the_random_numbers: "random state",
        seeds_the_evaluation: "random state",
        records_the_graph: "no graph is recorded",
    },
)
@given(
    model=restless_networks(),
    seed=st.integers(0, 3),
    fault=st.sampled_from(["none", "loss", "batch"]),
)
def test_an_evaluation_leaves_no_trace(
    evaluate: Callable[..., Evaluation], model: nn.Module, seed: int, fault: str
) -> None:
    """Modes, parameters, buffers, gradients and random state are as before, even after an error."""
    torch.manual_seed(seed)
    data = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 0, 1])
    counted, forwards, graphs = [], [], []

    def loss_fn(logits: Tensor, labels: Tensor) -> Tensor:
        graphs.append(logits.requires_grad)
        counted.extend(labels)
        if fault == "loss" and len(counted) > 2:
            raise BrokenError
        return F.cross_entropy(logits, labels)

    def stumble(module: nn.Module, inputs: Any) -> None:
        if fault == "batch" and forwards:
            raise BrokenError
        forwards.append(module)

    # Both faults raise after the first batch of two: by then, it has left its traces.
    model.register_forward_pre_hook(stumble)
    buffers = [bits(buffer) for buffer in model.buffers()]
    before, modes, random_state = state_of(model), modes_of(model), random_states()

    with pytest.raises(BrokenError) if fault != "none" else nullcontext():
        evaluate(model, data, loss_fn=loss_fn, batch_size=2)

    assert [bits(buffer) for buffer in model.buffers()] == buffers, (
        "the running statistics are unchanged"
    )
    assert modes_of(model) == modes, "each module's mode is restored"
    assert state_of(model) == before, "parameters and gradients are unchanged"
    # Compared outside the assertion: pytest would spend seconds to explain 5,000 different bytes.
    unchanged = random_states() == random_state
    assert unchanged, "the random state is unchanged"
    assert not any(graphs), "no graph is recorded"


def random_states() -> list[bytes]:
    # The generators that a model on the default device may draw from.
    device = torch.get_default_device()
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return [bits(state) for state in states]


def only_the_outermost(model: nn.Module) -> nn.Module:
    """Set the flag of the outermost module only."""
    model.training = False
    return model


def freezes(model: nn.Module) -> nn.Module:
    """Switch the gradients of the parameters off too."""
    return model.eval().requires_grad_(False)


def stays_in_training_mode(model: nn.Module) -> nn.Module:
    """Forget eval(), as if no_grad were enough for inference."""
    return model.train()


@law(
    right=nn.Module.eval,
    wrong={
        only_the_outermost: "reaches each module",
        stays_in_training_mode: "reaches each module",
        freezes: "gradients are a separate matter",
    },
)
@given(inputs=tensors((2, 3), max_magnitude=1e3), seed=st.integers(0, 2**16))
def test_eval_switches_layers_and_not_gradients(
    switch: Callable[[nn.Module], nn.Module], inputs: Tensor, seed: int
) -> None:
    """Dropout stops, BatchNorm uses its running statistics, and gradients still flow."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(3)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    model = nn.Sequential(nn.Sequential(norm, nn.Dropout(0.5)), nn.Sequential(nn.Dropout()))
    mean, variance = (b.double().numpy(force=True) for b in (norm.running_mean, norm.running_var))

    switch(model)
    outputs = model(inputs)

    assert not any(modes_of(model)), "eval reaches each module"
    expected = (inputs.double().numpy(force=True) - mean) / np.sqrt(variance + norm.eps)
    assert close(outputs, torch.as_tensor(expected), 1e-4, 1e-4), (
        "BatchNorm uses running statistics"
    )
    assert outputs.requires_grad, "gradients are a separate matter: they still flow"
