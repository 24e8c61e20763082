"""Nested structures: each leaf with its path, compared to the last bit."""

import collections
import math
from array import array
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dlconcepts.checks import trees

NAN, INFINITY = math.nan, math.inf


class Pair(NamedTuple):
    inputs: Any
    targets: Any


@dataclass
class Output:
    logits: Any
    states: Any = None
    calls: int = field(default=7, init=False)


class Headline:
    def __init__(self, **attributes):
        vars(self).update(attributes)


# ------------------------------------------------------------------------ leaves


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        (3, [("", 3)]),
        ([], []),
        ([1, (2, [3])], [("[0]", 1), ("[1][0]", 2), ("[1][1][0]", 3)]),
        ({"a": {0: 1}, "b": (2,)}, [("['a'][0]", 1), ("['b'][0]", 2)]),
        (Pair({"x": 1}, 2), [("[0]['x']", 1), ("[1]", 2)]),
        (Output([1], 2), [(".logits[0]", 1), (".states", 2), (".calls", 7)]),
        ([Output((1,))], [("[0].logits[0]", 1), ("[0].states", None), ("[0].calls", 7)]),
        (Output, [("", Output)]),
        ("text", [("", "text")]),
    ],
)
def test_each_leaf_has_the_path_that_leads_to_it(tree, found):
    """Paths have keys, positions and field names; a class is a leaf."""
    assert list(trees.leaves(tree)) == found


# ------------------------------------------------------------------------ rebuilding


def doubled(path, leaf):
    return 2 * leaf


@pytest.mark.parametrize(
    ("tree", "changed"),
    [
        (1, 2),
        ([1, (2,)], [2, (4,)]),
        ({"a": 1, "b": {"c": [2]}}, {"a": 2, "b": {"c": [4]}}),
        (collections.OrderedDict(b=1, a=2), collections.OrderedDict(b=2, a=4)),
        (Pair(1, (2, 3)), Pair(2, (4, 6))),
        (Output(1, [2]), Output(2, [4])),
    ],
)
def test_a_structure_is_rebuilt_in_its_own_kind(tree, changed):
    """Each container keeps its type, with its leaves changed."""
    rebuilt = trees.rebuild(tree, doubled)

    assert rebuilt == changed
    assert type(rebuilt) is type(changed)


def test_a_mapping_that_cannot_be_made_of_a_dictionary_becomes_one():
    """A defaultdict takes a factory first, so it becomes a plain dictionary."""
    tree = collections.defaultdict(list, a=[1], b=[2])

    assert trees.rebuild(tree, doubled) == {"a": [2], "b": [4]}


@pytest.mark.parametrize(
    "tree",
    [5, [1, (2, [3])], {"a": {0: 1}, "b": (2,)}, Pair({"x": 1}, [2]), [Pair(1, 2)]],
)
def test_a_leaf_is_changed_under_the_path_that_leads_to_it(tree):
    """`rebuild` uses the same paths as `leaves`."""
    seen = []
    trees.rebuild(tree, lambda path, leaf: seen.append((path, leaf)))

    assert seen == list(trees.leaves(tree))


def test_a_field_that_an_object_makes_itself_is_not_passed_to_it():
    """Only the fields of the constructor are passed to it."""
    seen = {}
    tree = [Output((1,), 2)]

    rebuilt = trees.rebuild(tree, lambda path, leaf: seen.setdefault(path, leaf + 1))

    assert rebuilt == [Output((2,), 3)]
    assert seen == {"[0].logits[0]": 2, "[0].states": 3}


class Graph:
    """An object of tensors."""

    def __init__(self, x, name):
        self.store, self.name = {"x": x}, name

    def to(self, device):
        return self


def test_an_object_that_holds_tensors_is_rebuilt_around_them():
    """A graph of any class keeps its other attributes."""
    tree = [Graph(torch.ones(2), "mine")]

    rebuilt = trees.on_tensors(tree, lambda x: 2 * x)

    assert list(trees.tensors(tree)) == ["[0].store['x']"]
    assert rebuilt[0].store["x"].tolist() == [2, 2]
    assert tree[0].store["x"].tolist() == [1, 1]
    assert rebuilt[0].name == "mine"


def test_packed_sequences_keep_their_sizes_on_the_cpu():
    """PyTorch refuses packed sequences whose sizes are elsewhere."""
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])

    moved = trees.on_tensors(packed, lambda x: x.to("meta"))

    assert moved.data.is_meta
    assert moved.batch_sizes.tolist() == [2, 1, 1]


@pytest.mark.parametrize("needs", [True, False])
def test_a_copy_has_memory_of_its_own_and_no_graph(needs):
    """A write does not reach the original, and requires_grad is kept."""
    leaf = torch.ones(2, requires_grad=needs)
    tree = {"x": leaf * 2, "ids": torch.arange(2)}

    copied = trees.copied(tree)
    with torch.no_grad():
        copied["x"].zero_()
        copied["ids"].zero_()

    assert tree["x"].tolist() == [2, 2]
    assert tree["ids"].tolist() == [0, 1]
    assert copied["x"].is_leaf
    assert copied["x"].requires_grad is needs


# ------------------------------------------------------------------------ bits

ONE = torch.ones(2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ONE, torch.ones(2)),
        (ONE, torch.ones(2, requires_grad=True)),
        (torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3).T.contiguous().T),
        (torch.tensor([NAN]), torch.tensor([NAN])),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (torch.eye(2), torch.eye(2).to_sparse()),
        (torch.tensor([1 - 2j]), torch.tensor([1 + 2j]).conj()),
        (torch.tensor([1 + 2j]).imag, torch.tensor([1 - 2j]).conj().imag),
        (array("d", [1]), array("d", [1])),
        (np.ones(2), np.ones(2)),
        (np.float32(1), np.float32(1)),
        (3, 3),
        ("a", "a"),
        (None, None),
        (Headline(), Headline()),
    ],
)
def test_what_is_the_same_has_the_same_bits(one, other):
    """Layout, gradient and lazy conjugation do not matter."""
    assert trees.bits(one) == trees.bits(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ONE, torch.tensor([1.0, 1.0 + 2**-23])),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(0, 3), torch.zeros(3, 0)),
        (torch.zeros(1), torch.zeros(())),
        (torch.eye(2).to_sparse(), torch.zeros(2, 2).to_sparse()),
        (torch.tensor([1 + 2j]), torch.tensor([1 + 2j]).conj()),
        (array("d", [1]), array("d", [2])),
        (np.zeros(2), np.array([0.0, -0.0])),
        (np.zeros(2, np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(1), np.zeros(2)),
        (3, 4),
        ("a", "b"),
        (Headline(), object()),
    ],
)
def test_what_differs_anywhere_has_other_bits(one, other):
    """One bit, the dtype or the shape makes a difference, in tensors and arrays."""
    assert trees.bits(one) != trees.bits(other)


def test_bits_are_what_the_tensor_held_then():
    """Later writes do not change the bits, and taking them does not change the tensor."""
    x, numbers = torch.ones(2), np.ones(2)
    before = trees.bits(x), trees.bits(numbers)
    x[0], numbers[0] = 3, 3

    assert before == (trees.bits(torch.ones(2)), trees.bits(np.ones(2)))


# ------------------------------------------------------------------------ distances


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 10.0], [0.0, 10.0], 0.1),
        ([1.0, -10.0], [-1.0, -10.0], 0.2),
        ([0.0, 0.0], [0.0, 4.0], 1.0),
        ([4.0, 0.0], [0.0, 0.0], 1.0),
        ([0.25], [0.5], 0.5),
        ([NAN, INFINITY, 5.0], [NAN, INFINITY, 5.0], 0.0),
        ([NAN, INFINITY, 5.0], [NAN, INFINITY, 4.0], 0.2),
        ([NAN, 5.0], [1.0, 5.0], INFINITY),
        ([1.0, 5.0], [NAN, 5.0], INFINITY),
        ([INFINITY, 5.0], [1.0, 5.0], INFINITY),
        ([INFINITY], [-INFINITY], INFINITY),
        ([1.0, 2.0], [1.0], INFINITY),
        ([], [], 0.0),
    ],
)
def test_a_distance_is_a_share_of_the_largest_magnitude(one, other, apart):
    """It is 0 for equal values, and infinite if the shapes or the finite values differ."""
    assert trees.distance(torch.tensor(one), torch.tensor(other)) == pytest.approx(apart)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (torch.tensor([3 + 4j]), torch.tensor([3 + 4j]), 0),
        (torch.tensor([3 + 4j]), torch.tensor([3 - 1j]), 1),
        (torch.tensor([4.0]), torch.tensor([4 + 3j]), 0.6),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1),
        (torch.tensor([2**40, 2**40 + 1]), torch.tensor([2**40, 2**40]), 2**-40),
        (torch.ones(1, requires_grad=True), torch.zeros(1), 1),
    ],
)
def test_a_distance_is_measured_in_double_precision(one, other, apart):
    """Complex numbers, booleans and integers work too."""
    assert trees.distance(one, other) == pytest.approx(apart, rel=1e-6, abs=0)


@pytest.mark.parametrize(
    ("dtype", "share"),
    [
        (torch.float64, 2**-47),
        (torch.float32, 2**-18),
        (torch.float16, 2**-5),
        (torch.bfloat16, 2**-2),
        (torch.int64, 0),
        (torch.bool, 0),
    ],
)
def test_rounding_may_carry_the_last_five_bits(dtype, share):
    """Only floating-point numbers round."""
    assert trees.rounding(torch.zeros(1, dtype=dtype)) == share


# ------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (0.5, {"": 0.5}),
        (3, {"": 3}),
        (True, {}),
        ("0.5", {}),
        (None, {}),
        ((1, {"loss": 0.5, "name": "x"}), {"[0]": 1, "[1]['loss']": 0.5}),
        ((torch.tensor(2.0), torch.tensor([[3]])), {"[0]": 2, "[1]": 3}),
        (torch.ones(2), {}),
        ((np.float32(0.5), np.array([4])), {"[0]": 0.5, "[1]": 4}),
        (np.ones(2), {}),
        (Output(0.5, 1), {".logits": 0.5, ".states": 1, ".calls": 7}),
        (
            [Headline(loss=0.5, count=3, best=True, name="x"), 2],
            {"[0].loss": 0.5, "[0].count": 3, "[1]": 2},
        ),
        (torch.nn.Dropout(0.5), {}),
        (SimpleNamespace(item=lambda: 3, loss=0.5), {".loss": 0.5}),
    ],
)
def test_numbers_are_found_in_whatever_a_function_returns(result, found):
    """Booleans, larger tensors and attributes of functions do not count."""
    numbers = trees.numbers(result)

    assert numbers == found
    assert all(type(number) is float for number in numbers.values())
