"""The command line, `python -m dlconcepts COMMAND`; `--help` lists the commands.

Only arguments are dealt with here. PyTorch takes seconds to import, so the commands themselves
come from the modules of `COMMANDS` once the arguments are known to be good: help and usage errors
do not wait for it.
"""

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import dlconcepts

# Each has a function `run`.
COMMANDS = {
    "verify": "verify",
    "practice": "practice.command",
    "check": "checks.command",
    "train": "commands",
    "classify": "commands",
    "transfer": "transfer_command",
    "parity": "parity_command",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, 2 after an error that was explained."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    module = importlib.import_module(f"dlconcepts.{COMMANDS[arguments.command]}")
    status: int = module.run(arguments)
    return status


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Turn a command line into arguments; explain and exit with status 2 if it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m dlconcepts", description=dlconcepts.__doc__)
    parser.add_argument("--version", action="version", version=dlconcepts.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    verify = commands.add_parser("verify", help="run the laws and report the verdicts")
    if argv[:1] == ["verify"]:
        from dlconcepts.cli.verify import add_arguments

        add_arguments(verify)
    practice = commands.add_parser("practice", help="write the techniques yourself")
    if argv[:1] == ["practice"]:
        from dlconcepts.cli.practice import add_arguments

        add_arguments(practice)
    train = commands.add_parser(
        "train",
        help="train a network on Fashion-MNIST",
        description="Train a network on Fashion-MNIST, the sample that comes with the package or "
        "the full set, and write its checkpoint and pictures.",
    )
    add_train_arguments(train)
    transfer = commands.add_parser(
        "transfer",
        help="train a pretrained network to tell your photographs apart",
        description="Train a new head on a network of torchvision that is frozen, to tell apart "
        "the images of a folder that has one folder for each class, and write its checkpoint and "
        "pictures. The network's weights come from torchvision's cache folder.",
    )
    add_transfer_arguments(transfer)
    classify = commands.add_parser(
        "classify",
        help="print and draw the class probabilities of image files",
        description="Print and draw the class probabilities of image files: PNG or JPEG, grey or "
        "colour, of any size. For a checkpoint of `train`, each becomes one grey image of 28 x 28; "
        "Fashion-MNIST has light objects on black: that network has never seen a dark object on "
        "white. For one of `transfer`, the middle of each image is taken, in colour.",
    )
    add_classify_arguments(classify)
    parity = commands.add_parser(
        "parity",
        help="compare each technique on each backend with float64",
        description="Print, for each dtype, how far each technique is from its float64 result on "
        "each backend, how far rounding can bring it, and which planted faults that would hide.",
    )
    add_parity_arguments(parity)
    check = commands.add_parser(
        "check",
        help="check a model and a training loop of your own",
        description="Run the checks of dlconcepts.checks on a project. Exit status: 0 if all is "
        "well, 1 if a check failed, 2 if there was nothing to check.",
    )
    add_check_arguments(check)
    arguments = parser.parse_args(argv)
    needs_full = arguments.command == "train" and (arguments.download or arguments.data)
    if needs_full and not arguments.full:
        train.error("--data and --download are about the full set; add --full")
    return arguments


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `train` can be told."""
    positive = number("a whole number of at least 1", int, 1, math.inf)
    rate = number("a number above 0", float, sys.float_info.min, sys.float_info.max)
    share = number("a number from 0 to 1", float, 0, 1)
    seed = number("a whole number from 0 to 2**63 - 1", int, 0, 2**63 - 1)
    out = Path("runs/fashion-mnist")
    add = parser.add_argument
    add("--full", action="store_true", help="use the official 60,000 images, not the sample")
    add("--data", type=Path, metavar="DIR", help="folder to look for them in (data)")
    add("--download", action="store_true", help="download them to there if they are nowhere")
    add("--epochs", type=positive, default=15, help="passes over the images (%(default)s)")
    add("--resume", type=Path, metavar="CHECKPOINT", help="go on from there, up to --epochs in all")
    add("--batch-size", type=positive, default=64, help="images a step (%(default)s)")
    add("--lr", type=rate, default=1e-3, help="learning rate of Adam (%(default)s)")
    add("--hidden", type=positive, nargs="*", default=[128, 64], help="hidden widths (128 64)")
    add("--dropout", type=share, default=0.2, help="share of hidden units (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda, mps or xpu (%(default)s)")
    add("--seed", type=seed, default=0, help="for weights, order and dropout (%(default)s)")
    add("--out", type=Path, default=out, metavar="DIR", help="folder to write to (%(default)s)")


def add_transfer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `transfer` can be told."""
    positive = number("a whole number of at least 1", int, 1, math.inf)
    rate = number("a number above 0", float, sys.float_info.min, sys.float_info.max)
    share = number(
        "a number between 0 and 1", float, sys.float_info.min, 1 - sys.float_info.epsilon
    )
    seed = number("a whole number from 0 to 2**63 - 1", int, 0, 2**63 - 1)
    out = Path("runs/transfer")
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="folder with a folder of images for each class")
    add("--model", default="mobilenet_v2", help="classifier of torchvision (%(default)s)")
    add("--weights", default="imagenet", help="imagenet, none, or a file of them (%(default)s)")
    add("--download", action="store_true", help="download them if they are not in the cache")
    add("--hidden", type=positive, nargs="*", default=[], help="hidden widths of the head (none)")
    add("--held-out", type=share, default=0.2, help="share of each class (%(default)s)")
    add("--skip-damaged", action="store_true", help="leave out images that cannot be read")
    add("--augment", action="store_true", help="distort the images, anew in each epoch; slower")
    add("--epochs", type=positive, default=30, help="passes over the images (%(default)s)")
    add("--batch-size", type=positive, default=32, help="images a step (%(default)s)")
    add("--lr", type=rate, default=1e-3, help="learning rate of Adam (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda, mps or xpu (%(default)s)")
    add("--seed", type=seed, default=0, help="for split, weights and order (%(default)s)")
    add("--out", type=Path, default=out, metavar="DIR", help="folder to write to (%(default)s)")


def add_classify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `classify` can be told."""
    out = Path("runs/classify")
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="file that `train` or `transfer` has written",
    )
    add("images", type=Path, nargs="+", metavar="IMAGE", help="image file")
    add("--out", type=Path, default=out, metavar="DIR", help="folder to write to (%(default)s)")


def add_parity_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `parity` can be told."""
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda, mps or xpu (%(default)s)")
    add("--eager", action="store_true", help="leave out torch.compile, which takes a minute or two")
    add("--json", type=Path, metavar="FILE", help="write the figures to a file, too")


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `check` can be told."""
    add = parser.add_argument
    add(
        "project",
        metavar="PACKAGE.MODULE:FACTORY",
        help="function that returns a model, or a dictionary of a project's parts",
    )
    add(
        "--batch",
        metavar="BATCH",
        help="shape of random inputs, as 4x3x224x224, or package.module:function of a batch",
    )
    add(
        "--except",
        dest="except_for",
        action="append",
        default=[],
        metavar="CHECK=REASON",
        help="a law that does not apply, and why; may be given more than once",
    )
    add("--json", type=Path, metavar="FILE", help="write the report as JSON")
    add("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML")


def number(
    kind: str, convert: Callable[[str], float], low: float, high: float
) -> Callable[[str], float]:
    """Return a function that turns text into a number from low to high, or says what it must be.

    >>> number("a share", float, 0, 1)("0.25")
    0.25
    """

    def parse_number(text: str) -> float:
        """Return the number that the text stands for."""
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
        return value

    return parse_number


if __name__ == "__main__":
    sys.exit(main())
