"""Eval and train modes.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Switch between model.eval() and model.train() so that the validation code does not run in
    training and the other way round.
Verdict: corrected
Truth: The modes switch layers, not your code: dropout stops and BatchNorm uses its running
    statistics. Gradients are a separate matter (no_grad).
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
from tests.validation.common import close, in_training_mode, modes_of


class Noise(nn.Module):
    """Dropout that is always on, since it was not told the mode: a mistake of many models."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop a tenth of the values."""
        return F.dropout(x, 0.1)


@st.composite
def restless_networks(draw: st.DrawFn, features: int = 3, classes: int = 2) -> nn.Module:
    """Draw networks with all that a mode can change, each module in a mode of its own.

    Some parameters have a gradient, some are frozen.
    """
    inner = nn.Sequential(nn.Dropout(0.5), nn.ReLU())
    layers = [nn.Linear(features, 4), nn.BatchNorm1d(4), inner, nn.Linear(4, classes)]
    layers[1].running_mean.fill_(0.5)  # a mean of zero would hide that it is multiplied
    model = nn.Sequential(*layers, *[Noise()] * draw(st.booleans()))
    # One number for all switches shrinks in a few steps.
    switches = draw(st.integers(0, 2**14 - 1))
    for k, module in enumerate(model.modules()):
        module.training = bool(switches >> k & 1)
    note(f"(in training mode: {[name for name, m in model.named_modules() if m.training]})")
    for k, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(not switches >> k & 1)
        parameter.grad = torch.ones_like(parameter) if switches >> k & 2 else None
    return model


class BrokenError(Exception):
    """What a law raises in the middle of an evaluation."""


@contextmanager
def forgets_to_return(model: nn.Module) -> Iterator[nn.Module]:
    """Stay in eval mode."""
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
def returns_by_the_top(model: nn.Module) -> Iterator[nn.Module]:
    """Put all modules into the mode that the outermost had."""
    training = model.training
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        model.train(training)


@contextmanager
def returns_unless_it_raises(model: nn.Module) -> Iterator[nn.Module]:
    """Restore the modes behind the block, where an error does not come by."""
    modes = modes_of(model)
    with torch.no_grad():
        yield model.eval()
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training


@contextmanager
def with_gradients(model: nn.Module) -> Iterator[nn.Module]:
    """Take eval mode for the switch of the gradients."""
    modes = modes_of(model)
    try:
        yield model.eval()
    finally:
        for module, training in zip(model.modules(), modes, strict=True):
            module.training = training


@law(
    right=inference,
    wrong={
        forgets_to_return: "has its own mode back",
        returns_to_train: "has its own mode back",
        returns_by_the_top: "has its own mode back",
        returns_unless_it_raises: "has its own mode back",
        with_gradients: "no gradient is recorded",
    },
)
@given(model=restless_networks(), raises=st.booleans(), grad=st.booleans())
def test_inference_gives_each_module_its_mode_back(
    inference: Callable[[nn.Module], AbstractContextManager[nn.Module]],
    model: nn.Module,
    raises: bool,
    grad: bool,
) -> None:
    """Inside, all modules are in eval mode and nothing is recorded; afterwards all is as before."""
    before, modes = state_of(model), modes_of(model)

    with torch.set_grad_enabled(grad):
        with pytest.raises(BrokenError) if raises else nullcontext(), inference(model) as inside:
            assert inside is model, "the block gets the model itself"
            assert not any(modes_of(model)), "each module is in eval mode"
            assert not torch.is_grad_enabled(), "no gradient is recorded"
            if raises:
                raise BrokenError
        assert torch.is_grad_enabled() == grad, "recording is as it was"

    assert modes_of(model) == modes, "each module has its own mode back"
    assert state_of(model) == before, "parameters, buffers and gradients are as they were"


def clears_gradients(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Zero the gradients, as if this were a training step."""
    model.zero_grad()
    return evaluate(model, data, **options)


def shifts_the_random_numbers(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Let the model draw from the generator of the training."""
    with inference(model):
        losses = [options["loss_fn"](model(x), y) for x, y in batches(data, options["batch_size"])]
    return Evaluation(torch.stack(losses).mean().item(), 0.0)


def seeds_the_evaluation(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Seed, to get the same noise each time."""
    torch.manual_seed(0)
    return evaluate(model, data, **options)


def restores_unless_it_raises(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Put the modes back behind the loop."""
    modes = modes_of(model)
    model.eval()
    result = evaluate(model, data, **options)
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    return result


@law(
    right=evaluate,
    wrong={
        in_training_mode: "statistics are as they were",
        clears_gradients: "gradients",
        restores_unless_it_raises: "has its own mode back",
        shifts_the_random_numbers: "random state",
        seeds_the_evaluation: "random state",
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
    """Modes, parameters, buffers, gradients and random state are as before, also after an error."""
    torch.manual_seed(seed)
    data = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 0, 1])
    calls = []

    def loss_fn(logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, or raise at the second batch."""
        calls.append(len(labels))
        if fault == "loss" and len(calls) == 2:
            raise BrokenError
        return F.cross_entropy(logits, labels)

    def stumble(module: nn.Module, inputs: Any) -> None:
        """Raise at the second batch, before the model sees it."""
        if fault == "batch" and calls:
            raise BrokenError

    model.register_forward_pre_hook(stumble)
    buffers = [bits(buffer) for buffer in model.buffers()]
    before, modes, random_state = state_of(model), modes_of(model), random_states()

    with pytest.raises(BrokenError) if fault != "none" else nullcontext():
        evaluate(model, data, loss_fn=loss_fn, batch_size=2)

    assert [bits(buffer) for buffer in model.buffers()] == buffers, "statistics are as they were"
    assert modes_of(model) == modes, "each module has its own mode back"
    assert state_of(model) == before, "parameters and gradients are as they were"
    # Apart from the assertion, which would explain the difference of 5,000 bytes for seconds.
    untouched = random_states() == random_state
    assert untouched, "the random state is as it was"


def random_states() -> list[bytes]:
    """Return the state of the generators that a model on the default device draws from."""
    device = torch.get_default_device()
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return [bits(state) for state in states]


def only_the_outermost(model: nn.Module) -> nn.Module:
    """Set the flag of the model and forget its parts."""
    model.training = False
    return model


def freezes(model: nn.Module) -> nn.Module:
    """Switch the gradients off too."""
    return model.eval().requires_grad_(False)


def nothing(model: nn.Module) -> nn.Module:
    """Take no_grad for all that inference needs."""
    return model.train()


@law(
    right=nn.Module.eval,
    wrong={
        only_the_outermost: "reaches each module",
        nothing: "reaches each module",
        freezes: "gradients are a separate matter",
    },
)
@given(inputs=tensors((2, 3), max_magnitude=1e3), seed=st.integers(0, 2**16))
def test_eval_switches_layers_and_not_gradients(
    switch: Callable[[nn.Module], nn.Module], inputs: Tensor, seed: int
) -> None:
    """Dropout stops and BatchNorm uses its running statistics; gradients flow as before."""
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
    assert close(outputs, torch.as_tensor(expected), 1e-4, 1e-4), "it uses the running statistics"
    assert outputs.requires_grad, "gradients are a separate matter: they still flow"
