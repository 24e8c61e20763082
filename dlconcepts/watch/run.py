"""Run a script, or a block of code, while a trace watches it."""

import os
import runpy
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from dlconcepts.watch.hooks import Hooks
from dlconcepts.watch.laws import LAWS
from dlconcepts.watch.places import OURS
from dlconcepts.watch.report import Finding, Report
from dlconcepts.watch.trace import Trace

__all__ = ["Finding", "Report", "watching"]


@contextmanager
def watching() -> Iterator[Report]:
    """Watch a block of code; the report is complete when the block ends.

    >>> import torch
    >>> layer = torch.nn.Linear(1, 1)
    >>> with watching() as report:
    ...     optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    ...     for _ in range(2):
    ...         layer(torch.ones(2, 1)).sum().backward()
    ...         optimizer.step()
    >>> [finding.law for finding in report.findings]
    ['a-step-follows-its-own-batch']
    """
    report, trace = Report(), Trace(LAWS)
    try:
        with Hooks(trace):
            yield report
    finally:
        complete(report, trace)


def complete(report: Report, trace: Trace) -> None:
    """Judge what can be judged only at the end, and fill in a report.

    The overhead counts the seconds of the laws, not what the hooks themselves take.
    """
    seconds = time.perf_counter() - trace.started
    with trace.proving():
        trace.settle(final=True)
        trace.tell("finished")
    report.findings = list(trace.findings.values())
    broken = {finding.law for finding in report.broken}
    for law in trace.laws:
        seen = "kept" if law.seen and not law.gave_up else "not seen"
        report.laws[law.id] = "broken" if law.id in broken else seen
        report.lessons[law.id] = law.lesson
    report.steps, report.errors = trace.steps, trace.errors
    report.seconds = round(seconds, 3)
    report.overhead = round(seconds / max(seconds - trace.spent, 1e-9), 3)


def run_script(
    name: str, arguments: Sequence[str], is_module: bool, done: Callable[[Report], Any]
) -> int:
    """Run a script or module as `python` would, give the report to `done`, return the status.

    `done` is called exactly once, however the script ends, but for a signal that kills it.
    """
    report, trace = Report(), Trace(LAWS)
    main, leave = os.getpid(), os._exit

    def finish() -> None:
        if not report.laws and os.getpid() == main:  # not in a child that the script forked
            complete(report, trace)
            done(report)

    def leave_at_once(status: int) -> Any:
        finish()
        leave(status)

    os._exit = leave_at_once
    sys.argv = [name, *arguments]
    try:
        with Hooks(trace):
            execute(name, is_module)
        status = 0
    except SystemExit as error:
        status = exit_status(error)
    except BaseException as error:  # the script's own: shown as Python shows it
        show(error)
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        os._exit = leave
    sys.stdout.flush()
    finish()
    return status


def execute(name: str, is_module: bool) -> None:
    if is_module:
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return
    path = Path(name).absolute()
    sys.path[0] = str(path.resolve().parent)
    # A worker process that is spawned, and pickle, look for the script in sys.modules.
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    loader = SourceFileLoader("__main__", str(path))
    own = {"__file__": str(path), "__builtins__": __builtins__, "__cached__": None}
    vars(module).update(own, __loader__=loader)
    code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    exec(code, vars(module))


def exit_status(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def show(error: BaseException) -> None:
    """Print an exception as Python does, without the frames of watch."""
    seen: set[int] = set()
    chain: BaseException | None = error
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        chain.__traceback__ = without_ours(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(error)
    else:  # the script has its own
        sys.excepthook(type(error), error, error.__traceback__)


def without_ours(found: types.TracebackType | None) -> types.TracebackType | None:
    if found is None:
        return None
    rest = without_ours(found.tb_next)
    if found.tb_frame.f_code.co_filename.startswith((OURS, "<frozen runpy>", runpy.__file__)):
        return rest
    return types.TracebackType(rest, found.tb_frame, found.tb_lasti, found.tb_lineno)
