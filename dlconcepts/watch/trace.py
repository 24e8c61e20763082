"""What a run has done so far, in bounded memory, and the laws that listen to it."""

import math
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.trees import tensors
from dlconcepts.watch.places import NOWHERE, Place, says_validation
from dlconcepts.watch.report import Finding

PROBES = 4  # parameters that stand for all of an optimizer
# After so many steps, or calls, the laws look at two in a row of each thirty-two.
AWAKE, EVERY, TWO = 256, 32, 2
KEPT = 16 * 2**20  # bytes of a batch that a trace may keep alive
PART = 2**18  # numbers of a gradient that are compared


def is_skipped(count: int) -> bool:
    return count > AWAKE and count % EVERY >= TWO


@dataclass(eq=False)
class Loader:
    """What is known of a loader: where it was built, or first read, and how often it was read."""

    ref: "weakref.ref[Any]"
    place: Place
    passes: int = 0


class Mark:
    """Lives as long as the graph of a forward pass; `walked` says whether backward reached it."""

    def __init__(self, forward: "Forward") -> None:
        self.trace, self.forward = forward.trace, weakref.ref(forward)
        self.walked = 0  # before which step of an optimizer backward reached it, from 1

    def walk(self, *_: Any) -> None:
        self.walked = self.trace.steps + 1
        forward = self.forward()
        if forward is not None and not forward.walked:
            forward.walked, self.trace.last = True, forward
            self.trace.training_sites.add(forward.site)
            self.trace.training_loaders.update(filter(None, [forward.loader]))


@dataclass(eq=False)
class Forward:
    """A call of a module that no other module called, on one batch."""

    trace: "Trace"
    module: nn.Module
    owner: nn.Module  # the outermost module known to hold it
    place: Place
    functions: tuple[str, ...]
    callers: tuple[Place, ...]  # the lines that led to it, outwards
    grad: bool = True
    training: bool = True
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, "weakref.ref[Mark]"] = field(default_factory=dict)  # by path of an output
    called: dict[int, Place] = field(default_factory=dict)  # submodules, where they were called
    walked: bool = False
    ended: bool = False
    loader: Loader | None = None  # which gave the last batch
    inner: Any = None  # what its first layer with weights was given
    versions: tuple[int, ...] = ()  # of its arguments, before
    frame: int = 0  # the frame that called its first layer, if forward was called directly
    first: int = 0  # that layer

    @property
    def site(self) -> tuple[Place, int]:
        """The line and the model; many passes have the same."""
        return self.place, id(self.owner)

    @property
    def source(self) -> Any:
        """The loader itself, if it is still there."""
        return self.loader and self.loader.ref()

    @property
    def inputs(self) -> Tensor | None:
        """The first argument that is a batch."""
        return next((x for x in self.args if isinstance(x, Tensor) and x.ndim), None)


@dataclass(eq=False)
class Held:
    """What is known of an optimizer."""

    optimizer: "weakref.ref[Any]"
    place: Place
    steps: int = 0
    place_of_step: Place = NOWHERE
    has_closure: bool = False
    reached: int = 0  # backward passes in all
    new: int = 0  # backward passes that reached its parameters since its last step
    backward: Place = NOWHERE  # of the last of them
    before: list[Any] = field(default_factory=list)  # the signature before the last backward pass
    after: list[Any] = field(default_factory=list)  # and after it
    old: float = 0.0  # the norm of the gradients before the first of the new ones

    @property
    def name(self) -> str:
        return type(self.optimizer()).__name__

    @property
    def groups(self) -> list[dict[str, Any]]:
        return list(getattr(self.optimizer(), "param_groups", ()))

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.groups for p in group["params"]]

    @property
    def probes(self) -> list[Tensor]:
        """A few parameters whose gradients stand for all of an optimizer."""
        parameters = self.parameters
        return parameters[:: max(1, len(parameters) // PROBES)]

    def signature(self) -> list[Any]:
        """Return what changes if somebody writes to a gradient."""
        found = [p.grad for p in self.probes]
        return [(0, 0) if grad is None else (id(grad), grad._version) for grad in found]

    def norm(self) -> float:
        """Return the norm of a part of the gradients."""
        return norm(p.grad for p in self.probes if p.grad is not None)

    def before_backward(self, *, close: bool) -> None:
        self.before = self.signature()
        if not self.new:
            self.old = self.norm() if close else 0.0

    def after_backward(self, place: Place) -> None:
        """Note whether backward reached the parameters."""
        self.after = self.signature()
        if self.after != self.before:
            self.new, self.reached, self.backward = self.new + 1, self.reached + 1, place


class Trace:
    """What a run has done; hooks report to it, and laws judge it."""

    def __init__(self, laws: Iterable[Callable[["Trace"], Any]]) -> None:
        self.quiet = 0
        self.started = time.perf_counter()
        self.spent = 0.0  # seconds in laws, with their proofs
        self.steps = self.backwards = 0
        self.fresh = 0  # backward passes since the last step
        self.backward = NOWHERE  # the line of the last of them
        self.rests = False  # whether the next step is skipped
        self.close = True  # whether to look closely until the end of the next step
        self.findings: dict[tuple[str, str, str, int], Finding] = {}
        self.errors: list[str] = []
        self.optimizers: weakref.WeakKeyDictionary[Any, Held] = weakref.WeakKeyDictionary()
        self.training_sites: set[tuple[Place, int]] = set()
        self.pending: deque[Forward] = deque(maxlen=64)
        self.last: Forward | None = None  # the last forward pass that backward went through
        self.loaders: weakref.WeakKeyDictionary[Any, Loader] = weakref.WeakKeyDictionary()
        self.training_loaders: set[Loader] = set()
        self.loader: Loader | None = None  # which gave the last batch
        self.models: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # that ran forward passes
        self.loaded: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.trained: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.marks: weakref.WeakSet[Mark] = weakref.WeakSet()
        self.modes: Any = weakref.WeakKeyDictionary()  # of a model: where each mode was set
        self.laws = [law(self) for law in laws]
        self.listeners: defaultdict[str, list[Any]] = defaultdict(list)
        for law in self.laws:
            for name in dir(law):
                if name.startswith("on_"):
                    self.listeners[name[3:]].append(getattr(law, name))

    def tell(self, event: str, *arguments: Any) -> None:
        """Give an event to each law that listens to it; an error of ours must not end the run."""
        started = time.perf_counter()
        with torch._C.DisableTorchFunction():
            for listener in list(self.listeners[event]):
                try:
                    listener(*arguments)
                except Exception as error:  # laws meet objects of every kind
                    law = listener.__self__
                    self.errors.append(f"{law.id}: {type(error).__name__}: {error}")
                    law.gave_up = True
                    self.listeners[event].remove(listener)  # the others still hear of the event
        self.spent += time.perf_counter() - started

    def add(self, finding: Finding) -> None:
        key = finding.law, finding.verdict, finding.file, finding.line
        self.findings.setdefault(key, finding).count += 1

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
            if forward.walked and forward is not self.last:
                forward.args, forward.kwargs = (), {}
            elif not forward.walked and forward.marks:
                # Backward may still reach what is alive.
                is_alive = any(mark() is not None for mark in forward.marks.values())
                (self.unused if final or not is_alive else self.pending.append)(forward)

    def unused(self, forward: Forward) -> None:
        """Report a forward pass that no backward pass will use, if it evaluates a trained model."""
        if self.is_validation(forward):
            self.tell("evaluated", forward)

    # What the laws ask.

    def held(self, optimizer: Any, place: Place = NOWHERE) -> Held:
        return self.optimizers.setdefault(optimizer, Held(weakref.ref(optimizer), place))

    def holders(self) -> list[Held]:
        return list(self.optimizers.values())

    def in_optimizers(self) -> set[int]:
        return {id(p) for held in self.holders() for p in held.parameters}

    def trains(self, module: nn.Module) -> bool:
        """Return whether a module has trained, or is the average or copy of one that has."""
        if module in self.trained:
            return True
        held = {id(p) for some in self.holders() if some.steps for p in some.parameters}
        if any(id(p) in held for p in module.parameters()):
            self.trained.add(module)
        shapes = [p.shape for p in module.parameters()]
        return any(shapes == [p.shape for p in known.parameters()] for known in self.trained)

    def was_loaded(self, root: nn.Module, parameter: Tensor) -> bool:
        """Return whether the weights of a parameter came from a state_dict."""
        parts = (m for m in root.modules() if m in self.loaded)
        return any(p is parameter for part in parts for p in part.parameters())

    def known_loader(self, loader: Any, place: Place) -> Loader:
        return self.loaders.setdefault(loader, Loader(weakref.ref(loader), place))

    def is_validation(self, forward: Forward) -> bool:
        """Return whether a forward pass without a backward pass evaluates a trained model.

        A training step may also need such a pass, for a fake image, a pseudo-label or an action. So
        we look for a sign: the names say it, or training does not use the loader of the batch.
        """
        if forward.site in self.training_sites or forward.walked or not self.trains(forward.owner):
            return False
        # A training step detaches what it computes for itself, as a discriminator's opinion.
        place = NOWHERE if ".detach()" in forward.place.code else forward.place
        if says_validation(place, forward.functions):
            return True
        training = self.training_loaders
        is_other = bool(forward.loader and training) and forward.loader not in training
        return is_other or any(map(says_validation, forward.callers[:1]))


def norm(tensors: Iterable[Tensor]) -> float:
    dense = [x.detach().reshape(-1)[:PART] for x in tensors if x.layout == torch.strided]
    return math.sqrt(sum(float(x.double().square().sum()) for x in dense))


def size(value: Any) -> int:
    """Return the bytes of all tensors in some arguments."""
    return sum(x.nbytes for x in tensors(value).values() if x.layout == torch.strided)


def versions(args: Any) -> tuple[int, ...]:
    """Return how often each argument was written to, of those that count it."""
    return tuple(x._version for x in args if isinstance(x, Tensor) and not x.is_inference())
