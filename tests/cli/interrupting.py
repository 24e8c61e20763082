"""Interrupt every command at counted moments: `python -m tests.cli.interrupting 500 [COMMAND ...]`.

A moment is a number of calls of Python functions, or of imports, not of seconds: it is the same on
a slow machine. Each moment has a process of its own, forked from one that has imported PyTorch.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest
import torch
from PIL import Image

import dlconcepts
from dlconcepts import checkpoints
from dlconcepts.cli import main, parser
from dlconcepts.support.bitwise import state_of
from tests.cli.rows import Given
from tests.cli.rows.compare import a, b
from tests.cli.rows.given import (
    TRAIN,
    TRANSFER,
    album,
    good,
    no_pictures,
    picture,
    project,
    script,
    text,
    trained,
    transferred,
)
from tests.cli.rows.parity import quick
from tests.cli.rows.verify import suite

PACKAGE = str(Path(dlconcepts.__file__).parent)
# Where signals are heeded and files written: half of the moments are calls of these.
CRITICAL = tuple(f"{PACKAGE}/{part}" for part in ("cli/", "support/", "checkpoints.py"))
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SENTENCE = r"dlconcepts( \w+)?: (interrupted|terminated)"


class Case(NamedTuple):
    """A command to interrupt, and how often, in comparison with the others."""

    line: str
    share: int
    given: Sequence[Given] = ()
    children: bool = False  # it starts processes, and waits for them without counting


CASES = {
    "train": Case(f"{TRAIN} 3 --out run", 8, [no_pictures]),
    "train --force": Case(f"{TRAIN} 3 --out run --force", 6, [no_pictures, trained]),
    "train --resume": Case(
        f"{TRAIN} 3 --out run --resume run/checkpoint.pt", 5, [no_pictures, trained]
    ),
    "transfer": Case(f"{TRANSFER} 3 --out run", 7, [no_pictures, album()]),
    "transfer --resume": Case(
        f"{TRANSFER} 3 --out run --resume run/checkpoint.pt", 4, [no_pictures, transferred]
    ),
    "classify": Case("classify good.pt grey.png grey.png", 4, [good, picture("grey.png", "L")]),
    "check": Case("check project:good --json r.json --junit r.xml", 3, [project]),
    "watch": Case("watch --json r.json script.py", 2, [script]),
    "parity": Case("parity --eager --json r.json", 2, quick),
    "practice": Case("practice", 2),
    "practice --check": Case("practice --check", 1, [text("practice/tensors.py", "")]),
    "claims": Case("claims --json", 1),
    "compare": Case("compare a.xml b.xml --json", 1, [a, b]),
    "verify": Case("verify --profile dev", 1, [suite], children=True),
}
IMPORTS = 3  # the share of real processes that are interrupted while they import
# The hook counts imports from the first line of ours on.
IMPORTING = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from dlconcepts.cli import main
at, number, sent = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
count = 0
def hook(event, arguments):
    global count
    count += event == "import"
    if event == "import" and count == at:
        os.write(sent, str(time.monotonic()).encode())
        os.kill(os.getpid(), number)
sys.addaudithook(hook)
del sys.argv[1:4]
try:
    sys.exit(main())
finally:
    if not at:
        os.write(sent, str(count).encode())
"""


class Ended(NamedTuple):
    """How an interrupted process ended: in which folder, status, output, errors, and when."""

    folder: Path
    status: int
    out: str
    err: str
    note: str  # what the process wrote about itself
    end: float

    @property
    def here(self) -> Path:
        return self.folder / "here"


def fork(case: Case, folder: Path, at: int = 0, number: int = 0) -> Ended:
    """Run a case in a process of its own, and send it a signal at one of its calls."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            status = in_child(case, folder, writer, at, number)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = 99
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as notes:
        note = notes.read()  # until the process ends
    return ended(folder, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), note)


def ended(folder: Path, status: int, note: str) -> Ended:
    end = time.monotonic()
    out, err = ((folder / name).read_text(errors="replace") for name in ("out", "err"))
    return Ended(folder, status, out, err, note, end)


def in_child(case: Case, folder: Path, writer: int, at: int, number: int) -> int:
    """Run a case to its end in this process, and return its status."""
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.set_inheritable(writer, False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "temporary")
    os.environ["MOMENT"] = str(folder)  # as all processes that it starts inherit
    for path in (folder / "temporary", folder / "here"):
        path.mkdir(exist_ok=True)
    os.chdir(folder / "here")
    sys.path.insert(0, str(folder / "here"))
    sys.argv = ["dlconcepts", *shlex.split(case.line)]
    patch, count, critical = pytest.MonkeyPatch(), 0, []
    for prepare in case.given:
        prepare(patch)
    (folder / "before.json").write_text(json.dumps(contents(folder / "here")))

    def profile(frame: FrameType, kind: str, argument: object) -> None:
        nonlocal count
        file = frame.f_code.co_filename
        if kind != "call" or (case.children and not file.startswith(PACKAGE)):
            return
        if frame.f_code.co_name == "follow":  # it looks from time to time
            return
        count += 1
        if not at and file.startswith(CRITICAL):
            critical.append(count)
        if count == at:
            sys.setprofile(None)
            os.write(writer, str(time.monotonic()).encode())
            os.kill(os.getpid(), number)

    sys.setprofile(profile)
    try:
        status = main()
    except SystemExit as error:
        status = error.code
    sys.setprofile(None)
    sys.stdout.flush()
    if not at:
        os.write(writer, json.dumps([count, critical]).encode())
    return status


def imported(folder: Path, at: int = 0, number: int = 0) -> Ended:
    """Run `train` in a real process, and send it a signal at one of its imports."""
    (folder / "temporary").mkdir()
    (folder / "here").mkdir()
    (folder / "before.json").write_text("{}")
    reader, writer = os.pipe()
    root = str(Path(PACKAGE).parent)
    variables = {"TMPDIR": str(folder / "temporary"), "MOMENT": str(folder), "PYTHONPATH": root}
    line = [*map(str, (at, int(number), writer)), *shlex.split(f"{TRAIN} 3 --out run")]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", IMPORTING, *line],
            cwd=folder / "here",
            env={**os.environ, **variables},
            stdout=out,
            stderr=err,
            pass_fds=[writer],
        )
        os.close(writer)
        with os.fdopen(reader) as notes:
            note = notes.read()
        return ended(folder, process.wait(), note)


# ------------------------------------------------------------------------ what must be so


def contents(folder: Path) -> dict[str, str]:
    """Return the bytes of each file, in a form that JSON can hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes().hex()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def faults(name: str, case: Case, found: Ended, number: int, whole: dict[str, str]) -> list[str]:
    """Return what is wrong with how a command ended."""
    return [
        *faults_of_the_end(name, found, number),
        *faults_of_the_files(found, whole),
        *faults_of_the_sentence(case, found),
    ]


def faults_of_the_end(name: str, found: Ended, number: int) -> Iterator[str]:
    """Yield what is wrong with status, sentence, processes and temporary files."""
    own = name == "watch" and not re.match(SENTENCE, found.err)  # the script ends as Python does
    statuses = (128 + number, -number) if own else (128 + number,)
    if found.status not in statuses:
        yield f"status {found.status}: {found.err[-300:]}"
    if not own and not re.fullmatch(f"{SENTENCE}.*\n", found.err):
        yield f"it says {found.err!r}"
    if not own and "Traceback" in found.err:
        yield "a traceback"
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MOMENT={found.folder}".encode() in path.read_bytes():
                yield f"process {path.parent.name} runs on"
        except OSError:
            continue
    if left := list((found.folder / "temporary").iterdir()):
        yield f"left {left[0].name} in the temporary folder"


def faults_of_the_files(found: Ended, whole: dict[str, str]) -> Iterator[str]:
    """Yield the files that are lost, not whole, or not of one run."""
    before = json.loads((found.folder / "before.json").read_text())
    now = contents(found.here)
    for path in before.keys() - now.keys():
        yield f"lost {path}"
    for path in now:
        unfinished = path.replace(".partial/", "/")
        if unfinished not in whole.keys() | before.keys():
            yield f"left {path}"
        elif before.get(path) != now[path] and (fault := fault_of(found.here / path)):
            yield f"{path} is not whole: {fault}"
    parts = (before, now, whole)
    old, new, every = ({p: t for p, t in part.items() if p.startswith("run/")} for part in parts)
    if new != old and new.keys() != every.keys():
        yield f"{sorted(new)} are not all files of a run"


def fault_of(path: Path) -> str:
    """Return what is wrong with a file, if it cannot be read as what it is."""
    try:
        if path.suffix == ".png" and path.stat().st_size:  # skipped pictures are empty
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".pt":
            checkpoints.load(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".xml":
            ET.parse(path)
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), "no end"
        elif path.suffix == ".py":
            assert compile(path.read_text(), path, "exec").co_names, "empty"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def faults_of_the_sentence(case: Case, found: Ended) -> Iterator[str]:
    """Yield what the last sentence says that is not so, and each epoch that is lost."""
    before, now = json.loads((found.folder / "before.json").read_text()), contents(found.here)
    shown = [int(number) for number in re.findall(r"^epoch +(\d+)", found.out, re.MULTILINE)]
    kept = re.search(r"(\S+/checkpoint\.pt) keeps (\d) of 3 epochs", found.err)
    if kept:
        training = checkpoints.load(found.here / kept[1]).training
        if training is None or training.epoch != int(kept[2]) or int(kept[2]) < max([0, *shown]):
            yield f"{kept[0]!r} is not so, and {shown} were shown"
        yield from faults_of_resuming(case, found)
    elif shown and "has the complete run" not in found.err:
        yield f"lost epochs {shown}"
    if "nothing was written" in found.err and now != before:
        yield "something was written"
    if "as it was before" in found.err and now["run/checkpoint.pt"] != before["run/checkpoint.pt"]:
        yield "the earlier run is another"
    if "has what was judged" in found.err and not (found.here / "verify" / "results.xml").exists():
        yield "nothing that was judged is there"
    if "has the complete run" in found.err:
        training = checkpoints.load(found.here / "run" / "checkpoint.pt").training
        if training is None or training.epoch != 3:
            yield "the run is not complete"


def faults_of_resuming(case: Case, found: Ended) -> Iterator[str]:
    """Run the command that the sentence gives; yield if it does not end as a whole run does."""
    line = found.err.partition("`python -m dlconcepts ")[2].partition("`")[0]
    again = fork(case._replace(line=line, given=[no_pictures]), found.folder)
    if again.status:
        yield f"`{line}` ends with {again.status}: {again.err[-300:]}"
    elif state_of(checkpoints.load(found.here / "run" / "checkpoint.pt").model) != WHOLE[case.line]:
        yield f"`{line}` trains another network"


WHOLE: dict[str, object] = {}  # the network of an uninterrupted run of each line


# ------------------------------------------------------------------------ all of it


def moments(total: int, critical: Sequence[int], number: int) -> list[int]:
    """Return so many moments: half of them anywhere, half in the critical calls."""
    anywhere = [max(round(total * (i + 0.5) / number), 1) for i in range(0, number, 2)]
    chosen = [
        critical[round((len(critical) - 1) * (i + 0.5) / number)] for i in range(1, number, 2)
    ]
    return sorted(anywhere + chosen)


def interrupt(number: int, only: Sequence[str]) -> int:
    """Interrupt commands at about so many moments; print the totals, return the faults."""
    totals: Counter[str] = Counter()
    longest, shares = (0.0, ""), sum(case.share for case in CASES.values()) + IMPORTS
    for name in parser.COMMANDS:
        __import__(f"dlconcepts.cli.{name}")
    torch.set_num_threads(1)  # a fork has only one thread, and would wait for the others forever
    started = time.monotonic()
    for name, case in [*CASES.items(), ("imports", Case("", IMPORTS))]:
        if only and name.split()[0] not in only:
            continue
        wanted = max(round(number * case.share / shares), 1)
        with tempfile.TemporaryDirectory() as root:
            run = imported if name == "imports" else lambda *given, case=case: fork(case, *given)
            first = new(root)
            counted = run(first)
            assert counted.status in (0, 1), counted.err
            whole = contents(counted.here)
            if (first / "here" / "run" / "checkpoint.pt").exists():
                found = checkpoints.load(first / "here" / "run" / "checkpoint.pt")
                WHOLE[case.line] = state_of(found.model)
            noted = json.loads(counted.note)
            total, critical = noted if isinstance(noted, list) else (noted, range(1, noted))
            for index, at in enumerate(moments(total, critical, wanted)):
                signalled = SIGNALS[index % 2]
                while not (ended := run(new(root), at, signalled)).note:
                    at = at * 99 // 100  # this run had fewer calls
                seconds = ended.end - float(ended.note)
                wrong = faults(name, case, ended, signalled, whole)
                longest = max(longest, (seconds, f"{name} at {at} of {total}"))
                totals["moments"] += 1
                totals["kept"] += bool(re.search("keeps|complete run|was judged", ended.err))
                totals["lost"] += any("lost" in fault for fault in wrong)
                totals["left behind"] += any(fault.startswith("left") for fault in wrong)
                totals["processes"] += any("runs on" in fault for fault in wrong)
                totals["faults"] += bool(wrong)
                for fault in wrong:
                    print(f"{name} at {at} of {total}, signal {signalled}: {fault}", flush=True)
        print(f"{name}: {wanted} moments of {total}", flush=True)
    print(", ".join(f"{totals[key]} {key}" for key in ("moments", "kept", "lost", "left behind")))
    print(f"{totals['processes']} processes left, {totals['faults']} moments with a fault")
    print(f"the longest took {longest[0]:.2f} s to end: {longest[1]}")
    print(f"all took {time.monotonic() - started:.0f} s")
    return totals["faults"]


def new(root: str) -> Path:
    """Return a new folder for one moment."""
    return Path(tempfile.mkdtemp(dir=root))


if __name__ == "__main__":
    sys.exit(1 if interrupt(int(sys.argv[1]), sys.argv[2:]) else 0)
