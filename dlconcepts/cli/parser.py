"""The arguments of every command. Nothing here imports PyTorch."""

import argparse
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import dlconcepts
from dlconcepts.support.errors import nearest
from dlconcepts.testing.claims import LESSONS

Add = Callable[..., object]  # ArgumentParser.add_argument
PROFILES = ("dev", "ci", "thorough", "book")
ONE_OF = f"{', '.join(LESSONS[:-1])} or {LESSONS[-1]}"


class Parser(argparse.ArgumentParser):
    """A parser that answers an unknown name with the nearest that it knows."""

    def __init__(self, **options: Any) -> None:
        self.names: list[str] = []
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        self.names += names
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        pattern = r"invalid choice: '(.*?)' \(choose from (.*)\)|unrecognized arguments: (\S+)"
        if found := re.search(pattern, message):
            known = re.findall(r"[\w-]+", found[2]) if found[2] else self.names
            message += nearest(found[1] or found[3], known)
        super().error(message)


class PrintCompletion(argparse.Action):
    """Print what a shell needs to complete commands and options."""

    def __call__(self, parser: argparse.ArgumentParser, _: object, shell: Any, *__: object) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("completion needs shtab: pip install 'dlconcepts[completion]'")
        print(shtab.complete(make_parser("dlconcepts")[0], shell))
        parser.exit()


def make_parser(program: str) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of a program, and of each command."""
    parser = Parser(prog=program, description=dlconcepts.__doc__)
    parser.add_argument("--version", action="version", version=dlconcepts.__version__)
    shells = ("bash", "zsh", "fish")
    script = "print the completion of a shell, to install it as the shell's manual says"
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=shells, metavar="SHELL", help=script
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    width = shutil.get_terminal_size().columns - 2
    for name, (sentence, description, add_arguments) in COMMANDS.items():
        description = description or f"{sentence[0].upper()}{sentence[1:]}."
        lines = [f"  {program} {name} {example}" for example in EXAMPLES[name]]
        command = commands.add_parser(
            name,
            help=sentence,
            description=textwrap.fill(description, width),
            epilog="\n".join(["examples:", *lines]),
        )
        add_arguments(command.add_argument)
        quiet = "print only the laws that are broken" if name == "watch" else "print only errors"
        command.add_argument("--quiet", action="store_true", help=quiet)
    return parser, commands.choices


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; if it is wrong, print why and exit with status 2."""
    parser, commands = make_parser("python -m dlconcepts")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        commands[arguments.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    if arguments.command == "watch" and not arguments.script:
        commands["watch"].error("give the script to run: watch train.py")
    needs_full = arguments.command == "train" and (arguments.download or arguments.data)
    if needs_full and not arguments.full:
        commands["train"].error("--data and --download need --full")
    return arguments


def add_claims_arguments(add: Add) -> None:
    add("claim", nargs="?", metavar="ID", help="print this claim with its laws and mistakes")
    add("--lesson", choices=LESSONS, metavar="NAME", help=f"only the claims of {ONE_OF}")
    add("--json", action="store_true", help="print a list of objects")


def add_verify_arguments(add: Add) -> None:
    add("claim", nargs="*", metavar="CLAIM", help="only this claim, such as networks.relu")
    add("--device", nargs="+", action="extend", help="cpu (default), cuda, mps, xpu, or all")
    names = f"only the laws of {ONE_OF}"
    add("--lesson", nargs="+", action="extend", choices=LESSONS, metavar="NAME", help=names)
    add("--profile", choices=PROFILES, default="ci", help="number of examples (%(default)s)")
    add("--jobs", type=int, metavar="N", help="number of processes (one for each core)")
    sooner = "stop at the first failure; what failed before runs first, then the fastest laws"
    add("--fail-fast", action="store_true", help=sooner)
    add_out(add, "verify")
    add_json(add)


def add_compare_arguments(add: Add) -> None:
    run = "results.xml of verify, its folder, or a recorded version, such as 2.14 or 2.14-cuda"
    add("a", metavar="A", help=run)
    same = "the later run; without it, A is compared with the record of its version of torch"
    add("b", nargs="?", metavar="B", help=same)
    add("--json", action="store_true", help="print an object")
    add("--markdown", action="store_true", help="print Markdown")


def add_practice_arguments(add: Add) -> None:
    folder = Path("practice")
    add("lesson", nargs="?", choices=LESSONS, metavar="LESSON", help=f"only {ONE_OF}")
    add("--lesson", dest="only", choices=LESSONS, metavar="LESSON", help="the same")
    add("--out", type=Path, metavar="FOLDER", help=f"folder to write ({folder})")
    add("--notebook", action="store_true", help="write notebooks instead of Python files")
    checked = f"test the functions in a folder ({folder})"
    add("--check", type=Path, nargs="?", const=folder, metavar="FOLDER", help=checked)
    add("--watch", action="store_true", help="with --check: again after each save, until Ctrl-C")
    hint = "with --check: a hint about the first failure; each time it says more"
    add("--hint", action="store_true", help=hint)
    wanted = "show the library's code for NAME; with --check alone, for the first failure"
    add("--solution", nargs="?", const="", metavar="NAME", help=wanted)
    add("--list", action="store_true", help="list the techniques, and which have passed")
    add("--reset", metavar="NAME", help="delete what you wrote for NAME, after a question")
    add("--yes", action="store_true", help="with --reset: ask no question")
    limit = "time limit for one example of a law (%(default)g)"
    add("--limit", type=float, default=20.0, metavar="SECONDS", help=limit)
    learners = "judge a folder that has a folder for each learner, and print a table"
    add("--grade", type=Path, metavar="FOLDER", help=learners)
    add("--csv", type=Path, metavar="FILE", help="with --grade: write a row for each answer")
    add_json(add)


def add_check_arguments(add: Add) -> None:
    factory = "function that returns a model, or a dictionary of the parts of a project"
    add("project", metavar="PACKAGE.MODULE:FACTORY", help=factory)
    batch = "shape of random inputs, such as 4x3x224x224, or 4x10:int64<100 for numbers of words, "
    batch += "or package.module:function of a batch"
    add("--batch", metavar="BATCH", help=batch)
    add("--loader", metavar="NAME", help="package.module:name of a loader, or of a function of one")
    argument = "argument of the factory; repeat the option for more"
    add("--arg", action="append", default=[], metavar="NAME=VALUE", help=argument)
    add(
        "--except",
        dest="except_for",
        action="append",
        default=[],
        metavar="CHECK=REASON",
        help="skip this check, for this reason; repeat the option for more",
    )
    add_json(add)
    add("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML")


def add_watch_arguments(add: Add) -> None:
    add("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="script, and its own arguments")
    add("-m", dest="module", action="store_true", help="SCRIPT is a module, as for python -m")
    add_json(add)
    add("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML")
    add("--sarif", type=Path, metavar="FILE", help="write the report as SARIF, for code hosts")
    add("--exit-zero", action="store_true", help="exit with status 0 if a law is broken")


def add_train_arguments(add: Add) -> None:
    add("--full", action="store_true", help="use the full set of 60,000 images, not the sample")
    add("--data", type=Path, metavar="DIR", help="folder of the full set (data)")
    add("--download", action="store_true", help="download the full set if it is missing")
    add("--hidden", type=positive, nargs="*", default=[128, 64], help="hidden widths (128 64)")
    add("--dropout", type=share, default=0.2, help="dropout probability (%(default)s)")
    add_run(add, "runs/fashion-mnist", epochs=15, batch_size=64)


def add_classify_arguments(add: Add) -> None:
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="file written by train or transfer")
    add("images", type=Path, nargs="+", metavar="IMAGE", help="image file")
    add_out(add, "runs/classify")
    add_force(add)
    add_json(add)


def add_transfer_arguments(add: Add) -> None:
    add("folder", type=Path, metavar="FOLDER", help="folder with a folder of images for each class")
    add("--model", default="mobilenet_v2", help="classifier of torchvision (%(default)s)")
    add("--weights", default="imagenet", help="imagenet, none, or a weights file (%(default)s)")
    add("--download", action="store_true", help="download the weights if they are not in the cache")
    add("--hidden", type=positive, nargs="*", default=[], help="hidden widths of the head (none)")
    held_out = "share of each class to hold out for validation (%(default)s)"
    add("--held-out", type=proper_share, default=0.2, help=held_out)
    add("--skip-damaged", action="store_true", help="skip images that cannot be read")
    augment = "rotate, crop and mirror the images at random in each epoch; slower"
    add("--augment", action="store_true", help=augment)
    add_run(add, "runs/transfer", epochs=30, batch_size=32)


def add_parity_arguments(add: Add) -> None:
    add_device(add)
    add("--eager", action="store_true", help="skip torch.compile, which takes a minute or two")
    add_json(add)


def add_device(add: Add) -> None:
    add("--device", default="cpu", help="cpu, cuda, mps or xpu (%(default)s)")


def add_out(add: Add, folder: str) -> None:
    text = "folder to write to (%(default)s)"
    add("--out", type=Path, default=Path(folder), metavar="DIR", help=text)


def add_run(add: Add, folder: str, epochs: int, batch_size: int) -> None:
    add("--epochs", type=positive, default=epochs, help="passes over the images (%(default)s)")
    add("--resume", type=Path, metavar="CHECKPOINT", help="resume this run, up to --epochs in all")
    step = "images in a step (%(default)s)"
    add("--batch-size", type=positive, default=batch_size, help=step)
    add("--lr", type=rate, default=1e-3, help="learning rate of Adam (%(default)s)")
    add("--seed", type=seed, default=0, help="of all that is random (%(default)s)")
    add_device(add)
    add_out(add, folder)
    add_force(add)
    add_json(add)


def add_force(add: Add) -> None:
    add("--force", action="store_true", help="replace what an earlier run wrote there")


def add_json(add: Add) -> None:
    add("--json", type=Path, metavar="FILE", help="write the results as JSON; - prints them")


def number(
    kind: str, convert: Callable[[str], float], low: float, high: float
) -> Callable[[str], float]:
    """Return a function that turns text into a number from low to high, or raises.

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
positive = number("a whole number of at least 1 and at most 2**31 - 1", int, 1, 2**31 - 1)
rate = number("a number above 0 and at most 1e30", float, SMALLEST, 1e30)
share = number("a number from 0 to 1", float, 0, 1)
proper_share = number("a number between 0 and 1", float, SMALLEST, BELOW_1)
# The largest seed that torch.manual_seed takes.
seed = number("a whole number from 0 to 2**63 - 1", int, 0, 2**63 - 1)

# Name, sentence in the list of commands, longer description if needed, arguments.
COMMANDS: dict[str, tuple[str, str, Callable[[Add], None]]] = {
    "claims": (
        "list the claims of the course and their verdicts",
        "",
        add_claims_arguments,
    ),
    "verify": (
        "run the laws, print the verdict on each claim, and write a report",
        "",
        add_verify_arguments,
    ),
    "compare": (
        "show what differs between two runs of the laws",
        "Show what differs between two runs of the laws: verdicts, counterexamples, messages and "
        "exceptions. Exit status: 0 if no verdict worsened, 1 if one did, 2 if a run cannot be "
        "read.",
        add_compare_arguments,
    ),
    "practice": (
        "write the techniques yourself",
        "Write the techniques of the course yourself. Without --check: create a file for each "
        "lesson, with the techniques but without their bodies. With --check: run the laws on your "
        "code.",
        add_practice_arguments,
    ),
    "check": (
        "check your own model and training loop",
        "Run the checks of dlconcepts.checks on your project. Exit status: 1 if a law is broken, "
        "2 if a part could not be used or nothing could be checked, else 0. A module may be a "
        "file: net.py:Net.",
        add_check_arguments,
    ),
    "watch": (
        "run your training script as it is, and see which laws it breaks",
        "Run a training script as it is, with its own arguments after it, and report which laws "
        "it breaks, on which lines, each with a proof. The script computes what it computes "
        "without watch. Exit status: the script's own if that is not 0, else 3 if a law is broken.",
        add_watch_arguments,
    ),
    "train": (
        "train a network on Fashion-MNIST",
        "Train a network on Fashion-MNIST, on the sample in this package or on the full set, and "
        "write a checkpoint and pictures.",
        add_train_arguments,
    ),
    "classify": (
        "print and draw the class probabilities of image files",
        "Print and draw the class probabilities of image files: PNG or JPEG, grey or colour, of "
        "any size. For a checkpoint of `train`, each image is converted to 28 x 28 grey pixels. "
        "Fashion-MNIST has light objects on black, so the network does not know dark objects on "
        "white. For a checkpoint of `transfer`, the centre of each image is used, in colour.",
        add_classify_arguments,
    ),
    "transfer": (
        "train a pretrained network to classify your photographs",
        "Train a new head on a frozen network of torchvision, for the images of a folder that has "
        "a folder for each class, and write a checkpoint and pictures. The weights of the network "
        "come from torchvision's cache folder.",
        add_transfer_arguments,
    ),
    "parity": (
        "compare each technique on each backend with float64",
        "Print, for each dtype, how far each technique is from its float64 result on each backend, "
        "how far rounding can take it, and which planted faults that tolerance hides.",
        add_parity_arguments,
    ),
}

EXAMPLES = {
    "claims": ("--lesson tensors", "tensors.view-is-a-new-tensor"),
    "verify": ("--lesson tensors networks", "networks.relu --profile thorough"),
    "compare": ("verify", "2.10 2.14 --markdown"),
    "practice": ("tensors", "--check practice --hint"),
    "check": ("torchvision.models:resnet18 --batch 4x3x64x64", "project:parts --junit checks.xml"),
    "watch": ("train.py --epochs 3", "--json report.json -m package.train"),
    "train": ("", "--epochs 30 --resume runs/fashion-mnist/checkpoint.pt"),
    "classify": ("runs/fashion-mnist/checkpoint.pt photo.png", "checkpoint.pt *.jpg --json -"),
    "transfer": (
        "photographs --download",
        "photographs --model resnet18 --out runs/pets",
    ),
    "parity": ("--eager", "--device cuda --json parity.json"),
}
