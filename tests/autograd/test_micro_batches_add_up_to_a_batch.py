"""Micro-batches, weighted by their sizes, add up to the gradient of the batch.

>>> w, x = torch.tensor(5.0, requires_grad=True), torch.tensor([1.0, 2.0, 3.0, 10.0])
>>> torch.autograd.grad((w * x).mean(), w)
(tensor(4.),)
>>> for part in x.split(3):
...     ((w * part).mean() * len(part) / len(x)).backward()
>>> w.grad
tensor(4.)

Notes: (consequence of accumulation) Several small batches can stand for one large one.
Verdict: holds-if
Truth: Each micro-batch's mean loss must be weighted by its share of the examples; with class
    weights or `ignore_index`, by its share of the sum of the labels' weights. No layer may mix
    examples, as BatchNorm does. Then any split, even or uneven, gives the gradient and the step of
    the whole batch, also if several processes compute the parts.
"""

import copy
import inspect
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache, partial
from operator import methodcaller
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.autograd import accumulate
from dlconcepts.strategies import Problem, batches, networks, problems
from dlconcepts.testing.laws import law
from dlconcepts.training import train_step
from tests.autograd.common import (
    OPTIMIZERS,
    MicroBatches,
    assert_close,
    float64,
    gradients,
    gradients_of,
)


def adds_mean_losses(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Add the gradients of the mean losses without weights."""
    for inputs, labels in micro_batches:
        loss_fn(model(inputs), labels).backward()


def divides_by_their_number(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Give every micro-batch the same weight, though one may be smaller."""
    for inputs, labels in micro_batches:
        (loss_fn(model(inputs), labels) / len(micro_batches)).backward()


def zeroes_in_between(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Zero the gradients before each micro-batch, as a loop over batches does."""
    examples = sum(len(labels) for _, labels in micro_batches)
    for inputs, labels in micro_batches:
        model.zero_grad()
        (loss_fn(model(inputs), labels) * len(labels) / examples).backward()


def weights_by_the_first(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Assume that every micro-batch has the size of the first, though the last may be smaller."""
    examples = sum(len(labels) for _, labels in micro_batches)
    for inputs, labels in micro_batches:
        (loss_fn(model(inputs), labels) * len(micro_batches[0][1]) / examples).backward()


def weights_by_examples(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Weight each mean loss by its share of the examples, though class weights count too."""
    examples = sum(len(labels) for _, labels in micro_batches)
    for inputs, labels in micro_batches:
        (loss_fn(model(inputs), labels) * len(labels) / examples).backward()


def multiplies_in_bfloat16(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: MicroBatches
) -> None:
    """Compute under autocast, which rounds float32 to bfloat16 and leaves float64 alone."""
    with torch.autocast(micro_batches[0][0].device.type, torch.bfloat16):
        accumulate(model, loss_fn, micro_batches)


# float64 has no rounding to speak of. In float32 a gradient is a sum of up to 8 terms of size 10
# and more that may cancel; bfloat16 rounds 2**16 times as coarsely, so there is room between.
TOLERANCES = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-3},
}


def any_problem(dtype: torch.dtype) -> st.SearchStrategy[Problem]:
    return problems(dtype=dtype, any_loss=True)


@st.composite
def splits(
    draw: st.DrawFn, problem: st.SearchStrategy[Problem], smallest: int = 1
) -> tuple[Problem, MicroBatches]:
    """Draw a problem, and split its batch into micro-batches of any sizes."""
    drawn = draw(problem)
    sizes, rest = [], len(drawn.labels)
    while rest:
        size = draw(st.integers(smallest, rest))
        sizes.append(size if rest - size >= smallest else rest)
        rest -= sizes[-1]
    pieces = zip(drawn.inputs.split(sizes), drawn.labels.split(sizes), strict=True)
    return drawn, list(pieces)


@law(
    right=accumulate,
    wrong={
        adds_mean_losses: "full batch's gradient",
        divides_by_their_number: "full batch's gradient",
        zeroes_in_between: "full batch's gradient",
        weights_by_the_first: "full batch's gradient",
        weights_by_examples: "full batch's gradient",
        multiplies_in_bfloat16: "full batch's gradient",
    },
)
@given(
    split=splits(st.sampled_from(list(TOLERANCES)).flatmap(any_problem)),
    name=st.sampled_from(sorted(OPTIMIZERS)),
)
def test_any_split_of_a_batch_gives_its_gradient_and_its_step(
    accumulate: Callable[..., None], split: tuple[Problem, MicroBatches], name: str
) -> None:
    """Micro-batches, even or uneven, give the gradient and the step of the whole batch."""
    problem, micro_batches = split
    dtype = problem.inputs.dtype
    parameters = list(problem.model.parameters())
    expected = gradients_of(problem.model, problem.loss_fn, problem.inputs, problem.labels)
    whole = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    for parameter, grad in zip(whole, expected, strict=True):
        parameter.grad = grad

    accumulate(problem.model, problem.loss_fn, micro_batches)

    for found, grad in zip(gradients(problem.model), expected, strict=True):
        assert_close(found, grad, "a split gives the full batch's gradient", **TOLERANCES[dtype])
    if dtype != float64:
        return  # Adam would turn rounding into steps of full size
    OPTIMIZERS[name](whole).step()
    OPTIMIZERS[name](parameters).step()
    for parameter, other in zip(parameters, whole, strict=True):
        # Adam divides by |g| + 1e-8, so rounding of 1e-15 becomes 1e-7 of a step of 0.5.
        torch.testing.assert_close(
            parameter, other, rtol=1e-6, atol=1e-6, msg="a split takes the full batch's step"
        )


def counts_before_it_computes(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: Iterable[Any]
) -> None:
    """Read the micro-batches once to count them, after which a generator has none left."""
    if sum(len(labels) for _, labels in micro_batches):
        accumulate(model, loss_fn, micro_batches)


def adds_up_sums(
    model: nn.Module, loss_fn: Callable[..., Tensor], micro_batches: Iterable[Any]
) -> None:
    """Accept a loss that is a sum, which has no mean."""
    accumulate(model, nn.CrossEntropyLoss(), micro_batches)


@law(
    right=accumulate,
    wrong={counts_before_it_computes: "full batch's gradient", adds_up_sums: "DID NOT RAISE"},
)
@given(split=splits(problems(dtype=float64)))
def test_a_generator_is_read_once_and_a_sum_is_refused(
    accumulate: Callable[..., None], split: tuple[Problem, MicroBatches]
) -> None:
    """A generator of micro-batches does as well as a list; a sum raises ValueError at once."""
    problem, micro_batches = split
    expected = gradients_of(problem.model, problem.loss_fn, problem.inputs, problem.labels)

    accumulate(problem.model, problem.loss_fn, iter(micro_batches))

    for found, grad in zip(gradients(problem.model), expected, strict=True):
        assert_close(found, grad, "a generator gives the full batch's gradient")
    with pytest.raises(ValueError, match="must be a mean over the batch"):
        accumulate(problem.model, nn.CrossEntropyLoss(reduction="sum"), iter(micro_batches))
    for found, grad in zip(gradients(problem.model), expected, strict=True):
        assert_close(found, grad, "a refused loss changes no gradient")


@st.composite
def normalized_problems(draw: st.DrawFn) -> Problem:
    # Four examples or more: BatchNorm refuses to train on fewer than two in a micro-batch.
    inputs, labels = draw(batches(2, 2, min_size=4, dtype=float64, max_magnitude=5.0))
    return Problem(draw(networks([2, 2], dtype=float64)), nn.CrossEntropyLoss(), inputs, labels)


@law(right=nn.LayerNorm, wrong={nn.BatchNorm1d: "full batch's gradient"})
@given(split=splits(normalized_problems(), smallest=2))
def test_no_layer_may_mix_the_examples(
    normalization: Callable[..., nn.Module], split: tuple[Problem, MicroBatches]
) -> None:
    """A batch can be split if a layer normalises each example, not if it normalises the batch."""
    problem, micro_batches = split
    model = nn.Sequential(normalization(2, dtype=float64), *problem.model)
    expected = gradients_of(model, problem.loss_fn, problem.inputs, problem.labels)

    accumulate(model, problem.loss_fn, micro_batches)

    for found, grad in zip(gradients(model), expected, strict=True):
        # LayerNorm divides the rounding of equal values by the square root of its eps, 3e-3.
        assert_close(found, grad, "a split gives the full batch's gradient", rtol=1e-6)


def worker_step(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    workers: dist.ProcessGroup,
    combine: Callable[[Tensor, float], Tensor | None],
) -> None:
    # `combine` returns what a worker adds to the sum, from its gradient and share of examples.
    mine = slice(workers.rank(), None, workers.size())
    share = len(labels[mine]) / len(labels)
    optimizer.zero_grad()
    # A worker without examples adds zeros, since all_reduce waits for every worker.
    loss = loss_fn(model(inputs[mine]), labels[mine]) if share else 0 * model(inputs).sum()
    loss.backward()
    for parameter in model.parameters():
        to_sum = combine(parameter.grad, share)
        if to_sum is not None:
            dist.all_reduce(to_sum, group=workers)
            parameter.grad = to_sum
    optimizer.step()


def never_communicates(*arguments: Any, workers: dist.ProcessGroup) -> None:
    """Let each worker step on its part of the batch, so the models drift apart."""
    worker_step(*arguments, workers, lambda grad, share: None)


def averages_over_workers(*arguments: Any, workers: dist.ProcessGroup) -> None:
    """Average the gradients, as DistributedDataParallel does: right only for even parts."""
    worker_step(*arguments, workers, lambda grad, share: grad / workers.size())


def sums_mean_gradients(*arguments: Any, workers: dist.ProcessGroup) -> None:
    """Add the gradients of the mean losses, so the step grows with the number of workers."""
    worker_step(*arguments, workers, lambda grad, share: grad)


def weights_workers_by_examples(*arguments: Any, workers: dist.ProcessGroup) -> None:
    """Weight each worker's mean by its share of the examples, though class weights count too."""
    worker_step(*arguments, workers, lambda grad, share: grad * share)


@cache
def groups_of_threads(size: int) -> list[dist.ProcessGroup]:
    # Threads play the workers: to start processes would take seconds. The groups are connected
    # once; all ranks must connect at the same time.
    store = dist.HashStore()
    limit = timedelta(seconds=30)  # a worker that waits in vain raises instead of hanging
    with ThreadPoolExecutor(size) as pool:
        ranks = range(size)
        return list(pool.map(lambda r: dist.ProcessGroupGloo(store, r, size, limit), ranks))


@law(
    right=train_step,
    wrong={
        never_communicates: "step of one process",
        averages_over_workers: "step of one process",
        sums_mean_gradients: "step of one process",
        weights_workers_by_examples: "step of one process",
    },
    cpu_only="gloo, which connects processes on one machine, works on the CPU",
)
@given(problem=any_problem(float64), size=st.integers(2, 3), accumulate=st.integers(1, 2))
def test_workers_that_share_a_batch_take_the_step_of_one_process(
    step: Callable[..., object], problem: Problem, size: int, accumulate: int
) -> None:
    """Two or three workers, with parts of even or uneven size, take the step of one process."""
    inputs, labels = problem.inputs, problem.labels
    slopes = gradients_of(problem.model, problem.loss_fn, inputs, labels)
    expected = [
        (p - 0.5 * slope).detach()
        for p, slope in zip(problem.model.parameters(), slopes, strict=True)
    ]
    models, groups = [copy.deepcopy(problem.model) for _ in range(size)], groups_of_threads(size)
    if "accumulate" in inspect.signature(step).parameters:  # the mistakes have no such option
        step = partial(step, accumulate=accumulate)

    def work(rank: int) -> None:
        optimizer = torch.optim.SGD(models[rank].parameters(), lr=0.5)
        step(models[rank], problem.loss_fn, optimizer, inputs, labels, workers=groups[rank])

    # These ask for the process, of which there is only one.
    asked = {"get_rank": methodcaller("rank"), "get_world_size": methodcaller("size")}
    with ThreadPoolExecutor(size) as pool, patch.multiple(dist, **asked):
        list(pool.map(work, range(size)))

    for model in models:
        for parameter, value in zip(model.parameters(), expected, strict=True):
            assert_close(parameter.detach(), value, "workers take the step of one process")
