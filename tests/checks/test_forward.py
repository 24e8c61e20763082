"""What the checks of the forward pass find, report and accept."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlconcepts import checks
from dlconcepts.checks import NotCheckedError
from dlconcepts.checks.laws.forward import (
    example_dims,
    forward,
    look_for_writes,
    records,
)
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import BrokenLawError
from dlconcepts.checks.trees import tensors
from tests.checks.small_projects import Gives, observed, sgd

X = torch.tensor([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0], [7.0, 8.0], [9.0, -10.0]])


def project(after=None, inputs=X, **parts):
    return Project(model=Gives(after), batch=(inputs, None), **parts)


# ------------------------------------------------------------------------ examples apart

APART = checks.check_examples_stay_apart


def leak(source, target, share=1.0):

    def leaks(x):
        out = x.clone()
        out[target] += share * x[source]
        return out

    return leaks


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize(("source", "target"), [(0, -1), (-1, 0)])
@pytest.mark.parametrize("share", [1, 1e-5])
def test_one_example_that_reaches_another_is_found(n, source, target, share):
    """The check finds the first or the last example, and a change of any size."""
    seen = observed(APART, model=Gives(leak(source, target, share)), batch=(X[:n], None))

    assert seen.startswith("other examples in the batch changed the output of ")


@pytest.mark.parametrize(("n", "kept", "last"), [(2, 1, 1), (3, 2, 1), (4, 2, 2), (5, 3, 2)])
def test_the_message_counts_the_examples_and_measures_the_change(n, kept, last):
    """The first half of the batch stays the same; the change is relative to the largest output."""
    inputs = torch.arange(1.0, n + 1).reshape(n, 1)
    model = Gives(lambda x: x + x[-1])

    seen = observed(APART, model=model, batch=(inputs, None))

    # Copies of those that are kept stand in for the others: the last one is a copy of `last`.
    change = (n - last) / (n + kept)
    assert seen == (
        f"other examples in the batch changed the output of {kept} examples that stayed the same, "
        f"by {change:.2g} of its largest value"
    )


def test_the_output_that_is_changed_is_named():
    """The message names the output that leaks, even if another one is right."""
    model = Gives(lambda x: {"own": x, "mixed": x - x.mean(dim=0)})

    assert "the output['mixed'] of 3 examples" in observed(APART, model=model, batch=(X, None))


def test_examples_are_found_along_another_dimension_of_the_output():
    """The examples may be the second dimension of an output."""
    batch = torch.cat([X, X], dim=1), None

    assert observed(APART, model=Gives(lambda x: x.T), batch=batch) == ""
    assert observed(APART, model=Gives(lambda x: leak(0, -1)(x).T), batch=batch) != ""


@pytest.mark.parametrize("after", [None, lambda x: x - x.mean(dim=1, keepdim=True), torch.sort])
def test_examples_that_stay_apart_are_left_alone(after):
    """Work along the other dimensions is fine."""
    after = (lambda x: x.sort(dim=1).values) if after is torch.sort else after

    assert observed(APART, model=Gives(after), batch=(X, None)) == ""


def test_rounding_that_depends_on_the_neighbours_is_left_alone():
    """A matrix product may round differently next to other rows."""
    model = Gives(lambda x: x + 1e-7 * x.mean(dim=0))

    assert observed(APART, model=model, batch=(X, None)) == ""


class TimeFirst(Gives):
    batch_first = False


@pytest.mark.parametrize(
    ("model", "inputs", "why"),
    [
        (Gives(), X[:1], "^needs a batch of at least 2 examples$"),
        (TimeFirst(), X[:2], "^needs batch_dim: either of two dimensions may count the examples"),
        (Gives(torch.sum), X, "^needs an output with a dimension that counts the examples$"),
        (Gives(torch.sum), X[:2], "^needs an output with a dimension that counts the examples$"),
        (Gives(), torch.zeros(5, 2), "^needs examples that differ: all in the batch are the same$"),
    ],
)
def test_what_cannot_be_told_is_not_checked(model, inputs, why):
    """The reason says what the check needs."""
    with pytest.raises(NotCheckedError, match=why):
        APART(model=model, batch=(inputs, None))


def test_a_batch_of_the_same_examples_still_shows_a_leak():
    """The check changes their values, even if one of the inputs is all zero."""
    same = {"a": torch.zeros(4, 1), "b": torch.ones(4, 1)}

    class Sums(Gives):
        def forward(self, a, b):
            return (a + b) * self.one - b.mean(dim=0)

    assert observed(APART, model=Sums(), batch=same) != ""


# ------------------------------------------------------------------------ the forward pass


def only_five(x):
    if len(x) != 5:
        raise ValueError("a batch has five examples")
    return x, x.T, x.sum(), x.sum(dim=1)


def test_a_model_for_batches_of_one_size_has_its_examples_first():
    """If a smaller batch fails, the first dimension counts the examples."""
    one = project(only_five)

    assert example_dims(one, forward(one, X)) == {"[0]": 0, "[3]": 0}


# ------------------------------------------------------------------------ softmax

CLASSES = checks.check_softmax_is_over_the_classes


@pytest.mark.parametrize("log", [False, True])
def test_a_softmax_over_the_examples_is_found(log):
    """The message gives the shape, and the sum over the classes of the first example."""
    inputs = torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
    total = inputs.softmax(0)[0].sum().item()
    model = Gives(lambda x: x.log_softmax(0) if log else x.softmax(0))

    assert observed(CLASSES, model=model, batch=(inputs, None)) == (
        "in what the model returned, (2, 3), each class sums to 1 over the 2 examples, but the "
        f"classes of the first example sum to {total:.3g}"
    )


def test_a_softmax_over_the_examples_is_found_in_maps_and_in_one_of_several_outputs():
    """An output that is right does not hide another that is wrong."""
    model = Gives(lambda x: {"right": x.softmax(1), "map": x.reshape(5, 2, 1).softmax(0)})

    seen = observed(CLASSES, model=model, batch=(X, None))

    assert seen.startswith("in what the model returned['map'], (5, 2, 1), each class sums to 1")


def test_a_softmax_over_the_examples_is_found_in_predict():
    """The model may return logits while predict returns the wrong probabilities."""
    parts = {"model": Gives(), "batch": (X, None)}

    seen = observed(CLASSES, **parts, predict=lambda model, x: model(x).softmax(0))

    assert seen.startswith("in what predict returned, (5, 2), each class sums to 1 over the 5 ex")
    assert observed(CLASSES, **parts, predict=lambda model, x: model(x).softmax(1)) == ""


@pytest.mark.parametrize("after", [None, lambda x: x.softmax(1), lambda x: 0 * x[:2] + 0.5])
def test_other_outputs_are_no_softmax_over_the_examples(after):
    """Nothing is wrong if both sums are 1, as they can be before the first step."""
    assert observed(CLASSES, model=Gives(after), batch=(X, None)) == ""


@pytest.mark.parametrize("n", [1, 2])
def test_a_softmax_is_seen_in_two_examples_not_in_one(n):
    """The only example of a batch always sums to itself."""
    parts = {"model": Gives(lambda x: x.softmax(0)), "batch": (X[:n], None)}

    if n == 1:
        with pytest.raises(NotCheckedError, match="needs a batch of at least 2 examples"):
            CLASSES(**parts)
    else:
        assert "over the 2 examples" in observed(CLASSES, **parts)


# ------------------------------------------------------------------------ inputs left alone

ALONE = checks.check_inputs_are_left_alone


def step(model, loss_fn, optimizer, inputs, targets):
    optimizer.zero_grad()
    loss_fn(model(inputs), targets).backward()
    optimizer.step()


def whole(**changes):
    parts = {
        "model": Gives(),
        "batch": (X, torch.ones(5, 2)),
        "loss_fn": F.mse_loss,
        "optimizer": sgd,
        "train_step": step,
        "predict": lambda model, x: model(x).softmax(1),
        "accuracy": lambda outputs, targets: (outputs == targets).double().mean(),
    }
    return parts | changes


class Writes(Gives):
    def __init__(self, training):
        super().__init__()
        self.when = training

    def forward(self, x):
        return super().forward(x.clamp_(min=0) if self.training is self.when else x)


def halves(value, result=0.0):
    value[:, 0] += 1
    return result


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": Writes(True)}, "30% of the elements of the inputs that the model in training "),
        ({"model": Writes(False)}, "30% of the elements of the inputs that the model in eval mode"),
        (
            {"loss_fn": lambda x, y: halves(x, x.sum())},
            "50% of the elements of the outputs that th",
        ),
        ({"loss_fn": lambda x, y: halves(y, x.sum())}, "the targets that the loss was given"),
        ({"predict": lambda model, x: halves(x)}, "of the inputs that predict was given changed"),
        ({"accuracy": lambda x, y: halves(x)}, "of the outputs that accuracy was given changed"),
        ({"accuracy": lambda x, y: halves(y)}, "of the targets that accuracy was given changed"),
        (
            {"train_step": lambda model, loss_fn, optimizer, x, y: halves(x)},
            "of the inputs that train_step was given changed",
        ),
        (
            {"train_step": lambda model, loss_fn, optimizer, x, y: halves(y)},
            "of the targets that train_step was given changed",
        ),
    ],
)
def test_a_part_that_writes_to_its_arguments_is_named(changes, says):
    """The message says which part wrote, and to which argument."""
    assert says in observed(ALONE, **whole(**changes))


def test_parts_that_leave_their_arguments_alone_pass():
    """A part that works on a copy passes as well."""
    assert observed(ALONE, **whole()) == ""
    assert observed(ALONE, **whole(predict=lambda model, x: halves(x.clone()))) == ""


def test_without_a_model_no_input_is_looked_at():
    """The check says that it needs a model."""
    with pytest.raises(NotCheckedError, match="needs model"):
        ALONE(**whole(model=None))


def test_the_loss_is_given_what_the_model_gives_in_eval_mode():
    """The outputs are those of eval mode, without a graph, so the loss can write to them."""

    def insists(outputs, targets):
        assert torch.equal(outputs, X)
        assert not outputs.requires_grad
        assert torch.equal(targets, torch.ones(5, 2))

    model = nn.Sequential(Gives(), nn.Dropout(0.9))

    assert observed(ALONE, **whole(model=model, loss_fn=insists, train_step=None)) == ""


def after(change, tree):
    before = records(tree)

    change(tree)
    try:
        look_for_writes("the inputs", tensors(tree), before)
    except BrokenLawError as seen:
        return str(seen)
    return ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tree: tree["a"].sum(), ""),
        (lambda tree: tree.pop("a"), "the inputs lost or gained ['a']"),
        (
            lambda tree: tree.update(d=torch.ones(1), c=tree.pop("a")),
            "the inputs lost or gained ['a'], ['c'], ['d']",
        ),
        (lambda tree: tree["a"].resize_(4), "the inputs['a'] changed shape: (2, 2) to (4,)"),
        (lambda tree: tree["b"].unsqueeze_(0), "the inputs['b'] changed shape: (4,) to (1, 4)"),
        (lambda tree: tree["a"][0, 0].add_(1), "25% of the elements of the inputs['a'] changed"),
        (lambda tree: tree["b"].add_(1), "100% of the elements of the inputs['b'] changed"),
        (
            lambda tree: tree["b"].add_(0),
            "the inputs['b'] was written to, though with the values that it had",
        ),
        (lambda tree: tree["a"].requires_grad_(), "the inputs['a'] requires a gradient now"),
    ],
)
def test_each_trace_of_a_write_is_told(change, says):
    """A write shows in the structure, shape, values, version counter or requires_grad."""
    written_before = torch.zeros(4).add_(0)

    assert after(change, {"a": torch.zeros(2, 2), "b": written_before}) == says


# ------------------------------------------------------------------------ chance

CHANCE = checks.check_eval_mode_leaves_nothing_to_chance


def at_seed(number, size=0.5):
    return lambda x: x * (1 + size * (torch.initial_seed() == number))


@pytest.mark.parametrize(
    ("function", "apart"),
    [
        (at_seed(1), "0.33"),
        (at_seed(2), "0.33"),
        (at_seed(3), "0.33"),
        (at_seed(2, 2**-20), "9.5e-07"),
    ],
)
def test_chance_in_eval_mode_is_found(function, apart):
    """One seed of three that differs by a millionth is enough."""
    seen = observed(CHANCE, model=Gives(function), batch=(X, None))

    assert seen == (
        f"in eval mode two passes over one batch gave outputs that differ by {apart} of their "
        "largest value"
    )


def test_chance_is_found_in_one_of_several_outputs():
    """The message names the output."""
    model = Gives(lambda x: {"fixed": x, "drawn": x * torch.rand(2)})

    assert "gave outputs['drawn'] that" in observed(CHANCE, model=model, batch=(X, None))


counter = itertools.count()


def counts(x):
    return x + 1e-4 * next(counter) + 0 * torch.rand(1)


@pytest.mark.parametrize("function", [lambda x: x + 0 * torch.rand(1), counts])
def test_what_depends_on_no_random_number_is_left_alone(function):
    """A kernel that rounds differently each time does so with the same seed as well."""
    assert observed(CHANCE, model=Gives(function), batch=(X, None)) == ""


@pytest.mark.parametrize("function", [None, lambda x: F.dropout(x, training=False)])
def test_a_model_without_chance_does_not_pass_for_nothing(function):
    """A model that never draws random numbers shows nothing."""
    with pytest.raises(NotCheckedError, match="draws random numbers"):
        CHANCE(model=Gives(function), batch=(X, None))


@pytest.mark.parametrize("noise", [torch.randn_like, lambda x: torch.randn(x.shape)])
@pytest.mark.parametrize("computed", [True, False])
def test_a_model_that_computes_the_spread_of_its_samples_is_not_judged(noise, computed):
    """A variational autoencoder samples on purpose; noise of a fixed size is left on by mistake."""
    given = {"model": Gives(lambda x: x + noise(x) * (x.exp() if computed else 0.1))}

    if computed:
        with pytest.raises(NotCheckedError, match="draws no samples"):
            CHANCE(**given, batch=(X, None))
    else:
        assert "differ by" in observed(CHANCE, **given, batch=(X, None))


def test_dropout_of_the_training_is_left_alone():
    """The check uses eval mode, whatever mode the model was in."""
    assert observed(CHANCE, model=nn.Dropout(0.5).train(), batch=(X, None)) == ""


# ------------------------------------------------------------------------ another device

MOVES = checks.check_the_model_moves_as_a_whole


class Holds(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Gives()
        self.part.Y = torch.ones(2)
        self.X = torch.ones(2)
        self.register_buffer("fine", torch.ones(2))
        self.name = "no tensor"

    def forward(self, x):
        return self.part(x) + self.part.Y + self.X + self.fine


def test_a_tensor_that_stays_behind_is_named():
    """The message has PyTorch's error and the attribute that did not move."""
    seen = observed(MOVES, model=Holds(), batch=(X, None))

    assert seen.startswith("after model.to(device) the forward pass raised: ")
    assert seen.endswith("; plain attributes stay behind: X, part.Y")
    assert "\n" not in seen


def test_a_tensor_made_in_forward_is_found_without_a_name():
    """The message names no attribute if none holds the tensor."""
    model = Gives(lambda x: x + torch.ones(2))

    seen = observed(MOVES, model=model, batch=(X, None))

    assert seen.startswith("after model.to(device) the forward pass raised: ")
    assert "stay behind" not in seen


def raises(message):

    def refuses(x):
        if x.device.type == "meta":
            raise RuntimeError(message)
        return x

    return refuses


LONG = "Expected all tensors to be on the\n   SAME DEVICE, " + "but found them here, " * 9
OTHER = "there is no kernel for \n it " + "on this machine " * 9


def test_a_long_error_is_shortened_to_one_line():
    """The message stays readable, and the whole error decides the verdict."""
    seen = observed(MOVES, model=Gives(raises(LONG)), batch=(X, None))

    said = " ".join(LONG.split())[:120]
    assert seen == f"after model.to(device) the forward pass raised: {said}"


def test_an_operator_that_the_meta_device_lacks_is_no_mistake():
    """An unsupported operator says nothing about the model."""
    with pytest.raises(NotCheckedError) as caught:
        MOVES(model=Gives(raises(OTHER)), batch=(X, None))

    said = " ".join(OTHER.split())[:80]
    assert str(caught.value) == f"the meta device does not run this model: {said}"


@pytest.mark.parametrize("model", [Gives(), nn.Linear(2, 1), nn.Dropout()])
def test_a_model_that_moves_as_a_whole_passes(model):
    """The check runs the model with inputs on the meta device, and counts the pass."""
    one = Project(model=model, batch=(X, None))

    MOVES(one)

    assert one.passes == 1


def test_a_project_with_a_forward_of_its_own_is_run_by_it():
    """The project's forward gets the model and the inputs on the other device."""

    def own(model, inputs):
        if inputs["x"].device.type == "meta":
            raise RuntimeError("expected device cpu")
        return model(inputs["x"])

    seen = observed(MOVES, model=Gives(), batch={"x": X, "y": X}, forward=own)

    assert seen.endswith("raised: expected device cpu")


class Whole(Gives):
    def __deepcopy__(self, memo):
        raise TypeError("a lock cannot be copied")


def test_a_model_that_cannot_be_copied_is_not_moved():
    """Moving the original would take it away from its owner."""
    with pytest.raises(NotCheckedError, match="needs a model that can be copied"):
        MOVES(model=Whole(), batch=(X, None))
