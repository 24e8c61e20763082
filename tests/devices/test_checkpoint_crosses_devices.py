"""A checkpoint loads on any device if torch.load gets a map_location.

>>> import io
>>> file = io.BytesIO()
>>> torch.save({"weight": torch.ones(2)}, file)
>>> for device in "cpu", "meta":
...     _ = file.seek(0)
...     torch.load(file, map_location=device)["weight"].device
device(type='cpu')
device(type='meta')

Notes: (implied) A model trained on CUDA can be used on a CPU.
Verdict: holds-if
Truth: With map_location. A file names the device of each tensor, and torch.load without
    map_location raises where that device is missing. The library's `load` passes it: every bit
    arrives, and a model that it loads into stays on its device.
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

METADATA = {"classes": ["cat", "dog"], "normalization": {"mean": 0.5}}

# The name of a device that torch.save writes beside each tensor, or None for the tensor's own.
saved_as: str | None = None
# torch asks its packages in the order of their priority; 0 comes before the built-in ones.
torch.serialization.register_package(0, lambda storage: saved_as, lambda storage, tag: None)


@contextmanager
def saving_as_if_on(device: str) -> Iterator[None]:
    """Write the file that a machine with this device writes.

    Such a file differs from one of the CPU only in the names of the devices.
    """
    global saved_as
    saved_as = device
    try:
        yield
    finally:
        saved_as = None


def forgets_map_location(path: Path) -> Any:
    """Call torch.load without map_location."""
    return torch.load(path, weights_only=True)


def loads_the_checkpoint(path: Path) -> Any:
    """Call the library's `load` and return the state."""
    return {"state_dict": checkpoints.load(path).model.state_dict()}


@law(
    right=loads_the_checkpoint,
    wrong={forgets_map_location: "a checkpoint loads without the device it was saved on"},
)
# An eighth GPU is missing almost everywhere, and MISSING may be short.
@given(device=st.sampled_from([*MISSING, "cuda:7"]), seed=seeds)
def test_a_checkpoint_loads_without_the_device_it_was_saved_on(
    load: Callable[[Path], Any], device: str, seed: int
) -> None:
    """A checkpoint from a device that this machine lacks loads to the CPU, bit for bit."""
    torch.manual_seed(seed)
    model = Network(4, [3], 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        with saving_as_if_on(device):
            checkpoints.save(path, model, **METADATA)

        try:
            state = load(path)["state_dict"]
        except (RuntimeError, AssertionError) as error:
            message = "a checkpoint loads without the device it was saved on"
            raise AssertionError(message) from error

    assert {tensor.device.type for tensor in state.values()} == {"cpu"}, "the state is on the CPU"
    found = {name: bits(tensor) for name, tensor in state.items()}
    saved = {name: bits(tensor) for name, tensor in model.state_dict().items()}
    assert found == saved, "the state has the bits that were saved"


def ignores_the_given_model(path: Path, model: Network) -> None:
    """Load into a new model and leave the given one as it was."""
    checkpoints.load(path)


@law(
    right=checkpoints.load,
    wrong={ignores_the_given_model: "the model has the numbers of the file"},
)
@given(seed=seeds)
def test_a_checkpoint_loads_into_a_model_on_any_device(
    load: Callable[[Path, Network], Any], seed: int
) -> None:
    """A checkpoint from the CPU loads into a model, and the model stays on its device."""
    torch.manual_seed(seed)
    saved, model = Network(4, [3], 2), Network(4, [3], 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        checkpoints.save(path, copy.deepcopy(saved).to("cpu"), **METADATA)

        load(path, model)

    assert devices_in(model) == {torch.zeros(1).device}, "the model stays on its device"
    assert state_of(model.eval()) == state_of(saved.eval()), "the model has the numbers of the file"
