"""How many examples a second an epoch takes: the course's loop, its peers, and this project.

    pip install -e ".[bench]"
    python benchmarks/training.py

One epoch of a network 784-128-64-10 with Adam, batches of 64, on 60,000 images: the sample that
comes with the package, repeated. All routes run in one process, interleaved, each with its own
defaults; a table gives the median of the rounds, the ratios to the course's loop and to the floor,
and the peak memory of a process that runs one route alone (on Linux). The floor is only the matrix
products of forward and backward, on buffers that are there. A second table is about the evaluation
of 10,000 images with one thread each.
"""

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from dlconcepts.autograd import ByHand
from dlconcepts.datasets import fashion_mnist
from dlconcepts.loading import normalize
from dlconcepts.runs import one_thread
from dlconcepts.training import fit
from dlconcepts.validation import evaluate

SIZES = (784, 128, 64, 10)
BATCH = 64
Data = tuple[Tensor, Tensor]
Route = Callable[[Data], Callable[[], object]]


def network() -> nn.Sequential:
    layers = [layer for a, b in pairwise(SIZES) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


class Photographs(Dataset[tuple[Tensor, int]]):
    """Images that become tensors one at a time, as torchvision's data sets do it."""

    def __init__(self, data: Data) -> None:
        self.images, self.labels = data
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index].numpy(), mode=None)
        return self.transform(image), int(self.labels[index])


def loop(loader: DataLoader[Any]) -> Callable[[], object]:
    """Return an epoch as the course writes it."""
    model = nn.Sequential(*network(), nn.LogSoftmax(dim=1))
    criterion, optimizer = nn.NLLLoss(), torch.optim.Adam(model.parameters(), lr=0.003)

    def epoch() -> float:
        running_loss = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        return running_loss / len(loader)

    return epoch


def course(data: Data) -> Callable[[], object]:
    return loop(DataLoader(Photographs(data), BATCH, shuffle=True))


def loader_over_tensors(data: Data) -> Callable[[], object]:
    return loop(DataLoader(TensorDataset(normalize(data[0]), data[1]), BATCH, shuffle=True))


def lightning(data: Data) -> Callable[[], object]:
    import logging

    from lightning.pytorch import LightningModule, Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(LightningModule):
        """The network and its loss."""

        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def training_step(self, batch: Data) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    loader = DataLoader(TensorDataset(normalize(data[0]), data[1]), BATCH, shuffle=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    module = Module()

    def epoch() -> None:
        trainer = Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **quiet)
        trainer.fit(module, loader)

    return epoch


def skorch(data: Data) -> Callable[[], object]:
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(
        network(),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        max_epochs=1,
        batch_size=BATCH,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    ).initialize()
    images = normalize(data[0])
    return lambda: net.partial_fit(images, data[1])


def our_fit(data: Data) -> Callable[[], object]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    return lambda: fit(model, data, epochs=1, batch_size=BATCH, optimizer=optimizer)


def our_fit_by_hand(data: Data) -> Callable[[], object]:
    model = ByHand(network())
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    return lambda: fit(model, data, epochs=1, batch_size=BATCH, optimizer=optimizer)


def floor(data: Data) -> Callable[[], object]:
    weights = [torch.randn(b, a) for a, b in pairwise(SIZES)]
    gradients = [torch.empty_like(weight) for weight in weights]
    values = [torch.randn(BATCH, size) for size in SIZES]

    def products() -> None:
        for weight, before, after in zip(weights, values, values[1:], strict=False):
            torch.mm(before, weight.t(), out=after)
        for layer in (2, 1, 0):
            torch.mm(values[layer + 1].t(), values[layer], out=gradients[layer])
            if layer:
                torch.mm(values[layer + 1], weights[layer], out=values[layer])

    def epoch() -> None:
        with one_thread(nn.Identity()):
            for _ in range(-(-len(data[1]) // BATCH)):
                products()

    return epoch


ROUTES: dict[str, Route] = {
    "the course's loop, PIL images": course,
    "the same loop over tensors": loader_over_tensors,
    "Lightning over tensors": lightning,
    "skorch": skorch,
    "fit": our_fit,
    "fit, differentiated by hand": our_fit_by_hand,
    "matrix products alone, one thread": floor,
}


def course_validation(data: Data) -> Callable[[], object]:
    model = nn.Sequential(*network(), nn.LogSoftmax(dim=1))
    loader = DataLoader(Photographs(data), BATCH)

    def validation() -> Tensor:
        loss, accuracy = torch.zeros(()), torch.zeros(())
        model.eval()
        with torch.no_grad():
            for images, labels in loader:
                outputs = model(images)
                loss += F.nll_loss(outputs, labels)
                top = outputs.exp().topk(1, dim=1)[1]
                accuracy += (top == labels.view(*top.shape)).float().mean()
        return accuracy / len(loader)

    return validation


def our_evaluation(data: Data) -> Callable[[], object]:
    model = network()
    return lambda: evaluate(model, data)


EVALUATIONS: dict[str, Route] = {
    "the course's validation": course_validation,
    "evaluate": our_evaluation,
}


def repeated(images: int) -> Data:
    """Return that many images of the sample, which is repeated, and their labels."""
    sample = fashion_mnist(train=True)
    positions = torch.arange(images) % len(sample.labels)
    return sample.images[positions], sample.labels[positions]


def measure(routes: dict[str, Route], data: Data, rounds: int) -> dict[str, float]:
    """Return the median of examples a second for each route; the first round is not counted."""
    runs = {name: route(data) for name, route in routes.items()}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            rates[name].append(len(data[1]) / (time.perf_counter() - started))
    return {name: statistics.median(values[1:]) for name, values in rates.items()}


def peak_memory(name: str, images: int) -> int:
    """Return the peak resident memory, in MiB, of a process that runs one route once."""
    command = [sys.executable, __file__, "--images", str(images), "--alone", name]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--alone", choices=ROUTES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Lightning and skorch warn about settings that are theirs to choose.
    warnings.simplefilter("ignore")
    data = repeated(options.images)
    if options.alone:
        ROUTES[options.alone](data)()
        # Not getrusage, whose maximum a process inherits from the one that started it.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
        return

    rates = measure(ROUTES, data, options.rounds)
    first, last = rates[next(iter(rates))], rates[list(rates)[-1]]
    speed = Table("route", "examples/s", "course = 1", "floor = 1", "peak MiB")
    for name, rate in rates.items():
        memory = str(peak_memory(name, options.images))
        speed.add_row(name, f"{rate:,.0f}", f"{rate / first:.1f}", f"{rate / last:.2f}", memory)

    torch.set_num_threads(1)
    rates = measure(EVALUATIONS, repeated(options.images // 6), options.rounds)
    first = rates[next(iter(rates))]
    evaluation = Table("evaluation", "examples/s", "course = 1")
    for name, rate in rates.items():
        evaluation.add_row(name, f"{rate:,.0f}", f"{rate / first:.1f}")

    console = Console(width=100)
    console.print(speed)
    console.print(evaluation)


if __name__ == "__main__":
    main()
