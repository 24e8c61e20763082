"""The arguments of every command. Nothing here imports PyTorch."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import dlconcepts
from dlconcepts.testing.claims import LESSONS

PROFILES = ("dev", "ci", "thorough", "book")
SEEDS = 2**63 - 1  # what torch.manual_seed takes


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Turn a command line into arguments; explain and exit with status 2 if it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m dlconcepts", description=dlconcepts.__doc__)
    parser.add_argument("--version", action="version", version=dlconcepts.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (sentence, description, add_arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=sentence, description=description or sentence)
        add_arguments(command)
        if name == "train":
            train = command
    arguments = parser.parse_args(argv)
    needs_full = arguments.command == "train" and (arguments.download or arguments.data)
    if needs_full and not arguments.full:
        train.error("--data and --download are about the full set; add --full")
    return arguments


def add_claims_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("claim", nargs="?", metavar="ID", help="print this claim whole, with its laws and mistakes")
    add("--lesson", choices=LESSONS, metavar="NAME", help=f"only the claims of {ONE_OF}")
    add("--json", action="store_true", help="print a list of objects")


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", nargs="+", action="extend", help="cpu (default), cuda, mps, xpu, or all")
    names = f"only the laws of {ONE_OF}"
    add("--lesson", nargs="+", action="extend", choices=LESSONS, metavar="NAME", help=names)
    add("--profile", choices=PROFILES, default="ci", help="how many examples (%(default)s)")
    add("--jobs", type=int, default=1, metavar="N", help="processes (%(default)s)")
    add("--out", type=Path, default=Path("verify"), metavar="DIR", help="folder (%(default)s)")


def add_practice_arguments(parser: argparse.ArgumentParser) -> None:
    add, folder = parser.add_argument, Path("practice")
    add("lesson", nargs="?", choices=LESSONS, metavar="LESSON", help=f"only {ONE_OF}")
    add("--out", type=Path, metavar="FOLDER", help=f"folder to write ({folder})")
    checked = f"judge the functions of a folder ({folder})"
    add("--check", type=Path, nargs="?", const=folder, metavar="FOLDER", help=checked)
    add("--watch", action="store_true", help="with --check: again after each save, until Ctrl-C")
    add("--hint", action="store_true", help="with --check: say more about the first failure")
    wanted = "show the library's own; with --check and without NAME, of the first failure"
    add("--solution", nargs="?", const="", metavar="NAME", help=wanted)
    limit = "with --check: seconds for one example of a law (%(default)g)"
    add("--limit", type=float, default=20.0, metavar="SECONDS", help=limit)


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    factory = "function that returns a model, or a dictionary of a project's parts"
    add("project", metavar="PACKAGE.MODULE:FACTORY", help=factory)
    batch = "shape of random inputs, as 4x3x224x224, or package.module:function of a batch"
    add("--batch", metavar="BATCH", help=batch)
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


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--full", action="store_true", help="use the official 60,000 images, not the sample")
    add("--data", type=Path, metavar="DIR", help="folder to look for them in (data)")
    add("--download", action="store_true", help="download them into it if they are missing")
    add("--epochs", type=positive, default=15, help="passes over the images (%(default)s)")
    add("--resume", type=Path, metavar="CHECKPOINT", help="resume this run, up to --epochs in all")
    add("--batch-size", type=positive, default=64, help="images a step (%(default)s)")
    add("--lr", type=rate, default=1e-3, help="learning rate of Adam (%(default)s)")
    add("--hidden", type=positive, nargs="*", default=[128, 64], help="hidden widths (128 64)")
    add("--dropout", type=share, default=0.2, help="share of hidden units (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda, mps or xpu (%(default)s)")
    add("--seed", type=seed, default=0, help="for weights, order and dropout (%(default)s)")
    add_out(parser, "runs/fashion-mnist")


def add_classify_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="file written by train or transfer")
    add("images", type=Path, nargs="+", metavar="IMAGE", help="image file")
    add_out(parser, "runs/classify")


def add_transfer_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="folder with a folder of images for each class")
    add("--model", default="mobilenet_v2", help="classifier of torchvision (%(default)s)")
    add("--weights", default="imagenet", help="imagenet, none, or a file of them (%(default)s)")
    add("--download", action="store_true", help="download them if they are not in the cache")
    add("--hidden", type=positive, nargs="*", default=[], help="hidden widths of the head (none)")
    add("--held-out", type=proper_share, default=0.2, help="share of each class (%(default)s)")
    add("--skip-damaged", action="store_true", help="skip images that cannot be read")
    add("--augment", action="store_true", help="distort the images, anew in each epoch; slower")
    add("--epochs", type=positive, default=30, help="passes over the images (%(default)s)")
    add("--batch-size", type=positive, default=32, help="images a step (%(default)s)")
    add("--lr", type=rate, default=1e-3, help="learning rate of Adam (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda, mps or xpu (%(default)s)")
    add("--seed", type=seed, default=0, help="for split, weights and order (%(default)s)")
    add_out(parser, "runs/transfer")


def add_parity_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda, mps or xpu (%(default)s)")
    add("--eager", action="store_true", help="skip torch.compile, which takes a minute or two")
    add("--json", type=Path, metavar="FILE", help="write the figures to a file, too")


def add_out(parser: argparse.ArgumentParser, folder: str) -> None:
    text = "folder to write to (%(default)s)"
    parser.add_argument("--out", type=Path, default=Path(folder), metavar="DIR", help=text)


def number(
    kind: str, convert: Callable[[str], float], low: float, high: float
) -> Callable[[str], float]:
    """Return a function that turns text into a number from low to high, or says what it must be.

    >>> number("a share", float, 0, 1)("0.25")
    0.25
    """

    def parse_number(text: str) -> float:
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
        return value

    return parse_number


SMALLEST, BELOW_1 = sys.float_info.min, 1 - sys.float_info.epsilon
positive = number("a whole number of at least 1", int, 1, math.inf)
rate = number("a number above 0", float, SMALLEST, sys.float_info.max)
share = number("a number from 0 to 1", float, 0, 1)
proper_share = number("a number between 0 and 1", float, SMALLEST, BELOW_1)
seed = number("a whole number from 0 to 2**63 - 1", int, 0, SEEDS)
ONE_OF = f"{', '.join(LESSONS[:-1])} or {LESSONS[-1]}"

# Name, sentence in the list of commands, longer description, arguments.
COMMANDS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "claims": ("list the claims of the course and their verdicts", "", add_claims_arguments),
    "verify": (
        "run the laws, print the verdict on each claim, and write a report",
        "",
        add_verify_arguments,
    ),
    "practice": (
        "write the techniques yourself",
        "Write the techniques of the course yourself. Without --check: write a folder with a file "
        "for each lesson, the techniques without their bodies. With --check: run the laws on what "
        "you have written.",
        add_practice_arguments,
    ),
    "check": (
        "check your own model and training loop",
        "Run the checks of dlconcepts.checks on a project. Exit status: 0 if all is well, 1 if a "
        "check failed, 2 if there was nothing to check.",
        add_check_arguments,
    ),
    "train": (
        "train a network on Fashion-MNIST",
        "Train a network on Fashion-MNIST, the sample that comes with the package or the full set, "
        "and write its checkpoint and pictures.",
        add_train_arguments,
    ),
    "classify": (
        "print and draw the class probabilities of image files",
        "Print and draw the class probabilities of image files: PNG or JPEG, grey or colour, of "
        "any size. For a checkpoint of `train`, each becomes one grey image of 28 x 28. "
        "Fashion-MNIST has light objects on black: that network has never seen a dark object on "
        "white. For a checkpoint of `transfer`, the middle of each image is used, in colour.",
        add_classify_arguments,
    ),
    "transfer": (
        "train a pretrained network to tell your photographs apart",
        "Train a new head on a frozen network of torchvision, to tell apart the images of a folder "
        "that has one folder for each class, and write its checkpoint and pictures. The network's "
        "weights come from torchvision's cache folder.",
        add_transfer_arguments,
    ),
    "parity": (
        "compare each technique on each backend with float64",
        "Print, for each dtype, how far each technique is from its float64 result on each backend, "
        "how far rounding can bring it, and which planted faults that would hide.",
        add_parity_arguments,
    ),
}
