"""state_dict is a method: without the parentheses one gets no dict.

>>> model = nn.Linear(2, 1)
>>> model.state_dict["bias"]
Traceback (most recent call last):
...
TypeError: 'method' object is not subscriptable
>>> list(model.state_dict())
['weight', 'bias']

Notes: The parameters are stored in the model's attribute `state_dict`.
Verdict: corrected
Truth: `state_dict` is a method. Each call returns a new dict, which names the layers that the model
    has now; a dict from before a layer was replaced still holds the old one. torch.save writes the
    method itself without an error. That file has the whole model in it, as pickled code, so
    torch.load refuses it by default.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlconcepts.checkpoints import snapshot
from dlconcepts.networks import Network
from dlconcepts.support.bitwise import bits
from dlconcepts.support.checkpoint_files import save_file
from dlconcepts.testing.laws import law
from tests.checkpoints.common import State, emptied, models, values_of


def without_parentheses(model: nn.Module) -> Any:
    """Take `state_dict` for an attribute that holds the parameters."""
    return model.state_dict


def own_parameters(model: nn.Module) -> Any:
    """Take the attribute that does hold parameters, but only those outside all layers."""
    return model._parameters


@law(
    right=snapshot,
    wrong={without_parentheses: "is a dict", own_parameters: "every parameter of every layer"},
)
@given(model=models())
def test_a_call_gives_a_dict(state_of: Callable[[nn.Module], Any], model: Network) -> None:
    """The parameters are in the dict that a call of state_dict returns, not in an attribute."""
    state = state_of(model)

    assert isinstance(state, dict), "the state is a dict"
    assert state.keys() == dict(model.named_parameters()).keys(), (
        "the state has every parameter of every layer"
    )
    assert all(bits(state[name]) == bits(p) for name, p in model.named_parameters()), (
        "each entry has the numbers of its parameter"
    )


def calls_again(model: Network) -> Callable[[], State]:
    """Call the method whenever the state is needed."""
    return lambda: model.state_dict()


def calls_once(model: Network) -> Callable[[], State]:
    """Keep the dict of one call, as if it were an attribute of the model."""
    state = model.state_dict()
    return lambda: state


def copies_each_time(model: Network) -> Callable[[], State]:
    """Call once, and copy the kept dict whenever the state is needed."""
    state = model.state_dict()
    return lambda: dict(state)


@law(
    right=calls_again,
    wrong={calls_once: "each call returns a new dict", copies_each_time: "the layers of now"},
)
@given(model=models(), classes=st.integers(1, 4))
def test_each_call_describes_the_model_of_now(
    watch: Callable[[Network], Callable[[], State]], model: Network, classes: int
) -> None:
    """Each call returns a new dict; one from before a layer was replaced holds the old layer."""
    state_of = watch(model)
    before = state_of()

    model.output = nn.Linear(model.output.in_features, classes)

    after = state_of()
    assert after is not before, "each call returns a new dict"
    assert after["output.weight"].data_ptr() == model.output.weight.data_ptr(), (
        "the dict has the layers of now"
    )
    assert before["output.weight"].data_ptr() != model.output.weight.data_ptr(), (
        "a dict from before has the old layer"
    )


def saves_the_dict(model: Network, path: Path) -> None:
    """Save what a call returns."""
    save_file(model.state_dict(), path)


def saves_the_method(model: Network, path: Path) -> None:
    """Forget the parentheses, which torch.save does not mind."""
    torch.save(model.state_dict, path)


def saves_a_dict_of_the_method(model: Network, path: Path) -> None:
    """Forget the parentheses inside the dict of a checkpoint."""
    torch.save({"state_dict": model.state_dict}, path)


@law(
    right=saves_the_dict,
    wrong={
        saves_the_method: "can be loaded by default",
        saves_a_dict_of_the_method: "can be loaded by default",
    },
)
@given(model=models())
def test_a_file_needs_the_dict(
    store: Callable[[Network, Path], None], model: Network, folder: Path
) -> None:
    """torch.load reads the file of a dict; it refuses that of a method, which holds the model."""
    path = folder / "state.pt"

    store(model, path)

    try:
        found = torch.load(path, weights_only=True)
    except Exception as error:
        pytest.fail(f"a file of the dict can be loaded by default: {error}")
    fresh = Network(**model.architecture)
    fresh.load_state_dict(found)
    assert values_of(fresh) == values_of(model), "the file has the model's state"


def empties_the_file_first(content: Any, path: Path) -> None:
    """Open the file before the content is checked."""
    path.write_bytes(b"")
    save_file(content, path)


def leaves_half_a_file(content: Any, path: Path) -> None:
    """Make the temporary file before the content is checked, and leave it after an error."""
    path.with_suffix(".tmp").write_bytes(b"")
    save_file(content, path)


@law(
    right=save_file,
    wrong={
        torch.save: "DID NOT RAISE",
        empties_the_file_first: "the folder is as it was",
        leaves_half_a_file: "the folder is as it was",
    },
)
@given(model=models(), key=st.sampled_from(["", "state_dict", "model"]), replaces=st.booleans())
def test_forgotten_parentheses_are_an_error_when_saving(
    store: Callable[[Any, Path], None], model: Network, key: str, replaces: bool, folder: Path
) -> None:
    """`save_file` refuses a method where it stands, before a file that nobody can load exists."""
    path = emptied(folder / "methods") / "method.pt"
    if replaces:
        path.write_bytes(b"old")

    with pytest.raises(TypeError, match="is a method; a checkpoint holds tensors"):
        store({key: model.state_dict} if key else model.state_dict, path)

    found = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert found == ({"method.pt": b"old"} if replaces else {}), "the folder is as it was"
