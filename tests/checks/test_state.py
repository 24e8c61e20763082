"""Everything that is reachable from a project's parts is found, saved and restored."""

import argparse
import collections
import contextlib
import email.message
import functools
import random
import types

import numpy as np
import pytest
import torch
from torch import nn

from dlconcepts.checks import state
from dlconcepts.checks.state import Snapshot, reachable


class Thing:
    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __call__(self):
        """Do nothing."""

    def method(self):
        """Do nothing either."""


THING, UNNAMED = Thing(), Thing()
LIST, DICT, SET, QUEUE = [1], {1: 2}, {1}, collections.deque([1])
TUPLE, ARRAY, TENSOR, LAYER = (Thing(), 2), np.zeros(1), torch.zeros(1), nn.Identity()
TORCH_GENERATOR, NUMPY_GENERATOR = torch.Generator(), np.random.default_rng(0)


def names_globals():
    inner = [(thing, LAYER) for thing in (THING, LIST, DICT, SET, QUEUE)]
    return inner, lambda: (TUPLE, ARRAY, TENSOR), TORCH_GENERATOR, NUMPY_GENERATOR


def calls_another():
    return names_globals()


def is_found(target, *roots):
    return any(found is target for found in reachable(*roots))


# ------------------------------------------------------------------------ reachable


def closure_over(thing):
    return lambda: thing


def default(thing):

    def function(first=1, part=thing):
        return part

    return function


def keyword_default(thing):

    def function(*, part=thing):
        return part

    return function


def with_an_attribute(thing):

    def function():
        """Do nothing."""

    function.cache = thing
    return function


def method_around(thing):
    return types.MethodType(closure_over(thing), 3)


def layer_with(thing):
    layer = nn.Identity()
    layer.thing = thing
    return layer


@pytest.mark.parametrize(
    "holder",
    [
        lambda thing: thing,
        lambda thing: [1, thing, 2],
        lambda thing: (1, thing),
        lambda thing: {thing},
        lambda thing: frozenset({thing}),
        lambda thing: collections.deque([thing]),
        lambda thing: {"key": thing},
        lambda thing: {thing: "value"},
        lambda thing: {"key": [({"key": thing},)]},
        lambda thing: thing.method,
        lambda thing: functools.partial(thing),
        lambda thing: functools.partial(print, 1, thing),
        lambda thing: functools.partial(print, end=thing),
        lambda thing: Thing(part=thing),
        lambda thing: Thing(part=[Thing(part=thing)]),
        lambda thing: types.SimpleNamespace(part=thing),
        lambda thing: argparse.Namespace(part=thing),
        closure_over,
        default,
        keyword_default,
        with_an_attribute,
        method_around,
        layer_with,
    ],
)
def test_what_something_holds_is_reached(holder):
    """The search goes through containers, attributes, methods, partials, closures and defaults."""
    thing = Thing()

    assert is_found(thing, holder(thing))
    assert is_found(thing, None, 1, holder(thing), "text")


@pytest.mark.parametrize(
    "target",
    [
        *(THING, LIST, DICT, SET, QUEUE, TUPLE, TUPLE[0], ARRAY, TENSOR, LAYER),
        *(TORCH_GENERATOR, NUMPY_GENERATOR),
    ],
)
def test_what_a_function_uses_by_a_global_name_is_reached(target):
    """Names count in comprehensions and inner functions too."""
    assert is_found(target, names_globals)


def test_functions_that_a_function_calls_are_not_looked_into():
    """Following calls would lead to the whole program."""
    assert not is_found(names_globals, calls_another)
    assert not is_found(THING, calls_another)
    assert not is_found(UNNAMED, names_globals)


def test_a_variable_without_a_value_yet_is_passed_over():
    """A closure's variable may be assigned later."""
    thing = Thing()

    def uses():
        return later, thing

    assert is_found(thing, uses)
    later = 1
    assert uses() == (1, thing)


@pytest.mark.parametrize("kind", [email.message.Message, contextlib.ExitStack])
def test_objects_of_other_packages_are_left_alone(kind):
    """The state of the standard library's own objects is not the project's."""
    thing, other = Thing(), kind()
    other.part = thing

    assert is_found(other, [other])
    assert not is_found(thing, [other])


def test_objects_without_attributes_hold_nothing():
    """Built-in functions, slots, tensors and arrays lead nowhere."""
    tensor, plain = torch.zeros(1), object()
    tensor.part = thing = Thing()

    assert list(reachable(len)) == [len]
    assert list(reachable(plain)) == [plain]
    assert not is_found(thing, tensor)
    assert len(list(reachable(np.zeros(2)))) == 1


class Fresh(list):
    def __iter__(self):
        return iter([Thing() for _ in range(64)])


def test_objects_that_nobody_keeps_are_told_apart():
    """A new object at the address of a freed one is another object."""
    assert sum(isinstance(found, Thing) for found in reachable(Fresh(), Fresh())) == 128


# ------------------------------------------------------------------------ containers


@pytest.mark.parametrize(
    ("container", "touch"),
    [
        ([1, 2], lambda x: x.append(3)),
        ([1, 2], lambda x: x.pop()),
        ([1, 2], lambda x: x.reverse()),
        ([1000, 2], lambda x: x.__setitem__(0, float(1000))),
        ({"a": 1, "b": 2}, lambda x: x.update(a=3)),
        ({"a": 1, "b": 2}, lambda x: x.update(c=3)),
        ({"a": 1, "b": 2}, lambda x: x.pop("a")),
        ({"a": 1, "b": 2}, lambda x: x.update(a=x.pop("a"))),
        ({1: "a"}, lambda x: (x.clear(), x.update({1.0: "a"}))),
        ({"a": 1, "b": 1}, lambda x: (x.clear(), x.update(a=1, c=1))),
        ({1, 2}, lambda x: x.add(3)),
        ({1, 2}, lambda x: (x.remove(1), x.add(3))),
        (collections.deque([1, 2], maxlen=2), lambda x: x.append(3)),
        (collections.OrderedDict(a=1, b=2), lambda x: x.move_to_end("a")),
    ],
)
def test_a_container_has_its_items_again_in_their_order(container, touch):
    """It is the same container with the same objects."""
    said = repr(container)
    before = Snapshot({"part": container})

    touch(container)
    assert repr(container) != said, "the test changes it"
    before.restore()

    assert repr(container) == said


def test_the_very_objects_are_put_back():
    """An equal object is not the same object."""
    one, other = [1], [1]
    holder, by_name, thing = [one], {"part": one}, Thing(part=one)
    before = Snapshot(holder, by_name, thing)

    holder[0] = by_name["part"] = thing.part = other
    before.restore()

    assert holder[0] is one
    assert by_name["part"] is one
    assert thing.part is one


def test_attributes_are_as_they_were():
    """Changed, new and deleted attributes are restored, in modules too."""
    thing, layer = Thing(a=1, b=2), nn.Linear(1, 1)
    weight = layer.weight
    before = Snapshot(thing, layer)

    thing.a, thing.c = 3, 4
    del thing.b
    layer.weight, layer.extra = nn.Parameter(torch.ones(1, 1)), nn.Identity()
    layer.eval()
    before.restore()

    assert vars(thing) == {"a": 1, "b": 2}
    assert layer.weight is weight
    assert layer.training
    assert not hasattr(layer, "extra")


def test_a_variable_of_a_closure_has_its_value_again():
    """An inner function may have assigned to it."""
    count = 0

    def step():
        nonlocal count
        count += 1

    before = Snapshot(step)
    step()
    before.restore()

    assert count == 0


# ------------------------------------------------------------------------ generators


GENERATORS = [
    (torch.Generator(), lambda g: torch.rand(1, generator=g).item()),
    (random.Random(0), lambda g: g.random()),
    (np.random.default_rng(0), lambda g: g.random()),
    (np.random.RandomState(0), lambda g: g.rand()),
]


@pytest.mark.parametrize(("generator", "draw"), GENERATORS)
@pytest.mark.parametrize("only", [False, True])
def test_a_generator_draws_the_same_again(generator, draw, only):
    """Generators of torch, Python and numpy are restored, wherever they are."""
    before = Snapshot([generator], generators_only=only)

    drawn = draw(generator)
    before.restore()

    assert draw(generator) == drawn


def test_only_generators_can_be_kept():
    """Everything else stays as it is then."""
    numbers, array, tensor, thing = [1], np.zeros(1), torch.zeros(1), Thing(a=1)
    before = Snapshot(numbers, array, tensor, thing, generators_only=True)

    numbers[0], array[0], tensor[0], thing.a = 2, 2, 2, 2
    before.restore()

    assert (numbers[0], array[0], tensor[0], thing.a) == (2, 2, 2, 2)
    assert before.arrays == []


class RandomState:
    """A project's own class, which is called as one of numpy and is none."""


class Lamp:
    def get_state(self):
        return True


@pytest.mark.parametrize("kind", [RandomState, Lamp])
def test_what_looks_like_a_generator_is_none(kind):
    """Its attributes are restored like those of any object."""
    thing = kind()
    before = Snapshot(thing)

    thing.a = 1
    before.restore()

    assert vars(thing) == {}


# ------------------------------------------------------------------------ arrays


@pytest.mark.parametrize("value", [1.0, -0.0, np.nan])
def test_an_array_has_its_elements_again(value):
    """The elements are the same to the last bit."""
    array = np.zeros(2)
    before = Snapshot([array])

    array[1] = value
    before.restore()

    assert array.tobytes() == np.zeros(2).tobytes()


def test_an_array_of_objects_is_left_as_it_is():
    """Its elements cannot be compared as bits."""
    array = np.array([1, None], dtype=object)
    before = Snapshot(array)

    array[0] = 2
    before.restore()

    assert array[0] == 2


@pytest.mark.parametrize("make", [np.zeros, lambda n: torch.zeros(n, dtype=torch.float64)])
def test_what_is_too_large_is_not_copied(make, monkeypatch):
    """Anything up to the limit is copied."""
    monkeypatch.setattr(state, "LARGEST_COPY", 16)
    fitting, large = make(2), make(3)
    before = Snapshot(fitting, large)

    fitting[0], large[0] = 1, 1
    before.restore()

    assert (fitting[0], large[0]) == (0, 1)


# ------------------------------------------------------------------------ tensors


def writes(tensor):
    with torch.no_grad():
        tensor[0] = 7


def writes_unseen(tensor):
    tensor.data[0] = 7


def takes_other_memory(tensor):
    tensor.data = torch.full((2,), 7.0)


def takes_part_of_the_memory(tensor):
    tensor.data = tensor.data[:1]


@pytest.mark.parametrize(
    "touch", [writes, writes_unseen, takes_other_memory, takes_part_of_the_memory]
)
@pytest.mark.parametrize("needs", [True, False])
def test_a_tensor_has_its_elements_and_its_memory_again(touch, needs):
    """Views share its memory again."""
    tensor = torch.zeros(2, requires_grad=needs)
    view = tensor.detach()
    before = Snapshot(tensor)

    touch(tensor)
    before.restore()
    view[1] = 3

    assert tensor.tolist() == [0, 3]


def test_writes_that_are_counted_are_undone_without_a_thorough_look():
    """Only a thorough restore finds writes that PyTorch does not count."""
    counted, unseen = torch.zeros(2), torch.zeros(2)
    before = Snapshot(counted, unseen)
    writes(counted)
    writes_unseen(unseen)

    before.restore(thorough=False)
    assert (counted[0], unseen[0]) == (0, 7)

    before.restore(thorough=True)
    assert unseen[0] == 0


@pytest.mark.parametrize("needs", [True, False])
def test_a_tensor_needs_a_gradient_as_before(needs):
    """Freezing and unfreezing are undone."""
    tensor = torch.zeros(2, requires_grad=needs)
    before = Snapshot(tensor)

    tensor.requires_grad_(not needs)
    before.restore()

    assert tensor.requires_grad is needs


def drops(tensor):
    tensor.grad = None


def replaces(tensor):
    tensor.grad = torch.full((2,), 7.0)


def accumulates(tensor):
    tensor.sum().backward()


@pytest.mark.parametrize("touch", [drops, replaces, accumulates])
def test_a_gradient_is_the_one_before(touch):
    """It is the same tensor with the same elements."""
    tensor = torch.zeros(2, requires_grad=True)
    tensor.sum().backward()
    grad = tensor.grad
    before = Snapshot(tensor)

    touch(tensor)
    before.restore()

    assert tensor.grad is grad
    assert grad.tolist() == [1, 1]


def test_where_there_was_no_gradient_there_is_none():
    """A non-leaf tensor is not asked for its gradient."""
    tensor = torch.zeros(2, requires_grad=True)
    computed = tensor * 2
    before = Snapshot(tensor, computed)

    accumulates(tensor)
    writes(computed)
    before.restore()

    assert tensor.grad is None
    assert computed.tolist() == [0, 0]


def test_a_sparse_gradient_is_put_back_as_a_whole():
    """The gradient tensor itself is restored, not its elements."""
    layer = nn.Embedding(3, 2, sparse=True)
    layer(torch.tensor([1])).sum().backward()
    grad = layer.weight.grad
    before = Snapshot(layer)

    layer.weight.grad = None
    before.restore()

    assert layer.weight.grad is grad


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LazyLinear(2).weight,
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.zeros(2, device="meta"),
        lambda: torch.zeros(0, 3),
        lambda: torch.tensor([1 + 2j]).conj().imag,
    ],
)
def test_a_tensor_of_an_unusual_kind_is_no_hindrance(make):
    """Meta, empty, sparse and conjugate tensors can be saved."""
    tensor = make()
    before = Snapshot([tensor])

    before.restore()
    before.restore(thorough=False)


def test_a_tensor_of_inference_mode_is_no_hindrance():
    """It has no version counter."""
    with torch.inference_mode():
        tensor = torch.zeros(2)
    before = Snapshot(tensor)

    before.restore()
    before.restore(thorough=False)

    assert tensor.tolist() == [0, 0]


NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ([1.0], [1.0], False),
        ([1.0], [2.0], True),
        ([0.0], [-0.0], True),
        ([NAN], [NAN], False),
        ([1.0, NAN], [NAN, 1.0], True),
        ([], [], False),
    ],
)
@pytest.mark.parametrize(
    "dtype",
    [*(torch.float64, torch.float32, torch.float16, torch.bfloat16), torch.float8_e5m2],
)
def test_an_element_has_changed_if_any_bit_has(one, other, differs, dtype):
    """NaN equals itself, and 0 differs from -0."""
    tensor = torch.tensor(one).to(dtype)

    assert state.changed(tensor, torch.tensor(other).to(dtype)) is differs
    assert state.changed(tensor, tensor.clone()) is False


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (torch.tensor([1, 2]), torch.tensor([1, 2]), False),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), True),
        (torch.tensor([True]), torch.tensor([False]), True),
        (torch.tensor([complex(1, NAN)]), torch.tensor([complex(1, NAN)]), False),
        (torch.tensor([1 + 2j]), torch.tensor([1 - 2j]), True),
        (torch.tensor([1 + 2j]), torch.tensor([1 - 2j]).conj(), False),
        (torch.zeros(1, device="meta"), torch.zeros(1, device="meta"), False),
        (torch.ones(2, requires_grad=True), torch.ones(2), False),
        (torch.ones(2, 3).T, torch.ones(3, 2), False),
    ],
)
def test_numbers_of_every_kind_can_be_compared(one, other, differs):
    """Integers, booleans and complex numbers are compared; a meta tensor never changes."""
    assert state.changed(one, other) is differs


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated, and still around
def test_quantised_numbers_can_be_compared():
    """Their bytes are those of the whole numbers that stand for them."""
    one, other = (torch.quantize_per_tensor(torch.ones(2), x, 0, torch.qint8) for x in (0.1, 0.5))

    assert state.changed(one, other) is True
    assert state.changed(one, one.clone()) is False
