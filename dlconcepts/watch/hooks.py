"""Everything that makes PyTorch report to a trace; all of it is undone on exit.

Forward passes and optimizer steps have public hooks. What has none is replaced by a function that
reports and calls the original: losses, softmax and dropout, backward, clipping, schedules, modes,
state dicts, files and loaders. Nothing here touches a value, a gradient or a random state.

A function `around_KIND` runs to its `yield` before such a call, which gives it the result; it may
yield other arguments for the call. A call inside another of its kind is not reported.
"""

import functools
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_forward_hooks_with_kwargs,
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

from dlconcepts.checks.trees import tensors
from dlconcepts.watch.places import NOWHERE, OURS, here, is_user_file, maker, place_of, user_frames
from dlconcepts.watch.trace import AWAKE, EVERY, KEPT, TWO, Forward, Mark, Trace, size

# Losses whose inputs a law judges.
LOSSES = (
    *("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
)
SOFTMAX = ("softmax", "log_softmax")
CLIPPING = ("clip_grad_norm_", "clip_grad_value_")
UNSCRIPTED = (*LOSSES, *SOFTMAX, "dropout")
RESTING = {"loss", "clip", "clear"}  # kinds that are not reported in steps that are skipped
Around = Generator[tuple[Any, Any] | None, Any, None]
MODULE_CODE = str(Path("torch", "nn", "modules", "module.py"))
MARKED = 8  # outputs of a forward pass; more of them are rarely all of the graph


class Running(threading.local):
    """What a thread is in the middle of."""

    def __init__(self) -> None:
        self.stack: list[nn.Module] = []
        self.forward: Forward | None = None
        self.kinds: set[str] = set()  # of calls that are reported
        self.direct: Any = None  # of a forward that was called as a method


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
            # remove() forgets a hook, but not that it took keyword arguments.
            self.undo.append(
                functools.partial(_global_forward_hooks_with_kwargs.pop, handle.id, None)
            )
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

    def rests(self) -> bool:
        """Return whether this step is skipped: of many training steps only some are watched."""
        return self.trace.rests and torch.is_grad_enabled()

    def tell(self, event: str, *arguments: Any) -> None:
        with torch._C.DisableTorchFunction():
            self.trace.tell(event, *arguments)

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
            # Inside backward, a checkpoint is run again.
            if not is_routine and "backward" not in local.kinds:
                with torch._C.DisableTorchFunction():
                    local.forward = self.begin(module, args, caller)
                    if local.forward is not None:
                        local.forward.key = key

    def note_layer(self, forward: Forward, module: nn.Module, args: Any) -> None:
        if forward.inner is None and module._parameters and args:
            forward.inner = args[0]
        if id(module) not in forward.called:
            forward.called[id(module)] = here()
            if not self.holds(forward.owner, module):
                self.trace.tell("stranger", module, forward, here())

    def holds(self, owner: nn.Module, module: nn.Module) -> bool:
        if id(module) not in self.parts.get(owner, ()):  # a layer may be added at any time
            self.parts[owner] = {id(part) for part in owner.modules()}
        return id(module) in self.parts[owner]

    def begin(self, module: nn.Module, args: Any, caller: FrameType | None) -> Forward | None:
        owner = self.owner_in(caller, module)
        if owner is None and next(module.parameters(), None) is None:
            return None  # a loss, or an activation that is used as a function
        frames = list(user_frames(sys._getframe(1)))
        direct = None
        if owner is not None and caller is not None and caller.f_code.co_name == "forward":
            # Somebody called model.forward(x), which runs no hooks of the model itself.
            known = self.local.direct
            if known and known[:2] == (id(caller), id(owner)) and known[2] != id(module):
                return cast(Forward, known[3])
            direct, module = (id(caller), id(owner), id(module)), owner
            names = caller.f_code.co_varnames[1 : caller.f_code.co_argcount]
            args = tuple(caller.f_locals.get(name) for name in names)
            frames = list(user_frames(caller.f_back))
        lines = [place_of(frame) for frame in frames[:4]] or [NOWHERE]
        names = tuple(f.f_code.co_name for f in frames[:8] if f.f_code.co_name != "forward")
        owner, kept = owner or module, args if size(args) <= KEPT else ()
        modes = torch.is_grad_enabled(), owner.training
        callers = tuple(lines[1:])
        forward = Forward(module, owner, lines[0], names, callers, *modes, self.trace.loader, kept)
        forward.versions = versions(kept)
        if direct:
            self.local.direct = (*direct, forward)
        return forward

    def owner_in(self, caller: FrameType | None, module: nn.Module) -> nn.Module | None:
        """Return the module whose method called a module that it holds."""
        if caller is None or caller.f_code.co_varnames[:1] != ("self",):
            return None
        owner: Any = caller.f_locals.get("self")
        is_other = isinstance(owner, nn.Module) and owner is not module
        return owner if is_other and self.holds(owner, module) else None

    def after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        stack = self.local.stack
        if not any(running is module for running in reversed(stack)):
            return  # watching began inside its forward, or rests
        while stack.pop() is not module:
            pass
        forward = self.local.forward
        if stack or forward is None or output is None or "backward" in self.local.kinds:
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
        found = [(path, x.grad_fn) for path, x in tensors(output).items() if x.grad_fn is not None]
        for path, node in found[:MARKED]:
            mark = Mark(self.trace, forward)
            node.register_prehook(mark.walk)
            forward.marks.add(mark)
            self.trace.marks.add(mark)
            forward.paths[path] = weakref.ref(mark)

    def end(self, forward: Forward, output: Any) -> None:
        trace = self.trace
        forward.writes = forward.versions != versions(forward.args)
        site = trace.site(forward)
        if forward.loader and len(site.loaders) < 8:
            site.loaders.add(forward.loader)
        trace.settle()
        trace.pending.append(forward)
        for old in list(trace.pending)[1:-2]:  # three batches at most are kept alive
            if not old.walked:
                old.forget()
        trace.tell("forward", forward, output)
        if not forward.marks:
            trace.unused(forward)

    # Optimizer steps.

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling() or self.is_off:
            return
        with torch._C.DisableTorchFunction():
            held = self.trace.held(optimizer, here())
            held.place_of_step = here()
            held.has_closure = bool(args[1:] or kwargs)  # the first is the optimizer
            held.rates = [*held.rates[:1], *rates(optimizer)[:1]]
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
            if trace.last is not None:
                trace.tell("trained", trace.last, held)
                self.routine.add(trace.last.key)
            held.new = trace.fresh = 0
            trace.rests = trace.steps > AWAKE and trace.steps % EVERY >= TWO
            trace.close = held.steps < 4 or held.steps & (held.steps - 1) == 0

    # What has no public hook.

    def replace_all(self) -> None:
        schedules = [
            kind
            for kind in vars(lr_scheduler).values()
            if isinstance(kind, type) and "step" in vars(kind)
            if "Scheduler" in "".join(base.__name__ for base in kind.__mro__)
        ]
        clips = sys.modules["torch.nn.utils.clip_grad"]
        # The iterator's class is the only place where each batch passes.
        iterator = dataloader._BaseDataLoaderIter
        table: tuple[tuple[Any, ...], ...] = (
            (self.around_loss, LOSSES, F),
            (self.around_softmax, SOFTMAX, F, torch, Tensor),
            (self.around_dropout, ("dropout",), F),
            (self.around_backward, ("backward", "grad"), torch.autograd),
            (self.around_clip, CLIPPING, nn.utils, clips),
            (self.around_schedule, ("step",), *schedules),
            (self.around_train, ("train",), nn.Module),
            (self.around_state, ("state_dict",), nn.Module),
            (self.around_load, ("load_state_dict",), nn.Module, Optimizer),
            (self.around_clear, ("zero_grad",), nn.Module, Optimizer),
            (self.around_file, ("save", "load"), torch),
            (self.around_scale, ("scale", "unscale_"), torch.amp.GradScaler),
            (self.around_init, ("__init__",), DataLoader, Optimizer),
            (self.around_iter, ("__iter__",), DataLoader),
            (self.around_next, ("__next__",), iterator),
            (self.around_warning, ("showwarning",), warnings),
            # TorchScript reads the source of functions, and cannot compile ours.
            (self.around_script, ("script",), torch.jit),
        )
        for around, names, *holders in table:
            for holder in holders:
                for name in names:
                    self.replace(holder, name, around)

    def replace(self, holder: Any, name: str, around: Callable[..., Around]) -> None:
        """Replace a function by one that reports to `around(function, arguments)`."""
        function = getattr(holder, name, None)
        if function is None:
            return
        own, kind = name in vars(holder), around.__name__.partition("_")[2]

        @functools.wraps(function)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            kinds = self.local.kinds
            if torch.compiler.is_compiling() or kind in kinds or self.is_off:
                return function(*args, **kwargs)
            if kind in RESTING and self.rests():
                return function(*args, **kwargs)
            kinds.add(kind)
            call = around(function, args, kwargs)
            try:
                args, kwargs = next(call) or (args, kwargs)
                result = function(*args, **kwargs)
                with suppress(StopIteration):
                    call.send(result)
                return result
            finally:
                kinds.discard(kind)
                call.close()

        replacement._dlconcepts_original = function  # type: ignore[attr-defined]
        setattr(holder, name, replacement)
        restore = functools.partial(setattr, holder, name, function)
        self.undo.append(restore if own else functools.partial(delattr, holder, name))
        # A module that was imported before may hold the function by name.
        files = [(m, str(getattr(m, "__file__", None) or OURS)) for m in sys.modules.values()]
        for module in [module for module, file in files if is_user_file(file)]:
            for key, value in list(vars(module).items()):
                if value is function:
                    setattr(module, key, replacement)
                    self.undo.append(functools.partial(setattr, module, key, function))

    def around_loss(self, function: Any, args: Any, kwargs: Any) -> Around:
        result = yield None
        named = dict(zip(("input", "target", "weight"), args, strict=False)) | kwargs
        if all(isinstance(x, Tensor) for x in (result, named.get("input"), named.get("target"))):
            self.tell("loss", function.__name__, named, result, here())

    def around_softmax(self, function: Any, args: Any, kwargs: Any) -> Around:
        code = getattr(function, "__code__", None)
        if code and "_stacklevel" in code.co_varnames:  # a warning names the caller's line
            kwargs = kwargs | {"_stacklevel": kwargs.get("_stacklevel", 3) + 1}
        result = yield args, kwargs
        if self.trace.close and isinstance(result, Tensor):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            inside = bool(self.local.stack)
            self.tell("softmax", function.__name__, args[:1], dim, result, inside, here())

    def around_dropout(self, function: Any, args: Any, kwargs: Any) -> Around:
        stack = self.local.stack
        if not (len(args) > 2 or "training" in kwargs) and stack and not stack[-1].training:
            self.tell("dropout", stack[-1], self.local.forward, here())
        yield None

    def around_backward(self, function: Any, args: Any, kwargs: Any) -> Around:
        losses = kwargs.get("tensors", args[0] if args else None)
        loss = losses if isinstance(losses, Tensor) else next(iter(losses or ()), None)
        is_grad = function.__name__ == "grad"
        self.trace.backwards += not is_grad
        if is_grad or self.trace.rests or not isinstance(loss, Tensor):
            yield None
            return
        place = here()
        for held in self.trace.holders():
            held.before_backward(close=self.trace.close)
        self.tell("backward_begins", loss, place)
        yield None
        for held in self.trace.holders():
            held.after_backward(place)
        self.trace.fresh, self.trace.backward = self.trace.fresh + 1, place
        self.tell("backward_ends", loss, place)

    def around_clip(self, function: Any, args: Any, kwargs: Any) -> Around:
        parameters = args[0] if args else kwargs.get("parameters", ())
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        given = {"parameters": parameters}
        limits = [kwargs[k] for k in ("max_norm", "clip_value") if k in kwargs]
        self.tell("clips", parameters, [*limits, *args[1:2], None][0], here())
        # They may have been an iterator.
        yield ((parameters, *args[1:]), kwargs) if args else ((), {**kwargs, **given})

    def around_schedule(self, function: Any, args: Any, kwargs: Any) -> Around:
        caller = sys._getframe(2).f_code.co_name
        optimizer = getattr(args[0], "optimizer", None)
        before = rates(optimizer)
        yield None
        if optimizer is not None:
            event = "schedule_built" if caller in ("_initial_step", "__init__") else "scheduled"
            self.tell(event, args[0], self.trace.held(optimizer), before, here())

    def around_train(self, function: Any, args: Any, kwargs: Any) -> Around:
        model = yield None
        if isinstance(model, nn.Module):
            mode = bool(kwargs.get("mode", args[1] if len(args) > 1 else True))
            self.trace.modes.setdefault(model, {})[mode] = here()

    def around_state(self, function: Any, args: Any, kwargs: Any) -> Around:
        state = yield None
        if "load" not in self.local.kinds:
            self.tell("state_taken", args[0], state, here())

    def around_load(self, function: Any, args: Any, kwargs: Any) -> Around:
        state = kwargs.get("state_dict", args[1] if len(args) > 1 else None)
        self.tell("state_loads", args[0], state, here())
        yield None
        if isinstance(args[0], nn.Module):
            self.trace.loaded.add(args[0])
        self.tell("state_loaded", args[0], state, here())

    def around_clear(self, function: Any, args: Any, kwargs: Any) -> Around:
        self.tell("clears", args[0], here())
        yield None

    def around_file(self, function: Any, args: Any, kwargs: Any) -> Around:
        if function.__name__ == "save":
            self.tell("saves", kwargs.get("obj", args[0] if args else None), maker())
        result = yield None
        if function.__name__ == "load":
            self.tell("read", result, here())

    def around_scale(self, function: Any, args: Any, kwargs: Any) -> Around:
        yield None
        if args[0].is_enabled():
            self.tell("scaled", args[0].get_scale() if function.__name__ == "scale" else 1.0)

    def around_init(self, function: Any, args: Any, kwargs: Any) -> Around:
        yield None
        if isinstance(args[0], Optimizer):
            self.trace.held(args[0], here())
        else:
            self.trace.built[id(args[0])] = here()

    def around_iter(self, function: Any, args: Any, kwargs: Any) -> Around:
        iterator = yield None
        loader, trace = args[0], self.trace
        key = id(loader)
        if key not in trace.loaders or trace.loaders[key]() is not loader:
            trace.loaders[key], trace.passes[key] = weakref.ref(loader), 0
        trace.passes[key] += 1
        with suppress(AttributeError):  # an iterator may have slots
            iterator._dlconcepts_loader = key
        self.tell("epoch", loader, here())

    def around_next(self, function: Any, args: Any, kwargs: Any) -> Around:
        key = getattr(args[0], "_dlconcepts_loader", 0)
        try:
            batch = yield None
        except GeneratorExit:  # StopIteration, or an error
            if key and getattr(args[0], "_dlconcepts_ended", False):
                self.tell("read_twice", self.trace.loaders[key](), here())
            args[0]._dlconcepts_ended = True
            self.trace.loader = 0
            raise
        if key:
            self.trace.loader = key
            self.tell("batch", self.trace.loaders[key](), batch)

    def around_warning(self, function: Any, args: Any, kwargs: Any) -> Around:
        """Show a warning at the user's line, where it would be without our functions between."""
        if args[2:] and args[2] == __file__:
            args = (*args[:2], *here(), *args[4:5])
        yield args, kwargs

    def around_script(self, function: Any, args: Any, kwargs: Any) -> Around:
        found = [(h, n, vars(h).get(n)) for h in (F, torch, Tensor) for n in UNSCRIPTED]
        ours: list[Any] = [row for row in found if hasattr(row[2], "_dlconcepts_original")]
        for holder, name, function in ours:
            setattr(holder, name, function._dlconcepts_original)
        try:
            yield None
        finally:
            for holder, name, function in ours:
                setattr(holder, name, function)


def rates(optimizer: Any) -> list[float]:
    return [float(group.get("lr", 0)) for group in getattr(optimizer, "param_groups", ())]


def versions(args: Any) -> tuple[int, ...]:
    """Return how often each argument was written to, of those that count it."""
    return tuple(x._version for x in args if isinstance(x, Tensor) and not x.is_inference())


def caller_of_module() -> FrameType | None:
    """Return the frame that called a module, beyond PyTorch's own frames around `forward`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.endswith((MODULE_CODE, __file__)):
        frame = frame.f_back
    return frame


FOLLOWED: list[Hooks] = []


def stop_in_child() -> None:
    for hooks in FOLLOWED:
        hooks.trace.quiet += 1


if hasattr(os, "register_at_fork"):  # a worker process has nothing to report to
    os.register_at_fork(after_in_child=stop_in_child)
