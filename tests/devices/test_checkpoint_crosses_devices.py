"""Checkpoint-crosses-devices.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: (implied) A model trained on CUDA can be used on a CPU.
Verdict: holds-if
Truth: With map_location.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from dlconcepts import checkpoints
from dlconcepts.networks import Network
from dlconcepts.support.bitwise import bits, state_of
from dlconcepts.testing.laws import law
from tests.devices.common import MISSING, devices_in, seeds

# The device that torch.save is to write beside each tensor, if not the one where the tensor is.
tagged_as: str | None = None
torch.serialization.register_package(0, lambda storage: tagged_as, lambda storage, tag: None)


@contextmanager
def saving_as_if_on(tag: str) -> Iterator[None]:
    """Let torch.save write what it writes on another machine, whose tensors are on that device.

    A file holds the numbers, and beside each tensor the name of its device: nothing else differs.
    """
    global tagged_as
    tagged_as = tag
    try:
        yield
    finally:
        tagged_as = None


def loads_to_where_it_was(path: Path) -> Any:
    """Call torch.load without map_location."""
    return torch.load(path, weights_only=True)


def loads_the_checkpoint(path: Path) -> Any:
    """Call the library's `load`, and return the state."""
    return {"state_dict": checkpoints.load(path).model.state_dict()}


@law(
    right=loads_the_checkpoint,
    wrong={loads_to_where_it_was: "a checkpoint loads where its device is missing"},
)
@given(tag=st.sampled_from([*MISSING, "cuda:7"]), seed=seeds)
def test_a_checkpoint_loads_where_the_device_it_was_saved_on_is_missing(
    load: Callable[[Path], Any], tag: str, seed: int
) -> None:
    """What was saved on a device that this machine lacks comes to the CPU, to the bit."""
    torch.manual_seed(seed)
    model = Network(4, [3], 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        with saving_as_if_on(tag):
            checkpoints.save(path, model, classes=["cat", "dog"], normalization={"mean": 0.5})

        try:
            state = load(path)["state_dict"]
        except (RuntimeError, AssertionError) as error:
            raise AssertionError("a checkpoint loads where its device is missing") from error

    assert {tensor.device.type for tensor in state.values()} == {"cpu"}
    assert {n: bits(t) for n, t in state.items()} == {
        n: bits(t) for n, t in model.state_dict().items()
    }, "the numbers are the same, to the bit"


def forgets_to_give_the_model(path: Path, model: Network) -> None:
    """Load, and leave the model that was to be loaded into as it was."""
    checkpoints.load(path)


@law(
    right=checkpoints.load,
    wrong={forgets_to_give_the_model: "the model has the numbers of the file"},
)
@given(seed=seeds)
def test_a_checkpoint_goes_into_a_model_on_any_device(
    load: Callable[[Path, Network], Any], seed: int
) -> None:
    """Saved on one device and loaded into a model on another, the model stays where it is."""
    torch.manual_seed(seed)
    saved, model = Network(4, [3], 2), Network(4, [3], 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        saving = copy.deepcopy(saved).to("cpu")
        checkpoints.save(path, saving, classes=["cat", "dog"], normalization={"mean": 0.5})

        load(path, model)

    assert devices_in(model) == {torch.zeros(1).device}, "the model stays on its device"
    assert state_of(model.eval()) == state_of(saved.eval()), "the model has the numbers of the file"
