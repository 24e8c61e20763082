"""no_grad stops recording, and changes neither values nor the model.

>>> x = torch.tensor([1.0, 2.0], requires_grad=True)
>>> x * 3
tensor([3., 6.], grad_fn=<MulBackward0>)
>>> with torch.no_grad():
...     print(x * 3, x.requires_grad)
tensor([3., 6.]) True

Notes: `torch.no_grad` turns off all gradients inside it.
Verdict: holds-if
Truth: It stops recording. It changes no value, does not touch `requires_grad` of existing tensors
    or stored gradients, and does not switch dropout off. A leaf that is made inside keeps
    `requires_grad=True`, so a model built there trains afterwards. The block ends also after an
    exception, and does not affect other threads.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import Problem, networks, problems, tensors
from dlconcepts.support.bitwise import same, state_of
from dlconcepts.testing.laws import law


@contextmanager
def never_restores_after_an_exception() -> Iterator[None]:
    """Switch tracking off and on again without finally, so an exception skips the second."""
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


@contextmanager
def always_switches_on_again() -> Iterator[None]:
    """Switch tracking on at the end, whatever it was before."""
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)


@contextmanager
def records_everything() -> Iterator[None]:
    """Do nothing, so autograd keeps recording."""
    yield


@law(
    right=torch.no_grad,
    wrong={
        never_restores_after_an_exception: "as it was before an exception",
        always_switches_on_again: "as it was around the block",
        records_everything: "nothing is recorded",
    },
)
@given(around=st.lists(st.booleans(), max_size=3), x=tensors((2,), requires_grad=True))
def test_tracking_is_off_inside_the_block_and_restored_after_it(
    no_grad: Callable[[], AbstractContextManager[None]], around: list[bool], x: Tensor
) -> None:
    """Tracking is off inside, and restored after the block, an exception or a decorated call."""
    with ExitStack() as outer:
        # The first block restores tracking for the next test, even if the law fails.
        for enabled in (True, *around):
            outer.enter_context(torch.set_grad_enabled(enabled))
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
        assert others == [True], "other threads keep recording"
        assert no_grad()(torch.is_grad_enabled)() is False, "off in a decorated function"
        assert torch.is_grad_enabled() == before, "tracking is as it was before a decorated call"
        with pytest.raises(KeyError), no_grad():
            raise KeyError
        assert torch.is_grad_enabled() == before, "tracking is as it was before an exception"


def compute_untracked(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(inputs)


def freezes_for_good(model: nn.Module, inputs: Tensor) -> Tensor:
    """Set requires_grad to False on the parameters and never restore it."""
    return model.requires_grad_(False)(inputs)


def calls_eval_and_tracks(model: nn.Module, inputs: Tensor) -> Tensor:
    """Use eval mode instead of no_grad."""
    result = model.eval()(inputs)
    model.train()
    return result


def switches_dropout_off(model: nn.Module, inputs: Tensor) -> Tensor:
    """Switch dropout off as well, as eval mode does."""
    model.eval()
    result = compute_untracked(model, inputs)
    model.train()
    return result


def clears_gradients(model: nn.Module, inputs: Tensor) -> Tensor:
    """Clear the stored gradients, as if 'all gradients' meant them."""
    model.zero_grad()
    return compute_untracked(model, inputs)


@law(
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
    """Values, dropout, requires_grad and stored gradients are the same as without no_grad."""
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


def build_untracked(model: nn.Sequential) -> list[Tensor]:
    with torch.no_grad():
        layers = [nn.Linear(layer.in_features, layer.out_features) for layer in model[::2]]
        made = torch.ones(2, requires_grad=True)
        return [*nn.Sequential(*layers).parameters(), made, (made * 2).requires_grad_()]


def freezes_what_it_builds(model: nn.Sequential) -> list[Tensor]:
    """Freeze what is built inside the block, as if no_grad turned off its gradients."""
    return [leaf.requires_grad_(False) for leaf in build_untracked(model)]


def computes_what_it_builds(model: nn.Sequential) -> list[Tensor]:
    """Take clones made inside the block, which are results and untracked."""
    with torch.no_grad():
        return [leaf.clone() for leaf in build_untracked(model)]


@law(
    right=build_untracked,
    wrong={
        freezes_what_it_builds: "keeps requires_grad=True",
        computes_what_it_builds: "keeps requires_grad=True",
    },
)
@given(model=networks())
def test_a_leaf_made_inside_trains_afterwards(
    build: Callable[[nn.Sequential], list[Tensor]], model: nn.Sequential
) -> None:
    """Parameters and tensors made under no_grad with requires_grad=True get gradients later."""
    for leaf in build(model):
        assert leaf.requires_grad, "a leaf made inside keeps requires_grad=True"
        (3 * leaf).sum().backward()
        assert leaf.grad is not None, "after the block, the leaf gets a gradient"
        assert same(leaf.grad, torch.full_like(leaf, 3)), "the gradient is that of the result"
