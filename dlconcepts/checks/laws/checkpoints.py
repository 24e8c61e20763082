"""Checks of checkpoints: complete, with the optimizer's state, refused if partial, copied."""

import inspect
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.copies import MODELS, OPTIMIZERS, optimizers
from dlconcepts.checks.files import OURS
from dlconcepts.checks.laws.learning import memory, names, shake
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import NotCheckedError, broken, law, not_checked
from dlconcepts.checks.trees import bits, leaves, tensors


def takes(function: Callable[..., Any]) -> list[str]:
    """Return which of model, optimizer and path a function takes, judged by names or number."""
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name.lower() for p in parameters if p.default is p.empty and p.kind < 2]
    kinds = dict.fromkeys(MODELS, "model") | dict.fromkeys(OPTIMIZERS, "optimizer")
    if any(name in kinds for name in needed):
        return [kinds.get(name, "path") for name in needed]
    return {1: ["path"], 2: ["model", "path"]}.get(len(needed), ["model", "optimizer", "path"])


def call(function: Callable[..., Any], model: nn.Module, optimizer: Any, path: Path) -> Any:
    if optimizer is None and "optimizer" in takes(function):
        not_checked("needs optimizer")
    given = {"model": model, "optimizer": optimizer, "path": path}
    return function(*(given[name] for name in takes(function)))


def trained(project: Project) -> tuple[nn.Module, Any]:
    """Return a copy whose parameters, buffers and optimizer state differ from the start."""
    model, optimizer = project.fresh_pair()
    if optimizer is not None and project.has("batch") and project.has("loss"):
        project.train(model, optimizer, project.repeated(2))
    disturb(model, 1)
    return model, optimizer


def blank(project: Project) -> tuple[nn.Module, Any]:
    """Return a copy with other parameters and buffers, and an optimizer without state."""
    model, optimizer = project.fresh_pair()
    disturb(model, 2)
    for own in optimizers(optimizer):
        own.state.clear()
    return model, optimizer


def disturb(model: nn.Module, number: int) -> None:
    shake(model, number)
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.dtype != torch.bool:
                buffer.add_(number)  # a whole number, since some buffers are counters


def as_parts(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def look_for_losses(project: Project, what: str, state_of: Callable[[Any, Any], Any]) -> None:
    """Save and load, and compare the state before and after."""
    model, optimizer = trained(project)
    # As bits, since a model that cannot be copied is loaded into itself.
    expected = {name: bits(x) for name, x in state_of(model, optimizer).items()}
    with tempfile.TemporaryDirectory(prefix=OURS) as folder:
        path = Path(folder) / "checkpoint.pt"
        call(project.save, model, optimizer, path)
        prefixed = has_prefix(path)
        model, optimizer = blank(project)
        for part in as_parts(call(project.load, model, optimizer, path)):
            model = part if isinstance(part, nn.Module) else model
            optimizer = part if isinstance(part, torch.optim.Optimizer) else optimizer
        found = {name: bits(x) for name, x in state_of(model, optimizer).items()}
    lost = [name for name in expected if found.get(name) != expected[name]]
    if lost and prefixed:
        broken(
            f"{len(lost)} of {len(expected)} entries did not come back: the names in the file "
            "begin with 'module.': save model.module.state_dict(), or remove the prefix in load"
        )
    if lost:
        what = "buffers" if set(lost) <= dict(model.named_buffers()).keys() else what
        broken(f"{len(lost)} of {len(expected)} {what} did not come back: {names(lost)}")


def has_prefix(path: Path) -> bool:
    """Return whether a file has the names of a model that DataParallel wraps."""
    with suppress(Exception):  # the file of a broken save may be unreadable
        return any("['module." in name for name, _ in leaves(torch.load(path, weights_only=True)))
    return False


@law(
    claim="checkpoints.state-dict-holds-the-parameters",
    concept="Checkpoint that does not hold the whole model",
    why="a missing tensor keeps random values; BatchNorm without its statistics predicts nonsense",
    fix="save model.state_dict(), which has parameters and buffers, instead of parameters()",
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
    look_for_losses(project, "parameters and buffers", lambda model, _: state(model))


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors by name, without the prefixes of DataParallel and torch.compile."""
    found = ((name.replace("_orig_mod.", ""), x) for name, x in model.state_dict().items())
    return {name.removeprefix("module."): x for name, x in found if isinstance(x, Tensor)}


@law(
    claim="checkpoints.resume",
    concept="Checkpoint without the optimizer's state",
    why="a resumed run starts without momentum and step count, so it trains differently",
    fix="save optimizer.state_dict() with the model's, and load both",
    needs=("model", "optimizer", "save", "load", "batch", "loss"),
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

    def state_of(_: Any, part: Any) -> dict[str, Any]:
        return dict(leaves([own.state_dict() for own in optimizers(part)]))

    look_for_losses(project, "entries", state_of)


@law(
    claim="checkpoints.shape-mismatch-raises",
    concept="Partial load",
    why="strict=False, or a filter on names, silently keeps random values for missing tensors",
    fix="load_state_dict(state), strict; if a part is missing on purpose, check missing_keys",
    needs=("model", "save", "load"),
    reproducer="""
from copy import deepcopy
other = deepcopy(model)
layer = [part for part in other.modules() if [*part.parameters(recurse=False)]][-1]
del layer._parameters[next(iter(layer._parameters))]
save(other, optimizer, "checkpoint.pt")
complaints = []
try:
    load(model, optimizer, "checkpoint.pt")
except Exception as error:
    complaints.append(error)
assert complaints
""",
)
def check_a_partial_checkpoint_is_refused(project: Project) -> None:
    """Check that load raises, warns, or returns the missing keys if the file lacks a parameter."""
    model, optimizer = trained(project)
    named = [name for name, _ in model.named_parameters()]
    if not project.copies or len(named) < 2:
        not_checked("needs a model of at least 2 parameters that can be copied")
    last = named[-1]
    owner, _, parameter = last.rpartition(".")
    del model.get_submodule(owner)._parameters[parameter]
    with tempfile.TemporaryDirectory(prefix=OURS) as folder:
        path = Path(folder) / "checkpoint.pt"
        try:
            call(project.save, model, optimizer, path)
        except NotCheckedError:
            raise
        except Exception as error:
            not_checked(f"needs a save that takes any model: {type(error).__name__}")
        fresh = blank(project)
        before = bits(fresh[0].get_parameter(last))
        if complains(project, path, fresh):
            return
    same = bits(fresh[0].get_parameter(last)) == before
    what = "was left as it was" if same else "got a value from somewhere"
    broken(f"a checkpoint without {last} was loaded without an error: {last} {what}")


def complains(project: Project, path: Path, fresh: tuple[nn.Module, Any]) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call(project.load, *fresh, path)
        except NotCheckedError:
            raise
        except Exception:  # any way to refuse is fine
            return True
    parts = as_parts(result)
    if any(isinstance(part, nn.Module) and part is not fresh[0] for part in parts):
        not_checked("needs a load into the model that it is given")
    # The result of load_state_dict is a tuple itself.
    return bool(caught) or any(getattr(part, "missing_keys", None) for part in (*parts, result))


@law(
    claim="checkpoints.state-dict-is-not-a-copy",
    concept="state_dict kept by reference",
    why="state_dict() returns the model's own tensors: training overwrites the best weights",
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
    """Check that snapshot, save and fit return copies, and that fit does not load live weights."""
    results: dict[str, tuple[nn.Module, Any]] = {}
    for name in ("snapshot", "save"):
        function = getattr(project, name)
        if function is not None and (name == "snapshot" or "path" not in takes(function)):
            model = project.fresh()
            results[name] = model, function(model)
    if project.fit is not None and project.has("batch"):
        model, optimizer = project.fresh_pair()
        live: list[str] = []
        if not isinstance(model, torch.jit.ScriptModule):  # they refuse such a hook
            model.register_load_state_dict_pre_hook(lambda m, x, *_: live.extend(shared(m, x)))
        results["fit"] = model, project.train(model, optimizer, project.repeated(2))
        if live:
            broken(f"fit loaded {len(live)} of the model's own tensors into it: {names(live)}")
    if not results:
        not_checked("needs snapshot, or fit and batch")
    for name, (model, kept) in results.items():
        if not isinstance(kept, nn.Module) and (live := shared(model, kept)):
            broken(
                f"{len(live)} tensors that {name} returned share memory with the model: "
                f"{names(live)}; the next step changes them"
            )


def shared(model: nn.Module, kept: Any) -> list[str]:
    """Return the parameters and buffers whose memory the tensors of a structure have."""
    own = {memory(x): name for name, x in state(model).items() if x.numel()}
    return [own[memory(x)] for x in tensors(kept).values() if x.numel() and memory(x) in own]
