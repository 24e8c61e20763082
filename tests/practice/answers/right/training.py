"""Right answers to the exercises of lesson 4, training."""

import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from dlconcepts.autograd import LossFunction, as_sum
from dlconcepts.autograd import gradient as _gradient
from dlconcepts.loading import as_input
from dlconcepts.loading import batches as _batches
from dlconcepts.support.runs import Epoch, History, find_model_device
from dlconcepts.training import Batch, Data, DivergedError
from dlconcepts.training import seeded as _seeded
from dlconcepts.training import train_epoch as _train_epoch
from dlconcepts.training import train_step as _train_step
from dlconcepts.validation import evaluate as _evaluate


def descent_direction__scaled(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Scale by the largest element first, so that no square is lost."""
    slope = _gradient(function, x)
    largest = slope.abs().max()
    if largest == 0:
        raise ValueError("the gradient is zero")
    slope = slope / largest
    return -slope / slope.norm()


def descent_direction__hypot(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Let math.hypot compute the length."""
    leaf = x.detach().clone().requires_grad_()
    loss = function(leaf).sum() + 0 * leaf.sum()
    (slope,) = torch.autograd.grad(loss, leaf)
    numbers = slope.flatten().tolist()
    length = math.hypot(*numbers)
    if length == 0:
        raise ValueError(f"flat at {x}: no direction falls fastest")
    unit = [-number / length for number in numbers]
    return torch.tensor(unit, dtype=x.dtype).reshape(x.shape)


def descent_direction__numpy(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute in numpy's longest floats."""
    slope = _gradient(function, x).numpy()
    if not slope.any():
        raise ValueError("no steepest direction: the gradient is 0 everywhere")
    wide = slope.astype(np.longdouble)
    unit = -wide / np.sqrt((wide * wide).sum())
    return torch.from_numpy(np.asarray(unit, dtype=slope.dtype))


def gradient_descent__by_a_loop(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Collect points in a list, and stack them."""
    points = [start.detach()]
    for _ in range(steps):
        points.append(points[-1] - lr * _gradient(function, points[-1]))
    return torch.stack(points)


def gradient_descent__optimizer(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Let torch.optim.SGD take the steps, and write into a tensor made before."""
    point = nn.Parameter(start.detach().clone())
    optimizer = torch.optim.SGD([point], lr=lr)
    visited = torch.empty(steps + 1, *start.shape, dtype=start.dtype)
    visited[0] = start.detach()
    for i in range(steps):
        optimizer.zero_grad()
        (function(point).sum() + 0 * point.sum()).backward(inputs=[point])
        optimizer.step()
        visited[i + 1] = point.detach()
    return visited


def gradient_descent__recursive(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Put the start before the points that are visited from the next one."""
    here = start.detach().clone()[None]
    if steps == 0:
        return here
    after = here[0] - lr * _gradient(function, here[0])
    rest = gradient_descent__recursive(function, after, lr=lr, steps=steps - 1)
    return torch.cat([here, rest])


def gradient_descent__itertools(
    function: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Accumulate steps with itertools."""

    def step(point: Tensor, _: int) -> Tensor:
        return torch.sub(point, _gradient(function, point), alpha=lr)

    points = itertools.accumulate(range(steps), step, initial=start.detach())
    return torch.stack(list(points))


def _share(parameters: Iterable[nn.Parameter], workers: dist.ProcessGroup) -> None:
    """Sum the gradients over a group; one that no process has stays None."""
    parameters = list(parameters)
    owners = torch.tensor([float(p.grad is not None) for p in parameters])
    dist.all_reduce(owners, group=workers)
    for parameter, count in zip(parameters, owners.tolist(), strict=True):
        if count:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(grad, group=workers)
            parameter.grad = grad


def _own_part(batch: Tensor, workers: dist.ProcessGroup | None) -> Tensor:
    if workers is None:
        return batch
    return batch.tensor_split(dist.get_world_size(workers))[dist.get_rank(workers)]


def train_step__two_ways(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Treat a whole batch as usual, and pieces as sums over the number of all."""
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    optimizer.zero_grad()
    if accumulate == 1 and workers is None:
        loss = loss_fn(model(images), labels)
        mean = loss.item()
        if not math.isfinite(mean):
            raise DivergedError(f"the loss is {mean}; try a smaller learning rate")
        loss.backward()
    else:
        add_up, count = as_sum(loss_fn)
        total = float(count(labels))
        own_images, own_labels = _own_part(images, workers), _own_part(labels, workers)
        sums = torch.zeros((), device=images.device)
        if len(own_images):
            pairs = zip(own_images.chunk(accumulate), own_labels.chunk(accumulate), strict=True)
            for x, y in pairs:
                loss = add_up(model(x), y) / total
                loss.backward()
                sums += loss.detach()
        if workers is not None:
            dist.all_reduce(sums, group=workers)
            _share(model.parameters(), workers)
        mean = sums.item()
        if not math.isfinite(mean):
            raise DivergedError(f"the loss is {mean}; try a smaller learning rate")
    optimizer.step()
    return mean


def train_step__closure(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Hand the optimizer a closure, as LBFGS needs it."""
    if images.shape[0] != labels.shape[0]:
        raise ValueError("one label for each image")
    cut = accumulate > 1 or workers is not None
    add_up, count = as_sum(loss_fn) if cut else (loss_fn, lambda _: 1.0)
    total = float(count(labels))
    losses = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = torch.zeros((), device=images.device)
        parts = zip(
            _own_part(images, workers).tensor_split(accumulate),
            _own_part(labels, workers).tensor_split(accumulate),
            strict=True,
        )
        for x, y in parts:
            if len(y) or not cut:
                part = add_up(model(x), y) / total
                part.backward()
                loss += part.detach()
        if workers is not None:
            dist.all_reduce(loss, group=workers)
            _share(model.parameters(), workers)
        if not torch.isfinite(loss):
            raise DivergedError(f"loss {loss.item()}")
        losses.append(loss.item())
        return losses[-1]

    optimizer.step(closure)
    return losses[0]


def train_step__autograd_grad(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    accumulate: int = 1,
    workers: dist.ProcessGroup | None = None,
) -> float:
    """Set the gradients instead of adding to them; look at the loss before that."""
    if labels.size(0) != images.size(0):
        raise ValueError("numbers of images and labels differ")
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    whole = accumulate <= 1 and workers is None
    pieces: list[tuple[Tensor, Tensor]] = [(images, labels)]
    total = 1.0
    if not whole:
        loss_fn, count = as_sum(loss_fn)
        total = float(count(labels))
        own_images, own_labels = _own_part(images, workers), _own_part(labels, workers)
        size = max(1, math.ceil(len(own_labels) / accumulate))
        pieces = list(zip(own_images.split(size), own_labels.split(size), strict=True))
    sums: list[Tensor | None] = [None] * len(parameters)
    mean = torch.zeros(())
    for x, y in pieces:
        if not whole and len(y) == 0:
            continue
        loss = loss_fn(model(x), y) / total
        mean += loss.detach().cpu()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        sums = [
            b if a is None else a if b is None else a + b for a, b in zip(sums, found, strict=True)
        ]
    if workers is not None:
        dist.all_reduce(mean, group=workers)
    if not math.isfinite(mean):
        raise DivergedError("the loss is not finite; the parameters are those before the step")
    optimizer.zero_grad()
    for parameter, grad in zip(parameters, sums, strict=True):
        parameter.grad = grad
    if workers is not None:
        _share(parameters, workers)
    optimizer.step()
    return mean.item()


def _examples_in(data: Any) -> int:
    if isinstance(data, (tuple, list)):
        images, labels = data
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
        return len(images)
    return len(data)


def _group() -> dist.ProcessGroup | None:
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def _show(progress: bool, text: str) -> None:
    if progress and sys.stderr.isatty():
        sys.stderr.write("\r" + text)


def fit__techniques(
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
    """Put the techniques of the course together."""
    if epochs < 1:
        raise ValueError("train for 1 epoch at least")
    size = 64 if batch_size is None else batch_size
    if size < 1 or _examples_in(data) < 1 or (validate is not None and not _examples_in(validate)):
        raise ValueError("no examples, or a batch of none")
    device = find_model_device(model)
    if optimizer is None:
        optimizer = torch.optim.Adam(model.parameters())
    if loss_fn is None:
        loss_fn = nn.CrossEntropyLoss()
    history: History = []
    with _seeded(seed, device) if generator is None else nullcontext():
        shuffler = torch.Generator().manual_seed(seed) if generator is None else generator

        def loader() -> Iterable[Batch]:
            if isinstance(data, tuple):
                order = torch.randperm(len(data[0]), generator=shuffler)
                return _batches(data, size, order=order.to(data[0].device), device=device)
            source = data
            if not isinstance(data, DataLoader):
                source = DataLoader(data, size, shuffle=True, generator=shuffler)
            return ((as_input(x).to(device), y.to(device)) for x, y in source)

        try:
            for epoch in range(start_epoch + 1, epochs + 1):
                began = time.perf_counter()
                model.train()
                loss = _train_epoch(
                    model,
                    loader(),
                    loss_fn,
                    optimizer,
                    accumulate=accumulate,
                    workers=_group(),
                    epoch=epoch,
                    report=lambda line: _show(progress, line),
                )
                held_out = None if validate is None else _evaluate(model, validate, loss_fn=loss_fn)
                history.append(
                    Epoch(
                        epoch,
                        loss,
                        None if held_out is None else held_out.loss,
                        None if held_out is None else held_out.accuracy,
                        time.perf_counter() - began,
                    )
                )
                if callback is not None:
                    callback(history[-1])
        except KeyboardInterrupt:
            print("stopped early")
        finally:
            model.train()
    return history


@contextmanager
def _random_state_kept(seed: int | None, device: torch.device) -> Iterator[None]:
    python, cpu = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
        yield
    finally:
        if seed is not None:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, device)


def fit__data_loader(
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
    """Wrap all data in a DataLoader, and take the steps in a loop of its own."""
    if epochs <= 0:
        raise ValueError(f"epochs is {epochs}")
    if batch_size is not None and batch_size <= 0:
        raise ValueError(f"batch_size is {batch_size}")
    for part in (data, validate):
        if part is not None and _examples_in(part) == 0:
            raise ValueError("there are no examples")
    device = find_model_device(model)
    optimizer = optimizer or torch.optim.Adam(model.parameters())
    criterion = F.cross_entropy if loss_fn is None else loss_fn
    count = as_sum(criterion)[1]
    shuffler = generator if generator is not None else torch.Generator().manual_seed(seed)
    if isinstance(data, DataLoader):
        loader = data
    else:
        dataset = TensorDataset(*data) if isinstance(data, tuple) else data
        loader = DataLoader(dataset, batch_size or 64, shuffle=True, generator=shuffler)
    history: History = []

    def train_once(epoch: int) -> float:
        model.train()
        total = divisor = 0.0
        for number, (images, labels) in enumerate(loader, start=1):
            labels = labels.to(device)
            try:
                loss = _train_step(
                    model,
                    criterion,
                    optimizer,
                    as_input(images).to(device),
                    labels,
                    accumulate=accumulate,
                    workers=_group(),
                )
            except DivergedError as error:
                raise DivergedError(f"epoch {epoch}, batch {number}: {error}") from error
            total += loss * float(count(labels))
            divisor += float(count(labels))
            _show(progress, f"epoch {epoch}: {number}/{len(loader)}")
        return total / divisor

    with _random_state_kept(seed if generator is None else None, device):
        epoch = start_epoch
        try:
            while epoch < epochs:
                epoch += 1
                start = time.monotonic()
                train_loss = train_once(epoch)
                held_out_loss = held_out_accuracy = None
                if validate is not None:
                    found = _evaluate(model, validate, loss_fn=criterion)
                    held_out_loss, held_out_accuracy = found.loss, found.accuracy
                seconds = time.monotonic() - start
                record = Epoch(epoch, train_loss, held_out_loss, held_out_accuracy, seconds)
                history.append(record)
                if callback:
                    callback(record)
        except KeyboardInterrupt:
            pass
    model.train()
    return history


class _Trainer:
    def __init__(self, model: nn.Module, data: Any, size: int, shuffler: torch.Generator) -> None:
        self.model, self.data, self.size, self.shuffler = model, data, size, shuffler
        self.device = find_model_device(model)

    def batches(self) -> Iterator[Batch]:
        if isinstance(self.data, DataLoader):
            pairs: Iterable[Any] = self.data
        else:
            order = torch.randperm(_examples_in(self.data), generator=self.shuffler)
            pairs = (self.collect(chosen) for chosen in order.split(self.size))
        for images, labels in pairs:
            yield as_input(images).to(self.device), labels.to(self.device)

    def collect(self, chosen: Tensor) -> Batch:
        if isinstance(self.data, tuple):
            images, labels = self.data
            return images[chosen.to(images.device)], labels[chosen.to(labels.device)]
        examples = [self.data[i] for i in chosen.tolist()]
        images = torch.stack([torch.as_tensor(image) for image, _ in examples])
        return images, torch.stack([torch.as_tensor(label) for _, label in examples])

    def epochs(self, first: int, last: int, validate: Any, **options: Any) -> Iterator[Epoch]:
        for epoch in range(first, last + 1):
            start = time.perf_counter()
            self.model.train()
            loss = _train_epoch(
                self.model, self.batches(), epoch=epoch, workers=_group(), **options
            )
            held_out: tuple[Any, Any] = (None, None)
            if validate is not None:
                result = _evaluate(self.model, validate, loss_fn=options["loss_fn"])
                held_out = (result.loss, result.accuracy)
            yield Epoch(epoch, loss, *held_out, time.perf_counter() - start)


def fit__trainer(
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
    """Iterate over the epochs of a trainer, which collects batches by hand."""
    counts = [_examples_in(part) for part in (data, validate) if part is not None]
    size = batch_size if batch_size is not None else 64
    if min(epochs, size, *counts) < 1:
        raise ValueError(f"epochs {epochs}, batch_size {size}, examples {counts}: all must be >= 1")
    history: History = []
    with ExitStack() as stack:
        stack.callback(model.train)
        if generator is None:
            stack.enter_context(_seeded(seed, find_model_device(model)))
            generator = torch.Generator().manual_seed(seed)
        trainer = _Trainer(model, data, size, generator)
        records = trainer.epochs(
            start_epoch + 1,
            epochs,
            validate,
            loss_fn=F.cross_entropy if loss_fn is None else loss_fn,
            optimizer=torch.optim.Adam(model.parameters()) if optimizer is None else optimizer,
            accumulate=accumulate,
            report=lambda line: _show(progress, line),
        )
        try:
            for record in records:
                history.append(record)
                if callback is not None:
                    callback(record)
        except KeyboardInterrupt:
            return history
    return history


def train_epoch__by_a_loop(
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
    """Add up losses and divisors in a loop."""
    model.train()
    _, count = as_sum(loss_fn)
    total, divisor = 0.0, 0.0
    for number, (images, labels) in enumerate(loader, start=1):
        try:
            loss = _train_step(
                model, loss_fn, optimizer, images, labels, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            raise DivergedError(f"epoch {epoch}, batch {number}: {error}") from error
        weight = float(count(labels))
        total += weight * loss
        divisor += weight
        if report is not None:
            report(f"epoch {epoch}, batch {number}: loss {loss:.4f}")
    if not divisor:
        raise ValueError("the loader has no batch")
    return total / divisor


def train_epoch__own_steps(
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
    """Take simple steps itself, and leave only pieces and groups to `train_step`."""
    model.train()
    count = as_sum(loss_fn)[1]
    losses: list[float] = []
    weights: list[float] = []
    for images, labels in loader:
        where = f"epoch {epoch}, batch {len(losses) + 1}"
        if accumulate == 1 and workers is None:
            optimizer.zero_grad()
            loss = loss_fn(model(images), labels)
            if not loss.isfinite():
                raise DivergedError(f"{where}: the loss is {loss.item()}")
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        else:
            try:
                mean = _train_step(
                    *(model, loss_fn, optimizer, images, labels),
                    accumulate=accumulate,
                    workers=workers,
                )
            except DivergedError as error:
                raise DivergedError(f"{where}: {error}") from error
            losses.append(mean)
        weights.append(float(count(labels)))
        if report:
            report(f"{where} of loss {losses[-1]}")
    if not losses:
        raise ValueError("no batches")
    return float(np.average(losses, weights=weights))


def train_epoch__iterator(
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
    """Take the batches with next, keep exact sums, and log each batch."""
    divisor_of = as_sum(loss_fn)[1]
    model.train()
    iterator = iter(loader)
    terms: list[float] = []
    divisors: list[float] = []
    for number in itertools.count(1):
        batch = next(iterator, None)
        if batch is None:
            break
        try:
            loss = _train_step(
                model, loss_fn, optimizer, *batch, accumulate=accumulate, workers=workers
            )
        except DivergedError as error:
            message = f"training diverged in batch {number} of epoch {epoch} ({error})"
            raise DivergedError(message) from None
        divisors.append(float(divisor_of(batch[1])))
        terms.append(loss * divisors[-1])
        (report or (lambda line: None))(f"[{epoch}:{number}] {loss:.3g}")
    if not terms:
        raise ValueError("cannot train on an empty loader")
    return math.fsum(terms) / math.fsum(divisors)


@contextmanager
def seeded__try_finally(seed: int, device: torch.device) -> Iterator[None]:
    """Keep the states in variables, and restore them in a finally clause."""
    python = random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002
    cpu = torch.get_rng_state()
    module = None if device.type == "cpu" else torch.get_device_module(device)
    other = None if module is None else module.get_rng_state(device)
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        if module is not None:
            with module.device(device):
                module.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if module is not None:
            module.set_rng_state(other, device)


@contextmanager
def seeded__fork_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Use fork_rng for PyTorch, and an ExitStack for the others."""
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            stack.enter_context(torch.random.fork_rng(devices=[index]))
            torch.cuda.default_generators[index].manual_seed(seed)
        else:
            stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(abs(seed) % 2**32)  # noqa: NPY002
        yield


class _Seeded:
    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device

    def __enter__(self) -> None:
        self.states = [random.getstate(), np.random.get_state()]  # noqa: NPY002
        self.generators = [torch.default_generator]
        if self.device.type == "cuda":
            torch.cuda.init()
            index = self.device.index
            index = torch.cuda.current_device() if index is None else index
            self.generators.append(torch.cuda.default_generators[index])
        self.generator_states = [generator.get_state() for generator in self.generators]
        random.seed(self.seed)
        np.random.seed(np.uint32(self.seed % 2**32))  # noqa: NPY002
        for generator in self.generators:
            generator.manual_seed(self.seed)

    def __exit__(self, *_: Any) -> None:
        for generator, state in zip(self.generators, self.generator_states, strict=True):
            generator.set_state(state)
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])  # noqa: NPY002


def seeded__class(seed: int, device: torch.device) -> _Seeded:
    """Return an object with `__enter__` and `__exit__`."""
    return _Seeded(seed, device)
