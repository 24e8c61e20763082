"""Make the pictures of the lesson on validation, and print their numbers.

    python docs/figures.py [extra-softmax] [overfitting] [adam-and-sgd]

It trains small networks on the embedded sample of Fashion-MNIST, which takes a few minutes on two
cores, and writes PNG files to docs/figures/.
"""

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from plots import Panel, compare_runs
from scipy.stats import binom, t

from dlconcepts.networks import Network
from dlconcepts.support.datasets import fashion_mnist
from dlconcepts.training import fit
from dlconcepts.validation import Data, LossFunction, evaluate, hold_out

OUT = Path(__file__).parent / "figures"
SEEDS = range(10)

Build = Callable[..., torch.optim.Optimizer]
Curves = dict[str, list[float]]


def train(
    data: Data,
    held_out: Data,
    *,
    seed: int,
    epochs: int,
    build: Build = torch.optim.Adam,
    lr: float = 1e-3,
    loss_fn: LossFunction | None = None,
) -> Curves:
    """Train a network; return its loss and both accuracies after each epoch."""
    torch.manual_seed(seed)
    model = Network(784, [128, 64], 10)
    curves: Curves = {"loss": [], "accuracy": [], "held out": []}

    def record(epoch: object) -> None:
        curves["accuracy"].append(evaluate(model, data).accuracy)
        curves["held out"].append(evaluate(model, held_out).accuracy)

    optimizer = build(model.parameters(), lr=lr)
    options = {"epochs": epochs, "batch_size": 64, "seed": seed, "loss_fn": loss_fn}
    history = fit(model, data, **options, optimizer=optimizer, callback=record)
    curves["loss"] = [epoch.train_loss for epoch in history]
    return curves


def softmax_first(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Apply softmax before the cross-entropy, which applies it again."""
    return F.cross_entropy(scores.softmax(dim=1), labels)


def interval(values: list[float]) -> str:
    """Return the mean and its 95 % interval, from Student's t."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):+.4f} [{np.mean(values) - half:+.4f}, {np.mean(values) + half:+.4f}]"


def print_gains(runs: dict[str, list[Curves]], epochs: Iterable[int]) -> None:
    """Print how much better the held-out accuracy of the first kind of run is."""
    (name, first), (other_name, second) = runs.items()
    for epoch in epochs:
        pairs = zip(first, second, strict=True)
        gains = [one["held out"][epoch - 1] - two["held out"][epoch - 1] for one, two in pairs]
        print(f"after epoch {epoch}, {name} minus {other_name}, by seed: {interval(gains)}")


def draw_extra_softmax(examples: Data, held_out: Data) -> None:
    """Train with and without a softmax before the cross-entropy."""
    kinds = {"logits": F.cross_entropy, "softmax first": softmax_first}
    runs = {
        name: [train(examples, held_out, seed=seed, epochs=20, loss_fn=loss_fn) for seed in SEEDS]
        for name, loss_fn in kinds.items()
    }
    floor = math.log(1 + 9 / math.e)
    for name, of_name in runs.items():
        print(f"{name}: loss {interval([run['loss'][-1] for run in of_name])},", end=" ")
        print(f"held-out accuracy {interval([run['held out'][-1] for run in of_name])}")
    print_gains(runs, (1, 5, 10, 20))
    losses = {name: [run["loss"] for run in of_name] for name, of_name in runs.items()}
    accuracies = {name: [run["held out"] for run in of_name] for name, of_name in runs.items()}
    save(
        "extra-softmax",
        [
            Panel("Training loss", losses, levels={f"floor {floor:.4f}": floor}),
            Panel("Held-out accuracy", accuracies, percent=True),
        ],
    )


def draw_overfitting(examples: Data, held_out: Data) -> None:
    """Train on true labels and on random ones, which a network can only memorize."""
    panels = []
    for name in ("True labels", "Random labels"):
        runs = []
        for seed in SEEDS[:5]:
            few, _ = hold_out(examples, len(examples[1]) - 1000, seed=seed)
            sets = [few, held_out]
            if name == "Random labels":
                torch.manual_seed(seed)
                sets = [(images, torch.randint(10, (len(labels),))) for images, labels in sets]
            runs.append(train(*sets, seed=seed, epochs=80))
        curves = {
            "training": [run["accuracy"] for run in runs],
            "held-out": [run["held out"] for run in runs],
        }
        ends = {key: [f"{run[-1]:.3f}" for run in of_key] for key, of_key in curves.items()}
        print(f"{name}, accuracy after 80 epochs: {ends}")
        panels.append(Panel(f"{name}: accuracy", curves, {"chance": 0.1}, percent=True))
    low, high = binom.interval(0.99, len(held_out[1]), 0.1)
    print(f"chance: {low:.0f} to {high:.0f} of {len(held_out[1])} in 99 of 100 runs")
    save("overfitting", panels)


def draw_adam_and_sgd(examples: Data, held_out: Data) -> None:
    """Compare Adam with SGD, each at the rate that scores best on a separate validation part."""
    part, choosing = hold_out(examples, 1000)
    rates = {
        "Adam": (torch.optim.Adam, (3e-4, 1e-3, 3e-3)),
        "SGD": (torch.optim.SGD, (0.003, 0.01, 0.03)),
    }
    runs = {}
    for name, (build, choices) in rates.items():
        scores = {}
        for lr in choices:
            chosen = [
                train(part, choosing, seed=seed, epochs=60, build=build, lr=lr)["held out"][-1]
                for seed in SEEDS[:2]
            ]
            scores[lr] = round(float(np.mean(chosen)), 4)
        best = max(scores, key=scores.__getitem__)
        print(f"{name}: mean accuracy of two seeds by rate {scores}, best: {best}")
        runs[f"{name}, lr {best}"] = [
            train(examples, held_out, seed=seed, epochs=60, build=build, lr=best) for seed in SEEDS
        ]
    print_gains(runs, (1, 5, 20, 40, 60))
    losses = {name: [run["loss"] for run in of_name] for name, of_name in runs.items()}
    accuracies = {name: [run["held out"] for run in of_name] for name, of_name in runs.items()}
    save(
        "adam-and-sgd",
        [Panel("Training loss", losses), Panel("Held-out accuracy", accuracies, percent=True)],
    )


def save(name: str, panels: list[Panel]) -> None:
    OUT.mkdir(exist_ok=True)
    compare_runs(panels).savefig(OUT / f"{name}.png", dpi=120)
    print(f"wrote docs/figures/{name}.png\n")


if __name__ == "__main__":
    train_set, test_set = (fashion_mnist(train=part) for part in (True, False))
    print(f"data: {train_set.source}")
    pair = (train_set.images, train_set.labels), (test_set.images, test_set.labels)
    pictures = {
        "extra-softmax": draw_extra_softmax,
        "overfitting": draw_overfitting,
        "adam-and-sgd": draw_adam_and_sgd,
    }
    for chosen in sys.argv[1:] or pictures:
        pictures[chosen](*pair)
