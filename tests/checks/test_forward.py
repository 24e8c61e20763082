"""What the checks of the forward pass see, say and leave alone, on tensors of a few numbers."""

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
    marks,
    neighbours_replaced,
    plain_tensors,
    sums_to_one,
    users,
)
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import BrokenLawError
from tests.checks.small_projects import Gives, observed, sgd

X = torch.tensor([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0], [7.0, 8.0], [9.0, -10.0]])


def project(after=None, inputs=X, **parts):
    """Return a project whose model gives what a function makes of its inputs."""
    return Project(model=Gives(after), batch=(inputs, None), **parts)


# ------------------------------------------------------------------------ examples apart

APART = checks.check_examples_stay_apart


def leak(source, target, share=1.0):
    """Return a function that adds a share of one example to another."""

    def leaks(x):
        out = x.clone()
        out[target] += share * x[source]
        return out

    return leaks


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize(("source", "target"), [(0, -1), (-1, 0)])
@pytest.mark.parametrize("share", [1, 1e-5])
def test_one_example_that_reaches_another_is_found(n, source, target, share):
    """Be it the first or the last, and however little of it there is."""
    seen = observed(APART, model=Gives(leak(source, target, share)), batch=(X[:n], None))

    assert seen.startswith("other examples in the batch changed the output of ")


@pytest.mark.parametrize(("n", "kept", "last"), [(2, 1, 1), (3, 2, 1), (4, 2, 2), (5, 3, 2)])
def test_the_message_counts_the_examples_and_measures_the_change(n, kept, last):
    """The first half of the batch stays as it is; the change is a share of the largest output."""
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
    """Of several, the one that leaks; the other does not hide it."""
    model = Gives(lambda x: {"own": x, "mixed": x - x.mean(dim=0)})

    assert "the output['mixed'] of 3 examples" in observed(APART, model=model, batch=(X, None))


def test_examples_are_found_along_another_dimension_of_the_output():
    """An output may have the examples second."""
    batch = torch.cat([X, X], dim=1), None

    assert observed(APART, model=Gives(lambda x: x.T), batch=batch) == ""
    assert observed(APART, model=Gives(lambda x: leak(0, -1)(x).T), batch=batch) != ""


@pytest.mark.parametrize("after", [None, lambda x: x - x.mean(dim=1, keepdim=True), torch.sort])
def test_examples_that_stay_apart_are_left_alone(after):
    """What is done along the other dimensions is the example's own."""
    after = (lambda x: x.sort(dim=1).values) if after is torch.sort else after

    assert observed(APART, model=Gives(after), batch=(X, None)) == ""


def test_rounding_that_depends_on_the_neighbours_is_left_alone():
    """A matrix product may round otherwise beside other rows."""
    model = Gives(lambda x: x + 1e-7 * x.mean(dim=0))

    assert observed(APART, model=model, batch=(X, None)) == ""


class TimeFirst(Gives):
    """A model of sequences whose time comes first."""

    batch_first = False


@pytest.mark.parametrize(
    ("model", "inputs", "why"),
    [
        (Gives(), X[:1], "^needs a batch of at least 2 examples$"),
        (TimeFirst(), X[:2], "^needs batch_dim: both the first two dimensions are as long as the "),
        (Gives(torch.sum), X, "^needs an output with a dimension that counts the examples$"),
        (Gives(torch.sum), X[:2], "^needs an output with a dimension that counts the examples$"),
        (Gives(), torch.zeros(5, 2), "^needs examples that differ: all of the batch are the same$"),
    ],
)
def test_what_cannot_be_told_is_not_checked(model, inputs, why):
    """The reason says what would be needed."""
    with pytest.raises(NotCheckedError, match=why):
        APART(model=model, batch=(inputs, None))


def test_neighbours_become_copies_of_those_that_are_kept():
    """In turn, so that every other row changes."""
    replaced = neighbours_replaced(project(), torch.tensor([1, 3]))

    assert torch.equal(replaced, X[[1, 1, 3, 3, 1]])


def test_examples_that_are_all_the_same_are_halved():
    """Only the numbers of the others, and only those that have a half."""
    same = {
        "x": torch.tensor([[2.0, 0.0]] * 3),
        "ids": torch.tensor([4, 4, 4]),
        "scale": torch.tensor([2.0, 4.0, 6.0, 8.0]),
    }
    one = Project(model=Gives(), batch=same | {"y": torch.arange(3)})

    replaced = neighbours_replaced(one, torch.tensor([1]))

    assert replaced["x"].tolist() == [[1, 0], [2, 0], [1, 0]]
    assert replaced["ids"].tolist() == [4, 4, 4]
    assert replaced["scale"].tolist() == [2, 4, 6, 8]


def test_a_batch_of_the_same_examples_still_shows_a_leak():
    """What is zero in one input may be there in another."""
    same = {"a": torch.zeros(4, 1), "b": torch.ones(4, 1)}

    class Sums(Gives):
        """A model of two inputs."""

        def forward(self, a, b):
            """Return their sum, less a mean over the batch."""
            return (a + b) * self.one - b.mean(dim=0)

    assert observed(APART, model=Sums(), batch=same) != ""


# ------------------------------------------------------------------------ the forward pass


class Insists(Gives):
    """A model that runs in one mode only, with gradients in training and without in eval mode."""

    def __init__(self, training):
        """Say in which mode."""
        super().__init__()
        self.when = training

    def forward(self, x):
        """Return the inputs."""
        assert self.training is self.when, "another mode"
        assert torch.is_grad_enabled() is self.training, "gradients belong to training"
        return super().forward(x)


def test_a_forward_pass_is_in_eval_mode_without_gradients():
    """The model's own mode does not count, and what comes out has no history."""
    outputs = forward(Project(model=Insists(training=False).train(), batch=(X, None)), X)

    assert torch.equal(outputs, X)
    assert not outputs.requires_grad


class Buffered(nn.Module):
    """A model that returns what it keeps."""

    def __init__(self):
        """Keep a tensor."""
        super().__init__()
        self.register_buffer("kept", torch.zeros(2))

    def forward(self, x):
        """Count the pass and return the count."""
        return self.kept.add_(1)


def test_a_forward_pass_begins_with_the_model_as_it_was_given():
    """What one pass changed, neither the next one nor what it returned knows."""
    one = Project(model=Buffered(), batch=(X, None))

    first, second = forward(one, X), forward(one, X)

    assert first.tolist() == second.tolist() == [1, 1]


@pytest.mark.parametrize("seed", [0, 3])
def test_a_forward_pass_draws_from_the_seed(seed):
    """Zero, if none is said."""
    one = project(lambda x: x + torch.rand(2))
    torch.manual_seed(seed)
    drawn = torch.rand(2)

    assert torch.equal(forward(one, X, seed=seed), X + drawn)
    assert torch.equal(forward(one, X), forward(one, X, seed=0))


@pytest.mark.parametrize(
    ("after", "dims"),
    [
        (None, {"": 0}),
        (lambda x: x.T, {"": 1}),
        (lambda x: (x, x.sum(), x.sum(dim=0), x.long(), x[:2]), {"[0]": 0}),
        (lambda x: {"a": x.T[None], "b": x[:1]}, {"['a']": 2}),
        (lambda x: list(x.sum(dim=1)), {}),
        (lambda x: x.flatten(), {}),
        (lambda x: x[None] if len(x) == 5 else x, {}),
    ],
)
def test_the_dimension_that_counts_the_examples_follows_their_number(after, dims):
    """It has one less where the batch has one less; an output without one is left out."""
    one = project(after)

    assert example_dims(one, forward(one, X)) == dims


def only_five(x):
    """Return several outputs of a model that takes batches of five only."""
    if len(x) != 5:
        raise ValueError("a batch has five examples")
    return x, x.T, x.sum(), x.sum(dim=1)


def test_a_model_for_batches_of_one_size_has_its_examples_first():
    """What has as many rows as there are examples is taken for them."""
    one = project(only_five)

    assert example_dims(one, forward(one, X)) == {"[0]": 0, "[3]": 0}


# ------------------------------------------------------------------------ softmax

CLASSES = checks.check_softmax_is_over_the_classes


@pytest.mark.parametrize(
    ("output", "dim", "expected"),
    [
        (X.softmax(0), 0, True),
        (X.softmax(0), 1, False),
        (X.softmax(1), 1, True),
        (X.log_softmax(1), 1, True),
        (X.log_softmax(1), 0, False),
        (X.log_softmax(0), 0, True),
        (X[:1].softmax(1), 1, False),
        (X[:2].softmax(1), 1, True),
        (X[:, :1].softmax(0), 0, False),
        (X[:, 0].softmax(0), 0, False),
        (X.reshape(5, 2, 1).softmax(1), 1, True),
        (X.softmax(1) * 1.005, 1, True),
        (X.softmax(1) * 1.015, 1, False),
        (X.softmax(1) * 0.985, 1, False),
        (torch.tensor([[2.0, -1.0], [0.5, 0.5]]), 1, False),
        (torch.tensor([[0.5, 0.5], [0.5, 0.4]]), 1, False),
        (torch.eye(2), 1, True),
        (torch.zeros(2, 2), 1, False),
    ],
)
def test_a_distribution_sums_to_one(output, dim, expected):
    """Probabilities or their logarithms, of at least two classes for two examples, in each row."""
    assert sums_to_one(output.requires_grad_(output.is_leaf), dim) is expected


@pytest.mark.parametrize("log", [False, True])
def test_a_softmax_over_the_examples_is_found(log):
    """The message says the shape, and what the classes of the first example sum to."""
    inputs = torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
    total = inputs.softmax(0)[0].sum().item()
    model = Gives(lambda x: x.log_softmax(0) if log else x.softmax(0))

    assert observed(CLASSES, model=model, batch=(inputs, None)) == (
        "in what the model returned, (2, 3), each class sums to 1 over the 2 examples, but the "
        f"first example's classes sum to {total:.3g}"
    )


def test_a_softmax_over_the_examples_is_found_in_maps_and_in_one_of_several_outputs():
    """An output that is right does not hide it."""
    model = Gives(lambda x: {"right": x.softmax(1), "map": x.reshape(5, 2, 1).softmax(0)})

    seen = observed(CLASSES, model=model, batch=(X, None))

    assert seen.startswith("in what the model returned['map'], (5, 2, 1), each class sums to 1")


def test_a_softmax_over_the_examples_is_found_in_predict():
    """The model may give logits, and predict the wrong probabilities, with history or without."""
    parts = {"model": Gives(), "batch": (X, None)}

    seen = observed(CLASSES, **parts, predict=lambda model, x: model(x).softmax(0))

    assert seen.startswith("in what predict returned, (5, 2), each class sums to 1 over the 5 ex")
    assert observed(CLASSES, **parts, predict=lambda model, x: model(x).softmax(1)) == ""


@pytest.mark.parametrize("after", [None, lambda x: x.softmax(1), lambda x: 0 * x[:2] + 0.5])
def test_other_outputs_are_no_softmax_over_the_examples(after):
    """Where both sums are 1, as before the first step, nothing is wrong."""
    assert observed(CLASSES, model=Gives(after), batch=(X, None)) == ""


@pytest.mark.parametrize("n", [1, 2])
def test_a_softmax_is_seen_in_two_examples_not_in_one(n):
    """One example alone sums to itself."""
    parts = {"model": Gives(lambda x: x.softmax(0)), "batch": (X[:n], None)}

    if n == 1:
        with pytest.raises(NotCheckedError, match="needs a batch of at least 2 examples"):
            CLASSES(**parts)
    else:
        assert "over the 2 examples" in observed(CLASSES, **parts)


# ------------------------------------------------------------------------ inputs left alone

ALONE = checks.check_inputs_are_left_alone


def step(model, loss_fn, optimizer, inputs, targets):
    """Take one step."""
    optimizer.zero_grad()
    loss_fn(model(inputs), targets).backward()
    optimizer.step()


def whole(**changes):
    """Return a project that hands data to each of its parts."""
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
    """A model that writes to its inputs in one of its modes."""

    def __init__(self, training):
        """Say in which mode."""
        super().__init__()
        self.when = training

    def forward(self, x):
        """Return the inputs, perhaps clamped in place."""
        return super().forward(x.clamp_(min=0) if self.training is self.when else x)


def halves(value, result=0.0):
    """Write a half of a tensor into it, and return something."""
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
    """The message says which part, and to which of them."""
    assert says in observed(ALONE, **whole(**changes))


def test_parts_that_leave_their_arguments_alone_pass():
    """So do those that work on copies."""
    assert observed(ALONE, **whole()) == ""
    assert observed(ALONE, **whole(predict=lambda model, x: halves(x.clone()))) == ""


MODES = {"the model in training", "the model in eval mode"}


@pytest.mark.parametrize(
    ("lacking", "names"),
    [
        ([], {*MODES, "the loss", "predict", "accuracy", "train_step"}),
        (["loss_fn"], {*MODES, "predict", "accuracy", "train_step"}),
        (["predict"], {*MODES, "the loss", "accuracy", "train_step"}),
        (["accuracy"], {*MODES, "the loss", "predict", "train_step"}),
        (["train_step"], {*MODES, "the loss", "predict", "accuracy"}),
        (["optimizer"], {*MODES, "the loss", "predict", "accuracy"}),
        (["loss_fn", "accuracy", "train_step", "predict"], MODES),
    ],
)
def test_the_parts_that_there_are_are_looked_at(lacking, names):
    """A part that is missing is left out, and no other with it."""
    assert set(users(Project(**whole(**dict.fromkeys(lacking))))) == names


def test_without_targets_the_parts_that_take_them_are_left_out():
    """There is nothing that could be given to them."""
    assert set(users(Project(**whole(batch=X)))) == {*MODES, "predict"}


def test_without_a_model_no_input_is_looked_at():
    """What is not checked does not look as if it had passed."""
    with pytest.raises(NotCheckedError, match="needs model"):
        ALONE(**whole(model=None))


def test_the_loss_is_given_what_the_model_gives_in_eval_mode():
    """Without history, as in validation: it may write to it without an error of autograd."""

    def insists(outputs, targets):
        assert torch.equal(outputs, X)
        assert not outputs.requires_grad
        assert torch.equal(targets, torch.ones(5, 2))

    model = nn.Sequential(Gives(), nn.Dropout(0.9))

    assert observed(ALONE, **whole(model=model, loss_fn=insists, train_step=None)) == ""


def test_the_model_is_run_with_gradients_in_training_alone():
    """In the mode that its name says, as projects run it."""
    for training, name in [(True, "the model in training"), (False, "the model in eval mode")]:
        one = Project(model=Insists(training), batch=(X, None))

        users(one)[name](X, None)

        with pytest.raises(AssertionError, match="another mode"):
            users(one)[(MODES - {name}).pop()](X, None)


def after(change, tree):
    """Return what is seen once a change is made to a structure."""
    before, marked = torch.utils._pytree.tree_map(torch.clone, tree), marks(tree)

    change(tree)
    try:
        look_for_writes("the inputs", tree, before, marked)
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
        (lambda tree: tree["a"].resize_(4), "the inputs['a'] changed shape from (2, 2) to (4,)"),
        (lambda tree: tree["b"].unsqueeze_(0), "the inputs['b'] changed shape from (4,) to (1, 4)"),
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
    """The structure, the shape, the values, the count of writes, and what requires a gradient."""
    written_before = torch.zeros(4).add_(0)

    assert after(change, {"a": torch.zeros(2, 2), "b": written_before}) == says


# ------------------------------------------------------------------------ chance

CHANCE = checks.check_eval_mode_leaves_nothing_to_chance


def at_seed(number, size=0.5):
    """Return a function that does something else at one seed."""
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
    """One pass of three is enough, and a millionth of the values."""
    seen = observed(CHANCE, model=Gives(function), batch=(X, None))

    assert seen == (
        f"in eval mode two passes over one batch gave outputs that differ by {apart} of their "
        "largest value"
    )


def test_chance_is_found_in_one_of_several_outputs():
    """The message says in which."""
    model = Gives(lambda x: {"fixed": x, "drawn": x * torch.rand(2)})

    assert "gave outputs['drawn'] that" in observed(CHANCE, model=model, batch=(X, None))


counter = itertools.count()


@pytest.mark.parametrize(
    "function", [None, lambda x: F.dropout(x, training=False), lambda x: x + 1e-4 * next(counter)]
)
def test_what_depends_on_no_random_number_is_left_alone(function):
    """A kernel that rounds otherwise each time does so at one seed, too."""
    assert observed(CHANCE, model=Gives(function), batch=(X, None)) == ""


def test_dropout_of_the_training_is_left_alone():
    """The model is looked at in eval mode, whatever its mode was."""
    assert observed(CHANCE, model=nn.Dropout(0.5).train(), batch=(X, None)) == ""


# ------------------------------------------------------------------------ another device

MOVES = checks.check_the_model_moves_as_a_whole


class Holds(nn.Module):
    """A model with a plain tensor in one of its parts."""

    def __init__(self):
        """Keep the tensor."""
        super().__init__()
        self.part = Gives()
        self.part.Y = torch.ones(2)
        self.X = torch.ones(2)
        self.register_buffer("fine", torch.ones(2))
        self.name = "no tensor"

    def forward(self, x):
        """Return the inputs, shifted."""
        return self.part(x) + self.part.Y + self.X + self.fine


def test_plain_tensors_are_named_as_one_would_write_them():
    """Neither parameters nor buffers, which move along, are among them."""
    assert plain_tensors(Holds()) == ["X", "part.Y"]


def test_a_tensor_that_stays_behind_is_named():
    """The message says what PyTorch raised, and what did not move."""
    seen = observed(MOVES, model=Holds(), batch=(X, None))

    assert seen.startswith("after model.to(device) the forward pass raised: ")
    assert seen.endswith("; plain attributes stay behind: X, part.Y")
    assert "\n" not in seen


def test_a_tensor_made_in_forward_is_found_without_a_name():
    """No attribute holds it."""
    model = Gives(lambda x: x + torch.ones(2))

    seen = observed(MOVES, model=model, batch=(X, None))

    assert seen.startswith("after model.to(device) the forward pass raised: ")
    assert "stay behind" not in seen


def raises(message):
    """Return a function that raises on the meta device."""

    def refuses(x):
        if x.device.type == "meta":
            raise RuntimeError(message)
        return x

    return refuses


LONG = "Expected all tensors to be on the\n   SAME DEVICE, " + "but found them here, " * 9
OTHER = "there is no kernel for \n it " + "on this machine " * 9


def test_a_long_error_is_shortened_to_one_line():
    """The message stays readable; the words of PyTorch are known in any case."""
    seen = observed(MOVES, model=Gives(raises(LONG)), batch=(X, None))

    said = " ".join(LONG.split())[:120]
    assert seen == f"after model.to(device) the forward pass raised: {said}"


def test_an_operator_that_the_meta_device_lacks_is_no_mistake():
    """That says nothing about the model, and is not checked."""
    with pytest.raises(NotCheckedError) as caught:
        MOVES(model=Gives(raises(OTHER)), batch=(X, None))

    said = " ".join(OTHER.split())[:80]
    assert str(caught.value) == f"the meta device does not run this model: {said}"


@pytest.mark.parametrize("model", [Gives(), nn.Linear(2, 1), nn.Dropout()])
def test_a_model_that_moves_as_a_whole_passes(model):
    """It is run on the meta device with the inputs there, and counted."""
    one = Project(model=model, batch=(X, None))

    MOVES(one)

    assert one.passes == 1


def test_a_project_with_a_forward_of_its_own_is_run_by_it():
    """It gets the model and the inputs on the other device."""

    def own(model, inputs):
        if inputs["x"].device.type == "meta":
            raise RuntimeError("expected device cpu")
        return model(inputs["x"])

    seen = observed(MOVES, model=Gives(), batch={"x": X, "y": X}, forward=own)

    assert seen.endswith("raised: expected device cpu")


class Whole(Gives):
    """A model that cannot be copied."""

    def __deepcopy__(self, memo):
        """Refuse."""
        raise TypeError("a lock cannot be copied")


def test_a_model_that_cannot_be_copied_is_not_moved():
    """It would be moved away from its owner."""
    with pytest.raises(NotCheckedError, match="needs a model that can be copied"):
        MOVES(model=Whole(), batch=(X, None))
