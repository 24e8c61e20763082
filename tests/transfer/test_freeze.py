"""Freezing sets requires_grad=False for every parameter outside the head.

>>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
>>> model.requires_grad = False  # a new attribute, which no parameter reads
>>> model[0].weight.requires_grad
True
>>> for parameter in model[0].parameters():
...     parameter.requires_grad = False
>>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
['2.weight', '2.bias']

Notes: Freeze the pretrained layers by setting requires_grad to False for all parameters in a
    loop.
Verdict: holds
Truth: Then exactly the head's parameters get gradients, whether the head is replaced before or
    after. The backward pass does not enter the frozen part, and stores nothing for it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.testing.laws import law
from dlconcepts.transfer import freeze, new_head, replace_head
from tests.transfer.common import Pretrained, nodes_of, photographs, small_networks


def sets_it_on_the_module(model: nn.Module, head: nn.Module) -> None:
    """Set requires_grad on the module, which no parameter reads."""
    model.requires_grad = False


def freezes_everything(model: nn.Module, head: nn.Module) -> None:
    """Freeze all parameters, including the head's."""
    model.requires_grad_(False)


def freezes_the_biases(model: nn.Module, head: nn.Module) -> None:
    """Freeze only the biases."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.endswith("bias"))
    head.requires_grad_(True)


def forgets_the_norms(model: nn.Module, head: nn.Module) -> None:
    """Freeze everything but BatchNorm, which has parameters, too."""
    model.requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.requires_grad_(True)
    head.requires_grad_(True)


def freezes_matrices_and_vectors(model: nn.Module, head: nn.Module) -> None:
    """Freeze parameters of 1 or 2 dimensions, but not the kernels of convolutions."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.ndim > 2)
    head.requires_grad_(True)


def forgets_what_is_in_no_layer(model: nn.Module, head: nn.Module) -> None:
    """Freeze each layer, but not a parameter of the model itself, such as ViT's class token."""
    for layer in model.children():
        layer.requires_grad_(False)
    head.requires_grad_(True)


def leaves_the_head(model: nn.Module, head: nn.Module) -> None:
    """Freeze all others, and leave a head frozen that was frozen before."""
    own = set(head.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter in own)


@law(
    right=freeze,
    wrong={
        sets_it_on_the_module: "exactly the head's parameters",
        freezes_everything: "exactly the head's parameters",
        freezes_the_biases: "exactly the head's parameters",
        forgets_the_norms: "exactly the head's parameters",
        freezes_matrices_and_vectors: "exactly the head's parameters",
        forgets_what_is_in_no_layer: "exactly the head's parameters",
        leaves_the_head: "exactly the head's parameters",
    },
)
@given(
    model=small_networks(),
    batch=photographs(),
    freeze_first=st.booleans(),
    frozen_before=st.booleans(),
)
def test_exactly_the_head_requires_grad(
    freeze: Callable[[nn.Module, nn.Module], object],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
    freeze_first: bool,
    frozen_before: bool,
) -> None:
    """Only the head's parameters get gradients, whether one freezes or replaces the head first."""
    head = new_head(4, [3], 2)
    if frozen_before:  # by somebody who wants to thaw the head now
        head.requires_grad_(freeze_first)
        model.requires_grad_(False)
    for step in ("freeze", "replace") if freeze_first else ("replace", "freeze"):
        if step == "freeze":
            freeze(model, model.head_layer)
        else:
            replace_head(model, head)
    images, labels = batch

    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    expected = {f"{model.head_name}.{name}" for name, _ in head.named_parameters()}
    assert trainable == expected, "exactly the head's parameters require grad"
    F.cross_entropy(model(images), labels).backward()
    graded = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert graded == expected, "exactly the head's parameters get gradients"


def freezes_the_stem_only(model: nn.Module, head: nn.Module) -> None:
    """Freeze the first layer but not those after it."""
    next(model.children()).requires_grad_(False)


@law(
    right=freeze,
    wrong={
        forgets_the_norms: "as many steps as for the head alone",
        freezes_the_stem_only: "as many steps as for the head alone",
    },
)
@given(model=small_networks(), batch=photographs(), hidden=st.lists(st.just(3), max_size=2))
def test_the_backward_pass_does_not_enter_the_frozen_part(
    freeze: Callable[[nn.Module, nn.Module], object],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
    hidden: list[int],
) -> None:
    """The backward pass has as many steps, and stores as many numbers, as for the head alone."""
    head = new_head(4, hidden, 2)
    replace_head(model, head)
    freeze(model, head)
    images, _ = batch
    with torch.no_grad():
        features = model.features(images)

    (scores, stored), (alone, stored_alone) = (
        storing(lambda: model(images)),
        storing(lambda: head(features)),
    )

    assert len(nodes_of(scores)) == len(nodes_of(alone)), (
        "the backward pass has as many steps as for the head alone"
    )
    assert stored == stored_alone, "the backward pass stores as many numbers as for the head alone"


def storing(forward: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Return the output of a forward pass, and how many numbers it stores for the backward pass."""
    stored: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        stored.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return forward(), sum(stored)
