"""Run a forward pass again, on the live model and batch, and leave no trace of it."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from dlconcepts.checks.settings import settings_kept
from dlconcepts.checks.trees import copied, distance, floats, on_tensors
from dlconcepts.watch.places import Place
from dlconcepts.watch.trace import Forward

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@contextlib.contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Restore the attributes, buffers and modes of all modules; run no hooks of the user."""
    parts = list(model.modules())
    saved = [dict(vars(part)) for part in parts]
    # A model may collect something in its lists, or cache it.
    held = [value for own in saved for value in own.values() if type(value) in (list, set, dict)]
    contents = [value.copy() for value in held]
    for part in parts:
        # Buffers are exchanged, not written to: a graph that saved one would notice.
        buffers = {name: buffer for name, buffer in part._buffers.items() if buffer is not None}
        copies = {name: buffer.detach().clone() for name, buffer in buffers.items()}
        vars(part)["_buffers"] = {**part._buffers, **copies}
        for name in HOOKS:
            hooks = vars(part)[name]
            kept = {key: hook for key, hook in hooks.items() if is_of_torch(hook)}
            vars(part)[name] = type(hooks)(kept)
    try:
        yield
    finally:
        for part, before in zip(parts, saved, strict=True):
            vars(part).clear()
            vars(part).update(before)
        for value, before in zip(held, contents, strict=True):
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)


def is_of_torch(hook: Any) -> bool:
    return str(getattr(hook, "__module__", None) or type(hook).__module__).startswith("torch.")


def plain(module: nn.Module) -> nn.Module:
    """Return the module that torch.compile wraps."""
    found: nn.Module = getattr(module, "_orig_mod", module)
    return found


def run_again(
    forward: Forward, *, seed: int = 0, training: Any = None, grad: bool = False, args: Any = None
) -> Any:
    """Return the output of a forward pass on a copy of its batch; by default in the same modes.

    Raises whatever the user's code raises.
    """
    given, named = copied((forward.args if args is None else args, forward.kwargs))
    silent, owner = contextlib.redirect_stdout(io.StringIO()), plain(forward.owner)
    with forward.trace.proving(), settings_kept(), left_alone(owner), silent:
        for part in owner.modules() if training is not None else ():
            part.training = bool(training)
        torch.manual_seed(seed)
        with torch.set_grad_enabled(grad), torch._C._EnableTorchFunction():
            return plain(forward.module).forward(*given, **named)


def can_run(forward: Forward) -> bool:
    """Return whether the arguments of a forward pass are still there, and hold no graph."""
    found = floats([forward.args, forward.kwargs])
    return bool(forward.args or forward.kwargs) and all(x.is_leaf for x in found.values())


def influence(
    forward: Forward, change: Callable[[Tensor], Tensor], part: Callable[[Tensor], Tensor | None]
) -> tuple[float, Place]:
    """Return how far a change of inputs moves a part of the output in eval mode, and from where."""
    runs: list[tuple[Any, list[Any]]] = []
    for args in (forward.args, forward.args, on_tensors(forward.args, change)):
        calls: list[Any] = []
        with register_module_forward_hook(lambda *call, calls=calls: calls.append(call)):
            runs.append((run_again(forward, training=False, args=args), calls))
    (before, calls), (again, _), (after, others) = runs
    far = moved(before, after, part) if moved(before, again, part) == 0 else 0.0
    inside = [place for place in forward.called.values() if place.line]
    place = inside[-1] if inside else forward.place
    for (module, *one), (_, *other) in zip(calls, others, strict=False):
        if id(module) in forward.called and moved(one, other, part) > 1e-3:
            return far, forward.called[id(module)]
    return far, place


def moved(before: Any, after: Any, part: Callable[[Tensor], Any] = lambda tensor: tensor) -> float:
    """Return the largest difference in a part of two outputs, relative to their magnitude."""
    found, others = [0.0], floats(after)
    for path, x in floats(before).items():
        if path in others and others[path].shape == x.shape:
            one, other = part(x), part(others[path])
            if one is not None and other is not None and one.numel():
                found.append(distance(one, other))
    return max(found)


def differences(forward: Forward, *modes: tuple[Any, int]) -> list[float]:
    """Return how far a forward pass in some modes, with some seeds, differs from the first."""
    runs = [run_again(forward, training=mode, seed=seed) for mode, seed in modes]
    return [moved(runs[0], other) for other in runs[1:]]
