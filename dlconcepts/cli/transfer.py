"""`python -m dlconcepts transfer`: train a pretrained network on the classes of a folder."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from dlconcepts import checkpoints, images
from dlconcepts.cli import output
from dlconcepts.cli.run_folder import Examples, RunFolder
from dlconcepts.support.errors import UserError, explaining
from dlconcepts.support.plots import loss_curves, view_confusion, view_predictions
from dlconcepts.support.runs import make_generator, progress_bar, seeded
from dlconcepts.transfer import TransferNetwork, extract_features, untrained
from dlconcepts.validation import class_accuracies, confusion_matrix, predict
from dlconcepts.weights import load_weights, pretrained

# A resumed run must have the same settings.
SETTINGS = (
    *("model", "weights", "hidden", "held_out", "augment"),
    *("batch_size", "lr", "seed"),
)
Statistics = dict[str, Any]  # the arguments of images.eval_pipeline for these weights
DRAWN = 12  # images in predictions.png


def run(arguments: argparse.Namespace) -> int:
    """Train a head for the classes of a folder, write checkpoint and pictures, and return 0."""
    out, root = arguments.out.resolve(), arguments.folder.resolve()
    if root in (out, *out.parents):
        raise UserError(
            f"{arguments.out} is inside {arguments.folder}, where the next run would take it for "
            "images; choose another folder with --out"
        )
    place = RunFolder(arguments, SETTINGS)
    device = output.find_device(arguments.device)
    skip = arguments.skip_damaged
    folder = images.image_folder(arguments.folder, skip_damaged=skip, progress=True)
    for path in folder.damaged:
        print(f"skipped {path}, which cannot be read", file=sys.stderr)
    with explaining(f"{arguments.folder}: ", "; add images to it"):
        examples, held_out = images.split(folder, arguments.held_out, seed=arguments.seed)
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
        features = compute_features(model, held_out, images.eval_pipeline(**statistics))
        train_head(model, examples, features, statistics, place)
        place.save()
        probabilities, labels = predict(model.head, features[0]), features[1]
        confusion = confusion_matrix(probabilities.argmax(dim=1), labels, len(folder.classes))
        print_accuracies(confusion, folder.classes)
        confused = view_confusion(confusion, folder.classes)
        predictions = draw_predictions(held_out, probabilities, labels, statistics)
        place.draw(loss=loss_curves(place.history), confusion=confused, predictions=predictions)
        place.publish(folder.classes)
    return 0


@explaining()
def build(
    arguments: argparse.Namespace, classes: Sequence[str], before: checkpoints.Checkpoint | None
) -> tuple[TransferNetwork, Statistics]:
    """Return the network with the chosen weights, and the statistics of its images."""
    if before:
        if list(before.classes) != list(classes) or not isinstance(before.model, TransferNetwork):
            had = ", ".join(before.classes)
            raise UserError(f"{arguments.resume} was trained for the classes {had}; use the same")
        return before.model, before.normalization
    statistics: Statistics = {"size": 224, "mean": list(images.MEAN), "std": list(images.STD)}
    if arguments.weights == "imagenet":
        classifier, weights = pretrained(arguments.model, download=arguments.download)
        preset = weights.transforms()
        statistics = {"size": preset.crop_size[0], "resize": preset.resize_size[0]}
        statistics |= {"mean": list(preset.mean), "std": list(preset.std)}
    else:
        classifier = untrained(arguments.model)
        if arguments.weights != "none":
            load_weights(classifier, arguments.weights)
    model = TransferNetwork(arguments.model, arguments.hidden, len(classes), classifier=classifier)
    return model, statistics


def train_head(
    model: TransferNetwork,
    examples: images.ImageFolder,
    held_out: Examples,
    statistics: Statistics,
    place: RunFolder,
) -> None:
    """Train the head on features; compute them once, or in each epoch if images are augmented."""
    arguments = place.arguments
    optimizer = torch.optim.Adam(model.head.parameters(), lr=arguments.lr)
    # To write the whole network takes longer than an epoch of its head.
    save = partial(
        checkpoints.save, model=model, classes=examples.classes, normalization=statistics
    )
    place.start(model.head, optimizer, save, at_once=False)
    transform = images.eval_pipeline(**statistics)
    if arguments.augment:
        # Its crops are random, so it does not resize first.
        transform = images.train_pipeline(**{k: statistics[k] for k in ("size", "mean", "std")})
    start = len(place.history)
    for epoch in range(start, arguments.epochs):
        if arguments.augment or epoch == start:
            features = compute_features(model, examples, transform)
        place.train(features, held_out, epoch + 1)


def compute_features(
    model: TransferNetwork, folder: images.ImageFolder, transform: Callable[[Image.Image], Tensor]
) -> Examples:
    """Return features and labels of the images; show a progress bar on a terminal."""
    loader = DataLoader(replace(folder, transform=transform), batch_size=32)
    with progress_bar(len(loader), True) as advance:

        def watched() -> Iterator[Examples]:
            for batch in loader:
                yield batch
                if advance:
                    advance("features")

        return extract_features(model.classifier, model.head, watched())


def print_accuracies(confusion: Tensor, classes: Sequence[str]) -> None:
    names = [output.printable(name) for name in classes]
    width, shares = max(map(len, names)), class_accuracies(confusion)
    for n, (name, share) in enumerate(zip(names, shares, strict=True)):
        right, total = confusion[n, n], confusion[n].sum()
        print(f"  {name:{width}}  {right:4d} of {total:4d}  {share:6.1%}")


def draw_predictions(
    held_out: images.ImageFolder, probabilities: Tensor, labels: Tensor, statistics: Statistics
) -> Figure:
    """Draw some held-out images, wrong predictions first."""
    # Shuffled, since the images are sorted by class.
    order = torch.randperm(len(labels), generator=make_generator(0))
    right = (probabilities.argmax(dim=1) == labels)[order]
    chosen = order[right.int().argsort(stable=True)][:DRAWN]
    seen = replace(held_out, transform=images.eval_pipeline(**statistics))
    inputs = torch.stack([seen[index][0] for index in chosen.tolist()])
    pixels = output.denormalize(inputs, statistics["mean"], statistics["std"])
    return view_predictions(pixels, probabilities[chosen], held_out.classes, labels[chosen])
