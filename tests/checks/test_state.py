"""What can be reached from a project's parts is found, and put back as it was."""

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
    """An object of a project, with a state, a method, and a way to be called."""

    def __init__(self, **attributes):
        """Keep whatever is given."""
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
    """Use global names: its own, those of a comprehension and of an inner function."""
    inner = [(thing, LAYER) for thing in (THING, LIST, DICT, SET, QUEUE)]
    return inner, lambda: (TUPLE, ARRAY, TENSOR), TORCH_GENERATOR, NUMPY_GENERATOR


def calls_another():
    """Use a function by a global name."""
    return names_globals()


def is_found(target, *roots):
    """Return whether an object is reached from others."""
    return any(found is target for found in reachable(*roots))


# ------------------------------------------------------------------------ reachable


def closure_over(thing):
    """Return a function that uses what is around it."""
    return lambda: thing


def default(thing):
    """Return a function that has a default."""

    def function(first=1, part=thing):
        return part

    return function


def keyword_default(thing):
    """Return a function that has a default by keyword alone."""

    def function(*, part=thing):
        return part

    return function


def with_an_attribute(thing):
    """Return a function that keeps a cache."""

    def function():
        """Do nothing."""

    function.cache = thing
    return function


def method_around(thing):
    """Return a method of a number, whose function uses what is around it."""
    return types.MethodType(closure_over(thing), 3)


def layer_with(thing):
    """Return a module that keeps an object."""
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
    """Through containers, attributes, methods, partial functions, closures and defaults."""
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
    """Whatever kind it is, also in comprehensions and functions inside of it."""
    assert is_found(target, names_globals)


def test_functions_that_a_function_calls_are_not_looked_into():
    """One would end up in the whole program; nor is there what it does not name."""
    assert not is_found(names_globals, calls_another)
    assert not is_found(THING, calls_another)
    assert not is_found(UNNAMED, names_globals)


def test_a_variable_without_a_value_yet_is_passed_over():
    """A function may be looked at before what it uses is there."""
    thing = Thing()

    def uses():
        return later, thing

    assert is_found(thing, uses)
    later = 1
    assert uses() == (1, thing)


@pytest.mark.parametrize("kind", [email.message.Message, contextlib.ExitStack])
def test_objects_of_other_packages_are_left_alone(kind):
    """What the standard library's own objects keep is not the project's, submodules included."""
    thing, other = Thing(), kind()
    other.part = thing

    assert is_found(other, [other])
    assert not is_found(thing, [other])


def test_objects_without_attributes_hold_nothing():
    """Built-in functions, slots, tensors and arrays are reached and lead nowhere."""
    tensor, plain = torch.zeros(1), object()
    tensor.part = thing = Thing()

    assert list(reachable(len)) == [len]
    assert list(reachable(plain)) == [plain]
    assert not is_found(thing, tensor)
    assert len(list(reachable(np.zeros(2)))) == 1


def test_each_object_is_reached_once():
    """Whoever holds it, and in a circle too; numbers, texts, classes and modules are not."""
    thing = Thing()
    thing.itself, thing.others = thing, [thing, 1, "a", None, Thing, torch, 1.5]

    found = list(reachable(thing, thing, [thing]))

    assert sum(one is thing for one in found) == 1
    assert [one for one in found if not isinstance(one, (Thing, list))] == []


class Fresh(list):
    """A list that makes what it holds whenever it is looked at."""

    def __iter__(self):
        """Yield new objects."""
        return iter([Thing() for _ in range(64)])


def test_objects_that_nobody_keeps_are_told_apart():
    """An object that takes the place of a freed one in memory is another."""
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
    """It is the same container, filled with the same objects."""
    said = repr(container)
    before = Snapshot({"part": container})

    touch(container)
    assert repr(container) != said, "the test changes it"
    before.restore()

    assert repr(container) == said


def test_the_very_objects_are_put_back():
    """An equal object in the place of another is not the same."""
    one, other = [1], [1]
    holder, by_name, thing = [one], {"part": one}, Thing(part=one)
    before = Snapshot(holder, by_name, thing)

    holder[0] = by_name["part"] = thing.part = other
    before.restore()

    assert holder[0] is one
    assert by_name["part"] is one
    assert thing.part is one


def test_attributes_are_as_they_were():
    """Those that changed, those that are new and those that are gone, of modules too."""
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


class Guarded:
    """A container that must not be emptied while somebody reads it."""

    def copy(self):
        """Return another with the same items."""
        return type(self)(self)

    def clear(self):
        """Refuse."""
        raise AssertionError("it was written to")


class GuardedList(Guarded, list):
    """A list of that kind."""


class GuardedSet(Guarded, set):
    """A set of that kind."""


def test_what_did_not_change_is_not_written_to():
    """A container that is being read, a read-only array, and a tensor in a graph are left alone."""
    numbers = {1: 2}
    array = np.ones(2)
    array.flags.writeable = False
    weight = torch.ones(2, requires_grad=True)
    loss = (weight * weight).sum()
    before = Snapshot(GuardedList([1]), GuardedSet([1]), numbers, array, weight)

    for _ in numbers:
        before.restore()
    loss.backward()

    assert weight.grad.tolist() == [2, 2]


def test_a_variable_of_a_closure_has_its_value_again():
    """Also one that a function inside assigns to."""
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
    """Of torch, Python and numpy, wherever it is kept."""
    before = Snapshot([generator], generators_only=only)

    drawn = draw(generator)
    before.restore()

    assert draw(generator) == drawn


def test_only_generators_can_be_kept():
    """Then all else is left as it is."""
    numbers, array, tensor, thing = [1], np.zeros(1), torch.zeros(1), Thing(a=1)
    before = Snapshot(numbers, array, tensor, thing, generators_only=True)

    numbers[0], array[0], tensor[0], thing.a = 2, 2, 2, 2
    before.restore()

    assert (numbers[0], array[0], tensor[0], thing.a) == (2, 2, 2, 2)
    assert before.arrays == []


class RandomState:
    """A project's own class, which is called as one of numpy and is none."""


class Lamp:
    """An object with a get_state that has nothing to do with random numbers."""

    def get_state(self):
        """Return whether it shines."""
        return True


@pytest.mark.parametrize("kind", [RandomState, Lamp])
def test_what_looks_like_a_generator_is_none(kind):
    """Its attributes are put back as those of any other object."""
    thing = kind()
    before = Snapshot(thing)

    thing.a = 1
    before.restore()

    assert vars(thing) == {}


# ------------------------------------------------------------------------ arrays


@pytest.mark.parametrize("value", [1.0, -0.0, np.nan])
def test_an_array_has_its_elements_again(value):
    """To the last bit."""
    array = np.zeros(2)
    before = Snapshot([array])

    array[1] = value
    before.restore()

    assert array.tobytes() == np.zeros(2).tobytes()


def test_arrays_and_tensors_are_kept_with_what_they_held():
    """So that one can ask what was written to."""
    array, tensor, number = np.zeros(2), torch.zeros(2), np.float32(1)
    before = Snapshot(array, tensor, number)

    array[0], tensor[0] = 1, 1

    held = {id(now): then for now, then in before.arrays}
    assert held[id(array)].tolist() == [0, 0]
    assert held[id(tensor)].tolist() == [0, 0]
    assert len(held) == 2


def test_an_array_of_objects_is_left_as_it_is():
    """Its elements are not numbers that could be compared."""
    array = np.array([1, None], dtype=object)
    before = Snapshot(array)

    array[0] = 2
    before.restore()

    assert array[0] == 2


@pytest.mark.parametrize("make", [np.zeros, lambda n: torch.zeros(n, dtype=torch.float64)])
def test_what_is_too_large_is_not_copied(make, monkeypatch):
    """Up to the limit it is."""
    monkeypatch.setattr(state, "LARGEST_COPY", 16)
    fitting, large = make(2), make(3)
    before = Snapshot(fitting, large)

    fitting[0], large[0] = 1, 1
    before.restore()

    assert (fitting[0], large[0]) == (0, 1)


# ------------------------------------------------------------------------ tensors


def writes(tensor):
    """Write to the elements."""
    with torch.no_grad():
        tensor[0] = 7


def writes_unseen(tensor):
    """Write to the elements so that PyTorch does not count it."""
    tensor.data[0] = 7


def takes_other_memory(tensor):
    """Put other memory in."""
    tensor.data = torch.full((2,), 7.0)


def takes_part_of_the_memory(tensor):
    """Keep the first element alone."""
    tensor.data = tensor.data[:1]


@pytest.mark.parametrize(
    "touch", [writes, writes_unseen, takes_other_memory, takes_part_of_the_memory]
)
@pytest.mark.parametrize("needs", [True, False])
def test_a_tensor_has_its_elements_and_its_memory_again(touch, needs):
    """What shares its memory does so again."""
    tensor = torch.zeros(2, requires_grad=needs)
    view = tensor.detach()
    before = Snapshot(tensor)

    touch(tensor)
    before.restore()
    view[1] = 3

    assert tensor.tolist() == [0, 3]


def test_writes_that_are_counted_are_undone_without_a_thorough_look():
    """Those that PyTorch does not count need one."""
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
    """Freezing and unfreezing is undone."""
    tensor = torch.zeros(2, requires_grad=needs)
    before = Snapshot(tensor)

    tensor.requires_grad_(not needs)
    before.restore()

    assert tensor.requires_grad is needs


def drops(tensor):
    """Forget the gradient."""
    tensor.grad = None


def replaces(tensor):
    """Put in another gradient."""
    tensor.grad = torch.full((2,), 7.0)


def accumulates(tensor):
    """Add to the gradient."""
    tensor.sum().backward()


@pytest.mark.parametrize("touch", [drops, replaces, accumulates])
def test_a_gradient_is_the_one_before(touch):
    """The same tensor with the same elements."""
    tensor = torch.zeros(2, requires_grad=True)
    tensor.sum().backward()
    grad = tensor.grad
    before = Snapshot(tensor)

    touch(tensor)
    before.restore()

    assert tensor.grad is grad
    assert grad.tolist() == [1, 1]


def test_where_there_was_no_gradient_there_is_none():
    """Nor of a tensor that is computed from others, which is not asked for one."""
    tensor = torch.zeros(2, requires_grad=True)
    computed = tensor * 2
    before = Snapshot(tensor, computed)

    accumulates(tensor)
    writes(computed)
    before.restore()

    assert tensor.grad is None
    assert computed.tolist() == [0, 0]


def test_a_sparse_gradient_is_put_back_as_a_whole():
    """An embedding has one; its elements are not looked at."""
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
    """Without memory, without elements, or with signs that are applied later."""
    tensor = make()
    before = Snapshot([tensor])

    before.restore()
    before.restore(thorough=False)


def test_a_tensor_of_inference_mode_is_no_hindrance():
    """PyTorch does not count what is written to it, so that it is taken as it is."""
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
    """A NaN is the same as itself, and 0 is not -0."""
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
    """Whole numbers, truth values and complex numbers; of a tensor without memory none changes."""
    assert state.changed(one, other) is differs
