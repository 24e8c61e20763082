"""Batches in every form: split, passed to a model, and served by a DataLoader."""

import dataclasses
from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from dlconcepts.checks.batches import (
    as_loader,
    call,
    first_batch,
    is_loader,
    split,
)


class Takes(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.forward = forward


class Opaque:
    __signature__ = "lost"

    def __call__(self, *arguments):
        return arguments


# ------------------------------------------------------------------------ calling a model


@pytest.mark.parametrize(
    ("forward", "inputs", "returned"),
    [
        (lambda x: x, 3, 3),
        (lambda x: x, (3, 4), (3, 4)),
        (lambda x: x, [3, 4], [3, 4]),
        (lambda x, y: (y, x), (3, 4), (4, 3)),
        (lambda x, y: (y, x), [3, 4], (4, 3)),
        (lambda x, y=0: (y, x), (3,), (0, 3)),
        (lambda a, b: (a, b), {"b": 3, "a": 4}, (4, 3)),
        (lambda batch: batch, {"b": 3, "a": 4}, {"b": 3, "a": 4}),
        (lambda batch: batch, {"a": 4}, {"a": 4}),
        (lambda a, b: (a, b), (3, {"b": 4}), (3, {"b": 4})),
    ],
)
def test_a_structure_becomes_arguments_where_forward_takes_them(forward, inputs, returned):
    """A tuple or list becomes positional, a dictionary named arguments if forward takes them."""
    assert call(Takes(forward), inputs) == returned


@pytest.mark.parametrize(("inputs", "returned"), [((3, 4), ((3, 4),)), ((3,), (3,)), (5, (5,))])
def test_a_forward_that_does_not_say_what_it_takes_gets_one_argument(inputs, returned):
    """Without a signature, forward gets a single argument."""
    assert call(Takes(Opaque()), inputs) == returned


# ------------------------------------------------------------------------ inputs and targets


@pytest.mark.parametrize(
    ("batch", "inputs", "targets"),
    [
        (3, 3, None),
        ((3,), 3, None),
        ([3], 3, None),
        ((3, 4), 3, 4),
        ([3, 4], 3, 4),
        ((3, 4, 5), (3, 4), 5),
        ([3, 4, 5, 6], (3, 4, 5), 6),
        ({"x": 3, "z": 4}, {"x": 3, "z": 4}, None),
        ({"x": 3, "targets": 4}, {"x": 3}, 4),
        ({"target": 4, "x": 3}, {"x": 3}, 4),
        ({"x": 3, "labels": 4}, {"x": 3}, 4),
        ({"x": 3, "label": 4}, {"x": 3}, 4),
        ({"x": 3, "y": 4}, {"x": 3}, 4),
        ({"y": 5, "label": 4, "x": 3}, {"x": 3}, 4),
    ],
)
def test_a_batch_is_taken_apart(batch, inputs, targets):
    """The last item, or the one with a name for targets, is the targets; the rest is inputs."""
    assert split(batch) == (inputs, targets)


Named = namedtuple("Named", "text label")
Three = namedtuple("Three", "one two three")


@dataclasses.dataclass
class Sample:
    """A batch as a data class."""

    image: object
    target: object


class Graph:
    """A graph, as an object that can be moved."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, device):
        return self


GRAPH = Graph(torch.ones(3), torch.zeros(3))


@pytest.mark.parametrize(
    ("batch", "where", "inputs", "targets"),
    [
        ((3, 4, 5), 0, (4, 5), 3),
        ([3, 4], 0, 4, 3),
        ((3, 4, 5), -2, (3, 5), 4),
        ({"x": 3, "label": 4, "caption": 5}, "caption", {"x": 3, "label": 4}, 5),
        ((3, 4), lambda batch: batch[0], 3, 3),
        (Named(3, 4), None, Named(3, 4), 4),
        (Three(3, 4, 5), None, (3, 4), 5),
        (Three(3, 4, 5), "two", Three(3, 4, 5), 4),
        (Sample(3, 4), None, Sample(3, 4), 4),
        (GRAPH, None, GRAPH, GRAPH.y),
        (UserDict(x=3, labels=4), None, {"x": 3}, 4),
        ({"image": 3, "mask": 4}, None, {"image": 3}, 4),
        ({"words": 3, "mask": 4}, None, {"words": 3, "mask": 4}, None),
    ],
)
def test_a_batch_with_names_or_told_targets_is_taken_apart(batch, where, inputs, targets):
    """`targets` may be a position, a key or a function; an object is an input as a whole."""
    assert split(batch, where) == (inputs, targets)


@pytest.mark.parametrize(
    ("forward", "inputs", "returned"),
    [
        (lambda image: -image, {"x": 3}, -3),
        (lambda image: -image, Sample(3, 4), -3),
        (lambda image, size: (size, image), {"x": 3, "y2": 4}, (4, 3)),
        (lambda text: text, Named(3, 4), 3),
        (lambda batch: batch.label, Named(3, 4), 4),
        (lambda words, mask=0: (mask, words), {"words": 3, "id": "a"}, (0, 3)),
        (lambda image: -image, (3, 4), -3),
    ],
)
def test_a_model_gets_what_it_takes_of_a_structure(forward, inputs, returned):
    """Columns that it does not take stay behind, and one input may have any name."""
    assert call(Takes(forward), inputs) == returned


def test_a_list_of_examples_is_one_argument():
    """A detector takes a list of images, also if the batch has as many as forward arguments."""
    takes = Takes(lambda images, targets=None: (images, targets))

    assert call(takes, [3, 4], whole=True) == ([3, 4], None)


def test_an_error_of_forward_is_the_one_of_the_first_call():
    """What another call raises would hide it."""

    def fails(x):
        raise TypeError(f"no {type(x).__name__}")

    with pytest.raises(TypeError, match="no dict"):
        call(Takes(fails), {"image": 3})


# ------------------------------------------------------------------------ what data is

X, Y = torch.arange(12.0), torch.arange(12) % 3


class Endless(IterableDataset):
    def __iter__(self):
        return iter(range(9))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, False),
        (TensorDataset(X, Y), False),
        (Endless(), False),
        ((X, Y), False),
        ([X.numpy(), Y.numpy()], False),
        (7, False),
        (DataLoader(TensorDataset(X, Y), 4), True),
        ([(X, Y), (X, Y)], True),
        (iter([(X, Y)]), True),
    ],
)
def test_a_loader_gives_batches(data, expected):
    """A data set, a pair of all inputs and targets, and a number are not loaders."""
    assert is_loader(data) is expected


# ------------------------------------------------------------------------ the first batch


@pytest.mark.parametrize("size", [3, 8, 12])
def test_the_first_examples_of_a_data_set_make_a_batch(size):
    """The first eight examples at most are collated as a DataLoader does."""
    inputs, targets = first_batch(TensorDataset(X[:size], Y[:size]))

    assert torch.equal(inputs, X[: min(size, 8)])
    assert torch.equal(targets, Y[: min(size, 8)])


@pytest.mark.parametrize("size", [3, 8, 12])
def test_the_first_examples_of_a_pair_make_a_batch(size):
    """The first eight examples at most are a batch, and arrays become tensors."""
    inputs, targets = first_batch((X[:size].numpy(), Y[:size]))

    assert torch.equal(inputs, X[: min(size, 8)])
    assert torch.equal(targets, Y[: min(size, 8)])


def test_the_first_batch_of_a_loader_is_taken_as_it_is():
    """The loader decides the size of the batch, and only one batch is read."""
    read = []

    def batches():
        for start in range(3):
            read.append(start)
            yield X[start:], Y[start:]

    inputs, targets = first_batch(batches())

    assert torch.equal(inputs, X)
    assert torch.equal(targets, Y)
    assert read == [0]


def test_the_first_batch_is_that_of_seed_zero():
    """A loader that shuffles gives the batch of seed 0, whatever was drawn before."""
    loader = DataLoader(TensorDataset(X), 4, shuffle=True)
    torch.manual_seed(7)

    (given,) = first_batch(loader)

    torch.manual_seed(0)
    assert torch.equal(given, next(iter(loader))[0])


def test_a_loader_without_a_batch_is_refused():
    """The error says what is wrong and what to do."""
    with pytest.raises(ValueError, match="the loader has no batches"):
        first_batch([])


# ------------------------------------------------------------------------ a loader of batches


def some_batches():
    return [(X[:2].clone(), Y[:2].clone()), ([X[2:5].clone()], Y[2:5].clone())]


def test_batches_are_handed_out_in_order_and_whole():
    """A loop over the loader sees each batch once, in its own structure."""
    (first, second), loader = some_batches(), as_loader(some_batches(), [2, 3])

    given = list(loader)

    assert [len(targets) for _, targets in given] == [2, 3]
    assert torch.equal(given[0][0], first[0])
    assert torch.equal(given[0][1], first[1])
    assert isinstance(given[1][0], list)
    assert torch.equal(given[1][0][0], second[0][0])
    assert torch.equal(given[1][1], second[1])
    assert len(loader) == 2


def test_the_data_set_behind_the_batches_knows_each_example():
    """len(loader.dataset) counts the examples, and each can be read by index."""
    data = as_loader(some_batches(), [2, 3]).dataset

    assert len(data) == 5
    assert [int(data[index][1]) for index in range(5)] == Y[:5].tolist()
    assert data[1][0] == 1.0
    assert data[4][0] == [torch.tensor(4.0)]


@pytest.mark.parametrize("copies", [True, False])
def test_what_is_done_to_a_batch_reaches_its_source_only_without_copies(copies):
    """A loop that writes to its batch finds the original in the next epoch, if asked for copies."""
    batches = some_batches()
    loader = as_loader(batches, [2, 3], copies=copies)

    for _, targets in loader:
        targets.zero_()

    assert [bool(targets.any()) for _, targets in batches] == [copies, copies]
