"""Run the laws in a pytest of their own and read the results.xml that it leaves."""

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

from dlconcepts.support.errors import UserError
from dlconcepts.testing.claims import LESSONS, TESTS, ClaimError, all_claims
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

    Raises UserError for what cannot work, before a law runs, and if pytest leaves no results. The
    files appear when both are whole. `progress` is called with the percentage of tests that ran.
    """
    tests = find_tests(lessons, jobs)
    found = find_devices(devices)
    with working_folder(out) as name:
        folder = Path(name).resolve()
        options = [f"--hypothesis-profile={profile}", *(f"--device={device}" for device in found)]
        options += ["-n", str(jobs)] if jobs > 1 else []
        status = run_pytest(tests, options, folder / "results.xml", progress)
        try:
            claims = all_claims(TESTS, lessons or LESSONS)
        except ClaimError as error:
            raise UserError(str(error)) from error
        report = read(folder / "results.xml", claims)
        page = render(report, environment(found, profile))
        (folder / "report.html").write_text(page, encoding="utf-8")
        for path in folder.iterdir():
            path.replace(out / path.name)
    return report, status


def require_tests() -> None:
    """Raise UserError if the laws are not here."""
    if not any((TESTS / lesson).is_dir() for lesson in LESSONS):
        raise UserError(
            f"there are no laws in {TESTS}, since an installed package does not hold them; clone "
            "the repository and run `pip install -e .` there"
        )


def find_tests(lessons: Sequence[str], jobs: int) -> list[Path]:
    """Return the folders to run; raise UserError unless they can be run."""
    require_tests()
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}")
    if jobs > 1 and importlib.util.find_spec("xdist") is None:
        raise UserError("--jobs needs pytest-xdist; run `pip install pytest-xdist`")
    for lesson in lessons:
        if not (TESTS / lesson).is_dir():
            raise UserError(f"there are no laws yet for {lesson}; choose another --lesson")
    return [path for lesson in lessons or LESSONS if (path := TESTS / lesson).is_dir()]


def find_devices(names: Sequence[str]) -> dict[str, str]:
    """Return the chosen devices, each with the name of its hardware."""
    import torch  # takes seconds, which help and usage errors need not wait for

    from dlconcepts.support import devices

    found = {}
    for name in dict.fromkeys(devices.DEVICES if "all" in names else names):
        try:
            module = torch.get_device_module(devices.find_device(name))
            found[name] = getattr(module, "get_device_name", processor)()
        except devices.DeviceUnavailableError:
            if name in names:
                raise
    return found


def processor() -> str:
    """Return the model name of the processor, or its architecture if the system has no name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    models = re.findall(r"^model name\s*: (.*)$", text, flags=re.MULTILINE)
    return models[0] if models else platform.processor() or platform.machine()


def working_folder(out: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder inside the output folder, so that nothing half-written stays."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".", dir=out)
    except OSError as error:
        raise UserError(
            f"cannot write to the folder {out}: {error.strerror}; choose another with --out"
        ) from error


def run_pytest(
    tests: Iterable[Path], options: Sequence[str], results: Path, progress: Callable[[int], None]
) -> int:
    """Run the laws in a pytest of their own and return its exit status."""
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
        except BaseException:
            process.terminate()
            raise
    if not results.is_file():
        raise UserError("pytest left no results; its last lines are:", "".join(last_lines))
    return process.returncode


def environment(devices: Mapping[str, str], profile: str) -> dict[str, str]:
    """Return what the laws ran with."""
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
