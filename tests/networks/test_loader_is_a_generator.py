"""A DataLoader is an iterable, not an iterator: each `iter` starts a new epoch.

>>> from torch.utils.data import DataLoader
>>> loader = DataLoader([1, 2, 3], batch_size=1)
>>> [batch.item() for batch in loader]
[1, 2, 3]
>>> [next(iter(loader)).item() for step in range(3)]
[1, 1, 1]
>>> next(loader)
Traceback (most recent call last):
...
TypeError: 'DataLoader' object is not an iterator

Notes: The train loader is a generator: call iter on it, then next.
Verdict: corrected
Truth: It is an iterable: `next(loader)` raises TypeError, and every `iter(loader)` starts a new
    epoch. So `next(iter(loader))` in a loop never gets past the first batch; with shuffle=True it
    draws new random batches, which show some examples twice and others never. Several iterators
    over one loader do not disturb one another.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from dlconcepts.testing.laws import law
from tests.networks.common import Batch, numbered, positions


def a_new_iterator_each_time(loader: DataLoader[Any]) -> list[Batch]:
    """Call next(iter(loader)) in the training loop, which starts a new epoch for every batch."""
    return [next(iter(loader)) for _ in range(len(loader))]


@law(
    right=list,
    wrong={a_new_iterator_each_time: "gets past the first batch"},
    cpu_only="a DataLoader shuffles with a generator on the CPU",
)
@given(n=st.integers(0, 6), batch_size=st.integers(1, 3), shuffle=st.booleans())
def test_one_iterator_makes_one_epoch(
    epoch: Callable[[DataLoader[Any]], list[Batch]], n: int, batch_size: int, shuffle: bool
) -> None:
    """One iterator gets past the first batch and yields every example once."""
    # A loader refuses to shuffle no examples.
    found = positions(epoch(DataLoader(numbered(n), batch_size, shuffle=shuffle and n > 0)))

    seen = list(itertools.chain.from_iterable(found))
    assert sorted(seen) == list(range(n)), "an epoch gets past the first batch"
    assert shuffle or seen == list(range(n)), "without shuffle=True an epoch keeps the order"


def shuffles(dataset: TensorDataset) -> DataLoader[Any]:
    """Load single examples with shuffle=True."""
    return DataLoader(dataset, batch_size=1, shuffle=True)


def keeps_the_order(dataset: TensorDataset) -> DataLoader[Any]:
    """Load single examples in their order."""
    return DataLoader(dataset, batch_size=1)


@law(
    right=shuffles,
    wrong={keeps_the_order: "are drawn anew"},
    cpu_only="a DataLoader shuffles with a generator on the CPU",
)
@given(n=st.integers(40, 50))
def test_a_new_iterator_of_a_shuffled_loader_draws_anew(
    load: Callable[[TensorDataset], DataLoader[Any]], n: int
) -> None:
    """With shuffle=True, n first batches are n random draws, not one epoch and not one batch."""
    loader = load(numbered(n))

    (*seen,) = itertools.chain.from_iterable(positions(next(iter(loader)) for _ in range(n)))

    # Of 40 draws all are equal once in 40**39 times, and all different once in 1e16.
    assert len(set(seen)) > 1, "the first batches of a shuffled loader are drawn anew"
    assert len(set(seen)) < n, "independent draws repeat some examples and miss others"


def generates(dataset: TensorDataset, batch_size: int) -> Iterator[Batch]:
    """Yield the batches from a generator, as the notes describe a loader."""
    yield from DataLoader(dataset, batch_size)


@law(right=DataLoader, wrong={generates: "DID NOT RAISE"})
@given(n=st.integers(1, 6), batch_size=st.integers(1, 3))
def test_a_loader_is_not_an_iterator(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int
) -> None:
    """next(loader) raises TypeError, since only iter(loader) returns an iterator."""
    loader = load(numbered(n), batch_size)

    with pytest.raises(TypeError, match="is not an iterator"):
        next(loader)


class OneIterator(DataLoader[Any]):
    """A loader that is its own iterator, so all who iterate share one position."""

    def __iter__(self) -> Any:
        self.epoch = super().__iter__()
        return self

    def __next__(self) -> Any:
        return next(self.epoch)


@law(right=DataLoader, wrong={generates: "a complete epoch", OneIterator: "a complete epoch"})
@given(n=st.integers(1, 6), batch_size=st.integers(1, 3), data=st.data())
def test_each_iterator_runs_a_separate_epoch(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int, data: st.DataObject
) -> None:
    """Iterators that take turns in any order each yield a complete epoch."""
    loader = load(numbered(n), batch_size)
    k = data.draw(st.integers(1, 3), label="iterators")
    turns = data.draw(st.lists(st.integers(0, k - 1), max_size=6), label="turns")
    iterators = [iter(loader) for _ in range(k)]
    found: list[list[Batch]] = [[] for _ in iterators]

    # After the drawn turns, n more for each iterator finish its epoch: it has at most n batches.
    for turn in turns + list(range(k)) * n:
        batch = next(iterators[turn], None)
        found[turn] += [] if batch is None else [batch]

    for epoch in found:
        assert list(itertools.chain.from_iterable(positions(epoch))) == list(range(n)), (
            "each iterator goes through a complete epoch"
        )
