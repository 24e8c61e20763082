"""`python -m dlconcepts COMMAND`; `--help` lists the commands."""

import sys

from dlconcepts.cli import main

if __name__ == "__main__":
    sys.exit(main())
