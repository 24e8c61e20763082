"""What the checks of the loss find, report and accept."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlconcepts import checks
from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.loss import (
    kind,
    operation,
    used,
)
from dlconcepts.checks.project import Project
from dlconcepts.checks.recording import Recording, scores
from tests.checks.small_projects import Gives, observed, sgd


def parts(outputs, targets, loss_fn, after=None):
    return {"model": Gives(after), "batch": (outputs, targets), "loss_fn": loss_fn}


# ------------------------------------------------------------------------ pairs


def flat(columns):
    return lambda x: x[:, :1] if columns else x[:, 0]


PAIRS = checks.check_the_loss_pairs_outputs_with_targets


def absolute(outputs, targets):
    return (outputs - targets).abs().mean()


def insists(outputs, targets):
    assert len(outputs) == len(targets)
    return absolute(outputs, targets)


def tiny(outputs, targets):
    return 1e-7 * (outputs - targets).square().mean()


def of_each(outputs, targets):
    return (outputs - targets).square()


@pytest.mark.parametrize("loss_fn", [F.mse_loss, F.l1_loss, absolute, insists, tiny, of_each])
@pytest.mark.parametrize(
    "targets", [[1.0, 2.0, 4.0], [3.0, 1.0, 5.0, 3.1], [5000.0, 5010.0], [1.0, 1.002, 1.001]]
)
def test_a_loss_that_compares_all_with_all_is_found(loss_fn, targets):
    """The name of the loss, and the unit and offset of the targets, do not matter."""
    targets = torch.tensor(targets)
    n = len(targets)

    with pytest.raises(CheckFailedError) as caught:
        PAIRS(**parts(torch.randn(n, 4), targets, loss_fn, flat(True)))

    words = f"outputs ({n}, 1) and targets ({n},) were compared as ({n}, {n}): {n * n} pairs for"
    assert caught.value.observed == f"{words} {n} examples"


def test_a_loss_of_whole_numbers_is_found_too():
    """Integer targets broadcast like others."""
    seen = observed(
        PAIRS, **parts(torch.randn(3, 4), torch.tensor([0, 1, 5]), absolute, flat(True))
    )

    assert "were compared as (3, 3)" in seen


def of_two_heads(outputs, targets):
    return F.l1_loss(outputs["flat"], targets["a"]) + F.l1_loss(outputs["column"], targets["b"])


def test_each_of_several_outputs_is_compared_with_each_target():
    """A head that is right does not hide another that broadcasts."""
    model = Gives(lambda x: {"flat": x[:, 0], "column": x[:, :1]})
    targets = {"a": torch.arange(5.0), "b": torch.arange(5.0)}

    with pytest.raises(CheckFailedError, match=r"outputs \(5, 1\) and targets \(5,\)"):
        PAIRS(model=model, batch=(torch.randn(5, 4), targets), loss_fn=of_two_heads)


FIVE = torch.tensor([0.0, 4.0, 1.0, 3.0, 2.0])


def squeezes(outputs, targets):
    return F.l1_loss(outputs.squeeze(1), targets)


def is_flat_far_away(outputs, targets):
    return (outputs.squeeze(1) - targets).abs().clamp(max=1e-9).mean()


def refuses(outputs, targets):
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
    """Equal shapes, a loss that squeezes, a single target and class labels are fine."""
    PAIRS(**parts(torch.randn(5, 4), targets, loss_fn, after))


# ------------------------------------------------------------------------ what the loss is given


def test_a_recording_has_what_the_loss_has():
    """A training step may read attributes of the loss, such as its reduction."""
    recording = Recording(nn.MSELoss(reduction="sum"))

    assert recording.reduction == "sum"
    assert not hasattr(recording, "weight")


def halves(model, loss_fn, optimizer, inputs, targets):
    optimizer.zero_grad()
    loss_fn(model(inputs) / 2, targets + 1).backward()
    loss_fn(model(inputs), targets)


def halves_in_fit(model, loader, loss_fn, optimizer):
    for inputs, targets in loader:
        halves(model, loss_fn, optimizer, inputs, targets)


def by_name(model, loss_fn, optimizer, inputs, targets):
    loss_fn(input=model(inputs) / 2, target=targets)


def on_whole_numbers(model, loss_fn, optimizer, inputs, targets):
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
    """The check takes the arguments of the first call in training, or the model's outputs."""
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
    """The outputs are those of training mode, with dropout."""
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
    raise KeyError("no such column")


def test_a_step_that_raises_leaves_the_loss_of_the_project():
    """The error is the project's own, and its loss is restored."""
    loss_fn = nn.MSELoss()
    batch = torch.ones(2, 2), torch.ones(2, 2)
    project = Project(model=Gives(), batch=batch, loss_fn=loss_fn, train_step=fails, optimizer=sgd)

    with pytest.raises(KeyError, match="no such column"):
        scores(project)

    assert project.loss_fn is loss_fn


# ------------------------------------------------------------------------ the loss as a function


def of_a_project(outputs, targets, loss_fn, after=None):
    return used(Project(**parts(outputs, targets, loss_fn, after)))


def test_a_loss_that_writes_to_its_targets_finds_them_as_they_were():
    """Each call of the loss gets new targets."""

    def overwrites(outputs, targets):
        targets += 1
        return F.mse_loss(outputs, targets)

    ((_, target, loss),) = of_a_project(torch.zeros(2), torch.zeros(2), overwrites)

    assert [loss(torch.zeros(2)).item() for _ in range(3)] == [1, 1, 1]
    assert not target.any()


class Elsewhere(torch.Tensor):
    @property
    def device(self):
        return torch.device("meta")


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.tensor(3.0))

    def cpu(self):
        moved = self.weight.clone()
        self.weight.zero_()
        self.weight = moved
        return self

    def forward(self, outputs, targets):
        return self.weight * F.mse_loss(outputs, targets)


def test_a_loss_on_another_device_is_copied_to_the_cpu():
    """The project's own loss stays on its device."""
    loss_fn = Weighted()
    own = loss_fn.weight
    project = Project(model=Gives(), batch=(torch.ones(2), torch.zeros(2)), loss_fn=loss_fn)
    project.scored = torch.ones(2).as_subclass(Elsewhere), torch.zeros(2)

    ((_, _, loss),) = used(project)

    assert loss(torch.ones(2)) == 3
    assert loss_fn.weight is own
    assert own == 3


def test_training_is_run_once_for_all_checks_of_the_loss():
    """All checks of the loss share the arguments of one training step."""
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


# ------------------------------------------------------------------------ kinds of losses

CLASSES = torch.tensor([0, 2, 1, 1])
MARKS = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
MAPS = torch.arange(16).reshape(4, 2, 2) % 3
SOME = torch.tensor([0, -100, 1, 1])


def kind_of(shape, targets, loss_fn):
    return kind(torch.zeros(shape), targets, lambda values: loss_fn(values, targets).mean())


def picked(outputs, targets):
    return outputs.gather(1, targets.unsqueeze(1))


def penalised(outputs, targets):
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
    """Weights, smoothing, ignored examples, maps and units do not matter."""
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
    """It is linear, and picks one class of each example."""
    assert kind_of(shape, targets, loss_fn) == "negative log-likelihood"


def in_one_precision(outputs, targets):
    assert outputs.dtype == torch.float32
    assert bool((outputs.abs() < 50).all())
    return F.binary_cross_entropy_with_logits(outputs, targets)


def without_the_last(outputs, targets):
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
    """It is steep where a score is wrong, and flat where a score is clearly right."""
    assert kind_of(shape, targets, loss_fn) == "binary cross-entropy"


def refuses_far(outputs, targets):
    if bool((outputs.abs() > 20).any()):
        raise ValueError("a score is too large")
    return F.binary_cross_entropy_with_logits(outputs, targets)


def of_the_first(values):
    return F.relu(1 - values[0, 0])


def refuses_where(is_refused):

    def loss(outputs, targets):
        if bool(is_refused(outputs.flatten()[0])):
            raise ValueError("this is no score")
        return F.cross_entropy(outputs, targets)

    return loss


def refuses_zeros(outputs, targets):
    if bool((outputs[0] > 20).any()):
        raise ValueError("a score is too large")
    return F.binary_cross_entropy_with_logits(outputs, targets)


def one_example_is_reversed(outputs, targets):
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
    """The checks say nothing about a regression or a custom loss."""
    assert kind_of(shape, targets, loss_fn) == ""


# ------------------------------------------------------------------------ operations


def leaf(*shape):
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
    """The search looks behind changes of shape, dtype or device, dropout, and softmax."""
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
    """Another operation in between ends the search, and so does a missing graph."""
    assert operation(output, wanted) == ""


# ------------------------------------------------------------------------ logits

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.25, 2.0], [1.5, 1.0, 0.0], [-1.0, 3.0, 1.0]])
GIVEN_LOGITS = checks.check_cross_entropy_is_given_logits


def softmax(x):
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
    """The message gives their range and the smallest possible loss."""
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
    """The message gives the range, for one or several targets per example."""
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
    """Scores between 0 and 1 are not probabilities unless they sum to 1."""
    assert observed(GIVEN_LOGITS, **parts(outputs, targets, loss_fn, after)) == ""


def of_both(outputs, targets):
    return F.cross_entropy(outputs[0], targets) + F.cross_entropy(outputs[1], targets)


def test_a_head_that_is_right_does_not_hide_another_with_a_softmax():
    """The check looks at every output of the model."""
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
    """The reason says which kinds the check applies to."""
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
    """The message says what the loss got instead, and how that shows."""
    seen = observed(GIVEN_LOG, **parts(outputs, CLASSES[: len(outputs)], F.nll_loss, after))

    assert seen.startswith("NLLLoss ")
    assert says in seen


@pytest.mark.parametrize("after", [lambda x: x.log_softmax(1), lambda x: x.log_softmax(1) + 0.09])
def test_log_probabilities_are_left_alone(after):
    """Small deviations are rounding in bfloat16 or float16."""
    assert observed(GIVEN_LOG, **parts(LOGITS, CLASSES, F.nll_loss, after)) == ""


def test_the_other_head_of_a_negative_log_likelihood_is_looked_at_too():
    """A head that is right does not end the check."""

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
    """The operation may cut nothing off, or have a bound below zero."""
    assert observed(CUT, **parts(outputs, CLASSES, F.cross_entropy, after)) == ""


def test_a_head_that_is_not_cut_does_not_hide_one_that_is():
    """The check looks at every head."""
    heads = parts(LOGITS, CLASSES, of_both, lambda x: (x, F.relu(x)))
    clamped = parts(LOGITS, CLASSES, of_both, lambda x: (x.clamp(-5, 5), F.relu(x)))

    assert "come from Relu" in observed(CUT, **heads)
    assert "come from Relu" in observed(CUT, **clamped)
