"""What a run has done so far, in bounded memory, and the laws that listen to it."""

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.watch.places import NOWHERE, Place, says_validation
from dlconcepts.watch.report import Finding

PROBES = 4  # parameters that stand for all of an optimizer
# After so many steps the laws look at two in a row of each thirty-two.
AWAKE, EVERY, TWO = 256, 32, 2
ROUTINE = {
    "forward",
    "loss",
    "clears",
    "backward_begins",
    "backward_ends",
    "step_begins",
    "step_ends",
}
KEPT = 16 * 2**20  # bytes of a batch that a trace may keep alive


class Mark:
    """Lives as long as the graph of a forward pass; `walked` says whether backward reached it."""

    def __init__(self, trace: "Trace", forward: "Forward") -> None:
        self.trace, self.forward = trace, weakref.ref(forward)
        self.walked = 0  # before which step of an optimizer backward reached it, from 1

    def walk(self, *_: Any) -> None:
        self.walked = self.trace.steps + 1
        forward = self.forward()
        if forward is not None and not forward.walked:
            forward.walked, self.trace.last = True, forward
            self.trace.site(forward).walked += 1


@dataclass(eq=False)
class Forward:
    """A call of a module that no other module called, on one batch."""

    module: nn.Module
    owner: nn.Module  # the outermost module known to hold it
    place: Place
    functions: tuple[str, ...]
    callers: tuple[Place, ...]  # the lines that led to it, outwards
    grad: bool
    training: bool
    loader: int = 0  # id of the loader that gave the last batch
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    marks: "weakref.WeakSet[Mark]" = field(default_factory=weakref.WeakSet)
    paths: dict[str, "weakref.ref[Mark]"] = field(default_factory=dict)
    called: dict[int, Place] = field(default_factory=dict)  # submodules, where they were called
    walked: bool = False
    ended: bool = False
    key: Any = None  # of the line of its caller
    inner: Any = None
    versions: tuple[int, ...] = ()  # of its arguments, before
    writes: bool = False
    norms: tuple[str, ...] = ()  # BatchNorm layers in training mode, in a model in eval mode

    @property
    def walked_paths(self) -> set[str]:
        """The outputs that backward went through, as long as their graphs live."""
        marks = {path: mark() for path, mark in self.paths.items()}
        return {path for path, mark in marks.items() if mark is None or mark.walked}

    @property
    def is_pending(self) -> bool:
        """Whether backward may still reach it."""
        return not self.walked and any(True for _ in self.marks)


@dataclass(eq=False)
class Held:
    """What is known of an optimizer."""

    optimizer: "weakref.ref[Any]"
    place: Place
    steps: int = 0
    place_of_step: Place = NOWHERE
    rates: list[float] = field(default_factory=list)  # of its first step and its last
    has_closure: bool = False
    reached: int = 0  # backward passes in all
    new: int = 0  # backward passes that reached its parameters since its last step
    before: Any = None
    probed: tuple[int, list[Tensor]] = (0, [])

    @property
    def probes(self) -> list[Tensor]:
        """A few parameters whose gradients stand for all of an optimizer."""
        groups = len(self.groups)
        if groups != self.probed[0]:
            parameters = self.parameters
            self.probed = groups, parameters[:: max(1, len(parameters) // PROBES)]
        return self.probed[1]

    def signature(self) -> list[Any]:
        """Return what changes if somebody writes to a gradient."""
        found = [p.grad for p in self.probes]
        return [None if grad is None else (id(grad), grad._version) for grad in found]

    @property
    def groups(self) -> list[dict[str, Any]]:
        optimizer = self.optimizer()
        return list(optimizer.param_groups) if optimizer is not None else []

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.groups for p in group["params"]]


@dataclass
class Site:
    """A line that runs forward passes of one model: how often, and what for."""

    owner: "weakref.ref[nn.Module]"
    place: Place
    calls: int = 0
    walked: int = 0
    loaders: set[int] = field(default_factory=set)


class Trace:
    """What a run has done; hooks report to it, and laws judge it."""

    def __init__(self, laws: Iterable[Callable[["Trace"], Any]]) -> None:
        self.quiet = 0
        self.started = time.perf_counter()
        self.spent = 0.0  # seconds in laws, with their proofs
        self.steps = self.backwards = 0
        self.rests = False
        self.close = True  # whether to look closely until the end of the next step
        self.findings: dict[tuple[str, str, str, int], Finding] = {}
        self.errors: list[str] = []
        self.optimizers: dict[int, Held] = {}
        self.sites: dict[tuple[Place, int], Site] = {}
        self.pending: deque[Forward] = deque(maxlen=64)
        self.last: Forward | None = None  # the last forward pass that backward went through
        self.loaders: dict[int, Any] = {}  # weak references, and counts of their passes
        self.passes: dict[int, int] = {}
        self.loader = 0
        self.loaded: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.modes: weakref.WeakKeyDictionary[nn.Module, dict[bool, Place]] = (
            weakref.WeakKeyDictionary()
        )
        self.trained: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.marks: weakref.WeakSet[Mark] = weakref.WeakSet()
        self.built: dict[int, Place] = {}  # where loaders were built
        self.laws = [law(self) for law in laws]
        self.listeners: dict[str, list[Any]] = {}

    def tell(self, event: str, *arguments: Any) -> None:
        """Give an event to each law that listens to it; an error of ours must not end the run."""
        if self.rests and event in ROUTINE and torch.is_grad_enabled():
            return
        listeners = self.listeners.get(event)
        if listeners is None:
            listeners = [
                getattr(law, f"on_{event}") for law in self.laws if hasattr(law, f"on_{event}")
            ]
            self.listeners[event] = listeners
        started = time.perf_counter()
        for listener in list(listeners):
            try:
                listener(*arguments)
            except Exception as error:  # laws meet objects of every kind
                law = listener.__self__
                self.errors.append(f"{law.id}: {type(error).__name__}: {error}")
                law.gave_up = True
                listeners.remove(listener)  # the others still hear of the event
        self.spent += time.perf_counter() - started

    def add(self, finding: Finding) -> None:
        key = finding.law, finding.verdict, finding.file, finding.line
        found = self.findings.setdefault(key, finding)
        found.count += 1

    @contextmanager
    def proving(self) -> Iterator[None]:
        """Run code of the user or of PyTorch without reporting it as a part of the run."""
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1

    def settle(self, *, final: bool = False) -> None:
        """Report the forward passes whose graph is gone without a backward pass."""
        waiting = list(self.pending)
        self.pending.clear()
        for forward in waiting:
            if forward.is_pending and not final:
                self.pending.append(forward)
            elif not forward.walked and forward.paths:
                self.tell("unused", forward)
            elif forward.walked and forward is not self.last:
                forward.args, forward.kwargs = (), {}

    # What the laws ask.

    def models(self) -> list[nn.Module]:
        """Return the models that ran forward passes, those that are still alive."""
        found = {id(m): m for site in self.sites.values() if (m := site.owner()) is not None}
        return list(found.values())

    def held(self, optimizer: Any, place: Place = NOWHERE) -> Held:
        key = id(optimizer)
        known = self.optimizers.get(key)
        if known is None or known.optimizer() is not optimizer:
            known = self.optimizers[key] = Held(weakref.ref(optimizer), place)
        return known

    def holders(self) -> list[Held]:
        return [held for held in self.optimizers.values() if held.optimizer() is not None]

    def is_held(self, parameter: Tensor) -> bool:
        return any(p is parameter for held in self.holders() for p in held.parameters)

    def trains(self, module: nn.Module) -> bool:
        """Return whether a module has trained, or is the average or copy of one that has."""
        if not self.close and module in self.trained:
            return True
        held = {id(p) for some in self.holders() if some.steps for p in some.parameters}
        if module in self.trained or any(id(p) in held for p in module.parameters()):
            self.trained.add(module)
            return True
        shapes = [p.shape for p in module.parameters()]
        return any(shapes == [p.shape for p in known.parameters()] for known in self.trained)

    def was_loaded(self, root: nn.Module, parameter: Tensor) -> bool:
        """Return whether the weights of a parameter came from a state_dict."""
        parts = (m for m in root.modules() if m in self.loaded)
        return any(p is parameter for part in parts for p in part.parameters())

    def site(self, forward: Forward) -> Site:
        key = forward.place, id(forward.owner)
        site = self.sites.get(key)
        if site is None:
            site = self.sites[key] = Site(weakref.ref(forward.owner), forward.place)
        return site

    def is_validation(self, forward: Forward) -> bool:
        """Return whether a forward pass without a backward pass evaluates a trained model.

        A training step may also need such a pass, for a fake image, a pseudo-label or an action. So
        we look for a sign: the names say it, or training does not use the loader of the batch.
        """
        site = self.site(forward)
        if site.walked or forward.walked or not self.trains(forward.owner):
            return False
        # A training step detaches what it computes for itself, as a discriminator's opinion.
        place = NOWHERE if ".detach()" in forward.place.code else forward.place
        if says_validation(place, forward.functions):
            return True
        if any(map(says_validation, forward.callers[:1])):
            return True
        training = {key for other in self.sites.values() if other.walked for key in other.loaders}
        return bool(forward.loader and training and forward.loader not in training)


def size(value: Any) -> int:
    """Return the bytes of all tensors in some arguments."""
    if isinstance(value, Tensor):
        return value.nbytes if value.layout == torch.strided else 0
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    return sum(map(size, value)) if isinstance(value, (tuple, list)) else 0
