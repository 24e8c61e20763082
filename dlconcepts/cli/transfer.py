"""What `python -m dlconcepts transfer` does: a network learns the classes of a folder."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from dlconcepts import checkpoints
from dlconcepts.cli.train import (
    EXPLAINED,
    CommandError,
    check_folder,
    denormalize,
    find_device,
    print_epoch,
    write_figure,
    writing,
)
from dlconcepts.images import (
    MEAN,
    STD,
    ImageFolder,
    eval_pipeline,
    image_folder,
    split,
    train_pipeline,
)
from dlconcepts.support.plots import loss_curves, view_confusion, view_predictions
from dlconcepts.support.runs import progress_bar, seeded
from dlconcepts.training import History, fit
from dlconcepts.transfer import TransferNetwork, extract_features, untrained
from dlconcepts.validation import class_accuracies, confusion_matrix, predict
from dlconcepts.weights import WeightsError, load_weights, pretrained

Examples = tuple[Tensor, Tensor]
# The arguments of eval_pipeline that suit the weights.
Statistics = dict[str, Any]
DRAWN = 12


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status, 2 after an error that was explained."""
    try:
        transfer(arguments)
    except (*EXPLAINED, WeightsError) as error:
        print(f"dlconcepts transfer: {error}", file=sys.stderr)
        return 2
    return 0


def transfer(arguments: argparse.Namespace) -> None:
    """Train a head for the classes of a folder; write its checkpoint and pictures."""
    check_folder(arguments.out)
    device = find_device(arguments.device)
    folder = image_folder(arguments.folder, skip_damaged=arguments.skip_damaged)
    try:
        examples, held_out = split(folder, arguments.held_out, seed=arguments.seed)
    except ValueError as error:
        raise CommandError(f"{arguments.folder}: {error}; add images to it") from error
    left_out = f", {len(folder.damaged):,} damaged left out" if folder.damaged else ""
    with seeded(arguments.seed, device):
        model, statistics = build(arguments, len(folder.classes))
        print(f"{len(examples):,} images to train on, {len(held_out):,} held out{left_out}")
        print(f"device: {device}", flush=True)
        model.to(device)
        features = compute_features(model, held_out, eval_pipeline(**statistics))
        history = train_head(model, examples, features, statistics, arguments)
    if not history:
        raise CommandError("interrupted in the first epoch, so that there is nothing to write")
    probabilities = predict(model.head, features[0])
    print_accuracies(probabilities, features[1], folder.classes)
    with writing(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / "checkpoint.pt"
        checkpoints.save(path, model, classes=folder.classes, normalization=statistics)
        write_figure(arguments.out / "loss.png", loss_curves(history))
        write_predictions(arguments.out, held_out, probabilities, statistics)
    for name in ("checkpoint.pt", "loss.png", "predictions.png", "confusion.png"):
        print(f"wrote {arguments.out / name}")


def build(arguments: argparse.Namespace, classes: int) -> tuple[TransferNetwork, Statistics]:
    """Return the network with the weights asked for, and how it wants its images."""
    statistics: Statistics = {"size": 224, "mean": list(MEAN), "std": list(STD)}
    try:
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
        model = TransferNetwork(arguments.model, arguments.hidden, classes, classifier=classifier)
    except ValueError as error:
        raise CommandError(str(error)) from error
    print(f"network: {arguments.model}, weights: {arguments.weights}")
    return model, statistics


def train_head(
    model: TransferNetwork,
    examples: ImageFolder,
    held_out: Examples,
    statistics: Statistics,
    arguments: argparse.Namespace,
) -> History:
    """Train the head on features, computed once, or in each epoch of images distorted anew."""
    generator = torch.Generator().manual_seed(arguments.seed)
    optimizer = torch.optim.Adam(model.head.parameters(), lr=arguments.lr)
    transform = eval_pipeline(**statistics)
    if arguments.augment:
        likewise = {name: statistics[name] for name in ("size", "mean", "std")}
        transform = train_pipeline(**likewise)
    history = History()
    for epoch in range(arguments.epochs):
        if arguments.augment or epoch == 0:
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
            callback=print_epoch,
        )
        if not records:  # interrupted
            break
        history += records
    return history


def compute_features(
    model: TransferNetwork, images: ImageFolder, transform: Callable[[Image.Image], Tensor]
) -> Examples:
    """Return the features and the labels of images, with a progress bar on a terminal."""
    loader = DataLoader(replace(images, transform=transform), batch_size=32)
    with progress_bar(len(loader), True) as advance:

        def watched() -> Iterator[Examples]:
            """Move the bar on by each batch."""
            for batch in loader:
                yield batch
                if advance:
                    advance("features")

        return extract_features(model.classifier, model.head, watched())


def print_accuracies(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Print how many held-out images of each class are predicted rightly."""
    confusion = confusion_matrix(probabilities.argmax(dim=1), labels, len(classes))
    width = max(map(len, classes))
    for name, row, right, share in zip(
        classes, confusion, confusion.diagonal(), class_accuracies(confusion), strict=True
    ):
        print(f"  {name:{width}}  {right:4d} of {row.sum():4d}  {share:6.1%}")


def write_predictions(
    out: Path, held_out: ImageFolder, probabilities: Tensor, statistics: Statistics
) -> None:
    """Draw the confusion matrix, and held-out images, those predicted wrongly first."""
    labels = torch.tensor(held_out.targets)
    predicted = probabilities.argmax(dim=1)
    confusion = confusion_matrix(predicted, labels, len(held_out.classes))
    write_figure(out / "confusion.png", view_confusion(confusion, held_out.classes))
    # Of any class, but those that are wrong first.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[(predicted == labels)[order].int().argsort(stable=True)][:DRAWN]
    seen = replace(held_out, transform=eval_pipeline(**statistics))
    inputs = torch.stack([seen[index][0] for index in chosen.tolist()])
    images = denormalize(inputs, statistics["mean"], statistics["std"])
    figure = view_predictions(images, probabilities[chosen], held_out.classes, labels[chosen])
    write_figure(out / "predictions.png", figure)
