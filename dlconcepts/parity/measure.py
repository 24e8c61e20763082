"""Measure each technique on each backend against float64, and find the faults a bound misses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from dlconcepts.networks import Network
from dlconcepts.parity import comparison as parity
from dlconcepts.parity.bounds import Arithmetic
from dlconcepts.parity.comparison import TECHNIQUES, Batch, Comparison, Subject, Technique
from dlconcepts.parity.faults import FAULTS, HARMLESS, Fault, multiplies_in_tf32

BACKENDS = ("eager", "compiled", "channels_last")
# Sums of few terms have a tight bound, in which no fault can hide; long sums are the usual case.
PROBES = ("two pixels", "blank", "aligned", "dense")


@dataclass(frozen=True)
class Kind:
    """An arithmetic of a device: a dtype, with TF32 or without."""

    dtype: torch.dtype
    tf32: bool = False

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.") + (" with TF32" if self.tf32 else "")


def kinds_of(device: torch.device) -> list[Kind]:
    """Return the arithmetics of a device, TF32 after float32."""
    kinds = []
    for dtype in parity.dtypes_of(device):
        kinds += [Kind(dtype)] if dtype != torch.float32 else [Kind(dtype), Kind(dtype, tf32=True)]
    return kinds


def models_of(
    backend: str, dtype: torch.dtype, device: torch.device
) -> tuple[nn.Module, nn.Module]:
    """Return a model, and the module that runs in its place."""
    build = parity.convolution if backend == "channels_last" else parity.network
    model: nn.Module = build(dtype, device)
    return model, parity.compiled(model) if backend == "compiled" else model


@dataclass(frozen=True)
class Row:
    """Results of a technique in one arithmetic: the worst by backend, and the missed faults."""

    technique: str
    arithmetic: str
    backends: dict[str, Comparison]
    missed: list[str]


def measure(kind: Kind, device: torch.device, *, compiles: bool) -> Iterator[Row]:
    """Compare each technique on each backend with float64, then plant the faults."""
    # Only CUDA has TF32: elsewhere the eager network imitates it, and no other backend runs.
    imitation = multiplies_in_tf32 if kind.tf32 and device.type != "cuda" else None
    backends = ["eager"] if imitation else [b for b in BACKENDS if compiles or b != "compiled"]
    for name, technique in TECHNIQUES.items():
        with parity.precision(tf32=kind.tf32):
            found = {
                backend: worst([*compare(technique, backend, kind, device, imitation)])
                for backend in backends
            }
            missed = [
                title
                for title, fault in faults_of(kind, technique).items()
                if all(c.holds for c in compare(technique, "eager", kind, device, fault))
            ]
        yield Row(name, kind.name, found, missed)


def faults_of(kind: Kind, technique: Technique) -> dict[str, Fault]:
    """Return the faults that change the result in this arithmetic."""
    if technique is parity.transforms:  # runs no network
        return {}
    harmless = {*HARMLESS[kind.dtype], *([multiplies_in_tf32] if kind.tf32 else [])}
    return {name: fault for name, fault in FAULTS.items() if fault not in harmless}


def compare(
    technique: Technique, backend: str, kind: Kind, device: torch.device, fault: Fault | None
) -> Iterator[Comparison]:
    """Yield the comparison on each probe, with a fault planted if one is given."""
    for probe in PROBES:
        model, run = models_of(backend, kind.dtype, device)
        if fault:
            fault(model)
        subject = Subject(model, run, Arithmetic.of(kind.dtype, tf32=kind.tf32))
        yield parity.compare(technique(subject, batch(probe, model, device)))


def worst(found: list[Comparison]) -> Comparison:
    """Return the worst comparison, with the smallest shift and the largest median of all."""
    least, middle = zip(*(comparison.ulps for comparison in found), strict=True)
    return replace(max(found, key=lambda c: c.ratio), ulps=(min(least), max(middle)))


def batch(probe: str, model: nn.Module, device: torch.device) -> Batch:
    """Return 16 images and labels for a probe.

    dense: noise; two pixels: noise in about two pixels of each image; blank: zeros; aligned: all
    products of a neuron of the first layer have the same sign, so that its sum is large.
    """
    dense = isinstance(model, Network)
    shape = (16, 784) if dense else (16, 3, 8, 8)
    generator = torch.Generator("cpu").manual_seed(0)
    images = torch.randn(shape, generator=generator)
    first = next(model.parameters())
    if probe == "aligned":
        images = first.detach().cpu()[:16].float().sign() if dense else torch.ones(shape)
    else:
        share = {"dense": 1.0, "two pixels": 2 / math.prod(shape[1:]), "blank": 0.0}[probe]
        images = images * (torch.rand(shape, generator=generator) < share)
    labels = torch.randint(10, (16,), generator=generator)
    images = images.to(device, first.dtype)
    if not dense:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, labels.to(device)
