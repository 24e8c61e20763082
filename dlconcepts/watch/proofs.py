"""Run a forward pass again, on the live model and batch, and leave no trace of it."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.settings import settings_kept
from dlconcepts.checks.trees import copied, floats
from dlconcepts.watch.trace import Forward, Trace

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@contextlib.contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Restore the attributes, buffers and modes of all modules; run no hooks of the user."""
    # Buffers are exchanged, not written to: a graph that saved one would notice.
    parts = list(model.modules())
    saved = [dict(vars(part)) for part in parts]
    for part in parts:
        own = vars(part)
        own["_buffers"] = {
            name: None if buffer is None else buffer.detach().clone()
            for name, buffer in part._buffers.items()
        }
        for name in HOOKS:
            own[name] = type(own[name])(
                (key, hook)
                for key, hook in own[name].items()
                if (getattr(hook, "__module__", None) or type(hook).__module__).startswith("torch.")
            )
    try:
        yield
    finally:
        for part, before in zip(parts, saved, strict=True):
            vars(part).clear()
            vars(part).update(before)


def plain(module: nn.Module) -> nn.Module:
    """Return the module that torch.compile wraps."""
    found: nn.Module = getattr(module, "_orig_mod", module)
    return found


def run_again(
    trace: Trace,
    forward: Forward,
    *,
    training: bool | None = None,
    grad: bool = False,
    args: Any = None,
    kwargs: Any = None,
    seed: int | None = None,
) -> Any:
    """Return the output of a forward pass on a copy of its batch; by default in the same modes.

    Raises whatever the user's code raises.
    """
    module = plain(forward.module)
    args = forward.args if args is None else args
    kwargs = forward.kwargs if kwargs is None else kwargs
    silent = contextlib.redirect_stdout(io.StringIO())
    with trace.proving(), settings_kept(), left_alone(plain(forward.owner)), silent:
        if training is not None:
            for part in plain(forward.owner).modules():
                part.training = training
        if seed is not None:
            torch.manual_seed(seed)
        with torch.set_grad_enabled(grad), torch._C._EnableTorchFunction():
            return module.forward(*copied(args), **copied(kwargs))


def can_run(forward: Forward) -> bool:
    """Return whether the arguments of a forward pass are still there, and hold no graph."""
    found = floats([forward.args, forward.kwargs])
    return bool(forward.args or forward.kwargs) and all(x.is_leaf for x in found.values())


def first_float(output: Any) -> Tensor | None:
    return next(iter(floats(output).values()), None)


def apart(one: Any, other: Any) -> float:
    """Return the largest difference between two outputs, relative to their largest magnitude."""
    from dlconcepts.checks.trees import distance

    a, b = floats(one), floats(other)
    return max((distance(a[path], b[path]) for path in a if path in b), default=0.0)
