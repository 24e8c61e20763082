"""Frozen features can be computed once and used in every epoch.

>>> backbone, images = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)), torch.ones(100, 3)
>>> backbone(images).equal(backbone(images))  # in train mode dropout makes them random
False
>>> _ = backbone.eval()
>>> backbone(images).equal(backbone(images))
True

Notes: (consequence of freezing) The frozen part gives the same features in every epoch.
Verdict: holds-if
Truth: In eval mode and without augmentation. A head that is trained on features computed once is
    then, within rounding, the one that is trained with the backbone in every step.
"""

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.loading import batches
from dlconcepts.testing.laws import law
from dlconcepts.training import fit
from dlconcepts.transfer import extract_features, freeze, new_head, replace_head
from dlconcepts.validation import inference
from tests.transfer.common import Pretrained, photographs, small_networks


def extract(model: Pretrained, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return extract_features(model, model.head_layer, batches(data, 2))


def in_train_mode(model: Pretrained, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the features in train mode."""
    return model.train().features(data[0]).detach(), data[1]


def of_augmented_images(model: Pretrained, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the features once from randomly augmented images."""
    return extract(model, (data[0] * (1 + 0.1 * torch.rand(len(data[0]), 1)), data[1]))


def mislabels_the_features(model: Pretrained, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the features in another order than the labels, as a shuffling loader does."""
    features, _ = extract(model, (data[0].flip(0), data[1]))
    return features, data[1]


def keeps_what_the_head_overwrites(
    model: Pretrained, data: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Keep the head's input without a copy, although the head may change it in place."""
    kept: list[Tensor] = []
    hook = model.head_layer.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with hook, inference(model):
        for images, _ in batches(data, 2):
            model(images)
    return torch.cat(kept), data[1]


@law(
    right=extract,
    wrong={
        in_train_mode: "the same head",
        of_augmented_images: "the same head",
        mislabels_the_features: "the same head",
        keeps_what_the_head_overwrites: "the same head",
    },
    share=0.5,
    because="each example trains a head twice",
)
@given(
    model=small_networks(torch.float64),
    data=photographs(torch.float64),
    moved=st.booleans(),
    in_place=st.booleans(),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 6),
)
def test_features_computed_once_train_the_same_head(
    extract: Callable[[Pretrained, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]],
    model: Pretrained,
    data: tuple[Tensor, Tensor],
    moved: bool,
    in_place: bool,
    epochs: int,
    batch_size: int,
) -> None:
    """A head trained on features computed once equals one trained with the backbone each step."""
    if moved:  # so that BatchNorm's running statistics are not those of the batch
        model(data[0] + 1)
    new = new_head(4, [3], 2).double()
    # Not a ReLU: it would change nothing when it gets its own output.
    first = nn.LeakyReLU(0.5, inplace=True) if in_place else nn.Identity()
    replace_head(model, nn.Sequential(first, *new))
    head = copy.deepcopy(model.head_layer)
    seen: list[int] = []
    model.stem.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))

    features = extract(model, data)
    seen_once = sum(seen)
    freeze(model, model.head_layer)
    for trained, examples in ((head, features), (model, data)):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        fit(trained, examples, epochs=epochs, batch_size=batch_size, optimizer=optimizer)

    # The backbone saw batches of other sizes, which changes the rounding of float64.
    for one, other in zip(head.parameters(), model.head_layer.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12), (
            "both trainings give the same head"
        )
    assert seen_once == 6, "the backbone runs once for each image"
    assert sum(seen) == 6 * (epochs + 1), "without stored features the backbone runs in every epoch"


def leaves_eval_mode(
    model: nn.Module, head: nn.Module, data: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Leave the model in eval mode."""
    model.eval()
    return extract_features(model, head, data)


def leaves_its_hook(
    model: nn.Module, head: nn.Module, data: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Never remove a hook, which then keeps every later input in memory."""
    kept: list[Any] = []
    head.register_forward_pre_hook(lambda _, args: kept.append(args))
    return extract_features(model, head, data)


def keeps_the_graph(
    model: nn.Module, head: nn.Module, data: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Let the features require grad, so that the head's training runs through them."""
    features, labels = extract_features(model, head, data)
    return features.requires_grad_(), labels


def flattens(
    model: nn.Module, head: nn.Module, data: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Flatten the features, which a head that takes maps cannot use."""
    features, labels = extract_features(model, head, data)
    return features.flatten(1), labels


def takes_anything(
    model: nn.Module, head: nn.Module, data: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return nothing for no batches, and for a layer that others follow."""
    with suppress(ValueError):
        return extract_features(model, head, data)
    return torch.empty(0), torch.empty(0)


@law(
    right=extract_features,
    wrong={
        leaves_eval_mode: "has its mode again",
        leaves_its_hook: "no hook is left",
        keeps_the_graph: "without a graph",
        flattens: "what the head gets",
        takes_anything: "DID NOT RAISE",
    },
)
@given(sizes=st.lists(st.integers(1, 3), max_size=3), modes=st.integers(0, 31), last=st.booleans())
def test_features_are_what_the_head_gets(
    extract_features: Callable[..., tuple[Tensor, Tensor]],
    sizes: list[int],
    modes: int,
    last: bool,
) -> None:
    """In eval mode and in order; without a batch, or if layers follow the head, it is an error."""
    torch.manual_seed(0)
    body, head = nn.Conv2d(3, 2, 1), nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    model = nn.Sequential(body, nn.Dropout(), head, *([] if last else [nn.Tanh()]))
    for at, module in enumerate(model.modules()):
        module.training = bool(modes >> at & 1)
    before = modes_of(model)
    data = [(torch.randn(n, 3, 2, 2), torch.randint(9, (n,))) for n in sizes]

    if last and sizes:
        features, labels = extract_features(model, head, data)
        expected = torch.cat([body(images) for images, _ in data]).detach().cpu()
        assert features.shape == expected.shape, "the features are what the head gets"
        assert torch.allclose(features, expected, atol=1e-6), "the features are what the head gets"
        assert not features.requires_grad, "the features are without a graph"
        assert labels.tolist() == torch.cat([own for _, own in data]).tolist(), "in order"
    else:
        with pytest.raises(ValueError, match=r"no images|is not its head's"):
            extract_features(model, head, data)

    assert modes_of(model) == before, "each module has its mode again"
    hooks = [*head._forward_pre_hooks, *head._forward_hooks]
    assert hooks == [], "no hook is left"


def modes_of(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]
