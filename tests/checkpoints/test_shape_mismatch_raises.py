"""Another architecture.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Loading a state_dict into a model of another architecture fails.
Verdict: holds-if
Truth: Only if names or shapes differ; what has no tensor is not compared: the state_dict of a
    tanh network, or of one with dropout 0.5, loads into a ReLU network without a word.
    RuntimeError naming each parameter and both shapes; strict=False does not excuse shapes. torch
    has by then already copied the parameters that did fit.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.checkpoints import load, restore, save, snapshot
from dlconcepts.networks import Network
from dlconcepts.strategies import networks
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.checkpoint_files import CheckpointError, load_file
from dlconcepts.testing.laws import law
from tests.checkpoints.common import State, models, parts_of


def loads_what_fits(model: nn.Module, state_dict: State) -> None:
    """Leave out the entries that do not fit."""
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state_dict.items()
        if name in own and own[name].shape == tensor.shape
    }
    model.load_state_dict(fitting, strict=False)


def is_not_strict(model: nn.Module, state_dict: State) -> None:
    """Allow missing and unexpected entries."""
    before = snapshot(model)
    try:
        model.load_state_dict(state_dict, strict=False)
    except RuntimeError:
        model.load_state_dict(before)
        raise


def loads_half(model: nn.Module, state_dict: State) -> None:
    """Load with torch alone, which copies all that fits before it raises."""
    model.load_state_dict(state_dict)


def brings_the_parameters_back(model: nn.Module, state_dict: State) -> None:
    """Undo what was loaded before the error, but for the running statistics."""
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    try:
        model.load_state_dict(state_dict)
    except RuntimeError:
        model.load_state_dict(before, strict=False)
        raise


def hides_the_reason(model: nn.Module, state_dict: State) -> None:
    """Replace torch's message by one that says less."""
    try:
        restore(model, state_dict)
    except RuntimeError:
        raise RuntimeError("this is not the same architecture") from None


@st.composite
def unequal_networks(draw: st.DrawFn) -> tuple[nn.Module, nn.Module]:
    """Draw two networks of which one has a layer more, or a layer of another size."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    position = draw(st.integers(0, len(sizes)))
    other = [size + (number == position) for number, size in enumerate(sizes)]
    pair = []
    for widths in (sizes, other if other != sizes else [*sizes, 1]):
        norm = nn.BatchNorm1d(widths[0])
        nn.init.constant_(norm.running_mean, len(pair))
        pair.append(nn.Sequential(norm, *draw(networks(widths))))
    return tuple(reversed(pair) if draw(st.booleans()) else pair)


@law(
    right=restore,
    wrong={
        loads_what_fits: "DID NOT RAISE",
        is_not_strict: "DID NOT RAISE",
        loads_half: "as it was",
        brings_the_parameters_back: "as it was",
        hides_the_reason: "is named",
    },
)
@given(pair=unequal_networks())
def test_a_state_dict_of_other_shapes_is_refused(
    bring: Callable[[nn.Module, State], None], pair: tuple[nn.Module, nn.Module]
) -> None:
    """What is missing, unexpected or of another shape is named, and the model is as it was."""
    model, other = pair
    here, there = (network.state_dict() for network in pair)
    before = state_of(model)

    with pytest.raises(RuntimeError) as caught:
        bring(model, other.state_dict())

    message = str(caught.value)
    for name in here.keys() ^ there.keys():
        assert f'"{name}"' in message, "each missing and each unexpected key is named"
    for name in here.keys() & there.keys():
        for shape in {here[name].shape, there[name].shape}:
            same_shape = here[name].shape == there[name].shape
            assert same_shape or f"{name}: copying a param with shape" in message, (
                "each parameter of another shape is named"
            )
            assert same_shape or str(shape) in message, "each shape that does not fit is named"
    assert state_of(model) == before, "after the error the model is as it was"


def compares_tensors_alone(path: Path, model: Network) -> None:
    """Load the state_dict, and trust that an error comes if it is of another architecture."""
    try:
        restore(model, load_file(path)["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(f"it is for another network: {error}") from error


@law(
    right=load,
    wrong={compares_tensors_alone: "DID NOT RAISE"},
)
@given(saved=models(), model=models(), data=st.data())
def test_a_checkpoint_of_another_architecture_is_refused(
    read: Callable[[Path, Network], None],
    saved: Network,
    model: Network,
    data: st.DataObject,
    folder: Path,
) -> None:
    """Another activation or dropout rate, which no tensor shows, is refused like another size."""
    name = data.draw(st.sampled_from([None, "activation", "dropout", "hidden_features"]))
    if name:  # all but one argument agree
        model = Network(**{**saved.architecture, name: model.architecture[name]})
    assume(model.architecture != saved.architecture)
    save(folder / "other.pt", saved, **parts_of(saved))
    before = state_of(model)

    with pytest.raises(CheckpointError, match="it is for"):
        read(folder / "other.pt", model)

    assert state_of(model) == before, "after the error the model is as it was"
