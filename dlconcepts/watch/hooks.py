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
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.utils import clip_grad
from torch.optim import Optimizer, lr_scheduler
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader, dataloader

from dlconcepts.checks.trees import tensors
from dlconcepts.watch.places import NOWHERE, here, is_user_file, maker, place_of, user_frames
from dlconcepts.watch.trace import KEPT, Forward, Mark, Trace, is_skipped, size, versions

# Losses whose inputs a law judges.
LOSSES = (
    *("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
)
CLIPPING = ("clip_grad_norm_", "clip_grad_value_")
RESTING = {"loss", "clip", "clear"}  # kinds that are not reported in steps that are skipped
Around = Generator[tuple[Any, Any] | None, Any, None]
MARKED = 8  # outputs of a forward pass; more of them are rarely all of the graph


class Running(threading.local):
    """What a thread is in the middle of."""

    def __init__(self) -> None:
        self.stack: list[nn.Module] = []
        self.forward: Forward | None = None
        self.kinds: set[str] = set()  # of calls that are reported


class Hooks:
    """Report a run to a trace, from `__enter__` to `__exit__`."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.process = os.getpid()
        self.local = Running()
        self.undo = ExitStack()
        self.calls = Counter[Any]()  # of models, by the line
        self.parts: weakref.WeakKeyDictionary[nn.Module, set[int]] = weakref.WeakKeyDictionary()

    def __enter__(self) -> "Hooks":
        for handle in (
            modules.register_module_forward_pre_hook(self.before_forward),
            # always_call: the stack of running modules must survive an exception.
            modules.register_module_forward_hook(
                self.after_forward, with_kwargs=True, always_call=True
            ),
            optimizers.register_optimizer_step_pre_hook(self.before_step),
            optimizers.register_optimizer_step_post_hook(self.after_step),
        ):
            self.undo.callback(handle.remove)
            # remove() forgets a hook, but not that it took keyword arguments.
            self.undo.callback(modules._global_forward_hooks_with_kwargs.pop, handle.id, None)
        self.replace_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.undo.close()

    @property
    def is_off(self) -> bool:
        return bool(
            torch.compiler.is_compiling()
            or self.trace.quiet
            or torch._C._get_tracing_state() is not None  # TorchScript records a call
            or torch._C._len_torch_dispatch_stack()  # a mode of the user would see our operations
            or torch._C._functorch.peek_interpreter_stack() is not None  # vmap, grad, ...
            or os.getpid() != self.process  # a worker process has nothing to report to
        )

    def rests(self) -> bool:
        """Return whether this step is skipped: of many training steps only some are watched."""
        return self.trace.rests and torch.is_grad_enabled()

    # Forward passes.

    def before_forward(self, module: nn.Module, args: Any) -> None:
        # First, since torch.compile traces hooks: this is then all that it sees.
        if torch.compiler.is_compiling():
            return
        local = self.local
        if not local.stack and self.is_off:
            return
        with torch._C.DisableTorchFunction():
            if not local.stack:
                local.forward = self.begin(module, args)
            elif local.forward and (self.trace.close or not local.forward.training):
                self.note_layer(local.forward, module, args)
        local.stack.append(module)

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

    def begin(self, module: nn.Module, args: Any) -> Forward | None:
        """Return what is known of a forward pass that begins, None if it is not to be watched."""
        caller = next(user_frames(), None)
        key = caller and place_of(caller)
        self.calls[key] += 1
        is_of_training = self.rests() and any(
            place == key for place, _ in self.trace.training_sites
        )
        # Inside backward, a checkpoint is run again.
        if is_of_training or is_skipped(self.calls[key]) or "backward" in self.local.kinds:
            return None
        # Not the locals of each caller: a frame keeps what was read, and with it the last graph.
        is_method = caller is not None and caller.f_code.co_varnames[:1] == ("self",)
        owner: Any = caller.f_locals.get("self") if caller and is_method else None
        if not isinstance(owner, nn.Module) or not self.holds(owner, module):
            owner = module
        if owner is module and next(module.parameters(), None) is None:
            return None  # a loss, or an activation that is used as a function
        first, frame, known = id(module), id(caller), self.local.forward
        if owner is not module and caller and caller.f_code.co_name == "forward":
            # Somebody called model.forward(x), which runs no hooks of the model itself.
            if known and (known.frame, known.owner) == (frame, owner) and known.first != first:
                return known
            names = caller.f_code.co_varnames[1 : caller.f_code.co_argcount]
            args = tuple(caller.f_locals.get(name) for name in names)
            module, caller = owner, caller.f_back
        frames = list(user_frames(caller))[:8]
        place, *callers = [place_of(frame) for frame in frames[:4]] or [NOWHERE]
        functions = tuple(f.f_code.co_name for f in frames if f.f_code.co_name != "forward")
        forward = Forward(self.trace, module, owner, place, functions, tuple(callers))
        forward.grad, forward.training = torch.is_grad_enabled(), owner.training
        forward.loader = self.trace.loader
        forward.args = args if size(args) <= KEPT else ()
        forward.versions, forward.frame, forward.first = versions(forward.args), frame, first
        return forward

    def after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        stack, forward = self.local.stack, self.local.forward
        if not any(running is module for running in reversed(stack)):
            return  # watching began inside its forward, or rests
        while stack.pop() is not module:
            pass
        if stack or forward is None or output is None:
            return
        with torch._C.DisableTorchFunction():
            if kwargs and forward.module is module:
                forward.kwargs = kwargs if size(kwargs) <= KEPT else {}
            nodes = {path: x.grad_fn for path, x in tensors(output).items() if x.grad_fn}
            for path, node in list(nodes.items())[:MARKED]:
                mark = Mark(forward)
                node.register_prehook(mark.walk)
                self.trace.marks.add(mark)
                forward.marks[path] = weakref.ref(mark)
            if not forward.ended:  # the first of the layers, if forward was called directly
                forward.ended = True
                self.trace.settle()
                self.trace.models.add(forward.owner)
                self.trace.pending.append(forward)
                for old in list(self.trace.pending)[1:-2]:  # at most three batches are kept alive
                    if not old.walked:
                        old.args, old.kwargs = (), {}
                if not self.rests():
                    self.trace.tell("forward", forward, output)
                if not forward.marks:
                    self.trace.unused(forward)

    # Optimizer steps.

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.is_off or self.trace.rests:
            return
        held = self.trace.held(optimizer, here())
        held.place_of_step = here()
        held.has_closure = bool(args[1:] or kwargs)  # the first is the optimizer
        self.trace.tell("step_begins", held)

    def after_step(self, optimizer: Any, *_: Any) -> None:
        if self.is_off:
            return
        trace, held = self.trace, self.trace.held(optimizer)
        held.steps += 1
        trace.steps += 1
        if not trace.rests:
            if trace.last is not None:
                trace.trains(trace.last.owner)  # later the optimizer may be gone
            trace.settle()
            trace.tell("step_ends", held)
            if trace.last is not None:
                trace.tell("trained", trace.last, held)
        held.new = trace.fresh = 0
        trace.rests = is_skipped(trace.steps)
        trace.close = held.steps < 4 or held.steps & (held.steps - 1) == 0

    # What has no public hook.

    def replace_all(self) -> None:
        found = [kind for kind in vars(lr_scheduler).values() if isinstance(kind, type)]
        schedules = [kind for kind in found if "step" in vars(kind) and kind is not Optimizer]
        # The iterator's class is the only place where each batch passes.
        iterator = dataloader._BaseDataLoaderIter
        table: tuple[tuple[Any, ...], ...] = (
            (self.around_loss, LOSSES, F),
            (self.around_softmax, ("softmax", "log_softmax"), F, torch, Tensor),
            (self.around_dropout, ("dropout",), F),
            (self.around_backward, ("backward", "grad"), torch.autograd),
            (self.around_clip, CLIPPING, nn.utils, clip_grad),
            (self.around_schedule, ("__init__", "step"), *schedules),
            (self.around_train, ("train",), nn.Module),
            (self.around_state, ("state_dict", "load_state_dict"), nn.Module),
            (self.around_state, ("load_state_dict",), Optimizer),
            (self.around_clear, ("zero_grad",), nn.Module, Optimizer),
            (self.around_file, ("save", "load"), torch),
            (self.around_scale, ("scale", "unscale_"), torch.amp.GradScaler),
            (self.around_init, ("__init__",), DataLoader, Optimizer),
            (self.around_iter, ("__iter__",), DataLoader),
            (self.around_next, ("__next__",), iterator),
            (self.around_warning, ("showwarning",), warnings),
            (self.around_script, ("script",), torch.jit),
        )
        files = [(module, getattr(module, "__file__", None)) for module in sys.modules.values()]
        users = [module for module, file in files if file and is_user_file(str(file))]
        for around, names, *holders in table:
            for holder in holders:
                for name in names:
                    self.replace(holder, name, around, users)

    def replace(self, holder: Any, name: str, around: Callable[..., Around], users: Any) -> None:
        """Replace a function by one that reports to `around(function, arguments)`."""
        function, kind = getattr(holder, name), around.__name__.partition("_")[2]

        @functools.wraps(function)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            if self.is_off or kind in self.local.kinds or (kind in RESTING and self.rests()):
                return function(*args, **kwargs)
            kinds = self.local.kinds
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

        if name in vars(holder):
            self.undo.callback(setattr, holder, name, function)
        else:
            self.undo.callback(delattr, holder, name)
        setattr(holder, name, replacement)
        # A module that was imported before may hold the function by name.
        for module in users:
            for key, value in list(vars(module).items()):
                if value is function:
                    setattr(module, key, replacement)
                    self.undo.callback(setattr, module, key, function)

    def around_loss(self, function: Any, args: Any, kwargs: Any) -> Around:
        result = yield None
        named = dict(zip(("input", "target", "weight"), args, strict=False)) | kwargs
        if all(isinstance(x, Tensor) for x in (result, named.get("input"), named.get("target"))):
            self.trace.tell("loss", function.__name__, named, result, here())

    def around_softmax(self, function: Any, args: Any, kwargs: Any) -> Around:
        code = getattr(function, "__code__", None)
        if code and "_stacklevel" in code.co_varnames:  # a warning names the caller's line
            kwargs = kwargs | {"_stacklevel": kwargs.get("_stacklevel", 3) + 1}
        result = yield args, kwargs
        if self.trace.close and isinstance(result, Tensor):
            dim, inside = argument(args, kwargs, 1, "dim"), bool(self.local.stack)
            self.trace.tell("softmax", function.__name__, args[:1], dim, result, inside, here())

    def around_dropout(self, function: Any, args: Any, kwargs: Any) -> Around:
        stack = self.local.stack
        if not (len(args) > 2 or "training" in kwargs) and stack and not stack[-1].training:
            self.trace.tell("dropout", stack[-1], self.local.forward, here())
        yield None

    def around_backward(self, function: Any, args: Any, kwargs: Any) -> Around:
        losses, trace = argument(args, kwargs, 0, "tensors"), self.trace
        loss = losses if isinstance(losses, Tensor) else next(iter(losses or ()), None)
        is_grad = function.__name__ == "grad"
        trace.backwards += not is_grad
        if is_grad or trace.rests or not isinstance(loss, Tensor):
            yield None
            return
        place = here()
        for held in trace.holders():
            held.before_backward(close=trace.close)
        trace.tell("backward_begins", loss, place)
        yield None
        for held in trace.holders():
            held.after_backward(place)
        trace.fresh, trace.backward = trace.fresh + 1, place
        trace.tell("backward_ends", loss, place)

    def around_clip(self, function: Any, args: Any, kwargs: Any) -> Around:
        parameters = argument(args, kwargs, 0, "parameters")
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters or ())
        limit = "max_norm" if function.__name__ == CLIPPING[0] else "clip_value"
        self.trace.tell("clips", parameters, argument(args, kwargs, 1, limit), here())
        # They may have been an iterator.
        yield (parameters, *args[1:]), {k: v for k, v in kwargs.items() if k != "parameters"}

    def around_schedule(self, function: Any, args: Any, kwargs: Any) -> Around:
        before = rates(getattr(args[0], "optimizer", None))
        yield None
        if optimizer := getattr(args[0], "optimizer", None):
            event = "schedule_built" if function.__name__ == "__init__" else "scheduled"
            self.trace.tell(event, args[0], self.trace.held(optimizer), before, here())

    def around_train(self, function: Any, args: Any, kwargs: Any) -> Around:
        model = yield None
        if isinstance(model, nn.Module):
            mode = bool(argument(args, kwargs, 1, "mode", True))
            self.trace.modes.setdefault(model, {})[mode] = here()

    def around_state(self, function: Any, args: Any, kwargs: Any) -> Around:
        owner, is_load = args[0], function.__name__ == "load_state_dict"
        state = argument(args, kwargs, 1, "state_dict") if is_load else None
        if is_load:
            self.trace.tell("state_loads", owner, state, here())
        result = yield None
        if isinstance(owner, nn.Module) and is_load:
            self.trace.loaded.add(owner)
        event = "state_loaded" if is_load else "state_taken"
        self.trace.tell(event, owner, state if is_load else result, here())

    def around_clear(self, function: Any, args: Any, kwargs: Any) -> Around:
        self.trace.tell("clears", args[0], here())
        yield None

    def around_file(self, function: Any, args: Any, kwargs: Any) -> Around:
        if function.__name__ == "save":
            self.trace.tell("saves", argument(args, kwargs, 0, "obj"), maker())
        result = yield None
        if function.__name__ == "load":
            self.trace.tell("read", result, here())

    def around_scale(self, function: Any, args: Any, kwargs: Any) -> Around:
        yield None
        if args[0].is_enabled():
            self.trace.tell("scaled", args[0].get_scale() if function.__name__ == "scale" else 1.0)

    def around_init(self, function: Any, args: Any, kwargs: Any) -> Around:
        yield None
        if isinstance(args[0], Optimizer):
            self.trace.held(args[0], here())
        else:
            self.trace.known_loader(args[0], here())

    def around_iter(self, function: Any, args: Any, kwargs: Any) -> Around:
        iterator = yield None
        place = here()
        known = self.trace.known_loader(args[0], place)
        known.passes += 1
        with suppress(AttributeError):  # an iterator may have slots
            iterator._dlconcepts_loader = known
        self.trace.tell("epoch", known, place)

    def around_next(self, function: Any, args: Any, kwargs: Any) -> Around:
        (iterator,) = args
        known = getattr(iterator, "_dlconcepts_loader", None)
        try:
            batch = yield None
        except GeneratorExit:  # StopIteration, or an error
            if known and getattr(iterator, "_dlconcepts_ended", False):
                self.trace.tell("read_twice", known, here())
            iterator._dlconcepts_ended = True
            self.trace.loader = None
            raise
        if known:
            self.trace.loader = known
            self.trace.tell("batch", known, batch)

    def around_warning(self, function: Any, args: Any, kwargs: Any) -> Around:
        """Show a warning at the user's line, where it would be without our functions between."""
        if args[2:] and args[2] == __file__:
            args = (*args[:2], *here(), *args[4:5])
        yield args, kwargs

    def around_script(self, function: Any, args: Any, kwargs: Any) -> Around:
        # TorchScript reads the source of functions, and cannot compile ours.
        self.undo.close()
        try:
            yield None
        finally:
            self.__enter__()


def argument(args: Any, kwargs: Any, place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def rates(optimizer: Any) -> list[float]:
    return [float(group.get("lr", 0)) for group in getattr(optimizer, "param_groups", ())]
