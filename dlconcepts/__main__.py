"""`python -m dlconcepts COMMAND`; `--help` lists the commands."""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    # Python looks into the working folder first, where a random.py would hide Python's own.
    sys.path.append(sys.path.pop(0))

from dlconcepts.cli import main

if __name__ == "__main__":
    sys.exit(main())
