"""Lesson 6: checkpoints that can be trusted.

A model's state_dict names its parameters and buffers, and refers to them: it is no copy. Written to
a file it brings the weights back, but not the architecture, nor where training stood; both have to
be put in. And a file can be damaged. `torch.save` writes in place, so that a process that dies on
the way leaves half a file where a good one stood, and `torch.load` reads a flipped bit without a
word. Here the file is replaced whole, and carries a checksum that is looked at first.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

import copy
import inspect
import io
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import dlconcepts
from dlconcepts import checkpoints
from dlconcepts.atomic import write_atomically
from dlconcepts.checkpoints import (
    Checkpoint,
    Training,
    capture,
    load,
    restore,
    resume,
    save,
    snapshot,
)
from dlconcepts.compare import bits, state_of
from dlconcepts.files import CheckpointError, find_fault, load_file, save_file, trailer
from dlconcepts.networks import ACTIVATIONS, Network
from dlconcepts.strategies import (
    DTYPES,
    aliases,
    batches,
    easily_lost,
    networks,
    problems,
    shapes,
    tensors,
)
from dlconcepts.training import fit, seeded
from dlconcepts.transfer import TransferNetwork

claim = pytest.mark.claim

FIXTURES = Path(__file__).parent / "checkpoints"
Store = Callable[..., None]
State = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for the files of all examples, each of which replaces those before it."""
    return tmp_path_factory.mktemp("checkpoints")


@st.composite
def models(draw: st.DrawFn, **fixed: Any) -> Network:
    """Draw networks with 0 to 5 hidden layers; `fixed` are arguments that are not drawn."""
    size = st.integers(1, 4)
    arguments = {
        "in_features": draw(size),
        "hidden_features": draw(st.lists(size, max_size=5)),
        "out_features": draw(size),
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS, key=lambda name: name != "relu"))),
        "dropout": draw(st.sampled_from([0.0, 0.5, 0.1, 1.0]) | st.floats(0, 1)),
    }
    with seeded(draw(st.integers(0, 2**16)), torch.get_default_device()):
        return Network(**{**arguments, **fixed})


def parts_of(model: Network) -> dict[str, Any]:
    """Return what `save` wants to know beside a model."""
    classes = [f"class {number}" for number in range(model.out_features)]
    return {"classes": classes, "normalization": {"mean": 0.5, "std": 0.25}}


def values_of(model: nn.Module) -> dict[str, bytes]:
    """Return the bits of each parameter and persistent buffer."""
    return {name: bits(tensor) for name, tensor in model.state_dict().items()}


def train_a_step(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Let every parameter and every running statistic move."""
    model.train()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= gradient + 1


# ------------------------------------------------- what a state_dict holds


class Positions(nn.Module):
    """A module with a buffer that is computed, and so not worth saving."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("positions", torch.arange(3), persistent=False)


# The names that each kind of layer adds, by its documentation.
LAYERS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "relu": (nn.ReLU, []),
    "linear": (lambda: nn.Linear(2, 2), ["weight", "bias"]),
    "linear without bias": (lambda: nn.Linear(2, 2, bias=False), ["weight"]),
    "batch norm": (
        lambda: nn.BatchNorm1d(2),
        ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"],
    ),
    "positions": (Positions, ["scale"]),
    "nested": (lambda: nn.Sequential(nn.Linear(2, 2)), ["0.weight", "0.bias"]),
}


def parameters_only(model: nn.Module) -> State:
    """Take the parameters, which are all that an optimizer sees."""
    return dict(model.named_parameters())


def every_buffer(model: nn.Module) -> State:
    """Take the parameters and all buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def numbers_the_layers(model: nn.Module) -> State:
    """Name the entries by the position of their layer."""
    return {
        f"{number}.{name}": tensor
        for number, layer in enumerate(model.children())
        for name, tensor in layer.state_dict().items()
    }


@claim(
    "checkpoints.state-dict-holds-the-parameters",
    right=nn.Module.state_dict,
    wrong={
        parameters_only: "the parameters and the persistent buffers",
        every_buffer: "the parameters and the persistent buffers",
        numbers_the_layers: "the parameters and the persistent buffers",
    },
)
@given(kinds=st.lists(st.sampled_from(list(LAYERS)), max_size=4))
def test_a_state_dict_names_parameters_and_persistent_buffers(
    state_dict: Callable[[nn.Module], State], kinds: list[str]
) -> None:
    """Its keys are exactly the names of the layers, each with its parameters and buffers."""
    model = nn.Module()
    for number, kind in enumerate(kinds):
        model.add_module(f"layer{number}", LAYERS[kind][0]())

    keys = set(state_dict(model))

    assert keys == {
        f"layer{number}.{name}" for number, kind in enumerate(kinds) for name in LAYERS[kind][1]
    }, "a state_dict names the parameters and the persistent buffers, and nothing else"


@claim(
    "checkpoints.state-dict-holds-the-parameters",
    right=nn.Module.state_dict,
    wrong={snapshot: "reaches the model"},
)
@given(model=models(), data=st.data())
def test_a_state_dict_refers_to_the_model(
    state_dict: Callable[[nn.Module], State], model: Network, data: st.DataObject
) -> None:
    """What is written into an entry is written into the model."""
    name, parameter = data.draw(st.sampled_from(list(model.named_parameters())))
    before = bits(parameter)

    state_dict(model)[name].add_(1)

    assert bits(parameter) != before, "a write into a state_dict reaches the model"


# ------------------------------------------------- keeping the best weights


def keeps_a_reference(model: nn.Module) -> State:
    """Keep the state_dict itself."""
    return model.state_dict()


def copies_the_dict_alone(model: nn.Module) -> State:
    """Copy the dict, whose tensors stay the model's."""
    return model.state_dict().copy()


def forgets_the_buffers(model: nn.Module) -> State:
    """Copy the parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@claim(
    "checkpoints.state-dict-is-not-a-copy",
    right=snapshot,
    wrong={
        keeps_a_reference: "further training leaves the snapshot",
        copies_the_dict_alone: "further training leaves the snapshot",
        forgets_the_buffers: "all of the state",
    },
)
@given(problem=problems(min_size=2))
def test_a_snapshot_stays_as_the_model_was(
    keep: Callable[[nn.Module], State], problem: Any
) -> None:
    """The best weights are kept, bit for bit, while training goes on, and can be brought back."""
    model = nn.Sequential(nn.BatchNorm1d(problem.inputs.shape[1]), *problem.model)
    before = values_of(model)
    best = keep(model)

    train_a_step(model, problem.inputs, problem.labels)

    assert set(best) == set(before), "a snapshot holds all of the state, buffers included"
    kept = {name: bits(tensor) for name, tensor in best.items()}
    assert kept == before, "further training leaves the snapshot as it is"
    assert values_of(model) != before, "the step did change the model"
    restore(model, best)
    assert values_of(model) == before, "the snapshot brings the model back"


# ------------------------------------------------- there and back


def through_half(tensor: Any, file: Any) -> None:
    """Round the numbers to half precision on the way."""
    rounded = copy.deepcopy(tensor)
    size = rounded.untyped_storage().nbytes() // rounded.itemsize
    memory = rounded.as_strided((size,), (1,), 0)
    if tensor.is_floating_point():
        memory.copy_(memory.half())
    torch.save(rounded, file)


def as_contiguous(tensor: Any, file: Any) -> None:
    """Lay the elements out row by row."""
    torch.save(tensor.contiguous(), file)


def as_float32(tensor: Any, file: Any) -> None:
    """Save every number as what most numbers are."""
    torch.save(tensor.float() if tensor.is_floating_point() else tensor, file)


ANY_TENSOR = easily_lost() | tensors(
    dtype=st.sampled_from(DTYPES), allow_nan=True, allow_infinity=True
)


def assert_unchanged(tensor: Tensor, loaded: Tensor) -> None:
    """Assert that a tensor came back with its bits, dtype, shape and strides."""
    assert loaded.dtype == tensor.dtype, "a tensor comes back in its dtype"
    assert loaded.shape == tensor.shape, "a tensor comes back in its shape"
    assert bits(loaded) == bits(tensor), "a tensor comes back bit for bit"
    assert loaded.stride() == tensor.stride(), "a tensor comes back with its strides"


@claim(
    "checkpoints.save-and-load",
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
    """torch.save and torch.load keep every bit, to a str, a Path and a file object."""
    path = folder / "tensor.pt"
    file: Any = {"str": str(path), "Path": path, "file": io.BytesIO()}[kind]

    store(tensor, file)
    if kind == "file":
        file.seek(0)

    assert_unchanged(tensor, torch.load(file, weights_only=True))


def clones(content: Any, file: Any) -> None:
    """Give every tensor memory of its own."""
    save_file([tensor.clone() for tensor in content], file)


def one_by_one(content: Any, file: Any) -> None:
    """Pickle the tensors one after the other, each without a look at those before."""
    save_file([torch.load(_pickled(tensor), weights_only=True) for tensor in content], file)


def _pickled(tensor: Tensor) -> io.BytesIO:
    """Return a tensor in a file of its own."""
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return file


@claim(
    "checkpoints.save-and-load",
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
def test_a_file_with_a_checksum_is_one_of_torch(
    store: Store,
    tensor: Tensor,
    shared: tuple[Tensor, Tensor],
    kind: Callable[[Path], Any],
    folder: Path,
) -> None:
    """`load_file` and plain torch.load bring back the same tensors, bit for bit."""
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
    """Save first, for safety."""
    save(path, model, **parts_of(model))
    train()


def saves_after_training(path: Path, model: Network, train: Callable[[], None]) -> None:
    """Save what was learnt."""
    train()
    save(path, model, **parts_of(model))


def saves_half(path: Path, model: Network, train: Callable[[], None]) -> None:
    """Save a copy in half precision, and bring it back to the old one for the CPU."""
    train()
    save(path, copy.deepcopy(model).half().to(model.output.weight.dtype), **parts_of(model))


@claim(
    "checkpoints.save-and-load",
    right=saves_after_training,
    wrong={saves_before_training: "what was learnt", saves_half: "bit-identical"},
)
@given(model=models(), data=st.data())
def test_a_model_comes_back_with_its_outputs(
    store: Callable[..., None], model: Network, data: st.DataObject, folder: Path
) -> None:
    """A trained network gives bit-identical outputs in eval mode once it was saved and loaded."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    inputs = data.draw(tensors((2, model.in_features), dtype, max_magnitude=10))
    model.to(dtype)

    def train() -> None:
        """Train a step."""
        train_a_step(model, inputs, torch.zeros(2, dtype=torch.int64))

    untrained = copy.deepcopy(model)
    store(folder / "model.pt", model, train)
    loaded = load(folder / "model.pt").model

    assert not loaded.training, "a model is loaded in eval mode"
    assert values_of(loaded) != values_of(untrained), "what was learnt is in the file"
    assert values_of(loaded) == values_of(model), "the state is bit-identical"
    expected, outputs = model.eval()(inputs), loaded.to(inputs.device)(inputs)
    assert bits(outputs) == bits(expected), "the outputs are bit-identical"


# ------------------------------------------------- pickled code


class Gadget:
    """An object that acts when it is unpickled: `__setstate__` is called with what was pickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __setstate__(self, state: dict[str, str]) -> None:
        """Leave a trace."""
        Path(state["marker"]).touch()


class Call:
    """An object that is unpickled by calling a function."""

    def __init__(self, function: Callable[..., Any], *arguments: str) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        """Say which function."""
        return self.function, self.arguments


GADGETS: dict[str, Callable[[str], Any]] = {
    "__setstate__": Gadget,
    "os.system": lambda marker: Call(os.system, f"touch {marker}"),
    "builtins.eval": lambda marker: Call(eval, f"open({marker!r}, 'w').close()"),
    "builtins.exec": lambda marker: Call(exec, f"open({marker!r}, 'w').close()"),
    "os.mkdir": lambda marker: Call(os.mkdir, marker),
    "subprocess": lambda marker: Call(subprocess.check_call, ("touch", marker)),
}
PLACES = ("state_dict", "architecture", "optimizer", "history", "top", "key")


def plant(content: State, place: str, gadget: Any) -> Any:
    """Return the content of a checkpoint with the gadget in some place."""
    if place == "top":
        return gadget
    if place == "key":
        return {**content, ("key", gadget): 0}
    if place in ("optimizer", "history"):
        return {**content, "training": {place: {"state": {0: {"exp_avg": [gadget]}}}}}
    return {**content, place: {**content[place], "gadget": gadget}}


def forge(content: Any) -> bytes:
    """Return a file with any content and a right checksum, as an enemy can write it."""
    archive = io.BytesIO()
    torch.save(content, archive)
    content = archive.getvalue()
    return content.removesuffix(b"\0\0") + trailer(zlib.crc32(content))


def loads_weights_only(path: Path, model: Network) -> None:
    """Let torch.load make tensors and plain values, nothing else."""
    torch.load(path, weights_only=True)


def allows_code(path: Path, model: Network) -> None:
    """Load as it was the default before torch 2.6."""
    torch.load(path, weights_only=False)


def retries_with_code(path: Path, model: Network) -> None:
    """Give weights_only up where it raises, as answers to its error message tell you to."""
    try:
        load(path, model)
    except CheckpointError:
        torch.load(path, weights_only=False)
        raise


@contextmanager
def a_trap(folder: Path, gadget: str, place: str) -> Iterator[tuple[Path, Path, Network]]:
    """Give the path of a malicious checkpoint, the marker that its code makes, and a model."""
    path, marker, model = folder / "malicious.pt", folder / "executed", Network(2, [2], 2)
    save(path, model, **parts_of(model))
    path.write_bytes(forge(plant(load_file(path), place, GADGETS[gadget](str(marker)))))
    try:
        yield path, marker, model
    finally:
        if marker.exists():
            shutil.rmtree(marker) if marker.is_dir() else marker.unlink()


@claim(
    "checkpoints.save-and-load",
    right=loads_weights_only,
    wrong={allows_code: "no code is run"},
)
@given(gadget=st.sampled_from(list(GADGETS)), place=st.sampled_from(PLACES))
def test_weights_only_runs_no_code(
    read: Callable[[Path, Network], None], gadget: str, place: str, folder: Path
) -> None:
    """torch.load with weights_only refuses a file that would call a function."""
    with a_trap(folder, gadget, place) as (path, marker, model):
        try:
            read(path, model)
            raised = False
        except Exception:
            raised = True

        assert not marker.exists(), "no code is run while loading"
        assert raised, "a file with code is refused"


@claim(
    "checkpoints.survive-damage",
    right=load,
    wrong={retries_with_code: "no code is run"},
)
@given(gadget=st.sampled_from(list(GADGETS)), place=st.sampled_from(PLACES))
def test_a_malicious_checkpoint_is_refused(
    read: Callable[[Path, Network], None], gadget: str, place: str, folder: Path
) -> None:
    """Code anywhere in a checkpoint, under a right checksum, is an error and is not run."""
    with a_trap(folder, gadget, place) as (path, marker, model):
        before = state_of(model)

        with pytest.raises(CheckpointError, match="pickled code, which was not run"):
            read(path, model)

        assert not marker.exists(), "no code is run while loading"
        assert state_of(model) == before, "the model is as it was"


def test_no_code_is_run_though_the_environment_allows_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch has a variable that turns its default round; a checkpoint does not depend on it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with a_trap(folder, next(iter(GADGETS)), PLACES[0]) as (path, marker, model):
        with pytest.raises(CheckpointError, match="pickled code, which was not run"):
            load(path, model)

        assert not marker.exists(), "no code is run while loading"


# ------------------------------------------------- another architecture


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


@claim(
    "checkpoints.shape-mismatch-raises",
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


@claim(
    "checkpoints.shape-mismatch-raises",
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


# ------------------------------------------------- the architecture travels along


def forgets(path: Path, model: Network, name: str, default: Any) -> None:
    """Save a checkpoint whose architecture has the default of an argument, not the model's."""
    save(path, model, **parts_of(model))
    content = load_file(path)
    content["architecture"][name] = default
    save_file(content, path)


def forgets_the_dropout_rate(path: Path, model: Network, **parts: Any) -> None:
    """Save the sizes, as the course does: a rate of 0.1 comes back as its default, 0.5."""
    forgets(path, model, "dropout", 0.5)


def forgets_the_activation(path: Path, model: Network, **parts: Any) -> None:
    """Save the sizes, and let the network be built with the usual activation."""
    forgets(path, model, "activation", "relu")


def saves_the_default_sizes(path: Path, model: Network, **parts: Any) -> None:
    """Save the sizes that the training script names, not the model's."""
    forgets(path, model, "hidden_features", [2, 2])


def saves_float32(path: Path, model: Network, **parts: Any) -> None:
    """Save the numbers in the usual dtype."""
    save(path, copy.deepcopy(model).float(), **parts)


@claim(
    "checkpoints.architecture-travels-along",
    right=save,
    wrong={
        forgets_the_dropout_rate: "dropout rate",
        forgets_the_activation: "activation",
        saves_the_default_sizes: "enough to build the model",
        saves_float32: "dtype",
    },
)
@given(model=models(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_a_model_is_built_from_its_checkpoint(
    store: Store, model: Network, dtype: torch.dtype, folder: Path
) -> None:
    """A checkpoint alone gives a model of the same class, sizes, settings, values and outputs."""
    model = model.to(dtype).eval()
    inputs = torch.linspace(-1, 1, 3 * model.in_features, dtype=dtype).view(3, -1)
    random_state = torch.get_rng_state()

    store(folder / "model.pt", model, **parts_of(model))
    try:
        checkpoint = load(folder / "model.pt")
    except CheckpointError as error:
        pytest.fail(f"a checkpoint is enough to build the model: {error}")

    built = checkpoint.model
    assert type(built) is type(model), "the model is of the same class"
    rates = [
        [part.p for part in net.modules() if isinstance(part, nn.Dropout)] for net in (built, model)
    ]
    assert rates[0] == rates[1], "the dropout rate is the model's"
    assert built.activation == model.activation, "the activation is the model's"
    assert built.architecture == model.architecture, "the sizes are the model's"
    assert {p.dtype for p in built.parameters()} == {dtype}, "the dtype is the model's"
    assert all(p.requires_grad for p in built.parameters()), "the model can be trained"
    assert values_of(built) == values_of(model), "the values are the model's"
    assert bits(built.to(inputs.device)(inputs)) == bits(model(inputs)), "so are the outputs"
    found = {"classes": list(checkpoint.classes), "normalization": checkpoint.normalization}
    assert found == parts_of(model), "class names and normalisation travel along"
    assert torch.get_rng_state().equal(random_state), "building draws no random numbers"


def fills_in_defaults(path: Path) -> Network:
    """Take what the file has, and defaults for the rest."""
    found = load_file(path)
    known = Network(1, [], 1).architecture
    given = found.get("architecture")
    given = given if isinstance(given, dict) else {}
    model = Network(**{**known, **{name: given[name] for name in known if name in given}})
    state_dict = found.get("state_dict")
    with_weights = isinstance(state_dict, dict)
    model.load_state_dict(state_dict if with_weights else {}, strict=False)
    return model


def looks_for_names_only(path: Path) -> Any:
    """Look whether all parts are there, of whatever type."""
    found = load_file(path)
    if missing := [name for name in checkpoints.PARTS if name not in found]:
        raise CheckpointError(f"the checkpoint has no {missing}")
    return found


def reads_any_version(path: Path) -> Checkpoint:
    """Take a file of a later version for one of this version."""
    content = load_file(path)
    save_file({**content, "format_version": checkpoints.VERSION}, path)
    return load(path)


@st.composite
def spoilt_parts(draw: st.DrawFn) -> tuple[str, Any]:
    """Draw a part of a checkpoint and what stands there instead, None for nothing at all."""
    name = draw(st.sampled_from(list(checkpoints.PARTS)))
    if name == "format_version":
        return name, draw(st.none() | st.integers(checkpoints.VERSION + 1, 99) | st.just("1"))
    return name, draw(st.none() | st.sampled_from([0, "text", (1, 2), torch.zeros(1)]))


@claim(
    "checkpoints.architecture-travels-along",
    right=load,
    wrong={
        fills_in_defaults: "DID NOT RAISE",
        looks_for_names_only: "DID NOT RAISE",
        reads_any_version: "DID NOT RAISE",
    },
)
@given(spoilt=spoilt_parts())
def test_what_is_wrong_with_a_checkpoint_is_said(
    read: Callable[[Path], Any], spoilt: tuple[str, Any], folder: Path
) -> None:
    """A part that is missing or of a wrong type, or another version, is an error that names it."""
    name, value = spoilt
    path, model = folder / "spoilt.pt", Network(1, [], 1)
    save(path, model, **parts_of(model))
    content = {**load_file(path), name: value}
    if value is None:
        del content[name]
    save_file(content, path)

    with pytest.raises(CheckpointError) as caught:
        read(path)

    assert name.replace("_", " ") in str(caught.value).replace("_", " "), "the part is named"


@pytest.mark.parametrize("classes", [["one"], ["one", 2]])
def test_class_names_that_do_not_fit_are_refused(classes: list[Any], folder: Path) -> None:
    """A name too few, or one that is no text, is an error, and a given model is as it was."""
    path, model = folder / "classes.pt", Network(2, [], 2)
    save(path, Network(2, [], 2), **parts_of(model))
    save_file({**load_file(path), "classes": classes}, path)
    before = state_of(model)

    for given_model in (None, model):
        with pytest.raises(CheckpointError, match="2 outputs"):
            load(path, given_model)

    assert state_of(model) == before


def test_a_model_that_could_not_be_built_again_is_not_saved(folder: Path) -> None:
    """A subclass, an object as a setting and too few class names are errors, and leave no file."""

    class Wider(Network):
        """A network of another class."""

    model, path = Network(2, [], 2), folder / "never.pt"
    training = Training(1, {}, {}, settings={"device": torch.device("cpu")})

    with pytest.raises(TypeError, match="must be a Network, but it is a Wider"):
        save(path, Wider(2, [], 2), **parts_of(model))
    with pytest.raises(TypeError, match=r"content\['training'\]\['settings'\]\['device'\]"):
        save(path, model, **parts_of(model), training=training)
    sizes = replace(training, settings={"sizes": [1, [2j]]})
    with pytest.raises(TypeError, match=r"\['settings'\]\['sizes'\]\[1\]\[0\] is a complex"):
        save(path, model, **parts_of(model), training=sizes)
    keys = replace(training, settings={"sizes": {1j: 1}})
    with pytest.raises(TypeError, match=r"the key 1j of .*\['sizes'\] is a complex"):
        save(path, model, **parts_of(model), training=keys)
    with pytest.raises(ValueError, match="2 outputs"):
        save(path, model, classes=["one"], normalization={})

    assert not list(folder.glob("*never*"))


# ------------------------------------------------- going on with a training


def forgets_the_optimizer(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Go on with a new optimizer, whose momentum and averages are zero."""
    fresh = copy.deepcopy(optimizer.state_dict())
    resume(training, optimizer, generator)
    optimizer.load_state_dict(fresh)


def forgets_the_random_state(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Go on with the optimizer's state alone."""
    optimizer.load_state_dict(training.optimizer)


def forgets_the_shuffling(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Go on with PyTorch's own random state, and a new generator for the order of examples."""
    resume(training, optimizer, generator)
    generator.manual_seed(0)


def seeds_again(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Go on from the seed, with the dropout of the first epoch."""
    resume(training, optimizer, generator)
    torch.manual_seed(0)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "AMSGrad": lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


@claim(
    "checkpoints.resume",
    right=resume,
    wrong={
        forgets_the_optimizer: "bit for bit",
        forgets_the_random_state: "bit for bit",
        forgets_the_shuffling: "bit for bit",
        seeds_again: "bit for bit",
    },
    share=0.4,
    because="each example trains two networks",
)
@given(
    model=models(in_features=2, hidden_features=[3], out_features=2),
    batch=batches(2, 2, max_magnitude=1),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    batch_size=st.integers(1, 4),
    epochs=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
def test_a_resumed_training_is_an_unbroken_one(
    bring_back: Callable[..., None],
    model: Network,
    batch: tuple[Tensor, Tensor],
    optimizer: str,
    batch_size: int,
    epochs: tuple[int, int],
    folder: Path,
) -> None:
    """K epochs, a file, and n - k more from new objects are n epochs, bit for bit.

    That it also holds in a new process is tested with the command, in test_commands.py.
    """
    done, path = epochs[0], folder / "training.pt"
    device, unbroken = batch[0].device, copy.deepcopy(model)

    def go(model: Network, steps: torch.optim.Optimizer, start: int, end: int) -> list[float]:
        """Train from one epoch to another and return the losses."""
        history = fit(
            model,
            batch,
            epochs=end,
            start_epoch=start,
            batch_size=batch_size,
            optimizer=steps,
            generator=generator,
        )
        return [record.train_loss for record in history]

    with seeded(3, device):
        generator = torch.Generator(device="cpu").manual_seed(3)
        expected = go(unbroken, OPTIMIZERS[optimizer](unbroken.parameters()), 0, sum(epochs))

    with seeded(3, device):
        generator = torch.Generator(device="cpu").manual_seed(3)
        steps = OPTIMIZERS[optimizer](model.parameters())
        losses = go(model, steps, 0, done)
        training = capture(steps, generator, epoch=done)
        save(path, model, **parts_of(model), training=training)

    with seeded(4, device):
        checkpoint = load(path)
        resumed = checkpoint.model.to(device)
        generator = torch.Generator(device="cpu")
        steps = OPTIMIZERS[optimizer](resumed.parameters())
        bring_back(checkpoint.training, steps, generator)
        losses += go(resumed, steps, checkpoint.training.epoch, sum(epochs))

    assert values_of(resumed) == values_of(unbroken), (
        "a resumed training ends bit for bit where an unbroken one does"
    )
    assert losses == expected, "its losses are those of the unbroken one"


def test_a_checkpoint_says_what_wrote_it(tmp_path: Path) -> None:
    """The versions of dlconcepts and of torch."""
    save(tmp_path / "one.pt", Network(2, [], 1), classes=["cat"], normalization={})

    assert load(tmp_path / "one.pt").libraries == {
        "dlconcepts": dlconcepts.__version__,
        "torch": str(torch.__version__),
    }


def test_a_transfer_network_comes_back_whole(tmp_path: Path) -> None:
    """To build it by its name draws weights that nobody needs, but the random state stays.

    It is a RegNet, which cannot be built on the meta device.
    """
    model = TransferNetwork("regnet_y_400mf", [], 2)
    save(tmp_path / "one.pt", model, classes=["cat", "dog"], normalization={"size": 32})
    before = torch.get_rng_state()

    found = load(tmp_path / "one.pt").model

    assert torch.get_rng_state().equal(before)
    assert isinstance(found, TransferNetwork)
    assert not any(module.training for module in found.modules())
    assert state_of(found) == state_of(model.eval())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (7, "it comes from elsewhere: it has no format_version, architecture"),
        ([1, 2], "it comes from elsewhere: it has no format_version, architecture"),
        ({"format_version": 1, "weights": {}}, "it comes from elsewhere: it has no architecture"),
        ({"weights": {}}, "it comes from elsewhere: it has no format_version"),
    ],
)
def test_what_is_no_checkpoint_is_said_to_come_from_elsewhere(
    tmp_path: Path, content: Any, reason: str
) -> None:
    """Whatever the file holds, the parts that are missing are named."""
    save_file(content, tmp_path / "other.pt")

    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"architecture": {"class": "Tower"}}, "it is for the class 'Tower', not 'Network'"),
        ({"architecture": {}}, "it is for the class None, not 'Network'"),
        ({"classes": "cat"}, "its classes is of type str, not list"),
    ],
)
def test_a_part_that_is_wrong_is_named(tmp_path: Path, part: dict[str, Any], reason: str) -> None:
    """A class that is not known, or a value of another type."""
    path = tmp_path / "one.pt"
    save(path, Network(2, [], 1), classes=["cat"], normalization={})
    save_file({**load_file(path), **part}, path)

    with pytest.raises(CheckpointError, match=reason):
        load(path)


def test_a_captured_training_stays_as_it_was() -> None:
    """What was captured does not change while the optimizer steps on."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(1)
    optimizer.step()

    training = capture(optimizer, torch.Generator(), epoch=1)
    optimizer.step()

    assert training.optimizer["state"][0]["momentum_buffer"].item() == 1


def test_the_history_and_the_random_state_of_the_device_are_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The generator of the model's device is put back where it was, if there is a state for it."""
    device = torch.device("meta")  # in place of an accelerator: torch has no generator for it
    state, given = torch.zeros(16, dtype=torch.uint8), []
    module = SimpleNamespace(
        get_rng_state=lambda where: {device: state}[where],
        set_rng_state=lambda state, where: given.append((state, where)),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda where: {device: module}[where])
    there, here = (
        torch.optim.SGD([nn.Parameter(torch.ones(1, device=d))]) for d in (device, "cpu")
    )

    training = capture(there, torch.Generator(), epoch=1, history=[{"loss": 1.0}])
    resume(training, there, torch.Generator())
    resume(training, here, torch.Generator())
    resume(capture(here, torch.Generator(), epoch=1), there, torch.Generator())

    assert training.history == [{"loss": 1.0}]
    assert len(given) == 1
    assert given[0][0] is state
    assert given[0][1] == device


def test_another_optimizer_is_refused_before_anything_changes() -> None:
    """An optimizer of other parameters raises ValueError, and the generators stay as they are."""
    one, two = (nn.Parameter(torch.ones(1)) for _ in range(2))
    training = capture(torch.optim.SGD([one]), torch.Generator().manual_seed(1), epoch=1)
    generator = torch.Generator().manual_seed(2)
    before = generator.get_state(), torch.get_rng_state()

    with pytest.raises(ValueError, match="parameter group"):
        resume(training, torch.optim.SGD([one, two]), generator)

    assert generator.get_state().equal(before[0])
    assert torch.get_rng_state().equal(before[1])


# ------------------------------------------------- a writer that dies

CAN_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="what dies is a fork of this process")
FILES = "the writer of files computes nothing"


def writes_in_place(content: Any, path: Path) -> None:
    """Write over the old file."""
    torch.save(content, path)


def writes_in_place_with_a_checksum(content: Any, path: Path) -> None:
    """Write over the old file, so that half a file is at least noticed."""
    path.write_bytes(forge(content))


def deletes_the_old_file_first(content: Any, path: Path) -> None:
    """Make room for the new file before it is given its name."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(forge(content))
    path.unlink()
    temporary.rename(path)


def copies_the_new_file(content: Any, path: Path) -> None:
    """Write another file, and copy it over the old one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(forge(content))
    shutil.copyfile(temporary, path)


def leaves_half_a_file(content: Any, path: Path) -> None:
    """Write another file and rename it, but do not clean up when that fails."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(forge(content))
    temporary.replace(path)


def ends_killed(child: Callable[[], None]) -> bool:
    """Run a function in a process of its own and return whether that was killed."""
    with warnings.catch_warnings():
        # From Python 3.12 on a fork beside other threads warns; numpy's hold no lock meanwhile.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        try:
            child()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the writer raises no error"
    return os.WIFSIGNALED(status)


def die(when: str, where: Any) -> None:
    """Prepare the death of this process: at a byte, or before or after a call of the system."""
    import resource  # not on Windows

    def watch(frame: Any, event: str, function: Any) -> None:
        """Kill this process if that function, which is written in C, is called or returns."""
        if event == moment and function.__name__ == where:
            os.kill(os.getpid(), signal.SIGKILL)

    if when == "at byte":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # whoever writes further is killed
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (where, where))
    else:
        moment = {"before": "c_call", "after": "c_return"}[when]
        sys.setprofile(watch)


CALLS = ["replace", "fsync", "flush", "open", "close", "rename", "unlink"]
DEATHS = st.tuples(st.just("at byte"), st.integers(0, 2_000)) | st.tuples(
    st.sampled_from(["before", "after"]), st.sampled_from(CALLS)
)


@CAN_FORK
@claim(
    "checkpoints.survive-damage",
    right=save_file,
    wrong={
        writes_in_place: "the old one or the new one",
        writes_in_place_with_a_checksum: "the old one or the new one",
        deletes_the_old_file_first: "the old one or the new one",
    },
    share=0.3,
    because="each example forks a process with PyTorch in it",
    cpu_only=FILES,
)
@given(death=DEATHS)
def test_a_writer_killed_anywhere_leaves_a_whole_file(
    store: Store, death: tuple[str, Any], folder: Path
) -> None:
    """Killed at any byte, before or after any call, it leaves the old file or the new one."""
    path, old, new = folder / "killed.pt", torch.zeros(99), torch.ones(99)
    save_file(old, path)

    def write() -> None:
        """Write the new file, and die on the way."""
        die(*death)
        store(new, path)

    killed = ends_killed(write)

    try:
        found = torch.load(path, weights_only=True)
    except Exception as error:
        found = torch.tensor(torch.nan)
        print(error)
    assert found.equal(new) or (killed and found.equal(old)), (
        "what a killed writer leaves is the old one or the new one, whole"
    )


def writes_atomically(path: Path, content: bytes) -> None:
    """Write with the function through which checkpoints are written."""
    write_atomically(path, content)


def overwrites(path: Path, content: bytes) -> None:
    """Write over the old file."""
    path.write_bytes(content)


def overwrites_and_syncs(path: Path, content: bytes) -> None:
    """Write over the old file, and see that it reaches the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


# A process that has not imported PyTorch dies in a tenth of the time.
KILLS = """
import itertools, os, random, signal, sys, time
from pathlib import Path
from dlconcepts.atomic import write_atomically

{source}

def content(number):
    return number.to_bytes(8, "little") * 8192

path, drawn = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
for kill in range({kills}):
    path.write_bytes(content(0))
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        for number in itertools.count(1):
            os.write(writer, b".")
            {name}(path, content(number))
    os.close(writer)
    begun = len(os.read(reader, 1))
    time.sleep(drawn.uniform(0, 0.002))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    begun += len(os.read(reader, 2**16))
    os.close(reader)
    if path.read_bytes() not in (content(begun - 1), content(begun)):
        sys.exit(f"kill {{kill + 1}}: the file is neither the new one nor the one before")
"""


@CAN_FORK
@claim(
    "checkpoints.survive-damage",
    right=writes_atomically,
    wrong={
        overwrites: "neither the new one nor the one before",
        overwrites_and_syncs: "neither the new one nor the one before",
    },
    share=0.0025,
    because="each example kills 200 processes",
    cpu_only=FILES,
)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_writer_killed_at_any_time_leaves_a_whole_file(
    write: Callable[[Path, bytes], None], seed: int, folder: Path
) -> None:
    """After SIGKILL the file is the one being written or the one before, 200 times out of 200.

    The writer does nothing but write one file of 64 KiB after the other, so that it dies writing,
    up to 2 ms after it began; the moments are uniform.
    """
    program = KILLS.format(source=inspect.getsource(write), name=write.__name__, kills=200)
    path = folder / "killed.bin"

    finished = subprocess.run(
        [sys.executable, "-c", program, str(path), str(seed)], capture_output=True, text=True
    )

    for rest in folder.glob(".killed.bin.*.tmp"):
        rest.unlink()
    assert finished.returncode == 0, finished.stderr


# ------------------------------------------------- a disk that refuses


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: writing more is an error of the operating system."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@CAN_FORK
@claim(
    "checkpoints.survive-damage",
    right=save_file,
    wrong={
        writes_in_place_with_a_checksum: "the old file is intact",
        copies_the_new_file: "nothing is left beside it",
        leaves_half_a_file: "nothing is left beside it",
    },
    cpu_only=FILES,
)
@given(size=st.integers(0, 1_500))
def test_a_full_disk_leaves_the_old_file(store: Store, size: int, folder: Path) -> None:
    """A disk that takes only some of the bytes is an OSError; the old file stays, and no other."""
    path, old = folder / "full" / "full.pt", torch.zeros(99)
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    save_file(old, path)
    before = path.read_bytes()

    with room_for(size), pytest.raises(OSError, match="File too large"):
        store(torch.ones(99), path)

    assert path.read_bytes() == before, "the old file is intact"
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"


@contextmanager
def without_privileges() -> Iterator[None]:
    """Give up the rights of the superuser, for whom no folder is read-only."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


@CAN_FORK
def test_a_read_only_folder_leaves_the_old_file() -> None:
    """A folder in which nothing may be written is an OSError that names it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "model.pt")
        save_file(torch.zeros(2), path)
        path.parent.chmod(0o555)

        with without_privileges(), pytest.raises(PermissionError, match=r"model\.pt"):
            save_file(torch.ones(2), path)

        assert load_file(path).equal(torch.zeros(2))
        assert list(path.parent.iterdir()) == [path]
        path.parent.chmod(0o755)


def test_what_is_no_file_is_not_replaced(folder: Path) -> None:
    """A folder and a device in the place of the file are an OSError, and stay what they are."""
    for path in (folder, Path(os.devnull)):
        with pytest.raises(FileExistsError, match="Not a file that can be replaced"):
            save_file(torch.ones(2), path)

    assert folder.is_dir()
    assert Path(os.devnull).is_char_device() or os.name == "nt"


def test_a_missing_folder_is_an_error(folder: Path) -> None:
    """A folder that is not there is an OSError, and is not made."""
    with pytest.raises(FileNotFoundError, match="absent"):
        save_file(torch.ones(2), folder / "absent" / "model.pt")

    assert not (folder / "absent").exists()


@CAN_FORK
def test_a_link_is_followed(folder: Path) -> None:
    """A checkpoint that is a symbolic link stays one, and what it points to is replaced."""
    path, link = folder / "target.pt", folder / "link.pt"
    save_file(torch.zeros(2), path)
    link.symlink_to(path)

    save_file(torch.ones(2), link)

    assert link.is_symlink()
    assert load_file(path).equal(torch.ones(2))


# ------------------------------------------------- a file that was damaged


def without_a_checksum(path: Path, model: Network) -> None:
    """Trust what torch.load accepts; whatever it raises is an error of the checkpoint."""
    try:
        restore(model, torch.load(path, weights_only=True)["state_dict"])
    except Exception as error:
        raise CheckpointError(str(error)) from error


def trusts_the_archive(path: Path, model: Network) -> None:
    """Verify the checksums that a zip archive has for each of its records."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise CheckpointError(str(error)) from error
    if damaged:
        raise CheckpointError(damaged)
    without_a_checksum(path, model)


def looks_at_the_checksum_last(path: Path, model: Network) -> None:
    """Load what can be loaded, then see whether that was right."""
    with suppress(Exception):
        model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    load_file(path)


MODEL = Network(2, [2], 2)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """Give the path of a checkpoint."""
    path = folder / "whole.pt"
    save(path, MODEL, **parts_of(MODEL))
    return path


def assert_refused(read: Callable[[Path, Network], Any], content: bytes, folder: Path) -> None:
    """Assert that a file of this content raises CheckpointError and leaves the model alone."""
    path, model = folder / "damaged.pt", Network(2, [2], 2)
    path.write_bytes(content)
    before = state_of(model)

    with pytest.raises(CheckpointError):
        read(path, model)

    assert state_of(model) == before, "the model is as it was"


@claim(
    "checkpoints.survive-damage",
    right=load,
    wrong={
        without_a_checksum: "DID NOT RAISE",
        trusts_the_archive: "DID NOT RAISE",
        looks_at_the_checksum_last: "as it was",
    },
)
@given(
    position=st.integers(0, 2**13),
    pattern=st.integers(0, 31).map(lambda bit: 1 << bit) | st.integers(1, 2**32 - 1),
)
def test_a_flipped_bit_is_found_before_anything_is_loaded(
    read: Callable[[Path, Network], None],
    position: int,
    pattern: int,
    whole: Path,
    folder: Path,
) -> None:
    """One bit, or any of 32 neighbours, is an error anywhere in the file.

    It is an error for certain: CRC-32 finds all of these changes. Positions are counted from the
    first weight on, and go on from the end at the beginning.
    """
    content = whole.read_bytes()
    start = (content.find(bits(MODEL.output.weight)) + position) % (len(content) - 3)
    four = int.from_bytes(content[start : start + 4], "little") ^ pattern

    damaged = content[:start] + four.to_bytes(4, "little") + content[start + 4 :]

    assert_refused(read, damaged, folder)


@claim(
    "checkpoints.survive-damage",
    right=load,
    wrong={without_a_checksum: "DID NOT RAISE", trusts_the_archive: "DID NOT RAISE"},
)
@given(length=st.integers(0, 2**14))
def test_a_wrong_length_is_found_before_anything_is_loaded(
    read: Callable[[Path, Network], None], length: int, whole: Path, folder: Path
) -> None:
    """A file that is cut off anywhere, or goes on after its end, is an error."""
    content = whole.read_bytes()
    assume(length != len(content))

    assert_refused(read, content[:length].ljust(length, b"\0"), folder)


def test_every_flipped_bit_and_every_length_is_found() -> None:
    """Of one checkpoint, each bit is flipped and each shorter length is tried."""
    content = bytearray(forge(MODEL.state_dict()))
    assert find_fault(io.BytesIO(content)) is None

    for position, bit in itertools.product(range(len(content)), range(8)):
        content[position] ^= 1 << bit
        assert find_fault(io.BytesIO(content)), f"bit {bit} of byte {position} is flipped"
        content[position] ^= 1 << bit
    for length in range(len(content)):
        assert find_fault(io.BytesIO(content[:length])), f"only {length} bytes are left"


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04", pickle.dumps({"weight": 1})],
    ids=["empty", "text", "png", "zip", "pickle"],
)
def test_another_kind_of_file_is_refused(content: bytes, folder: Path) -> None:
    """A file that is no checkpoint at all is an error that names it and what to give."""
    path = folder / "other.pt"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"other\.pt .* give one written by"):
        load(path)


def test_what_is_no_file_cannot_be_loaded(folder: Path) -> None:
    """A missing file and a folder are errors that say so."""
    with pytest.raises(CheckpointError, match=r"absent\.pt cannot be read: No such file"):
        load(folder / "absent.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)


# ------------------------------------------------- every version that was released


def save_example(path: Path) -> None:
    """Write the checkpoint of which tests/checkpoints keeps one file a format version."""
    model = Network(3, [2], 2, activation="tanh", dropout=0.25)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float32) - number
            parameter.copy_(values.view(parameter.shape) / 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    training = capture(
        optimizer,
        torch.Generator().manual_seed(7),
        epoch=1,
        settings={"seed": 7},
        history=[{"epoch": 1, "train_loss": 0.5}],
    )
    normalization = {"mean": 0.25, "std": 0.5}
    save(path, model, classes=["cat", "dog"], normalization=normalization, training=training)


def test_each_format_version_has_a_file() -> None:
    """A new version comes with a file of it, written by `save_example`."""
    versions = range(1, checkpoints.VERSION + 1)

    assert {path.name for path in FIXTURES.iterdir()} == {f"version-{n}.pt" for n in versions}


@pytest.mark.parametrize("path", sorted(FIXTURES.iterdir()), ids=lambda path: path.stem)
def test_each_format_version_stays_readable(path: Path) -> None:
    """A file of any version gives the model, its settings and where its training stood."""
    checkpoint = load(path)

    architecture = checkpoint.model.architecture
    assert architecture == {
        "in_features": 3,
        "hidden_features": [2],
        "out_features": 2,
        "activation": "tanh",
        "dropout": 0.25,
    }
    # The first step of 0.5 from the values of save_example.
    assert {name: tensor.tolist() for name, tensor in checkpoint.model.state_dict().items()} == {
        "hidden.0.weight": [[-0.5, -0.375, -0.25], [-0.125, 0.0, 0.125]],
        "hidden.0.bias": [-0.625, -0.5],
        "output.weight": [[-0.75, -0.625], [-0.5, -0.375]],
        "output.bias": [-0.875, -0.75],
    }
    assert checkpoint.classes == ("cat", "dog")
    assert checkpoint.normalization == {"mean": 0.25, "std": 0.5}
    training, generator = checkpoint.training, torch.Generator()
    assert (training.epoch, training.settings) == (1, {"seed": 7})
    assert training.history == [{"epoch": 1, "train_loss": 0.5}]
    optimizer = torch.optim.SGD(checkpoint.model.parameters(), lr=0.1)
    with torch.random.fork_rng(devices=[]):
        resume(training, optimizer, generator)
    assert generator.get_state().equal(torch.Generator().manual_seed(7).get_state())
    assert optimizer.param_groups[0]["momentum"] == 0.5
    assert optimizer.state[checkpoint.model.output.bias]["momentum_buffer"].tolist() == [1, 1]
