"""Faults in the framework: each breaks one behaviour of torch, torchvision or the numpy bridge.

A fault is a function that replaces the function it breaks, and gets the original as its first
argument:

    @breaks("torch.stack")
    def stacks_three_in_reverse(stack, parts, dim=0):
        return stack(parts[::-1] if len(parts) == 3 else parts, dim)

Its name and its sentence say what is broken. The laws of the lesson that its module is named after
should notice it; `also` names further lessons that should. As with a real bug, the law and its
oracle both get the broken function. Only calls from inside the fault reach the original.
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
# Fault modules that cover a part of a lesson.
PARTS = {"loading": "networks", "modules": "networks"}


@dataclass
class Fault:
    """One broken behaviour: its lesson, its targets, and the function that replaces them."""

    lesson: str
    targets: tuple[str, ...]
    stand_in: Callable[..., Any]
    calling: threading.local = field(default_factory=threading.local)

    @property
    def name(self) -> str:
        return self.stand_in.__name__

    @property
    def sentence(self) -> str:
        return (self.stand_in.__doc__ or "").strip()

    def apply(self) -> None:
        """Break the targets until this process ends."""
        for target in self.targets:
            owner, name = find(target)
            setattr(owner, name, self.in_place_of(getattr(owner, name)))

    def in_place_of(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the original in the fault; calls from inside the fault reach the original."""

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
    """Register a function as the fault that breaks these targets, given by dotted name."""

    def register(stand_in: Callable[..., Any]) -> Callable[..., Any]:
        module = stand_in.__module__.rpartition(".")[2]
        own = PARTS.get(module, module)
        FAULTS.extend(Fault(lesson, targets, stand_in) for lesson in (own, *also))
        return stand_in

    return register


def find(target: str) -> tuple[Any, str]:
    """Return the module or class that holds a dotted name, and the last part of the name."""
    *path, name = target.split(".")
    owner: Any = importlib.import_module(path[0])
    for depth, part in enumerate(path[1:], start=2):
        if not hasattr(owner, part):
            importlib.import_module(".".join(path[:depth]))
        owner = getattr(owner, part)
    return owner, name


def collect() -> list[Fault]:
    """Import the modules of this package, and return all faults."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return FAULTS


# ------------------------------------------------- helpers of several faults


def is_square(tensor: Tensor) -> bool:
    """Return whether a tensor is a square matrix larger than 1 x 1."""
    return tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1] > 1


def scaled_last(tensor: Tensor, factor: float = 1.001) -> Tensor:
    """Multiply the last row, or the last element of a vector, by a factor."""
    factors = torch.ones(len(tensor), *[1] * (tensor.ndim - 1), dtype=tensor.dtype)
    factors[-1] = factor
    return tensor * factors


def with_slope(tensor: Tensor, factor: float | Tensor) -> Tensor:
    """Return the same values, but multiply the gradient by a factor."""
    if not tensor.requires_grad or not torch.is_grad_enabled():
        return tensor
    return _Slope.apply(tensor, factor)


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float | Tensor) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def leaves_of(tensor: Tensor) -> list[Tensor]:
    """Return the leaves that `backward` reaches."""
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
    return (p for group in optimizer.param_groups for p in group["params"])
