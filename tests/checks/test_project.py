"""A project's parts are called the way the project writes them, on copies."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dlconcepts.checks.project import Project

X, Y = torch.arange(8.0).reshape(4, 2), torch.tensor([0, 1, 2, 3])
PAIRS = TensorDataset(X, Y)


def sgd(params):
    return torch.optim.SGD(params, lr=0.5, momentum=0.9)


def project(**parts):
    return Project(**{"model": nn.Linear(2, 4), "batch": (X, Y), **parts})


# ------------------------------------------------------------------------ what is refused


def test_a_model_must_be_one_or_return_one():
    """The check calls a function only when it needs the model."""
    with pytest.raises(
        TypeError, match=r"^model is a Module or a function that returns one, not a str$"
    ):
        Project(model="resnet18")
    with pytest.raises(TypeError, match=r"^the function for the model returned a int"):
        Project(model=lambda: 3).fresh()


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError])
def test_a_device_that_is_not_there_is_refused_with_the_reason(kind, monkeypatch):
    """The reason is one line, even if PyTorch's error is pages long."""

    def fails(*arguments, **named):
        raise kind("It is no device of UNIX.\nC++ stack trace:\nmain()")

    monkeypatch.setattr(torch, "empty", fails)

    said = r"^device 'lamp' cannot be used here: It is no device of UNIX; leave out device to check"
    with pytest.raises(ValueError, match=said) as caught:
        Project(device="lamp")
    assert isinstance(caught.value.__cause__, kind)
    assert caught.value.args[0].endswith("to check the model where it is")


def test_a_loss_with_weights_goes_to_the_device_and_the_callers_stays():
    """The loss moves as a copy; without a device, or as a function, it is used as it is."""
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
    """Data that can be read again gives a batch, and a loader may be given as data."""
    names = ("batch", "targets", "loader", "data", "fit", "seed", "optimizer")
    given = Project(**parts)

    assert {name for name in names if given.has(name)} == there


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
    """It goes to the given device, else to the model's, else it stays."""
    example = project(**parts).here({"x": [X], "name": "a"})

    assert example["x"][0].device.type == device
    assert example["name"] == "a"


# ------------------------------------------------------------------------ copies


def test_each_copy_is_as_the_model_was_given():
    """What happens to a copy reaches neither the model nor the next copy."""
    given = project()
    weight = given.model.weight.tolist()

    nn.init.zeros_(given.fresh().weight)
    fresh = given.fresh()

    assert fresh is not given.model
    assert fresh.weight.tolist() == given.model.weight.tolist() == weight


class Counted(torch.optim.SGD):
    def __deepcopy__(self, memo):
        raise TypeError("one of a kind")

    def __setstate__(self, state):
        raise TypeError("one of a kind")

    def load_state_dict(self, state):
        raise TypeError("one of a kind")


def test_what_cannot_be_copied_is_used_itself_and_put_back():
    """Model and optimizer are then used as they are, together."""
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


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_function_builds_the_optimizer_of_a_model_that_is_used_itself(device):
    """The function may reach the model through a closure."""
    model = nn.Linear(2, 4)
    given = project(model=model, optimizer=sgd, predict=lambda *_: model, device=device)

    fresh, mine = given.fresh_pair()

    assert fresh is model
    assert mine.param_groups[0]["params"][0] is model.weight


def test_a_model_goes_to_the_device_and_the_callers_stays():
    """The optimizer's state moves with the copy."""
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


def test_what_building_the_model_did_is_undone():
    """A factory may read data, count calls, or draw random numbers."""
    calls = []

    def build():
        calls.append(1)
        return nn.Linear(2, 4)

    given = project(model=build)
    given.restore()

    assert calls == []
    assert given.fresh().weight.tolist() == given.network.weight.tolist()


def test_a_built_model_is_always_the_same_and_put_back():
    """The factory runs with seed 0."""
    one, other = project(model=lambda: nn.Linear(2, 4)), project(model=lambda: nn.Linear(2, 4))
    torch.manual_seed(5)
    weight = other.network.weight.tolist()
    assert one.fresh().weight.tolist() == weight

    one.network.weight.data.fill_(7)
    one.restore(thorough=True)

    assert one.network.weight.tolist() == weight


def test_data_without_a_model_is_put_back_too():
    """Everything that is reachable from any part is restored."""
    numbers = [1]
    given = Project(data=numbers)
    given.restore()

    numbers.append(2)
    given.restore()

    assert numbers == [1]


# ------------------------------------------------------------------------ the project's own code


def test_the_projects_own_forward_is_used():
    """It gets the model, and one or several inputs on the model's device."""
    model = nn.Bilinear(2, 2, 1)
    given = project(model=model, forward=lambda model, inputs: (model, inputs))

    assert given.run(model, {"x": X, "name": "a"}) == (model, {"x": X, "name": "a"})
    assert project(model=model).run(model, (X, X)).shape == (4, 1)
    there = nn.Linear(2, 4, device="meta")
    assert given.run(there, [X])[1][0].device.type == "meta"


def unreduced(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), unreduced])
def test_the_loss_is_one_number(loss_fn):
    """A loss without reduction is averaged over the examples."""
    outputs = torch.arange(16.0).reshape(4, 4) % 3

    loss = project(loss_fn=loss_fn).loss(outputs, Y)

    assert loss.ndim == 0
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(outputs, Y).item())


def test_a_loss_that_is_no_tensor_is_an_error():
    """The error names the type."""
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
    """It also gets model, loss and optimizer, and its result is returned."""
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
    """The batches come in order."""
    loss_fn, optimizer, seen = nn.CrossEntropyLoss(), object(), []

    def step(model, loss_fn, optimizer, inputs, targets):
        seen.append((model, loss_fn, optimizer, (inputs.tolist(), targets.tolist())))
        inputs.zero_()
        targets.zero_()

    given = project(loss_fn=loss_fn, train_step=step)
    given.train(given.model, optimizer, BATCHES)

    parts = given.model, loss_fn, optimizer
    assert seen == [(*parts, (x.tolist(), y.tolist())) for x, y in BATCHES]
    assert X.any(), "the batches are as before"
    assert given.trainer == "train_step"


def test_a_plain_step_is_taken_where_there_is_neither():
    """It clears the gradients, and follows the gradient of its batch."""
    given = project(loss_fn=nn.CrossEntropyLoss())
    model = given.model
    by_hand = copy.deepcopy(model)
    model.weight.grad = torch.ones(4, 2)

    given.train(model, torch.optim.SGD(model.parameters(), lr=0.5), BATCHES)

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
    """A name stands for everything inside it."""
    assert project(frozen=frozen).is_frozen(name, parameter) is expected


# ------------------------------------------------------------------------ examples


def zeros(*shape):
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
    """Without targets, the inputs count, along the declared dimension."""
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
        ((3, 4), 1, 1),
        ((3, 2, 4), 2, 2),
        ((4,), 1, 0),
        ((4, 4), 0, 0),
    ],
)
def test_the_examples_are_counted_along_one_dimension(shape, batch_dim, dim):
    """It is the declared dimension, or the first with the right size."""
    assert project(batch_dim=batch_dim).dim(torch.zeros(shape), 4) == dim


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
    """Only time-first layers without a declared dimension are ambiguous."""
    given = project(model=model, batch=(torch.zeros(shape), Y), batch_dim=batch_dim)

    assert given.ambiguous() is ambiguous


def test_examples_are_picked_in_the_order_of_the_rows():
    """Tensors without a dimension for the examples stay whole."""
    rows, other = torch.tensor([2, 0]), torch.arange(3)
    inputs = {"x": X, "time first": X.T, "other": other}
    targets = {"y": Y, "wide": X, "scale": torch.tensor(4), "z": other}

    inputs, targets = project().pick((inputs, targets), rows)

    assert inputs["x"].tolist() == [[4, 5], [0, 1]]
    assert inputs["time first"].tolist() == [[4, 0], [5, 1]]
    assert inputs["other"] is other
    assert targets["y"].tolist() == [2, 0]
    assert targets["wide"].tolist() == [[4, 5], [0, 1]]
    assert targets["scale"].item() == 4
    assert targets["z"] is other
