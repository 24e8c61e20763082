"""What the checks of the loss see, refuse and leave alone, on tensors of a few numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlconcepts import checks
from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.loss import (
    Recording,
    broadcast,
    gradient,
    kind,
    operation,
    random_like,
    scores,
    used,
)
from dlconcepts.checks.project import Project
from tests.checks.small_projects import Gives, observed, sgd


def parts(outputs, targets, loss_fn, after=None):
    """Return a project whose model gives these outputs."""
    return {"model": Gives(after), "batch": (outputs, targets), "loss_fn": loss_fn}


# ------------------------------------------------------------------------ pairs


def flat(columns):
    """Return outputs of one column for each example, or without a column."""
    return lambda x: x[:, :1] if columns else x[:, 0]


PAIRS = checks.check_the_loss_pairs_outputs_with_targets


def absolute(outputs, targets):
    """Return the mean absolute difference, of which PyTorch does not warn."""
    return (outputs - targets).abs().mean()


def insists(outputs, targets):
    """Return a mean absolute difference, after a look at the number of examples."""
    assert len(outputs) == len(targets)
    return absolute(outputs, targets)


def tiny(outputs, targets):
    """Return a loss in other units."""
    return 1e-7 * (outputs - targets).square().mean()


def of_each(outputs, targets):
    """Return a loss without a mean."""
    return (outputs - targets).square()


@pytest.mark.parametrize("loss_fn", [F.mse_loss, F.l1_loss, absolute, insists, tiny, of_each])
@pytest.mark.parametrize(
    "targets", [[1.0, 2.0, 4.0], [3.0, 1.0, 5.0, 3.1], [5000.0, 5010.0], [1.0, 1.002, 1.001]]
)
def test_a_loss_that_compares_all_with_all_is_found(loss_fn, targets):
    """Whatever the loss is called, and whatever the targets' units and offset are."""
    targets = torch.tensor(targets)
    n = len(targets)

    with pytest.raises(CheckFailedError) as caught:
        PAIRS(**parts(torch.randn(n, 4), targets, loss_fn, flat(True)))

    words = f"outputs ({n}, 1) and targets ({n},) were compared as ({n}, {n}): {n * n} pairs for"
    assert caught.value.observed == f"{words} {n} examples"


def test_a_loss_of_whole_numbers_is_found_too():
    """Counts are subtracted like others."""
    seen = observed(
        PAIRS, **parts(torch.randn(3, 4), torch.tensor([0, 1, 5]), absolute, flat(True))
    )

    assert "were compared as (3, 3)" in seen


def of_two_heads(outputs, targets):
    """Return the sum of the losses of two outputs."""
    return F.l1_loss(outputs["flat"], targets["a"]) + F.l1_loss(outputs["column"], targets["b"])


def test_each_of_several_outputs_is_compared_with_each_target():
    """One head that is right does not hide another that broadcasts."""
    model = Gives(lambda x: {"flat": x[:, 0], "column": x[:, :1]})
    targets = {"a": torch.arange(5.0), "b": torch.arange(5.0)}

    with pytest.raises(CheckFailedError, match=r"outputs \(5, 1\) and targets \(5,\)"):
        PAIRS(model=model, batch=(torch.randn(5, 4), targets), loss_fn=of_two_heads)


FIVE = torch.tensor([0.0, 4.0, 1.0, 3.0, 2.0])


def squeezes(outputs, targets):
    """Return a loss that gives both one shape first."""
    return F.l1_loss(outputs.squeeze(1), targets)


def is_flat_far_away(outputs, targets):
    """Return a loss of one shape that has no slope but next to the targets."""
    return (outputs.squeeze(1) - targets).abs().clamp(max=1e-9).mean()


def refuses(outputs, targets):
    """Return a loss of targets of one example; of no others."""
    if len(targets) > 1 and bool((targets == targets[0]).all()):
        raise ValueError("all targets are the same")
    return squeezes(outputs, targets)


@pytest.mark.parametrize(
    ("after", "targets", "loss_fn"),
    [
        (flat(False), FIVE, F.l1_loss),
        (flat(True), FIVE[:, None], F.l1_loss),
        (flat(True), FIVE, squeezes),
        (flat(True), FIVE, lambda x, y: F.mse_loss(x[:, 0], y)),
        (flat(True), FIVE, is_flat_far_away),
        (flat(True), FIVE, refuses),
        (flat(True), torch.ones(1), absolute),
        (flat(False), torch.tensor([2.0]), absolute),
        (None, torch.arange(5) % 4, F.cross_entropy),
        (None, FIVE[:, None], absolute),
    ],
)
def test_a_loss_that_compares_one_with_one_is_left_alone(after, targets, loss_fn):
    """Equal shapes, a loss that squeezes by itself, one target for all, classes for targets."""
    PAIRS(**parts(torch.randn(5, 4), targets, loss_fn, after))


@pytest.mark.parametrize(
    ("one", "other", "shape"),
    [((3, 1), (3,), (3, 3)), ((3,), (), (3,)), ((3, 2), (3,), None), ((2, 3), (3,), (2, 3))],
)
def test_shapes_broadcast_or_do_not(one, other, shape):
    """None says that a loss which broadcasts would have raised."""
    assert broadcast(torch.zeros(one), torch.zeros(other)) == shape


# ------------------------------------------------------------------------ what the loss is given


def test_a_recording_returns_the_loss_and_remembers_pairs_alone():
    """A call with other arguments says nothing about outputs and targets."""
    recording = Recording(lambda *arguments, **named: (arguments, named))

    assert recording(1, 2) == ((1, 2), {})
    assert recording(3, 4) == ((3, 4), {})
    assert recording(1) == ((1,), {})
    assert recording(1, 2, 3) == ((1, 2, 3), {})
    assert recording(1, 2, weight=3) == ((1, 2), {"weight": 3})
    assert recording.calls == [(1, 2), (3, 4)]


def test_a_recording_has_what_the_loss_has():
    """A training step may look at the loss, at its reduction for example."""
    recording = Recording(nn.MSELoss(reduction="sum"))

    assert recording.reduction == "sum"
    assert not hasattr(recording, "weight")


def halves(model, loss_fn, optimizer, inputs, targets):
    """Give the loss half of the outputs, then others."""
    optimizer.zero_grad()
    loss_fn(model(inputs) / 2, targets + 1).backward()
    loss_fn(model(inputs), targets)


def halves_in_fit(model, loader, loss_fn, optimizer):
    """Do so for each batch."""
    for inputs, targets in loader:
        halves(model, loss_fn, optimizer, inputs, targets)


def by_name(model, loss_fn, optimizer, inputs, targets):
    """Call the loss with named arguments."""
    loss_fn(input=model(inputs) / 2, target=targets)


def on_whole_numbers(model, loss_fn, optimizer, inputs, targets):
    """Give the loss what has no history."""
    loss_fn(model(inputs).argmax(dim=1), targets[:, 0])


@pytest.mark.parametrize(
    ("changes", "share", "more"),
    [
        ({"train_step": halves, "optimizer": sgd}, 0.5, 1),
        ({"fit": halves_in_fit, "optimizer": sgd}, 0.5, 1),
        ({"train_step": halves}, 1, 0),
        ({"optimizer": sgd}, 1, 0),
        ({}, 1, 0),
        ({"train_step": by_name, "optimizer": sgd}, 1, 0),
        ({"train_step": on_whole_numbers, "optimizer": sgd}, 1, 0),
    ],
)
def test_the_loss_is_looked_at_where_training_calls_it(changes, share, more):
    """The first call of the step or fit counts; where there is none, what the model gives."""
    inputs, targets = torch.randn(3, 2), torch.rand(3, 2)
    loss_fn = nn.MSELoss()
    project = Project(model=Gives(), batch=(inputs, targets), loss_fn=loss_fn, **changes)

    outputs, given = scores(project)

    assert torch.equal(outputs, inputs * share)
    assert torch.equal(given, targets + more)
    assert outputs.grad_fn is not None
    assert project.loss_fn is loss_fn


@pytest.mark.parametrize("changes", [{}, {"train_step": halves, "optimizer": sgd}])
def test_the_loss_is_looked_at_in_training_mode(changes):
    """That is where it is called, with dropout and all."""
    modes = []
    model = Gives(lambda x: modes.append(model.training) or x).eval()
    project = Project(
        model=lambda: model,
        batch=(torch.ones(2, 2), torch.ones(2, 2)),
        loss_fn=F.mse_loss,
        **changes,
    )

    scores(project)

    assert set(modes) == {True}


def fails(model, loss_fn, optimizer, inputs, targets):
    """Raise before the end."""
    raise KeyError("no such column")


def test_a_step_that_raises_leaves_the_loss_of_the_project():
    """The error is the project's own, and the next check finds everything as it was."""
    loss_fn = nn.MSELoss()
    batch = torch.ones(2, 2), torch.ones(2, 2)
    project = Project(model=Gives(), batch=batch, loss_fn=loss_fn, train_step=fails, optimizer=sgd)

    with pytest.raises(KeyError, match="no such column"):
        scores(project)

    assert project.loss_fn is loss_fn


# ------------------------------------------------------------------------ the loss as a function


def of_a_project(outputs, targets, loss_fn, after=None):
    """Return what `used` finds in a project whose model gives these outputs."""
    return used(Project(**parts(outputs, targets, loss_fn, after)))


def test_the_loss_becomes_a_function_of_one_output():
    """The other output stays as it is; without a reduction the mean is taken."""
    targets = torch.tensor([1.0, 2.0])

    def apart(outputs, targets):
        return (outputs[0] - targets).square() + outputs[1] + 0 * outputs[0].detach()

    found = of_a_project(torch.tensor([3.0, 4.0]), targets, apart, lambda x: (x, 10 * x, 1))

    (first, target, loss), (second, _, other) = found
    assert torch.equal(first, torch.tensor([3.0, 4.0]))
    assert torch.equal(second, torch.tensor([30.0, 40.0]))
    assert torch.equal(target, targets)
    assert loss(torch.tensor([1.0, 2.0])) == 35
    assert other(torch.tensor([0.0, 0.0])) == 4
    assert loss(torch.tensor([1.0, 1.0]), torch.tensor([0, 0])) == 35


def test_an_output_that_the_loss_does_not_depend_on_is_left_out():
    """So are whole numbers and what has no gradient; there is one entry for each target."""

    def of_the_first(outputs, targets):
        return F.mse_loss(outputs[0], targets["a"]) + targets["b"].sum()

    targets = {"a": torch.ones(2), "b": torch.zeros(2), "c": "a name"}
    found = of_a_project(torch.ones(2), targets, of_the_first, lambda x: (x, 2 * x, x.long()))

    assert [bool(target.any()) for _, target, _ in found] == [True, False]
    assert all(torch.equal(output, torch.ones(2)) for output, _, _ in found)


def test_a_loss_that_writes_to_its_targets_finds_them_as_they_were():
    """Each call gets targets of its own."""

    def overwrites(outputs, targets):
        targets += 1
        return F.mse_loss(outputs, targets)

    ((_, target, loss),) = of_a_project(torch.zeros(2), torch.zeros(2), overwrites)

    assert [loss(torch.zeros(2)).item() for _ in range(3)] == [1, 1, 1]
    assert not target.any()


class Once(nn.Module):
    """A loss that holds what cannot be copied."""

    def __deepcopy__(self, memo):
        """Refuse."""
        raise TypeError("a lock cannot be copied")

    def forward(self, outputs, targets):
        """Return the mean squared difference."""
        return F.mse_loss(outputs, targets)


def test_a_loss_on_the_cpu_is_used_itself():
    """It need not be copied."""
    project = Project(model=Gives(), batch=(torch.ones(2), torch.zeros(2)), loss_fn=Once())

    ((_, _, loss),) = used(project)

    assert loss(torch.ones(2)) == 1


class Elsewhere(torch.Tensor):
    """A tensor that says that it is on another device."""

    @property
    def device(self):
        """Return another device than the memory that it is in."""
        return torch.device("meta")


class Weighted(nn.Module):
    """A loss with a weight that moves to the CPU: where it was, it is no more."""

    def __init__(self):
        """Make the weight."""
        super().__init__()
        self.register_buffer("weight", torch.tensor(3.0))

    def cpu(self):
        """Move the weight away from where it is."""
        moved = self.weight.clone()
        self.weight.zero_()
        self.weight = moved
        return self

    def forward(self, outputs, targets):
        """Return the weighted mean squared difference."""
        return self.weight * F.mse_loss(outputs, targets)


def test_a_loss_on_another_device_is_copied_to_the_cpu():
    """The project goes on with its own, where it was."""
    loss_fn = Weighted()
    own = loss_fn.weight
    project = Project(model=Gives(), batch=(torch.ones(2), torch.zeros(2)), loss_fn=loss_fn)
    project.scored = torch.ones(2).as_subclass(Elsewhere), torch.zeros(2)

    ((_, _, loss),) = used(project)

    assert loss(torch.ones(2)) == 3
    assert loss_fn.weight is own
    assert own == 3


def test_training_is_run_once_for_all_checks_of_the_loss():
    """What the loss was called with is kept for the next check."""
    calls = []

    def counts(model, loss_fn, optimizer, inputs, targets):
        calls.append(len(inputs))
        loss_fn(model(inputs), targets)

    batch = torch.ones(2), torch.zeros(2)
    project = Project(
        model=Gives(), batch=batch, loss_fn=F.mse_loss, train_step=counts, optimizer=sgd
    )

    assert len(used(project)) == len(used(project)) == 1
    assert calls == [2]


@pytest.mark.parametrize("error", [RuntimeError, ValueError, TypeError, IndexError])
def test_a_loss_that_refuses_values_has_no_gradient_there(error):
    """Nonsense is tried on it: what it says of that is no error of the project."""

    def refuses(values):
        raise error("only probabilities")

    assert gradient(refuses, torch.ones(2)) is None


def test_the_gradient_is_that_at_the_values():
    """The values themselves are neither changed nor tracked; a loss without them has none."""
    values = torch.tensor([1.0, 2.0])
    elsewhere = torch.ones((), requires_grad=True)

    assert torch.equal(gradient(lambda x: x.square().sum(), values), torch.tensor([2.0, 4.0]))
    assert gradient(lambda x: elsewhere * 1, values) is None
    assert gradient(lambda x: torch.ones(()), values) is None
    assert not values.requires_grad


@pytest.mark.parametrize(
    ("dtype", "drawn"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_values_of_a_seed_are_drawn_in_a_precision_that_every_loss_takes(dtype, drawn):
    """They are in the output's shape, the same for a seed, and say nothing of the random state."""
    output = torch.zeros(3, 2, dtype=dtype)
    torch.manual_seed(0)
    state = torch.get_rng_state()

    values = random_like(output, 1)

    assert (values.shape, values.dtype) == ((3, 2), drawn)
    assert torch.equal(values, random_like(output, 1))
    assert not torch.equal(values, random_like(output, 2))
    assert torch.equal(state, torch.get_rng_state())


# ------------------------------------------------------------------------ kinds of losses

CLASSES = torch.tensor([0, 2, 1, 1])
MARKS = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
MAPS = torch.arange(16).reshape(4, 2, 2) % 3
SOME = torch.tensor([0, -100, 1, 1])


def kind_of(shape, targets, loss_fn):
    """Return what a loss of outputs of a shape is."""
    return kind(torch.zeros(shape), targets, lambda values: loss_fn(values, targets).mean())


def picked(outputs, targets):
    """Return the scores of the right classes."""
    return outputs.gather(1, targets.unsqueeze(1))


def penalised(outputs, targets):
    """Return a cross-entropy that the height of the scores adds to."""
    return F.cross_entropy(outputs, targets) + 0.02 * outputs.sum(dim=1).mean()


@pytest.mark.parametrize(
    ("shape", "targets", "loss_fn"),
    [
        ((4, 3), CLASSES, nn.CrossEntropyLoss()),
        ((4, 3), CLASSES, nn.CrossEntropyLoss(reduction="sum")),
        ((4, 3), CLASSES, nn.CrossEntropyLoss(reduction="none")),
        ((4, 3), CLASSES, nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)),
        ((4, 3), SOME, nn.CrossEntropyLoss()),
        ((4, 2), CLASSES % 2, nn.CrossEntropyLoss()),
        ((4, 3), MARKS / 3, nn.CrossEntropyLoss()),
        ((4, 3, 2, 2), MAPS, nn.CrossEntropyLoss()),
        ((1, 3), CLASSES[:1], nn.CrossEntropyLoss()),
        ((4, 3), CLASSES, lambda x, y: 1e-9 * F.cross_entropy(x, y)),
        ((4, 3), CLASSES, lambda x, y: 1e9 * F.cross_entropy(x, y)),
    ],
)
def test_a_cross_entropy_is_known_by_what_it_does(shape, targets, loss_fn):
    """Weights, smoothing, left out examples, maps, and units change nothing."""
    assert kind_of(shape, targets, loss_fn) == "cross-entropy"


@pytest.mark.parametrize(
    ("shape", "targets", "loss_fn"),
    [
        ((4, 3), CLASSES, nn.NLLLoss()),
        ((4, 3), CLASSES, nn.NLLLoss(torch.tensor([1.0, 2.0, 3.0]), reduction="none")),
        ((4, 2), CLASSES % 2, nn.NLLLoss()),
        ((4, 3), SOME, nn.NLLLoss()),
        ((4, 3, 2, 2), MAPS, nn.NLLLoss()),
        ((4, 3), CLASSES, lambda x, y: -picked(x, y)),
    ],
)
def test_a_negative_log_likelihood_is_known_by_what_it_does(shape, targets, loss_fn):
    """It picks one class of each example, and has one slope."""
    assert kind_of(shape, targets, loss_fn) == "negative log-likelihood"


def in_one_precision(outputs, targets):
    """Return a binary cross-entropy of scores that float32 and a sigmoid can tell apart."""
    assert outputs.dtype == torch.float32
    assert bool((outputs.abs() < 50).all())
    return F.binary_cross_entropy_with_logits(outputs, targets)


def without_the_last(outputs, targets):
    """Return a binary cross-entropy that leaves an example out."""
    return F.binary_cross_entropy_with_logits(outputs[:-1], targets[:-1])


@pytest.mark.parametrize(
    ("shape", "targets", "loss_fn"),
    [
        ((4, 3), MARKS, nn.BCEWithLogitsLoss()),
        ((4,), MARKS[:, 0], nn.BCEWithLogitsLoss()),
        ((4, 1), MARKS[:, :1], nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))),
        ((4, 1), MARKS[:, 0], lambda x, y: F.binary_cross_entropy_with_logits(x[:, 0], y)),
        ((4,), MARKS[:, 0].long(), lambda x, y: F.softplus(x) - x * y),
        ((4,), torch.ones(4), nn.BCEWithLogitsLoss()),
        ((4,), MARKS[:, 0], in_one_precision),
        ((4,), MARKS[:, 0], without_the_last),
        ((4,), MARKS[:, 0], lambda x, y: 1e-9 * F.binary_cross_entropy_with_logits(x, y)),
        ((4,), MARKS[:, 0], lambda x, y: F.relu(1 - x * (2 * y - 1))),
    ],
)
def test_a_binary_cross_entropy_is_known_by_what_it_does(shape, targets, loss_fn):
    """It is steep where a score is on the wrong side, and flat far on the right one."""
    assert kind_of(shape, targets, loss_fn) == "binary cross-entropy"


def refuses_far(outputs, targets):
    """Return a binary cross-entropy that does not take large scores."""
    if bool((outputs.abs() > 20).any()):
        raise ValueError("a score is too large")
    return F.binary_cross_entropy_with_logits(outputs, targets)


def of_the_first(values):
    """Return a loss that is flat where the first score is high."""
    return F.relu(1 - values[0, 0])


def refuses_where(is_refused):
    """Return a loss that does not take some of the scores."""

    def loss(outputs, targets):
        if bool(is_refused(outputs.flatten()[0])):
            raise ValueError("this is no score")
        return F.cross_entropy(outputs, targets)

    return loss


def refuses_zeros(outputs, targets):
    """Return a binary cross-entropy that does not take scores far below zero."""
    if bool((outputs[0] > 20).any()):
        raise ValueError("a score is too large")
    return F.binary_cross_entropy_with_logits(outputs, targets)


def one_example_is_reversed(outputs, targets):
    """Return a binary cross-entropy with a target turned around."""
    targets = torch.cat([1 - targets[:1], targets[1:]])
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none") * (
        targets * 2 - 1
    )


@pytest.mark.parametrize(
    ("shape", "targets", "loss_fn"),
    [
        ((), torch.tensor(1.0), nn.BCEWithLogitsLoss()),
        ((0, 3), CLASSES[:0], nn.CrossEntropyLoss()),
        ((4, 1), CLASSES * 0, nn.CrossEntropyLoss()),
        ((4, 1), CLASSES * 0, nn.NLLLoss()),
        ((4, 3), MARKS, nn.BCELoss()),
        ((4, 3), MARKS, nn.MSELoss()),
        ((4, 3), MARKS, nn.L1Loss()),
        ((4, 3), MARKS, nn.SmoothL1Loss()),
        ((4,), MARKS[:, 0] / 2, nn.BCEWithLogitsLoss()),
        ((4,), 2 * MARKS[:, 0], nn.BCEWithLogitsLoss()),
        ((4, 3), CLASSES, nn.MultiMarginLoss()),
        ((4, 3), CLASSES % 2, nn.MultiMarginLoss()),
        ((4, 3), CLASSES, refuses_where(lambda score: score > 1)),
        ((4, 3), CLASSES, refuses_where(lambda score: score < 1)),
        ((4, 3), CLASSES, lambda x, y: of_the_first(x)),
        ((2, 3), CLASSES[:2], lambda x, y: (x[0].sum() - x[1].sum()).square()),
        ((4, 3), CLASSES, penalised),
        ((4, 3), CLASSES, picked),
        ((4, 3), CLASSES, lambda x, y: -picked(x, y).tanh()),
        ((4, 3), CLASSES, lambda x, y: -picked(x, y) - picked(x, (y + 1) % 3)),
        ((4, 3), CLASSES, lambda x, y: picked(x, (y + 1) % 3) - picked(x, y)),
        ((4, 3), CLASSES, lambda x, y: 3 * x.mean(dim=1) - 3 * picked(x, y)[:, 0]),
        ((4, 3), CLASSES, lambda x, y: 0 * x),
        ((4, 3), MARKS, lambda x, y: 0 * x),
        ((4, 3), MARKS, lambda x, y: -x * y),
        ((4, 3), MARKS, lambda x, y: -F.binary_cross_entropy_with_logits(x, y)),
        ((4, 3), MARKS, lambda x, y: F.binary_cross_entropy_with_logits(x, 1 - y)),
        ((4, 3), MARKS, lambda x, y: F.binary_cross_entropy_with_logits(x, y) + 1e-3 * x.mean()),
        ((4,), MARKS[:, 0], one_example_is_reversed),
        ((4,), MARKS[:, 0], refuses_far),
        ((4,), 1 - MARKS[:, 0], refuses_zeros),
        ((4,), MARKS[:, 0], refuses_zeros),
    ],
)
def test_other_losses_are_of_no_kind_that_a_check_knows(shape, targets, loss_fn):
    """Nothing is said about what outputs of a regression, or a loss of one's own, should be."""
    assert kind_of(shape, targets, loss_fn) == ""


# ------------------------------------------------------------------------ operations


def leaf(*shape):
    """Return a tensor that a graph may begin with."""
    return torch.linspace(-1, 1, 6).reshape(shape).requires_grad_()


@pytest.mark.parametrize(
    "passes",
    [
        lambda x: x,
        lambda x: x.view(6),
        lambda x: x.reshape(3, 2),
        lambda x: x.unsqueeze(0).squeeze(0),
        lambda x: x.mT.permute(1, 0),
        lambda x: x.T,
        lambda x: x.transpose(0, 1).clone(),
        lambda x: x[:, 1:],
        lambda x: x[0],
        lambda x: x.unsqueeze(0).expand(2, 2, 3),
        lambda x: x.double(),
        lambda x: torch.native_dropout(x, 0.5, True)[0],
        lambda x: x.softmax(dim=1),
        lambda x: x.log_softmax(dim=1),
        lambda x: x.flatten()[1:].double().reshape(5, 1),
    ],
)
def test_an_operation_is_seen_behind_what_passes_values_on(passes):
    """A change of shape, dtype or place, dropout, and softmax leave what was cut off."""
    assert operation(passes(leaf(2, 3).relu()), {"Sigmoid", "Relu"}) == "Relu"


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        (leaf(2, 3), {"Relu"}),
        (leaf(2, 3).detach(), {"Relu"}),
        (leaf(2, 3).clone(), {"Relu"}),
        (leaf(2, 3).relu() * 2, {"Relu"}),
        (leaf(2, 3).relu() - 1, {"Relu"}),
        (leaf(2, 3).relu(), {"Sigmoid"}),
        (leaf(2, 3).sigmoid().relu(), {"Sigmoid"}),
    ],
)
def test_what_is_computed_further_does_not_come_from_an_operation(output, wanted):
    """Nor does what has no history."""
    assert operation(output, wanted) == ""


# ------------------------------------------------------------------------ logits

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.25, 2.0], [1.5, 1.0, 0.0], [-1.0, 3.0, 1.0]])
GIVEN_LOGITS = checks.check_cross_entropy_is_given_logits


def softmax(x):
    """Return probabilities."""
    return x.softmax(dim=1)


@pytest.mark.parametrize(
    ("after", "targets", "says"),
    [
        (softmax, CLASSES, "(4, 3) values from 0.0159 to 0.867 that sum to 1 in each row"),
        (softmax, CLASSES, "with which the loss of an example is never less than 0.5514"),
        (lambda x: softmax(x[:, :2]), CLASSES % 2, "is never less than 0.3133"),
        (lambda x: x.softmax(1).half().float(), CLASSES, "sum to 1 in each row"),
        (lambda x: x[:, :, None, None].expand(4, 3, 2, 2).softmax(1), MAPS, "(4, 3, 2, 2) values"),
        (torch.sigmoid, CLASSES, "that come from a sigmoid"),
        (F.hardsigmoid, CLASSES, "that come from a sigmoid"),
    ],
)
def test_probabilities_for_a_cross_entropy_are_found(after, targets, says):
    """The message says their range, and what they cost."""
    seen = observed(GIVEN_LOGITS, **parts(LOGITS, targets, F.cross_entropy, after))

    assert seen.startswith("cross-entropy is given ")
    assert says in seen


@pytest.mark.parametrize(
    ("after", "targets"),
    [
        (torch.sigmoid, MARKS),
        (F.hardsigmoid, MARKS),
        (lambda x: x[:, 0].sigmoid(), MARKS[:, 0]),
        (lambda x: x[:, :1].sigmoid(), MARKS[:, :1]),
    ],
)
def test_a_sigmoid_before_a_binary_cross_entropy_is_found(after, targets):
    """The message says their range; targets may be one for each example, or several."""
    loss_fn = F.binary_cross_entropy_with_logits

    seen = observed(GIVEN_LOGITS, **parts(LOGITS, targets, loss_fn, after))

    values = after(LOGITS)
    assert seen == (
        f"binary cross-entropy is given {tuple(values.shape)} values from {values.min():.3g} to "
        f"{values.max():.3g} that come from a sigmoid"
    )


BCE = F.binary_cross_entropy_with_logits


@pytest.mark.parametrize(
    ("outputs", "targets", "loss_fn", "after"),
    [
        (LOGITS, CLASSES, F.cross_entropy, None),
        (LOGITS, MARKS, BCE, None),
        (LOGITS, CLASSES, F.cross_entropy, lambda x: x.clamp(0, 1)),
        (LOGITS, CLASSES, F.cross_entropy, lambda x: x.softmax(1) * 0.98),
        (LOGITS, CLASSES, F.cross_entropy, lambda x: x.softmax(1) * 3 - 0.5),
        (LOGITS, CLASSES, F.cross_entropy, lambda x: x.log_softmax(1)),
        (LOGITS, CLASSES, F.cross_entropy, lambda x: 2 * torch.sigmoid(x)),
        (torch.full((4, 3), 1 / 3), MARKS, BCE, None),
        (
            torch.cat([torch.eye(3), torch.tensor([[0.5, 0.1, 0.1]])]),
            CLASSES,
            F.cross_entropy,
            None,
        ),
        (torch.cat([torch.eye(3), 2 * torch.eye(3)[:1]]), CLASSES, F.cross_entropy, None),
        (
            torch.cat([torch.eye(3), torch.tensor([[-0.5, 1.0, 0.5]])]),
            CLASSES,
            F.cross_entropy,
            None,
        ),
    ],
)
def test_scores_that_are_no_probabilities_are_left_alone(outputs, targets, loss_fn, after):
    """Neither do scores become probabilities because they happen to be between 0 and 1."""
    assert observed(GIVEN_LOGITS, **parts(outputs, targets, loss_fn, after)) == ""


def of_both(outputs, targets):
    """Return the loss of two heads."""
    return F.cross_entropy(outputs[0], targets) + F.cross_entropy(outputs[1], targets)


def test_a_head_that_is_right_does_not_hide_another_with_a_softmax():
    """Each output of the model is looked at."""
    heads = parts(LOGITS, CLASSES, of_both, lambda x: (x, softmax(x)))

    assert "sum to 1 in each row" in observed(GIVEN_LOGITS, **heads)


@pytest.mark.parametrize(
    ("check", "kinds"),
    [
        (GIVEN_LOGITS, "a cross-entropy or a binary cross-entropy"),
        (checks.check_nll_is_given_log_probabilities, "a negative log-likelihood"),
        (
            checks.check_scores_are_not_cut_at_zero,
            "a cross-entropy or a binary cross-entropy or a negative log-likelihood",
        ),
    ],
)
def test_a_loss_of_another_kind_is_not_checked(check, kinds):
    """The reason says which kinds would be."""
    with pytest.raises(NotCheckedError, match=f"^needs a loss that is {kinds}$"):
        check(**parts(LOGITS, MARKS, F.mse_loss))


# ------------------------------------------------------------------------ log-probabilities

GIVEN_LOG = checks.check_nll_is_given_log_probabilities


@pytest.mark.parametrize(
    ("outputs", "after", "says"),
    [
        (LOGITS, softmax, "is given probabilities: the exponentials of a row sum to "),
        (LOGITS, None, "is given logits: the exponentials of a row sum to 4.5 to 23.2, not to 1"),
        (LOGITS, lambda x: x.log_softmax(0), "is given log-probabilities over the batch dimension"),
        (LOGITS, lambda x: x.abs(), "is given logits"),
        (LOGITS, lambda x: x / 5, "is given logits"),
        (LOGITS, lambda x: x.log_softmax(1) + 0.15, "is given logits"),
        (LOGITS, lambda x: x.log_softmax(1) - 0.15, "is given logits: the exponentials of a row "),
        (torch.zeros(1, 3), None, "is given logits: the exponentials of a row sum to 3 to 3, not"),
        (torch.tensor([[2.0, -1.0, 0.0]] * 4), None, "is given logits"),
        (torch.cat([LOGITS[:3].log_softmax(1), LOGITS[:1]]), None, "sum to 1 to 4.5, not to 1"),
    ],
)
def test_what_is_no_log_probability_is_named(outputs, after, says):
    """The message says what was given instead, and what shows it."""
    seen = observed(GIVEN_LOG, **parts(outputs, CLASSES[: len(outputs)], F.nll_loss, after))

    assert seen.startswith("NLLLoss ")
    assert says in seen


@pytest.mark.parametrize("after", [lambda x: x.log_softmax(1), lambda x: x.log_softmax(1) + 0.09])
def test_log_probabilities_are_left_alone(after):
    """A little more or less may be rounding in a short floating-point type."""
    assert observed(GIVEN_LOG, **parts(LOGITS, CLASSES, F.nll_loss, after)) == ""


def test_the_other_head_of_a_negative_log_likelihood_is_looked_at_too():
    """One that is right does not end the check."""

    def of_both(outputs, targets):
        return F.nll_loss(outputs[0], targets) + F.nll_loss(outputs[1], targets)

    heads = parts(LOGITS, CLASSES, of_both, lambda x: (x.log_softmax(1), softmax(x)))

    assert "is given probabilities" in observed(GIVEN_LOG, **heads)


# ------------------------------------------------------------------------ scores cut at zero

CUT = checks.check_scores_are_not_cut_at_zero


@pytest.mark.parametrize(
    ("loss_fn", "targets", "after", "says"),
    [
        (F.cross_entropy, CLASSES, F.relu, "cross-entropy is given scores that come from Relu"),
        (F.cross_entropy, CLASSES, F.relu, "of (4, 3) none is negative, and 33% are cut off"),
        (F.cross_entropy, CLASSES, F.relu6, "come from Hardtanh"),
        (F.cross_entropy, CLASSES, lambda x: x.clamp(min=0), "come from Clamp"),
        (F.cross_entropy, CLASSES, lambda x: F.threshold(x, 0.6, 0.0), "come from Threshold"),
        (F.cross_entropy, CLASSES, lambda x: x.maximum(0 * x), "come from Maximum"),
        (F.cross_entropy, CLASSES, lambda x: torch.where(x > 0, x, 0 * x), "come from Where"),
        (BCE, MARKS, F.relu, "binary cross-entropy is given scores that come from Relu"),
        (F.nll_loss, CLASSES, lambda x: F.relu(x).log_softmax(1), "and 33% are cut off at one"),
    ],
)
def test_scores_that_were_cut_at_zero_are_found(loss_fn, targets, after, says):
    """The message names the operation, and how many scores it cut off."""
    assert says in observed(CUT, **parts(LOGITS, targets, loss_fn, after))


@pytest.mark.parametrize(
    ("outputs", "after"),
    [
        (LOGITS, None),
        (LOGITS, lambda x: F.relu(x) - 1),
        (LOGITS, lambda x: x.clamp(-5, 5)),
        (LOGITS, lambda x: x.clamp(min=-1)),
        (LOGITS.abs() + 0.5, F.relu),
        (LOGITS, F.leaky_relu),
        (LOGITS, lambda x: (x - 4).clamp(max=0)),
    ],
)
def test_scores_that_can_be_negative_are_left_alone(outputs, after):
    """So are those of which none was cut off, and bounds that leave room below zero."""
    assert observed(CUT, **parts(outputs, CLASSES, F.cross_entropy, after)) == ""


def test_a_head_that_is_not_cut_does_not_hide_one_that_is():
    """Neither one of another operation, nor one that was left as it is."""
    heads = parts(LOGITS, CLASSES, of_both, lambda x: (x, F.relu(x)))
    clamped = parts(LOGITS, CLASSES, of_both, lambda x: (x.clamp(-5, 5), F.relu(x)))

    assert "come from Relu" in observed(CUT, **heads)
    assert "come from Relu" in observed(CUT, **clamped)
