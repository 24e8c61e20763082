"""A loader is an iterable.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: The train loader is a generator: call iter on it, then next.
Verdict: corrected
Truth: It is an iterable: next(loader) raises TypeError, and every iter(loader) starts a new
    epoch, so next(iter(loader)) in a loop never gets past the first batch.
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
    """Call next(iter(loader)) in the training loop, which begins an epoch for every batch."""
    return [next(iter(loader)) for _ in range(len(loader))]


@law(
    right=list,
    wrong={a_new_iterator_each_time: "gets past the first batch"},
)
@given(n=st.integers(0, 6), batch_size=st.integers(1, 3))
def test_one_iterator_makes_one_epoch(
    epoch: Callable[[DataLoader[Any]], list[Batch]], n: int, batch_size: int
) -> None:
    """Iterating over one iterator gets past the first batch and sees every example."""
    found = positions(epoch(DataLoader(numbered(n), batch_size)))

    assert list(itertools.chain.from_iterable(found)) == list(range(n)), (
        "an epoch gets past the first batch"
    )


def generates(dataset: TensorDataset, batch_size: int) -> Iterator[Batch]:
    """Yield batches: what the notes take a loader for."""
    yield from DataLoader(dataset, batch_size)


class OneIterator(DataLoader[Any]):
    """A loader that is its own iterator, with one position for all who iterate."""

    def __iter__(self) -> Any:
        """Begin an epoch, for the others too."""
        self.epoch = super().__iter__()
        return self

    def __next__(self) -> Any:
        """Return the next batch of the epoch that began last."""
        return next(self.epoch)


@law(
    right=DataLoader,
    wrong={generates: "DID NOT RAISE"},
)
@given(n=st.integers(1, 6), batch_size=st.integers(1, 3))
def test_a_loader_is_no_iterator(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int
) -> None:
    """next(loader) raises TypeError: a loader is iterable, and iter(loader) the iterator."""
    loader = load(numbered(n), batch_size)

    with pytest.raises(TypeError, match="is not an iterator"):
        next(loader)


@law(
    right=DataLoader,
    wrong={generates: "a complete epoch", OneIterator: "a complete epoch"},
)
@given(n=st.integers(1, 6), batch_size=st.integers(1, 3), data=st.data())
def test_iterators_are_epochs_of_their_own(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int, data: st.DataObject
) -> None:
    """Iterators that take turns in any order each go through a complete epoch."""
    loader = load(numbered(n), batch_size)
    k = data.draw(st.integers(1, 3), label="iterators")
    turns = data.draw(st.lists(st.integers(0, k - 1), max_size=6), label="turns")
    iterators = [iter(loader) for _ in range(k)]
    found: list[list[Batch]] = [[] for _ in iterators]

    # In the end each iterator gets as many turns as an epoch can need.
    for turn in turns + list(range(k)) * n:
        batch = next(iterators[turn], None)
        found[turn] += [] if batch is None else [batch]

    for epoch in found:
        assert list(itertools.chain.from_iterable(positions(epoch))) == list(range(n)), (
            "each iterator goes through a complete epoch"
        )
