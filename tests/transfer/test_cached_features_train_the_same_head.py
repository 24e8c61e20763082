"""Features once.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: (consequence of freezing) The frozen part gives the same features in every epoch.
Verdict: holds-if
Truth: In eval mode and without augmentation.
"""

import copy
from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.loading import batches
from dlconcepts.testing.laws import law
from dlconcepts.training import fit
from dlconcepts.transfer import extract_features, freeze, new_head, replace_head
from tests.transfer.common import Pretrained, photographs, small_networks


def extract(model: Pretrained, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the features of batches of two images."""
    return extract_features(model, model.head_layer, batches(data, 2))


def in_train_mode(model: Pretrained, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the features in the mode in which a model comes from training."""
    return model.train().features(data[0]).detach(), data[1]


def of_augmented_images(model: Pretrained, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the features once, of images that are augmented at random."""
    return extract(model, (data[0] * (1 + 0.1 * torch.rand(len(data[0]), 1)), data[1]))


def of_unordered_images(model: Pretrained, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the features with a loader that shuffles, and take the labels in order."""
    features, _ = extract(model, (data[0].flip(0), data[1]))
    return features, data[1]


@law(
    right=extract,
    wrong={
        in_train_mode: "the same head",
        of_augmented_images: "the same head",
        of_unordered_images: "the same head",
    },
    share=0.5,
    because="each example trains a head twice",
)
@given(
    model=small_networks(torch.float64),
    data=photographs(torch.float64),
    moved=st.booleans(),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 6),
)
def test_features_computed_once_train_the_same_head(
    extract: Callable[[Pretrained, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]],
    model: Pretrained,
    data: tuple[Tensor, Tensor],
    moved: bool,
    epochs: int,
    batch_size: int,
) -> None:
    """The head is, within rounding, the one that is trained with the backbone in every step.

    And the backbone is run for each image once, not once an epoch.
    """
    if moved:  # BatchNorm whose running statistics are not those of the batch
        model(data[0] + 1)
    replace_head(model, new_head(4, [3], 2).double())
    head = copy.deepcopy(model.head_layer)
    seen: list[int] = []
    model.stem.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))

    features = extract(model, data)
    seen_once = sum(seen)
    freeze(model, model.head_layer)
    for trained, examples in ((head, features), (model, data)):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        fit(trained, examples, epochs=epochs, batch_size=batch_size, optimizer=optimizer)

    for one, other in zip(head.parameters(), model.head_layer.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12), "the same head"
    assert seen_once == 6, "each image goes through the backbone once"
    assert sum(seen) == 6 * (epochs + 1), "and with the backbone in every step, once an epoch"
