"""`python -m dlconcepts train`: train a network on Fashion-MNIST, write a checkpoint and pictures.

All user errors are found before the training starts.
"""

import argparse
import io
import re
from contextlib import redirect_stdout
from functools import partial

import torch

from dlconcepts import checkpoints
from dlconcepts.cli import output
from dlconcepts.cli.run_folder import RunFolder
from dlconcepts.loading import normalize
from dlconcepts.networks import Network
from dlconcepts.support.datasets import ImageSet, fashion_mnist
from dlconcepts.support.errors import writing
from dlconcepts.support.plots import loss_curves, view_predictions
from dlconcepts.support.runs import seeded, torchrun_group
from dlconcepts.validation import predict

NORMALIZATION = {"mean": 0.5, "std": 0.5}
# A resumed run must have the same settings.
SETTINGS = ("full", "batch_size", "lr", "hidden", "dropout", "seed")


def run(arguments: argparse.Namespace) -> int:
    """Train, or resume a run, and return 0."""
    place = RunFolder(arguments, SETTINGS)
    device = output.find_device(arguments.device)
    # All processes that torchrun starts compute; only the first one prints and writes.
    with (
        torchrun_group(device) as rank,
        redirect_stdout(io.StringIO()) if rank else place.alone(),
    ):
        train(device, arguments, place, writes=rank == 0)
    return 0


def train(
    device: torch.device, arguments: argparse.Namespace, place: RunFolder, *, writes: bool
) -> None:
    before = place.find_training()
    source = {name: getattr(arguments, name) for name in ("full", "download")}
    examples, held_out = (
        fashion_mnist(train=part, root=arguments.data, **source) for part in (True, False)
    )
    print(f"data: {examples.source}")
    print(f"{len(examples.labels):,} images to train on, {len(held_out.labels):,} held out")
    print(f"device: {device}")
    with seeded(arguments.seed, device):
        model = Network(784, arguments.hidden, 10, dropout=arguments.dropout).to(device)
        if before:
            with output.using(arguments.resume):
                checkpoints.load(arguments.resume, model)
        if writes:
            place.check_room(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=arguments.lr, fused=True)
        save = partial(
            checkpoints.save, model=model, classes=held_out.classes, normalization=NORMALIZATION
        )
        place.start(model, optimizer, save, at_once=writes)
        place.train(
            (examples.images, examples.labels),
            (held_out.images, held_out.labels),
            arguments.epochs,
        )
    print(f"trained in {sum(epoch.seconds for epoch in place.history):.1f} seconds")
    if writes:
        write_results(place, model, held_out)
        place.publish(held_out.classes)


def write_results(place: RunFolder, model: Network, held_out: ImageSet) -> None:
    """Write the pictures, and one held-out image of each class for `classify`."""
    labels, classes = held_out.labels.tolist(), held_out.classes
    chosen = [labels.index(label) for label in range(len(classes))]
    images, right = held_out.images[chosen], held_out.labels[chosen]
    probabilities = predict(model, normalize(images, **NORMALIZATION))
    predictions = view_predictions(images, probabilities, classes, right)
    place.draw(loss=loss_curves(place.history), predictions=predictions)
    folder = place.working / "images"
    with writing(place.final):
        folder.mkdir(exist_ok=True)
        for image, name in zip(images, classes, strict=True):
            safe = re.sub("[^a-z0-9]+", "-", name.lower())  # as the name of a file
            output.write_image(folder / f"{safe}.png", image)
