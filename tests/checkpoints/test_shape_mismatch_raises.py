"""load_state_dict raises if a shape differs, but first copies what fits.

>>> source, target = nn.Linear(3, 1), nn.Linear(2, 1)
>>> target.load_state_dict(source.state_dict())  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
RuntimeError: Error(s) in loading state_dict for Linear:...size mismatch for weight...
>>> target.bias.equal(source.bias)
True

Notes: Loading a state_dict into a model of another architecture fails.
Verdict: holds-if
Truth: Only if names or shapes differ. The RuntimeError names each parameter and both shapes;
    strict=False does not excuse shapes. By then torch has already copied the parameters that fit;
    `restore` loads all or nothing. Differences without a tensor go unnoticed: the state_dict of a
    tanh network, or of one with dropout 0.5, loads into a ReLU network without an error. A
    checkpoint with its architecture is refused for these too.
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
    """Skip the entries that do not fit, without an error."""
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state_dict.items()
        if name in own and own[name].shape == tensor.shape
    }
    model.load_state_dict(fitting, strict=False)


def is_not_strict(model: nn.Module, state_dict: State) -> None:
    """Use strict=False, which allows missing and unexpected entries."""
    before = snapshot(model)
    try:
        model.load_state_dict(state_dict, strict=False)
    except RuntimeError:
        model.load_state_dict(before)
        raise


def loads_half(model: nn.Module, state_dict: State) -> None:
    """Use plain load_state_dict, which copies everything that fits before it raises."""
    model.load_state_dict(state_dict)


def brings_the_parameters_back(model: nn.Module, state_dict: State) -> None:
    """After the error, restore the parameters but not the running statistics."""
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    try:
        model.load_state_dict(state_dict)
    except RuntimeError:
        model.load_state_dict(before, strict=False)
        raise


def hides_the_reason(model: nn.Module, state_dict: State) -> None:
    """Replace PyTorch's message by one without names and shapes."""
    try:
        restore(model, state_dict)
    except RuntimeError:
        raise RuntimeError("this is not the same architecture") from None


@st.composite
def unequal_networks(draw: st.DrawFn) -> tuple[nn.Module, nn.Module]:
    """Draw two networks that differ in the size of a layer or in the number of layers."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    position = draw(st.integers(0, len(sizes)))
    other = [size + (number == position) for number, size in enumerate(sizes)]
    pair = []
    for widths in (sizes, other if other != sizes else [*sizes, 1]):
        norm = nn.BatchNorm1d(widths[0])
        # Unequal statistics show whether a refused load has changed a buffer.
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
    """The error names each missing, unexpected or mismatched key; the model does not change."""
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
    """Load the state_dict, and trust that another architecture raises."""
    try:
        restore(model, load_file(path)["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(f"it is for another network: {error}") from error


@law(right=load, wrong={compares_tensors_alone: "DID NOT RAISE"})
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
    if name:  # only this argument differs
        model = Network(**{**saved.architecture, name: model.architecture[name]})
    assume(model.architecture != saved.architecture)
    save(folder / "other.pt", saved, **parts_of(saved))
    before = state_of(model)

    with pytest.raises(CheckpointError, match="it is for"):
        read(folder / "other.pt", model)

    assert state_of(model) == before, "after the error the model is as it was"
