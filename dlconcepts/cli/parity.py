"""`python -m dlconcepts parity`: error, bound and missed faults of each technique, in tables.

One table for each arithmetic: a row for each technique with, for each backend, the worst error and
its bound.
"""

import argparse
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from dlconcepts.cli.output import find_device
from dlconcepts.parity.comparison import why_not_compiled
from dlconcepts.parity.measure import Row, kinds_of, measure
from dlconcepts.support.atomic import write_json
from dlconcepts.support.devices import hardware
from dlconcepts.support.runs import one_thread

LEGEND = """error / bound: of the element that is closest to its bound, or furthest beyond it.
ulps: how many units in the last place one element must shift before the comparison notices: the
minimum over all elements, and the median on the probe that hides most. not noticed: planted faults
that stay within the bound on all probes."""


def run(arguments: argparse.Namespace) -> int:
    """Print the tables; return 0, or 1 if an error exceeds its bound."""
    device = find_device(arguments.device)
    reason = "skipped" if arguments.eager else why_not_compiled()
    console = Console(width=shutil.get_terminal_size((150, 40)).columns, highlight=False)
    console.print(f"torch {torch.__version__} on {device}; compiled: {reason or 'TorchInductor'}")
    rows: list[Row] = []
    with one_thread(nn.Identity()):
        for kind in kinds_of(device):
            # TorchInductor keeps eight versions of a network, and each dtype needs two.
            torch.compiler.reset()
            found = list(measure(kind, device, compiles=reason is None))
            console.print(table(found))
            rows += found
    console.print(LEGEND)
    record: dict[str, Any] = {"schema": 1, "torch": str(torch.__version__)}
    record |= {"device": f"{device} ({hardware(device)})", "not compiled": reason}
    record["platform"] = f"{platform.system()} {platform.machine()}"
    write_json(arguments.json, {**record, "rows": [asdict(row) for row in rows]})
    return 0 if all(c.holds for row in rows for c in row.backends.values()) else 1


def table(rows: Sequence[Row]) -> Table:
    style: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": SIMPLE_HEAD}
    found = Table(title=rows[0].arithmetic, **style)
    found.add_column("technique", min_width=10, overflow="fold")
    for heading in (*(f"{backend}: error / bound" for backend in rows[0].backends), "ulps"):
        found.add_column(heading, justify="right", overflow="fold")
    found.add_column("not noticed", overflow="fold")
    for row in rows:
        cells = [
            Text(f"{c.error:.1e} / {c.bound:.1e}", "" if c.holds else "bold red")
            for c in row.backends.values()
        ]
        least, middle = row.backends["eager"].ulps
        found.add_row(row.technique, *cells, f"{least:,.0f} - {middle:,.0f}", ", ".join(row.missed))
    return found
