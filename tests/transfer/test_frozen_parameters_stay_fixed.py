"""Frozen layers can still change, through old gradients or BatchNorm.

>>> weight = nn.Parameter(torch.tensor([1.0]))
>>> weight.sum().backward()
>>> weight.requires_grad = False  # its gradient of 1 stays
>>> torch.optim.SGD([weight], lr=0.1).step()
>>> weight
Parameter containing:
tensor([0.9000])
>>> norm = nn.BatchNorm1d(1).requires_grad_(False)  # its momentum is 0.1
>>> _ = norm(torch.tensor([[1.0], [3.0]]))
>>> norm.running_mean
tensor([0.2000])

Notes: Frozen parameters do not change while the classifier is trained.
Verdict: holds-if
Truth: If they had no gradient when frozen: an optimizer still moves a frozen parameter by a stale
    gradient, by momentum and by weight decay. And BatchNorm's running statistics are not
    parameters: they move in train mode, so the frozen part belongs in eval mode. And LBFGS steps
    in directions that it remembers: if it holds all parameters, it moves even those that are
    frozen and have no gradient. Give it only the head's.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from dlconcepts.transfer import freeze, new_head, replace_head
from tests.transfer.common import Pretrained, photographs, small_networks, train

# All of PyTorch's but two: Muon takes only matrices, and SparseAdam only sparse gradients.
OPTIMIZERS = [
    name
    for name in sorted(vars(torch.optim))
    if isinstance(kind := getattr(torch.optim, name), type)
    and issubclass(kind, torch.optim.Optimizer)
    and name not in ("Optimizer", "Muon", "SparseAdam")
]


def make_optimizer(name: str, parameters: Any, extras: bool) -> torch.optim.Optimizer:
    """Return an optimizer; with `extras`, also its momentum and weight decay if it has them."""
    kind = getattr(torch.optim, name)
    has = kind.__init__.__code__.co_varnames
    if name == "LBFGS":
        # Several iterations a step, so that it has directions to remember.
        return kind(parameters, lr=0.1, max_iter=4)
    options = {option: 0.1 for option in ("momentum", "weight_decay") if extras and option in has}
    return kind(parameters, lr=0.1, **options)


def outside_the_head(model: Pretrained) -> dict[str, bytes]:
    return {
        name: bits(value)
        for name, value in model.state_dict().items()
        if not name.startswith(f"{model.head_name}.")
    }


def keeps_the_gradients(model: nn.Module, head: nn.Module) -> None:
    """Freeze after a backward pass and keep the gradients."""
    keeps_gradients_of(lambda parameter: True, model, head)


def keeps_gradients_of(
    kind: Callable[[nn.Parameter], bool], model: nn.Module, head: nn.Module
) -> None:
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    freeze(model, head)
    for parameter, gradient in gradients.items():
        if kind(parameter):
            parameter.grad = gradient


def keeps_the_gradients_of_kernels(model: nn.Module, head: nn.Module) -> None:
    """Keep the gradients of parameters that have 3 or more dimensions."""
    keeps_gradients_of(lambda parameter: parameter.ndim >= 3, model, head)


def keeps_the_gradients_of_1d_kernels(model: nn.Module, head: nn.Module) -> None:
    """Keep the gradients of parameters that have exactly 3 dimensions."""
    keeps_gradients_of(lambda parameter: parameter.ndim == 3, model, head)


def keeps_the_gradients_of_bare_parameters(model: nn.Module, head: nn.Module) -> None:
    """Keep the gradient of a parameter that belongs to the model itself and to no layer."""
    bare = set(model.parameters(recurse=False))
    keeps_gradients_of(lambda parameter: parameter in bare, model, head)


def forgets_eval_mode(model: nn.Module, head: nn.Module) -> None:
    """Freeze the parameters but leave BatchNorm in train mode."""
    freeze(model, head).remove()
    model.train()


def calls_eval_once(model: nn.Module, head: nn.Module) -> None:
    """Put the frozen part into eval mode once, which the next model.train() undoes."""
    freeze(model, head).remove()


def zeroes_the_gradients(model: nn.Module, head: nn.Module) -> None:
    """Set the gradients to zero instead of None, so that weight decay and momentum still act."""
    freeze(model, head)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


@law(
    right=freeze,
    wrong={
        keeps_the_gradients: "every frozen parameter",
        keeps_the_gradients_of_kernels: "every frozen parameter",
        keeps_the_gradients_of_1d_kernels: "every frozen parameter",
        keeps_the_gradients_of_bare_parameters: "every frozen parameter",
        zeroes_the_gradients: "every frozen parameter",
        calls_eval_once: "every frozen buffer",
        forgets_eval_mode: "every frozen buffer",
    },
)
@given(
    model=small_networks(),
    batch=photographs(),
    optimizer=st.sampled_from(OPTIMIZERS),
    extras=st.booleans(),
    zero_first=st.booleans(),
    set_to_none=st.booleans(),
    all_parameters=st.booleans(),
)
def test_training_changes_nothing_that_is_frozen(
    freeze: Callable[[nn.Module, nn.Module], object],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
    optimizer: str,
    extras: bool,
    zero_first: bool,
    set_to_none: bool,
    all_parameters: bool,
) -> None:
    """No bit outside the head changes in training, with any optimizer."""
    images, labels = batch
    head = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.1))
    replace_head(model, head)
    # LBFGS moves all that it holds as one vector: see the last law.
    held = model if all_parameters and optimizer != "LBFGS" else head
    stepper = make_optimizer(optimizer, held.parameters(), extras)
    # Freeze in the middle of training: there is momentum, and parameters have gradients.
    train(model, stepper, batch, steps=1, zero_first=zero_first, set_to_none=set_to_none)
    F.cross_entropy(model(images), labels).backward()
    freeze(model, head)
    before, head_before = outside_the_head(model), [bits(p) for p in head.parameters()]

    train(model, stepper, batch, steps=2, zero_first=zero_first, set_to_none=set_to_none)

    moved = moved_outside_the_head(model, before)
    buffers = {name for name, _ in model.named_buffers()}
    assert set(moved) <= buffers, f"every frozen parameter stays, but {moved} moved"
    assert not moved, f"every frozen buffer stays, but {moved} moved"
    assert [bits(p) for p in head.parameters()] != head_before, "the head is trained"
    assert all(layer.training for layer in head.modules()), "the head is in train mode"


def moved_outside_the_head(model: Pretrained, before: dict[str, bytes]) -> list[str]:
    return [name for name, value in outside_the_head(model).items() if value != before[name]]


def freezes_the_norms_alone(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Put only BatchNorm into eval mode, so that dropout makes frozen features random."""
    freeze(model, head).remove()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]

    def put_in_eval(*_: object) -> None:
        for module in norms:
            module.training = False

    return model.register_forward_pre_hook(put_in_eval)


def always_trains_the_head(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Put the head into train mode before each pass, even in an evaluation."""
    freeze(model, head)
    return model.register_forward_pre_hook(lambda *_: head.train() and None)


def cannot_be_undone(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Return a handle that removes nothing."""
    freeze(model, head)
    return RemovableHandle(OrderedDict())


def freezes_all_for_another_head(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Freeze the whole model if the head is in another one."""
    return freeze(model, head if head in set(model.modules()) else model)


@law(
    right=freeze,
    wrong={
        freezes_the_norms_alone: "eval mode in each pass",
        always_trains_the_head: "the model's own mode",
        cannot_be_undone: "train() reaches every layer",
        freezes_all_for_another_head: "DID NOT RAISE",
    },
)
@given(
    model=small_networks(),
    batch=photographs(),
    train=st.booleans(),
    head=st.sampled_from(["in the model", "in another", "removed", "the model"]),
)
def test_the_head_has_the_mode_of_the_model(
    freeze: Callable[[nn.Module, nn.Module], RemovableHandle],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
    train: bool,
    head: str,
) -> None:
    """The rest is in eval mode in each pass, until the handle is removed."""
    own = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.1))
    if head == "in another":
        with pytest.raises(ValueError, match="not a module of the model"):
            freeze(model, own)
        return
    replace_head(model, own)

    handle = freeze(model, model if head == "the model" else own)
    if head == "removed":
        handle.remove()
    model.train(train)
    model(batch[0])

    everything = set(model.modules())
    trained = set(own.modules()) if head == "in the model" else everything
    reason = "the head has the model's own mode"
    if head == "removed":
        reason = "once the handle is removed, train() reaches every layer"
    assert {part.training for part in trained} == {train}, reason
    # The model itself may stay in train mode: it has a parameter, and no mode of its own.
    rest = everything - trained - {model}
    assert not any(part.training for part in rest), "the rest is in eval mode in each pass"


def remembers_the_modules(model: nn.Module, head: nn.Module) -> None:
    """Keep a list of the frozen modules, which in a copy of the model are still the original's."""
    freeze(model, head).remove()
    frozen = [module for module in model.modules() if module not in set(head.modules())]

    def put_in_eval(*_: object) -> None:
        for module in frozen:
            module.training = False

    model.register_forward_pre_hook(put_in_eval)


def takes_a_prefix_for_the_head(model: nn.Module, head: nn.Module) -> None:
    """Take fc_norm for a part of the head fc, since its name begins alike."""
    freeze(model, head).remove()
    name = next(name for name, module in model.named_modules() if module is head)

    def put_in_eval(model: nn.Module, *_: object) -> None:
        for part, module in model.named_modules():
            module.train(part.startswith(name))

    model.register_forward_pre_hook(put_in_eval)


@law(
    right=freeze,
    wrong={
        remembers_the_modules: "every frozen buffer stays",
        takes_a_prefix_for_the_head: "every frozen buffer stays",
    },
    share=0.5,
    because="each example trains a network",
)
@given(model=small_networks(), batch=photographs(), copied=st.booleans(), replaced=st.booleans())
def test_a_copy_is_frozen_too(
    freeze: Callable[[nn.Module, nn.Module], object],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
    copied: bool,
    replaced: bool,
) -> None:
    """A copy of a frozen network stays frozen, and so does one with another new head."""
    freeze(model, model.head_layer)
    if copied:
        model = copy.deepcopy(model)
    if replaced:
        replace_head(model, new_head(4, [], 2))
    before = outside_the_head(model)

    train(model, torch.optim.SGD(model.parameters(), lr=0.1), batch, steps=1)

    moved = moved_outside_the_head(model, before)
    assert not moved, f"every frozen buffer stays, but {moved} moved"


def of_the_head(model: Pretrained) -> Iterator[nn.Parameter]:
    """Give the optimizer the head's parameters."""
    return model.head_layer.parameters()


def of_the_model(model: Pretrained) -> Iterator[nn.Parameter]:
    """Give the optimizer all parameters, although some are frozen later."""
    return model.parameters()


@law(
    right=of_the_head,
    wrong={of_the_model: "every frozen parameter stays"},
    share=0.5,
    because="each example trains a network",
)
@given(model=small_networks(), batch=photographs(), steps=st.integers(0, 2))
def test_lbfgs_must_hold_only_the_head(
    choose: Callable[[Pretrained], Iterator[nn.Parameter]],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
    steps: int,
) -> None:
    """LBFGS steps in remembered directions, so it must hold only the head's parameters."""
    replace_head(model, new_head(4, [], 2))
    stepper = make_optimizer("LBFGS", choose(model), extras=False)
    train(model, stepper, batch, steps=steps)
    freeze(model, model.head_layer)
    before = outside_the_head(model)

    train(model, stepper, batch, steps=1)

    assert outside_the_head(model) == before, "every frozen parameter stays"
