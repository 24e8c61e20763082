"""What surrounds a training: seeds, threads, the progress bar, and other processes."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress
from torch import nn

SMALL = 1_000_000  # parameters; a step of a smaller network is too short for several threads


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean loss of its examples, held-out loss and accuracy, seconds."""

    epoch: int
    train_loss: float
    held_out_loss: float | None
    held_out_accuracy: float | None
    seconds: float


History = list[Epoch]


def make_generator(seed: int) -> torch.Generator:
    """Return a new generator on the CPU with this seed, from 0 to 2**63 - 1.

    It has drawn nothing yet, and is independent of PyTorch's global generator.
    """
    return torch.Generator(device="cpu").manual_seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the random generators for a block, and restore their states even after an error.

    These are the global generators of Python and numpy, and PyTorch's for the CPU and for `device`.
    `seed` is from 0 to 2**32 - 1.
    Source: PyTorch documentation, "Reproducibility" and `torch.random.fork_rng`.

    >>> with seeded(1, torch.device("cpu")):
    ...     first = torch.rand(3)
    >>> with seeded(1, torch.device("cpu")):
    ...     first.equal(torch.rand(3))
    True
    """
    on_cpu = device.type == "cpu"
    # Data sets draw from numpy's old global generator without passing it around.
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng([] if on_cpu else [device], device_type=device.type):
            torch.default_generator.manual_seed(seed)
            if not on_cpu:
                torch.get_device_module(device).manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def one_thread(model: nn.Module) -> Iterator[None]:
    """Use one PyTorch thread for a block if the model is small; restore the number afterwards.

    Threads that share a few microseconds of work mostly wait for one another, even longer on a busy
    machine.
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
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[str], None] | None]:
    """Yield a function that advances a progress bar by one step and sets its text.

    The bar goes to the error stream. Yield None if no bar is wanted, or without a terminal.
    """
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=total or None)
        yield lambda text: bar.update(task, advance=1, description=text)


def joined_workers(model: nn.Module) -> dist.ProcessGroup | None:
    """Return the process group of torch.distributed if there is one, else None.

    The first process broadcasts its parameters and buffers, so that all start from the same state.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)
    return dist.group.WORLD


def sum_over_workers(model: nn.Module, loss: float, workers: dist.ProcessGroup) -> float:
    """Replace each gradient by its sum over all workers, and return the sum of their losses."""
    total = torch.tensor(loss, device=find_model_device(model))
    for tensor in (total, *(p.grad for p in model.parameters() if p.grad is not None)):
        dist.all_reduce(tensor, group=workers)
    return total.item()


@contextmanager
def torchrun_group(device: torch.device) -> Iterator[int]:
    """Join the processes that torchrun started, and yield this one's rank, 0 without torchrun.

    They communicate through gloo, on CUDA through nccl with a device for each process.
    Source: PyTorch documentation, "torchrun" and "Distributed communication package".

    >>> with torchrun_group(torch.device("cpu")) as rank:
    ...     rank
    0
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield 0
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def find_model_device(model: nn.Module) -> torch.device:
    """Return the device of the model's parameters, or the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
