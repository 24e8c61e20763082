"""Ask other processes to judge techniques: the learner's code may crash, or never end.

A server imports torch and the laws once and stays; each technique is judged in a process that is
forked off it, in milliseconds. Windows cannot fork: there each process imports them again.
"""

import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dlconcepts.practice.question import PRINTED, STUCK, Question, Rows, place_rows
from dlconcepts.practice.techniques import Technique
from dlconcepts.support.errors import UserError
from dlconcepts.testing.claims import TESTS

FRAME = re.compile(r'File "(.*)", line (\d+) in (\S+)')  # as faulthandler writes it
LAST = 1000  # characters of what was printed
OPEN = ("waiting", "loading", "running")  # states without a verdict
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT: Any = multiprocessing.get_context(START)


def unheard(*said: object) -> None:
    """Take what is said, and do nothing."""


def ask(
    questions: Sequence[Question],
    ahead: Sequence[Technique] = (),
    running: Callable[[str, str], object] = unheard,
) -> Iterator[dict[str, Any]]:
    """Judge techniques, as many at a time as there are cores, and yield the answers in order.

    The first call also imports the laws of the techniques `ahead`, which may be judged next.
    `running` gets the name of a technique and the law that judges it now, from several threads.
    """
    if sys.flags.optimize:
        raise UserError("python -O removes the laws' assertions: run without -O and PYTHONOPTIMIZE")
    if not questions and not ahead:
        return
    techniques = [*(question.technique for question in questions), *ahead]
    warm_up([name for technique in techniques for name in technique.modules])
    asking = Asking(running)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, asking.ended():
        yield from pool.map(asking.judged, questions)


def warm_up(modules: Sequence[str]) -> None:
    """Start the server with the modules of some laws, unless it runs."""
    if START == "spawn":
        return
    # conftest first: it keeps torch to one thread. A process forked off one with several would wait
    # for the others forever.
    preload = ["conftest", "dlconcepts.practice.judge", *dict.fromkeys(modules)]
    CONTEXT.set_forkserver_preload(preload)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS.parent), before]))
    try:
        forkserver.ensure_running()
    finally:
        os.environ["PYTHONPATH"] = before


class Asking:
    """The processes that judge now; all of them end if something interrupts."""

    def __init__(self, running: Callable[[str, str], object]) -> None:
        self.running = running
        self.live: set[Any] = set()
        self.lock, self.is_over = threading.Lock(), False

    @contextmanager
    def ended(self) -> Iterator[None]:
        """End what still runs when the block ends."""
        try:
            yield
        finally:
            with self.lock:
                self.is_over = True
                for process in self.live:
                    kill(process)

    def judged(self, question: Question) -> dict[str, Any]:
        """Judge a technique in another process, and return what it said."""
        known: dict[str, Any] = {"state": "waiting"}
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            pipe, end = CONTEXT.Pipe(duplex=False)
            with self.lock:
                if self.is_over:
                    return known
                started = time.perf_counter()
                process = CONTEXT.Process(target=run, args=(question, end, Path(folder)))
                process.start()
                self.live.add(process)
            end.close()
            # A verdict is final: the learner's threads and processes may run on, and are ended.
            while known["state"] in OPEN:
                ended = process.sentinel in connection.wait([pipe, process.sentinel])
                with suppress(EOFError):
                    while pipe.poll():
                        known |= pipe.recv()
                        if known["state"] == "running":
                            self.running(question.technique.name, known["law"])
                if ended:
                    break
            with self.lock:
                self.live.remove(process)
                kill(process)
            known["seconds"] = time.perf_counter() - started
            stuck, printed = read(Path(folder, STUCK)), read(Path(folder, PRINTED))
        if known["state"] in OPEN:
            known["state"] = "unfinished" if stuck else "failed"
            known["rows"] = early_end(stuck, question.path.parent, question.limit)
        if known["state"] != "passed":
            known["rows"] = [*known["rows"], ("printed", printed[-LAST:])]
        return known


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def run(question: Question, pipe: Any, notes: Path) -> None:
    """Judge a technique; this is the other process."""
    gc.freeze()  # what the server imported is never collected, so no pass need look at it
    from dlconcepts.practice.judge import judge  # imports torch, which the asking process need not

    judge(question, pipe, notes)


def kill(process: Any) -> None:
    """End a process and all that it started."""
    if hasattr(os, "killpg"):  # not on Windows
        with suppress(ProcessLookupError, PermissionError):  # macOS forbids it once all have ended
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def early_end(stuck: str, folder: Path, limit: float) -> Rows:
    """Describe why the process ended: one example took too long, or Python itself ended."""
    if not stuck:
        return place_rows("It ended the Python process: a crash, or a call of os._exit.", [])
    calls = [traceback.FrameSummary(name, int(line), at) for name, line, at in FRAME.findall(stuck)]
    own = [frame for frame in calls if Path(frame.filename).parent == folder]
    said = f"It ran for more than {limit:g} seconds on one example and was stopped."
    return place_rows(said, own[:1])  # faulthandler writes the innermost call first
