"""Checks of checkpoints: whole, with the optimizer's state, refused where incomplete, copied."""

import inspect
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.copies import MODELS, OPTIMIZERS
from dlconcepts.checks.laws.learning import names, shake
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import NotCheckedError, broken, law, not_checked
from dlconcepts.checks.trees import bits, leaves, tensors


def takes(function: Callable[..., Any]) -> list[str]:
    """Return which of model, optimizer and path a function takes, by the names or their number.

    >>> takes(lambda model, optimizer, path: None)
    ['model', 'optimizer', 'path']
    >>> takes(lambda where: None)
    ['path']
    """
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind < 2]
    order = ["model", "optimizer", "path"]
    if any(name.lower() in (*MODELS, *OPTIMIZERS) for name in needed):
        return [
            "model"
            if name.lower() in MODELS
            else "optimizer"
            if name.lower() in OPTIMIZERS
            else "path"
            for name in needed
        ]
    return {1: ["path"], 2: ["model", "path"]}.get(len(needed), order)


def call(function: Callable[..., Any], model: nn.Module, optimizer: Any, path: Path) -> Any:
    """Call save or load with those of model, optimizer and path that it takes."""
    if optimizer is None and "optimizer" in takes(function):
        not_checked("needs optimizer")
    given = {"model": model, "optimizer": optimizer, "path": path}
    return function(*(given[name] for name in takes(function)))


def trained(project: Project) -> tuple[nn.Module, Any]:
    """Return a copy whose parameters, buffers and optimizer state are not those of the start."""
    model, optimizer = project.fresh_pair()
    can_train = optimizer is not None and project.loss_fn is not None and project.has("targets")
    if can_train:
        project.train(model, optimizer, [(project.inputs(), project.targets())] * 2)
    else:
        shake(model, 1)
    disturb_buffers(model, 0.25)
    return model, optimizer


def blank(project: Project) -> tuple[nn.Module, Any]:
    """Return a copy with other parameters and buffers, and an optimizer without a state."""
    model, optimizer = project.fresh_pair()
    shake(model, 2)
    disturb_buffers(model, 0.5)
    if optimizer is not None:
        optimizer.state.clear()
    return model, optimizer


def disturb_buffers(model: nn.Module, amount: float) -> None:
    """Add an amount to the buffers of numbers."""
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(amount)
            elif buffer.dtype != torch.bool and not buffer.is_complex():
                buffer.add_(round(4 * amount))


def restored(project: Project, path: Path, fresh: tuple[nn.Module, Any]) -> tuple[Any, Any]:
    """Load a checkpoint and return the model and the optimizer that have it."""
    model, optimizer = fresh
    result = call(project.load, model, optimizer, path)
    for part in result if isinstance(result, (tuple, list)) else (result,):
        if isinstance(part, nn.Module):
            model = part
        elif isinstance(part, torch.optim.Optimizer):
            optimizer = part
    return model, optimizer


@law(
    claim="checkpoints.state-dict-holds-the-parameters",
    concept="Checkpoint that does not hold the whole model",
    why="what is missing stays at random values: BatchNorm without its running statistics predicts "
    "nonsense in eval mode, and nobody says so",
    fix="save model.state_dict(), which has parameters and buffers, not parameters()",
    needs=("model", "save", "load"),
    reproducer="""
expected = {name: value.clone() for name, value in model.state_dict().items()}
save(model, optimizer, "checkpoint.pt")
with torch.no_grad():
    for value in model.state_dict().values():
        value.fill_(7)
load(model, optimizer, "checkpoint.pt")
assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
""",
)
def check_a_checkpoint_holds_the_model(project: Project) -> None:
    """Check that save and load keep every parameter and persistent buffer, to the last bit."""
    model, optimizer = trained(project)
    expected = {name: bits(x) for name, x in state(model).items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        call(project.save, model, optimizer, path)
        loaded, _ = restored(project, path, blank(project))
        found = {name: bits(x) for name, x in state(loaded).items()}
    lost = [name for name in expected if found.get(name) != expected[name]]
    if lost:
        buffers = {name for name, _ in loaded.named_buffers()}
        what = "buffers" if set(lost) <= buffers else "parameters and buffers"
        broken(f"{len(lost)} of {len(expected)} {what} did not come back: {names(lost)}")


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model's state_dict."""
    return {name: x for name, x in model.state_dict().items() if isinstance(x, Tensor)}


@law(
    claim="checkpoints.resume",
    concept="Checkpoint without the optimizer's state",
    why="training that goes on starts with no momentum and no step count: it is another training",
    fix="save optimizer.state_dict() beside the model's, and load both",
    needs=("model", "optimizer", "save", "load", "loss_fn", "batch", "targets"),
    reproducer="""
loss_fn(model(inputs), targets).backward()
optimizer.step()
entries = len(optimizer.state)
save(model, optimizer, "checkpoint.pt")
optimizer.state.clear()
load(model, optimizer, "checkpoint.pt")
assert len(optimizer.state) == entries
""",
)
def check_a_checkpoint_holds_the_optimizer(project: Project) -> None:
    """Check that save and load keep the optimizer's state and settings, to the last bit."""
    if "optimizer" not in takes(project.save) and "optimizer" not in takes(project.load):
        not_checked("needs a save and a load that take an optimizer")
    model, optimizer = trained(project)
    expected = {path: bits(leaf) for path, leaf in leaves(optimizer.state_dict())}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        call(project.save, model, optimizer, path)
        _, loaded = restored(project, path, blank(project))
        found = {path: bits(leaf) for path, leaf in leaves(loaded.state_dict())}
    lost = [path for path in expected if found.get(path) != expected[path]]
    if lost:
        broken(f"{len(lost)} of {len(expected)} entries did not come back: {names(lost)}")


@law(
    claim="checkpoints.shape-mismatch-raises",
    concept="Partial load",
    why="load_state_dict(strict=False), or a filter on names, leaves at random values whatever the "
    "file does not have, without a word",
    fix="load_state_dict(state), strict; where a part is left out on purpose, look at missing_keys",
    needs=("model", "save", "load"),
    reproducer="""
from copy import deepcopy
other = deepcopy(model)
layer = [part for part in other.modules() if [*part.parameters(recurse=False)]][-1]
del layer._parameters[next(iter(layer._parameters))]
save(other, optimizer, "checkpoint.pt")
try:
    load(model, optimizer, "checkpoint.pt")
    complained = False
except Exception:
    complained = True
assert complained
""",
)
def check_a_partial_checkpoint_is_refused(project: Project) -> None:
    """Check that a file which lacks a parameter is refused, or said to be incomplete."""
    model, optimizer = trained(project)
    named = [name for name, _ in model.named_parameters()]
    if not project.copies or len(named) < 2:
        not_checked("needs a model of at least 2 parameters that can be copied")
    owner, _, parameter = named[-1].rpartition(".")
    del model.get_submodule(owner)._parameters[parameter]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        try:
            call(project.save, model, optimizer, path)
        except NotCheckedError:
            raise
        except Exception as error:
            not_checked(f"needs a save that takes any model: {type(error).__name__}")
        fresh = blank(project)
        before = bits(dict(fresh[0].named_parameters())[named[-1]])
        if is_told(project, path, fresh):
            return
    after = bits(dict(fresh[0].named_parameters())[named[-1]])
    what = "was left as it was" if after == before else "got a value from somewhere"
    broken(f"a checkpoint without {named[-1]} was loaded without an error: {named[-1]} {what}")


def is_told(project: Project, path: Path, fresh: tuple[nn.Module, Any]) -> bool:
    """Return whether load raises, warns, or returns what is missing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call(project.load, *fresh, path)
        except NotCheckedError:
            raise
        except Exception:  # any way to refuse is fine
            return True
    parts = result if isinstance(result, (tuple, list)) else (result,)
    missing = [*parts, result]
    if any(isinstance(part, nn.Module) and part is not fresh[0] for part in parts):
        not_checked("needs a load into the model that it is given")
    return bool(caught) or any(getattr(part, "missing_keys", None) for part in missing)


@law(
    claim="checkpoints.state-dict-is-not-a-copy",
    concept="state_dict kept by reference",
    why="state_dict() returns the tensors that training goes on to change: the best weights that "
    "were kept are the last ones",
    fix="best = copy.deepcopy(model.state_dict()), or write it to a file",
    needs=("model",),
    any_of=("snapshot", "save", "fit"),
    reproducer="""
kept = snapshot(model) if snapshot else fit(model, loader, loss_fn, optimizer)
own = {value.data_ptr() for value in model.state_dict().values()}
assert not any(value.data_ptr() in own for value in kept.values())
""",
)
def check_kept_weights_are_a_copy(project: Project) -> None:
    """Check that what snapshot, save or fit returns, and fit loads again, is not the live model."""
    ran = False
    for name in ("snapshot", "save"):
        function = getattr(project, name)
        if function is not None and (name == "snapshot" or "path" not in takes(function)):
            model = project.fresh()
            look_for_sharing(name, model, function(model))
            ran = True
    can_fit = project.fit is not None and project.has("optimizer") and project.has("targets")
    if not ran and not can_fit:
        not_checked("needs snapshot, or fit with its loss_fn, optimizer and batch")
    if can_fit:
        model, optimizer = project.fresh_pair()
        live: list[str] = []

        def look(module: nn.Module, kept: Any, *_: Any) -> None:
            live.extend(shared(module, kept))

        if not isinstance(model, torch.jit.ScriptModule):  # which take no such hook
            model.register_load_state_dict_pre_hook(look)
        result = project.train(model, optimizer, [(project.inputs(), project.targets())] * 2)
        if live:
            broken(f"fit loaded {len(live)} tensors into the model that are its own: {names(live)}")
        look_for_sharing("fit", model, result)


def look_for_sharing(name: str, model: nn.Module, kept: Any) -> None:
    """Fail if what a function returned shares memory with the model's state."""
    if isinstance(kept, nn.Module):
        return
    live = shared(model, kept)
    if live:
        broken(
            f"{len(live)} tensors that {name} returned share memory with the model: {names(live)}; "
            "the next step changes them"
        )


def shared(model: nn.Module, kept: Any) -> list[str]:
    """Return which tensors of a structure have the memory of a model's parameter or buffer."""
    own = {x.untyped_storage().data_ptr(): name for name, x in state(model).items() if x.numel()}
    found = (x for x in tensors(kept).values() if x.numel())
    pointers = (x.untyped_storage().data_ptr() for x in found)
    return [own[pointer] for pointer in pointers if pointer in own]
