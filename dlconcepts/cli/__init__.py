"""The command line: `main`, the arguments of all commands, and a module for each command.

PyTorch takes seconds to import, and help and usage errors should not wait for it. So `parser` does
not import it, and a command's module is imported only after its arguments were found valid.
"""

import importlib
import sys
from collections.abc import Sequence

from dlconcepts.cli.parser import parse
from dlconcepts.support.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, 2 after a user error."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    command = importlib.import_module(f"dlconcepts.cli.{arguments.command}")
    try:
        status: int = command.run(arguments)
        return status
    except UserError as error:
        sentence = " ".join(str(error).split())
        print(f"dlconcepts {arguments.command}: {sentence}", file=sys.stderr)
        if error.details:
            print(error.details, file=sys.stderr)
        return 2
