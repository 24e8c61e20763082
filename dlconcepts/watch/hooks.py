"""Everything that makes PyTorch report to a trace; all of it is undone on exit.

Forward passes and optimizer steps have public hooks. What has none is replaced by a function that
reports and calls the original: losses, softmax and dropout, backward, clipping, schedules, modes,
state dicts, files and loaders. Nothing here touches a value, a gradient or a random state.
"""

import functools
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data import DataLoader, dataloader

from dlconcepts.watch.places import Place, here, is_user_file, maker, user_frames
from dlconcepts.watch.trace import AWAKE, EVERY, KEPT, TWO, Forward, Mark, Trace, size

# Losses whose inputs a law judges.
LOSSES = (
    *("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
)
SOFTMAX = ("softmax", "log_softmax")
MODULE_CODE = str(Path("torch", "nn", "modules", "module.py"))
MARKED = 8  # outputs of a forward pass; more of them are rarely all of the graph


def original(function: Any) -> Any:
    """Return what a replaced function replaced."""
    return getattr(function, "_dlconcepts_original", function)


class Running(threading.local):
    """What a thread is in the middle of."""

    def __init__(self) -> None:
        self.stack: list[nn.Module] = []
        self.forward: Forward | None = None


class Hooks:
    """Report a run to a trace, from `__enter__` to `__exit__`."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.local = Running()
        self.undo: list[Callable[[], object]] = []
        self.calls: dict[Any, int] = {}  # of models, by the line
        self.routine: set[Any] = set()  # lines of forward passes that train
        self.parts: weakref.WeakKeyDictionary[nn.Module, set[int]] = weakref.WeakKeyDictionary()

    def __enter__(self) -> "Hooks":
        for handle in (
            register_module_forward_pre_hook(self.before_forward),
            # always_call: the stack of running modules must survive an exception.
            register_module_forward_hook(self.after_forward, with_kwargs=True, always_call=True),
            register_optimizer_step_pre_hook(self.before_step),
            register_optimizer_step_post_hook(self.after_step),
        ):
            self.undo.append(handle.remove)
        self.replace_all()
        FOLLOWED.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        FOLLOWED.remove(self)
        for undo in reversed(self.undo):
            undo()
        self.undo.clear()

    @property
    def is_off(self) -> bool:
        return bool(
            self.trace.quiet
            or torch._C._get_tracing_state() is not None  # TorchScript records a call
            or torch._C._len_torch_dispatch_stack()  # a mode of the user would see our operations
            or torch._C._functorch.peek_interpreter_stack() is not None  # vmap, grad, ...
        )

    def depth(self, name: str, change: int = 0) -> int:
        """Return, after a change, how many calls of a kind this thread is in."""
        depth = getattr(self.local, name, 0) + change
        setattr(self.local, name, depth)
        return depth

    # Forward passes.

    def before_forward(self, module: nn.Module, args: Any) -> None:
        # First, since torch.compile traces hooks: this is then all that it sees.
        if torch.compiler.is_compiling():
            return
        local = self.local
        if local.stack:
            local.stack.append(module)
            forward = local.forward
            if forward is not None and (self.trace.close or not forward.training):
                with torch._C.DisableTorchFunction():
                    self.note_layer(forward, module, args)
        elif not self.is_off:
            local.stack.append(module)
            local.forward = None
            caller = caller_of_module()
            key = None if caller is None else (caller.f_code, caller.f_lineno)
            calls = self.calls[key] = self.calls.get(key, 0) + 1
            is_routine = calls > AWAKE and calls % EVERY >= TWO
            is_routine = is_routine or (self.rests() and key in self.routine)
            if not is_routine and not self.depth("backward"):  # else a checkpoint is run again
                with torch._C.DisableTorchFunction():
                    local.forward = self.begin(module, args, caller)
                    if local.forward is not None:
                        local.forward.key = key

    def rests(self) -> bool:
        """Return whether this step is skipped: of many training steps only some are watched."""
        return self.trace.rests and torch.is_grad_enabled()

    def note_layer(self, forward: Forward, module: nn.Module, args: Any) -> None:
        if forward.inner is None and module._parameters and args:
            forward.inner = args[0]  # what the first layer with weights is given
        if id(module) not in forward.called:
            forward.called[id(module)] = here()
            if not self.holds(forward.owner, module):
                self.trace.tell("stranger", module, forward, here())

    def holds(self, owner: nn.Module, module: nn.Module) -> bool:
        if owner is module:
            return True
        known = self.parts.get(owner, ())
        if id(module) not in known:  # a layer may be added at any time
            known = self.parts[owner] = {id(part) for part in owner.modules()}
        return id(module) in known

    def begin(self, module: nn.Module, args: Any, caller: FrameType | None) -> Forward | None:
        owner = self.owner_in(caller, module)
        if owner is None and next(module.parameters(), None) is None:
            return None  # a loss, or an activation that is used as a function
        frames = list(user_frames(sys._getframe(1)))
        if owner is not None and caller is not None and caller.f_code.co_name == "forward":
            # Somebody called model.forward(x), which runs no hooks of the model itself.
            running = getattr(self.local, "direct", None)
            if running and running[:2] == (id(caller), id(owner)) and running[2] != id(module):
                direct: Forward = running[3]
                return direct
            frames = list(user_frames(caller.f_back))
            code = caller.f_code
            names = code.co_varnames[1 : code.co_argcount]
            values = tuple(caller.f_locals.get(name) for name in names)
            forward = self.forward(owner, owner, frames, values)
            self.local.direct = (id(caller), id(owner), id(module), forward)
            return forward
        return self.forward(module, owner or module, frames, args)

    def forward(
        self, module: nn.Module, owner: nn.Module, frames: list[FrameType], args: Any
    ) -> Forward:
        place = Place(frames[0].f_code.co_filename, frames[0].f_lineno) if frames else Place("", 0)
        names = tuple(f.f_code.co_name for f in frames[:8] if f.f_code.co_name != "forward")
        lines = tuple(Place(f.f_code.co_filename, f.f_lineno) for f in frames[1:4])
        kept = args if size(args) <= KEPT else ()
        grad, loader = torch.is_grad_enabled(), self.trace.loader
        forward = Forward(module, owner, place, names, lines, grad, owner.training, loader, kept)
        forward.versions = versions(kept)
        return forward

    def owner_in(self, caller: FrameType | None, module: nn.Module) -> nn.Module | None:
        """Return the module whose method called a module that it holds."""
        if caller is None or caller.f_code.co_varnames[:1] != ("self",):
            return None
        owner = caller.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner is not module and self.holds(owner, module):
            return owner
        return None

    def after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        stack = self.local.stack
        if not any(running is module for running in reversed(stack)):
            return  # watching began inside its forward, or rests
        while stack.pop() is not module:
            pass
        forward = self.local.forward
        if stack or forward is None or output is None or self.depth("backward"):
            return
        with torch._C.DisableTorchFunction():
            if kwargs and forward.module is module:
                forward.kwargs = kwargs if size(kwargs) <= KEPT else {}
            self.mark(forward, output)
            if not forward.ended:  # the first of the layers, if forward was called directly
                forward.ended = True
                self.end(forward, output)

    def mark(self, forward: Forward, output: Any) -> None:
        """Attach marks to the graph of an output; they live, and are walked, with it."""
        trace = self.trace
        for path, tensor in outputs_of(output)[:MARKED]:
            node = tensor.grad_fn
            if node is not None:
                mark = Mark(trace, forward)
                node.register_prehook(mark.walk)
                forward.marks.add(mark)
                trace.marks.add(mark)
                forward.paths[path] = weakref.ref(mark)

    def end(self, forward: Forward, output: Any) -> None:
        trace = self.trace
        forward.writes = forward.versions != versions(forward.args)
        site = trace.site(forward)
        site.calls += 1
        if not forward.training and site.calls <= 2:
            forward.norms = tuple(
                name
                for name, part in forward.owner.named_modules()
                if part.training
                and isinstance(part, nn.modules.batchnorm._BatchNorm)
                and part.track_running_stats
            )
        if forward.loader and len(site.loaders) < 8:
            site.loaders.add(forward.loader)
        trace.settle()
        trace.pending.append(forward)
        for old in list(trace.pending)[1:-2]:  # three batches at most are kept alive
            if not old.walked:
                old.args, old.kwargs = (), {}
        trace.tell("forward", forward, output)
        if not forward.marks:
            trace.tell("unused", forward)

    # Optimizer steps.

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling() or self.is_off:
            return
        with torch._C.DisableTorchFunction():
            held = self.trace.held(optimizer, here())
            held.place_of_step = here()
            held.has_closure = bool(args[1:] or kwargs)  # the first is the optimizer
            held.rates = [*held.rates[:1], *self.rates(optimizer)[:1]]
            self.trace.tell("step_begins", held)

    def after_step(self, optimizer: Any, *_: Any) -> None:
        if torch.compiler.is_compiling() or self.is_off:
            return
        with torch._C.DisableTorchFunction():
            trace = self.trace
            held = trace.held(optimizer)
            held.steps += 1
            trace.steps += 1
            if trace.close and trace.last is not None:
                trace.trains(trace.last.owner)  # later the optimizer may be gone
            trace.settle()
            trace.tell("step_ends", held)
            held.new = 0
            n = held.steps
            if trace.last is not None:
                self.routine.add(trace.last.key)
            trace.rests = trace.steps > AWAKE and trace.steps % EVERY >= TWO
            trace.close = n < 4 or n & (n - 1) == 0

    # What has no public hook.

    def replace_all(self) -> None:
        for name in LOSSES:
            self.replace(F, name, self.around_loss)
        for name in SOFTMAX:
            for holder in (F, torch, Tensor):
                self.replace(holder, name, self.around_softmax)
        self.replace(F, "dropout", self.around_dropout)
        self.replace(torch.autograd, "backward", self.around_backward)
        self.replace(torch.autograd, "grad", self.around_grad)
        for holder in (nn.utils, sys.modules["torch.nn.utils.clip_grad"]):
            for name in ("clip_grad_norm_", "clip_grad_value_"):
                self.replace(holder, name, self.around_clip)
        classes = [c for c in vars(lr_scheduler).values() if isinstance(c, type)]
        for kind in classes:
            if "step" in vars(kind) and "Scheduler" in "".join(k.__name__ for k in kind.__mro__):
                self.replace(kind, "step", self.around_schedule)
        self.replace(Optimizer, "__init__", self.around_optimizer)
        self.replace(nn.Module, "train", self.around_train)
        self.replace(nn.Module, "state_dict", self.around_state_dict)
        self.replace(nn.Module, "load_state_dict", self.around_load)
        self.replace(Optimizer, "load_state_dict", self.around_load)
        self.replace(nn.Module, "zero_grad", self.around_zero_grad)
        self.replace(Optimizer, "zero_grad", self.around_zero_grad)
        self.replace(torch, "save", self.around_save)
        self.replace(torch, "load", self.around_read)
        self.replace(torch.amp.GradScaler, "scale", self.around_scale)
        self.replace(torch.amp.GradScaler, "unscale_", self.around_scale)
        self.replace(DataLoader, "__init__", self.around_loader)
        self.replace(DataLoader, "__iter__", self.around_iter)
        # The iterator's class is the only place where each batch passes.
        self.replace(dataloader._BaseDataLoaderIter, "__next__", self.around_next)
        self.replace(warnings, "showwarning", self.around_warning)
        # TorchScript reads the source of functions, and cannot compile ours.
        self.replace(torch.jit, "script", self.around_script)

    def replace(self, holder: Any, name: str, around: Callable[..., Any]) -> None:
        """Replace a function by one that calls `around(function, event, arguments)`."""
        function = getattr(holder, name, None)
        if function is None:
            return
        own = name in vars(holder)

        @functools.wraps(function)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or self.is_off:
                return function(*args, **kwargs)
            return around(function, args, kwargs)

        replacement._dlconcepts_original = function  # type: ignore[attr-defined]
        setattr(holder, name, replacement)
        restore = functools.partial(setattr, holder, name, function)
        self.undo.append(restore if own else functools.partial(delattr, holder, name))
        # A module that was imported before may hold the function by name.
        for module in [m for m in sys.modules.values() if is_user_file(file_of(m))]:
            for key, value in list(vars(module).items()):
                if value is function:
                    setattr(module, key, replacement)
                    self.undo.append(functools.partial(setattr, module, key, function))

    @contextmanager
    def inside(self, name: str) -> Iterator[bool]:
        """Yield whether this is the outermost call of a kind."""
        outermost = self.depth(name, 1) == 1
        try:
            yield outermost
        finally:
            self.depth(name, -1)

    def tell(self, event: str, *arguments: Any) -> None:
        with torch._C.DisableTorchFunction():
            self.trace.tell(event, *arguments)

    def around_loss(self, function: Any, args: Any, kwargs: Any) -> Any:
        if self.rests():
            return function(*args, **kwargs)
        with self.inside("loss") as outermost:
            result = function(*args, **kwargs)
        if outermost and isinstance(result, Tensor):
            named = dict(zip(("input", "target", "weight"), args, strict=False)) | kwargs
            if isinstance(named.get("input"), Tensor) and isinstance(named.get("target"), Tensor):
                self.tell("loss", function.__name__, named, result, here())
        return result

    def around_softmax(self, function: Any, args: Any, kwargs: Any) -> Any:
        code = getattr(function, "__code__", None)
        if code and "_stacklevel" in code.co_varnames:  # a warning names the caller's line
            kwargs = kwargs | {"_stacklevel": kwargs.get("_stacklevel", 3) + 2}
        with self.inside("softmax") as outermost:
            result = function(*args, **kwargs)
        if outermost and self.trace.close and isinstance(result, Tensor):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            running = self.local.stack
            self.tell("softmax", function.__name__, args[:1], dim, result, bool(running), here())
        return result

    def around_dropout(self, function: Any, args: Any, kwargs: Any) -> Any:
        given = len(args) > 2 or "training" in kwargs
        stack = self.local.stack
        if not given and stack and not stack[-1].training:
            self.tell("dropout", stack[-1], self.local.forward, here())
        return function(*args, **kwargs)

    def around_backward(self, function: Any, args: Any, kwargs: Any) -> Any:
        losses = kwargs.get("tensors", args[0] if args else None)
        loss = losses if isinstance(losses, Tensor) else next(iter(losses or ()), None)
        with self.inside("backward") as outermost:
            self.trace.backwards += outermost
            outermost = outermost and not self.trace.rests
            if outermost and isinstance(loss, Tensor):
                place = here()
                for held in self.trace.holders():
                    held.before = held.signature()
                self.tell("backward_begins", loss, place)
            result = function(*args, **kwargs)
        if outermost and isinstance(loss, Tensor):
            for held in self.trace.holders():
                reached = held.signature() != held.before
                held.new, held.reached = held.new + reached, held.reached + reached
            self.tell("backward_ends", loss, place)
        return result

    def around_grad(self, function: Any, args: Any, kwargs: Any) -> Any:
        with self.inside("backward"):
            return function(*args, **kwargs)

    def around_clip(self, function: Any, args: Any, kwargs: Any) -> Any:
        if self.trace.rests:
            return function(*args, **kwargs)
        with self.inside("clip") as outermost:
            parameters = kwargs.get("parameters", args[0] if args else ())
            if not isinstance(parameters, Tensor):
                parameters = list(parameters)
                args = (parameters, *args[1:]) if args else args
                kwargs = kwargs if args else kwargs | {"parameters": parameters}
            if outermost:
                limit = next(
                    (v for k, v in kwargs.items() if k in ("max_norm", "clip_value")), None
                )
                limit = args[1] if limit is None and len(args) > 1 else limit
                some = [parameters] if isinstance(parameters, Tensor) else parameters
                self.tell("clips", some, limit, here())
            return function(*args, **kwargs)

    def around_schedule(self, function: Any, args: Any, kwargs: Any) -> Any:
        building = sys._getframe(2).f_code.co_name in ("_initial_step", "__init__")
        optimizer = getattr(args[0], "optimizer", None)
        rates = self.rates(optimizer)
        with self.inside("schedule") as outermost:
            result = function(*args, **kwargs)
        if outermost and optimizer is not None:
            event = "schedule_built" if building else "scheduled"
            self.tell(event, args[0], self.trace.held(optimizer), rates, here())
        return result

    def rates(self, optimizer: Any) -> list[float]:
        return [float(group.get("lr", 0)) for group in getattr(optimizer, "param_groups", ())]

    def around_optimizer(self, function: Any, args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        self.trace.held(args[0], here())
        return result

    def around_train(self, function: Any, args: Any, kwargs: Any) -> Any:
        with self.inside("train") as outermost:
            result = function(*args, **kwargs)
        if outermost and isinstance(result, nn.Module):
            mode = bool(kwargs.get("mode", args[1] if len(args) > 1 else True))
            self.trace.modes.setdefault(result, {})[mode] = here()
        return result

    def around_state_dict(self, function: Any, args: Any, kwargs: Any) -> Any:
        with self.inside("state") as outermost:
            result = function(*args, **kwargs)
        if outermost and not self.depth("loading"):
            self.tell("state_taken", args[0], result, here())
        return result

    def around_load(self, function: Any, args: Any, kwargs: Any) -> Any:
        state = kwargs.get("state_dict", args[1] if len(args) > 1 else None)
        with self.inside("loading") as outermost:
            if outermost:
                self.tell("state_loads", args[0], state, here())
            result = function(*args, **kwargs)
        if outermost:
            if isinstance(args[0], nn.Module):
                self.trace.loaded.add(args[0])
            self.tell("state_loaded", args[0], state, result, here())
        return result

    def around_zero_grad(self, function: Any, args: Any, kwargs: Any) -> Any:
        if self.trace.rests:
            return function(*args, **kwargs)
        with self.inside("zero") as outermost:
            if outermost:
                self.tell("clears", args[0], here())
            return function(*args, **kwargs)

    def around_save(self, function: Any, args: Any, kwargs: Any) -> Any:
        with self.inside("save") as outermost:
            if outermost:
                self.tell("saves", kwargs.get("obj", args[0] if args else None), maker())
            return function(*args, **kwargs)

    def around_read(self, function: Any, args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        self.tell("read", result, here())
        return result

    def around_iter(self, function: Any, args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        loader, trace = args[0], self.trace
        key = id(loader)
        if key not in trace.loaders or trace.loaders[key]() is not loader:
            trace.loaders[key], trace.passes[key] = weakref.ref(loader), 0
        trace.passes[key] += 1
        with suppress(AttributeError):  # an iterator may have slots
            result._dlconcepts_loader = key
        self.tell("epoch", loader, here())
        return result

    def around_scale(self, function: Any, args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if args[0].is_enabled():
            factor = args[0].get_scale() if function.__name__ == "scale" else 1.0
            self.tell("scaled", factor)
        return result

    def around_loader(self, function: Any, args: Any, kwargs: Any) -> Any:
        function(*args, **kwargs)
        self.trace.built[id(args[0])] = here()

    def around_next(self, function: Any, args: Any, kwargs: Any) -> Any:
        key = getattr(args[0], "_dlconcepts_loader", 0)
        try:
            result = function(*args, **kwargs)
        except StopIteration:
            if key and getattr(args[0], "_dlconcepts_ended", False):
                self.tell("read_twice", self.trace.loaders[key](), here())
            args[0]._dlconcepts_ended = True
            self.trace.loader = 0
            raise
        if key:
            self.trace.loader = key
            self.tell("batch", self.trace.loaders[key](), result)
        return result

    def around_warning(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Show a warning at the user's line, where it would be without our functions between."""
        if args[2:] and args[2] == __file__:
            args = (*args[:2], *here(), *args[4:5])
        return function(*args, **kwargs)

    def around_script(self, function: Any, args: Any, kwargs: Any) -> Any:
        present = [
            (holder, name, getattr(holder, name))
            for holder in (F, torch, Tensor)
            for name in (*LOSSES, *SOFTMAX, "dropout")
            if hasattr(getattr(holder, name, None), "_dlconcepts_original")
        ]
        for holder, name, replacement in present:
            setattr(holder, name, original(replacement))
        try:
            return function(*args, **kwargs)
        finally:
            for holder, name, replacement in present:
                setattr(holder, name, replacement)


def outputs_of(tree: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """Return the tensors of an output that have a graph, with their paths."""
    if isinstance(tree, Tensor):
        return [(path, tree)] if tree.grad_fn is not None else []
    if isinstance(tree, dict):
        return [found for k, v in tree.items() for found in outputs_of(v, f"{path}[{k!r}]")]
    if isinstance(tree, (tuple, list)):
        return [found for i, v in enumerate(tree) for found in outputs_of(v, f"{path}[{i}]")]
    return []


def versions(args: Any) -> tuple[int, ...]:
    """Return how often each argument was written to, of those that count it."""
    return tuple(x._version for x in args if isinstance(x, Tensor) and not x.is_inference())


def caller_of_module() -> FrameType | None:
    """Return the frame that called a module, beyond PyTorch's own frames around `forward`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.endswith((MODULE_CODE, __file__)):
        frame = frame.f_back
    return frame


def file_of(module: Any) -> str:
    name = getattr(module, "__file__", None) or "<frozen"
    return str(name)


FOLLOWED: list[Hooks] = []


def stop_in_child() -> None:
    for hooks in FOLLOWED:
        hooks.trace.quiet += 1


if hasattr(os, "register_at_fork"):  # a worker process has nothing to report to
    os.register_at_fork(after_in_child=stop_in_child)
