"""Count which kinds of tensors each law really draws.

    python benchmarks/kinds.py                    # every law, 100 examples each
    python benchmarks/kinds.py --lesson tensors
    python benchmarks/kinds.py --json docs/results/power-strategies.json

Each tensor from `dlconcepts.strategies.tensors` reports its kinds to Hypothesis as events, and so
does an uneven last batch. The figures come from Hypothesis's statistics: the percentage of a law's
examples with a tensor of that kind. A law without any kind draws numbers or files instead of
tensors. If a law misses a kind that its claim allows, that is a blind spot. The laws run on the
right technique only.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event
from results import write
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dlconcepts.testing import hypothesis_bridge as bridge
from dlconcepts.testing.claims import LESSONS

ROOT = Path(__file__).parents[1]
HALF = (torch.float16, torch.bfloat16)
EVENT = re.compile(r"\* *([\d.]+)%, kind: (.*)")


def numbers(tensor: Tensor) -> Tensor:
    """Return the elements as float64; of complex numbers, the real parts."""
    return (tensor.real if tensor.is_complex() else tensor).detach().double()


KINDS: dict[str, Callable[[Tensor], bool]] = {
    "permuted": lambda x: x.ndim > 1 and x.stride(0) < x.stride(-1),
    "offset": lambda x: x.storage_offset() > 0,
    "gaps": lambda x: x.ndim > 0 and x.stride(-1) > 1 and x.stride(0) >= x.stride(-1),
    "expanded": lambda x: any(s == 0 and n > 1 for n, s in zip(x.shape, x.stride(), strict=True)),
    "empty": lambda x: x.numel() == 0,
    "rank 0": lambda x: x.ndim == 0,
    "square": lambda x: x.ndim > 1 and len(set(x.shape)) == 1 < len(x),
    "ties": lambda x: numbers(x).unique().numel() < x.numel(),
    "half": lambda x: x.dtype in HALF,
    "integer": lambda x: not (x.is_floating_point() or x.is_complex()),
    "nan": lambda x: bool(x.isnan().any()),
    "infinite": lambda x: bool(x.isinf().any()),
    "-0.0": lambda x: x.is_floating_point() and bool((x.signbit() & (x == 0)).any()),
    "huge": lambda x: bool((numbers(x).abs() >= 1e4).any()),
    "tiny": lambda x: bool(((x != 0) & (numbers(x).abs() <= 1e-4)).any()),
}
UNEVEN = "uneven batch"


class Watch:
    """A pytest plugin: run the laws on the right technique, and collect the kinds each one saw."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the right cases, and report the kinds of the tensors they draw."""
        from dlconcepts import strategies

        lay_out = strategies._lay_out

        def watched(*args: Any) -> Tensor:
            tensor = lay_out(*args)
            for kind, holds in KINDS.items():
                if holds(tensor):
                    event(f"kind: {kind}")
            return tensor

        strategies._lay_out = watched
        items[:] = [item for item in items if item.get_closest_marker("right")]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Report uneven batches, then read Hypothesis's statistics."""

        def watched(body: Callable[..., None]) -> Callable[..., None]:
            def example(*args: Any, **drawn: Any) -> None:
                if is_uneven(drawn):
                    event(f"kind: {UNEVEN}")
                body(*args, **drawn)

            return example

        try:
            with bridge.replaced(item.obj, watched, bridge.settings_of(item.obj)):
                yield
        finally:
            found = EVENT.findall(bridge.statistics_of(item))
            known = dict(item.user_properties)
            head = {"lesson": item.path.parent.name, "law": item.name.partition("[")[0]}
            # The plugin of the laws adds the examples to the properties only later.
            case = item.get_closest_marker("right").args[0]
            head |= {"claim": known["claim"], "examples": case.examples}
            self.rows.append({**head, "kinds": {kind: float(share) for share, kind in found}})


def is_uneven(drawn: dict[str, Any]) -> bool:
    """Return whether the drawn arguments lead to an incomplete last batch."""
    size = drawn.get("batch_size")
    if not size:
        return False
    sized = (drawn.get(name) for name in ("order", "data", "batch"))
    numbers = [
        len(part[1] if isinstance(part, tuple) else part) for part in sized if is_sized(part)
    ]
    n = drawn.get("n", numbers[0] if numbers else None)
    return bool(n and n % size and n > size)


def is_sized(part: Any) -> bool:
    """Return whether it is a list of examples, or a pair of inputs and labels."""
    return isinstance(part, list) or (isinstance(part, tuple) and len(part) == 2)


def show(rows: list[dict[str, Any]]) -> None:
    kinds = [*KINDS, UNEVEN]
    table = Table(title="examples with a tensor of each kind, in percent")
    table.add_column("law", overflow="fold")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for row in rows:
        seen = row["kinds"]
        table.add_row(row["law"], *(f"{seen[kind]:.0f}" if kind in seen else "" for kind in kinds))
    Console(width=200).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lesson", action="append", choices=LESSONS)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    watch = Watch()
    folders = [f"{ROOT}/tests/{lesson}" for lesson in options.lesson or LESSONS]
    arguments = ["-q", "-p", "no:cacheprovider", "--hypothesis-profile=power"]
    # pytest warns that it cannot rewrite Hypothesis, which is already imported.
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning", f"--rootdir={ROOT}"]
    status = pytest.main([*arguments, *folders], plugins=[watch])
    show(watch.rows)
    if options.json:
        packages = ("torch", "numpy", "hypothesis")
        write(options.json, watch.rows, packages, kinds=[*KINDS, UNEVEN])
    sys.exit(status)


if __name__ == "__main__":
    main()
