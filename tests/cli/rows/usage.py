"""Arguments that no command takes, and what is the same for all commands."""

import sys

from dlconcepts.cli.parser import COMMANDS
from tests.cli.rows import Row
from tests.cli.rows.given import Patch


def no_shtab(patch: Patch) -> None:
    """The library for completion is not installed."""
    patch.setitem(sys.modules, "shtab", None)


WHOLE = "is not a whole number of at least 1"
HELP = [
    Row(f"{name} --help", 0, out=f"dlconcepts {name} ... --quiet ... examples:")
    for name in COMMANDS
]
ROWS = [
    Row("", 2, "usage: ... the following arguments are required: COMMAND"),
    Row("--help", 0, out="usage: python -m dlconcepts ... train a network"),
    Row("--version", 0, out="0."),
    Row("--version", 2, "No space left on device", to="full disk"),
    Row("--help", 141, to="closed pipe"),
    Row("train --help", 141, to="closed pipe"),
    Row("train --help", 0, out="--epochs", to="ascii"),
    *HELP,
    Row("learn", 2, "invalid choice: 'learn'"),
    Row("trian", 2, "invalid choice: 'trian' ... did you mean train or transfer?"),
    Row("train --epoks 3", 2, "unrecognized arguments: --epoks 3; did you mean --epochs"),
    Row("claims --lesson tensor", 2, "invalid choice: 'tensor' ... did you mean tensors?"),
    Row("verify --profile thorogh", 2, "invalid choice: 'thorogh' ... did you mean thorough?"),
    *(Row(f"--print-completion {shell}", 0, out="--epochs") for shell in ("bash", "zsh", "fish")),
    Row("--print-completion csh", 2, "invalid choice: 'csh'"),
    Row("--print-completion bash", 2, "pip install 'dlconcepts[completion]'", [no_shtab]),
    Row("--verbose", 2, "error"),
    Row("train --epochs", 2, "argument --epochs: expected one argument"),
    Row("train --epochs 0", 2, f"'0' {WHOLE}"),
    Row("train --epochs -1", 2, f"'-1' {WHOLE}"),
    Row("train --epochs two", 2, f"'two' {WHOLE}"),
    Row("train --epochs 1e3", 2, f"'1e3' {WHOLE}"),
    Row("train --batch-size 0", 2, f"'0' {WHOLE}"),
    Row("train --batch-size 1.5", 2, f"'1.5' {WHOLE}"),
    Row("train --batch-size 99999999999999999999", 2, "at least 1 and at most 2**31 - 1"),
    Row("train --hidden 99999999999", 2, "at least 1 and at most 2**31 - 1"),
    Row("train --hidden 128 0", 2, f"'0' {WHOLE}"),
    Row("train --lr 0", 2, "'0' is not a number above 0"),
    Row("train --lr -1", 2, "'-1' is not a number above 0"),
    Row("train --lr nan", 2, "'nan' is not a number above 0"),
    Row("train --lr inf", 2, "'inf' is not a number above 0"),
    Row("train --lr fast", 2, "'fast' is not a number above 0"),
    Row("train --dropout 1.1", 2, "'1.1' is not a number from 0 to 1"),
    Row("train --dropout nan", 2, "'nan' is not a number from 0 to 1"),
    Row("train --seed -1", 2, "'-1' is not a whole number from 0"),
    Row("train --seed 9223372036854775808", 2, "is not a whole number from 0 to 2**63 - 1"),
    Row("train --download", 2, "--data and --download need --full"),
    Row("train --data images", 2, "--data and --download need --full"),
    Row("train images", 2, "unrecognized arguments: images"),
    Row("transfer", 2, "the following arguments are required: FOLDER"),
    Row("transfer pets --held-out 0", 2, "'0' is not a number between 0 and 1"),
    Row("transfer pets --held-out 1", 2, "'1' is not a number between 0 and 1"),
    Row("transfer pets --held-out nan", 2, "'nan' is not a number between 0 and 1"),
    Row("transfer pets --epochs 0", 2, f"'0' {WHOLE}"),
    Row("transfer pets --hidden 0", 2, f"'0' {WHOLE}"),
    Row("transfer pets --lr 1e38", 2, "'1e38' is not a number above 0 and at most 1e30"),
    Row("transfer pets --batch-size 0", 2, f"'0' {WHOLE}"),
    Row("classify", 2, "the following arguments are required: CHECKPOINT, IMAGE"),
    Row("classify checkpoint.pt", 2, "the following arguments are required: IMAGE"),
    Row("claims --lesson cooking", 2, "invalid choice: 'cooking'"),
    Row("verify --lesson cooking", 2, "invalid choice: 'cooking'"),
    Row("verify --profile slow", 2, "invalid choice: 'slow'"),
    Row("verify --jobs many", 2, "argument --jobs"),
    Row("compare", 2, "the following arguments are required: A"),
    Row("compare a b c", 2, "unrecognized arguments: c"),
    Row("practice cooking", 2, "invalid choice: 'cooking'"),
    Row("check", 2, "the following arguments are required: PACKAGE.MODULE:FACTORY"),
    Row("watch", 2, "give the script to run: watch train.py"),
    Row("watch --json", 2, "argument --json: expected one argument"),
    Row("parity --speed", 2, "unrecognized arguments: --speed"),
]
