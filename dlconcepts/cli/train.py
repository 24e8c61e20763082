"""What `python -m dlconcepts train` and `classify` do.

All that a person can get wrong is looked for before the work begins; it is answered with one
sentence and the exit status 2, and nothing half-written is left behind.
"""

import argparse
import io
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from dlconcepts import checkpoints
from dlconcepts.loading import normalize
from dlconcepts.networks import Network
from dlconcepts.support import devices
from dlconcepts.support.atomic import write_atomically
from dlconcepts.support.checkpoint_files import CheckpointError
from dlconcepts.support.datasets import DataError, ImageSet, fashion_mnist, read_image
from dlconcepts.support.plots import loss_curves, view_classify, view_predictions
from dlconcepts.support.runs import seeded, torchrun_group
from dlconcepts.training import DivergedError, Epoch, History, fit
from dlconcepts.validation import predict

NORMALIZATION = {"mean": 0.5, "std": 0.5}
# What must stay the same when a training goes on.
SETTINGS = ("full", "batch_size", "lr", "hidden", "dropout", "seed")


class CommandError(Exception):
    """Something that the person at the command line can put right."""


EXPLAINED = (
    CommandError,
    DataError,
    DivergedError,
    CheckpointError,
    devices.DeviceUnavailableError,
)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status, 2 after an error that was explained."""
    try:
        {"train": train, "classify": classify}[arguments.command](arguments)
    except EXPLAINED as error:
        print(f"dlconcepts {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def train(arguments: argparse.Namespace) -> None:
    """Train a network on Fashion-MNIST, or go on with it, and write checkpoint and pictures."""
    check_folder(arguments.out)
    device = find_device(arguments.device)
    # Of the processes that torchrun starts, all compute, and the first one tells and writes.
    with torchrun_group(device) as rank, redirect_stdout(io.StringIO()) if rank else nullcontext():
        train_on(device, arguments, writes=rank == 0)


def train_on(device: torch.device, arguments: argparse.Namespace, *, writes: bool) -> None:
    """Train on a device; write what comes of it, or leave that to another process."""
    before = find_training(arguments) if arguments.resume else None
    examples, held_out = (
        fashion_mnist(
            train=part, full=arguments.full, root=arguments.data, download=arguments.download
        )
        for part in (True, False)
    )
    print(f"data: {examples.source}")
    print(f"{len(examples.labels):,} images to train on, {len(held_out.labels):,} held out")
    print(f"device: {device}")
    history = [Epoch(**record) for record in before.history] if before else []
    with seeded(arguments.seed, device):
        model, optimizer, generator = prepare(arguments, device, before)

        def end_epoch(record: Epoch) -> None:
            """Print and keep what an epoch came to, so that the training can go on from it."""
            print_epoch(record)
            history.append(record)
            if writes:
                write_checkpoint(arguments, model, optimizer, generator, history, held_out.classes)

        fit(
            model,
            (examples.images, examples.labels),
            epochs=arguments.epochs,
            start_epoch=len(history),
            batch_size=arguments.batch_size,
            optimizer=optimizer,
            validate=(held_out.images, held_out.labels),
            generator=generator,
            progress=writes,
            callback=end_epoch,
        )
    print(f"trained in {sum(epoch.seconds for epoch in history):.1f} seconds")
    if not history:
        raise CommandError("interrupted in the first epoch, so that there is nothing to write")
    if len(history) < arguments.epochs:
        print(f"interrupted after {len(history)} of {arguments.epochs} epochs; --resume goes on")
    if writes:
        with writing(arguments.out):
            write_results(arguments.out, model, history, held_out)


def find_training(arguments: argparse.Namespace) -> checkpoints.Training:
    """Return where the checkpoint's training stands; raise CommandError unless it can go on."""
    training = checkpoints.load(arguments.resume).training
    if training is None:
        raise CommandError(
            f"{arguments.resume} holds no training to go on with; leave out --resume"
        )
    had = {name: training.settings.get(name) for name in SETTINGS}
    if other := [name for name in SETTINGS if had[name] != getattr(arguments, name)]:
        settings = ", ".join(f"{name} {had[name]}" for name in other)
        raise CommandError(f"{arguments.resume} was trained with {settings}; give the same")
    if training.epoch >= arguments.epochs:
        raise CommandError(
            f"{arguments.resume} has done {training.epoch} epochs; give more with --epochs"
        )
    return training


def prepare(
    arguments: argparse.Namespace, device: torch.device, before: checkpoints.Training | None
) -> tuple[Network, torch.optim.Optimizer, torch.Generator]:
    """Return model, optimizer and shuffling generator, new or as the checkpoint has them."""
    generator = torch.Generator().manual_seed(arguments.seed)
    model = Network(784, arguments.hidden, 10, dropout=arguments.dropout).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.lr, fused=True)
    if before:
        checkpoints.load(arguments.resume, model)
        checkpoints.resume(before, optimizer, generator)
    return model, optimizer, generator


def write_checkpoint(
    arguments: argparse.Namespace,
    model: Network,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    history: History,
    classes: Sequence[str],
) -> None:
    """Write the model and all that a later training needs to go on."""
    training = checkpoints.capture(
        optimizer,
        generator,
        epoch=len(history),
        settings={name: getattr(arguments, name) for name in SETTINGS},
        history=[asdict(record) for record in history],
    )
    path = arguments.out / "checkpoint.pt"
    with writing(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
        checkpoints.save(
            path, model, classes=classes, normalization=NORMALIZATION, training=training
        )


def print_epoch(record: Epoch) -> None:
    """Print one line about an epoch."""
    print(
        f"epoch {record.epoch:3d}: training loss {record.train_loss:.4f}, "
        f"held-out loss {record.held_out_loss:.4f}, accuracy {record.held_out_accuracy:.1%}",
        flush=True,
    )


def write_results(out: Path, model: Network, history: History, held_out: ImageSet) -> None:
    """Write the pictures, and one held-out image of each class to classify."""
    labels, classes = held_out.labels.tolist(), held_out.classes
    chosen = [labels.index(label) for label in range(len(classes))]
    images = held_out.images[chosen]
    probabilities = predict(model, normalize(images, **NORMALIZATION))
    predictions = view_predictions(images, probabilities, classes, held_out.labels[chosen])
    (out / "images").mkdir(parents=True, exist_ok=True)
    write_figure(out / "loss.png", loss_curves(history))
    write_figure(out / "predictions.png", predictions)
    for image, name in zip(images, classes, strict=True):
        write_image(out / "images" / f"{slug(name)}.png", image)
    for name in ("checkpoint.pt", "loss.png", "predictions.png", "images"):
        print(f"wrote {out / name}")


def classify(arguments: argparse.Namespace) -> None:
    """Print and draw the class probabilities of image files."""
    check_folder(arguments.out)
    checkpoint = checkpoints.load(arguments.checkpoint)
    images, inputs = read_inputs(arguments, checkpoint)
    probabilities = predict(checkpoint.model, inputs)
    for number, path in enumerate(arguments.images):
        print(table(path, probabilities[number].tolist(), checkpoint.classes))
        figure = view_classify(images[number], probabilities[number], checkpoint.classes)
        # The number keeps images of the same name, from different folders, apart.
        drawing = arguments.out / f"{number + 1}-{path.stem}.png"
        with writing(arguments.out):
            arguments.out.mkdir(parents=True, exist_ok=True)
            write_figure(drawing, figure)
        print(f"wrote {drawing}")


def read_inputs(
    arguments: argparse.Namespace, checkpoint: checkpoints.Checkpoint
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images as uint8 to look at, grey or in colour, and as the network takes them."""
    if not isinstance(checkpoint.model, Network):
        # It needs torchvision, which takes as long to import as torch itself.
        from dlconcepts.images import eval_pipeline, read_rgb

        photographs = [read_rgb(path) for path in arguments.images]
        statistics = checkpoint.normalization
        inputs = torch.stack([eval_pipeline(**statistics)(image) for image in photographs])
        return denormalize(inputs, statistics["mean"], statistics["std"]), inputs
    if checkpoint.model.in_features != 28 * 28:
        raise CommandError(
            f"the network of {arguments.checkpoint} takes {checkpoint.model.in_features} values an "
            "image, not 28 x 28 = 784; give a checkpoint trained on Fashion-MNIST"
        )
    images = torch.stack([read_image(path) for path in arguments.images])
    return images, normalize(images, **checkpoint.normalization)


def denormalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return images (N, C, H, W) as they were before `normalize`, uint8.

    >>> denormalize(normalize(torch.tensor([[[[7]]]], dtype=torch.uint8)), [0.5], [0.5])
    tensor([[[[7]]]], dtype=torch.uint8)
    """
    by_channel = (-1, 1, 1)
    shares = images * torch.tensor(std).view(by_channel) + torch.tensor(mean).view(by_channel)
    return (255 * shares).round().clamp(0, 255).to(torch.uint8)


def table(path: Path, probabilities: Sequence[float], classes: Sequence[str]) -> str:
    """Return an image's class probabilities as text, one line a class.

    >>> print(table(Path("pet.png"), [0.25, 0.75], ["cat", "dog"]))
    pet.png: dog
      cat   25.0%  #####
      dog   75.0%  ###############
    """
    width = max(map(len, classes))
    rows = [
        f"  {name:{width}}  {probability:6.1%}  {'#' * round(20 * probability)}".rstrip()
        for name, probability in zip(classes, probabilities, strict=True)
    ]
    predicted = classes[probabilities.index(max(probabilities))]
    return "\n".join([f"{path}: {predicted}", *rows])


def find_device(name: str) -> torch.device:
    """Return the device; a name that is none counts as something that can be put right."""
    try:
        return devices.find_device(name)
    except ValueError as error:
        raise CommandError(str(error)) from error


def check_folder(folder: Path) -> None:
    """Raise CommandError unless files can be written into the folder, which need not exist yet."""
    with writing(folder):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        tempfile.TemporaryFile(dir=existing).close()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Explain an error of the operating system that comes up while writing into the folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(
            f"cannot write to the folder {folder}: {reason}; choose another with --out"
        ) from error


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())


def write_image(path: Path, image: torch.Tensor) -> None:
    """Write a uint8 tensor of shape (H, W) as a grey PNG file, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def slug(name: str) -> str:
    """Return a name as it is fit for a file.

    >>> slug("T-shirt/top")
    't-shirt-top'
    """
    return re.sub("[^a-z0-9]+", "-", name.lower())
