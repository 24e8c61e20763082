"""torch.save and torch.load restore a state_dict bit for bit.

>>> import io
>>> file, model, other = io.BytesIO(), nn.Linear(2, 3), nn.Linear(2, 3)
>>> torch.save(model.state_dict(), file)
>>> _ = file.seek(0)
>>> other.load_state_dict(torch.load(file, weights_only=True))
<All keys matched successfully>
>>> other.weight.equal(model.weight), other.bias.equal(model.bias)
(True, True)

Notes: torch.save stores the state_dict at a path; torch.load and load_state_dict bring it back.
Verdict: holds-if
Truth: Every bit comes back (NaN, -0.0, subnormals), with dtype, shape, strides and shared memory,
    through a str, a Path or a file object. load_state_dict keeps the bits if the model has the same
    dtypes; without an error it rounds float64 to a float32 model. With weights_only, the default
    since torch 2.6, loading runs no code from the file.
"""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.checkpoints import load, save
from dlconcepts.networks import Network
from dlconcepts.strategies import DTYPES, aliases, easily_lost, shapes, tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.support.checkpoint_files import CheckpointError, load_file, save_file
from dlconcepts.testing.laws import law
from tests.checkpoints.common import (
    GADGETS,
    PLACES,
    Store,
    a_trap,
    models,
    parts_of,
    train_a_step,
    values_of,
)


def through_half(tensor: Any, file: Any) -> None:
    """Round the numbers to half precision."""
    # Round the whole storage in place, so that only the bits change and not the strides.
    rounded = copy.deepcopy(tensor)
    size = rounded.untyped_storage().nbytes() // rounded.itemsize
    memory = rounded.as_strided((size,), (1,), 0)
    if tensor.is_floating_point():
        memory.copy_(memory.half())
    torch.save(rounded, file)


def as_contiguous(tensor: Any, file: Any) -> None:
    """Lay the elements out row by row, which loses the strides."""
    torch.save(tensor.contiguous(), file)


def as_float32(tensor: Any, file: Any) -> None:
    """Convert every floating-point tensor to float32."""
    torch.save(tensor.float() if tensor.is_floating_point() else tensor, file)


ANY_TENSOR = easily_lost() | tensors(
    dtype=st.sampled_from(DTYPES), allow_nan=True, allow_infinity=True
)


def assert_unchanged(tensor: Tensor, loaded: Tensor) -> None:
    assert loaded.dtype == tensor.dtype, "a tensor comes back in its dtype"
    assert loaded.shape == tensor.shape, "a tensor comes back in its shape"
    assert bits(loaded) == bits(tensor), "a tensor comes back bit for bit"
    assert loaded.stride() == tensor.stride(), "a tensor comes back with its strides"


@law(
    right=torch.save,
    wrong={
        through_half: "bit for bit",
        as_contiguous: "with its strides",
        as_float32: "in its dtype",
    },
)
@given(tensor=ANY_TENSOR, kind=st.sampled_from(["str", "Path", "file"]))
def test_a_tensor_comes_back_as_it_was(
    store: Store, tensor: Tensor, kind: str, folder: Path
) -> None:
    """torch.save and torch.load keep every bit, through a str, a Path and a file object."""
    path = folder / "tensor.pt"
    file: Any = {"str": str(path), "Path": path, "file": io.BytesIO()}[kind]

    store(tensor, file)
    if kind == "file":
        file.seek(0)

    assert_unchanged(tensor, torch.load(file, weights_only=True))


def clones(content: Any, file: Any) -> None:
    """Clone every tensor, so that none share memory any more."""
    save_file([tensor.clone() for tensor in content], file)


def one_by_one(content: Any, file: Any) -> None:
    """Pickle each tensor separately, which duplicates the memory that tensors share."""
    save_file([pickled_alone(tensor) for tensor in content], file)


def pickled_alone(tensor: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@law(
    right=save_file,
    wrong={
        torch.save: "no checksum",
        clones: "come back sharing it",
        one_by_one: "come back sharing it",
    },
)
@given(
    tensor=ANY_TENSOR,
    shared=aliases(tensors(shapes(max_dims=2, min_side=1, max_side=3))),
    kind=st.sampled_from([str, Path]),
)
def test_torch_load_reads_a_file_with_a_checksum(
    store: Store,
    tensor: Tensor,
    shared: tuple[Tensor, Tensor],
    kind: Callable[[Path], Any],
    folder: Path,
) -> None:
    """Both `load_file` and torch.load restore the tensors bit for bit, and what they share."""
    path = kind(folder / "content.pt")

    store([tensor, *shared], path)

    try:
        loaded = load_file(path)
    except CheckpointError as error:
        pytest.fail(str(error))
    for content in (loaded, torch.load(path, weights_only=True)):
        storages = {part.untyped_storage().data_ptr() for part in content[1:]}
        assert len(storages) == 1, "tensors that share memory come back sharing it"
        for part, original in zip(content, [tensor, *shared], strict=True):
            assert_unchanged(original, part)


def saves_before_training(path: Path, model: Network, train: Callable[[], None]) -> None:
    """Save first, then train."""
    save(path, model, **parts_of(model))
    train()


def saves_after_training(path: Path, model: Network, train: Callable[[], None]) -> None:
    """Train first, then save."""
    train()
    save(path, model, **parts_of(model))


def saves_half(path: Path, model: Network, train: Callable[[], None]) -> None:
    """Save a copy that was rounded to half precision, under the old dtype."""
    train()
    save(path, copy.deepcopy(model).half().to(model.output.weight.dtype), **parts_of(model))


@law(
    right=saves_after_training,
    wrong={saves_before_training: "what was learnt", saves_half: "bit-identical"},
)
@given(model=models(), data=st.data())
def test_a_model_comes_back_with_its_outputs(
    store: Callable[..., None], model: Network, data: st.DataObject, folder: Path
) -> None:
    """A trained network that is saved and loaded gives bit-identical outputs in eval mode."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    inputs = data.draw(tensors((2, model.in_features), dtype, max_magnitude=10))
    model.to(dtype)

    def train() -> None:
        train_a_step(model, inputs, torch.zeros(2, dtype=torch.int64))

    untrained = copy.deepcopy(model)
    store(folder / "model.pt", model, train)
    loaded = load(folder / "model.pt").model

    assert not loaded.training, "a model is loaded in eval mode"
    assert values_of(loaded) != values_of(untrained), "what was learnt is in the file"
    assert values_of(loaded) == values_of(model), "the state is bit-identical"
    expected, outputs = model.eval()(inputs), loaded.to(inputs.device)(inputs)
    assert bits(outputs) == bits(expected), "the outputs are bit-identical"


def into_the_same_dtype(saved: Network) -> Network:
    """Build a network of the dtype that was saved."""
    return type(saved)(**saved.architecture).to(saved.output.weight.dtype)


def into_the_default_dtype(saved: Network) -> Network:
    """Build a network of the default dtype, float32."""
    return type(saved)(**saved.architecture)


def into_half_the_memory(saved: Network) -> Network:
    """Build a network of bfloat16, to save memory."""
    return type(saved)(**saved.architecture).bfloat16()


@law(
    right=into_the_same_dtype,
    wrong={into_the_default_dtype: "bit for bit", into_half_the_memory: "bit for bit"},
)
@given(saved=models(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_load_state_dict_keeps_the_bits_in_the_same_dtype(
    build: Callable[[Network], Network], saved: Network, dtype: torch.dtype, folder: Path
) -> None:
    """load_state_dict brings a state_dict back bit for bit into a model of the same dtypes."""
    torch.save(saved.to(dtype).state_dict(), folder / "state.pt")

    model = build(saved)
    model.load_state_dict(torch.load(folder / "state.pt", weights_only=True))

    assert values_of(model) == values_of(saved), "the state comes back bit for bit"


def loads_weights_only(path: Path, model: Network) -> None:
    """Let torch.load make only tensors and plain values."""
    torch.load(path, weights_only=True)


def allows_code(path: Path, model: Network) -> None:
    """Load as torch.load did by default before torch 2.6."""
    torch.load(path, weights_only=False)


@law(right=loads_weights_only, wrong={allows_code: "no code is run"})
@given(gadget=st.sampled_from(list(GADGETS)), place=st.sampled_from(PLACES))
def test_weights_only_runs_no_code(
    read: Callable[[Path, Network], None], gadget: str, place: str, folder: Path
) -> None:
    """torch.load with weights_only refuses a file that would run code."""
    with a_trap(folder, gadget, place) as (path, marker, model):
        try:
            read(path, model)
            raised = False
        except Exception:
            raised = True

        assert not marker.exists(), "no code is run while loading"
        assert raised, "a file with code is refused"
