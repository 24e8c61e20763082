"""The command line, a module a command.

PyTorch takes seconds to import. Help and usage errors do not wait for it: `parser` needs no torch,
and the module of a command is imported when its arguments are known to be good.
"""

import importlib
import sys
from collections.abc import Sequence

from dlconcepts.support.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, 2 after an error that the user can fix."""
    from dlconcepts.cli.parser import parse

    arguments = parse(sys.argv[1:] if argv is None else argv)
    command = importlib.import_module(f"dlconcepts.cli.{arguments.command}")
    try:
        status: int = command.run(arguments)
    except UserError as error:
        sentence = " ".join(str(error).split())
        print(f"dlconcepts {arguments.command}: {sentence}", file=sys.stderr)
        if error.details:
            print(error.details, file=sys.stderr)
        return 2
    return status
