"""The arguments of every command. Nothing here imports PyTorch.

A function for each command adds its arguments; its docstring is the help of the command.
"""

import argparse
import inspect
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

FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "--device": ("cpu, cuda, mps or xpu (%(default)s)", {"default": "cpu"}),
    "--force": ("replace what an earlier run wrote there", {}),
    "--json": ("write the results as JSON; - prints them", FILE),
    "--junit": ("write the report as JUnit XML", FILE),
}
Add = Callable[..., None]  # Parser.add of a command
PROFILES = ("dev", "ci", "thorough", "book")
ONE_OF = f"{', '.join(LESSONS[:-1])} or {LESSONS[-1]}"


class Parser(argparse.ArgumentParser):
    """A parser that answers an unknown name with the nearest that it knows."""

    def __init__(self, **options: Any) -> None:
        self.names = ["--help"]
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def add(self, name: str, text: str, **options: Any) -> None:
        """Add an argument with its help; an option without further settings is a flag."""
        if name.startswith("--") and not options:
            options = {"action": "store_true"}
        self.names.append(name)
        self.add_argument(name, help=text, **options)

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
    completion: dict[str, Any] = {"action": PrintCompletion, "choices": ("bash", "zsh", "fish")}
    text = "print the completion of a shell, to install it as the shell's manual says"
    parser.add("--print-completion", text, metavar="SHELL", **completion)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    width = shutil.get_terminal_size().columns - 2
    for name, add_arguments in COMMANDS.items():
        description = inspect.getdoc(add_arguments) or ""
        sentence = description.partition("\n")[0].rstrip(".")
        command = commands.add_parser(
            name,
            help=sentence[:1].lower() + sentence[1:],
            description=textwrap.fill(" ".join(description.split()), width),
            epilog="\n".join(["examples:", *(f"  {program} {name} {e}" for e in EXAMPLES[name])]),
        )
        add_arguments(command.add)
        quiet = "print only the laws that are broken" if name == "watch" else "print only errors"
        command.add("--quiet", quiet)
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


def claims(add: Add) -> None:
    """List the claims of the course and their verdicts."""
    add("claim", "print this claim with its laws and mistakes", nargs="?", metavar="ID")
    add("--lesson", f"only the claims of {ONE_OF}", choices=LESSONS, metavar="NAME")
    add("--json", "print a list of objects")


def verify(add: Add) -> None:
    """Run the laws, print the verdict on each claim, and write a report."""
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    add("claim", "only this claim, such as networks.relu", nargs="*", metavar="CLAIM")
    add("--device", "cpu (default), cuda, mps, xpu, or all", **several)
    add("--lesson", f"only the laws of {ONE_OF}", choices=LESSONS, metavar="NAME", **several)
    add("--profile", "number of examples (%(default)s)", choices=PROFILES, default="ci")
    add("--jobs", "number of processes (one for each core)", type=int, metavar="N")
    add("--fail-fast", "stop at the first failure; run first what failed before, then fast laws")
    add_out(add, "verify")
    add_shared(add, "--json")


def compare(add: Add) -> None:
    """Show what differs between two runs of the laws.

    It compares verdicts, counterexamples, messages and exceptions. Exit status: 0 if no verdict
    worsened, 1 if one did, 2 if a run cannot be read.
    """
    run = "results.xml of verify, its folder, or a recorded version, such as 2.14 or 2.14-cuda"
    add("a", run, metavar="A")
    same = "the later run; without it, A is compared with the record of its version of torch"
    add("b", same, nargs="?", metavar="B")
    add("--json", "print an object")
    add("--markdown", "print Markdown")


def practice(add: Add) -> None:
    """Write the techniques yourself.

    Without --check: create a file for each lesson, with the techniques but without their bodies.
    With --check: run the laws on your code.
    """
    folder = Path("practice")
    lesson: dict[str, Any] = {"choices": LESSONS, "metavar": "LESSON"}
    learned: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
    add("lesson", f"only {ONE_OF}", nargs="?", **lesson)
    add("--lesson", "the same", dest="only", **lesson)
    add("--out", f"folder to write ({folder})", **learned)
    add("--notebook", "write notebooks instead of Python files")
    add("--check", f"test the functions in a folder ({folder})", nargs="?", const=folder, **learned)
    add("--watch", "with --check: again after each save, until Ctrl-C")
    add("--hint", "with --check: a hint about the first failure; each time it says more")
    solution = "show the library's code for NAME; with --check alone, for the first failure"
    add("--solution", solution, nargs="?", const="", metavar="NAME")
    add("--list", "list the techniques, and which have passed")
    add("--reset", "delete what you wrote for NAME, after a question", metavar="NAME")
    add("--yes", "with --reset: ask no question")
    limit = "time limit for one example of a law (%(default)g)"
    add("--limit", limit, type=float, default=20.0, metavar="SECONDS")
    add("--grade", "judge a folder that has a folder for each learner; print a table", **learned)
    add("--csv", "with --grade: write a row for each answer", **FILE)
    add_shared(add, "--json")


def check(add: Add) -> None:
    """Check your own model and training loop.

    It runs the checks of dlconcepts.checks on your project. Exit status: 1 if a law is broken, 2 if
    a part could not be used or nothing could be checked, else 0. A module may be a file:
    net.py:Net.
    """
    repeated: dict[str, Any] = {"action": "append", "default": []}
    factory = "function that returns a model, or a dictionary of the parts of a project"
    add("project", factory, metavar="PACKAGE.MODULE:FACTORY")
    batch = "shape of random inputs, such as 4x3x224x224, or 4x10:int64<100 for numbers of words, "
    batch += "or package.module:function of a batch"
    add("--batch", batch, metavar="BATCH")
    add("--loader", "package.module:name of a loader, or of a function of one", metavar="NAME")
    argument = "argument of the factory; repeat the option for more"
    add("--arg", argument, metavar="NAME=VALUE", **repeated)
    exception = "skip this check, for this reason; repeat the option for more"
    add("--except", exception, dest="except_for", metavar="CHECK=REASON", **repeated)
    add_shared(add, "--json", "--junit")


def watch(add: Add) -> None:
    """Run your training script as it is, and see which laws it breaks.

    The script's own arguments stand after it. The report says on which lines it breaks a law, each
    with a proof. The script computes what it computes without watch. Exit status: the script's own
    if that is not 0, else 3 if a law is broken.
    """
    add("script", "script, and its own arguments", nargs=argparse.REMAINDER, metavar="SCRIPT")
    add("-m", "SCRIPT is a module, as for python -m", dest="module", action="store_true")
    add_shared(add, "--json", "--junit")
    add("--sarif", "write the report as SARIF, for code hosts", **FILE)
    add("--exit-zero", "exit with status 0 if a law is broken")


def train(add: Add) -> None:
    """Train a network on Fashion-MNIST.

    The images are the sample in this package or the full set. A checkpoint and pictures are
    written.
    """
    add("--full", "use the full set of 60,000 images, not the sample")
    add("--data", "folder of the full set (data)", type=Path, metavar="DIR")
    add("--download", "download the full set if it is missing")
    add("--hidden", "hidden widths (128 64)", type=positive, nargs="*", default=[128, 64])
    add("--dropout", "dropout probability (%(default)s)", type=share, default=0.2)
    add_run(add, "runs/fashion-mnist", epochs=15, batch_size=64)


def classify(add: Add) -> None:
    """Print and draw the class probabilities of image files.

    They may be PNG or JPEG, grey or colour, of any size. For a checkpoint of `train`, each image is
    converted to 28 x 28 grey pixels. Fashion-MNIST has light objects on black, so the network does
    not know dark objects on white. For a checkpoint of `transfer`, the centre of each image is
    used, in colour. All images are read before the first is drawn, and none is if one cannot be
    read; only a few are in memory at a time.
    """
    add("checkpoint", "file written by train or transfer", type=Path, metavar="CHECKPOINT")
    add("images", "image file", type=Path, nargs="+", metavar="IMAGE")
    add_out(add, "runs/classify")
    add_shared(add, "--force", "--json")


def transfer(add: Add) -> None:
    """Train a pretrained network to classify your photographs.

    Its new head learns the images of a folder that has a folder for each class; the rest of the
    network, from torchvision, is frozen. A checkpoint and pictures are written. The weights come
    from torchvision's cache folder. Any number of images will do: they are read a batch at a time,
    and their features, 5 KB an image for mobilenet_v2, stay in memory.
    """
    add("folder", "folder with a folder of images for each class", type=Path, metavar="FOLDER")
    add("--model", "classifier of torchvision (%(default)s)", default="mobilenet_v2")
    add("--weights", "imagenet, none, or a weights file (%(default)s)", default="imagenet")
    add("--download", "download the weights if they are not in the cache")
    add("--hidden", "hidden widths of the head (none)", type=positive, nargs="*", default=[])
    held_out = "share of each class to hold out for validation (%(default)s)"
    add("--held-out", held_out, type=proper_share, default=0.2)
    add("--skip-damaged", "skip images that cannot be read")
    add("--augment", "rotate, crop and mirror the images at random in each epoch; slower")
    add_run(add, "runs/transfer", epochs=30, batch_size=32)


def parity(add: Add) -> None:
    """Compare each technique on each backend with float64.

    For each dtype it prints how far each technique is from its float64 result on each backend, how
    far rounding can take it, and which planted faults that tolerance hides.
    """
    add("--eager", "skip torch.compile, which takes a minute or two")
    add_shared(add, "--device", "--json")


def add_shared(add: Add, *names: str) -> None:
    """Add options that several commands have."""
    for name in names:
        text, options = SHARED[name]
        add(name, text, **options)


def add_out(add: Add, folder: str) -> None:
    text = "folder to write to (%(default)s)"
    add("--out", text, type=Path, default=Path(folder), metavar="DIR")


def add_run(add: Add, folder: str, epochs: int, batch_size: int) -> None:
    add("--epochs", "passes over the images (%(default)s)", type=positive, default=epochs)
    add("--resume", "resume this run, up to --epochs in all", type=Path, metavar="CHECKPOINT")
    add("--batch-size", "images in a step (%(default)s)", type=positive, default=batch_size)
    add("--lr", "learning rate of Adam (%(default)s)", type=rate, default=1e-3)
    add("--seed", "of all that is random (%(default)s)", type=seed, default=0)
    add_shared(add, "--device")
    add_out(add, folder)
    add_shared(add, "--force", "--json")


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

ORDER = (claims, verify, compare, practice, check, watch, train, classify, transfer, parity)
COMMANDS: dict[str, Callable[[Add], None]] = {command.__name__: command for command in ORDER}
EXAMPLES = {
    "claims": ("--lesson tensors", "tensors.view-is-a-new-tensor"),
    "verify": ("--lesson tensors networks", "networks.relu --profile thorough"),
    "compare": ("verify", "2.10 2.14 --markdown"),
    "practice": ("tensors", "--check practice --hint"),
    "check": ("torchvision.models:resnet18 --batch 4x3x64x64", "project:parts --junit checks.xml"),
    "watch": ("train.py --epochs 3", "--json report.json -m package.train"),
    "train": ("", "--epochs 30 --resume runs/fashion-mnist/checkpoint.pt"),
    "classify": ("runs/fashion-mnist/checkpoint.pt photo.png", "checkpoint.pt *.jpg --json -"),
    "transfer": ("photographs --download", "photographs --model resnet18 --out runs/pets"),
    "parity": ("--eager", "--device cuda --json parity.json"),
}
