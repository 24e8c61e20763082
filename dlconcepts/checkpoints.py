"""Lesson 6, checkpoints: what was learnt goes to disk, and comes back as it was or not at all.

With the weights go the architecture, so that the model can be built without being told it, and, to
go on with training, the state of the optimizer and of the random generators.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

import dlconcepts
from dlconcepts.networks import Network
from dlconcepts.support.checkpoint_files import CheckpointError, load_file, save_file

if TYPE_CHECKING:
    from dlconcepts.transfer import TransferNetwork

# What a checkpoint can hold: classes that say, as their architecture, what builds one like them.
Model: TypeAlias = "Network | TransferNetwork"

VERSION = 1
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
    """Where a training stands: what `resume` needs to go on as if it had never stopped.

    epoch: epochs done; optimizer: its state_dict; random_states: those of PyTorch's generators and
    of the one that shuffles, by name; settings and history: plain values the caller wants to keep.
    """

    epoch: int
    optimizer: dict[str, Any]
    random_states: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A model, its class names, what normalised its images, who wrote it, where training stood.

    classes: one name for each output; normalization: the arguments of `loading.normalize`, or for a
    TransferNetwork those of `images.eval_pipeline`; libraries: versions by name; training: None if
    the checkpoint is not one to go on from.
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
    """Write a model's architecture and state, and where its training stands, to a file.

    The file appears whole or not at all; one of that name is replaced only by a whole one.

    Raises ValueError if there is not one class name for each output, TypeError for a subclass of
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
    """Build the model of a checkpoint, on the CPU and in eval mode, without being told its sizes.

    A `model` that is given is brought to the checkpoint's state instead, all or nothing; it keeps
    its device, its dtypes and its mode.

    Raises CheckpointError if the file is missing, damaged, from elsewhere, of a later version, of
    another architecture than `model`, or holds pickled code, which is never run.
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
    """Return a copy of a model's parameters and buffers that further training leaves alone.

    Source: PyTorch documentation, "Saving and Loading Models": `state_dict` gives references.

    >>> model = nn.Linear(1, 1)
    >>> best = snapshot(model)
    >>> nn.init.zeros_(model.weight).equal(best["weight"])
    False
    """
    return copy.deepcopy(model.state_dict())


def restore(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Load a state_dict into a model or, if any of it does not fit, leave the model as it was.

    Raises what `nn.Module.load_state_dict` raises, which has by then copied all that did fit.
    Source: PyTorch documentation, `torch.nn.Module.load_state_dict`.

    >>> model = nn.Linear(1, 1)
    >>> restore(model, {"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    >>> model(torch.ones(1)).item()
    1.0
    """
    before = snapshot(model)
    try:
        model.load_state_dict(state_dict)
    except BaseException:
        model.load_state_dict(before)
        raise


def capture(
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    *,
    epoch: int,
    settings: dict[str, Any] | None = None,
    history: Sequence[dict[str, Any]] = (),
) -> Training:
    """Return where a training stands after an epoch; `generator` is the one that shuffles.

    Random numbers of Python and numpy are left out: no training here draws from them.
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
    """Bring a new optimizer and the random generators to where the training stood.

    `fit`, given both and `start_epoch=training.epoch`, then goes on to the bit, on the same kind of
    device and as far as its operations are deterministic.

    Raises ValueError, before anything is changed, if the optimizer has other parameters.
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
    """Return the class of a network and the arguments that build one like it.

    Raises TypeError for a subclass, which its name and these arguments would not build again.
    """
    name = type(model).__name__
    if type(model) is not find_class(name):
        raise TypeError(f"the model must be a Network, but it is a {name}")
    return {"class": name, **model.architecture}


def find_class(name: str | None) -> type[Model] | None:
    """Return the class of that name, of those that a checkpoint can hold."""
    if name == "TransferNetwork":
        # It needs torchvision, which takes as long to import as torch itself.
        from dlconcepts.transfer import TransferNetwork

        return TransferNetwork
    return Network if name == "Network" else None


def build(architecture: dict[str, Any], state_dict: dict[str, Tensor]) -> Model:
    """Return the network that was described, in eval mode, with the tensors of the state_dict."""
    kind = find_class(architecture.get("class"))
    if kind is None:
        raise ValueError(f"it is for the class {architecture.get('class')!r}, not 'Network'")
    arguments = {name: value for name, value in architecture.items() if name != "class"}
    # On the meta device a network has no memory and draws no weights: they are in the file. Some of
    # torchvision's cannot be built there.
    on_meta = torch.device("meta") if kind is Network else nullcontext()
    with on_meta, torch.random.fork_rng(devices=[]):
        model = kind(**arguments)
    model.load_state_dict(state_dict, assign=True)
    return model.eval()


def find_device_of(optimizer: torch.optim.Optimizer) -> torch.device:
    """Return the device of the parameters that an optimizer steps."""
    device: torch.device = optimizer.param_groups[0]["params"][0].device
    return device


def check_content(found: Any) -> None:
    """Raise ValueError or TypeError if a file does not hold all that a checkpoint does."""
    version = found.get("format_version", VERSION) if isinstance(found, dict) else VERSION
    if version != VERSION:
        raise ValueError(
            f"it has format version {version}, but dlconcepts {dlconcepts.__version__} reads "
            f"version {VERSION}; install the one that wrote it"
        )
    check_parts(found, PARTS)
    if found["training"]:
        check_parts(found["training"], TRAINING_PARTS)
        check_parts(found["training"]["random_states"], {"shuffling": Tensor, "cpu": Tensor})


def check_parts(found: Any, parts: dict[str, type]) -> None:
    """Raise ValueError for parts that are missing, TypeError for parts of another type."""
    found = found if isinstance(found, dict) else {}
    if missing := [name for name in parts if name not in found]:
        raise ValueError(f"it comes from elsewhere: it has no {', '.join(missing)}")
    for name, kind in parts.items():
        if not isinstance(found[name], kind):
            found_kind = type(found[name]).__name__
            raise TypeError(f"its {name} is of type {found_kind}, not {kind.__name__}")


def check_classes(model: Model, classes: Sequence[str]) -> None:
    """Raise ValueError unless there is one class name for each output of the model."""
    if len(classes) != model.out_features or not all(isinstance(name, str) for name in classes):
        raise ValueError(
            f"the model has {model.out_features} outputs, each of which needs a class name, but "
            f"classes is {list(classes)}"
        )
