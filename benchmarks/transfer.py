"""Measure what pretrained features gain on photographs, and what computing them once saves.

    python -m tests.data.make_photographs
    python benchmarks/transfer.py

The first table gives the accuracy on held-out photographs for four models: a linear head on the
frozen features of MobileNetV2 with ImageNet weights, the same with untrained weights, the whole
network trained from scratch, and always the largest class. Untrained features barely differ between
images, so both kinds also run standardised. Each seed draws a new split, with 20 % of each class
held out, and new weights. The interval is Student's 95 % interval of the mean over the seeds.

The second table times the training of the head, once with features computed once and once with the
backbone in every step. Both use the same images in memory; the table shows the best of a few
rounds, and the largest difference between the two trained heads.
"""

import argparse
import copy
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests, which nobody installs

from dlconcepts.images import ImageFolder, eval_pipeline, image_folder, split
from dlconcepts.loading import batches
from dlconcepts.training import fit
from dlconcepts.transfer import TransferNetwork, extract_features, untrained
from dlconcepts.validation import accuracy, evaluate, predict
from dlconcepts.weights import pretrained
from tests.data.make_photographs import PHOTOGRAPHS

NETWORK = "mobilenet_v2"
Examples = tuple[torch.Tensor, torch.Tensor]


def load(folder: ImageFolder, size: int) -> Examples:
    """Read all images of a folder into memory."""
    images = replace(folder, transform=eval_pipeline(size))
    inputs, labels = zip(*DataLoader(images, batch_size=32), strict=True)
    return torch.cat(inputs), torch.cat(labels)


def select(data: Examples, folder: ImageFolder, part: ImageFolder) -> Examples:
    """Return the images of a part of the folder."""
    position = {path: number for number, (path, _) in enumerate(folder.samples)}
    chosen = [position[path] for path, _ in part.samples]
    return data[0][chosen], data[1][chosen]


def network(classes: int, *, weights: bool) -> TransferNetwork:
    """Return the network under a linear head, with ImageNet's weights or untrained."""
    classifier = pretrained(NETWORK)[0] if weights else untrained(NETWORK)
    return TransferNetwork(NETWORK, [], classes, classifier=classifier)


def features_of(model: TransferNetwork, parts: list[Examples]) -> list[Examples]:
    return [extract_features(model.classifier, model.head, batches(part, 32)) for part in parts]


def standardised(parts: list[Examples]) -> list[Examples]:
    """Scale each feature to mean 0 and standard deviation 1 on the training part."""
    features = parts[0][0]
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-12)
    return [((part - mean) / std, labels) for part, labels in parts]


def of_head(model: TransferNetwork, parts: list[Examples], epochs: int, seed: int) -> float:
    """Train a new head on features, and return its accuracy on the held-out part."""
    head = copy.deepcopy(model.head)
    fit(head, parts[0], epochs=epochs, batch_size=32, seed=seed)
    return accuracy(predict(head, parts[1][0]), parts[1][1])


def from_scratch(classes: int, parts: list[Examples], epochs: int, seed: int) -> float:
    """Train the whole network, and return its accuracy on the held-out part."""
    model = untrained(NETWORK)
    model.classifier[1] = torch.nn.Linear(model.last_channel, classes)
    fit(model, parts[0], epochs=epochs, batch_size=32, seed=seed)
    return evaluate(model, parts[1], batch_size=32).accuracy


def interval(values: list[float]) -> str:
    """Return the mean and the half width of its 95 % interval as text."""
    mean, n = statistics.mean(values), len(values)
    half = t.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5 if n > 1 else float("nan")
    return f"{mean:.1%} ± {half:.1%}"


def time_training(model: TransferNetwork, data: Examples, epochs: int, *, once: bool) -> float:
    """Return the seconds of training the head, with features computed once or in every step."""
    start = time.perf_counter()
    if once:
        fit(model.head, features_of(model, [data])[0], epochs=epochs, batch_size=32)
    else:
        fit(model, data, epochs=epochs, batch_size=32)
    return time.perf_counter() - start


def compare_speed(model: TransferNetwork, data: Examples, epochs: int, rounds: int) -> Table:
    """Time both ways in turn, starting from the same head."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        trained = {once: copy.deepcopy(model) for once in seconds}
        for once, copied in trained.items():
            seconds[once].append(time_training(copied, data, epochs, once=once))
    heads = (copied.head.state_dict().values() for copied in trained.values())
    apart = max(float((one - other).abs().max()) for one, other in zip(*heads, strict=True))
    best = {once: min(values) for once, values in seconds.items()}
    table = Table("epochs", "features once", "backbone in every step", "ratio", "heads apart by")
    table.add_row(
        str(epochs),
        f"{best[True]:.2f} s",
        f"{best[False]:.2f} s",
        f"{best[False] / best[True]:.1f}",
        f"{apart:.1e}",
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=PHOTOGRAPHS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--scratch-epochs", type=int, default=30)
    parser.add_argument("--size", type=int, default=224, help="of the images (%(default)s)")
    parser.add_argument("--speed-epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = image_folder(options.folder)
    data, classes = load(folder, options.size), len(folder.classes)
    accuracies: dict[str, list[float]] = defaultdict(list)
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        parts = [select(data, folder, part) for part in split(folder, seed=seed)]
        for name, weights in (("pretrained", True), ("untrained", False)):
            model = network(classes, weights=weights)
            features = features_of(model, parts)
            for suffix, shown in (("", features), (", standardised", standardised(features))):
                result = of_head(model, shown, options.epochs, seed)
                accuracies[f"{name}{suffix}"].append(result)
        if options.scratch_epochs:
            result = from_scratch(classes, parts, options.scratch_epochs, seed)
            accuracies["from scratch"].append(result)
        largest = parts[0][1].mode().values
        accuracies["always the largest class"].append(
            float((parts[1][1] == largest).float().mean())
        )
    table = Table("network", f"held-out accuracy, {options.seeds} seeds", "each")
    for name, values in accuracies.items():
        table.add_row(name, interval(values), ", ".join(f"{value:.1%}" for value in values))
    console = Console()
    console.print(f"{len(folder):,} images of {classes} classes, {options.size} x {options.size}")
    console.print(table)
    console.print(
        compare_speed(network(classes, weights=True), data, options.speed_epochs, options.rounds)
    )


if __name__ == "__main__":
    main()
