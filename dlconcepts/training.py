"""Lesson 4, training: zero_grad, forward, loss, backward, step; batch by batch, epoch by epoch."""

import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from dlconcepts.autograd import LossFunction, as_sum, gradient
from dlconcepts.loading import as_input, batches, check_data
from dlconcepts.support.errors import UserError
from dlconcepts.support.runs import (
    Epoch,
    History,
    find_model_device,
    joined_workers,
    make_generator,
    one_thread,
    progress_bar,
    seeded,
    sum_over_workers,
)
from dlconcepts.validation import evaluate

Batch = tuple[Tensor, Tensor]
Data = Batch | Dataset[Batch] | DataLoader[Batch]


class DivergedError(UserError):
    """Raised when a loss is NaN or infinite."""


def descent_direction(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the unit vector, in x's shape, along which a scalar function falls fastest at x.

    Raises ValueError if the gradient is zero, since no direction is then the steepest. The squares
    of any other gradient are normal numbers of its dtype.
    Source: Goodfellow, Bengio and Courville, "Deep Learning", section 4.3.

    >>> descent_direction(lambda x: x.square().sum(), torch.tensor([3.0, 4.0]))
    tensor([-0.6000, -0.8000])
    """
    slope = gradient(function, x)
    if not slope.any():
        raise ValueError("the gradient is zero, so no direction is steepest; choose another point")
    direction: Tensor = -slope / slope.norm()
    return direction


def gradient_descent(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Return the start and the points that gradient descent visits, (steps + 1, ...).

    The result has no history, and the start stays as it was. Where the gradient is zero, each
    further step repeats the point.
    Source: Goodfellow, Bengio and Courville, "Deep Learning", section 4.3.

    >>> gradient_descent(lambda x: x.square() / 2, torch.tensor(1.0), lr=1.5, steps=3)
    tensor([ 1.0000, -0.5000,  0.2500, -0.1250])
    """
    points = [start.detach()]
    for _ in range(steps):
        points.append(points[-1] - lr * gradient(function, points[-1]))
    return torch.stack(points)


def fit(
    model: nn.Module,
    data: Data,
    *,
    epochs: int,
    batch_size: int | None = None,
    optimizer: Optimizer | None = None,
    loss_fn: LossFunction | None = None,
    accumulate: int = 1,
    validate: Batch | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
    start_epoch: int = 0,
    progress: bool = False,
    callback: Callable[[Epoch], None] | None = None,
) -> History:
    """Train a model in place and return a record of each epoch.

    `data` is a pair of tensors, a Dataset, or a DataLoader. It has images, (N, ...), and labels,
    (N,). Images of dtype uint8 are normalised; others are used as they are. `validate` is a pair of
    held-out images and labels. `batch_size` is 64 by default; a DataLoader has its own. The default
    optimizer is Adam. The default loss is cross-entropy; any loss must be a mean over the batch,
    as `dlconcepts.autograd.as_sum` says.
    `accumulate` computes each batch in that many pieces, with the same step as a result. `callback`
    gets each epoch's record as the epoch ends; `progress` draws a bar on a terminal.

    A record is an `Epoch`: its number from 1 on, also across resumed runs; the loss that
    `train_epoch` returns; the loss and accuracy of `evaluate` on `validate`, else None; seconds.

    Each epoch has an order of its own, except that a DataLoader keeps its sampler. The same seed
    gives the same orders and the same dropout. The caller's random state does not change. The model
    ends in training mode. Ctrl-C ends training early: the model keeps its last step, and `fit`
    returns the epochs that were finished.

    To resume a run, pass its optimizer, the number of epochs done as `start_epoch`, the total as
    `epochs`, and the `generator` that shuffles. With a generator `fit` seeds nothing: dropout
    continues from PyTorch's global random state.

    In a torch.distributed group, where every process passes the same data, each process computes
    its part of every batch. The gradients are summed, so all take the step of the whole batch.

    Raises ValueError before any training if there is no epoch to train, `batch_size` is below 1, or
    `data` or `validate` has no examples or unequal numbers of images and labels. Raises
    DivergedError, before the step, if the loss of a batch is not finite.
    Source: PyTorch documentation, "Optimizing Model Parameters".

    >>> data = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    >>> history = fit(nn.Linear(1, 2), data, epochs=50)
    >>> history[-1].train_loss < history[0].train_loss
    True
    """
    if epochs <= start_epoch:
        done = f" and {start_epoch} are done" if start_epoch else ""
        raise ValueError(f"fit must train at least 1 epoch, but epochs is {epochs}{done}")
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, but it is {accumulate}")
    if validate is not None:
        check_data(validate, 1)
    seeds = seeded(seed, find_model_device(model)) if generator is None else nullcontext()
    loader = Batches(data, batch_size, generator or make_generator(seed), find_model_device(model))
    loss_fn = loss_fn or F.cross_entropy
    # Fused Adam takes its step in one pass over the parameters, which is faster.
    optimizer = optimizer or torch.optim.Adam(model.parameters(), fused=True)
    workers, history = joined_workers(model), History()
    steps = (epochs - start_epoch) * operator.length_hint(loader)
    with (
        suppress(KeyboardInterrupt),
        one_thread(model),
        seeds,
        progress_bar(steps, progress) as bar,
    ):
        for epoch in range(start_epoch + 1, epochs + 1):
            start = time.perf_counter()
            loss = train_epoch(
                model,
                loader,
                loss_fn,
                optimizer,
                accumulate=accumulate,
                workers=workers,
                epoch=epoch,
                report=bar,
            )
            held_out = evaluate(model, validate, loss_fn=loss_fn) if validate is not None else None
            history.append(
                Epoch(
                    epoch,
                    train_loss=loss,
                    held_out_loss=held_out.loss if held_out else None,
                    held_out_accuracy=held_out.accuracy if held_out else None,
                    seconds=time.perf_counter() - start,
                )
            )
            if callback:
                callback(history[-1])
    return history


def train_epoch(
    model: nn.Module,
    loader: Iterable[Batch],
    loss_fn: LossFunction,
    optimizer: Optimizer,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
    epoch: int = 1,
    report: Callable[[str], None] | None = None,
) -> float:
    """Take one step for each batch of one pass over the data; return the mean loss per example.

    The loss of a batch is computed before its step, and counts as `dlconcepts.autograd.as_sum`
    says: by its examples, or by the weights of its labels. The model is set to training mode. After
    each batch, `report` gets a line, such as the epoch and the loss so far.

    Raises the errors of `as_sum`, ValueError if there is no batch, and DivergedError that names the
    place, as in "epoch 1, batch 2". Batches count from 1 in each epoch.
    Source: PyTorch documentation, "Optimizing Model Parameters".

    >>> model = nn.Linear(1, 1)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> loader = [(torch.ones(2, 1), torch.ones(2, 1)), (torch.ones(1, 1), torch.ones(1, 1))]
    >>> train_epoch(model, loader, F.mse_loss, sgd) > train_epoch(model, loader, F.mse_loss, sgd)
    True
    """
    running_loss, seen, batch = 0.0, 0.0, 0
    _, divisor = as_sum(loss_fn)
    model.train()
    try:
        for images, labels in loader:
            batch += 1
            loss = train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
            # The last batch may be smaller; a mean of batch means would overweight its examples.
            count = divisor(labels)
            running_loss += loss * count
            seen += count
            if report:
                report(f"epoch {epoch}, loss {running_loss / seen:.3f}")
    except DivergedError as error:
        raise DivergedError(f"epoch {epoch}, batch {batch}: {error}") from error
    if not batch:
        raise ValueError("there are no examples: the data yielded no batch")
    return running_loss / seen


def train_step(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Take one optimizer step on a batch, and return the batch's mean loss before the step.

    `accumulate`, at least 1, computes the batch in that many pieces of about equal size, or fewer
    if there are fewer examples, to save memory. In `workers`, a group of torch.distributed, each
    process gets the whole batch and computes its part of it; gradients and losses are summed over
    the group. Either way the step is the same as for the whole batch, if the model treats each
    example independently (BatchNorm does not) and `dlconcepts.autograd.as_sum`, which is imported,
    knows the divisor of the loss. With label smoothing, a piece whose labels all have weight 0
    still counts. The model's mode stays as it is.

    Raises ValueError if images and labels differ in number, the errors of `as_sum` if the batch is
    cut, and DivergedError, before the step, if the loss is not finite.
    Source: PyTorch documentation, "Optimizing Model Parameters".

    >>> model = nn.Linear(1, 1)
    >>> _ = nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> train_step(model, F.mse_loss, sgd, torch.ones(1, 1), torch.ones(1, 1))
    1.0
    >>> model.weight.item()
    1.0
    """
    if len(images) != len(labels):
        raise ValueError(f"a batch has {len(images)} images but {len(labels)} labels")
    batch_loss = 0.0
    optimizer.zero_grad()
    for inputs, targets, piece_loss in pieces(images, labels, loss_fn, accumulate, workers):
        loss = piece_loss(model(inputs), targets)
        loss.backward()
        batch_loss += loss.item()  # item() returns a number, so the graph can be freed
    if workers is not None:
        batch_loss = sum_over_workers(model, batch_loss, workers)
    if not math.isfinite(batch_loss):
        raise DivergedError(
            f"the loss is {batch_loss} with learning rate {optimizer.param_groups[0]['lr']}; lower "
            "the learning rate, or remove NaN and infinite values from the data"
        )
    optimizer.step()
    return batch_loss


def pieces(
    images: Tensor,
    labels: Tensor,
    loss_fn: LossFunction,
    accumulate: int,
    workers: dist.ProcessGroup | None,
) -> Iterator[tuple[Tensor, Tensor, LossFunction]]:
    """Cut a batch, or this worker's part of it, into pieces; yield each with its part of the loss.

    The parts add up to the mean over the whole batch.
    """
    if accumulate == 1 and workers is None:
        yield images, labels, loss_fn
        return
    summed, divisor = as_sum(loss_fn)
    total = divisor(labels)
    if workers is not None:
        mine = slice(workers.rank(), None, workers.size())
        if not len(labels[mine]):
            # This worker must still join the sum, so it adds gradients that are all zero.
            yield images[:1], labels[:1], lambda outputs, targets: 0 * summed(outputs, targets)
            return
        images, labels = images[mine], labels[mine]
    for inputs, targets in zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True):
        yield inputs, targets, lambda outputs, targets: summed(outputs, targets) / total


class Batches:
    """The batches of one pass over the data, each time it is iterated over.

    A pair of tensors, or a TensorDataset of two, is cut by index, in a new order each time. A
    DataLoader shuffles any other Dataset. Images of dtype uint8 are normalised.

    Raises ValueError for no examples, images and labels that differ in number, a batch size below
    1, a batch size together with a DataLoader, or a DataLoader with a DistributedSampler.
    """

    def __init__(
        self, data: Data, batch_size: int | None, generator: torch.Generator, device: torch.device
    ) -> None:
        self.batch_size = 64 if batch_size is None else batch_size
        self.generator, self.device = generator, device
        if isinstance(data, DataLoader):
            if batch_size is not None:
                raise ValueError("a DataLoader has its own batch size; do not pass batch_size")
            if isinstance(data.sampler, DistributedSampler):
                raise ValueError("fit splits each batch itself; remove the DistributedSampler")
        elif isinstance(data, TensorDataset) and len(data.tensors) == 2:
            data = data.tensors[0], data.tensors[1]
        elif isinstance(data, Dataset):
            data = DataLoader(data, self.batch_size, shuffle=True, generator=generator)
        if not isinstance(data, DataLoader):
            check_data(data, self.batch_size)
        self.data = data

    def __length_hint__(self) -> int:
        """Return the number of batches, or 0 if a DataLoader does not know it."""
        if isinstance(self.data, DataLoader):
            return operator.length_hint(self.data)
        return math.ceil(len(self.data[1]) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Return the batches of one pass, on the model's device."""
        if not isinstance(self.data, DataLoader):
            n = len(self.data[1])
            order = torch.randperm(n, generator=self.generator, device="cpu")
            return batches(self.data, self.batch_size, order=order, device=self.device)
        return (
            (as_input(images).to(self.device), labels.to(self.device))
            for images, labels in self.data
        )
