"""The checks of checkpoints: how they call save and load, and what they find."""

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.checkpoints import (
    call,
    check_a_checkpoint_holds_the_model,
    check_a_partial_checkpoint_is_refused,
    check_kept_weights_are_a_copy,
    takes,
)
from tests.checks.small_projects import sgd

PATH = Path("checkpoint.pt")


def network():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


# ------------------------------------------------------------------------ takes and call


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda model, optimizer, path: None, ["model", "optimizer", "path"]),
        (lambda path, net, optim: None, ["path", "model", "optimizer"]),
        (lambda file, Model: None, ["path", "model"]),  # noqa: N803 - as some write it
        (lambda OPT, where: None, ["optimizer", "path"]),  # noqa: N803
        (lambda model: None, ["model"]),
        (lambda model, path, strict=True: None, ["model", "path"]),
        (lambda model, *, strict: None, ["model"]),
        (lambda where: None, ["path"]),
        (lambda m, where: None, ["model", "path"]),
        (lambda m, o, where: None, ["model", "optimizer", "path"]),
        (lambda m, where, strict=True: None, ["model", "path"]),
        (lambda *arguments: None, ["model", "optimizer", "path"]),
    ],
)
def test_what_save_and_load_take_is_seen_by_name_or_by_number(function, expected):
    """Names such as model or optimizer decide, or else the number of required parameters."""
    assert takes(function) == expected


def test_a_function_that_takes_an_optimizer_needs_one():
    """Without an optimizer the check does not apply, unless the function does not take one."""
    with pytest.raises(NotCheckedError, match="needs optimizer"):
        call(lambda model, optimizer, path: None, "a model", None, PATH)
    assert call(lambda model, path: model, "a model", None, PATH) == "a model"


# ------------------------------------------------------------------------ the checks


def save(model, path):
    torch.save(dict(model.named_parameters()), path)


def load(model, path):
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)


def raises(model, path):
    raise RuntimeError("weight is missing")


def warns(model, path):
    warnings.warn("weight is missing", stacklevel=1)


MISSING = SimpleNamespace(missing_keys=["weight"])


@pytest.mark.parametrize(
    "load",
    [
        raises,
        warns,
        lambda model, path: MISSING,
        lambda model, path: (3, MISSING),
        lambda model, path: [MISSING],
        lambda model, path: (model, MISSING),
        lambda model, path: model.load_state_dict({}, strict=False),
    ],
    ids=["raises", "warns", "returns", "in a tuple", "in a list", "beside the model", "torch"],
)
def test_a_load_may_raise_warn_or_return_the_missing_keys(load):
    """Each of them tells the caller that the checkpoint is partial."""
    check_a_partial_checkpoint_is_refused(model=network(), save=save, load=load)


@pytest.mark.parametrize("result", [(network(), 3), network()], ids=["in a tuple", "alone"])
def test_a_load_that_builds_its_own_model_cannot_be_judged(result):
    """Nobody knows which values of that model were missing from the file."""
    with pytest.raises(NotCheckedError, match="load into the model that it is given"):
        check_a_partial_checkpoint_is_refused(
            model=network(), save=save, load=lambda model, path: result
        )


@pytest.mark.parametrize("several", [True, False])
def test_a_load_may_return_the_model_that_it_built(several):
    """The model that load returns is the one that has the checkpoint."""

    def load(path):
        model = network()
        model.load_state_dict(torch.load(path, weights_only=True))
        return (model, 3) if several else model

    def save(model, path):
        torch.save(model.state_dict(), path)

    check_a_checkpoint_holds_the_model(model=network(), save=save, load=load)


def test_a_fit_may_return_the_model_that_it_trained():
    """A model is not a copy of the weights that somebody kept."""
    model = network()
    parts = {"batch": (torch.ones(4, 2), torch.zeros(4, dtype=torch.int64)), "optimizer": sgd}

    check_kept_weights_are_a_copy(
        model=model, fit=lambda model, *_: model, loss_fn=nn.CrossEntropyLoss(), **parts
    )


def test_a_checkpoint_without_buffers_is_told_with_their_names():
    """The message counts the missing buffers and names them."""
    with pytest.raises(CheckFailedError) as caught:
        check_a_checkpoint_holds_the_model(model=network(), save=save, load=load)

    assert caught.value.observed == (
        "3 of 7 buffers did not come back: 1.running_mean, 1.running_var, 1.num_batches_tracked"
    )


def test_a_partial_checkpoint_that_is_loaded_in_silence_is_told():
    """The message names the parameter that the file lacks."""
    with pytest.raises(CheckFailedError) as caught:
        check_a_partial_checkpoint_is_refused(model=network(), save=save, load=load)

    assert caught.value.observed == (
        "a checkpoint without 1.bias was loaded without an error: 1.bias was left as it was"
    )


def with_optimizer(model, optimizer, path):
    raise AssertionError("never called without an optimizer")


@pytest.mark.parametrize(
    "functions", [{"load": with_optimizer}, {"save": with_optimizer}], ids=["load", "save"]
)
def test_a_partial_checkpoint_is_not_checked_without_the_optimizer_that_it_needs(functions):
    """A load that the check cannot call has not refused anything."""
    parts = {"model": network(), "save": save, "load": load} | functions

    with pytest.raises(NotCheckedError, match=r"^needs optimizer$"):
        check_a_partial_checkpoint_is_refused(**parts)


def test_a_snapshot_by_reference_is_told():
    """state_dict() is not a copy; a deepcopy of it is."""
    check_kept_weights_are_a_copy(
        model=network(), snapshot=lambda model: copy.deepcopy(model.state_dict())
    )

    with pytest.raises(CheckFailedError, match="7 tensors that snapshot returned share memory"):
        check_kept_weights_are_a_copy(model=network(), snapshot=lambda model: model.state_dict())
