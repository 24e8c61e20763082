"""What `python -m dlconcepts verify` does: run the laws, print a verdict a claim, keep a report.

The laws run in a pytest of their own, and all that is told comes from the results.xml it leaves.
"""

import argparse
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from dlconcepts.testing.results import LESSONS, Claim, Report, read, render

TESTS = Path(__file__).parents[1] / "tests"
PROFILES = ("dev", "ci", "thorough", "book")
PERCENT = re.compile(r"\[ *(\d+)%\]")  # how far it is, in each line that pytest -v prints
COLOURS = {
    **{"holds": "green", "holds-if": "yellow", "corrected": "magenta", "opinion": "blue"},
    **{"ok": "green", "FAILED": "bold red", "skipped": "yellow", "pending": "dim"},
}


class VerifyError(Exception):
    """Something that the person at the command line can put right."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `verify` can be told."""
    parser.description = "Run the laws, print the verdict on each claim, and write a report."
    add = parser.add_argument
    add("--device", nargs="+", action="extend", help="cpu (default), cuda, mps, xpu, or all")
    names = f"only the laws of: {', '.join(LESSONS)}"
    add("--lesson", nargs="+", action="extend", choices=LESSONS, metavar="NAME", help=names)
    add("--profile", choices=PROFILES, default="ci", help="how many examples (%(default)s)")
    add("--jobs", type=int, default=1, metavar="N", help="processes (%(default)s)")
    add("--out", type=Path, default=Path("verify"), metavar="DIR", help="folder (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Run the laws and return 0 if all is well, 1 if something fell short, 2 for bad input."""
    try:
        tests = find_tests(arguments)
        devices = find_devices(arguments.device or ["cpu"])
        with working_folder(arguments.out) as name:
            folder = Path(name).resolve()
            status = run_pytest(tests, devices, arguments, folder / "results.xml")
            report = read(
                folder / "results.xml", TESTS / "claims.toml", arguments.lesson or LESSONS
            )
            page = render(report, environment(devices, arguments.profile))
            (folder / "report.html").write_text(page, encoding="utf-8")
            for path in folder.iterdir():
                path.replace(arguments.out / path.name)
    except (VerifyError, OSError) as error:
        print(f"dlconcepts verify: {error}", file=sys.stderr)
        return 2
    show(report)
    print(f"wrote {arguments.out / 'results.xml'}\nwrote {arguments.out / 'report.html'}")
    return 1 if status or report.failed else 0


def find_tests(arguments: argparse.Namespace) -> list[Path]:
    """Return the files or the folder of the laws that were asked for, once they can be run."""
    if not (TESTS / "claims.toml").is_file():
        raise VerifyError(
            f"there are no laws in {TESTS}, since an installed package does not hold them; clone "
            "the repository and run `pip install -e .` there"
        )
    if arguments.jobs < 1:
        raise VerifyError(f"--jobs must be at least 1, not {arguments.jobs}")
    if arguments.jobs > 1 and importlib.util.find_spec("xdist") is None:
        raise VerifyError("--jobs needs pytest-xdist; run `pip install pytest-xdist`")
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(TESTS.glob("test_*.py"))}
    files: list[Path] = []
    for lesson in arguments.lesson or ():
        found = [path for path in texts if re.search(rf'@claim\(\s*"{lesson}\.', texts[path])]
        if not found:
            raise VerifyError(f"there are no laws yet for {lesson}; choose another --lesson")
        files += found
    return files or [TESTS]


def find_devices(names: Sequence[str]) -> dict[str, str]:
    """Return the devices that were asked for, each with the name of its hardware."""
    import torch  # takes seconds, which help and usage errors need not wait for

    from dlconcepts.support.devices import DEVICES, DeviceUnavailableError, find_device

    devices = {}
    for name in dict.fromkeys(DEVICES if "all" in names else names):
        try:
            module = torch.get_device_module(find_device(name))
            describe = getattr(module, "get_device_name", processor)
            devices[name] = describe()
        except (DeviceUnavailableError, ValueError) as error:
            if name in names:
                raise VerifyError(error) from error
    return devices


def processor() -> str:
    """Return the model name of the processor, or of its architecture where none is told."""
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
        raise VerifyError(
            f"cannot write to the folder {out}: {error.strerror}; choose another with --out"
        ) from error


def run_pytest(
    tests: Iterable[Path], devices: Iterable[str], arguments: argparse.Namespace, results: Path
) -> int:
    """Run the laws in a pytest of their own and return its exit status."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "--color=no", *map(str, tests)]
    command += [f"--junitxml={results}", f"--hypothesis-profile={arguments.profile}"]
    command += [f"--device={device}" for device in devices]
    if arguments.jobs > 1:
        command += ["-n", str(arguments.jobs)]
    with subprocess.Popen(
        command,
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as process:
        try:
            last_lines = follow(process.stdout or ())
        except BaseException:
            process.terminate()
            raise
    if not results.is_file():
        raise VerifyError(f"pytest left no results, its last lines are:\n{last_lines}")
    return process.returncode


def follow(lines: Iterable[str]) -> str:
    """Show how far pytest has come, and return the last lines that it wrote."""
    last_lines = deque[str](maxlen=20)
    shown = 0
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("running the laws", total=None)
        for line in lines:
            last_lines.append(line)
            percent = int(found[1]) if (found := PERCENT.search(line)) else 0
            if percent > 0:
                progress.update(task, completed=percent, total=100)
            if progress.disable and percent >= shown + 10:
                shown = percent
                print(f"{percent} % of the tests have run", flush=True)
    return "".join(last_lines)


def environment(devices: Mapping[str, str], profile: str) -> dict[str, str]:
    """Return what the laws ran with."""
    import torch

    packages = ("torchvision", "numpy", "hypothesis", "pytest")
    return {
        "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "device": ", ".join(f"{device} ({name})" for device, name in devices.items()),
        "profile": profile,
        "torch": torch.__version__,  # with the build, which the package's metadata leave out
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def show(report: Report) -> None:
    """Print a table a lesson, what fell short, was skipped or is pending, and the totals."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    console = Console(width=min(columns, 120), highlight=False)
    for lesson, claims in report.lessons.items():
        console.print(table(lesson, claims))
    for item in report.failed:
        console.print(Text(f"FAILED {item.function} {item.parameters}", "bold red"))
        console.print(Text(item.details or item.message))
    for title, lines in (("skipped", report.skipped), ("pending", report.pending)):
        if lines:
            console.print(Text(f"{title} ({len(lines)})", "bold"))
            console.print(Text("\n".join(f"  {line}" for line in lines)))
    for name, total in report.totals.items():
        console.print(Text(f"{name}: {total}"))


def table(lesson: str, claims: Iterable[Claim]) -> Table:
    """Return the table of a lesson."""
    rows = Table(
        title=lesson,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        expand=True,
    )
    rows.add_column("claim", ratio=1, overflow="fold")  # the column that gives way
    rows.add_column("verdict", no_wrap=True, min_width=9)
    rows.add_column("device", no_wrap=True)
    for heading in ("examples", "rejected", "seconds"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("result", no_wrap=True, min_width=7)
    for claim in claims:
        ran = bool(claim.items)
        rows.add_row(
            claim.id,
            Text(claim.verdict, COLOURS[claim.verdict]),
            claim.devices,
            f"{claim.examples:,}" if ran else "",
            f"{claim.rejected}/{len(claim.mistakes)}" if ran else "",
            f"{claim.seconds:.1f}" if ran else "",
            Text(claim.outcome, COLOURS[claim.outcome]),
        )
    return rows
