"""Run the laws in a separate pytest process and read its results.xml."""

import importlib.util
import platform
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from dlconcepts.support.errors import UserError, explaining, writing
from dlconcepts.testing.claims import LESSONS, TESTS, all_claims
from dlconcepts.testing.results import Report, read, render

PERCENT = re.compile(r"\[ *(\d+)%\]")  # in each line that `pytest -v` prints


def verify(
    devices: Sequence[str],
    lessons: Sequence[str],
    *,
    profile: str,
    jobs: int,
    out: Path,
    progress: Callable[[int], None],
) -> tuple[Report, int]:
    """Run the laws, write results.xml and report.html into `out`; return report and exit status.

    Raises UserError if an argument is wrong, before a law runs, and if pytest writes no results.
    The files appear once both are complete. `progress` is called with the percentage of tests run.
    """
    tests = find_tests(lessons, jobs)
    claims = all_claims(TESTS, lessons or LESSONS)
    found = find_devices(devices)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        working = tempfile.TemporaryDirectory(prefix=".", dir=out)  # so `out` has no partial file
    with working as name:
        folder = Path(name).resolve()
        options = [f"--hypothesis-profile={profile}", *(f"--device={device}" for device in found)]
        options += ["-n", str(jobs)] if jobs > 1 else []
        status = run_pytest(tests, options, folder / "results.xml", progress)
        report = read(folder / "results.xml", claims)
        page = render(report, environment(found, profile))
        (folder / "report.html").write_text(page, encoding="utf-8")
        for path in folder.iterdir():
            path.replace(out / path.name)
    return report, status


def require_tests() -> None:
    """Raise UserError if the laws are missing."""
    if not any((TESTS / lesson).is_dir() for lesson in LESSONS):
        raise UserError(
            f"there are no laws in {TESTS}, since the installed package does not include them; "
            "clone the repository and run `pip install -e .` there"
        )


def find_tests(lessons: Sequence[str], jobs: int) -> list[Path]:
    """Return the folders of the lessons; raise UserError if they cannot run."""
    require_tests()
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}")
    if jobs > 1 and importlib.util.find_spec("xdist") is None:
        raise UserError("--jobs needs pytest-xdist; run `pip install pytest-xdist`")
    for lesson in lessons:
        if not (TESTS / lesson).is_dir():
            raise UserError(f"there are no laws for {lesson}; choose another --lesson")
    return [path for lesson in lessons or LESSONS if (path := TESTS / lesson).is_dir()]


def find_devices(names: Sequence[str]) -> dict[str, str]:
    """Return the chosen devices, each with the name of its hardware."""
    import torch  # here, since it takes seconds, and usage errors should not wait for it

    from dlconcepts.support import devices

    found = {}
    for name in dict.fromkeys(devices.DEVICES if "all" in names else names):
        try:
            with explaining():
                module = torch.get_device_module(devices.find_device(name))
            found[name] = getattr(module, "get_device_name", processor)()
        except devices.DeviceUnavailableError:
            if name in names:
                raise
    return found


def processor() -> str:
    """Return the model name of the processor, or its architecture if the name is unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    models = re.findall(r"^model name\s*: (.*)$", text, flags=re.MULTILINE)
    return models[0] if models else platform.processor() or platform.machine()


def run_pytest(
    tests: Iterable[Path], options: Sequence[str], results: Path, progress: Callable[[int], None]
) -> int:
    """Run the laws in a separate pytest process and return its exit status."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "--color=no", *map(str, tests)]
    with subprocess.Popen(
        [*command, f"--junitxml={results}", *options],
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as process:
        last_lines = deque[str](maxlen=20)
        try:
            for line in process.stdout or ():
                last_lines.append(line)
                if percent := PERCENT.search(line):
                    progress(int(percent[1]))
        except BaseException:  # Ctrl-C, above all
            process.terminate()
            raise
    if not results.is_file():
        raise UserError("pytest wrote no results; its last lines are:", "".join(last_lines))
    return process.returncode


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
