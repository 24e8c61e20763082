"""`python -m dlconcepts train`: train a network on Fashion-MNIST, write a checkpoint and pictures.

All user errors are found before the training starts.
"""

import argparse
import io
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import torch

from dlconcepts import checkpoints
from dlconcepts.cli import output
from dlconcepts.loading import normalize
from dlconcepts.networks import Network
from dlconcepts.support.datasets import ImageSet, fashion_mnist
from dlconcepts.support.errors import UserError, writing
from dlconcepts.support.plots import loss_curves, view_predictions
from dlconcepts.support.runs import Epoch, History, make_generator, seeded, torchrun_group
from dlconcepts.training import fit
from dlconcepts.validation import predict

NORMALIZATION = {"mean": 0.5, "std": 0.5}
# A resumed run must have the same settings.
SETTINGS = ("full", "batch_size", "lr", "hidden", "dropout", "seed")


def run(arguments: argparse.Namespace) -> int:
    """Train, or resume a run, and return 0."""
    folder = output.RunFolder(arguments)
    device = output.find_device(arguments.device)
    # All processes that torchrun starts compute; only the first one prints and writes.
    with (
        torchrun_group(device) as rank,
        redirect_stdout(io.StringIO()) if rank else folder.alone(),
    ):
        train(device, arguments, writes=rank == 0)
    return 0


def train(device: torch.device, arguments: argparse.Namespace, *, writes: bool) -> None:
    before = find_training(arguments) if arguments.resume else None
    source = {name: getattr(arguments, name) for name in ("full", "download")}
    examples, held_out = (
        fashion_mnist(train=part, root=arguments.data, **source) for part in (True, False)
    )
    print(f"data: {examples.source}")
    print(f"{len(examples.labels):,} images to train on, {len(held_out.labels):,} held out")
    print(f"device: {device}")
    history = [Epoch(**record) for record in before.history] if before else []
    with seeded(arguments.seed, device):
        model, optimizer, generator = build(arguments, device, before)

        def end_epoch(record: Epoch) -> None:
            output.check_finite(record, model)
            history.append(record)
            if writes:
                write_checkpoint(arguments, model, optimizer, generator, history, held_out.classes)
            output.print_epoch(record)

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
    if len(history) < arguments.epochs:
        raise KeyboardInterrupt  # as `fit` ends early
    print(f"trained in {sum(epoch.seconds for epoch in history):.1f} seconds")
    if writes:
        with writing(arguments.out):
            write_results(arguments.out, model, history, held_out)
        for name in ("checkpoint.pt", "loss.png", "predictions.png", "images"):
            print(f"wrote {arguments.out / name}")


def find_training(arguments: argparse.Namespace) -> checkpoints.Training:
    """Return the training state of the checkpoint; raise UserError if it cannot resume."""
    path = arguments.resume
    with output.using(path):
        training = checkpoints.load(path).training
        if training is None:
            raise UserError(f"{path} has no training state; train without --resume")
        had = {name: training.settings.get(name) for name in SETTINGS}
        if other := [name for name in SETTINGS if had[name] != getattr(arguments, name)]:
            settings = ", ".join(f"{name} {had[name]}" for name in other)
            raise UserError(f"{path} was trained with {settings}; use the same settings")
        epochs = [Epoch(**record) for record in training.history]
        numbers = [value for epoch in epochs for value in vars(epoch).values()]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise ValueError("its history has values that are not finite numbers")
        done = training.epoch
        if [epoch.epoch for epoch in epochs] != list(range(1, done + 1)) or not epochs:
            raise ValueError(f"its history has {len(epochs)} epochs, but its epoch is {done}")
        if done >= arguments.epochs:
            raise UserError(f"{path} already has {done} epochs; ask for more with --epochs")
        return training


def build(
    arguments: argparse.Namespace, device: torch.device, before: checkpoints.Training | None
) -> tuple[Network, torch.optim.Optimizer, torch.Generator]:
    """Return model, optimizer and shuffling generator, new or in the state of the checkpoint."""
    generator = make_generator(arguments.seed)
    model = Network(784, arguments.hidden, 10, dropout=arguments.dropout).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.lr, fused=True)
    if before:
        with output.using(arguments.resume):
            checkpoints.load(arguments.resume, model)
            checkpoints.resume(before, optimizer, generator)
            for parameter, state in optimizer.state.items():
                if any(state[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")):
                    raise ValueError("its optimizer is for parameters of other shapes")
    return model, optimizer, generator


def write_checkpoint(
    arguments: argparse.Namespace,
    model: Network,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    history: History,
    classes: Sequence[str],
) -> None:
    """Write the model, and the training state to resume from."""
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


def write_results(out: Path, model: Network, history: History, held_out: ImageSet) -> None:
    """Write the pictures, and one held-out image of each class for `classify`."""
    labels, classes = held_out.labels.tolist(), held_out.classes
    chosen = [labels.index(label) for label in range(len(classes))]
    images = held_out.images[chosen]
    probabilities = predict(model, normalize(images, **NORMALIZATION))
    predictions = view_predictions(images, probabilities, classes, held_out.labels[chosen])
    (out / "images").mkdir(exist_ok=True)
    output.write_figure(out / "loss.png", loss_curves(history))
    output.write_figure(out / "predictions.png", predictions)
    for image, name in zip(images, classes, strict=True):
        output.write_image(out / "images" / f"{output.slug(name)}.png", image)
