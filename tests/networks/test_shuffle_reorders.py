"""shuffle=True yields every example once, in a new order each epoch.

>>> from torch.utils.data import DataLoader
>>> loader = DataLoader(range(1, 101), batch_size=100, shuffle=True)
>>> first, second = next(iter(loader)), next(iter(loader))
>>> torch.equal(first, second)
False
>>> torch.equal(first.sort().values, second.sort().values)
True

Notes: shuffle=True draws the mini-batches in random order.
Verdict: holds
Truth: Each epoch is a permutation of the examples, and all permutations are equally likely. Images
    keep their labels, and the generator's seed fixes the order. shuffle=False keeps the order.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

from dlconcepts.loading import batches
from dlconcepts.support.bitwise import bits
from dlconcepts.support.runs import make_generator
from dlconcepts.testing.laws import law
from dlconcepts.training import Batches
from tests.networks.common import Batch, numbered, positions

GENERATOR = "a DataLoader shuffles with a generator on the CPU"

Examples = TensorDataset | Subset[Any]

run_seeds = st.integers(0, 2**32)  # 2**32 is the first that does not fit in 32 bits


# `Batches` cuts two tensors by index, and makes a DataLoader for any other dataset.
def as_tensors(n: int) -> Examples:
    return numbered(n)


def as_a_subset(n: int) -> Examples:
    return Subset(numbered(n), range(n))


KINDS = (as_a_subset, as_tensors)


def shuffles(dataset: Examples, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle as `fit` does, with a seeded generator, so the seed fixes the order."""
    return Batches(dataset, batch_size, make_generator(seed), torch.device("cpu"))


def shuffles_separately(dataset: Examples, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle the images and the labels with different permutations."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(dataset), generator=generator) for _ in range(2)]
    parts = [torch.stack(part) for part in zip(*dataset, strict=True)]
    whole = [part[order] for part, order in zip(parts, orders, strict=True)]
    return DataLoader(TensorDataset(*whole), batch_size)


def forgets_the_seed(dataset: Examples, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle with the global generator, in whatever state it is."""
    return DataLoader(dataset, batch_size, shuffle=True)


def draws_with_replacement(dataset: Examples, batch_size: int, seed: int) -> Iterable[Batch]:
    """Draw each example from the whole dataset, so some repeat and others are missing."""
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(dataset, replacement=True, generator=generator)
    return DataLoader(dataset, batch_size, sampler=sampler)


@law(
    right=shuffles,
    wrong={
        shuffles_separately: "its own label",
        forgets_the_seed: "the same seed gives the same order",
        draws_with_replacement: "each example comes exactly once",
    },
    cpu_only=GENERATOR,
)
@given(
    n=st.integers(1, 12), batch_size=st.integers(1, 5), seed=run_seeds, kind=st.sampled_from(KINDS)
)
def test_a_shuffled_epoch_is_a_permutation(
    shuffle: Callable[..., Iterable[Batch]],
    n: int,
    batch_size: int,
    seed: int,
    kind: Callable[[int], Examples],
) -> None:
    """An epoch yields each example once with its label, in an order that the seed fixes."""
    first, again = (positions(shuffle(kind(n), batch_size, seed)) for _ in range(2))

    assert sorted(itertools.chain.from_iterable(first)) == list(range(n)), (
        "each example comes exactly once"
    )
    assert first == again, "the same seed gives the same order"


def reuses_one_permutation(dataset: Examples, batch_size: int, seed: int) -> Iterable[Batch]:
    """Shuffle once and use that order in every epoch."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return DataLoader(dataset, batch_size, sampler=order.tolist())


class SeedsEveryEpoch(DataLoader[Any]):
    def __iter__(self) -> Any:
        self.generator.manual_seed(0)
        return super().__iter__()


def seeds_every_epoch(dataset: Examples, batch_size: int, seed: int) -> Iterable[Batch]:
    """Seed the generator when an epoch begins instead of once when the run begins."""
    return SeedsEveryEpoch(dataset, batch_size, shuffle=True, generator=torch.Generator())


@law(
    right=shuffles,
    wrong={
        reuses_one_permutation: "each epoch has a new order",
        seeds_every_epoch: "each epoch has a new order",
    },
    cpu_only=GENERATOR,
)
# With 20 or more examples, two of three epochs agree by chance with probability 3 / 20! < 2e-18.
@given(
    n=st.integers(20, 30), batch_size=st.integers(1, 8), seed=run_seeds, kind=st.sampled_from(KINDS)
)
def test_each_epoch_has_a_new_order(
    shuffle: Callable[..., Iterable[Batch]],
    n: int,
    batch_size: int,
    seed: int,
    kind: Callable[[int], Examples],
) -> None:
    """Three epochs of one loader have three different orders."""
    loader = shuffle(kind(n), batch_size, seed)

    epochs = [list(itertools.chain.from_iterable(positions(loader))) for _ in range(3)]

    assert all(one != other for one, other in itertools.combinations(epochs, 2)), (
        "each epoch has a new order"
    )


class EpochsOf:
    def __init__(self, dataset: Examples, draw: Callable[[], list[list[int]]]) -> None:
        self.dataset, self.draw = dataset, draw

    def __iter__(self) -> Iterator[Any]:
        return (self.dataset[batch] for batch in self.draw())


def shuffles_inside_batches(dataset: Examples, batch_size: int, seed: int) -> Iterable[Batch]:
    """Cut the batches first, then shuffle each of them."""
    orders = random.Random(seed)
    cut = [list(part) for part in np.array_split(range(len(dataset)), [batch_size])]
    return EpochsOf(dataset, lambda: [orders.sample(part, len(part)) for part in cut])


def starts_anywhere(dataset: Examples, batch_size: int, seed: int) -> Iterable[Batch]:
    """Start at a random example and wrap around, so only n orders occur."""
    starts, n = random.Random(seed), len(dataset)
    return EpochsOf(dataset, lambda: [np.roll(range(n), starts.randrange(n)).tolist()])


def swaps_with_any(dataset: Examples, batch_size: int, seed: int) -> Iterable[Batch]:
    """Swap each position with any position, not only a later one, which favours some orders."""
    places = random.Random(seed)

    def order() -> list[list[int]]:
        shuffled = list(range(len(dataset)))
        for i in range(len(shuffled)):
            j = places.randrange(len(shuffled))
            shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
        return [shuffled]

    return EpochsOf(dataset, order)


@law(
    right=shuffles,
    wrong={
        shuffles_inside_batches: "each order comes equally often",
        starts_anywhere: "each order comes equally often",
        swaps_with_any: "each order comes equally often",
    },
    share=0.01,
    because="each example shuffles 20,000 epochs",
    cpu_only=GENERATOR,
)
@given(seed=run_seeds)
def test_each_order_comes_equally_often(shuffle: Callable[..., Iterable[Batch]], seed: int) -> None:
    """Each of the 24 orders of 4 examples has probability 1 / 24."""
    for kind in KINDS:
        # In batches of 2, so that a shuffle inside the batches never yields most of the 24 orders.
        loader = shuffle(kind(4), 2, seed)
        counts = Counter(
            tuple(torch.cat([labels for _, labels in loader]).tolist()) for _ in range(10_000)
        )
        for order in itertools.permutations(range(100, 104)):
            # The exact two-sided test of a binomial count. At 1e-13 for each of the 48 counts,
            # chance fails an example with probability 4.8e-12 at most.
            chance = binomtest(counts[order], 10_000, 1 / 24).pvalue
            assert chance > 1e-13, f"each order comes equally often, {order} too"


def seeds_the_global_one(seed: int) -> torch.Generator:
    """Return PyTorch's global generator, from which others draw too."""
    return torch.default_generator.manual_seed(seed)


def keeps_one_byte(seed: int) -> torch.Generator:
    """Use only the last byte of the seed."""
    return make_generator(seed % 256)


def begins_later(seed: int) -> torch.Generator:
    """Draw a number to begin with."""
    generator = make_generator(seed)
    torch.rand((), generator=generator, device="cpu")
    return generator


def forgets_to_seed(seed: int) -> torch.Generator:
    """Return a generator as PyTorch makes it."""
    return torch.Generator()


@law(
    right=make_generator,
    wrong={
        seeds_the_global_one: "the global generator",
        keeps_one_byte: "begins as its seed says",
        begins_later: "begins as its seed says",
        forgets_to_seed: "begins as its seed says",
    },
    cpu_only=GENERATOR,
)
@given(seed=run_seeds)
def test_a_generator_begins_as_its_seed_says(
    make: Callable[[int], torch.Generator], seed: int
) -> None:
    """Each call returns a new generator, which draws what PyTorch's draws from that seed."""
    before = bits(torch.get_rng_state())
    expected = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()

    drawn = [torch.rand(3, generator=make(seed)).tolist() for _ in range(2)]

    assert bits(torch.get_rng_state()) == before, "the global generator stays as it was"
    assert drawn == [expected] * 2, "a generator begins as its seed says"


def always_shuffles(dataset: TensorDataset, batch_size: int, shuffle: bool) -> Iterable[Batch]:
    """Shuffle even if shuffle is False."""
    return DataLoader(dataset, batch_size, shuffle=True)


@law(right=DataLoader, wrong={always_shuffles: "keeps the order"}, cpu_only=GENERATOR)
@given(n=st.integers(1, 12), batch_size=st.integers(1, 5))
def test_without_shuffle_the_order_is_kept(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int
) -> None:
    """shuffle=False yields the examples in their stored order."""
    found = positions(load(numbered(n), batch_size, shuffle=False))

    assert list(itertools.chain.from_iterable(found)) == list(range(n)), (
        "shuffle=False keeps the order"
    )
    assert positions(batches(numbered(n).tensors, batch_size)) == found, "so do the library's"
