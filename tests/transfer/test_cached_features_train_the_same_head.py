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
