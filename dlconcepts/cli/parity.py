"""What `python -m dlconcepts parity` does: error, bound and blindness of each technique, in tables.

For each arithmetic one table: a row for each technique, and for each backend the worst error and
the error that rounding allows there. What the bound would let pass is measured by planting faults.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from dlconcepts.networks import Network
from dlconcepts.parity import comparison as parity
from dlconcepts.parity.bounds import Arithmetic
from dlconcepts.parity.comparison import TECHNIQUES, Batch, Comparison, Subject
from dlconcepts.parity.faults import FAULTS, HARMLESS, Fault, multiplies_in_tf32
from dlconcepts.support.atomic import write_atomically
from dlconcepts.support.devices import DeviceUnavailableError, find_device
from dlconcepts.support.runs import one_thread

PROBES = ("two pixels", "blank", "aligned", "dense")


@dataclass(frozen=True)
class Kind:
    """An arithmetic of a device: a dtype, with TF32 allowed or not."""

    dtype: torch.dtype
    tf32: bool = False

    @property
    def name(self) -> str:
        """What the table is called."""
        return str(self.dtype).removeprefix("torch.") + (" with TF32" if self.tf32 else "")

    @property
    def rule(self) -> Arithmetic:
        """The arithmetic that results are held to."""
        return Arithmetic.of(self.dtype, tf32=self.tf32)


@dataclass(frozen=True)
class Row:
    """What was found of a technique in one arithmetic: by backend, and the faults not noticed."""

    technique: str
    arithmetic: str
    backends: dict[str, Comparison]
    missed: list[str]


def run(arguments: argparse.Namespace) -> int:
    """Print the tables and return 0, 1 if a bound was exceeded, 2 for bad input."""
    try:
        device = find_device(arguments.device)
        if arguments.json and not arguments.json.parent.is_dir():
            raise ValueError(f"there is no folder {arguments.json.parent} to write to")
    except (DeviceUnavailableError, ValueError) as error:
        print(f"dlconcepts parity: {error}", file=sys.stderr)
        return 2
    reason = "left out" if arguments.eager else parity.why_not_compiled()
    console = Console(width=shutil.get_terminal_size((150, 40)).columns, highlight=False)
    console.print(f"torch {torch.__version__} on {device}; compiled: {reason or 'TorchInductor'}")
    rows, backends = [], backends_of(device, reason is None)
    with one_thread(nn.Identity()):
        for kind in kinds_of(device):
            torch.compiler.reset()  # it keeps eight forms of a network, and each dtype takes two
            rows += (found := list(measure(kind, device, backends)))
            console.print(table(kind, found))
    console.print(LEGEND)
    if arguments.json:
        write_atomically(arguments.json, to_json(rows, device, reason).encode())
    exceeded = [row for row in rows if not all(c.holds for c in row.backends.values())]
    return 1 if exceeded else 0


LEGEND = """error / bound: of the element that comes closest to its bound, or exceeds it.
ulps: by how many units in the last place an element must be off to be noticed, where that is least,
and at the middle element of the probe that hides most. not noticed: planted faults that stay below
the bound on all probes."""


def kinds_of(device: torch.device) -> list[Kind]:
    """Return the arithmetics of a device; TF32 is imitated where there is none."""
    kinds = [Kind(dtype) for dtype in parity.dtypes_of(device)]
    after = 1 + [kind.dtype for kind in kinds].index(torch.float32)
    return [*kinds[:after], Kind(torch.float32, tf32=True), *kinds[after:]]


Backend = Callable[["Kind"], Subject]


def backends_of(device: torch.device, compiles: bool) -> dict[str, Backend]:
    """Return, by name, what builds the subject of each backend."""

    def eager(kind: Kind) -> Subject:
        """Return the network as it is."""
        model = parity.network(kind.dtype, device)
        return Subject(model, model, kind.rule)

    def compiled(kind: Kind) -> Subject:
        """Return the network compiled."""
        model = parity.network(kind.dtype, device)
        return Subject(model, parity.compiled(model), kind.rule)

    def channels_last(kind: Kind) -> Subject:
        """Return a convolution over channels_last."""
        model = parity.convolution(kind.dtype, device)
        return Subject(model, model, kind.rule)

    compiled_if_possible = {"compiled": compiled} if compiles else {}
    return {"eager": eager, **compiled_if_possible, "channels_last": channels_last}


def measure(kind: Kind, device: torch.device, backends: dict[str, Backend]) -> Iterator[Row]:
    """Compare each technique on each backend with float64, and plant the faults."""
    for name, technique in TECHNIQUES.items():
        found = {}
        with parity.precision(tf32=kind.tf32):
            for backend, build in backends.items():
                # Only CUDA has TF32: elsewhere the eager network imitates it.
                imitated = kind.tf32 and device.type != "cuda"
                if not imitated or backend == "eager":
                    fault = multiplies_in_tf32 if imitated else None
                    found[backend] = worst(technique, build, kind, device, fault)
            faults = faults_of(kind, technique)
            missed = [
                title
                for title, fault in faults.items()
                if not is_noticed(technique, backends["eager"], kind, device, fault)
            ]
        yield Row(name, kind.name, found, missed)


def faults_of(kind: Kind, technique: parity.Technique) -> dict[str, Fault]:
    """Return the faults that are some in this arithmetic; transforms run no network."""
    if technique is parity.transforms:
        return {}
    harmless = {*HARMLESS[kind.dtype], *([multiplies_in_tf32] if kind.tf32 else [])}
    return {name: fault for name, fault in FAULTS.items() if fault not in harmless}


def worst(
    technique: parity.Technique,
    build: Backend,
    kind: Kind,
    device: torch.device,
    fault: Fault | None = None,
) -> Comparison:
    """Return the worst comparison over the probes, with the shifts that are noticed."""
    found = [on(probe, technique, build, kind, device, fault) for probe in PROBES]
    first = max(found, key=lambda comparison: comparison.ratio)
    least = min(comparison.ulps[0] for comparison in found)
    middle = max(comparison.ulps[1] for comparison in found)
    return replace(first, ulps=(least, middle))


def is_noticed(
    technique: parity.Technique, build: Backend, kind: Kind, device: torch.device, fault: Fault
) -> bool:
    """Return whether a fault exceeds the bound on one of the probes."""
    return any(not on(probe, technique, build, kind, device, fault).holds for probe in PROBES)


def on(
    probe: str,
    technique: parity.Technique,
    build: Backend,
    kind: Kind,
    device: torch.device,
    fault: Fault | None,
) -> Comparison:
    """Return the comparison on one probe, with a fault or without."""
    subject = build(kind)
    if fault:
        fault(subject.model)
    return parity.compare(technique(subject, batch(probe, subject, device)))


def batch(probe: str, subject: Subject, device: torch.device) -> Batch:
    """Return 16 images: noise, noise in about two pixels each, nothing, or each aligned.

    In those, all products of a neuron of the first layer have one sign, so that its sum is long.
    """
    dense = isinstance(subject.model, Network)
    shape = (16, 784) if dense else (16, 3, 8, 8)
    generator = torch.Generator("cpu").manual_seed(0)
    images = torch.randn(shape, generator=generator)
    if probe == "aligned":
        weights = next(subject.model.parameters()).detach().cpu()
        images = weights[:16].float().sign() if dense else torch.ones(shape)
    else:
        share = {"dense": 1.0, "two pixels": 2 / math.prod(shape[1:]), "blank": 0.0}[probe]
        images = images * (torch.rand(shape, generator=generator) < share)
    labels = torch.randint(10, (16,), generator=generator)
    images = images.to(device, next(subject.model.parameters()).dtype)
    if not dense:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, labels.to(device)


def table(kind: Kind, rows: list[Row]) -> Table:
    """Return the table of one arithmetic."""
    found = Table(title=kind.name, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    found.add_column("technique")
    backends = list(rows[0].backends)
    for backend in backends:
        found.add_column(f"{backend}: error / bound", justify="right", no_wrap=True)
    found.add_column("ulps", justify="right", no_wrap=True)
    found.add_column("not noticed")
    for row in rows:
        cells = [cell(row.backends[backend]) for backend in backends]
        least, middle = row.backends["eager"].ulps
        found.add_row(row.technique, *cells, f"{least:,.0f} - {middle:,.0f}", ", ".join(row.missed))
    return found


def cell(comparison: Comparison) -> Text:
    """Return an error and its bound, red if it is exceeded."""
    text = f"{comparison.error:.1e} / {comparison.bound:.1e}"
    return Text(text, "" if comparison.holds else "bold red")


def to_json(rows: list[Row], device: torch.device, reason: str | None) -> str:
    """Return all figures, with what they were measured on."""
    module = torch.get_device_module(device)
    describe = getattr(module, "get_device_name", platform.machine)
    record = {
        "torch": str(torch.__version__),
        "device": f"{device} ({describe()})",
        "platform": f"{platform.system()} {platform.machine()}",
        "not compiled": reason,
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(record, indent=1) + "\n"
