"""Replace the head under the name that the model uses for it.

>>> from torchvision.models import shufflenet_v2_x0_5
>>> model, images = shufflenet_v2_x0_5(), torch.zeros(2, 3, 32, 32)
>>> model.classifier = nn.Linear(1024, 5)  # this family calls its head fc
>>> model(images).shape
torch.Size([2, 1000])
>>> model.fc = nn.Linear(1024, 5)
>>> model(images).shape
torch.Size([2, 5])

Notes: Set the model's classifier attribute to the new one.
Verdict: holds-if
Truth: The attribute has another name in other families (fc, heads, head), and setting a name that
    the model does not use changes nothing. SqueezeNet ends in a convolution, a ReLU and a mean
    over positions, which would clip logits at zero, so all of its classifier is replaced.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.support.bitwise import state_of
from dlconcepts.testing.laws import law
from dlconcepts.transfer import find_head, new_head, replace_head
from tests.transfer.common import (
    BUILDS,
    SHAPES,
    Pretrained,
    build,
    images_for,
    photographs,
    small_networks,
    train,
)


def sets_classifier(model: nn.Module, head: nn.Module) -> None:
    """Set `classifier`, the name in DenseNet and in the notes, in every model."""
    model.classifier = head


def appends_the_head(model: nn.Module, head: nn.Module) -> None:
    """Add the head as one more module."""
    model.add_module("new_head", head)


@law(
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
    """Whatever its name, the new head computes the scores from the features."""
    images, _ = batch
    head = new_head(4, hidden, 2)
    features = model.eval().features(images)

    replace_head(model, head)

    scores = model(images)
    assert scores.shape == (6, 2), "the new head is what the forward pass runs"
    assert torch.equal(scores, head(features)), "the scores are the output of the head"


def names_a_module(model: nn.Module, head: nn.Module, name: str) -> None:
    """Replace the module of that name, which must exist."""
    replace_head(model, head, name)


def sets_an_attribute(model: nn.Module, head: nn.Module, name: str) -> None:
    """Set an attribute of that name, whether or not the model has one."""
    setattr(model, name, head)


def sets_a_submodule(model: nn.Module, head: nn.Module, name: str) -> None:
    """Call set_submodule, which adds a module if the model has none of that name."""
    model.set_submodule(name, head)


@law(
    right=names_a_module,
    wrong={sets_an_attribute: "DID NOT RAISE", sets_a_submodule: "DID NOT RAISE"},
)
@given(
    model=small_networks(),
    name=st.sampled_from(["classifer", "fc", "head", "classifier", "heads", "features"]),
)
def test_an_unknown_name_is_refused(
    replace: Callable[[nn.Module, nn.Module, str], None], model: Pretrained, name: str
) -> None:
    """A typo, or the name of another family's head, raises and changes nothing."""
    assume(name not in dict(model.named_modules()))
    before, modules = state_of(model), list(model.named_modules())

    with pytest.raises(ValueError, match=f"no module '{name}'"):
        replace(model, nn.Linear(4, 2), name)

    assert (state_of(model), list(model.named_modules())) == (before, modules), (
        "an unknown name changes nothing"
    )


def ignores_the_name(model: nn.Module, head: nn.Module, name: str) -> None:
    """Replace the head that it finds, whatever the name is."""
    replace_head(model, head)


@law(right=names_a_module, wrong={ignores_the_name: "the module of that name"})
@given(model=small_networks(), inner=st.booleans())
def test_a_name_chooses_the_module(
    replace: Callable[[nn.Module, nn.Module, str], None], model: Pretrained, inner: bool
) -> None:
    """With a name, the module of that name is replaced, and no other."""
    name = "stem" if inner else model.head_name
    new, before = nn.Linear(3 if inner else 4, 4), dict(model.named_modules())
    if inner:
        model.head_layer.in_features = 3  # so that nothing else is wrong with the new module

    replace(model, new, name)

    assert model.get_submodule(name) is new, "the module of that name is replaced"
    after = {other: module for other, module in model.named_modules() if other != name}
    assert after == {other: before[other] for other in after}, "no other module is"


def trusts_the_width(model: nn.Module, head: nn.Module) -> None:
    """Leave it to the next forward pass to find out that the head does not fit."""
    model.set_submodule(find_head(model).name, head)


def looks_at_the_first_module(model: nn.Module, head: nn.Sequential) -> None:
    """Look for the width in the head's first module, which may be a Dropout."""
    if isinstance(head[0], nn.Linear):
        replace_head(model, head)
    else:
        trusts_the_width(model, head)


@law(
    right=replace_head,
    wrong={trusts_the_width: "DID NOT RAISE", looks_at_the_first_module: "DID NOT RAISE"},
)
@given(
    model=small_networks(),
    features=st.integers(1, 6),
    hidden=st.lists(st.just(4), max_size=2),
    dropout=st.booleans(),
)
def test_a_head_of_other_features_is_refused(
    replace_head: Callable[[nn.Module, nn.Module], None],
    model: Pretrained,
    features: int,
    hidden: list[int],
    dropout: bool,
) -> None:
    """A head whose first Linear takes another number of features raises and changes nothing."""
    assume(features != 4)
    before = list(model.named_modules())
    head = nn.Sequential(*[nn.Dropout()] * dropout, *new_head(features, hidden, 2))

    with pytest.raises(ValueError, match="build it with that many"):
        replace_head(model, head)

    assert list(model.named_modules()) == before, "the model keeps its head"


def keeps_the_auxiliaries(model: nn.Module, head: nn.Module) -> None:
    """Replace the head alone: in train mode the auxiliary classifiers still score old classes."""
    model.fc = head


@law(
    right=replace_head,
    wrong={keeps_the_auxiliaries: "the head's output alone"},
    share=0.02,
    because=BUILDS,
    cpu_only=SHAPES,
)
@given(family=st.sampled_from(["googlenet", "inception_v3"]))
def test_auxiliary_classifiers_are_removed(
    replace_head: Callable[[nn.Module, nn.Module], None], family: str
) -> None:
    """GoogLeNet and Inception return the new head's output in train mode too, and nothing else."""
    model = build(family).train()
    features = model.fc.in_features

    replace_head(model, nn.Linear(features, 3, device="meta"))

    scores = model(images_for(family, model))
    assert getattr(scores, "shape", None) == (2, 3), "the output is the head's output alone"


def builds_it_after(model: Pretrained, head: nn.Module) -> torch.optim.Optimizer:
    """Replace the head, then build the optimizer."""
    replace_head(model, head)
    return torch.optim.SGD(model.parameters(), lr=0.1)


def builds_it_before(model: Pretrained, head: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer, then replace the head: the optimizer holds the old one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    replace_head(model, head)
    return optimizer


@law(right=builds_it_after, wrong={builds_it_before: "the new head moves"})
@given(model=small_networks(), batch=photographs())
def test_an_optimizer_built_after_replacing_trains_the_head(
    prepare: Callable[[Pretrained, nn.Module], torch.optim.Optimizer],
    model: Pretrained,
    batch: tuple[Tensor, Tensor],
) -> None:
    """An optimizer moves the new head only if it was built after the head was replaced."""
    head = new_head(4, [], 2)
    optimizer = prepare(model, head)
    before = state_of(head)

    train(model, optimizer, batch, steps=1)

    # The bias, since dropout can zero all features, and with them the gradient of the weights.
    after = state_of(head)
    assert after["0.bias"][0] != before["0.bias"][0], "the new head moves"
