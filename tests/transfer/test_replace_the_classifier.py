"""The place of the head.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Set the model's classifier attribute to the new one.
Verdict: holds-if
Truth: The attribute has another name in other families (fc, heads, head), and setting a name that
    the model does not use changes nothing. SqueezeNet ends in a convolution, a ReLU and a mean
    over places, which would clip logits at zero: there all of classifier is replaced.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.support.bitwise import state_of
from dlconcepts.testing.laws import law
from dlconcepts.transfer import new_head, replace_head
from tests.transfer.common import Pretrained, photographs, small_networks, train


def sets_classifier(model: nn.Module, head: nn.Module) -> None:
    """Set the attribute that DenseNet and the notes call classifier."""
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


@law(
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


@law(
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
