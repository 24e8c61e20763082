"""The command line: `main`, the arguments of all commands, and a module for each command.

PyTorch takes seconds to import, and help and usage errors should not wait for it. So `parser` does
not import it, and a command's module is imported only after its arguments were found valid.
"""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

from dlconcepts.support.errors import UserError
from dlconcepts.support.signals import NAMES, Stopped, heeding, settle, start_work

USER_ERROR = 2
REPORTS = ("json", "junit", "sarif", "csv")  # files to write, which are tried before the work
CLOSED_PIPE = 141  # what shells report for `cat` if nobody reads its output


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    That is 2 after a user error, 130 after Ctrl-C, 143 after SIGTERM, and 141 if nobody reads what
    it prints. Whatever ends a command, one sentence says why, and what is kept.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a stream that a caller put there may lack it
        sys.stdout.reconfigure(errors="replace")  # the terminal may not be UTF-8
    with heeding(program=argv is None):
        try:
            try:
                return run(list(sys.argv[1:] if argv is None else argv))
            finally:
                if sys.stdout:
                    sys.stdout.flush()  # here, where a closed pipe can still be handled
        except BrokenPipeError:
            return give_up_printing(CLOSED_PIPE)
        except SystemExit as error:
            if isinstance(error.__context__, BrokenPipeError):  # as rich ends the program
                return give_up_printing(CLOSED_PIPE)
            raise
        except Stopped as error:  # before the work or after it
            explain(NAMES[error.number])
            return 128 + error.number
        except OSError as error:
            explain(f"cannot write: {error.strerror or error}")
            return give_up_printing(USER_ERROR)


def run(line: list[str]) -> int:
    """Run one command; if it ends early, `arguments.keep`, which it may set, says what is kept."""
    arguments, details = SimpleNamespace(command="", keep=lambda stopped: ""), ""
    try:
        with naming_shadows():
            parsed = importlib.import_module("dlconcepts.cli.parser").parse(line)
            parsed.line, parsed.keep = line, arguments.keep
            command = importlib.import_module(f"dlconcepts.cli.{parsed.command}")
            arguments = parsed
            from dlconcepts.support.atomic import check_report
        quiet = arguments.quiet and arguments.command != "watch"  # that runs a script
        start_work()
        for name, value in vars(arguments).items():
            if name in REPORTS and isinstance(value, Path):
                check_report(value, f"--{name}")
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115 the next line closes it
        with nowhere, redirect_stdout(nowhere) if quiet else nullcontext():
            status: int = command.run(arguments)
        return status
    except BrokenPipeError:
        arguments.keep(stopped=True)
        raise
    except (Stopped, KeyboardInterrupt) as error:
        settle()
        number = getattr(error, "number", signal.SIGINT)
        status, reason = 128 + number, NAMES[number]
    except UserError as error:
        status, reason, details = USER_ERROR, str(error), error.details
    except OSError as error:
        if error.filename is None:
            raise
        status, reason = USER_ERROR, f"{error.filename}: {error.strerror}"
    except (MemoryError, RuntimeError) as error:
        # PyTorch raises RuntimeError on the CPU, and a subclass of it on other devices.
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        status, reason = USER_ERROR, "there is not enough memory; use a smaller network or batch"
    kept = arguments.keep(stopped=status > 128)
    explain("; ".join(filter(None, (reason, kept))), arguments.command, details)
    return status


@contextmanager
def naming_shadows() -> Iterator[None]:
    """Raise UserError if a block fails since a file of the working folder hides a module."""
    try:
        yield
    except Exception as error:
        here = Path.cwd()
        files = [getattr(module, "__file__", None) or "" for module in [*sys.modules.values()]]
        files += [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        elsewhere = [path for path in sys.path if Path(path).resolve() != here]
        for path in map(Path, files):
            if path.parent == here and PathFinder.find_spec(path.stem, elsewhere):
                raise UserError(
                    f"{path} hides the module {path.stem}, which dlconcepts needs; rename the "
                    "file, or work in another folder"
                ) from error
        raise


def explain(sentence: str, command: str = "", details: str = "") -> None:
    """Print one sentence, and details below it, on the error stream."""
    with suppress(OSError):  # nobody reads it
        print(f"{f'dlconcepts {command}'.strip()}: {' '.join(sentence.split())}", file=sys.stderr)
        if details:
            print(details, file=sys.stderr)


def give_up_printing(status: int) -> int:
    """Send the rest of the output nowhere, so that Python's last flush does not fail."""
    with suppress(OSError, ValueError):  # the stream may have no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
