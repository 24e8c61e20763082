"""Training: forward, loss, backward, step, batch by batch and epoch by epoch."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import nn

from dlconcepts.loading import batches, check_data
from dlconcepts.validation import LossFunction, evaluate, find_model_device

Data = tuple[torch.Tensor, torch.Tensor]

SMALL = 1_000_000  # parameters; a step of a network below this is too short to share out


class DivergedError(RuntimeError):
    """A loss that is no longer a finite number."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to: mean loss of its examples, held-out loss and accuracy, seconds."""

    epoch: int
    train_loss: float
    held_out_loss: float | None
    held_out_accuracy: float | None
    seconds: float


History = list[Epoch]


def fit(
    model: nn.Module,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 64,
    optimizer: torch.optim.Optimizer | None = None,
    loss_fn: LossFunction | None = None,
    validate: Data | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
    start_epoch: int = 0,
    progress: bool = False,
    callback: Callable[[Epoch], None] | None = None,
) -> History:
    """Train a model in place and return a record of each epoch.

    `data`, and `validate` for held-out examples, are pairs of images, (N, ...), uint8 or floating
    point, and labels, (N,). The optimizer is Adam and the loss cross-entropy if none is given.
    `callback` is called with each epoch's record, and `progress` draws a bar on a terminal.

    The same seed gives the same order of examples and the same dropout; the caller's random state
    is left alone. The model is left in training mode.

    To go on with a training, give its optimizer, the epochs that it has done as `start_epoch` of
    `epochs` in all, and the `generator` that shuffles its examples. With a generator nothing is
    seeded: dropout goes on from PyTorch's own random state.

    Raises ValueError for fewer than 1 epoch or unusable data, before anything is trained, and
    DivergedError, before the step, if a batch's loss is not finite.
    Source: PyTorch documentation, "Optimizing Model Parameters".

    >>> data = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    >>> history = fit(nn.Linear(1, 2), data, epochs=50)
    >>> history[-1].train_loss < history[0].train_loss
    True
    """
    if epochs <= start_epoch:
        done = f" and {start_epoch} are done" if start_epoch else ""
        raise ValueError(f"training takes at least 1 epoch, but epochs is {epochs}{done}")
    for pair in (data, validate) if validate is not None else (data,):
        check_data(pair, batch_size)
    n = len(data[1])
    history: History = []
    device = find_model_device(model)
    loss_fn = loss_fn or F.cross_entropy
    # The fused form takes Adam's step in one pass over the parameters.
    optimizer = optimizer or torch.optim.Adam(model.parameters(), fused=True)
    seeds = nullcontext() if generator else seeded(seed, device)
    generator = generator or torch.Generator().manual_seed(seed)
    steps = (epochs - start_epoch) * math.ceil(n / batch_size)
    with one_thread(model), seeds, progress_bar(steps, shown=progress) as advance:
        for epoch in range(start_epoch + 1, epochs + 1):
            start, running_loss, seen = time.perf_counter(), 0.0, 0
            order = torch.randperm(n, generator=generator)
            model.train()
            for images, labels in batches(data, batch_size, order=order, device=device):
                optimizer.zero_grad()
                logits = model(images)
                loss = loss_fn(logits, labels)
                check_finite(loss.item(), epoch, 1 + seen // batch_size, optimizer)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                # item() takes the number and lets the graph go; the last batch may be smaller.
                running_loss += loss.item() * len(labels)
                seen += len(labels)
                advance(f"epoch {epoch} of {epochs}, loss {running_loss / seen:.3f}")
            held_out = evaluate(model, validate, loss_fn=loss_fn) if validate is not None else None
            history.append(
                Epoch(
                    epoch,
                    train_loss=running_loss / n,
                    held_out_loss=held_out.loss if held_out else None,
                    held_out_accuracy=held_out.accuracy if held_out else None,
                    seconds=time.perf_counter() - start,
                )
            )
            if callback:
                callback(history[-1])
    return history


def check_finite(loss: float, epoch: int, batch: int, optimizer: torch.optim.Optimizer) -> None:
    """Raise DivergedError if the loss is NaN or infinite, saying where and at which rate."""
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} in epoch {epoch}, batch {batch}, with learning rate "
            f"{optimizer.param_groups[0]['lr']}; lower the learning rate, or look for values in "
            "the data that are not finite"
        )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's random generators for a block, and give them back as they were.

    Only the CPU's generator and that of `device` are touched.
    Source: PyTorch documentation, "Reproducibility" and `torch.random.fork_rng`.

    >>> with seeded(1, torch.device("cpu")):
    ...     first = torch.rand(3)
    >>> with seeded(1, torch.device("cpu")):
    ...     first.equal(torch.rand(3))
    True
    """
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng(
        devices=[] if on_cpu else [device], device_type=None if on_cpu else device.type
    ):
        torch.default_generator.manual_seed(seed)
        if not on_cpu:
            torch.get_device_module(device).manual_seed(seed)
        yield


@contextmanager
def one_thread(model: nn.Module) -> Iterator[None]:
    """Let PyTorch compute on one thread for a block if the model is small.

    Threads that share out a few microseconds of work mostly wait for one another, and the more so
    the busier the machine is. The caller's setting comes back afterwards.
    Source: PyTorch documentation, "CPU threading and TorchScript inference".

    >>> with one_thread(nn.Linear(2, 3)):
    ...     torch.get_num_threads()
    1
    """
    threads = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    torch.set_num_threads(1 if small else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that moves a progress bar on by one and sets its text.

    Without a terminal there is no bar, so that files and pipes get none of it.
    """
    console = Console()
    with Progress(
        console=console, transient=True, disable=not (shown and console.is_terminal)
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda text: bar.update(task, advance=1, description=text)
