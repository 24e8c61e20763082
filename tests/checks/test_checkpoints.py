"""The checks of checkpoints by themselves: how they call save and load, and what they notice."""

import copy
import warnings
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from torch import nn

from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.checkpoints import (
    blank,
    call,
    check_a_checkpoint_holds_the_model,
    check_a_partial_checkpoint_is_refused,
    check_kept_weights_are_a_copy,
    disturb_buffers,
    is_told,
    look_for_sharing,
    restored,
    shared,
    takes,
    trained,
)
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import BrokenLawError

PATH = Path("checkpoint.pt")


def network():
    """Return a model with parameters and buffers of two kinds."""
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def project(**changes):
    """Return a project that can be trained by plain steps, but for what is changed."""
    torch.manual_seed(0)
    model = network()
    parts = {
        "model": model,
        "batch": (torch.randn(4, 2), torch.tensor([0, 1, 0, 1])),
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.Adam(model.parameters(), lr=0.01),
    }
    return Project(**parts | changes)


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
    """Where a model or an optimizer is named the rest is a path; what has a default is left out."""
    assert takes(function) == expected


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (lambda model, optimizer, path: (model, optimizer, path), ("a model", "a rule", PATH)),
        (lambda path, opt: (path, opt), (PATH, "a rule")),
        (lambda where: where, PATH),
        (lambda *given: given, ("a model", "a rule", PATH)),
    ],
)
def test_save_and_load_are_called_with_what_they_take(function, given):
    """In their own order; what they return is returned."""
    assert call(function, "a model", "a rule", PATH) == given


def test_a_function_that_takes_an_optimizer_needs_one():
    """One that takes none is called without."""
    with pytest.raises(NotCheckedError, match="needs optimizer"):
        call(lambda model, optimizer, path: None, "a model", None, PATH)
    assert call(lambda model, path: model, "a model", None, PATH) == "a model"


# ------------------------------------------------------------------------ trained and blank


def test_buffers_of_numbers_are_moved_and_others_stay():
    """Whole numbers move by four times as much, so that they move at all."""
    model = nn.Module()
    model.register_buffer("mean", torch.tensor([1.0, 2.0]))
    model.register_buffer("narrow", torch.tensor([1.0], dtype=torch.float16))
    model.register_buffer("count", torch.tensor(7))
    model.register_buffer("mask", torch.tensor([True, False]))
    model.register_buffer("phase", torch.tensor([1j]))

    disturb_buffers(model, 1.5)

    assert [buffer.tolist() for buffer in model.buffers()] == [
        [2.5, 3.5],
        [2.5],
        13,
        [True, False],
        [1j],
    ]


def test_a_buffer_that_requires_a_gradient_is_moved_too():
    """No graph is built."""
    model = nn.Module()
    model.register_buffer("scale", torch.ones(1, requires_grad=True))

    disturb_buffers(model, 0.5)

    assert model.scale.tolist() == [1.5]
    assert model.scale.is_leaf


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": None}, {"loss_fn": None}, {"optimizer": None, "loss_fn": None}],
    ids=["trained", "no optimizer", "no loss", "neither"],
)
def test_what_is_saved_differs_everywhere_from_the_start_and_from_what_is_loaded_into(changes):
    """A checkpoint that forgets any parameter or buffer is noticed then."""
    parts = project(**changes)
    start = copy.deepcopy(parts.model.state_dict())

    saved = trained(parts)[0].state_dict()
    target = blank(parts)[0].state_dict()

    for name, value in start.items():
        assert not torch.equal(value, saved[name]), name
        assert not torch.equal(value, target[name]), name
        assert not torch.equal(saved[name], target[name]), name
        assert torch.equal(value, parts.model.state_dict()[name]), "the project's own stays"


def test_the_optimizer_that_is_saved_has_a_state_of_two_steps():
    """A step count of one might be that of a step that load makes."""
    _, optimizer = trained(project())

    assert [int(entry["step"]) for entry in optimizer.state.values()] == [2] * 4


@pytest.mark.parametrize(
    "changes",
    [{"loss_fn": None}, {"batch": torch.ones(4, 2)}, {"loss_fn": None, "batch": torch.ones(4, 2)}],
    ids=["no loss", "no targets", "neither"],
)
def test_without_a_loss_or_targets_nothing_is_trained(changes):
    """The parameters are moved, and the optimizer has no state."""
    model, optimizer = trained(project(**changes))

    assert optimizer.state == {}
    assert int(model[1].num_batches_tracked) == 1, "the buffer was moved, and no batch was seen"


def test_without_an_optimizer_there_is_none():
    """Neither of what is saved nor of what is loaded into."""
    parts = project(optimizer=None)

    assert trained(parts)[1] is None
    assert blank(parts)[1] is None


def test_what_is_loaded_into_has_an_optimizer_without_a_state():
    """Whatever the project's own has by now, which stays."""
    parts = project()
    parts.model(parts.batch[0]).sum().backward()
    parts.optimizer.step()

    model, optimizer = blank(parts)

    assert optimizer.state == {}
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {
        id(p) for p in model.parameters()
    }
    assert len(parts.optimizer.state) == 4


# ------------------------------------------------------------------------ restored

MODEL, OTHER = network(), network()
RULE, OTHER_RULE = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (MODEL, OTHER))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, (MODEL, RULE)),
        ({"epoch": 3}, (MODEL, RULE)),
        (OTHER, (OTHER, RULE)),
        (OTHER_RULE, (MODEL, OTHER_RULE)),
        ((OTHER, OTHER_RULE), (OTHER, OTHER_RULE)),
        ([3, OTHER_RULE, OTHER], (OTHER, OTHER_RULE)),
        ((3, "text"), (MODEL, RULE)),
    ],
)
def test_what_load_returns_is_what_has_the_checkpoint(result, expected):
    """The model and the optimizer that it was given, where it returns none."""
    given = []

    def load(*arguments):
        given.extend(arguments)
        return result

    found = restored(Project(load=load), PATH, (MODEL, RULE))

    assert all(one is other for one, other in zip(found, expected, strict=True))
    assert given == [MODEL, RULE, PATH]


# ------------------------------------------------------------------------ is_told

MISSING = SimpleNamespace(missing_keys=["weight"])


def raises(*_):
    """Refuse."""
    raise RuntimeError("weight is missing")


def warns(*_):
    """Warn, and load."""
    warnings.warn("weight is missing", stacklevel=1)


@pytest.mark.parametrize(
    "load",
    [
        raises,
        warns,
        lambda *_: MISSING,
        lambda *_: (3, MISSING),
        lambda *_: [MISSING],
        lambda model, optimizer, path: (model, MISSING),
        lambda model, optimizer, path: model.load_state_dict({}, strict=False),
    ],
    ids=["raises", "warns", "returns", "in a tuple", "in a list", "beside the model", "torch"],
)
def test_a_load_that_raises_warns_or_returns_what_is_missing_has_told(load):
    """Each of them reaches the caller, also where warnings are switched off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert is_told(Project(load=load), PATH, (network(), RULE))


@pytest.mark.parametrize(
    "load",
    [
        lambda *_: None,
        lambda *_: 3,
        lambda *_: (3, SimpleNamespace(missing_keys=[])),
        lambda model, optimizer, path: model,
        lambda model, optimizer, path: (model, 3),
        lambda model, optimizer, path: model.load_state_dict(model.state_dict()),
    ],
)
def test_a_load_that_says_nothing_has_not_told(load):
    """An empty list of what is missing says that nothing is."""
    assert not is_told(Project(load=load), PATH, (network(), RULE))


@pytest.mark.parametrize("several", [True, False])
def test_a_load_that_builds_its_own_model_cannot_be_judged(several):
    """What it has of its own is not known to be missing."""
    load = (lambda *_: (OTHER, 3)) if several else (lambda *_: OTHER)

    with pytest.raises(NotCheckedError, match="load into the model that it is given"):
        is_told(Project(load=load), PATH, (network(), RULE))


def test_a_load_is_given_model_optimizer_and_path():
    """As the project takes them."""
    given = []

    is_told(Project(load=lambda *arguments: given.extend(arguments)), PATH, (MODEL, RULE))

    assert given == [MODEL, RULE, PATH]


# ------------------------------------------------------------------------ sharing


@pytest.mark.parametrize(
    ("kept", "names"),
    [
        (lambda model: model.state_dict(), ["0.weight", "0.bias"]),
        (lambda model: MappingProxyType(model.state_dict()), ["0.weight", "0.bias"]),
        (lambda model: [3, {"best": model[0].bias}], ["0.bias"]),
        (lambda model: model[0].weight.detach()[:1].T, ["0.weight"]),
        (lambda model: copy.deepcopy(model.state_dict()), []),
        (lambda model: [x.clone() for x in model.parameters()], []),
        (lambda model: torch.zeros(0), []),
        (lambda model: None, []),
    ],
    ids=["state", "mapping", "nested", "view", "copy", "clones", "empty", "nothing"],
)
def test_what_shares_memory_with_the_model_is_named(kept, names):
    """A view has the memory of its base; a tensor without elements has none."""
    model = nn.Sequential(nn.Linear(2, 3))
    model.register_buffer("empty", torch.zeros(0))
    state = {name: x for name, x in model.state_dict().items() if x.numel()}
    assert list(state) == ["0.weight", "0.bias"]

    assert shared(model, kept(model)) == names


def test_a_buffer_is_shared_too():
    """Running statistics move with each batch."""
    model = network()

    assert shared(model, {"mean": model[1].running_mean}) == ["1.running_mean"]


def test_sharing_is_told_with_the_function_that_returned_it():
    """How many, of what, and why it matters."""
    model = nn.Sequential(nn.Linear(2, 3))

    with pytest.raises(BrokenLawError) as caught:
        look_for_sharing("snapshot", model, model.state_dict())

    assert str(caught.value) == (
        "2 tensors that snapshot returned share memory with the model: 0.weight, 0.bias; "
        "the next step changes them"
    )


@pytest.mark.parametrize("kept", [None, 0.5, {"weight": torch.ones(2, 3)}])
def test_what_shares_nothing_is_left_alone(kept):
    """A loss, or a copy."""
    assert look_for_sharing("fit", nn.Linear(2, 3), kept) is None


def test_a_model_that_is_returned_is_no_kept_state():
    """A fit may well return the model that it trained."""
    model = nn.Linear(2, 3)

    assert look_for_sharing("fit", model, model) is None


# ------------------------------------------------------------------------ the checks


def save(model, path):
    """Write the parameters, and no buffers."""
    torch.save(dict(model.named_parameters()), path)


def load(model, path):
    """Read what there is."""
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)


def test_a_checkpoint_without_buffers_is_told_with_their_names():
    """Of what there is, how much and what did not come back."""
    with pytest.raises(CheckFailedError) as caught:
        check_a_checkpoint_holds_the_model(model=network(), save=save, load=load)

    assert caught.value.observed == (
        "3 of 7 buffers did not come back: 1.running_mean, 1.running_var, 1.num_batches_tracked"
    )


def test_a_partial_checkpoint_that_is_loaded_in_silence_is_told():
    """The parameter that the file lacks is named."""
    with pytest.raises(CheckFailedError) as caught:
        check_a_partial_checkpoint_is_refused(model=network(), save=save, load=load)

    assert caught.value.observed == (
        "a checkpoint without 1.bias was loaded without an error: 1.bias was left as it was"
    )


def with_optimizer(model, optimizer, path):
    """Need all three."""
    raise AssertionError("never called without an optimizer")


@pytest.mark.parametrize(
    "functions", [{"load": with_optimizer}, {"save": with_optimizer}], ids=["load", "save"]
)
def test_a_partial_checkpoint_is_not_checked_without_the_optimizer_that_it_needs(functions):
    """A call that was never made is no refusal."""
    parts = {"model": network(), "save": save, "load": load} | functions

    with pytest.raises(NotCheckedError, match=r"^needs optimizer$"):
        check_a_partial_checkpoint_is_refused(**parts)


def test_a_snapshot_by_reference_is_told():
    """state_dict() is no copy."""
    check_kept_weights_are_a_copy(
        model=network(), snapshot=lambda model: copy.deepcopy(model.state_dict())
    )

    with pytest.raises(CheckFailedError, match="7 tensors that snapshot returned share memory"):
        check_kept_weights_are_a_copy(model=network(), snapshot=lambda model: model.state_dict())
