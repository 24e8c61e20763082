"""Run the laws in separate pytest processes, and keep each verdict as soon as it is there."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from dlconcepts.support.atomic import making
from dlconcepts.support.errors import UserError, explaining, writing
from dlconcepts.support.signals import NAMES, Stopped, finishing
from dlconcepts.testing.claims import LESSONS, TESTS, Claim
from dlconcepts.testing.results import (
    Item,
    Report,
    add_properties,
    judge,
    read_item,
    render,
    xml_text,
)

POLL = 0.1  # seconds between two looks at what pytest wrote
GRACE = 1.0  # seconds for pytest's processes to remove their files after Ctrl-C
NO_TESTS = 5  # pytest's exit status
FIRST_UNKNOWN_STATUS = 6  # pytest ends with 0 to 5; another one, or a signal, is that of a crash
TAIL = 20  # lines of pytest's output to show if it ran nothing


@dataclass
class Run:
    """A run of the laws of some claims, while it goes on and after it.

    `watch` is called with the id of a test when it starts, and with each item when it ends.
    """

    claims: Sequence[Claim]
    watch: Callable[[Item | str], None]
    cases: list[ET.Element] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    stopped_by: int | None = None  # the signal

    @property
    def report(self) -> Report:
        """What has been judged so far."""
        return judge(map(read_item, self.cases), self.claims)


def verify(
    run: Run, devices: Sequence[str], *, profile: str, jobs: int, out: Path, fail_fast: bool = False
) -> None:
    """Run the laws of the claims of a run, write results.xml and report.html into `out`.

    Ctrl-C and SIGTERM end the run within two seconds; the report then has what was judged before.
    Raises UserError if an argument is wrong, before a law runs, and if pytest runs nothing.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}")
    results = out / "results.xml"
    said = f"cannot read {results}, which orders the laws: ", "; delete it, or choose another --out"
    with explaining(*said, (ET.ParseError, OSError)):
        if fail_fast and results.exists():
            ET.parse(results)
    if list(devices) != ["cpu"]:
        devices = list(find_devices(devices))
    # A folder of its own, so that `out` has no partial file.
    with making(out), writing(out), tempfile.TemporaryDirectory(prefix=".", dir=out) as name:
        folder = Path(name).resolve()
        options = [f"--hypothesis-profile={profile}", *(f"--device={device}" for device in devices)]
        if fail_fast:
            options += ["-x", f"--first-failure={results.resolve()}"]
        run_pytest(run, options, folder, jobs)
        with finishing():
            write(run, folder / "results.xml")
            page = render(run.report, run.environment)
            (folder / "report.html").write_text(page, encoding="utf-8")
            for file in ("results.xml", "report.html"):
                (folder / file).replace(out / file)


class Worker:
    """A pytest process with its own process group. It judges claims that no other one has taken."""

    def __init__(self, run: Run, options: Sequence[str], folder: Path) -> None:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".stream", delete=False) as file:
            self.stream, self.read = Path(file.name), 0
        self.output = self.stream.with_suffix(".output")
        command = [sys.executable, "-m", "pytest", "-q", "--color=no", "--tb=short"]
        command += ["-p", "dlconcepts.testing.stream", f"--stream={self.stream}", *options]
        command += [str(claim.path) for claim in run.claims]
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=TESTS.parent, stdout=log, stderr=log, start_new_session=True
            )
        self.run, self.item = run, ""

    def follow(self) -> bool:
        """Add to the run what is new in the stream; return whether the process goes on."""
        goes_on = self.process.poll() is None  # asked first: what it wrote is then complete
        with self.stream.open("rb") as stream:
            stream.seek(self.read)
            *lines, rest = stream.read().split(b"\n")
            self.read = stream.tell() - len(rest)
        for line in lines:
            element = ET.fromstring(json.loads(line))
            self.item = element.get("nodeid", "")
            take(self.run, element)
        return goes_on

    def died(self) -> bool:
        """Return whether the process was killed by what it ran; that item then failed."""
        if not self.item or self.process.returncode in range(FIRST_UNKNOWN_STATUS):
            return False
        case = case_of(self.item)
        said = f"the process of this test died with status {self.process.returncode}"
        ET.SubElement(case, "failure", message=said).text = said
        take(self.run, case)
        return True


def run_pytest(run: Run, options: Sequence[str], folder: Path, jobs: int) -> None:
    """Run pytest in processes that share the claims, and add what they write to the run."""
    workers: list[Worker] = []
    try:
        with finishing():  # a process that has started is known, and is ended below
            workers += [Worker(run, options, folder) for _ in range(jobs)]
        running = list(workers)
        while running and not ("-x" in options and run.report.failed):
            time.sleep(POLL)
            for worker in [worker for worker in running if not worker.follow()]:
                running.remove(worker)
                if worker.died():
                    taken(folder, worker.item.partition("::")[0]).unlink(missing_ok=True)
                    with finishing():
                        workers.append(Worker(run, options, folder))
                    running.append(workers[-1])
    except Stopped as error:
        run.stopped_by = error.number
        for number in NAMES:  # another one must not leave processes behind
            signal.signal(number, signal.SIG_IGN)
    finally:
        end([worker.process for worker in workers])
        for worker in workers:
            worker.follow()
    # Another process may have taken all claims.
    run.status = max({worker.process.returncode for worker in workers} - {NO_TESTS}, default=0)
    if not run.cases and run.stopped_by is None:
        text = workers[0].output.read_text(encoding="utf-8", errors="replace")
        last = "\n".join(text.splitlines()[-TAIL:])
        raise UserError("pytest ran no law; its last lines are:", last)


def taken(folder: Path, name: str) -> Path:
    """Return the file that says that a process has taken a claim or an item, by its node id."""
    return folder / sha256(name.encode()).hexdigest()


def case_of(nodeid: str) -> ET.Element:
    """Return an item's test case, named as pytest's own JUnit XML names it."""
    path, bracket, parameters = nodeid.partition("[")
    file, *names = path.split("::")
    *places, name = file.removesuffix(".py").replace("/", "."), *names
    full = xml_text(name + bracket + parameters)
    return ET.Element("testcase", classname=".".join(places), name=full)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes, with a second to tidy up, and every process that they started."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        signal_group(process, "SIGINT")
    until = time.monotonic() + GRACE
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0, until - time.monotonic()))
    for process in processes:
        signal_group(process, "SIGKILL")
        process.kill()
        process.wait()


def signal_group(process: subprocess.Popen[bytes], name: str) -> None:
    """Send a signal to a process and to all that it started, if the system has process groups."""
    if hasattr(os, "killpg"):  # not on Windows
        with suppress(ProcessLookupError, PermissionError):  # macOS forbids it once all have ended
            os.killpg(process.pid, getattr(signal, name))


def take(run: Run, element: ET.Element) -> None:
    if element.tag == "start":
        run.watch(element.get("nodeid", ""))
    elif element.tag == "testcase":
        run.cases.append(element)
        run.watch(read_item(element))
    else:
        run.environment = {p.get("name", ""): p.get("value", "") for p in element.iter("property")}


def write(run: Run, file: Path) -> None:
    """Write the run as JUnit XML, in the order of the claims whatever process was first."""
    places = {f"tests.{claim.lesson}.{claim.path.stem}": n for n, claim in enumerate(run.claims)}
    cases = sorted(run.cases, key=lambda case: places.get(case.get("classname", ""), len(places)))
    suite = ET.Element("testsuite", name="dlconcepts", tests=str(len(cases)))
    for count, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(count, str(sum(case.find(tag) is not None for case in cases)))
    add_properties(suite, run.environment)
    suite.extend(cases)
    ET.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)


def require_tests() -> None:
    if not any((TESTS / lesson).is_dir() for lesson in LESSONS):
        raise UserError(
            f"there are no laws in {TESTS}, since the installed package does not include them; "
            "clone the repository and run `pip install -e .` there"
        )


def find_devices(names: Sequence[str]) -> dict[str, str]:
    """Return the chosen devices, each with the name of its hardware."""
    from dlconcepts.support import devices  # here, since torch takes seconds to import

    with explaining():
        return {str(d): devices.hardware(d, processor) for d in devices.find_devices(names)}


def processor() -> str:
    """Return the model name of the processor, or its architecture if the name is unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    models = re.findall(r"^model name\s*: (.*)$", text, flags=re.MULTILINE)
    return models[0] if models else platform.processor() or platform.machine()


def environment(devices: Mapping[str, str], profile: str) -> dict[str, str]:
    """Return the date, devices, profile and versions of a run."""
    import torch

    packages = ("torchvision", "numpy", "hypothesis", "pytest")
    return {
        "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "device": ", ".join(f"{device} ({name})" for device, name in devices.items()),
        "profile": profile,
        "torch": torch.__version__,  # with the build, which the package's metadata lacks
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
