"""Shuffle.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: shuffle=True draws the mini-batches in random order.
Verdict: holds
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from dlconcepts.testing.laws import law
from tests.networks.common import Batch, numbered, positions

GENERATOR = "a loader shuffles with a generator of the CPU"


def shuffles(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle with a generator of its own, so that a seed gives an order."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size, shuffle=True, generator=generator)


def shuffles_apart(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle the images, then the labels."""
    generator = torch.Generator().manual_seed(seed)
    parts = [part[torch.randperm(len(dataset), generator=generator)] for part in dataset.tensors]
    return DataLoader(TensorDataset(*parts), batch_size)


def forgets_the_seed(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle with whatever state the global generator is in."""
    return DataLoader(dataset, batch_size, shuffle=True)


def draws_each_by_itself(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Draw each position from all, so that some come twice."""
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(dataset, replacement=True, generator=generator)
    return DataLoader(dataset, batch_size, sampler=sampler)


@law(
    right=shuffles,
    wrong={
        shuffles_apart: "its own label",
        forgets_the_seed: "the same seed gives the same order",
        draws_each_by_itself: "each example comes exactly once",
    },
    cpu_only=GENERATOR,
)
@given(n=st.integers(1, 12), batch_size=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_a_shuffled_epoch_is_a_permutation(
    shuffle: Callable[..., Iterable[Batch]], n: int, batch_size: int, seed: int
) -> None:
    """An epoch has each example once with its label, and the seed alone decides their order."""
    first, again = (positions(shuffle(numbered(n), batch_size, seed)) for _ in range(2))

    assert sorted(itertools.chain.from_iterable(first)) == list(range(n)), (
        "each example comes exactly once"
    )
    assert first == again, "the same seed gives the same order"


def one_permutation(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle once and iterate over that in every epoch."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return DataLoader(dataset, batch_size, sampler=order.tolist())


class SeedsEveryEpoch(DataLoader[Any]):
    """A loader that seeds its generator whenever an epoch begins."""

    def __iter__(self) -> Any:
        """Seed and start over."""
        self.generator.manual_seed(0)
        return super().__iter__()


def seeds_every_epoch(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Fix the seed where the epoch begins instead of where the run does."""
    return SeedsEveryEpoch(dataset, batch_size, shuffle=True, generator=torch.Generator())


@law(
    right=shuffles,
    wrong={
        one_permutation: "further epochs give other orders",
        seeds_every_epoch: "further epochs give other orders",
    },
    cpu_only=GENERATOR,
)
@given(n=st.integers(20, 30), batch_size=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_further_epochs_give_other_orders(
    shuffle: Callable[..., Iterable[Batch]], n: int, batch_size: int, seed: int
) -> None:
    """Three epochs have three orders, by chance not with probability 3 / 20! < 2e-18."""
    loader = shuffle(numbered(n), batch_size, seed)

    epochs = [list(itertools.chain.from_iterable(positions(loader))) for _ in range(3)]

    assert all(one != other for one, other in itertools.combinations(epochs, 2)), (
        "further epochs give other orders"
    )


def shuffles_inside_batches(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Cut the batches first and shuffle each."""
    orders = random.Random(seed)
    cut = [list(part) for part in np.array_split(range(len(dataset)), [batch_size])]
    return EpochsOf(dataset, lambda: [orders.sample(part, len(part)) for part in cut])


def starts_anywhere(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Begin at a random example and go around."""
    starts, n = random.Random(seed), len(dataset)
    return EpochsOf(dataset, lambda: [np.roll(range(n), starts.randrange(n)).tolist()])


def swaps_with_any(dataset: TensorDataset, batch_size: int, seed: int) -> Iterable[Batch]:
    """Swap each position with any other, not with a later one: some orders come more often."""
    places = random.Random(seed)

    def order() -> list[list[int]]:
        """Return one epoch, a single batch."""
        shuffled = list(range(len(dataset)))
        for i in range(len(shuffled)):
            j = places.randrange(len(shuffled))
            shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
        return [shuffled]

    return EpochsOf(dataset, order)


class EpochsOf:
    """A loader whose epochs are drawn by a function that returns batches of positions."""

    def __init__(self, dataset: TensorDataset, draw: Callable[[], list[list[int]]]) -> None:
        """Keep the examples and the function."""
        self.dataset, self.draw = dataset, draw

    def __iter__(self) -> Iterator[Any]:
        """Draw an epoch and yield its batches."""
        return (self.dataset[batch] for batch in self.draw())


@law(
    right=shuffles,
    wrong={
        shuffles_inside_batches: "each order comes equally often",
        starts_anywhere: "each order comes equally often",
        swaps_with_any: "each order comes equally often",
    },
    share=0.01,
    because="each example shuffles 10,000 epochs",
    cpu_only=GENERATOR,
)
@given(seed=st.integers(0, 2**32))
def test_each_order_comes_equally_often(shuffle: Callable[..., Iterable[Batch]], seed: int) -> None:
    """Each of the 24 orders of 4 examples comes in one of 24 of 10,000 epochs.

    The counts are binomial; an exact two-sided p of 1e-13 is allowed to each of the 24, so that
    chance fails an example with probability 2.4e-12 at most.
    """
    loader = shuffle(numbered(4), 2, seed)
    epochs = [tuple(torch.cat([labels for _, labels in loader]).tolist()) for _ in range(10_000)]

    for order in itertools.permutations(range(100, 104)):
        chance = binomtest(epochs.count(order), len(epochs), 1 / 24).pvalue
        assert chance > 1e-13, f"each order comes equally often, {order} too"


def always_shuffles(dataset: TensorDataset, batch_size: int, shuffle: bool) -> Iterable[Batch]:
    """Shuffle whatever was asked."""
    return DataLoader(dataset, batch_size, shuffle=True)


@law(
    right=DataLoader,
    wrong={always_shuffles: "keeps the order"},
    cpu_only=GENERATOR,
)
@given(n=st.integers(1, 12), batch_size=st.integers(1, 5))
def test_without_shuffle_the_order_is_kept(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int
) -> None:
    """shuffle=False yields the examples as they lie."""
    found = positions(load(numbered(n), batch_size, shuffle=False))

    assert list(itertools.chain.from_iterable(found)) == list(range(n)), "False keeps the order"
