"""Wrong answers to the exercises of lesson 6, checkpoints, as learners write them."""

from __future__ import annotations

import copy
import io
import os
import pickle
import shutil
import zlib
from collections.abc import Sequence
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
from dlconcepts.networks import Network
from dlconcepts.support.atomic import replacing
from dlconcepts.support.checkpoint_files import CheckpointError, check_plain, load_file, trailer


def snapshot__references(model: nn.Module) -> dict[str, Any]:
    """Return the state_dict, whose tensors are the model's own."""
    return model.state_dict()


def snapshot__shallow(model: nn.Module) -> dict[str, Any]:
    """Copy the dictionary but not the tensors in it."""
    return copy.copy(model.state_dict())


def snapshot__without_buffers(model: nn.Module) -> dict[str, Any]:
    """Copy the parameters alone."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def snapshot__detached(model: nn.Module) -> dict[str, Any]:
    """Take detach for a copy, though it shares the memory."""
    return {name: value.detach() for name, value in model.state_dict().items()}


def snapshot__moved_to_the_cpu(model: nn.Module) -> dict[str, Any]:
    """Take `cpu` for a copy, though it returns a tensor that is there already."""
    return {name: value.cpu() for name, value in model.state_dict().items()}


def snapshot__as_float32(model: nn.Module) -> dict[str, Any]:
    """Clone everything as float32, also counters and doubles."""
    return {name: value.clone().to(torch.float32) for name, value in model.state_dict().items()}


def snapshot__a_model(model: nn.Module) -> dict[str, Any]:
    """Return a copy of the model instead of a dictionary."""
    return copy.deepcopy(model)


def snapshot__half_of_it(model: nn.Module) -> dict[str, Any]:
    """Clone only floating-point tensors, and share the counters among the buffers."""
    return {
        name: value.clone() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }


def _archive(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def save_file__torch_save(content: Any, path: str | Path) -> None:
    """Call torch.save, which adds no checksum."""
    check_plain(content)
    with replacing(path) as file:
        file.write(_archive(content))


def save_file__opens_first(content: Any, path: str | Path) -> None:
    """Open the target before anything is checked, so an error leaves an empty file."""
    with Path(path).open("wb") as file:
        check_plain(content)
        data = _archive(content)
        file.write(data[:-2] + trailer(zlib.crc32(data)))


def save_file__sums_other_bytes(content: Any, path: str | Path) -> None:
    """Leave the last two bytes out of the checksum, so the file counts as damaged."""
    check_plain(content)
    data = _archive(content)[:-2]
    with replacing(path) as file:
        file.write(data + trailer(zlib.crc32(data)))


def save_file__pickles_anything(content: Any, path: str | Path) -> None:
    """Write objects that `torch.load` refuses to read."""
    data = _archive(content)
    with replacing(path) as file:
        file.write(data[:-2] + trailer(zlib.crc32(data)))


def save_file__leaves_a_temporary_file(content: Any, path: str | Path) -> None:
    """Check after the temporary file is there, which an error leaves behind."""
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file")
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        check_plain(content)
        data = _archive(content)
        file.write(data[:-2] + trailer(zlib.crc32(data)))
    temporary.replace(path)


def save_file__silent(content: Any, path: str | Path) -> None:
    """Print that the file cannot be written, and raise nothing."""
    check_plain(content)
    data = _archive(content)
    try:
        with replacing(path) as file:
            file.write(data[:-2] + trailer(zlib.crc32(data)))
    except OSError as error:
        print(f"not saved: {error}")


def save_file__pickle(content: Any, path: str | Path) -> None:
    """Write a plain pickle."""
    check_plain(content)
    with replacing(path) as file:
        pickle.dump(content, file)


def save_file__removes_the_old_file(content: Any, path: str | Path) -> None:
    """Remove the old file before it is known whether the new one can be written."""
    path = Path(path)
    if path.is_file():
        path.unlink()
    check_plain(content)
    data = _archive(content)
    with replacing(path) as file:
        file.write(data[:-2] + trailer(zlib.crc32(data)))


def save_file__value_error(content: Any, path: str | Path) -> None:
    """Raise ValueError for a value that cannot be saved."""
    try:
        check_plain(content)
    except TypeError as error:
        raise ValueError(str(error)) from error
    data = _archive(content)
    with replacing(path) as file:
        file.write(data[:-2] + trailer(zlib.crc32(data)))


def _content(
    model: Model,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None,
) -> dict[str, Any]:
    return {
        "format_version": VERSION,
        "architecture": describe(model),
        "state_dict": model.state_dict(),
        "classes": list(classes),
        "normalization": normalization,
        "libraries": {
            "dlconcepts": dlconcepts.__version__,
            "torch": str(torch.__version__),
        },
        "training": vars(training) if training else {},
    }


def _write(content: Any, path: str | Path) -> None:
    check_plain(content)
    data = _archive(content)
    with replacing(path) as file:
        file.write(data[:-2] + trailer(zlib.crc32(data)))


def save__forgets_the_run(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Leave the training out."""
    check_classes(model, classes)
    _write(_content(model, classes, normalization, None), path)


def save__any_number_of_classes(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Check nothing about the classes."""
    _write(_content(model, classes, normalization, training), path)


def save__half_written(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Write into the old file itself, so it is lost when a value cannot be saved."""
    check_classes(model, classes)
    content = _content(model, classes, normalization, training)
    with Path(path).open("wb") as file:
        check_plain(content)
        data = _archive(content)
        file.write(data[:-2] + trailer(zlib.crc32(data)))


def save__sorts_the_classes(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Sort the class names, which then name other outputs."""
    check_classes(model, classes)
    _write(_content(model, sorted(classes), normalization, training), path)


def save__default_normalization(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Write the usual normalisation instead of the one that is passed."""
    check_classes(model, classes)
    _write(_content(model, classes, {"mean": 0.5, "std": 0.5}, training), path)


def save__takes_a_subclass(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Save a subclass as if it were the class it extends."""
    check_classes(model, classes)
    kind = "Network" if isinstance(model, Network) else "TransferNetwork"
    base = copy.copy(model)
    base.__class__ = Network if kind == "Network" else type(model)
    _write(_content(base, classes, normalization, training), path)


def save__plain_torch_save(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Write the content without the checksum that `load` verifies."""
    check_classes(model, classes)
    content = _content(model, classes, normalization, training)
    check_plain(content)
    with replacing(path) as file:
        file.write(_archive(content))


def save__without_the_settings(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Save the epoch, the optimizer and the random states, but neither settings nor history."""
    check_classes(model, classes)
    content = _content(model, classes, normalization, training)
    if training:
        content["training"] = {**content["training"], "settings": {}, "history": []}
    _write(content, path)


def save__asserts(
    path: str | Path,
    model: Model,
    *,
    classes: Sequence[str],
    normalization: dict[str, Any],
    training: Training | None = None,
) -> None:
    """Assert the number of classes instead of raising ValueError."""
    assert len(classes) == model.out_features, "one name for each output"
    _write(_content(model, classes, normalization, training), path)


def _refuse_lazy(model: nn.Module) -> None:
    if any(is_lazy(tensor) for tensor in chain(model.parameters(), model.buffers())):
        raise RuntimeError("lazy layers have no shape")


def restore__load_state_dict(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Call load_state_dict alone, which loads what fits before it raises."""
    _refuse_lazy(model)
    if isinstance(state_dict, dict):
        check_unconverted(
            {
                name: value
                for name, value in state_dict.items()
                if name in model.state_dict() and value.shape == model.state_dict()[name].shape
            },
            model.state_dict(),
        )
    model.load_state_dict(state_dict)


def restore__not_strict(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Accept missing and unexpected names."""
    _refuse_lazy(model)
    check_unconverted(state_dict, model.state_dict())
    model.load_state_dict(state_dict, strict=False)


def restore__checks_too_late(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Notice another dtype only after the tensors were converted."""
    _refuse_lazy(model)
    copy.deepcopy(model).load_state_dict(state_dict)
    model.load_state_dict(state_dict)
    check_unconverted(state_dict, model.state_dict())


def restore__assigns(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Assign the tensors, so an optimizer built earlier trains others than the model's."""
    _refuse_lazy(model)
    check_unconverted(state_dict, model.state_dict())
    copy.deepcopy(model).load_state_dict(state_dict)
    model.load_state_dict(state_dict, assign=True)


def restore__converts(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Try on a copy but let tensors of another dtype be converted."""
    _refuse_lazy(model)
    copy.deepcopy(model).load_state_dict(state_dict)
    model.load_state_dict(state_dict)


def restore__says_it_only(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Print the error of a state_dict that does not fit instead of raising it."""
    try:
        _refuse_lazy(model)
        copy.deepcopy(model).load_state_dict(state_dict)
        check_unconverted(state_dict, model.state_dict())
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        print(f"not restored: {error}")


def restore__rolls_back_to_references(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Keep the old state without copying it, so there is nothing to go back to."""
    _refuse_lazy(model)
    before = model.state_dict()
    try:
        model.load_state_dict(state_dict)
    except RuntimeError:
        model.load_state_dict(before)
        raise
    check_unconverted(state_dict, before)


def restore__value_error(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Raise ValueError for another dtype or shape."""
    _refuse_lazy(model)
    own = model.state_dict()
    for name, value in state_dict.items():
        if name in own and (value.dtype, value.shape) != (own[name].dtype, own[name].shape):
            raise ValueError(f"{name} does not fit")
    copy.deepcopy(model).load_state_dict(state_dict)
    model.load_state_dict(state_dict)


def restore__into_lazy_layers(model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Load any shape into a lazy layer."""
    if not any(is_lazy(tensor) for tensor in chain(model.parameters(), model.buffers())):
        check_unconverted(state_dict, model.state_dict())
    copy.deepcopy(model).load_state_dict(state_dict)
    model.load_state_dict(state_dict)


def _training(found: dict[str, Any]) -> Training | None:
    return Training(**found["training"]) if found["training"] else None


def _restore(model: nn.Module, state_dict: dict[str, Any]) -> None:
    check_unconverted(state_dict, model.state_dict())
    copy.deepcopy(model).load_state_dict(state_dict)
    model.load_state_dict(state_dict)


def _finish(path: str | Path, found: Any, model: Model | None) -> Checkpoint:
    try:
        check_content(found)
        run = _training(found)
        if model is None:
            model = build(found["architecture"], found["state_dict"])
            check_classes(model, found["classes"])
        else:
            check_classes(model, found["classes"])
            if describe(model) != found["architecture"]:
                raise ValueError("it is of another architecture")
            _restore(model, found["state_dict"])
    except Exception as error:
        raise CheckpointError(f"{path} does not fit: {error}") from error
    classes = tuple(found["classes"])
    return Checkpoint(model, classes, found["normalization"], found["libraries"], run)


def load__runs_pickles(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Unpickle whatever the file holds, code included."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read") from error
    load_file(path)
    return _finish(path, found, model)


def load__without_the_checksum(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Read with torch.load alone, which does not notice a changed byte of a weight."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read") from error
    return _finish(path, found, model)


def load__in_train_mode(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Leave a newly built model in train mode."""
    checkpoint = _finish(path, load_file(path), model)
    if model is None:
        checkpoint.model.train()
    return checkpoint


def load__ignores_the_model(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Build a new model although one is given."""
    return _finish(path, load_file(path), None)


def load__evaluates_the_given_model(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Put the given model into eval mode."""
    checkpoint = _finish(path, load_file(path), model)
    checkpoint.model.eval()
    return checkpoint


def load__no_such_file(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Let FileNotFoundError through."""
    with Path(path).open("rb"):
        found = load_file(path)
    return _finish(path, found, model)


def load__of_any_architecture(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Restore wherever the shapes fit, also with another activation."""
    found = load_file(path)
    if model is None:
        return _finish(path, found, None)
    built = _finish(path, found, None)
    try:
        _restore(model, found["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit: {error}") from error
    return Checkpoint(model, built.classes, built.normalization, built.libraries, built.training)


def load__of_any_version(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Read files of other versions as if they were of this one."""
    found = load_file(path)
    if isinstance(found, dict) and "format_version" in found:
        found["format_version"] = VERSION
    return _finish(path, found, model)


def load__without_the_run(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Return no training."""
    done = _finish(path, load_file(path), model)
    return Checkpoint(done.model, done.classes, done.normalization, done.libraries, None)


def load__converts(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Let load_state_dict convert the tensors to the given model's dtype."""
    found = load_file(path)
    built = _finish(path, found, None)
    if model is None:
        return built
    if describe(model) != found["architecture"]:
        raise CheckpointError(f"{path} is of another architecture")
    model.load_state_dict(found["state_dict"])
    return Checkpoint(model, built.classes, built.normalization, built.libraries, built.training)


def load__another_error(path: str | Path, model: Model | None = None) -> Checkpoint:
    """Let the ValueError or TypeError of a file without all parts through."""
    found = load_file(path)
    check_content(found)
    return _finish(path, found, model)


def _check_groups(training: Training, optimizer: torch.optim.Optimizer) -> None:
    saved = training.optimizer["param_groups"]
    sizes = [len(group["params"]) for group in saved]
    if sizes != [len(group["params"]) for group in optimizer.param_groups]:
        raise ValueError("the optimizer has other parameters")
    names = [name for group in saved for name in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            value = training.optimizer["state"].get(name, {}).get(key)
            if value is not None and value.shape != parameter.shape:
                raise ValueError("the optimizer has parameters of other shapes")


def _set_states(
    states: dict[str, Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator | None
) -> None:
    if generator is not None:
        generator.set_state(states["shuffling"])
    torch.set_rng_state(states["cpu"])
    device = find_device_of(optimizer)
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type], device)


def resume__forgets_the_generator(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Leave the shuffling generator as it is."""
    _check_groups(training, optimizer)
    optimizer.load_state_dict(copy.deepcopy(training.optimizer))
    _set_states(training.random_states, optimizer, None)


def resume__forgets_the_global_state(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Leave PyTorch's global generator as it is, so dropout draws other numbers."""
    _check_groups(training, optimizer)
    optimizer.load_state_dict(copy.deepcopy(training.optimizer))
    generator.set_state(training.random_states["shuffling"])


def resume__swaps_the_states(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Give each generator the state of the other."""
    _check_groups(training, optimizer)
    optimizer.load_state_dict(copy.deepcopy(training.optimizer))
    states = dict(training.random_states)
    states["cpu"], states["shuffling"] = states["shuffling"], states["cpu"]
    _set_states(states, optimizer, generator)


def resume__generators_first(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Set the generators before it is known whether the optimizer fits."""
    _set_states(training.random_states, optimizer, generator)
    _check_groups(training, optimizer)
    optimizer.load_state_dict(copy.deepcopy(training.optimizer))


def resume__keeps_the_options(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Restore the state but not the options, such as a learning rate that was lowered."""
    _check_groups(training, optimizer)
    options = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(copy.deepcopy(training.optimizer))
    for group, kept in zip(optimizer.param_groups, options, strict=True):
        group.update(kept)
    _set_states(training.random_states, optimizer, generator)


def resume__only_the_options(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Restore the options but not the state, so the momentum starts from zero."""
    _check_groups(training, optimizer)
    state = copy.deepcopy(training.optimizer)
    state["state"] = {}
    optimizer.load_state_dict(state)
    _set_states(training.random_states, optimizer, generator)


def resume__a_new_generator(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Give the state to a generator of its own, and not to the caller's."""
    _check_groups(training, optimizer)
    optimizer.load_state_dict(copy.deepcopy(training.optimizer))
    generator = torch.Generator()
    _set_states(training.random_states, optimizer, generator)


def resume__seeds(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Seed the generators with the epoch instead of restoring their states."""
    _check_groups(training, optimizer)
    optimizer.load_state_dict(copy.deepcopy(training.optimizer))
    generator.manual_seed(training.epoch)
    torch.manual_seed(training.epoch)


def resume__any_optimizer(
    training: Training, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Start with a fresh optimizer where it has other parameters, and raise nothing."""
    try:
        _check_groups(training, optimizer)
        optimizer.load_state_dict(copy.deepcopy(training.optimizer))
    except ValueError:
        print("the optimizer starts anew")
    _set_states(training.random_states, optimizer, generator)


def write_atomically__in_place(path: str | Path, content: bytes) -> None:
    """Write into the old file, which is empty until the new content is there."""
    with Path(path).open("wb") as file:
        file.write(content)


def write_atomically__appends(path: str | Path, content: bytes) -> None:
    """Open the file for appending, so the old content stays in front."""
    with replacing(path) as file:
        if Path(path).exists():
            file.write(Path(path).read_bytes())
        file.write(content)


def write_atomically__copies_over(path: str | Path, content: bytes) -> None:
    """Write a temporary file and then copy it over the old one, which takes time as well."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        shutil.copyfile(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically__leaves_the_temporary_file(path: str | Path, content: bytes) -> None:
    """Leave the temporary file behind after an error."""
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if target.exists() and not target.is_file():
        raise OSError(f"{target} is no file")
    temporary.replace(target)


def write_atomically__replaces_a_link(path: str | Path, content: bytes) -> None:
    """Replace a symbolic link by a file instead of following it."""
    target = Path(path)
    if target.exists() and not target.is_file():
        raise OSError(f"{target} is no file")
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically__unlinks_first(path: str | Path, content: bytes) -> None:
    """Remove the old file before the new one is written."""
    target = Path(path).resolve()
    if target.is_file():
        target.unlink()
    with replacing(target) as file:
        file.write(content)


def write_atomically__silent(path: str | Path, content: bytes) -> None:
    """Swallow the error of a folder that is not there."""
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError:
        print(f"cannot write {path}")


def write_atomically__text(path: str | Path, content: bytes) -> None:
    """Decode the bytes and encode them as UTF-8, which is right for ASCII alone."""
    with replacing(path) as file:
        file.write(content.decode("latin-1").encode("utf-8"))


def write_atomically__makes_folders(path: str | Path, content: bytes) -> None:
    """Make a folder that is missing, so a mistyped path raises nothing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def write_atomically__new_files_only(path: str | Path, content: bytes) -> None:
    """Refuse to replace a file that is there."""
    if Path(path).exists():
        raise FileExistsError(f"{path} exists")
    with replacing(path) as file:
        file.write(content)
