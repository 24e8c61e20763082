"""A project's parts are called the way each project has them, on copies that are as given."""

import copy
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dlconcepts.checks.project import Project, watched

X, Y = torch.arange(8.0).reshape(4, 2), torch.tensor([0, 1, 2, 3])
PAIRS = TensorDataset(X, Y)


def sgd(params):
    """Return an optimizer of parameters."""
    return torch.optim.SGD(params, lr=0.5, momentum=0.9)


def project(**parts):
    """Return a project with a small model and a batch, and what else is given."""
    return Project(**{"model": nn.Linear(2, 4), "batch": (X, Y), **parts})


# ------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "part", ["loss_fn", "train_step", "fit", "predict", "accuracy", "evaluate"]
)
def test_a_part_that_is_called_must_be_a_function(part):
    """The error says which part it is, and what it was instead."""
    with pytest.raises(TypeError, match=rf"^{part} is a function, not a float$"):
        project(**{part: 0.5})


def test_a_model_must_be_one_or_return_one():
    """A function is asked only when the model is needed."""
    with pytest.raises(
        TypeError, match=r"^model is a Module or a function that returns one, not a str$"
    ):
        Project(model="resnet18")
    with pytest.raises(TypeError, match=r"^the model's factory returned a int, not a Module$"):
        Project(model=lambda: 3).fresh()


def test_an_optimizer_cannot_hold_what_is_not_built_yet():
    """A model that a function builds needs a function for the optimizer too."""
    optimizer = sgd(nn.Linear(2, 4).parameters())

    with pytest.raises(TypeError, match=r"^the model is built by a function, .* optimizer too$"):
        Project(model=lambda: nn.Linear(2, 4), optimizer=optimizer)
    assert Project(model=lambda: nn.Linear(2, 4), optimizer=sgd).optimizer is sgd
    assert project(optimizer=optimizer).optimizer is optimizer
    assert Project(optimizer=optimizer).optimizer is optimizer


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError])
def test_a_device_that_is_not_there_is_refused_with_the_reason(kind, monkeypatch):
    """In one line, of what may be pages."""

    def fails(*arguments, **named):
        raise kind("It is no device of UNIX.\nC++ stack trace:\nmain()")

    monkeypatch.setattr(torch, "empty", fails)

    said = r"^device 'lamp' cannot be used here: It is no device of UNIX; leave out device to check"
    with pytest.raises(ValueError, match=said) as caught:
        Project(device="lamp")
    assert isinstance(caught.value.__cause__, kind)
    assert caught.value.args[0].endswith("to check the model where it is")


def test_a_loss_with_weights_goes_to_the_device_and_the_callers_stays():
    """Without a device it is used as it is, and so is a function."""
    loss = nn.CrossEntropyLoss(weight=torch.ones(4))

    moved = project(loss_fn=loss, device="meta").loss_fn
    assert moved.weight.device.type == "meta"
    assert loss.weight.device.type == "cpu"
    assert project(loss_fn=loss).loss_fn is loss
    assert project(loss_fn=nn.functional.mse_loss, device="meta").loss_fn is nn.functional.mse_loss


# ------------------------------------------------------------------------ what there is


@pytest.mark.parametrize(
    ("parts", "there"),
    [
        ({}, set()),
        ({"batch": (X, Y)}, {"batch", "targets"}),
        ({"batch": X}, {"batch"}),
        ({"data": PAIRS}, {"batch", "targets", "data"}),
        ({"data": (X, Y)}, {"batch", "targets", "data"}),
        ({"data": [(X, Y), (X, Y), (X, Y)]}, {"batch", "targets", "data", "loader"}),
        ({"data": iter([(X, Y)])}, {"data", "loader"}),
        ({"loader": DataLoader(PAIRS, 2)}, {"batch", "targets", "data", "loader"}),
        ({"loader": iter([X]), "batch": X}, {"batch", "data", "loader"}),
        ({"fit": len, "seed": torch.manual_seed}, {"fit", "seed"}),
    ],
)
def test_a_part_is_there_if_it_can_be_taken_from_another(parts, there):
    """A batch comes from data that can be read again, a loader may be given as data."""
    names = ("batch", "targets", "loader", "data", "fit", "seed", "optimizer")
    given = Project(**parts)

    assert {name for name in names if given.has(name)} == there


def test_inputs_and_targets_are_copies():
    """What is done to them does not reach the next one who asks."""
    given = project()

    given.inputs().zero_()
    given.targets().zero_()

    assert torch.equal(given.inputs(), X)
    assert torch.equal(given.targets(), Y)


@pytest.mark.parametrize(
    ("parts", "device"),
    [
        ({}, "cpu"),
        ({"device": "meta"}, "meta"),
        ({"model": nn.Linear(2, 4, device="meta")}, "meta"),
        ({"model": nn.Linear(2, 4, device="meta"), "device": "cpu"}, "cpu"),
        ({"model": nn.Identity()}, "cpu"),
        ({"model": lambda: nn.Linear(2, 4, device="meta")}, "cpu"),
    ],
)
def test_the_batch_is_where_the_checks_run(parts, device):
    """On the device that is asked for, else on that of the model, else where it was."""
    example = project(**parts).here({"x": [X], "name": "a"})

    assert example["x"][0].device.type == device
    assert example["name"] == "a"


# ------------------------------------------------------------------------ copies


def test_each_copy_is_as_the_model_was_given():
    """What an earlier copy went through does not matter, nor does it reach the model."""
    given = project()
    weight = given.model.weight.tolist()

    nn.init.zeros_(given.fresh().weight)
    fresh = given.fresh()

    assert fresh is not given.model
    assert fresh.weight.tolist() == given.model.weight.tolist() == weight


@pytest.mark.parametrize("mode", [True, False])
def test_a_copy_is_in_the_mode_that_is_asked_for(mode):
    """Else in that of the model."""
    given = project(model=nn.Linear(2, 4).train(mode))

    assert given.fresh().training is mode
    assert given.fresh(training=not mode).training is not mode
    assert given.fresh_pair(not mode)[0].training is not mode
    assert given.model.training is mode


def test_copies_begin_with_the_random_numbers_of_seed_0():
    """So that a reader can see the same."""
    given = project()
    torch.manual_seed(0)
    first = torch.rand(2)

    given.fresh()
    assert torch.equal(torch.rand(2), first)


def test_an_optimizer_is_copied_with_the_model():
    """It holds the copy, and steps it alone; a function builds one of the copy."""
    optimizer_of = nn.Linear(2, 4)
    for optimizer in (sgd(optimizer_of.parameters()), sgd):
        given = project(model=optimizer_of, optimizer=optimizer)
        model, mine = given.fresh_pair()

        held = mine.param_groups[0]["params"]
        assert [id(p) for p in held] == [id(p) for p in model.parameters()]
        assert mine is not optimizer
        assert mine.param_groups[0]["lr"] == 0.5
    assert project().fresh_pair()[1] is None
    assert project(optimizer=sgd).fresh_pair(optimizer=False)[1] is None


class Counted(torch.optim.SGD):
    """An optimizer that cannot be copied, nor its state be loaded."""

    def __deepcopy__(self, memo):
        """Refuse."""
        raise TypeError("one of a kind")

    def __setstate__(self, state):
        """Refuse."""
        raise TypeError("one of a kind")

    def load_state_dict(self, state):
        """Refuse."""
        raise TypeError("one of a kind")


def test_what_cannot_be_copied_is_used_itself_and_put_back():
    """Model and optimizer then belong together as they are."""
    model = nn.Linear(2, 4)
    optimizer = Counted(model.parameters(), lr=0.5)
    given = project(model=model, optimizer=optimizer)
    before = model.weight.tolist()

    fresh, mine = given.fresh_pair()
    assert fresh is model
    assert mine is optimizer
    fresh.weight.data.zero_()  # a write that PyTorch does not count
    assert given.fresh().weight.tolist() == before
    assert given.fresh_pair(optimizer=False) == (model, None)


def test_a_copy_of_the_model_alone_needs_no_optimizer():
    """The function that builds one is not called."""
    model, optimizer = project(optimizer=lambda params: 1 / 0).fresh_pair(optimizer=False)

    assert (type(model), optimizer) == (nn.Linear, None)
    assert isinstance(project(optimizer=lambda params: 1 / 0).fresh(), nn.Linear)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_function_builds_the_optimizer_of_a_model_that_is_used_itself(device):
    """One that a function of the project keeps."""
    model = nn.Linear(2, 4)
    given = project(model=model, optimizer=sgd, predict=lambda *_: model, device=device)

    fresh, mine = given.fresh_pair()

    assert fresh is model
    assert mine.param_groups[0]["params"][0] is model.weight


def test_a_model_goes_to_the_device_and_the_callers_stays():
    """An optimizer goes along with what it remembers."""
    model = nn.Linear(2, 4)
    optimizer = sgd(model.parameters())
    model(X).sum().backward()
    optimizer.step()

    assert project(model=model, device="meta").fresh().weight.device.type == "meta"
    assert project(device="meta").moved(nn.Linear(1, 1)).weight.device.type == "meta"
    assert model.weight.device.type == "cpu"
    fresh, mine = project(model=model, optimizer=optimizer, device="cpu").fresh_pair()
    remembered = mine.state[fresh.weight]["momentum_buffer"]
    assert torch.equal(remembered, optimizer.state[model.weight]["momentum_buffer"])
    assert project(device="cpu").fresh_pair()[1] is None


def test_a_model_stays_where_it_is_without_a_device():
    """And the optimizer's state is not loaded anew."""
    layer = nn.Linear(2, 4, device="meta")

    assert project().moved(layer) is layer
    assert project(model=layer, batch=X).fresh().weight.device.type == "meta"


def test_what_building_the_model_did_is_undone():
    """A factory may read the data, count, and draw."""
    calls = []

    def build():
        calls.append(1)
        return nn.Linear(2, 4)

    given = project(model=build)
    given.restore()

    assert calls == []
    assert given.fresh().weight.tolist() == given.network.weight.tolist()


def test_a_built_model_is_always_the_same_and_put_back():
    """It is drawn from a seed of its own."""
    one, other = project(model=lambda: nn.Linear(2, 4)), project(model=lambda: nn.Linear(2, 4))
    torch.manual_seed(5)
    weight = other.network.weight.tolist()
    assert one.fresh().weight.tolist() == weight

    one.network.weight.data.fill_(7)
    one.restore(thorough=True)

    assert one.network.weight.tolist() == weight


def test_a_restore_trusts_pytorch_where_there_are_copies():
    """A write that PyTorch does not count is undone by a thorough one."""
    given = project()
    given.restore()
    before = given.model.weight.tolist()

    given.model.weight.data.zero_()
    given.restore()
    assert given.model.weight.tolist() != before
    given.restore(thorough=False)
    assert given.model.weight.tolist() != before
    given.restore(thorough=True)
    assert given.model.weight.tolist() == before


def test_data_without_a_model_is_put_back_too():
    """Whatever is reached from any part."""
    numbers = [1]
    given = Project(data=numbers)
    given.restore()

    numbers.append(2)
    given.restore()

    assert numbers == [1]


def test_passes_of_the_models_in_use_are_counted():
    """Those of copies and of watched models, not of others, nor of their layers."""
    given = project(model=nn.Sequential(nn.Linear(2, 4)))
    other, watched_too = nn.Linear(2, 4), nn.Linear(2, 4)

    with watched(given):
        model = given.fresh()
        model(X)
        other(X)
        assert given.watch(watched_too) is watched_too
        watched_too(X)
        model(X)

    assert given.passes == 3


def test_a_watched_model_is_kept():
    """Another that takes its place in memory would be counted as well."""
    given = project()
    model = weakref.ref(given.watch(nn.Linear(2, 4)))

    assert model() is not None


# ------------------------------------------------------------------------ the project's own code


def test_a_model_is_run_with_the_random_numbers_of_a_seed():
    """Of seed 0, or of the one that is given."""
    given, model = project(), nn.Dropout(0.5)
    x = torch.ones(64)
    for seed in (0, 3):
        torch.manual_seed(seed)
        expected = model(x)
        assert torch.equal(given.run(model, x, seed=seed), expected)
    assert torch.equal(given.run(model, x), given.run(model, x, seed=0))


def test_the_projects_own_forward_is_used():
    """It is given the model and the inputs, on the model's device; inputs may be several."""
    model = nn.Bilinear(2, 2, 1)
    given = project(model=model, forward=lambda model, inputs: (model, inputs))

    assert given.run(model, {"x": X, "name": "a"}) == (model, {"x": X, "name": "a"})
    assert project(model=model).run(model, (X, X)).shape == (4, 1)
    there = nn.Linear(2, 4, device="meta")
    assert given.run(there, [X])[1][0].device.type == "meta"


def unreduced(outputs, targets):
    """Return the loss of each example."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), unreduced])
def test_the_loss_is_one_number(loss_fn):
    """The mean of those of the examples, where a loss gives these."""
    outputs = torch.arange(16.0).reshape(4, 4) % 3

    loss = project(loss_fn=loss_fn).loss(outputs, Y)

    assert loss.ndim == 0
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(outputs, Y).item())


def test_a_loss_of_one_example_is_one_number_too():
    """Its single element; what is one number already is returned as it is."""
    given = project(loss_fn=lambda outputs, targets: (outputs * targets["y"]).reshape(1))

    assert given.loss(torch.tensor(3.0), {"y": torch.tensor(2.0)}).shape == ()
    count = torch.tensor(3)
    assert project(loss_fn=lambda *_: count).loss(X, Y) is count


def test_a_loss_that_is_no_tensor_is_an_error():
    """The error says what it was."""
    with pytest.raises(TypeError, match=r"^loss_fn returned a float, not a tensor$"):
        project(loss_fn=lambda *_: 0.5).loss(X, Y)


def test_targets_go_to_where_the_outputs_are():
    """The model may be on another device than the data."""
    seen = []
    given = project(loss_fn=lambda outputs, targets: seen.append(targets) or X)

    given.loss([torch.zeros(4, device="meta")], {"y": Y, "name": "a"})
    given.loss(X, Y)

    assert seen[0]["y"].device.type == "meta"
    assert seen[0]["name"] == "a"
    assert torch.equal(seen[1], Y)


BATCHES = [(X[:3], Y[:3]), (X[3:], Y[3:])]


def test_a_fit_is_given_a_loader_of_the_batches():
    """With model, loss and optimizer; what it returns is returned."""
    loss_fn, optimizer = nn.CrossEntropyLoss(), object()
    given = project(loss_fn=loss_fn, fit=lambda *arguments: arguments, train_step=len)

    model, loader, *others = given.train(given.model, optimizer, BATCHES)

    assert (model, others) == (given.model, [loss_fn, optimizer])
    assert isinstance(loader, DataLoader)
    assert [(x.tolist(), y.tolist()) for x, y in loader] == [
        (x.tolist(), y.tolist()) for x, y in BATCHES
    ]
    assert given.trainer == "fit"


def test_a_train_step_is_given_a_copy_of_each_batch():
    """In their order; what the calls return is returned."""
    loss_fn, optimizer = nn.CrossEntropyLoss(), object()

    def step(model, loss_fn, optimizer, inputs, targets):
        said = inputs.tolist(), targets.tolist()
        inputs.zero_()
        targets.zero_()
        return model, loss_fn, optimizer, said

    given = project(loss_fn=loss_fn, train_step=step)
    returned = given.train(given.model, optimizer, copy.deepcopy(BATCHES))

    parts = given.model, loss_fn, optimizer
    assert returned == [(*parts, (x.tolist(), y.tolist())) for x, y in BATCHES]
    assert returned == given.train(given.model, optimizer, BATCHES)
    assert X.any(), "the batches are as before"
    assert given.trainer == "train_step"


def test_a_plain_step_is_taken_where_there_is_neither():
    """It clears the gradients, and follows those of its batch."""
    given = project(loss_fn=nn.CrossEntropyLoss())
    model = given.model
    by_hand = copy.deepcopy(model)
    model.weight.grad = torch.ones(4, 2)

    assert given.train(model, torch.optim.SGD(model.parameters(), lr=0.5), BATCHES) == []

    for inputs, targets in BATCHES:
        loss = nn.functional.cross_entropy(by_hand(inputs), targets)
        for p, gradient in zip(
            by_hand.parameters(), torch.autograd.grad(loss, by_hand.parameters()), strict=True
        ):
            p.data -= 0.5 * gradient
    assert torch.allclose(model.weight, by_hand.weight)
    assert given.trainer == "a plain step"


# ------------------------------------------------------------------------ what is frozen

FREE, FROZEN = torch.ones(1, requires_grad=True), torch.ones(1)


@pytest.mark.parametrize(
    ("frozen", "name", "parameter", "expected"),
    [
        (None, "body.weight", FROZEN, True),
        (None, "body.weight", FREE, False),
        (None, "body", None, False),
        (["body"], "body.weight", FREE, True),
        ("body", "body.weight", FREE, True),
        (["body"], "body", None, True),
        (["head", "body.0"], "body.0.weight", None, True),
        (["body"], "body2.weight", FROZEN, False),
        (["body"], "head.body.weight", FROZEN, False),
        (["body.weight"], "body", None, False),
        ([], "body.weight", FROZEN, False),
    ],
)
def test_what_is_frozen_is_declared_by_name_or_by_requires_grad(frozen, name, parameter, expected):
    """A name stands for all that is inside."""
    assert project(frozen=frozen).is_frozen(name, parameter) is expected


# ------------------------------------------------------------------------ examples


def zeros(*shape):
    """Return zeros of a shape."""
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("batch", "batch_dim", "count"),
    [
        ((zeros(4, 2), zeros(4)), None, 4),
        ((zeros(5, 4, 2), zeros(4)), None, 4),
        ((zeros(5, 4, 2), zeros(4, 3)), 1, 4),
        (zeros(5, 4, 2), None, 5),
        (zeros(5, 4, 2), 1, 4),
        ((zeros(4, 2), {"scale": zeros(), "y": zeros(4, 6), "z": zeros(3)}), None, 4),
        ((zeros(4, 2), zeros()), None, 4),
        (({"scale": zeros(), "x": zeros(4, 2)}, None), None, 4),
        (([zeros(6, 2), zeros(3, 2)], None), None, 6),
        ((3, None), None, 0),
    ],
)
def test_the_targets_say_how_many_examples_there_are(batch, batch_dim, count):
    """And the inputs where there are none, in the dimension that is declared."""
    assert project(batch=batch, batch_dim=batch_dim).count() == count


@pytest.mark.parametrize(
    ("shape", "batch_dim", "dim"),
    [
        ((4, 2), None, 0),
        ((2, 4), None, 1),
        ((4, 4), None, 0),
        ((2, 3, 4), None, None),
        ((3,), None, None),
        ((), None, None),
        ((4, 2), 1, 1),
        ((4, 2, 3), 2, 2),
        ((4,), 1, None),
        ((4, 4), 0, 0),
    ],
)
def test_the_examples_are_counted_along_one_dimension(shape, batch_dim, dim):
    """The declared one, or the first of two that has as many elements."""
    assert project(batch_dim=batch_dim).dim(torch.zeros(shape)) == dim


@pytest.mark.parametrize(
    ("model", "shape", "batch_dim", "ambiguous"),
    [
        (nn.GRU(3, 2), (4, 4, 3), None, True),
        (nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 2)), (4, 4, 3), None, True),
        (nn.GRU(3, 2), (4, 4), None, True),
        (nn.GRU(3, 2), (4, 4, 3), 1, False),
        (nn.GRU(3, 2, batch_first=True), (4, 4, 3), None, False),
        (nn.GRU(3, 2), (5, 4, 3), None, False),
        (nn.GRU(3, 2), (4, 5, 4), None, False),
        (nn.GRU(3, 2), (4,), None, False),
        (nn.Linear(4, 2), (4, 4), None, False),
    ],
)
def test_a_square_of_time_and_examples_is_ambiguous(model, shape, batch_dim, ambiguous):
    """Only for layers that take the time first, and where nothing is declared."""
    given = project(model=model, batch=(torch.zeros(shape), Y), batch_dim=batch_dim)

    assert given.ambiguous() is ambiguous


def test_examples_are_picked_in_the_order_of_the_rows():
    """From each tensor that has them; others stay whole."""
    rows, other = torch.tensor([2, 0]), torch.arange(3)
    given = project()

    inputs = given.pick({"x": X, "time first": X.T, "other": other}, rows)
    targets = given.pick_targets({"y": Y, "wide": X, "scale": torch.tensor(4), "z": other}, rows)

    assert inputs["x"].tolist() == [[4, 5], [0, 1]]
    assert inputs["time first"].tolist() == [[4, 0], [5, 1]]
    assert inputs["other"] is other
    assert targets["y"].tolist() == [2, 0]
    assert targets["wide"].tolist() == [[4, 5], [0, 1]]
    assert targets["scale"].item() == 4
    assert targets["z"] is other


def test_a_batch_is_cut_one_after_the_other():
    """Into as many examples as are asked for, with their targets or with others."""
    given = project()

    first, second, third = given.batches(1, 2, 1)
    (other,) = given.batches(2, targets=Y + 10)

    assert (first[0].tolist(), first[1].tolist()) == ([[0, 1]], [0])
    assert (second[0].tolist(), second[1].tolist()) == ([[2, 3], [4, 5]], [1, 2])
    assert (third[0].tolist(), third[1].tolist()) == ([[6, 7]], [3])
    assert (other[0].tolist(), other[1].tolist()) == ([[0, 1], [2, 3]], [10, 11])


def test_another_batch_has_the_targets_of_the_neighbours():
    """And the same inputs, so that its gradient is another."""
    inputs, targets = project().other_batch()

    assert torch.equal(inputs, X)
    assert targets.tolist() == [3, 0, 1, 2]
