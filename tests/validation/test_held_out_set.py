"""A split puts every example in one part: the training set or the held-out set.

>>> from dlconcepts.validation import hold_out
>>> data = torch.rand(10, 28, 28), torch.arange(10)
>>> (_, train), (_, held_out) = hold_out(data, 0.3)
>>> len(train), len(held_out)
(7, 3)
>>> sorted(train.tolist() + held_out.tolist())
[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

Notes: Hold out a validation or test set; torchvision's data sets bring one.
Verdict: holds
Truth: The two parts share no example, lose none, and have the requested sizes. A seed repeats the
    split. Over many seeds each example is held out as often as any other.
"""

import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from dlconcepts.validation import Data, hold_out
from tests.validation.common import FALSE_ALARM, binomial_interval


def shuffled(n: int, seed: int) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randperm(n, generator=generator, device="cpu").to(torch.get_default_device())


def draws_twice(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Draw each part from its own permutation, so the parts overlap."""
    (images, labels), n = data, len(data[1])
    held = round(size * n) if isinstance(size, float) else size
    parts = shuffled(n, 2 * seed)[: n - held], shuffled(n, 2 * seed + 1)[:held]
    examples, held_out = ((images[part], labels[part]) for part in parts)
    return examples, held_out


def loses_the_remainder(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Round the sizes of both parts down, so an example may be in neither."""
    (images, labels), n = data, len(data[1])
    share = size if isinstance(size, float) else size / n
    order = shuffled(n, seed)
    examples, held_out = order[: int((1 - share) * n)], order[n - int(share * n) :]
    return (images[examples], labels[examples]), (images[held_out], labels[held_out])


def shuffles_the_images_alone(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Shuffle the images and keep the labels in order."""
    (_, labels), ((first, _), (second, _)) = data, hold_out(data, size, seed=seed)
    return (first, labels[: len(first)]), (second, labels[len(first) :])


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, int | float]:
    # A number of examples and a size that leaves some in both parts.
    n = draw(st.integers(2, 40))
    held = draw(st.integers(1, n - 1))
    # Up to 0.4 of an example away, so that rounding gives `held` again.
    share = (held + draw(st.floats(-0.4, 0.4))) / n
    return n, share if draw(st.booleans()) else held


@law(
    right=hold_out,
    wrong={
        draws_twice: "in one of the parts",
        loses_the_remainder: "in one of the parts",
        shuffles_the_images_alone: "keeps its label",
    },
)
@given(split=splits(), seed=st.integers(0, 2**16))
def test_each_example_is_in_one_part_with_its_label(
    hold_out: Callable[..., tuple[Data, Data]], split: tuple[int, int | float], seed: int
) -> None:
    """The parts are disjoint, complete and of the requested sizes; images keep their labels."""
    n, size = split
    positions = torch.arange(n)
    data = positions[:, None].float(), positions
    held = round(size * n) if isinstance(size, float) else size

    (images, labels), (held_images, held_labels) = hold_out(data, size, seed=seed)

    drawn = torch.cat([images, held_images])[:, 0]
    assert sorted(drawn.tolist()) == list(range(n)), "each example is once in one of the parts"
    assert len(held_images) == held, "the requested number is held out"
    assert drawn.tolist() == torch.cat([labels, held_labels]).tolist(), "an image keeps its label"


def ignores_the_seed(data: Data, size: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Return the same split for every seed."""
    return hold_out(data, size)


def shuffles_with_the_global_generator(
    data: Data, size: int, *, seed: int = 0
) -> tuple[Data, Data]:
    """Seed PyTorch's global generator and draw from it."""
    torch.manual_seed(seed)
    return hold_out(data, size, seed=int(torch.randint(2**62, (), device="cpu")))


def forgets_the_seed(data: Data, size: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Draw the split from the current state of the global generator."""
    with torch.random.fork_rng(devices=[]):
        split_seed = int(torch.randint(2**62, (), device="cpu"))
    torch.randint(2, (), device="cpu")
    return hold_out(data, size, seed=split_seed)


@law(
    right=hold_out,
    wrong={
        ignores_the_seed: "another seed gives another",
        shuffles_with_the_global_generator: "random state is unchanged",
        forgets_the_seed: "the same seed gives the same",
    },
)
@given(seed=st.integers(0, 2**32), other=st.integers(0, 2**33))
def test_a_split_is_repeatable(
    hold_out: Callable[..., tuple[Data, Data]], seed: int, other: int
) -> None:
    """The same seed gives the same split, another seed gives another split."""
    # There are 1.8e18 ways to hold out 32 of 64 examples, so two seeds do not agree by chance.
    data = torch.zeros(64, 1), torch.arange(64)
    before = torch.get_rng_state()

    split, again, different = (
        hold_out(data, 32, seed=s)[0][1].sort().values for s in (seed, seed, other)
    )

    assert same(split, again), "the same seed gives the same split"
    # The CPU's generator uses only the lowest 32 bits of a seed.
    one_seed = (seed - other) % 2**32 == 0
    assert same(split, different) == one_seed, "another seed gives another split"
    assert same(torch.get_rng_state(), before), "the global random state is unchanged"


def holds_out_the_last(data: Data, size: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Hold out the last examples, without shuffling."""
    images, labels = data
    return (images[:-size], labels[:-size]), (images[-size:], labels[-size:])


def never_holds_out_the_last(data: Data, size: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Shuffle all examples except the last, which always stays in the training set."""
    images, labels = data
    order = torch.cat([shuffled(len(labels) - 1, seed), torch.tensor([len(labels) - 1])])
    train, held = order[size:], order[:size]
    return (images[train], labels[train]), (images[held], labels[held])


@law(
    right=hold_out,
    wrong={
        holds_out_the_last: "as often as any other",
        never_holds_out_the_last: "as often as any other",
    },
    share=0.05,
    because="each example splits 1,000 times",
)
@given(first=st.integers(0, 2**16), n=st.integers(2, 6))
def test_each_example_is_held_out_as_often_as_any_other(
    hold_out: Callable[..., tuple[Data, Data]], first: int, n: int
) -> None:
    """If one of n examples is held out, each of them is chosen by 1 / n of the seeds."""
    data = torch.zeros(n, 1), torch.arange(n)

    held = [int(hold_out(data, 1, seed=first + k)[1][1]) for k in range(1000)]

    # The n intervals share the false alarm.
    low, high = binomial_interval(1000, 1 / n, FALSE_ALARM / n)
    for example in range(n):
        times = held.count(example)
        assert low <= times <= high, f"held out as often as any other, not {times} times"


def slices_without_checking(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Cut with slices, which accept any number."""
    (images, labels), n = data, len(data[1])
    held = int(size * n) if isinstance(size, float) and math.isfinite(size) else 0
    held = size if isinstance(size, int) else held
    return (images[held:], labels[held:]), (images[:held], labels[:held])


def cuts_the_longer(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Cut images and labels to the length of the shorter."""
    n = min(map(len, data))
    return hold_out((data[0][:n], data[1][:n]), size, seed=seed)


# Up to a million: near infinity Python's own error says what is wrong.
UNFIT_FRACTIONS = st.sampled_from([0.0, 1.0, math.nan]) | st.floats(-1e6, 0.0) | st.floats(1.0, 1e6)


@law(
    right=hold_out,
    wrong={slices_without_checking: "DID NOT RAISE", cuts_the_longer: "DID NOT RAISE"},
)
@given(n=st.integers(0, 5), more=st.sampled_from([0, 0, 1, 2]), data=st.data())
def test_a_size_that_leaves_a_part_empty_is_refused(
    hold_out: Callable[..., tuple[Data, Data]], n: int, more: int, data: st.DataObject
) -> None:
    """To hold out none, all or more than there are is an error, and so is a missing label."""
    # The last size is a valid fraction, but rounds to no example.
    whole = st.integers(-3, 0) | st.integers(n, n + 3)
    unfit = whole | UNFIT_FRACTIONS | st.just(0.1 / max(n, 1))
    size = data.draw(st.just(1) if more else unfit, label="size")

    if more:
        n = max(n, 2)
        message = f"there are {n + more} images but {n} labels: give one per image"
    elif n < 2:
        message = f"a split needs at least 2 examples, but there are {n}"
    elif isinstance(size, float) and not 0 < size < 1:
        message = f"a fraction to hold out is between 0 and 1, but size={size}"
    else:
        held = round(size * n) if isinstance(size, float) else size
        message = f"size={size} would hold out {held} of {n} examples: hold out 1 to {n - 1}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hold_out((torch.zeros(n + more, 1), torch.arange(n)), size)
