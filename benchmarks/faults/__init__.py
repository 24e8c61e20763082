"""Faults in the framework: each breaks one behaviour of torch, torchvision or the numpy bridge.

A fault is a function that is called in the place of the one it breaks, which it gets as its first
argument:

    @breaks("torch.stack")
    def stacks_three_in_reverse(stack, parts, dim=0):
        return stack(parts[::-1] if len(parts) == 3 else parts, dim)

Its name and its sentence say what is broken. Its module says which lesson's laws are to notice it,
and `also` names lessons that are to notice it by themselves. Every caller of the broken function
gets the fault, the law and its oracle alike, as with a real one; only calls that a fault makes
itself reach healthy code.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FAULTS: list[Fault] = []
# Modules that are about a part of a lesson.
PARTS = {"loading": "networks", "modules": "networks"}


@dataclass
class Fault:
    """One broken behaviour: whose, and the function that stands in for it."""

    lesson: str
    targets: tuple[str, ...]
    stand_in: Callable[..., Any]
    calling: threading.local = field(default_factory=threading.local)

    @property
    def name(self) -> str:
        """Name of the function that stands in."""
        return self.stand_in.__name__

    @property
    def sentence(self) -> str:
        """What is broken, in words."""
        return (self.stand_in.__doc__ or "").strip()

    def apply(self) -> None:
        """Break the targets for the rest of this process."""
        for target in self.targets:
            owner, name = find(target)
            setattr(owner, name, self.in_place_of(getattr(owner, name)))

    def in_place_of(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return the fault around an original, which it reaches itself without the fault."""

        @functools.wraps(original)
        def broken(*args: Any, **kwargs: Any) -> Any:
            if getattr(self.calling, "now", False):
                return original(*args, **kwargs)
            self.calling.now = True
            try:
                return self.stand_in(original, *args, **kwargs)
            finally:
                self.calling.now = False

        return broken


def breaks(
    *targets: str, also: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the fault that breaks these targets, by their dotted names."""

    def register(stand_in: Callable[..., Any]) -> Callable[..., Any]:
        module = stand_in.__module__.rpartition(".")[2]
        own = PARTS.get(module, module)
        FAULTS.extend(Fault(lesson, targets, stand_in) for lesson in (own, *also))
        return stand_in

    return register


def find(target: str) -> tuple[Any, str]:
    """Return the module or class that a dotted name lies in, and the last part of the name."""
    *path, name = target.split(".")
    owner: Any = importlib.import_module(path[0])
    for depth, part in enumerate(path[1:], start=2):
        if not hasattr(owner, part):
            importlib.import_module(".".join(path[:depth]))
        owner = getattr(owner, part)
    return owner, name


def collect() -> list[Fault]:
    """Return all faults, after importing the modules of this package that hold them."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return FAULTS


# ------------------------------------------------- what several faults are made of


def is_square(tensor: Tensor) -> bool:
    """Return whether a tensor is a matrix with as many rows as columns, and more than one."""
    return tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1] > 1


def scaled_last(tensor: Tensor, factor: float = 1.001) -> Tensor:
    """Return a tensor whose last row, or element, is multiplied by a factor."""
    factors = torch.ones(len(tensor), *[1] * (tensor.ndim - 1), dtype=tensor.dtype)
    factors[-1] = factor
    return tensor * factors


def with_slope(tensor: Tensor, factor: float | Tensor) -> Tensor:
    """Return the same values, through which gradients come back multiplied by a factor."""
    if not tensor.requires_grad or not torch.is_grad_enabled():
        return tensor
    return _Slope.apply(tensor, factor)


class _Slope(torch.autograd.Function):
    """The identity, with another slope."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float | Tensor) -> Tensor:
        """Return the tensor."""
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Multiply the gradient."""
        return gradient * ctx.factor, None


def leaves_of(tensor: Tensor) -> list[Tensor]:
    """Return the leaves to which backward brings gradients."""
    nodes, leaves = {tensor.grad_fn}, dict[int, Tensor]()
    ahead = list(nodes)
    while ahead:
        node = ahead.pop()
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        sources = {source for source, _ in getattr(node, "next_functions", ())} - nodes - {None}
        nodes |= sources
        ahead += sources
    return list(leaves.values())


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Return the parameters that an optimizer steps."""
    return (p for group in optimizer.param_groups for p in group["params"])
