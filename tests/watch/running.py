"""Run scripts as `python script.py` and as `python -m dlconcepts watch script.py` do, but fast.

A server imports torch once and forks a process for each script, so that a run has its own modules,
random state, settings and folder, and yet takes a fraction of a second.
"""

import json
import multiprocessing
import os
import random
import runpy
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
PRELOAD = [
    *("torch", "torch._dynamo", "torchvision", "numpy", __name__),
    *(
        "dlconcepts.cli.parser",
        "dlconcepts.cli.watch",
        "dlconcepts.checks",
        "dlconcepts.watch.laws",
    ),
]
# Appended to a script: write all that a run computed and did not print.
EPILOGUE = """

def keep_what_was_computed():
    import os
    import random

    import numpy as np
    import torch

    found, todo = {}, [("", dict(globals()))]
    while todo:
        path, value = todo.pop()
        if isinstance(value, torch.Tensor):
            found[path] = value.detach().clone()
        elif isinstance(value, torch.nn.Module):
            todo.append((path, value.state_dict()))
            found[path + " modes"] = str([part.training for part in value.modules()])
            grads = [None if p.grad is None else p.grad for p in value.parameters()]
            found[path + " gradients"] = grads
        elif isinstance(value, torch.optim.Optimizer):
            todo.append((path, value.state_dict()))
        elif isinstance(value, dict):
            names = [key for key in value if not str(key).startswith("__")]
            todo += [(f"{path}.{key}", value[key]) for key in names]
        elif isinstance(value, (list, tuple)):
            todo += [(f"{path}.{place}", part) for place, part in enumerate(value)]
        elif type(value).__module__ == "__main__":
            todo.append((path, vars(value)))
        elif isinstance(value, (bool, int, float, str)):
            found[path] = value
    found["torch's state"] = torch.get_rng_state()
    found["numpy's state"] = str(np.random.get_state())
    found["random's state"] = str(random.getstate())
    found["gradients are on"] = torch.is_grad_enabled()
    torch.save(found, os.path.join(os.path.dirname(os.path.abspath(__file__)), "computed.pt"))


keep_what_was_computed()
"""


@dataclass(frozen=True)
class Run:
    """How a script ended, what it printed, and what `watch` reported, if it watched."""

    status: int
    printed: str
    errors: str
    seconds: float
    report: dict[str, Any] = field(default_factory=dict)

    def broken(self) -> list[dict[str, Any]]:
        return [found for found in self.findings() if found["verdict"] == "broken"]

    def findings(self) -> list[dict[str, Any]]:
        return list(self.report.get("findings", []))


def execute(script: str, folder: str, root: str, watched: bool) -> Run:
    """Run a script in this process, which then ends."""
    out, err = Path(folder, "printed.txt"), Path(folder, "errors.txt")
    report = Path(folder, "report.json")
    for number, path in enumerate((out, err), 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.chdir(root)
    random.seed(0)  # multiprocessing seeds it anew in each process
    # Another server that runs already may not have imported it. Scripts use the old generator.
    np.random.seed(0)  # noqa: NPY002
    sys.path[:] = [folder, *(part for part in sys.path if part not in ("", folder))]
    started = time.perf_counter()
    status: object = 0
    try:
        if watched:
            from dlconcepts.cli import main

            status = main(["watch", "--json", str(report), script])
        else:
            sys.argv = [script]
            runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    seconds = time.perf_counter() - started
    sys.stdout.flush()
    sys.stderr.flush()
    found = json.loads(report.read_text()) if watched and report.exists() else {}
    texts = [path.read_text(encoding="utf-8") for path in (out, err)]
    return Run(status if isinstance(status, int) else 1, *texts, seconds, found)


class Runner:
    """A server of processes; leave it by `close`."""

    def __init__(self, jobs: int = 1) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.pool = ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1)

    def start(
        self, text: str, folder: Path, *, watched: bool = True, root: Path | None = None
    ) -> "Future[Run]":
        """Write a script into a folder and run it there, or in `root`; the future has the run."""
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "train.py"
        script.write_text(text, encoding="utf-8")
        where = str(root or folder)
        return self.pool.submit(execute, str(script), str(folder), where, watched)

    def run(self, text: str, folder: Path, **options: Any) -> Run:
        return self.start(text, folder, **options).result(timeout=120)

    def close(self) -> None:
        self.pool.shutdown()
