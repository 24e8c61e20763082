"""Compare a GPU with the CPU: images per second of a small network and a deep one.

    python benchmarks/gpu.py                 # writes docs/results/cuda.json
    python benchmarks/gpu.py --device cpu --images 640 --rounds 1 --out runs/gpu   # a trial

The small network is the course's, 784-128-64-10 with Adam, for an epoch over 60,000 images in
batches of 64 and 4,096. The course's loop sends each batch from the CPU and reads each loss. It
runs against steps on images that are already on the device: eager, compiled, and as a CUDA graph.
The deep network is ResNet-50 in bfloat16 and channels_last at 224 pixels: forward, backward and
step. Events in the device's queue take the times, after a warm-up; the table shows medians. The CPU
runs the same routes except CUDA's own, so one file tests both halves of "CUDA is faster for deep
networks and large batches".

This file cannot be called cuda.py: a script's folder is on the path, and torch imports a package of
that name.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dlconcepts.devices import median_seconds
from dlconcepts.loading import normalize
from dlconcepts.parity.comparison import why_not_compiled
from dlconcepts.support.atomic import write_atomically
from dlconcepts.support.datasets import fashion_mnist
from dlconcepts.support.devices import DeviceUnavailableError, find_device
from dlconcepts.training import fit

SIZES = (784, 128, 64, 10)
BATCHES = (64, 4096)
Data = tuple[Tensor, Tensor]
Epoch = Callable[[], object]


class NotHereError(Exception):
    """The device or machine lacks this route; the message says why."""


def network() -> nn.Sequential:
    layers = [layer for a, b in pairwise(SIZES) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def parts(data: Data, batch: int) -> Iterator[Data]:
    """Cut images on the device into full batches, in a new order."""
    order = torch.randperm(len(data[1]), device=data[1].device)
    for cut in order[: len(order) // batch * batch].split(batch):
        yield data[0].index_select(0, cut), data[1].index_select(0, cut)


def course(data: Data, batch: int, device: torch.device) -> Epoch:
    loader = DataLoader(TensorDataset(data[0], data[1]), batch, shuffle=True, drop_last=True)
    model = nn.Sequential(*network(), nn.LogSoftmax(dim=1)).to(device)
    criterion, optimizer = nn.NLLLoss(), torch.optim.Adam(model.parameters(), lr=0.003)

    def epoch() -> float:
        running_loss = 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        return running_loss

    return epoch


def our_fit(data: Data, batch: int, device: torch.device) -> Epoch:
    model = network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    here = to(data, device)
    return lambda: fit(model, here, epochs=1, batch_size=batch, optimizer=optimizer)


def eager(data: Data, batch: int, device: torch.device) -> Epoch:
    model = network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    here = to(data, device)

    def epoch() -> None:
        for images, labels in parts(here, batch):
            step(model, optimizer, images, labels)

    return epoch


def compiled(data: Data, batch: int, device: torch.device) -> Epoch:
    if reason := why_not_compiled():
        raise NotHereError(reason)
    model = network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    run, here = torch.compile(model), to(data, device)

    def epoch() -> None:
        for images, labels in parts(here, batch):
            step(run, optimizer, images, labels)

    return epoch


def cuda_graph(data: Data, batch: int, device: torch.device) -> Epoch:
    """Capture one step, and replay it with other images in the same memory."""
    if device.type != "cuda":
        raise NotHereError("a CUDA graph needs CUDA")
    model, here = network().to(device), to(data, device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True, capturable=True)
    images, labels = here[0][:batch].clone(), here[1][:batch].clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # capture needs a few steps on a side stream first
        for _ in range(3):
            step(model, optimizer, images, labels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def epoch() -> None:
        for batch_images, batch_labels in parts(here, batch):
            images.copy_(batch_images)
            labels.copy_(batch_labels)
            # Captured with gradients set to None, so each replay overwrites them.
            graph.replay()

    return epoch


ROUTES: dict[str, Callable[[Data, int, torch.device], Epoch]] = {
    "the course's loop, a transfer per batch": course,
    "fit, images on the device": our_fit,
    "steps without reading the loss": eager,
    "the same, compiled": compiled,
    "the same, as a CUDA graph": cuda_graph,
}


def to(data: Data, device: torch.device) -> Data:
    return data[0].to(device), data[1].to(device)


def resnet(device: torch.device, batch: int, side: int) -> Epoch:
    """Return one step of ResNet-50 in bfloat16 and channels_last, on images on the device."""
    from torchvision.models import resnet50

    model = resnet50(weights=None).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = torch.randn(batch, 3, side, side, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device=device)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return train


def measure_small(
    data: Data, device: torch.device, batches: list[int], rounds: int
) -> Iterator[dict[str, object]]:
    for batch in batches:
        count = len(data[1]) // batch * batch
        for name, route in ROUTES.items():
            row: dict[str, object] = {"route": name, "batch": batch, "device": str(device)}
            try:
                seconds = median_seconds(
                    route(data, batch, device), device, warm_up=1, rounds=rounds
                )
            except NotHereError as reason:
                yield {**row, "skipped": str(reason)}
            else:
                step_time = 1e6 * seconds / (count // batch)
                yield {**row, "images/s": count / seconds, "microseconds per step": step_time}


def measure_deep(
    device: torch.device, batch: int, side: int, rounds: int
) -> Iterator[dict[str, object]]:
    seconds = median_seconds(resnet(device, batch, side), device, warm_up=1, rounds=rounds)
    name = f"ResNet-50, {side} px, bfloat16, channels_last"
    yield {"route": name, "batch": batch, "device": str(device), "images/s": batch / seconds}


def repeated(images: int) -> Data:
    """Return that many normalised, flat images and their labels, by repeating the sample."""
    sample = fashion_mnist(train=True)
    positions = torch.arange(images) % len(sample.labels)
    return normalize(sample.images[positions]).flatten(1), sample.labels[positions]


def describe(device: torch.device) -> dict[str, object]:
    """Return the versions, the device and its driver."""
    found: dict[str, object] = {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["capability"] = list(torch.cuda.get_device_capability(device))
        found["driver"] = driver()
    return found


def driver() -> str:
    """Return the version of the NVIDIA driver, from the system."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    return text.splitlines()[0]


def show(rows: list[dict[str, object]]) -> None:
    found = Table("device", "route", "batch", "images/s", "us/step", "course = 1")
    base: dict[object, float] = {}
    for row in rows:
        key = (row["device"], row["batch"])
        if "skipped" in row:
            found.add_row(*(str(row[k]) for k in ("device", "route", "batch")), str(row["skipped"]))
            continue
        rate = float(str(row["images/s"]))
        base.setdefault(key, rate)
        each = f"{row['microseconds per step']:,.0f}" if "microseconds per step" in row else ""
        ratio = f"{rate / base[key]:.1f}" if each else ""
        names = (str(row[k]) for k in ("device", "route", "batch"))
        found.add_row(*names, f"{rate:,.0f}", each, ratio)
    Console(width=120).print(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="the device to compare with the CPU")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--deep-batch", type=int, default=128, help="images per step of ResNet-50")
    parser.add_argument("--side", type=int, default=224, help="their height and width")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), metavar="DIR")
    options = parser.parse_args()
    try:
        device = find_device(options.device)
    except (DeviceUnavailableError, ValueError) as error:
        print(f"benchmarks/gpu.py: {error}; or use --device cpu", file=sys.stderr)
        return 2
    if options.rounds < 1 or min(options.batch) < 1 or options.images < max(options.batch):
        parser.error("pass at least 1 round, and at least as many images as the largest batch")
    data, rows = repeated(options.images), []
    cpu = torch.device("cpu")
    for place in dict.fromkeys([device, cpu]):
        rows += measure_small(data, place, options.batch, options.rounds)
        # The CPU takes seconds per image, so it gets fewer.
        deep = options.deep_batch if place != cpu else min(8, options.deep_batch)
        rows += measure_deep(
            place, deep, options.side, min(3, options.rounds) if place == cpu else options.rounds
        )
    show(rows)
    record = {**describe(device), "images": options.images, "rounds": options.rounds, "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{device.type}.json"
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
