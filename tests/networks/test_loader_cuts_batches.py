"""A DataLoader cuts the data into batches; the last one may be smaller.

>>> from torch.utils.data import DataLoader
>>> for batch in DataLoader(range(1, 6), batch_size=2):
...     print(batch)
tensor([1, 2])
tensor([3, 4])
tensor([5])
>>> [batch.tolist() for batch in DataLoader(range(1, 6), batch_size=2, drop_last=True)]
[[1, 2], [3, 4]]

Notes: A DataLoader takes a batch size and gives mini-batches.
Verdict: holds
Truth: One pass yields each example once with its label, in full batches and one smaller batch with
    the rest. `drop_last` drops only that smaller one. Worker processes do not change the batches.
"""

import itertools
import multiprocessing
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from dlconcepts.loading import READ_AT_ONCE, batches, normalize
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.networks.common import Batch, numbered, positions

Data = tuple[Tensor, Tensor]


def always_drops_the_rest(
    dataset: TensorDataset, batch_size: int, drop_last: bool = False
) -> Iterable[Batch]:
    """Drop a smaller last batch even if drop_last is False."""
    return DataLoader(dataset, batch_size, drop_last=True)


def drops_the_last_batch(
    dataset: TensorDataset, batch_size: int, drop_last: bool = False
) -> Iterable[Batch]:
    """Drop the last batch if drop_last is True, even if it is full."""
    found = list(DataLoader(dataset, batch_size))
    return found[:-1] if drop_last else found


def draws_with_replacement(
    dataset: TensorDataset, batch_size: int, drop_last: bool = False
) -> Iterable[Batch]:
    """Draw each example from the whole dataset, so some repeat and others are missing."""
    order = [random.randrange(len(dataset)) for _ in range(len(dataset))]
    return DataLoader(dataset, batch_size, sampler=order, drop_last=drop_last)


def pads_the_last_batch(
    dataset: TensorDataset, batch_size: int, drop_last: bool = False
) -> Iterable[Batch]:
    """Fill the last batch by repeating the first examples."""
    missing = -len(dataset) % batch_size if not drop_last else 0
    order = [i % len(dataset) for i in range(len(dataset) + missing)]
    return DataLoader(dataset, batch_size, sampler=order, drop_last=drop_last)


@law(
    right=DataLoader,
    wrong={
        always_drops_the_rest: "each example comes exactly once",
        drops_the_last_batch: "drop_last drops a partial batch only",
        draws_with_replacement: "each example comes exactly once",
        pads_the_last_batch: "each example comes exactly once",
    },
)
@given(n=st.integers(0, 12), batch_size=st.integers(1, 5), drop_last=st.booleans())
def test_one_pass_yields_each_example_once(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int, drop_last: bool
) -> None:
    """A pass yields each example once with its label, in full batches and one with the rest."""
    found = positions(load(numbered(n), batch_size, drop_last=drop_last))

    seen = sorted(itertools.chain.from_iterable(found))
    full, rest = divmod(n, batch_size)
    if drop_last:
        assert len(seen) == full * batch_size, "drop_last drops a partial batch only"
        assert len(set(seen)) == len(seen), "no example comes twice"
    else:
        assert seen == list(range(n)), "each example comes exactly once"
    sizes = [batch_size] * full + [rest] * (rest > 0 and not drop_last)
    assert [len(batch) for batch in found] == sizes, "all batches but the last are full"


class EachWorkerYieldsAll(IterableDataset[Any]):
    def __init__(self, dataset: TensorDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return (self.dataset[i] for i in range(len(self.dataset)))


def streams(dataset: TensorDataset, batch_size: int, **options: Any) -> Iterable[Batch]:
    """Load from an IterableDataset that yields every example in each worker."""
    return DataLoader(EachWorkerYieldsAll(dataset), batch_size, **options)


@law(
    right=DataLoader,
    wrong={streams: "what one process yields"},
    share=0.1,
    because="each example starts two processes",
    cpu_only="worker processes load into the memory of the CPU",
)
# Up to nine examples: most cases then have three batches or more, whose order can go wrong.
@given(n=st.integers(1, 9), batch_size=st.integers(1, 3), drop_last=st.booleans())
# Python 3.12 warns if a process with threads forks, as torch's loader does on Linux.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_worker_processes_change_nothing(
    load: Callable[..., Iterable[Batch]], n: int, batch_size: int, drop_last: bool
) -> None:
    """Two worker processes yield the same batches in the same order as no workers."""
    # Forking is faster: a spawned worker would import torch first. Windows cannot fork.
    fork = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    workers = {"num_workers": 2, "multiprocessing_context": fork}

    found = positions(load(numbered(n), batch_size, drop_last=drop_last, **workers))

    alone = positions(DataLoader(numbered(n), batch_size, drop_last=drop_last))
    assert found == alone, "two workers yield what one process yields"


def drops_the_rest(data: Data, batch_size: int, **options: Any) -> Any:
    """Cut n // batch_size batches and drop the remaining examples."""
    full = len(data[0]) // batch_size
    return itertools.islice(batches(data, batch_size, **options), full)


def ignores_the_order(data: Data, batch_size: int, **options: Any) -> Any:
    """Cut the examples in their stored order, whatever `order` says."""
    return batches(data, batch_size)


def reorders_images_only(data: Data, batch_size: int, *, order: Tensor | None = None) -> Any:
    """Apply the order to the images but not to the labels."""
    images, labels = data
    return batches((images if order is None else images[order], labels), batch_size)


def reads_once(data: Data, batch_size: int, *, order: Tensor | None = None) -> Any:
    """Read READ_AT_ONCE values and ignore the rest of the data."""
    order = torch.arange(len(data[1])) if order is None else order
    read = order[: max(1, READ_AT_ONCE // data[0][0].numel())]
    return batches(data, batch_size, order=read)


def cuts_within_reads(data: Data, batch_size: int, *, order: Tensor | None = None) -> Any:
    """Read as many images as fit and cut each read, so there are short batches in the middle."""
    order = torch.arange(len(data[1])) if order is None else order
    reads = order.split(max(1, READ_AT_ONCE // data[0][0].numel()))
    return itertools.chain(*(batches(data, batch_size, order=read) for read in reads))


def leaves_bytes(data: Data, batch_size: int, *, order: Tensor | None = None) -> Any:
    """Convert bytes to floats without normalising them."""
    order = torch.arange(len(data[1])) if order is None else order
    return ((data[0][cut].float(), data[1][cut]) for cut in order.split(batch_size))


def goes_by_the_length_of_the_data(
    data: Data, batch_size: int, *, order: Tensor | None = None
) -> Any:
    """Count the batches by the data, though the order may skip or repeat positions."""
    count = len(data[1])
    order = torch.arange(count) if order is None else order
    cuts = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    return itertools.chain(*(batches(data, batch_size, order=cut) for cut in cuts))


@st.composite
def sizes_and_orders(draw: st.DrawFn) -> tuple[int, list[int] | None]:
    # No order, a permutation, or positions of which some are missing and some repeat.
    n = draw(st.integers(1, 8))
    any_positions = st.lists(st.integers(0, n - 1), min_size=1, max_size=8)
    return n, draw(st.none() | st.permutations(range(n)) | any_positions)


@law(
    right=batches,
    wrong={
        drops_the_rest: "the batches of a DataLoader",
        ignores_the_order: "the batches of a DataLoader",
        reorders_images_only: "the batches of a DataLoader",
        reads_once: "the batches of a DataLoader",
        cuts_within_reads: "the batches of a DataLoader",
        leaves_bytes: "bytes come normalised",
        goes_by_the_length_of_the_data: "the batches of a DataLoader",
    },
)
@given(
    size_and_order=sizes_and_orders(),
    batch_size=st.integers(1, 5),
    as_bytes=st.booleans(),
    # Two or five of the larger images fill one read, so more of them need several reads.
    values=st.sampled_from([1, READ_AT_ONCE // 2, READ_AT_ONCE // 5]),
)
def test_batches_match_a_data_loader(
    batches: Callable[..., Iterable[Data]],
    size_and_order: tuple[int, list[int] | None],
    batch_size: int,
    as_bytes: bool,
    values: int,
) -> None:
    """`batches` cuts two tensors as a DataLoader does, in any order, and normalises bytes."""
    n, order = size_and_order
    images, labels = numbered(n).tensors
    images = images.to(torch.uint8) if as_bytes else images
    images = images[:, :1].expand(-1, values)

    options = {} if order is None else {"order": torch.tensor(order)}
    found = list(batches((images, labels), batch_size, **options))

    expected = list(DataLoader(TensorDataset(images, labels), batch_size, sampler=order))
    assert [labels.tolist() for _, labels in found] == [
        labels.tolist() for _, labels in expected
    ], "the labels match the batches of a DataLoader"
    for (cut, _), (whole, _) in zip(found, expected, strict=True):
        same_images = same(cut, normalize(whole) if as_bytes else whole)
        assert same_images, (
            "the images match the batches of a DataLoader, and bytes come normalised"
        )


def checks_at_the_first_batch(data: Data, batch_size: int) -> Iterator[Any]:
    """Check in a generator function, which runs only when the first batch is taken."""
    yield from batches(data, batch_size)


def pairs_until_one_ends(data: Data, batch_size: int) -> Any:
    """Pair images and labels until either runs out, without checking their numbers."""
    return list(zip(*(part.split(abs(batch_size) or 1) for part in data), strict=False))


@law(
    right=batches,
    wrong={checks_at_the_first_batch: "DID NOT RAISE", pairs_until_one_ends: "DID NOT RAISE"},
)
@given(n=st.integers(0, 3), m=st.integers(0, 3), batch_size=st.integers(-1, 2))
def test_examples_that_cannot_be_cut_are_refused_at_once(
    batches: Callable[..., Iterable[Any]], n: int, m: int, batch_size: int
) -> None:
    """No examples, unequal numbers and a batch size below 1 raise before the first batch."""
    assume(n != m or n == 0 or batch_size < 1)
    counts = f"{n} images but {m} labels" if n != m else "no examples"
    message = counts if n != m or n == 0 else f"batch_size is {batch_size}"

    with pytest.raises(ValueError, match=message):
        batches((torch.zeros(n, 2), torch.zeros(m, dtype=torch.int64)), batch_size)
