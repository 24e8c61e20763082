"""Right answers to the exercises of lesson 6, checkpoints, as learners write them."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import dlconcepts
from dlconcepts.checkpoints import (
    VERSION,
    Checkpoint,
    Model,
    Training,
    build,
    check_classes,
    check_content,
    check_unconverted,
    describe,
    find_device_of,
)
from dlconcepts.support.atomic import replacing
from dlconcepts.support.checkpoint_files import (
    CheckpointError,
    Summed,
    check_plain,
    load_file,
    trailer,
)


def snapshot__deepcopy(model: nn.Module) -> dict[str, Any]:
    """Copy the whole state_dict with deepcopy."""
    return copy.deepcopy(model.state_dict())


def snapshot__clones(model: nn.Module) -> dict[str, Any]:
    """Clone each tensor of the state_dict."""
    copied = {}
    for name, value in model.state_dict().items():
        is_tensor = isinstance(value, Tensor)
        copied[name] = value.detach().clone() if is_tensor else copy.deepcopy(value)
    return copied


def snapshot__of_a_copy(model: nn.Module) -> dict[str, Any]:
    """Take the state_dict of a copy of the model."""
    return copy.deepcopy(model).state_dict()


def snapshot__through_memory(model: nn.Module) -> dict[str, Any]:
    """Save the state_dict into memory and load it from there."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def save_file__summed(content: Any, path: str | Path) -> None:
    """Sum while torch.save writes, then put the checksum into the archive's comment."""
    check_plain(content)
    with replacing(path) as file:
        summed = Summed(file)
        torch.save(content, summed)
        file.seek(-2, os.SEEK_END)
        file.write(trailer(summed.checksum))


def save_file__in_memory(content: Any, path: str | Path) -> None:
    """Make the archive in memory and write it with the library's `write_atomically`."""
    from dlconcepts.support.atomic import write_atomically

    check_plain(content)
    archive = io.BytesIO()
    torch.save(content, archive)
    data = archive.getvalue()
    write_atomically(path, data[:-2] + trailer(zlib.crc32(data)))


def save_file__with_its_own_temporary_file(content: Any, path: str | Path) -> None:
    """Write a temporary file next to the target and rename it."""
    check_plain(content)
    archive = io.BytesIO()
    torch.save(content, archive)
    data = bytearray(archive.getvalue())
    comment = trailer(zlib.crc32(data))
    del data[-2:]
    data += comment
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise OSError(f"{target} is not a regular file")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _versions() -> dict[str, str]:
    return {"dlconcepts": dlconcepts.__version__, "torch": str(torch.__version__)}


def save__one_dictionary(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Collect everything in a dictionary and use the library's `save_file`."""
    from dlconcepts.support.checkpoint_files import save_file

    check_classes(model, classes)
    content = {
        "format_version": VERSION,
        "architecture": describe(model),
        "state_dict": model.state_dict(),
        "classes": list(classes),
        "normalization": normalization,
        "libraries": _versions(),
        "training": {} if training is None else vars(training),
    }
    save_file(content, path)


def save__with_asdict(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Convert the training with dataclasses.asdict, and check the content before writing."""
    from dlconcepts.support.checkpoint_files import save_file

    content: dict[str, Any] = {"format_version": VERSION, "libraries": _versions()}
    content["architecture"] = describe(model)
    names = [name for name in classes if isinstance(name, str)]
    if len(names) != len(classes) or len(names) != model.out_features:
        raise ValueError(f"{model.out_features} outputs need as many names, not {classes!r}")
    content["classes"] = names
    content["normalization"] = dict(normalization)
    content["state_dict"] = {name: value.cpu() for name, value in model.state_dict().items()}
    content["training"] = dataclasses.asdict(training) if training else {}
    check_content(content)
    save_file(content, path)


def save__of_a_snapshot(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
    log: Callable[[str], None] | None = None,
) -> None:
    """Save a snapshot, and the fields of the training one by one."""
    from dlconcepts.checkpoints import snapshot
    from dlconcepts.support.checkpoint_files import save_file

    architecture = describe(model)
    check_classes(model, classes)
    run: dict[str, Any] = {}
    if training is not None:
        for field in dataclasses.fields(training):
            run[field.name] = getattr(training, field.name)
    save_file(
        {
            "format_version": VERSION,
            "architecture": architecture,
            "state_dict": snapshot(model),
            "classes": [*classes],
            "normalization": normalization,
            "libraries": _versions(),
            "training": run,
        },
        path,
    )
    if log:
        log(f"wrote {path}")


def _refuse_lazy(model: nn.Module) -> None:
    if any(is_lazy(tensor) for tensor in chain(model.parameters(), model.buffers())):
        raise RuntimeError("run the lazy layers once, so that their shapes are known")


def restore__tried_on_a_copy(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Load into a copy first, which raises before the model changes."""
    _refuse_lazy(model)
    trial = copy.deepcopy(model)
    trial.load_state_dict(state_dict)
    check_unconverted(state_dict, trial.state_dict())
    model.load_state_dict(state_dict)


def restore__rolled_back(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Load, and go back to a copy of the old state after any error."""
    _refuse_lazy(model)
    before = copy.deepcopy(model.state_dict())
    if isinstance(state_dict, Mapping):
        check_unconverted(state_dict, before)
    try:
        model.load_state_dict(state_dict, strict=True)
    except BaseException:
        model.load_state_dict(before)
        raise


def restore__checks_of_its_own(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Compare dtypes and shapes itself, and write the old tensors back after an error."""
    tensors = [*model.parameters(), *model.buffers()]
    for tensor in tensors:
        if is_lazy(tensor):
            raise RuntimeError("a lazy layer has no shape yet")
    own = model.state_dict()
    if hasattr(state_dict, "items"):
        for name, given in state_dict.items():
            mine = own.get(name)
            if isinstance(given, Tensor) and isinstance(mine, Tensor):
                if given.dtype != mine.dtype:
                    raise RuntimeError(f"{name}: {given.dtype} would become {mine.dtype}")
                if given.shape != mine.shape:
                    raise RuntimeError(f"{name}: size mismatch, {given.shape} and {mine.shape}")
    old = [tensor.detach().clone() for tensor in tensors]
    try:
        model.load_state_dict(state_dict)
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(tensors, old, strict=True):
                tensor.copy_(value)
        raise


def _find_training(found: dict[str, Any]) -> Training | None:
    return Training(**found["training"]) if found["training"] else None


def load__step_by_step(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Read with `load_file`, check, and build or restore."""
    from dlconcepts.checkpoints import restore

    found = load_file(path)
    try:
        check_content(found)
        training = _find_training(found)
        if model is None:
            model = build(found["architecture"], found["state_dict"])
            check_classes(model, found["classes"])
        elif found["architecture"] != describe(model):
            raise ValueError(f"it is for {found['architecture']}, not for {describe(model)}")
        else:
            check_classes(model, found["classes"])
            restore(model, found["state_dict"])
    except Exception as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    return Checkpoint(
        model, tuple(found["classes"]), found["normalization"], found["libraries"], training
    )


@contextmanager
def _as_checkpoint_error(path: str | Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"the checkpoint {path} does not fit: {error}") from error


def load__with_a_context_manager(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Translate errors in a context manager, and build even where a model is given."""
    from dlconcepts.checkpoints import restore

    with _as_checkpoint_error(path):
        found = load_file(path)
        check_content(found)
        built = build(found["architecture"], found["state_dict"])
        check_classes(built, found["classes"])
        run = _find_training(found)
        if model is not None:
            if describe(built) != describe(model):
                raise CheckpointError(f"{path} holds another architecture than the model's")
            restore(model, built.state_dict())
    return Checkpoint(
        model=built if model is None else model,
        classes=tuple(found["classes"]),
        normalization=found["normalization"],
        libraries=found["libraries"],
        training=run,
    )


def load__verifies_the_bytes(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Verify the checksum itself before torch.load sees the bytes."""
    from dlconcepts.checkpoints import restore

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    size = len(trailer(0))
    if data[-size:] != trailer(zlib.crc32(data[:-size] + b"\0\0")):
        raise CheckpointError(f"{path} is damaged or not a checkpoint")
    with _as_checkpoint_error(path):
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        check_content(found)
        run = _find_training(found)
        if model is None:
            model = build(found["architecture"], found["state_dict"])
            check_classes(model, found["classes"])
        else:
            check_classes(model, found["classes"])
            if describe(model) != found["architecture"]:
                raise ValueError("its architecture is another one")
            restore(model, found["state_dict"])
    names = tuple(found["classes"])
    return Checkpoint(model, names, found["normalization"], found["libraries"], run)


def _check_parameters(training: Training, optimizer: torch.optim.Optimizer) -> None:
    saved = training.optimizer["param_groups"]
    sizes = [len(group["params"]) for group in saved]
    if sizes != [len(group["params"]) for group in optimizer.param_groups]:
        raise ValueError(f"the run had groups of {sizes} parameters; the optimizer has others")
    names = [name for group in saved for name in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    alike = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum")
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in training.optimizer["state"].get(name, {}).items():
            if key in alike and value is not None and value.shape != parameter.shape:
                raise ValueError(f"{key} has shape {value.shape}, not {parameter.shape}")


def resume__optimizer_first(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Check, load the optimizer's state, and set the generators afterwards."""
    _check_parameters(training, optimizer)
    optimizer.load_state_dict(copy.deepcopy(training.optimizer))
    states = training.random_states
    generator.set_state(states["shuffling"])
    torch.set_rng_state(states["cpu"])
    device = find_device_of(optimizer)
    if device.type in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type], device)


def resume__by_a_loop_over_the_states(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Go through the random states by name, each with its setter."""
    _check_parameters(training, optimizer)
    device = find_device_of(optimizer)
    setters = {"shuffling": generator.set_state, "cpu": torch.random.set_rng_state}
    if device.type != "cpu":
        module = torch.get_device_module(device)
        setters[device.type] = lambda state: module.set_rng_state(state, device)
    optimizer.load_state_dict(copy.deepcopy(training.optimizer))
    for name, state in training.random_states.items():
        if name in setters:
            setters[name](state.cpu())


def resume__from_a_copy(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Restore from a deep copy of the whole state, and print what it resumes."""
    _check_parameters(training, optimizer)
    kept = copy.deepcopy(training)
    device = find_device_of(optimizer)
    torch.default_generator.set_state(kept.random_states["cpu"].clone())
    with suppress(KeyError):
        if device.type != "cpu":
            state = kept.random_states[device.type]
            torch.get_device_module(device).set_rng_state(state, device)
    generator.set_state(kept.random_states["shuffling"])
    optimizer.load_state_dict(kept.optimizer)
    print(f"resume after epoch {kept.epoch}")


def write_atomically__with_replacing(path: str | Path, content: bytes) -> None:
    """Write in the library's `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_atomically__with_a_rename(path: str | Path, content: bytes) -> None:
    """Write a hidden temporary file next to the target and rename it."""
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise OSError(f"{target} is no file that can be replaced")
    temporary = target.parent / f".{target.name}-{os.urandom(6).hex()}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)  # noqa: PTH105
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_atomically__with_tempfile(path: str | Path, content: bytes) -> None:
    """Let tempfile choose the name of the temporary file."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(f"cannot replace {target}, which is no regular file")
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}", suffix=".tmp", dir=target.parent)
    done = False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
        done = True
    finally:
        if not done:
            Path(name).unlink(missing_ok=True)
