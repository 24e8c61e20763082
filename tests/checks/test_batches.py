"""Batches of every form, as `dlconcepts.checks` takes them apart and hands them out."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from dlconcepts.checks.batches import (
    as_loader,
    call,
    describe,
    first_batch,
    is_loader,
    is_pair,
    split,
)


class Takes(nn.Module):
    """A model that returns what its forward was given."""

    def __init__(self, forward):
        """Keep the function as the forward."""
        super().__init__()
        self.forward = forward


class Opaque:
    """A function that does not say what it takes."""

    __signature__ = "lost"

    def __call__(self, *arguments):
        """Return the arguments."""
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
    """A tuple or list is positional, a dictionary named; else the structure is one argument."""
    assert call(Takes(forward), inputs) == returned


@pytest.mark.parametrize(("inputs", "returned"), [((3, 4), ((3, 4),)), ((3,), (3,)), (5, (5,))])
def test_a_forward_that_does_not_say_what_it_takes_gets_one_argument(inputs, returned):
    """Without a signature the model is called as most are."""
    assert call(Takes(Opaque()), inputs) == returned


def test_a_builtin_forward_gets_one_argument():
    """Functions written in C may have no signature at all."""
    assert call(Takes(type), (3, 4)) is tuple


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
    """The last of several are the targets, or what has the name of targets; the rest is inputs."""
    assert split(batch) == (inputs, targets)


# ------------------------------------------------------------------------ what data is

X, Y = torch.arange(12.0), torch.arange(12) % 3


class Endless(IterableDataset):
    """A data set that can only be gone over."""

    def __iter__(self):
        """Yield examples."""
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
    """A data set, a pair of all inputs and targets, and what cannot be gone over are none."""
    assert is_loader(data) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ((X, Y), True),
        ([X.numpy(), Y], True),
        ((X,), False),
        ((X, Y, Y), False),
        ((X, [0, 1]), False),
        (([0, 1], Y), False),
        (X[:2], False),
    ],
)
def test_a_pair_is_two_tensors_or_arrays(data, expected):
    """A list of two batches is no pair, nor is anything without elements."""
    assert is_pair(data) is expected


class Shaped:
    """What has a shape, but no elements of a type, such as a space of observations."""

    shape = (2,)


def test_a_shape_alone_makes_no_tensor():
    """What has a shape and no dtype is not indexed as a tensor would be."""
    assert not is_pair((Shaped(), Shaped()))


# ------------------------------------------------------------------------ the first batch


@pytest.mark.parametrize("size", [3, 8, 12])
def test_the_first_examples_of_a_data_set_make_a_batch(size):
    """There are eight at most, in the order of the data set, collated as a DataLoader would."""
    inputs, targets = first_batch(TensorDataset(X[:size], Y[:size]))

    assert torch.equal(inputs, X[: min(size, 8)])
    assert torch.equal(targets, Y[: min(size, 8)])


@pytest.mark.parametrize("size", [3, 8, 12])
def test_the_first_examples_of_a_pair_make_a_batch(size):
    """Arrays become tensors."""
    inputs, targets = first_batch((X[:size].numpy(), Y[:size]))

    assert torch.equal(inputs, X[: min(size, 8)])
    assert torch.equal(targets, Y[: min(size, 8)])


def test_the_first_batch_of_a_loader_is_taken_as_it_is():
    """Its own size counts, and nothing behind it is read."""
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
    """Whatever was drawn before, a loader that shuffles gives what one gets after seed 0."""
    loader = DataLoader(TensorDataset(X), 4, shuffle=True)
    torch.manual_seed(7)

    (given,) = first_batch(loader)

    torch.manual_seed(0)
    assert torch.equal(given, next(iter(loader))[0])


def test_a_loader_without_a_batch_is_refused():
    """The error says what is wrong, and nothing is made up."""
    with pytest.raises(ValueError, match="the loader gives no batch"):
        first_batch([])


# ------------------------------------------------------------------------ a loader of batches


def some_batches():
    """Return a batch of two examples and one of three."""
    return [(X[:2].clone(), Y[:2].clone()), ([X[2:5].clone()], Y[2:5].clone())]


def test_batches_are_handed_out_in_order_and_whole():
    """A loop over the loader sees each batch once, in its own structure."""
    (first, second), loader = some_batches(), as_loader(some_batches())

    given = list(loader)

    assert [len(targets) for _, targets in given] == [2, 3]
    assert torch.equal(given[0][0], first[0])
    assert torch.equal(given[0][1], first[1])
    assert isinstance(given[1][0], list)
    assert torch.equal(given[1][0][0], second[0][0])
    assert torch.equal(given[1][1], second[1])
    assert len(loader) == 2


def test_a_batch_of_one_example_is_handed_out():
    """The last batch of an epoch may be as small."""
    ((inputs, targets),) = as_loader([(X[:1], Y[:1])])

    assert torch.equal(inputs, X[:1])
    assert torch.equal(targets, Y[:1])


def test_the_data_set_behind_the_batches_knows_each_example():
    """len(loader.dataset) divides a sum, and an example can be looked at by its number."""
    data = as_loader(some_batches()).dataset

    assert len(data) == 5
    assert [int(data[index][1]) for index in range(5)] == Y[:5].tolist()
    assert data[1][0] == 1.0
    assert data[4][0] == [torch.tensor(4.0)]


@pytest.mark.parametrize("copies", [True, False])
def test_what_is_done_to_a_batch_reaches_its_source_only_without_copies(copies):
    """A loop that writes to its batch finds the next epoch as the first, unless it shall not."""
    batches = some_batches()
    loader = as_loader(batches, copies=copies)

    for _, targets in loader:
        targets.zero_()

    assert [bool(targets.any()) for _, targets in batches] == [copies, copies]


def test_batches_are_copied_unless_told_otherwise():
    """Nor does an example that is changed change the batch."""
    batches = some_batches()
    loader = as_loader(batches)

    next(iter(loader))[0].zero_()
    loader.dataset[1][0].zero_()

    assert torch.equal(batches[0][0], X[:2])


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (torch.zeros(2, 3), "(2, 3)"),
        (torch.zeros(()), "()"),
        ({"a": torch.zeros(2), "b": [torch.zeros(1, 4), "text", 3]}, "(2,), (1, 4)"),
        ("text", ""),
    ],
)
def test_a_structure_is_described_by_its_shapes(tree, words):
    """Only tensors have one."""
    assert describe(tree) == words
