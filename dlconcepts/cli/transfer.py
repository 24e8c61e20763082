"""`python -m dlconcepts transfer`: train a pretrained network on the classes of a folder."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from dlconcepts import checkpoints
from dlconcepts.cli import output
from dlconcepts.cli.run_folder import RunFolder
from dlconcepts.images import (
    MEAN,
    STD,
    ImageFolder,
    eval_pipeline,
    image_folder,
    split,
    train_pipeline,
)
from dlconcepts.support.errors import UserError, explaining, writing
from dlconcepts.support.plots import loss_curves, view_confusion, view_predictions
from dlconcepts.support.runs import Epoch, make_generator, progress_bar, seeded
from dlconcepts.training import fit
from dlconcepts.transfer import TransferNetwork, extract_features, untrained
from dlconcepts.validation import class_accuracies, confusion_matrix, predict
from dlconcepts.weights import load_weights, pretrained

# A resumed run must have the same settings.
SETTINGS = (
    *("model", "weights", "hidden", "held_out", "augment"),
    *("batch_size", "lr", "seed"),
)
Examples = tuple[Tensor, Tensor]
Statistics = dict[str, Any]  # the arguments of eval_pipeline for these weights
DRAWN = 12  # images in predictions.png


def run(arguments: argparse.Namespace) -> int:
    """Train a head for the classes of a folder, write checkpoint and pictures, and return 0."""
    check_outside(arguments.out, arguments.folder)
    place = RunFolder(arguments, SETTINGS)
    device = output.find_device(arguments.device)
    folder = image_folder(arguments.folder, skip_damaged=arguments.skip_damaged)
    for path in folder.damaged:
        print(f"skipped {path}, which cannot be read", file=sys.stderr)
    with explaining(f"{arguments.folder}: ", "; add images to it"):
        examples, held_out = split(folder, arguments.held_out, seed=arguments.seed)
    if len(folder.classes) == 1:
        raise UserError(
            f"{arguments.folder} has a single class, {folder.classes[0]}; add a folder for another"
        )
    with place.alone(), seeded(arguments.seed, device):
        before = place.find_training()
        model, statistics = build(arguments, folder.classes, before)
        print(f"network: {arguments.model}, weights: {arguments.weights}")
        print(f"{len(examples):,} images to train on, {len(held_out):,} held out")
        print(f"device: {device}", flush=True)
        model.to(device)
        place.check_room(model)
        features = compute_features(model, held_out, eval_pipeline(**statistics))
        train_head(model, examples, features, statistics, arguments, place)
        place.save()
        probabilities = predict(model.head, features[0])
        print_accuracies(probabilities, features[1], folder.classes)
        with writing(arguments.out):
            output.write_figure(place.working / "loss.png", loss_curves(place.history))
            write_predictions(place.working, held_out, probabilities, statistics)
        place.publish(folder.classes)
    return 0


def check_outside(out: Path, folder: Path) -> None:
    """Raise UserError if the folder to write to would be a class of the next run."""
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(
            f"{out} is inside {folder}, where the next run would take it for images; choose "
            "another folder with --out"
        )


@explaining()
def build(
    arguments: argparse.Namespace,
    classes: Sequence[str],
    before: checkpoints.Checkpoint | None,
) -> tuple[TransferNetwork, Statistics]:
    """Return the network with the chosen weights, and the statistics of its images."""
    if before:
        if list(before.classes) != list(classes) or not isinstance(before.model, TransferNetwork):
            had = ", ".join(before.classes)
            raise UserError(f"{arguments.resume} was trained for the classes {had}; use the same")
        return before.model, before.normalization
    statistics: Statistics = {"size": 224, "mean": list(MEAN), "std": list(STD)}
    if arguments.weights == "imagenet":
        classifier, weights = pretrained(arguments.model, download=arguments.download)
        preset = weights.transforms()
        statistics = {
            "size": preset.crop_size[0],
            "resize": preset.resize_size[0],
            "mean": list(preset.mean),
            "std": list(preset.std),
        }
    else:
        classifier = untrained(arguments.model)
        if arguments.weights != "none":
            load_weights(classifier, arguments.weights)
    model = TransferNetwork(arguments.model, arguments.hidden, len(classes), classifier=classifier)
    return model, statistics


def train_head(
    model: TransferNetwork,
    examples: ImageFolder,
    held_out: Examples,
    statistics: Statistics,
    arguments: argparse.Namespace,
    place: RunFolder,
) -> None:
    """Train the head on features; compute them once, or in each epoch if images are augmented."""
    generator = make_generator(arguments.seed)
    optimizer = torch.optim.Adam(model.head.parameters(), lr=arguments.lr)
    place.resume(optimizer, generator)
    transform = eval_pipeline(**statistics)
    if arguments.augment:
        # Its crops are random, so it does not resize first.
        transform = train_pipeline(**{k: statistics[k] for k in ("size", "mean", "std")})

    write = partial(
        checkpoints.save, model=model, classes=examples.classes, normalization=statistics
    )

    def end_epoch(record: Epoch) -> None:
        head = checkpoints.snapshot(model.head)

        def save(path: Path, training: checkpoints.Training) -> None:
            checkpoints.restore(model.head, head)
            write(path, training=training)

        place.end_epoch(record, model.head, optimizer, generator, save, now=False)

    start = len(place.history)
    for epoch in range(start, arguments.epochs):
        if arguments.augment or epoch == start:
            features = compute_features(model, examples, transform)
        records = fit(
            model.head,
            features,
            epochs=epoch + 1,
            start_epoch=epoch,
            batch_size=arguments.batch_size,
            optimizer=optimizer,
            validate=held_out,
            generator=generator,
            callback=end_epoch,
        )
        if not records:  # as `fit` ends early
            raise KeyboardInterrupt


def compute_features(
    model: TransferNetwork, images: ImageFolder, transform: Callable[[Image.Image], Tensor]
) -> Examples:
    """Return features and labels of the images; show a progress bar on a terminal."""
    loader = DataLoader(replace(images, transform=transform), batch_size=32)
    with progress_bar(len(loader), True) as advance:

        def watched() -> Iterator[Examples]:
            for batch in loader:
                yield batch
                if advance:
                    advance("features")

        return extract_features(model.classifier, model.head, watched())


def print_accuracies(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Print how many held-out images of each class are predicted correctly."""
    confusion = confusion_matrix(probabilities.argmax(dim=1), labels, len(classes))
    width = max(map(len, classes))
    for name, row, right, share in zip(
        classes, confusion, confusion.diagonal(), class_accuracies(confusion), strict=True
    ):
        print(f"  {name:{width}}  {right:4d} of {row.sum():4d}  {share:6.1%}")


def write_predictions(
    out: Path, held_out: ImageFolder, probabilities: Tensor, statistics: Statistics
) -> None:
    """Draw the confusion matrix and some held-out images, wrong predictions first."""
    labels = torch.tensor(held_out.targets)
    predicted = probabilities.argmax(dim=1)
    confusion = confusion_matrix(predicted, labels, len(held_out.classes))
    output.write_figure(out / "confusion.png", view_confusion(confusion, held_out.classes))
    # Shuffled, since the images are sorted by class; then the wrong predictions first.
    order = torch.randperm(len(labels), generator=make_generator(0))
    chosen = order[(predicted == labels)[order].int().argsort(stable=True)][:DRAWN]
    seen = replace(held_out, transform=eval_pipeline(**statistics))
    inputs = torch.stack([seen[index][0] for index in chosen.tolist()])
    images = output.denormalize(inputs, statistics["mean"], statistics["std"])
    figure = view_predictions(images, probabilities[chosen], held_out.classes, labels[chosen])
    output.write_figure(out / "predictions.png", figure)
