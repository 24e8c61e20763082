"""Wrong answers to the exercises of lesson 4, training."""

import copy
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from dlconcepts.autograd import LossFunction, as_sum
from dlconcepts.autograd import gradient as _gradient
from dlconcepts.loading import as_input
from dlconcepts.support.runs import Epoch, History, find_model_device
from dlconcepts.training import Batch, Data, DivergedError
from dlconcepts.training import seeded as _seeded
from dlconcepts.training import train_epoch as _train_epoch
from dlconcepts.training import train_step as _train_step
from dlconcepts.validation import evaluate as _evaluate


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a gradient that is not zero."""
    slope = _gradient(function, x)
    if not slope.any():
        raise ValueError("the gradient is zero")
    return slope


def descent_direction__ascent(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Point to where the function rises fastest."""
    slope = _slope(function, x)
    return slope / slope.norm()


def descent_direction__not_a_unit(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient's own length."""
    return -_slope(function, x)


def descent_direction__unit_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Give each row of a matrix the length 1."""
    slope = _slope(function, x)
    if slope.dim() == 0:
        return -slope.sign()
    return -slope / slope.norm(dim=-1, keepdim=True)


def descent_direction__nan_at_zero(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return NaN instead of raising ValueError if the gradient is zero."""
    slope = _gradient(function, x)
    return -slope / slope.norm()


def descent_direction__zero_at_zero(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return zeros, which are no direction, if the gradient is zero."""
    slope = _gradient(function, x)
    return -slope / slope.norm() if slope.any() else slope


def descent_direction__signs(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Keep only the signs, divided by the length of such a vector."""
    slope = _slope(function, x)
    return -slope.sign() / slope.sign().norm()


def descent_direction__epsilon(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Add a small number to the length, so that a small gradient has a short direction."""
    slope = _slope(function, x)
    return -slope / (slope.norm() + 1e-3)


def descent_direction__small_is_zero(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Take a small gradient for zero."""
    slope = _gradient(function, x)
    if slope.norm() < 1e-2:
        raise ValueError("the gradient is zero")
    return -slope / slope.norm()


def descent_direction__runtime_error(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Raise RuntimeError where ValueError is promised."""
    slope = _gradient(function, x)
    if not slope.any():
        raise RuntimeError("the gradient is zero")
    return -slope / slope.norm()


def descent_direction__flat(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a flat vector instead of the shape of x."""
    slope = _slope(function, x).flatten()
    return -slope / slope.norm()


def descent_direction__largest_element(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Divide by the largest element, which gives another length."""
    slope = _slope(function, x)
    return -slope / slope.abs().max()


def descent_direction__zero_in_one_place(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Refuse a gradient with a zero in any place."""
    slope = _gradient(function, x)
    if not slope.all():
        raise ValueError("the gradient is zero")
    return -slope / slope.norm()


def gradient_descent__without_the_start(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Return the points without the start."""
    points = [start.detach()]
    for _ in range(steps):
        points.append(points[-1] - lr * _gradient(function, points[-1]))
    return torch.stack(points[1:]) if steps else start.new_empty(0, *start.shape)


def gradient_descent__one_tensor(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Put the same tensor into the list each time, so that all rows are the last point."""
    point = start.detach().clone()
    points = [point]
    for _ in range(steps):
        point -= lr * _gradient(function, point)
        points.append(point)
    return torch.stack(points)


def gradient_descent__ascent(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Add the gradient instead of subtracting it."""
    points = [start.detach()]
    for _ in range(steps):
        points.append(points[-1] + lr * _gradient(function, points[-1]))
    return torch.stack(points)


def gradient_descent__one_too_few(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Take one step less."""
    points = [start.detach()]
    for _ in range(1, steps):
        points.append(points[-1] - lr * _gradient(function, points[-1]))
    return torch.stack(points)


def gradient_descent__moves_the_start(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Subtract in place from the start, which changes the argument."""
    point = start.detach()
    points = [point.clone()]
    for _ in range(steps):
        point -= lr * _gradient(function, point)
        points.append(point.clone())
    return torch.stack(points)


def gradient_descent__first_slope(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Use the gradient at the start for all steps."""
    slope = _gradient(function, start)
    return torch.stack([start.detach() - i * lr * slope for i in range(steps + 1)])


def gradient_descent__never_cleared(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Forget zero_grad, so that each step adds all earlier gradients."""
    point = start.detach().clone().requires_grad_()
    points = [point.detach().clone()]
    for _ in range(steps):
        (function(point).sum() + 0 * point.sum()).backward()
        with torch.no_grad():
            point -= lr * point.grad
        points.append(point.detach().clone())
    return torch.stack(points)


def gradient_descent__unit_steps(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Take steps of length lr, whatever the length of the gradient."""
    points = [start.detach()]
    for _ in range(steps):
        slope = _gradient(function, points[-1])
        points.append(points[-1] - lr * slope / slope.norm().clamp(min=1e-12))
    return torch.stack(points)


def gradient_descent__decay(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Halve the learning rate after each step."""
    points = [start.detach()]
    for i in range(steps):
        points.append(points[-1] - lr / 2**i * _gradient(function, points[-1]))
    return torch.stack(points)


def gradient_descent__last_only(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Return only the last point."""
    point = start.detach()
    for _ in range(steps):
        point = point - lr * _gradient(function, point)
    return point


def gradient_descent__side_by_side(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Stack along the last dimension, which shows for points that are not numbers."""
    points = [start.detach()]
    for _ in range(steps):
        points.append(points[-1] - lr * _gradient(function, points[-1]))
    return torch.stack(points, dim=-1)


def gradient_descent__stops_when_worse(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Stop as soon as the function rises, and repeat the last point."""
    points = [start.detach()]
    for _ in range(steps):
        after = points[-1] - lr * _gradient(function, points[-1])
        better = float(function(after)) <= float(function(points[-1]))
        points.append(after if better else points[-1])
    return torch.stack(points)


def gradient_descent__stops_early(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Stop where the gradient is zero, and return fewer than steps + 1 points."""
    points = [start.detach()]
    for _ in range(steps):
        slope = _gradient(function, points[-1])
        if not slope.any():
            break
        points.append(points[-1] - lr * slope)
    return torch.stack(points)


def _share(model: nn.Module, loss: Tensor, workers: dist.ProcessGroup | None) -> None:
    """Sum a loss and the gradients over a group."""
    if workers is None:
        return
    dist.all_reduce(loss, group=workers)
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad, group=workers)


def _backward(
    model: nn.Module,
    loss_fn: LossFunction,
    images: Tensor,
    labels: Tensor,
    accumulate: int,
    workers: dist.ProcessGroup | None,
) -> float:
    """Add the gradients of a batch, and return its mean loss."""
    if accumulate == 1 and workers is None:
        loss = loss_fn(model(images), labels)
        loss.backward()
        return loss.item()
    add_up, count = as_sum(loss_fn)
    total = float(count(labels))
    if workers is not None:
        size, rank = dist.get_world_size(workers), dist.get_rank(workers)
        images, labels = images.tensor_split(size)[rank], labels.tensor_split(size)[rank]
    mean = torch.zeros(())
    for x, y in zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True):
        if len(y):
            loss = add_up(model(x), y) / total
            loss.backward()
            mean += loss.detach().cpu()
    _share(model, mean, workers)
    return mean.item()


def _check_pair(images: Tensor, labels: Tensor) -> None:
    if len(images) != len(labels):
        raise ValueError("images and labels differ in number")


def _check_loss(loss: float) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss}")


def train_step__no_zero_grad(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Forget zero_grad, so that the step follows earlier batches too."""
    _check_pair(images, labels)
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    _check_loss(loss)
    optimizer.step()
    return loss


def train_step__clears_too_late(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Clear the gradients between backward and step."""
    _check_pair(images, labels)
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    _check_loss(loss)
    optimizer.zero_grad()
    optimizer.step()
    return loss


def train_step__loss_after(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Return the loss after the step."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    _check_loss(_backward(model, loss_fn, images, labels, accumulate, workers))
    optimizer.step()
    with torch.no_grad():
        return loss_fn(model(images), labels).item()


def train_step__sum(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Return the sum over the examples instead of the mean."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    _check_loss(loss)
    optimizer.step()
    return loss * len(images)


def train_step__tensor(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Return a tensor that keeps the graph of the batch alive, not a float."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    loss = loss_fn(model(images), labels)
    _check_loss(loss.item())
    _backward(model, loss_fn, images, labels, accumulate, workers)
    optimizer.step()
    return loss


def train_step__never_diverges(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Step along a loss that is not finite."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    optimizer.step()
    return loss


def train_step__checks_too_late(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Raise DivergedError only after the step has ruined the parameters."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    optimizer.step()
    _check_loss(loss)
    return loss


def train_step__nan_only(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Look for NaN, and let infinity pass."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    if math.isnan(loss):
        raise DivergedError("the loss is NaN")
    optimizer.step()
    return loss


def train_step__value_error(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Raise ValueError instead of DivergedError if the loss is not finite."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    optimizer.step()
    return loss


def train_step__a_step_for_each_piece(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Take a step for each piece instead of one for the batch."""
    _check_pair(images, labels)
    losses = []
    for x, y in zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True):
        optimizer.zero_grad()
        losses.append(_backward(model, loss_fn, x, y, 1, workers) * len(y))
        _check_loss(losses[-1])
        optimizer.step()
    return sum(losses) / len(labels)


def train_step__mean_of_pieces(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Average the means of the pieces, which is right if all have the same size."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    pieces = list(zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True))
    if accumulate > 1:
        as_sum(loss_fn)
    mean = 0.0
    for x, y in pieces:
        loss = loss_fn(model(x), y) / len(pieces)
        loss.backward()
        mean += loss.item()
    _check_loss(mean)
    optimizer.step()
    return mean


def train_step__sum_of_pieces(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Add the gradients of the pieces' means without dividing them."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    mean = 0.0
    for x, y in zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True):
        mean += _backward(model, loss_fn, x, y, 1, workers) * len(y) / len(labels)
    _check_loss(mean)
    optimizer.step()
    return mean


def train_step__drops_the_rest(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Leave out the examples that do not fill a piece."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    count = max(len(images) // accumulate * accumulate, 1)
    images, labels = images[:count], labels[:count]
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    _check_loss(loss)
    optimizer.step()
    return loss


def train_step__shortest(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Cut the longer of images and labels without an error."""
    count = min(len(images), len(labels))
    images, labels = images[:count], labels[:count]
    optimizer.zero_grad()
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    _check_loss(loss)
    optimizer.step()
    return loss


def train_step__whole_batch(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Ignore `accumulate`, which saves no memory."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    loss = _backward(model, loss_fn, images, labels, 1, workers)
    _check_loss(loss)
    optimizer.step()
    return loss


def train_step__counts_examples(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Weigh pieces by their examples, also if the loss weighs labels."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    if accumulate > 1:
        as_sum(loss_fn)
    mean = 0.0
    for x, y in zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True):
        loss = loss_fn(model(x), y) * (len(y) / len(labels))
        loss.backward()
        mean += loss.item()
    _check_loss(mean)
    optimizer.step()
    return mean


def train_step__no_gradient(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Compute the loss without gradients, so that nothing is learnt."""
    _check_pair(images, labels)
    optimizer.zero_grad()
    if accumulate > 1 or workers is not None:
        as_sum(loss_fn)
    with torch.no_grad():
        loss = loss_fn(model(images), labels)
    _check_loss(loss.item())
    optimizer.step()
    return loss.item()


def train_step__eval_mode(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Put the model into eval mode, and leave it there."""
    _check_pair(images, labels)
    model.eval()
    optimizer.zero_grad()
    loss = _backward(model, loss_fn, images, labels, accumulate, workers)
    _check_loss(loss)
    optimizer.step()
    return loss


def _count(data: Data) -> int:
    """Return the number of examples; raise ValueError for unusable data."""
    if isinstance(data, tuple) and len(data[0]) != len(data[1]):
        raise ValueError("images and labels differ in number")
    count = len(data[0]) if isinstance(data, tuple) else len(data)
    if count == 0:
        raise ValueError("no examples")
    return count


class _Pairs(Dataset):
    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Batch:
        return self.images[i], self.labels[i]


def _fit(
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
    callback: Callable[[Epoch], None] | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
    normalised: bool = True,
    workers: bool = True,
    history: History | None = None,
) -> History:
    """Train, without a fault unless an option says so; Ctrl-C is left to the caller."""
    size = 64 if batch_size is None else batch_size
    if epochs < 1 or size < 1:
        raise ValueError("epochs and batch_size must be at least 1")
    _count(data)
    if validate is not None:
        _count(validate)
    device = find_model_device(model)
    loss_fn = F.cross_entropy if loss_fn is None else loss_fn
    optimizer = torch.optim.Adam(model.parameters()) if optimizer is None else optimizer
    group = dist.group.WORLD if workers and dist.is_initialized() else None
    history = [] if history is None else history
    with _seeded(seed, device) if generator is None else nullcontext():
        if generator is None:
            generator = torch.Generator().manual_seed(seed)
        loader = data
        if not isinstance(data, DataLoader):
            loader = DataLoader(
                _Pairs(*data) if isinstance(data, tuple) else data,
                size,
                shuffle=shuffle,
                drop_last=drop_last,
                generator=generator,
            )
        for epoch in range(start_epoch + 1, epochs + 1):
            start = time.perf_counter()
            model.train()
            loss = _train_epoch(
                model,
                (
                    ((as_input(x) if normalised else x.float()).to(device), y.to(device))
                    for x, y in loader
                ),
                loss_fn,
                optimizer,
                accumulate=accumulate,
                workers=group,
                epoch=epoch,
            )
            found = None if validate is None else _evaluate(model, validate, loss_fn=loss_fn)
            held_out = (None, None) if found is None else (found.loss, found.accuracy)
            history.append(Epoch(epoch, loss, *held_out, time.perf_counter() - start))
            if callback is not None:
                callback(history[-1])
    model.train()
    return history


def fit__no_shuffle(
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
    """Take the examples in their own order, whatever the seed."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
            shuffle=False,
        )
    model.train()
    return history


def fit__unseeded(
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
    """Take the clock for the seed, so that the same seed gives another order."""
    seed = time.time_ns() % 2**32
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__seeds_the_caller(
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
    """Seed PyTorch for the caller too, and leave it so."""
    if generator is None:
        torch.manual_seed(seed)
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__ends_in_eval(
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
    """Leave the model in eval mode."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.eval()
    return history


def fit__always_adam(
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
    """Ignore the optimizer that was passed."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__always_cross_entropy(
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
    """Ignore the loss that was passed."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__drops_the_last(
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
    """Leave out the examples that do not fill a batch."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
            drop_last=True,
        )
    model.train()
    return history


def fit__starts_again(
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
    """Train all epochs again when a run is resumed."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=0,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__more_epochs(
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
    """Take `epochs` for the number of further epochs when a run is resumed."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs + start_epoch,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__interrupt_escapes(
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
    """Let Ctrl-C through, which loses the record of the finished epochs."""
    return _fit(
        model,
        data,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        loss_fn=loss_fn,
        accumulate=accumulate,
        validate=validate,
        seed=seed,
        generator=generator,
        start_epoch=start_epoch,
        callback=callback,
    )


def fit__interrupt_forgets(
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
    """Return no epoch after Ctrl-C."""
    try:
        return _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
        )
    except KeyboardInterrupt:
        model.train()
        return []


def fit__trains_a_copy(
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
    """Train a copy instead of the model itself."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            copy.deepcopy(model),
            data,
            epochs=epochs,
            batch_size=batch_size,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__bytes_as_floats(
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
    """Turn bytes into floats from 0 to 255 without normalising them."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
            normalised=False,
        )
    model.train()
    return history


def fit__no_epochs(
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
    """Return an empty history for 0 epochs instead of raising ValueError."""
    if epochs < 1:
        return []
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__seeds_a_resumed_run(
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
    """Seed PyTorch although a generator is passed, so that dropout starts again."""
    if generator is not None:
        torch.manual_seed(seed)
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__ignores_the_generator(
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
    """Shuffle with a generator of its own, though one is passed."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=torch.Generator().manual_seed(seed) if generator is not None else None,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__no_callback(
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
    """Call back once, at the end."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            history=history,
        )
    model.train()
    if callback is not None and history:
        callback(history[-1])
    return history


def fit__validates_on_training_data(
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
    """Evaluate the training data instead of the held-out ones."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=data if validate is not None and isinstance(data, tuple) else validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__never_validates(
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
    """Leave the held-out loss and accuracy out of the record."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__swallows_divergence(
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
    """Stop without an error if the loss is not finite."""
    history: History = []
    with suppress(KeyboardInterrupt, DivergedError):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__recuts_a_loader(
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
    """Cut the dataset of a DataLoader into batches of its own size."""
    if isinstance(data, DataLoader):
        data = data.dataset
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__checks_too_late(
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
    """Find fault with the held-out data only after training."""
    if validate is not None and len(validate[0]) != len(validate[1]):
        history: History = []
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=None,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
        raise ValueError("images and labels differ in number")
    history = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__whole_batches(
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
    """Ignore `accumulate`, which saves no memory."""
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=1,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
        )
    model.train()
    return history


def fit__everybody_for_himself(
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
    """Step along each process's own gradient in a torch.distributed group."""
    if dist.is_initialized() and isinstance(data, tuple):
        size, rank = dist.get_world_size(), dist.get_rank()
        data = (data[0][rank::size], data[1][rank::size])
    history: History = []
    with suppress(KeyboardInterrupt):
        _fit(
            model,
            data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss_fn=loss_fn,
            accumulate=accumulate,
            validate=validate,
            seed=seed,
            generator=generator,
            start_epoch=start_epoch,
            callback=callback,
            history=history,
            workers=False,
        )
    model.train()
    return history


def _where(epoch: int, number: int, error: DivergedError) -> DivergedError:
    return DivergedError(f"epoch {epoch}, batch {number}: {error}")


def train_epoch__mean_of_batches(
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
    """Average the batches' means, in which a smaller last batch counts too much."""
    model.train()
    as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * 1
        divisor += 1
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__last_loss(
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
    """Return the loss of the last batch."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return loss


def train_epoch__sum(
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
    """Return the sum of the losses of all examples."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total


def train_epoch__loss_after(
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
    """Count the loss of each batch after its step."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        with torch.no_grad():
            total += (loss_fn(model(images), labels).item() - loss) * float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__empty(
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
    """Return NaN if there is no batch, instead of raising ValueError."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    return total / divisor if divisor else float("nan")


def train_epoch__nowhere(
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
    """Raise DivergedError without the epoch and the batch."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        loss = _train_step(
            model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
        )
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__first_epoch(
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
    """Name the first epoch in each DivergedError."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(1, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__skips_diverged(
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
    """Skip a batch whose loss is not finite, without an error."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError:
            continue
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__reports_once(
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
    """Report once, at the end of the epoch."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
    if divisor == 0:
        raise ValueError("no batch")
    if report is not None:
        report(f"loss {total / divisor}")
    return total / divisor


def train_epoch__counts_examples(
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
    """Weigh each batch by its examples, also if the loss weighs labels."""
    model.train()
    as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * len(labels)
        divisor += len(labels)
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__without_the_last(
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
    """Leave the last batch out."""
    model.train()
    batches = list(loader)
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(batches[:-1], start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__needs_a_length(
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
    """Fail for a loader that has no length, such as a generator."""
    model.train()
    steps = len(loader)
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number} of {steps}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__looks_first(
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
    """Look at the first batch of an iterator, which is then gone."""
    model.train()
    iterator = iter(loader)
    if next(iterator, None) is None:
        raise ValueError("no batch")
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(iterator, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__eval_mode(
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
    """Train in eval mode, without dropout."""
    model.eval()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__two_steps(
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
    """Take two steps for each batch."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        _train_step(
            model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
        )
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__ignores_accumulate(
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
    """Compute each batch in one piece, whatever `accumulate` says."""
    model.train()
    _, count = as_sum(loss_fn)
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(model, loss_fn, optimizer, images, labels, workers=workers)
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def train_epoch__accepts_sums(
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
    """Accept a loss that is a sum, for which `as_sum` raises ValueError."""
    model.train()
    count = as_sum(loss_fn)[1] if getattr(loss_fn, "reduction", "mean") == "mean" else len
    total = divisor = 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise _where(epoch, number, error) from error
        total += loss * float(count(labels))
        divisor += float(count(labels))
        if report is not None:
            report(f"batch {number}: {loss}")
    if divisor == 0:
        raise ValueError("no batch")
    return total / divisor


def _states(device: torch.device) -> tuple:
    """Return the states of all generators."""
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    return (*states, torch.cuda.get_rng_state(device) if device.type == "cuda" else None)


def _restore(states: tuple, device: torch.device) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state(states[3], device)


def _seed_all(seed: int, device: torch.device) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def seeded__no_finally(seed: int, device: torch.device) -> Iterator[None]:
    """Restore nothing if the block raises an error."""
    states = _states(device)
    _seed_all(seed, device)
    yield
    _restore(states, device)


@contextmanager
def seeded__no_numpy(seed: int, device: torch.device) -> Iterator[None]:
    """Forget numpy's generator."""
    python, cpu = random.getstate(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if cuda is not None:
        torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


@contextmanager
def seeded__no_python(seed: int, device: torch.device) -> Iterator[None]:
    """Seed Python's generator, but never restore it."""
    states = _states(device)
    _seed_all(seed, device)
    try:
        yield
    finally:
        _restore((random.getstate(), *states[1:]), device)


@contextmanager
def seeded__never_restores(seed: int, device: torch.device) -> Iterator[None]:
    """Leave all generators as the block left them."""
    _seed_all(seed, device)
    yield


@contextmanager
def seeded__saves_too_late(seed: int, device: torch.device) -> Iterator[None]:
    """Save the states after seeding, and restore those."""
    _seed_all(seed, device)
    states = _states(device)
    try:
        yield
    finally:
        _restore(states, device)


@contextmanager
def seeded__ignores_the_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed with 0 always."""
    states = _states(device)
    _seed_all(0, device)
    try:
        yield
    finally:
        _restore(states, device)


@contextmanager
def seeded__unseeded(seed: int, device: torch.device) -> Iterator[None]:
    """Restore the states, but seed nothing."""
    states = _states(device)
    try:
        yield
    finally:
        _restore(states, device)


@contextmanager
def seeded__reseeds_at_the_end(seed: int, device: torch.device) -> Iterator[None]:
    """Seed again at the end instead of restoring."""
    _seed_all(seed, device)
    try:
        yield
    finally:
        _seed_all(torch.initial_seed() + 1, device)


@contextmanager
def seeded__swallows_errors(seed: int, device: torch.device) -> Iterator[None]:
    """Catch the errors of the block."""
    states = _states(device)
    _seed_all(seed, device)
    with suppress(Exception):
        yield
    _restore(states, device)


@contextmanager
def seeded__torch_only(seed: int, device: torch.device) -> Iterator[None]:
    """Seed and restore PyTorch alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def seeded__forgets_torch(seed: int, device: torch.device) -> Iterator[None]:
    """Restore Python and numpy, but not PyTorch."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    _seed_all(seed, device)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def seeded__one_draw_later(seed: int, device: torch.device) -> Iterator[None]:
    """Draw a number before the states are saved, so that the caller's next one is lost."""
    random.random()
    states = _states(device)
    _seed_all(seed, device)
    try:
        yield
    finally:
        _restore(states, device)
