"""Run a script in this process, as `python script.py` would, with and without `watch`."""

import contextlib
import io
import os
import random
import runpy
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass
class Run:
    """What a script printed, left behind in its names and files, and what `watch` reports."""

    printed: str = ""
    names: dict[str, Any] = field(default_factory=dict)
    random: tuple[object, ...] = ()
    report: Any = None


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[io.StringIO]:
    """Give a script a folder, arguments, fresh random state and a place to print to."""
    before = Path.cwd(), sys.argv, sys.path[:]
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the generator that scripts draw from
    torch.manual_seed(0)
    sys.argv = ["train.py"]
    os.chdir(folder)
    printed = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")
            yield printed
    finally:
        os.chdir(before[0])
        sys.argv, sys.path[:] = before[1:]
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        torch.set_grad_enabled(True)  # which a script with a mistake may leave off


def run(text: str, folder: Path, *, watched: bool = False, root: Path | None = None) -> Run:
    """Write a script into an empty folder and run it there, or in `root`."""
    script = folder / "train.py"
    script.write_text(text, encoding="utf-8")
    done = Run()
    with alone(root or folder) as printed, contextlib.ExitStack() as stack:
        if watched:
            from dlconcepts import watch

            done.report = stack.enter_context(watch.watching())
        done.names = runpy.run_path(str(script), run_name="__main__")
        stack.close()
        done.random = (
            torch.get_rng_state().tolist(),
            str(np.random.get_state()),  # noqa: NPY002
            random.getstate(),
        )
    done.printed = printed.getvalue()
    return done
