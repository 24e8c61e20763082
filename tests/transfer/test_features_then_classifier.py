"""The features, then a classifier.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Use the features just before the last layer of a very deep network trained on much data,
    and train a new classifier on them.
Verdict: holds
"""

import functools
from collections.abc import Callable

from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.testing.laws import law
from dlconcepts.transfer import find_head, replace_head
from tests.transfer.common import build, images_for, watching

SHAPES = "only shapes are computed, on the meta device"


BUILDS = "each example builds a network of torchvision, and runs it"


# The smallest of each family, the simplest first. The whole list is in the last test of its claim.
FAMILIES = (
    *("alexnet", "vgg11", "squeezenet1_1", "resnet18", "mobilenet_v2", "mobilenet_v3_small"),
    *("shufflenet_v2_x0_5", "mnasnet0_5", "googlenet", "inception_v3", "densenet121"),
    *("regnet_x_400mf", "efficientnet_b0", "efficientnet_v2_s", "convnext_tiny", "vit_b_32"),
    *("swin_t", "swin_v2_t", "maxvit_t"),
)


# One for each name and kind of head.
KINDS = ("alexnet", "resnet18", "squeezenet1_1", "densenet121", "googlenet", "vit_b_32")


network = functools.cache(build)  # for laws that leave it as it is


def first_linear(model: nn.Module) -> tuple[str, int]:
    """Take the first Linear for the head."""
    return next(
        (name, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    )


def counts_the_scores(model: nn.Module) -> tuple[str, int]:
    """Take the number of classes for the number of features."""
    return find_head(model).name, 1000


@law(
    right=find_head,
    wrong={first_linear: "is the last layer that runs", counts_the_scores: "features come to it"},
    share=0.1,
    because=BUILDS,
    cpu_only=SHAPES,
)
@given(family=st.sampled_from(FAMILIES))
def test_the_head_is_the_last_layer_that_runs(
    find_head: Callable[[nn.Module], tuple[str, int]], family: str
) -> None:
    """In every family the head is what runs last, and gets the number of features it is said to."""
    assume(find_head is not first_linear or family != "squeezenet1_1")
    model = network(family)
    with watching(model.eval()) as ran:
        model(images_for(family, model))
    last, shape = ran[-1]

    try:
        name, in_features = find_head(model)
    except ValueError as error:
        raise AssertionError(f"every family has a head that is found: {error}") from error

    assert last in model.get_submodule(name).modules(), f"{name} is the last layer that runs"
    assert in_features == shape[1], f"{shape[1]} features come to it, not {in_features}"


def puts_a_head(model: nn.Module, out_features: int) -> None:
    """Find the head and put one for these classes in its place."""
    replace_head(model, nn.Linear(find_head(model).in_features, out_features, device="meta"))


def puts_it_behind(model: nn.Module, out_features: int) -> None:
    """Put the new layer behind the old one: 1000 scores become the features."""
    name, _ = find_head(model)
    new = nn.Linear(1000, out_features, device="meta")
    replace_head(model, nn.Sequential(model.get_submodule(name), new), name)


def assumes_1024_features(model: nn.Module, out_features: int) -> None:
    """Give the head the 1024 inputs that DenseNet-121's has."""
    replace_head(model, nn.Linear(1024, out_features, device="meta"), find_head(model).name)


@law(
    right=puts_a_head,
    wrong={puts_it_behind: "runs no more", assumes_1024_features: "as many features as come"},
    share=0.1,
    because=BUILDS,
    cpu_only=SHAPES,
)
@given(family=st.sampled_from(KINDS), classes=st.integers(1, 5), training=st.booleans())
def test_a_new_head_gives_scores_for_its_classes(
    put_head: Callable[[nn.Module, int], None], family: str, classes: int, training: bool
) -> None:
    """The network gives (batch, classes) in either mode, and its old last layer runs no more."""
    model = build(family)
    images = images_for(family, model)
    name, _ = find_head(model)
    old = list(model.get_submodule(name).modules())

    put_head(model, classes)

    with watching(model.train(training)) as ran:
        try:
            scores = model(images)
        except RuntimeError as error:
            raise AssertionError(f"the head takes as many features as come: {error}") from error
    assert not {layer for layer, _ in ran} & set(old), "the old last layer runs no more"
    assert scores.shape == (2, classes), f"two images and {classes} classes give as many scores"
