"""A new head turns pretrained features into scores for new classes.

>>> from dlconcepts.transfer import find_head, replace_head
>>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1000))
>>> find_head(model)
Head(name='2', in_features=3)
>>> replace_head(model, nn.Linear(3, 2))
>>> model(torch.ones(5, 4)).shape
torch.Size([5, 2])

Notes: Use the features just before the last layer of a very deep network trained on much data,
    and train a new classifier on them.
Verdict: holds
Truth: In every family of torchvision the library finds the last layer and its number of inputs. A
    head in that place gives scores of shape (batch, classes).
"""

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torchvision import models

from dlconcepts.testing.laws import law
from dlconcepts.transfer import find_head, replace_head, untrained
from tests.transfer.common import BUILDS, FAMILIES, SHAPES, build, images_for, watching

# One family for each name and kind of head.
KINDS = ("alexnet", "resnet18", "squeezenet1_1", "densenet121", "googlenet", "vit_b_32")
# Misspelt, and names of torchvision for other tasks.
NO_CLASSIFIERS = (
    *("resnet_18", "lraspp_mobilenet_v3_large", "raft_small", "Tensor"),
    *("resnet", "ResNet"),  # a module and a class of torchvision.models
)
network = functools.cache(build)  # only for a law that does not change the network


def first_linear(model: nn.Module) -> tuple[str, int]:
    """Take the first Linear of the network as its head."""
    return next(
        (name, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    )


def counts_the_scores(model: nn.Module) -> tuple[str, int]:
    """Take the number of classes as the number of features."""
    return find_head(model).name, 1000


@law(
    right=find_head,
    wrong={first_linear: "is the last layer that runs", counts_the_scores: "the head gets"},
    share=0.1,
    because=BUILDS,
    cpu_only=SHAPES,
)
@given(family=st.sampled_from(FAMILIES))
def test_the_head_is_the_last_layer_that_runs(
    find_head: Callable[[nn.Module], tuple[str, int]], family: str
) -> None:
    """In every family the head is the last layer that runs, and gets in_features features."""
    # A SqueezeNet has no Linear that the mistake could take.
    assume(find_head is not first_linear or family != "squeezenet1_1")
    model = network(family)
    with watching(model.eval()) as ran:
        model(images_for(family, model))
    last, shape = ran[-1]

    try:
        name, in_features = find_head(model)
    except ValueError as error:
        raise AssertionError(f"find_head finds the head of every family: {error}") from error

    assert last in model.get_submodule(name).modules(), f"{name} is the last layer that runs"
    assert in_features == shape[1], f"in_features is {shape[1]}, which the head gets"


def last_linear(model: nn.Module) -> tuple[str, int]:
    """Take the last Linear, even if another layer with parameters follows it."""
    layers = [pair for pair in model.named_modules() if isinstance(pair[1], nn.Linear)]
    return (layers[-1][0], layers[-1][1].in_features) if layers else find_head(model)


def last_module(model: nn.Module) -> tuple[str, int]:
    """Look at the last module, which may be a Dropout without parameters."""
    (name, layer), head = list(model.named_modules())[-1], find_head(model)
    return head if isinstance(layer, nn.Linear) else (name, head.in_features)


# A quantized Linear has integers in place of parameters.
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(2, 2),
    "relu": nn.ReLU,
    "dropout": nn.Dropout,
    "norm": lambda: nn.BatchNorm1d(2),
    "block": lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout()),
    "quantized": lambda: torch.ao.nn.quantized.Linear(2, 2),
}


@law(
    right=find_head,
    wrong={last_linear: "DID NOT RAISE", last_module: "the last layer with parameters"},
    cpu_only="only names and sizes are read",
)
@given(kinds=st.lists(st.sampled_from(list(LAYERS)), max_size=4))
def test_a_head_is_the_last_layer_with_parameters(
    find_head: Callable[[nn.Module], tuple[str, int]], kinds: list[str]
) -> None:
    """If that is no Linear, if there is none, or if a layer is quantized, there is no head."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao moves to another package
        model = nn.Sequential(*[LAYERS[kind]() for kind in kinds])
    own = [(at, kind) for at, kind in enumerate(kinds) if kind in ("linear", "norm", "block")]
    at, last = own[-1] if own else (0, "none")
    heads = {"linear": (str(at), 2), "block": (f"{at}.0", 3)}

    if last not in heads or "quantized" in kinds:
        with pytest.raises(ValueError, match=r"no head found|quantized"):
            find_head(model)
    else:
        found = tuple(find_head(model))
        assert found == heads[last], "the head is the last layer with parameters"


def starts_from_one_seed(name: str) -> nn.Module:
    """Seed the generator, so that each network starts from the same weights."""
    torch.manual_seed(0)
    return untrained(name)


def looks_the_name_up(name: str) -> nn.Module:
    """Call whatever torchvision.models has under that name, as a module or a class."""
    if not hasattr(models, name):
        raise ValueError(f"torchvision has no classifier {name!r}")
    return getattr(models, name)(weights=None)


def falls_back(name: str) -> nn.Module:
    """Return a small network for a name that is no classifier's."""
    known = name in models.list_models(module=models)
    return untrained(name if known else "squeezenet1_1")


@law(
    right=untrained,
    wrong={
        starts_from_one_seed: "weights of its own",
        falls_back: "DID NOT RAISE",
        looks_the_name_up: "is a ValueError",
    },
    share=0.1,
    because=BUILDS,
    cpu_only="the weights are drawn there",
)
@given(name=st.sampled_from(["squeezenet1_1", "shufflenet_v2_x0_5", *NO_CLASSIFIERS]))
def test_an_untrained_network_has_random_weights_of_its_own(
    untrained: Callable[[str], nn.Module], name: str
) -> None:
    """Each call draws new weights; a name that is no classifier of torchvision is an error."""
    if name in NO_CLASSIFIERS:
        with pytest.raises((ValueError, TypeError)) as error:
            untrained(name)
        assert error.type is ValueError, "a name that is no classifier is a ValueError"
    else:
        one, other = (next(untrained(name).parameters()) for _ in range(2))
        assert not one.equal(other), "each network has random weights of its own"


def puts_a_head(model: nn.Module, out_features: int) -> None:
    """Find the head and replace it with one for these classes."""
    replace_head(model, nn.Linear(find_head(model).in_features, out_features, device="meta"))


def appends_to_the_old_head(model: nn.Module, out_features: int) -> None:
    """Append the new layer to the old head, whose 1000 scores become the features."""
    name, _ = find_head(model)
    new = nn.Linear(1000, out_features, device="meta")
    replace_head(model, nn.Sequential(model.get_submodule(name), new), name)


def assumes_1024_features(model: nn.Module, out_features: int) -> None:
    """Give every new head 1024 inputs, as many as the head of DenseNet-121 has."""
    replace_head(model, nn.Linear(1024, out_features, device="meta"), find_head(model).name)


@law(
    right=puts_a_head,
    wrong={
        appends_to_the_old_head: "the old head no longer runs",
        assumes_1024_features: "the new head takes the features it gets",
    },
    share=0.1,
    because=BUILDS,
    cpu_only=SHAPES,
)
@given(family=st.sampled_from(KINDS), classes=st.integers(1, 5), training=st.booleans())
def test_a_new_head_gives_scores_for_its_classes(
    put_head: Callable[[nn.Module, int], None], family: str, classes: int, training: bool
) -> None:
    """In both modes the output has shape (batch, classes), and the old head no longer runs."""
    model = build(family)
    images = images_for(family, model)
    name, _ = find_head(model)
    old = list(model.get_submodule(name).modules())

    put_head(model, classes)

    with watching(model.train(training)) as ran:
        try:
            scores = model(images)
        except RuntimeError as error:
            raise AssertionError(f"the new head takes the features it gets: {error}") from error
    assert not {layer for layer, _ in ran} & set(old), "the old head no longer runs"
    assert scores.shape == (2, classes), f"the scores have shape (2, {classes})"
