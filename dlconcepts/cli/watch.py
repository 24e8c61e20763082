"""`python -m dlconcepts watch train.py ARGUMENTS`: run a training script as it is, and judge it."""

import argparse
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from dlconcepts.support.atomic import check_report, write_report
from dlconcepts.support.errors import UserError

REPORTS = ("json", "junit", "sarif")
BROKEN = 3


def run(arguments: argparse.Namespace) -> int:
    """Run a script; return its exit status if that is not 0, else 3 if a law is broken."""
    for name in REPORTS:
        check_report(getattr(arguments, name), f"--{name}")
    script, *its_own = arguments.script
    from dlconcepts.watch.run import run_script  # which imports PyTorch

    if arguments.module and module_file(script) is None:
        raise UserError(f"there is no module {script} to run; is its folder the current one?")
    if not arguments.module and not Path(script).is_file():
        raise UserError(f"there is no script {script}; options of watch stand before it")
    # The script gets the signals as Python gives them to any script.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, None)):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler or signal.SIG_DFL)
    broken, quiet = False, arguments.quiet

    def done(report: object) -> None:
        nonlocal broken
        broken = bool(report.broken)  # type: ignore[attr-defined]
        if broken or not quiet:
            print(f"\n{report}", file=sys.stderr, flush=True)
        for name in REPORTS:
            path = getattr(arguments, name)
            if path:
                try:
                    write_report(path, getattr(report, f"to_{name}")(), f"--{name}")
                except UserError as error:  # the script's own status still counts
                    print(f"dlconcepts watch: {error}", file=sys.stderr)

    status = run_script(script, its_own, arguments.module, done)
    return status or (BROKEN if broken and not arguments.exit_zero else 0)


def module_file(name: str) -> str | None:
    """Return where `python -m NAME` finds its code, None if nowhere."""
    try:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.__main__")
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None else None
