"""Compare the speed of one training epoch: the course's loop, other libraries, this project.

    pip install -e ".[bench]"
    python benchmarks/training.py

One epoch of a network 784-128-64-10 with Adam, in batches of 64, on 60,000 images: the embedded
sample, repeated. All routes run interleaved in one process, each with its own defaults. Keras
allows one backend per process, so it runs in separate processes that wait for their turn. The table
gives the median of the rounds, the ratios to the course's loop and to the floor, the number of busy
cores, the extra cost of the first epoch (imports and compiling), and on Linux the peak memory of a
process that runs only this route. numpy and JAX use every core, torch's routes the threads they are
given.

The floor is only the matrix products of forward and backward, on one thread and existing buffers.
The row above it adds Adam's fused step: no loop over torch's kernels on one thread can be faster. A
second table times the evaluation of 10,000 images, with one thread and with torch's default. A
missing library is named and skipped.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from dlconcepts.autograd import ByHand
from dlconcepts.loading import normalize
from dlconcepts.support.datasets import fashion_mnist
from dlconcepts.support.runs import one_thread
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
    """Images that become tensors one at a time, as in torchvision's data sets."""

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


def fastai(data: Data) -> Callable[[], object]:
    from fastai.basics import DataLoaders, Learner
    from fastai.data.load import DataLoader as FastLoader

    examples = TensorDataset(normalize(data[0]), data[1])
    loader = FastLoader(examples, bs=BATCH, shuffle=True, num_workers=0, device=torch.device("cpu"))
    one_batch = loader.new(TensorDataset(examples[:BATCH][0], examples[:BATCH][1]))  # required
    learner = Learner(DataLoaders(loader, one_batch), network(), loss_func=F.cross_entropy)
    learner.recorder.train_metrics = False

    def epoch() -> None:
        with learner.no_logging():
            learner.fit(1, lr=1e-3)

    return epoch


def keras(data: Data) -> Callable[[], object]:
    from keras import Sequential, layers, losses

    widths = [layers.Dense(width, activation="relu") for width in SIZES[1:-1]]
    model = Sequential([layers.Flatten(), *widths, layers.Dense(SIZES[-1])])
    model.compile("adam", losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = normalize(data[0]).numpy(), data[1].numpy()
    return lambda: model.fit(images, labels, batch_size=BATCH, verbose=0)


def compiled(data: Data) -> Callable[[], object]:
    """Compile the gradient of a functional call and Adam's update as one function."""
    model = network()
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    means, squares = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in "12")

    def loss_of(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, weights, (images,)), labels)

    @torch.compile
    def step(images: Tensor, labels: Tensor, steps: Tensor) -> Tensor:
        gradients, loss = torch.func.grad_and_value(loss_of)(weights, images, labels)
        for name, gradient in gradients.items():
            means[name].lerp_(gradient, 0.1)
            squares[name].lerp_(gradient.square(), 0.001)
            size = (squares[name] / (1 - 0.999**steps)).sqrt() + 1e-8
            weights[name].sub_(0.001 * means[name] / (1 - 0.9**steps) / size)
        return loss

    images, labels, steps = normalize(data[0]), data[1], torch.zeros(())

    def epoch() -> float:
        total = 0.0
        with torch.no_grad(), one_thread(model):
            for cut in torch.randperm(len(labels)).split(BATCH):
                steps.add_(1)
                total += step(images[cut], labels[cut], steps).item()
        return total

    return epoch


def numpy_by_hand(data: Data) -> Callable[[], object]:
    generator = np.random.default_rng(0)
    parameters = [
        part.detach().numpy().copy() for layer in network() for part in layer.parameters()
    ]
    means, squares = ([np.zeros_like(part) for part in parameters] for _ in "12")
    images, labels = normalize(data[0]).flatten(1).numpy(), data[1].numpy()
    steps = 0

    def epoch() -> float:
        nonlocal steps
        total = 0.0
        order = generator.permutation(len(labels))
        for first in range(0, len(order), BATCH):
            cut = order[first : first + BATCH]
            taken = [images[cut]]
            for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
                taken.append(np.maximum(taken[-1] @ weight.T + bias, 0))
            logits = taken[-1] @ parameters[-2].T + parameters[-1]
            logits -= logits.max(1, keepdims=True)
            delta = np.exp(logits)
            sums = delta.sum(1, keepdims=True)
            rows = np.arange(len(cut))
            total += float((np.log(sums[:, 0]) - logits[rows, labels[cut]]).sum())
            delta /= sums
            delta[rows, labels[cut]] -= 1
            delta /= len(cut)
            gradients: list[Any] = []
            for layer in reversed(range(len(taken))):
                gradients[:0] = [delta.T @ taken[layer], delta.sum(0)]
                if layer:
                    delta = (delta @ parameters[2 * layer]) * (taken[layer] > 0)
            steps += 1
            for part, mean, square, slope in zip(
                parameters, means, squares, gradients, strict=True
            ):
                mean += 0.1 * (slope - mean)
                square += 0.001 * (slope * slope - square)
                size = np.sqrt(square / (1 - 0.999**steps)) + 1e-8
                part -= (0.001 / (1 - 0.9**steps)) * mean / size
        return total / len(order)

    return epoch


def jax_step() -> tuple[Any, Any]:
    """Return a training step of JAX with optax, and its initial state."""
    import jax
    import optax

    parameters = [
        (jax.numpy.asarray(layer.weight.detach().numpy().T), jax.numpy.asarray(bias))
        for layer in network()
        if isinstance(layer, nn.Linear)
        for bias in [layer.bias.detach().numpy()]
    ]
    adam = optax.adam(1e-3)

    def loss_of(parameters: Any, images: Any, labels: Any) -> Any:
        *hidden, (weight, bias) = parameters
        for inner, offset in hidden:
            images = jax.nn.relu(images @ inner + offset)
        logits = images @ weight + bias
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(state: Any, batch: Any) -> Any:
        parameters, moments = state
        loss, gradients = jax.value_and_grad(loss_of)(parameters, *batch)
        updates, moments = adam.update(gradients, moments)
        return (optax.apply_updates(parameters, updates), moments), loss

    return step, (parameters, adam.init(parameters))


def jax_steps(data: Data) -> Callable[[], object]:
    import jax

    step, state = jax_step()
    step = jax.jit(step, donate_argnums=0)
    images, labels = normalize(data[0]).flatten(1).numpy(), data[1].numpy()
    generator = np.random.default_rng(0)

    def epoch() -> float:
        nonlocal state
        total = 0.0
        order = generator.permutation(len(labels))
        for first in range(0, len(order), BATCH):
            cut = order[first : first + BATCH]
            state, loss = step(state, (images[cut], labels[cut]))
            total += float(loss) * len(cut)
        return total / len(order)

    return epoch


def jax_scan(data: Data) -> Callable[[], object]:
    import jax

    step, state = jax_step()
    images, labels = jax.numpy.asarray(normalize(data[0]).flatten(1)), jax.numpy.asarray(data[1])
    key = jax.random.key(0)

    def scan(state: Any, key: Any) -> Any:
        # The steps of a scan have one shape, so a smaller last batch is skipped.
        order = jax.random.permutation(key, len(labels))
        cuts = order[: len(labels) // BATCH * BATCH].reshape(-1, BATCH)
        return jax.lax.scan(lambda s, cut: step(s, (images[cut], labels[cut])), state, cuts)

    scan = jax.jit(scan, donate_argnums=0)

    def epoch() -> float:
        nonlocal state, key
        key, drawn = jax.random.split(key)
        state, losses = scan(state, drawn)
        return float(losses.mean())

    return epoch


def flax(data: Data) -> Callable[[], object]:
    import jax
    import optax
    from flax import nnx

    keys = nnx.Rngs(0)
    layers = [
        part for a, b in pairwise(SIZES) for part in (nnx.Linear(a, b, rngs=keys), jax.nn.relu)
    ]
    model = nnx.Sequential(*layers[:-1])
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    def loss_of(model: Any, images: Any, labels: Any) -> Any:
        scores = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    @nnx.jit
    def step(model: Any, optimizer: Any, images: Any, labels: Any) -> Any:
        loss, gradients = nnx.value_and_grad(loss_of)(model, images, labels)
        optimizer.update(model, gradients)
        return loss

    step = nnx.cached_partial(step, model, optimizer)
    images, labels = normalize(data[0]).flatten(1).numpy(), data[1].numpy()
    generator = np.random.default_rng(0)

    def epoch() -> float:
        total = 0.0
        order = generator.permutation(len(labels))
        for first in range(0, len(order), BATCH):
            cut = order[first : first + BATCH]
            total += float(step(images[cut], labels[cut])) * len(cut)
        return total / len(order)

    return epoch


class Elsewhere:
    """A route in a separate process, which runs once for each line it receives."""

    def __init__(self, name: str, data: Data, environment: dict[str, str]) -> None:
        """Start the process, which prepares its data and waits."""
        self.name, self.cpu_seconds = name, 0.0
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--images", str(len(data[1])), "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
        )

    def __call__(self) -> None:
        """Run an epoch there, and store the processor time it has used so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("go", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self.name} has ended")
        self.cpu_seconds = float(answer)


def elsewhere(name: str, **environment: str) -> Route:
    return lambda data: Elsewhere(name, data, environment)


def our_fit(data: Data) -> Callable[[], object]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    return lambda: fit(model, data, epochs=1, batch_size=BATCH, optimizer=optimizer)


def our_fit_by_hand(data: Data) -> Callable[[], object]:
    model = ByHand(network())
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    return lambda: fit(model, data, epochs=1, batch_size=BATCH, optimizer=optimizer)


def floor(data: Data, *, adam: bool = False) -> Callable[[], object]:
    weights = [torch.randn(b, a) for a, b in pairwise(SIZES)]
    gradients = [torch.empty_like(weight) for weight in weights]
    values = [torch.randn(BATCH, size) for size in SIZES]
    parameters = [nn.Parameter(weight) for weight in weights]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer = torch.optim.Adam(parameters, fused=True)

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
                if adam:
                    optimizer.step()

    return epoch


ROUTES: dict[str, Route] = {
    "the course's loop, PIL images": course,
    "the same loop over tensors": loader_over_tensors,
    "Lightning over tensors": lightning,
    "skorch": skorch,
    "fastai": fastai,
    "Keras on torch": elsewhere("keras", KERAS_BACKEND="torch"),
    "Keras on JAX": elsewhere("keras", KERAS_BACKEND="jax"),
    "a step compiled by torch": compiled,
    "flax, a jitted step": flax,
    "JAX, a jitted step": jax_steps,
    "JAX, a scan": jax_scan,
    "numpy by hand": numpy_by_hand,
    "fit": our_fit,
    "fit, differentiated by hand": our_fit_by_hand,
    "matrix products and Adam alone": partial(floor, adam=True),
    "matrix products alone": floor,
}


# Packages that a route needs and the project does not.
NEEDS = {
    "Lightning over tensors": ("lightning",),
    "skorch": ("skorch",),
    "fastai": ("fastai",),
    "Keras on torch": ("keras",),
    "Keras on JAX": ("keras", "jax"),
    "flax, a jitted step": ("flax", "optax"),
    "JAX, a jitted step": ("jax", "optax"),
    "JAX, a scan": ("jax", "optax"),
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


def forward_products(data: Data) -> Callable[[], object]:
    """Multiply the matrices of a forward pass, a thousand images at a time."""
    weights = [torch.randn(b, a) for a, b in pairwise(SIZES)]
    values = [torch.randn(1000, size) for size in SIZES]

    def products() -> None:
        for _ in range(-(-len(data[1]) // 1000)):
            for weight, before, after in zip(weights, values, values[1:], strict=False):
                torch.mm(before, weight.t(), out=after)

    return products


EVALUATIONS: dict[str, Route] = {
    "the course's validation": course_validation,
    "evaluate": our_evaluation,
    "matrix products alone": forward_products,
}


def repeated(images: int) -> Data:
    """Return that many images and labels, by repeating the sample."""
    sample = fashion_mnist(train=True)
    positions = torch.arange(images) % len(sample.labels)
    return sample.images[positions], sample.labels[positions]


def missing(name: str) -> list[str]:
    """Return the packages that a route needs and this environment lacks."""
    return [need for need in NEEDS.get(name, ()) if importlib.util.find_spec(need) is None]


@dataclass(frozen=True)
class Times:
    """The seconds of a route's first and later epochs, and the number of busy cores."""

    first: float
    later: list[float]
    cores: list[float]

    @property
    def median(self) -> float:
        """The median of the later epochs."""
        return statistics.median(self.later)


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the processor time used by the process that runs a route."""
    return run.cpu_seconds if isinstance(run, Elsewhere) else time.process_time()


def measure(routes: dict[str, Route], data: Data, rounds: int) -> dict[str, Times]:
    """Run each route once from a cold start, then all routes in turn, for some rounds."""
    times: dict[str, Times] = {}
    runs = {}
    for name, route in routes.items():
        started = time.perf_counter()
        runs[name] = route(data)
        runs[name]()
        times[name] = Times(time.perf_counter() - started, [], [])
    for _ in range(rounds):
        for name, run in runs.items():
            cpu, started = cpu_seconds(run), time.perf_counter()
            run()
            seconds = time.perf_counter() - started
            times[name].later.append(seconds)
            times[name].cores.append((cpu_seconds(run) - cpu) / seconds)
    return times


def peak_memory(name: str, images: int) -> int:
    """Return the peak resident memory, in MiB, of a process that runs one route once."""
    command = [sys.executable, __file__, "--images", str(images), "--alone", name]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def run_alone(name: str, data: Data) -> None:
    """Run one route once, and print the peak memory of the process that ran it."""
    ROUTES[name](data)()
    tasks = Path("/proc/self/task").glob("*/children")
    started = [child for task in tasks for child in task.read_text(encoding="ascii").split()]
    # Not getrusage: a process inherits its maximum from the parent.
    peaks = [
        int(
            Path(f"/proc/{process}/status")
            .read_text(encoding="ascii")
            .split("VmHWM:")[1]
            .split()[0]
        )
        for process in ("self", *started)
    ]
    print(peaks[-1] // 1024)


def serve(name: str, data: Data) -> None:
    """Run one route for each line of standard input, and answer each with a line."""
    run = {"keras": keras}[name](data)
    for _ in sys.stdin:
        run()
        print(time.process_time(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--only", nargs="+", choices=ROUTES, help="these, the first, the last")
    parser.add_argument("--json", type=Path, help="also write the tables to this file")
    parser.add_argument("--alone", choices=ROUTES, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Lightning and skorch warn about their own default settings.
    warnings.simplefilter("ignore")
    data = repeated(options.images)
    if options.alone:
        return run_alone(options.alone, data)
    if options.serve:
        return serve(options.serve, data)

    console = Console(width=120)
    names = list(ROUTES)
    wanted = {names[0], *(options.only or names), names[-1]}
    for name in [name for name in names if name in wanted and missing(name)]:
        console.print(f"skipped {name}: {', '.join(missing(name))} is not installed")
        wanted.discard(name)
    times = measure({n: r for n, r in ROUTES.items() if n in wanted}, data, options.rounds)
    first, last = times[names[0]].median, times[names[-1]].median
    headings = (
        "route",
        "examples/s",
        "course = 1",
        "floor = 1",
        "cores",
        "first epoch + s",
        "peak MiB",
    )
    rows = [
        (
            name,
            f"{options.images / of.median:,.0f}",
            f"{first / of.median:.1f}",
            f"{last / of.median:.2f}",
            f"{statistics.median(of.cores):.1f}",
            f"{of.first - of.median:.1f}",
            str(peak_memory(name, options.images)),
        )
        for name, of in times.items()
    ]
    tables = [("one epoch of training", headings, rows)]

    held_out = repeated(options.images // 6)
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        times = measure(EVALUATIONS, held_out, options.rounds)
        first = next(iter(times.values())).median
        rows += [
            (name, str(threads), f"{len(held_out[1]) / of.median:,.0f}", f"{first / of.median:.1f}")
            for name, of in times.items()
        ]
    tables.append(("evaluation", ("route", "threads", "examples/s", "course = 1"), rows))
    for title, columns, lines in tables:
        table = Table(*columns, title=title)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    if options.json:
        record = [{"title": t, "columns": c, "rows": r} for t, c, r in tables]
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
