"""The parts of a correct project, and the decorators that collect the gallery."""

import copy
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

Parts = dict[str, Any]


@dataclass(frozen=True)
class Mistake:
    """A project with a mistake, the same without it, the check that must fail, and its message."""

    name: str
    wrong: Callable[[], Parts]
    right: Callable[[], Parts]
    check: str
    says: str
    also: tuple[str, ...] = ()


MISTAKES: list[Mistake] = []


def mistake(
    check: str, says: str, right: Callable[[], Parts], *also: str
) -> Callable[[Callable[[], Parts]], Callable[[], Parts]]:
    """Add a project with a mistake to the gallery."""

    def hang(wrong: Callable[[], Parts]) -> Callable[[], Parts]:
        MISTAKES.append(Mistake(wrong.__name__, seeded(wrong), seeded(right), check, says, also))
        return wrong

    return hang


CORRECT: dict[str, Callable[[], Parts]] = {}


def correct(parts: Callable[[], Parts]) -> Callable[[], Parts]:
    """Add a correct project of another kind to the gallery."""
    CORRECT[parts.__name__] = seeded(parts)
    return parts


def seeded(parts: Callable[[], Parts]) -> Callable[[], Parts]:
    """Return a function that builds a project with the same weights each time."""

    @functools.wraps(parts)
    def make() -> Parts:
        seed(0)
        return parts()

    return make


class Network(nn.Module):
    """A classifier of four features with the layers that often go wrong: BatchNorm and dropout."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x))


def train_step(model, loss_fn, optimizer, inputs, targets):
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


def fit(model, loader, loss_fn, optimizer):
    """Train for one epoch and return the mean loss."""
    total = 0.0
    for inputs, targets in loader:
        total += train_step(model, loss_fn, optimizer, inputs, targets) * len(targets)
    return total / len(loader.dataset)


def predict(model, inputs):
    model.eval()
    with torch.no_grad():
        return model(inputs).softmax(dim=1)


def accuracy(outputs, targets):
    return (outputs.argmax(dim=1) == targets).double().mean().item()


def evaluate(model, loader, loss_fn):
    was_training = model.training
    model.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for inputs, targets in loader:
            outputs = model(inputs)
            total += loss_fn(outputs, targets).item() * len(targets)
            right += (outputs.argmax(dim=1) == targets).sum().item()
    model.train(was_training)
    return total / len(loader.dataset), right / len(loader.dataset)


def save(model, optimizer, path):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)


def load(model, optimizer, path):
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])


def snapshot(model):
    """Return a copy of the weights."""
    return copy.deepcopy(model.state_dict())


def seed(number):
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002 - the generator that others draw from
    random.seed(number)


class Examples(Dataset):
    """A data set of numpy arrays, with a transform."""

    def __init__(self, array, labels, transform=None):
        self.array, self.labels, self.transform = array, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        x = torch.from_numpy(self.array[index].copy())
        return (self.transform(x) if self.transform else x), int(self.labels[index])


def arrays(count=12, shape=(4,), start=0):
    """Return random features and labels of a few examples."""
    generator = np.random.default_rng(start)
    return generator.standard_normal((count, *shape)).astype(np.float32), np.arange(count) % 3


def project(**changes):
    """Return a correct project with some parts replaced."""
    torch.manual_seed(0)
    model = changes.pop("model", None) or Network()
    data = changes.pop("data", None) or Examples(*arrays())
    torch.manual_seed(1)
    parts = {
        "model": model,
        "batch": (torch.randn(8, 4), torch.arange(8) % 3),
        "data": data,
        "loader": DataLoader(data, 8, shuffle=True),
        "validation": Examples(*arrays(6, start=1)),
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3),
        "train_step": train_step,
        "fit": fit,
        "predict": predict,
        "accuracy": accuracy,
        "evaluate": evaluate,
        "save": save,
        "load": load,
        "snapshot": snapshot,
        "seed": seed,
    }
    return parts | changes


def classifier():
    """A correct classifier."""
    return project()
