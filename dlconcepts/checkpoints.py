"""Lesson 6, checkpoints: save a model to a file and load it back, unchanged or not at all.

A checkpoint holds the weights and the architecture, so that `load` can build the model from the
file alone. To resume a run it also holds the state of the optimizer and the random generators.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import dlconcepts
from dlconcepts.networks import Network
from dlconcepts.support.checkpoint_files import CheckpointError, load_file, save_file

if TYPE_CHECKING:
    from dlconcepts.transfer import TransferNetwork

# The classes that a checkpoint can hold: their `architecture` has the arguments to rebuild them.
Model: TypeAlias = "Network | TransferNetwork"

VERSION = 1  # of the format; raise it if PARTS or TRAINING_PARTS change
PARTS: dict[str, type] = {
    "format_version": int,
    "architecture": dict,
    "state_dict": dict,
    "classes": list,
    "normalization": dict,
    "libraries": dict,
    "training": dict,
}
TRAINING_PARTS: dict[str, type] = {
    "epoch": int,
    "optimizer": dict,
    "random_states": dict,
    "settings": dict,
    "history": list,
}


@dataclass(frozen=True)
class Training:
    """The state of a training run: what `resume` needs to continue as if it had never stopped.

    epoch: epochs done; optimizer: its state_dict; random_states: the states of PyTorch's generators
    and of the shuffling one, by name; settings and history: plain values that the caller keeps.
    """

    epoch: int
    optimizer: dict[str, Any]
    random_states: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model, how to use it, and the state of its run.

    classes: one name for each output; normalization: the arguments of `loading.normalize`, or of
    `images.eval_pipeline` for a TransferNetwork; libraries: the versions that wrote the file, by
    name; training: None if the run cannot be resumed.
    """

    model: Model
    classes: tuple[str, ...]
    normalization: dict[str, Any]
    libraries: dict[str, str]
    training: Training | None


def save(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Write a model's architecture and state, and the state of its training run, to a file.

    The file is written whole or not at all; until then an old file of that name stays as it was.
    `save_file` writes a dict of the PARTS: `VERSION`, what `describe` returns, the state_dict, the
    names as a list, the normalization, the versions of dlconcepts and torch by name, and the
    fields of `training` by name ({} for None).

    Raises ValueError unless there is one class name for each output, TypeError for a subclass of
    Network or a value that `torch.load` would refuse, OSError if the file cannot be written.
    Source: PyTorch documentation, "Saving and Loading Models".
    """
    check_classes(model, classes)
    content = {
        "format_version": VERSION,
        "architecture": describe(model),
        "state_dict": model.state_dict(),
        "classes": list(classes),
        "normalization": dict(normalization),
        "libraries": {"dlconcepts": dlconcepts.__version__, "torch": str(torch.__version__)},
        "training": dict(vars(training)) if training else {},
    }
    save_file(content, path)


def load(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Read a checkpoint and build its model, on the CPU and in eval mode.

    If `model` is given, `restore` its state instead; it keeps its device and mode, also on an
    error. `load_file` reads what `save` has written; the parts become the fields of a Checkpoint.

    Raises CheckpointError if the file is missing, damaged, not a checkpoint, of another version, of
    another architecture or dtype than `model`, or holds pickled code, which is never run.
    Source: PyTorch documentation, `torch.load` with `weights_only`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "checkpoint.pt")
    ...     save(path, Network(4, [3], 2), classes=["cat", "dog"], normalization={"mean": 0.5})
    ...     load(path).classes
    ('cat', 'dog')
    """
    found = load_file(path)
    try:
        check_content(found)
        if model is None:
            model = build(found["architecture"], found["state_dict"])
            check_classes(model, found["classes"])
        else:
            if found["architecture"] != describe(model):
                raise ValueError(f"it is for {found['architecture']}, not for {describe(model)}")
            check_classes(model, found["classes"])
            restore(model, found["state_dict"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint {path} cannot be used: {reason}") from error
    return Checkpoint(
        model,
        tuple(found["classes"]),
        found["normalization"],
        found["libraries"],
        Training(**found["training"]) if found["training"] else None,
    )


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return a copy of a model's parameters and buffers, which further training does not change.

    It has the names of `state_dict`, and as that does no buffers that are not persistent.

    Source: PyTorch documentation, "Saving and Loading Models": `state_dict` returns references.

    >>> model = nn.Linear(1, 1)
    >>> best = snapshot(model)
    >>> nn.init.zeros_(model.weight).equal(best["weight"])
    False
    """
    return copy.deepcopy(model.state_dict())


def restore(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Load a state_dict into a model, unchanged; if any of it does not fit, change nothing.

    The values go into the model's own tensors. They stay as they were after any error, even Ctrl-C.
    Raises what `nn.Module.load_state_dict` raises; that alone would leave the model half loaded. It
    also raises RuntimeError where that would convert a tensor to the model's dtype or from shape
    (1,) to (), and for lazy layers, into which that loads any shape.
    Source: PyTorch documentation, `torch.nn.Module.load_state_dict`.

    >>> model = nn.Linear(1, 1)
    >>> restore(model, {"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    >>> model(torch.ones(1)).item()
    1.0
    """
    if lazy := [name for name, value in model.state_dict().items() if is_lazy(value)]:
        raise RuntimeError(f"{', '.join(lazy)} are lazy: run a batch through the model first")
    before = snapshot(model)
    try:
        model.load_state_dict(_unassigned(state_dict))
        check_unconverted(state_dict, before)
    except BaseException:  # Ctrl-C must not leave half a model either
        model.load_state_dict(before)
        raise


def _unassigned(state_dict: dict[str, Any]) -> dict[str, Any]:
    # torch notes assign=True in the state_dict itself, and every later load then assigns too.
    found, metadata = OrderedDict(state_dict), getattr(state_dict, "_metadata", {})
    assigned = "assign_to_params_buffers"
    found._metadata = {  # type: ignore[attr-defined]
        path: {key: value for key, value in own.items() if key != assigned}
        for path, own in metadata.items()
    }
    return found


def capture(
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    *,
    epoch: int,
    settings: dict[str, Any] | None = None,
    history: Sequence[dict[str, Any]] = (),
) -> Training:
    """Return the state of a run after an epoch; `generator` is the one that shuffles.

    The generators of Python and numpy are not captured, since no training here draws from them.
    Source: PyTorch documentation, "Saving and Loading Models" and "Reproducibility".
    """
    states = {"shuffling": generator.get_state(), "cpu": torch.get_rng_state()}
    device = find_device_of(optimizer)
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    state_dict = copy.deepcopy(optimizer.state_dict())
    return Training(epoch, state_dict, states, dict(settings or {}), list(history))


def resume(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Restore the state of a run in a new optimizer and in the random generators.

    `fit`, with both and `start_epoch=training.epoch`, then continues bit for bit, on the same kind
    of device and if its operations are deterministic. Of `training.random_states`, "shuffling" is
    for `generator`, "cpu" for PyTorch's generator there, and "cuda" or the like for the one of the
    optimizer's device, if it has that type.

    Raises ValueError, before anything changes, if the optimizer has other groups of parameters or
    another number of them in one.
    Source: PyTorch documentation, "Saving and Loading Models" and "Reproducibility".
    """
    optimizer.load_state_dict(training.optimizer)
    generator.set_state(training.random_states["shuffling"])
    torch.set_rng_state(training.random_states["cpu"])
    device = find_device_of(optimizer)
    if device.type != "cpu" and device.type in training.random_states:
        state = training.random_states[device.type]
        torch.get_device_module(device).set_rng_state(state, device)


def describe(model: Model) -> dict[str, Any]:
    """Return the class name of a network and the arguments that rebuild it.

    Raises TypeError for a subclass, which `load` could not rebuild from these.
    """
    name = type(model).__name__
    if type(model) is not find_class(name):
        raise TypeError(f"the model must be a Network, but it is a {name}")
    return {"class": name, **model.architecture}


def find_class(name: str | None) -> type[Model] | None:
    """Return the class with this name, None if a checkpoint cannot hold it."""
    if name == "TransferNetwork":
        # Imported only here: it needs torchvision, which takes as long to import as torch itself.
        from dlconcepts.transfer import TransferNetwork

        return TransferNetwork
    return Network if name == "Network" else None


def build(architecture: dict[str, Any], state_dict: dict[str, Tensor]) -> Model:
    """Build the network that `describe` described, in eval mode, with these tensors."""
    kind = find_class(architecture.get("class"))
    if kind is None:
        raise ValueError(f"it is for the class {architecture.get('class')!r}, not 'Network'")
    arguments = {name: value for name, value in architecture.items() if name != "class"}
    # On the meta device a network allocates nothing and draws no weights; the file has them.
    # Some of torchvision's networks cannot be built there.
    on_meta = torch.device("meta") if kind is Network else nullcontext()
    with on_meta, torch.random.fork_rng(devices=[]):
        model = kind(**arguments)
    model.load_state_dict(state_dict, assign=True)
    return model.eval()


def find_device_of(optimizer: torch.optim.Optimizer) -> torch.device:
    """Return the device of an optimizer's parameters."""
    device: torch.device = optimizer.param_groups[0]["params"][0].device
    return device


def check_content(found: Any) -> None:
    """Raise ValueError or TypeError unless a file holds all parts of a checkpoint."""
    version = found.get("format_version", VERSION) if isinstance(found, dict) else VERSION
    if version != VERSION:
        raise ValueError(
            f"it has format version {version!r}, but dlconcepts {dlconcepts.__version__} reads "
            f"version {VERSION}; install the version of dlconcepts that wrote it"
        )
    check_parts(found, PARTS)
    if found["training"]:
        check_parts(found["training"], TRAINING_PARTS)
        check_parts(found["training"]["random_states"], {"shuffling": Tensor, "cpu": Tensor})


def check_unconverted(state_dict: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise RuntimeError for a tensor whose dtype or shape is not that of the model's own."""
    for name, kept in own.items():
        given = state_dict.get(name)
        if isinstance(given, Tensor) and (given.dtype, given.shape) != (kept.dtype, kept.shape):
            raise RuntimeError(
                f"{name} is {given.dtype} of shape {tuple(given.shape)}, but in the model it is "
                f"{kept.dtype} of shape {tuple(kept.shape)}: convert the model or the state_dict"
            )


def check_parts(found: Any, parts: dict[str, type]) -> None:
    """Raise ValueError for missing parts, TypeError for parts of another type."""
    found = found if isinstance(found, dict) else {}
    if missing := [name for name in parts if name not in found]:
        raise ValueError(f"it is not a checkpoint: it has no {', '.join(missing)}")
    for name, kind in parts.items():
        if not isinstance(found[name], kind):
            found_kind = type(found[name]).__name__
            raise TypeError(f"its {name} is of type {found_kind}, not {kind.__name__}")


def check_classes(model: Model, classes: Sequence[str]) -> None:
    """Raise ValueError unless there is one class name for each output of the model."""
    if len(classes) != model.out_features or not all(isinstance(name, str) for name in classes):
        raise ValueError(
            f"the model has {model.out_features} outputs, but classes is {list(classes)}; give one "
            "name for each output"
        )
