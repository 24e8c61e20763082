"""The check of normalisation by itself: what it follows, and what it takes for one too many."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.laws.normalising import (
    Trace,
    check_data_is_normalised_once,
    name_of,
    off,
    traced_batch,
    train,
)
from dlconcepts.checks.project import Project

ONCE = ("sub", "normalised")


def data(shape=(2, 3, 4, 4), mean=0.5, deviation=0.2, seed=0):
    """Return normal numbers whose mean and deviation are these, but for rounding."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((x - x.mean()) / x.std(correction=0) * deviation + mean).float()


def followed(function, *inputs):
    """Return the kinds of the steps that led to a function's result."""
    with Trace() as trace:
        result = function(*inputs)
    return tuple(step.split()[0] for step in trace.history(result))


def seen(function, *inputs):
    """Return what a trace has noticed while a function ran."""
    with Trace() as trace:
        function(*inputs)
    return trace.observed


# ------------------------------------------------------------------------ what is followed


@pytest.mark.parametrize(
    "normalise",
    [
        lambda x: (x - 0.5) / 0.2,
        lambda x: (x - 1) / 2,
        lambda x: (x - np.float32(0.5)) / np.float64(0.2),
        lambda x: (x - torch.full((3, 1, 1), 0.5)) / torch.full((3, 1, 1), 0.2),
        lambda x: x.sub(0.5).div(0.2),
        lambda x: x.clone().sub_(0.5).div_(0.2),
        lambda x: torch.div(torch.sub(x, 0.5), 0.2),
        lambda x: torch.divide(torch.subtract(x, 0.5), 0.2),
        lambda x: torch.true_divide(x - 0.5, 0.2),
        lambda x: (x - 0.5) * 5,
        lambda x: torch.multiply(x - 0.5, 5.0),
        lambda x: x.clone().sub_(0.5).mul_(5),
        lambda x: (x - 0.5).reshape(-1).relu() / 0.2,
    ],
)
def test_a_constant_subtracted_and_then_one_divided_by_is_a_normalisation(normalise):
    """However it is written, in place or not, and whatever lies between."""
    assert followed(normalise, data()) == ONCE


def in_place(x):
    """Subtract and divide with the signs of Python, in place."""
    x = x.clone()
    x -= 0.5
    x /= 0.2
    return x


def test_a_normalisation_in_place_is_followed():
    """The tensor stays the same one."""
    assert followed(in_place, data()) == ONCE


@pytest.mark.parametrize(
    ("function", "steps"),
    [
        (lambda x: x + 0.5, ()),
        (lambda x: 0.5 - x, ()),
        (lambda x: x.exp(), ()),
        (lambda x: x / 0.2, ("scaled",)),
        (lambda x: x * 2, ("scaled",)),
        (lambda x: x / 0.2 - 0.5, ("scaled", "sub")),
        (lambda x: (x / 2 - 0.5) / 0.2, ("scaled", "sub", "normalised")),
        (lambda x: (x - 0.5) / 0.2 / 2, ("sub", "normalised", "scaled")),
        (lambda x: (x - 0.5 - 0.1) / 0.2, ("sub", "sub", "normalised")),
        (lambda x: x / 255, ("bytes",)),
        (lambda x: x / 200, ("bytes",)),
        (lambda x: x / -255, ("bytes",)),
        (lambda x: x / 199, ("scaled",)),
        (lambda x: x * 255, ("scaled",)),
        (lambda x: (x - 0.5) * 255, ("sub", "scaled")),
        (lambda x: (x - 128) / 255, ("sub", "bytes")),
        (lambda x: x / torch.tensor([255.0, 256.0, 257.0]).view(3, 1, 1), ("bytes",)),
        (lambda x: x / torch.tensor([255.0, 1.0, 255.0]).view(3, 1, 1), ("scaled",)),
        (lambda x: torch.sub(x, other=0.5), ()),
    ],
)
def test_other_operations_are_other_steps_or_none(function, steps):
    """A divisor from 200 on makes shares of bytes; a product never does."""
    assert followed(function, data()) == steps


@pytest.mark.parametrize(
    ("function", "follows"),
    [
        (lambda x: x.reshape(-1)[3:].exp().unsqueeze(0), True),
        (lambda x: torch.stack([torch.zeros_like(x), x]), True),
        (lambda x: torch.cat([x, x]), True),
        (lambda x: x.chunk(2)[1], True),
        (lambda x: {"a": x}["a"], True),
        (lambda x: x + torch.zeros_like(x), True),
        (lambda x: nn.functional.conv2d(x, torch.ones(1, 3, 1, 1)), True),
        (lambda x: nn.functional.conv2d(x, nn.Parameter(torch.ones(1, 3, 1, 1))), False),
        (lambda x: torch.stack([x, nn.Parameter(torch.ones(x.shape))]), False),
        (lambda x: torch.zeros(3), False),
    ],
)
def test_data_is_followed_until_it_meets_a_parameter(function, follows):
    """What comes out of a layer has a scale of its own."""
    steps = followed(lambda x: function((x - 0.5) / 0.2), data())

    assert steps == (ONCE if follows else ())


@pytest.mark.parametrize("longest", [0, 1])
def test_what_is_made_of_several_has_the_longest_history(longest):
    """A sum of two images was normalised if one of them was."""

    def joined(x):
        parts = [x - 0.5, x - 0.5]
        parts[longest] = parts[longest] / 0.2
        return torch.stack(parts)

    assert followed(joined, data()) == ONCE


@pytest.mark.parametrize("first", [True, False])
def test_a_history_is_longest_by_its_steps(first):
    """Whatever they are, and in whatever order they are joined."""

    def joined(x):
        parts = [x / 2 / 2 / 2, x - 0.5]
        return torch.cat(parts if first else parts[::-1])

    assert followed(joined, data()) == ("scaled",) * 3


@pytest.mark.parametrize(
    ("shape", "constants", "counts"),
    [
        ((2, 16), (16,), True),
        ((2, 17), (17,), False),
        ((3, 16), (3, 1), True),
        ((17,), (1,), True),
        ((16,), (1,), False),
        ((4, 4), (), False),
        ((3, 16), (3, 16), False),
    ],
)
def test_a_constant_has_few_elements_and_the_data_more(shape, constants, counts):
    """A mean for each of 16 channels is a constant; an image is none."""
    steps = followed(lambda x: x - torch.ones(constants), torch.ones(shape))

    assert steps == (("sub",) if counts else ())


def test_what_is_computed_from_what_is_followed_is_no_constant():
    """BatchNorm and LayerNorm subtract a mean of the data itself."""
    assert followed(lambda x: (y := x - 0.5) - y.mean(), data()) == ("sub",)


def test_a_parameter_is_no_constant():
    """A shift that is learnt is part of the model."""
    assert followed(lambda x: x - nn.Parameter(torch.ones(1)), data()) == ()


def test_whole_numbers_have_no_history():
    """A difference of bytes is not yet data for a network."""
    assert followed(lambda x: x - 3, torch.arange(48)) == ()
    assert followed(lambda x: x / 255, torch.arange(48)) == ("bytes",)


def test_following_changes_no_result():
    """Arguments by keyword included, and none."""
    x = data()
    with Trace():
        results = [torch.sub(x, 1.0, alpha=2), x - 1, torch.full((2,), 3.0), x.clone().mul_(2)]

    expected = [x - 2, x - 1, torch.tensor([3.0, 3.0]), 2 * x]
    assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))


@pytest.mark.parametrize("place", [torch.Tensor.sub, torch.Tensor.sub_], ids=["copy", "in place"])
def test_a_subtraction_is_noted_with_what_the_data_was_before(place):
    """How far it was from mean 0 and deviation 1, and the mean of the constant."""
    x = data(mean=0.5, deviation=0.25)

    with Trace() as trace:
        result = place(x, torch.tensor([[[0.25]], [[0.5]], [[1.5]]]))

    ((kind, distance, mean),) = (step.split() for step in trace.history(result))
    assert kind == "sub"
    assert float(distance) == pytest.approx(0.5 + math.log(4), rel=1e-4)
    assert float(mean) == 0.75


def test_a_tensor_that_was_not_met_has_no_history():
    """And a trace that has met nothing has observed nothing."""
    trace = Trace()

    assert trace.history(torch.ones(2)) == ()
    assert trace.observed == ""


# ------------------------------------------------------------------------ what is noticed

TWICE = "data that was normalised already had {} subtracted and was scaled again: "


def again(x, mean, scale):
    """Normalise once, and then with another mean and deviation."""
    return ((x - 0.5) / 0.2 - mean) / scale


@pytest.mark.parametrize("shape", [(40,), (4, 10), (2, 3, 4, 4)])
def test_a_second_normalisation_is_noticed_with_its_figures(shape):
    """Of data of any shape, where it leads away from mean 0 and deviation 1."""
    says = seen(lambda x: again(x, 0.5, 0.2), data(shape))

    deviation = 5 * math.sqrt(math.prod(shape) / (math.prod(shape) - 1))
    figures = f"its mean is -2.50 and its deviation {deviation:.2f} now"
    assert says == TWICE.format("0.5") + figures


def test_a_second_normalisation_by_a_product_is_noticed_too():
    """1 / 0.2 is 5."""
    says = seen(lambda x: ((x - 0.5) * 5 - 0.5) * 5, data())

    assert says.startswith(TWICE.format("0.5") + "its mean is -2.50")


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.05, 1.0), (0.0, 1.05), (0.0, 0.95)])
def test_a_second_normalisation_that_changes_little_is_left_alone(mean, deviation):
    """Within 0.1 of mean and logarithm of the deviation together."""
    assert seen(lambda x: again(x, mean, deviation), data()) == ""


@pytest.mark.parametrize(("mean", "deviation"), [(0.2, 1.0), (0.0, 1.2), (0.0, 0.8)])
def test_a_second_normalisation_that_shifts_or_scales_is_noticed(mean, deviation):
    """More than 0.1 is no rounding of a mean."""
    assert seen(lambda x: again(x, mean, deviation), data()) != ""


def test_a_second_normalisation_to_mean_0_and_deviation_1_is_left_alone():
    """From the range of -1 to 1, say: the data is nearer to what it shall be."""
    x = data(mean=0.6, deviation=0.1)

    assert seen(lambda x: ((x - 0.5) / 0.5 - 0.2) / 0.2, x) == ""


def test_the_first_that_is_noticed_is_told():
    """A third normalisation is a consequence."""

    def thrice(x):
        return (again(x, 0.5, 0.2) - 7) / 0.1

    assert seen(thrice, data()).startswith(TWICE.format("0.5"))


@pytest.mark.parametrize(
    ("shape", "smallest", "mean", "scale"),
    [
        ((3, 16), -2.0, 0.5, 0.5),
        ((40,), -2.0, 0.5, 0.5),
        ((2, 3, 8), -2.0, 0.0, 0.5),
        ((2, 3, 8), -2.0, -0.5, 0.5),
        ((2, 3, 8), -2.0, 1.0, 0.5),
        ((2, 3, 8), -2.0, 0.5, 1.5),
        ((2, 3, 8), 0.0, 0.5, 0.01),
        ((2, 3, 8), -0.005, 0.5, 0.01),
    ],
    ids=["table", "vector", "mean 0", "below", "mean 1", "scale", "positive", "rounding"],
)
def test_a_first_normalisation_is_left_alone_unless_it_is_one_of_an_image(
    shape, smallest, mean, scale
):
    """Constants of an image are within 0 and 1, and so is an image before, but for rounding."""
    x = torch.linspace(smallest, 2, math.prod(shape)).reshape(shape)

    assert seen(lambda x: (x - mean) / scale, x) == ""


@pytest.mark.parametrize(
    ("shape", "smallest", "mean", "scale"),
    [
        ((2, 3, 8), -2.0, 0.5, 0.5),
        ((2, 3, 4, 2), -2.0, 0.999, 1.0),
        ((2, 3, 8), -2.0, 0.2, 0.999),
        ((2, 3, 8), -0.02, 0.9, 0.01),
    ],
)
def test_an_image_with_negative_values_was_normalised_before(shape, smallest, mean, scale):
    """By code that ran before, in a file say: it is normalised a second time then."""
    x = torch.linspace(smallest, 2, math.prod(shape)).reshape(shape)

    assert seen(lambda x: (x - mean) / scale, x).startswith(TWICE.format(f"{mean:.3g}"))


def test_one_channel_whose_scale_is_large_is_no_image():
    """All of the deviations of an image are at most 1."""
    x = torch.linspace(-2, 2, 48).reshape(2, 3, 8)

    assert seen(lambda x: (x - 0.5) / torch.tensor([0.5, 0.5, 1.5]).view(3, 1), x) == ""
    assert seen(lambda x: (x - 0.5) / torch.tensor([0.5, 0.5, 0.5]).view(3, 1), x) != ""


def test_a_scale_by_a_product_is_its_reciprocal():
    """A factor of 1.5 divides by 2/3, as for an image; one of 0.5 divides by 2, as for none."""
    x = torch.linspace(-2, 2, 48).reshape(2, 3, 8)

    assert seen(lambda x: (x - 0.5) * 1.5, x) != ""
    assert seen(lambda x: (x - 0.5) * 0.5, x) == ""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x / 255 / 256, "values were divided by 256 twice: they end at 0.0039"),
        (lambda x: x / 255 / -255, "values were divided by -255 twice: they end at 0.0039"),
        (lambda x: x / 255 / 255 / 255, "values were divided by 255 twice: they end at 0.0039"),
        (lambda x: (x / 255 - 0.5) / 255, "values were divided by 255 twice: they end at 0.002"),
    ],
)
def test_bytes_that_are_divided_twice_are_noticed(function, says):
    """ToTensor divides by 255 already."""
    assert seen(function, torch.linspace(0, 255, 48)) == says


@pytest.mark.parametrize(
    "function", [lambda x: x / 255, lambda x: x / 255 * 255, lambda x: x / 255 / 2]
)
def test_bytes_that_are_divided_once_are_left_alone(function):
    """Other scales are no bytes."""
    assert seen(function, torch.linspace(0, 255, 48)) == ""


def test_data_that_requires_a_gradient_is_followed_as_well():
    """No figure of the trace is part of the graph."""
    x = data().requires_grad_()

    assert seen(lambda x: again(x, 0.5, 0.2), x).startswith(TWICE.format("0.5"))
    assert seen(lambda x: x / 255 / 255, x).startswith("values were divided by 255 twice")


# ------------------------------------------------------------------------ figures


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1.0, 1.0], 0.0),
        ([0.0, 2.0], 1.0),
        ([-2.0, 0.0], 1.0),
        ([-2.0, 2.0], math.log(2)),
        ([-0.5, 0.5], math.log(2)),
        ([1.0, 5.0], 3 + math.log(2)),
        ([0.0, 0.0], -math.log(1e-9)),
    ],
)
def test_the_distance_from_the_standard_adds_the_mean_and_the_logarithm_of_the_deviation(
    values, expected
):
    """In both directions alike, and finite for data that is constant."""
    assert off(torch.tensor(values)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.Tensor.sub_, "sub"),
        (torch.Tensor.__rsub__, "rsub"),
        (torch.true_divide, "true_divide"),
        (functools.partial(torch.sub), ""),
    ],
)
def test_the_name_of_an_operation_is_the_same_in_place(function, name):
    """The underscores around a name say how it is called, not what it does."""
    assert name_of(function) == name


# ------------------------------------------------------------------------ the batch

INPUTS, TARGETS = torch.arange(24.0).reshape(6, 4), torch.arange(6)


class Pairs(Dataset):
    """Examples that are arrays and numbers."""

    def __len__(self):
        """Return their number."""
        return len(INPUTS)

    def __getitem__(self, index):
        """Return one of them."""
        return INPUTS[index].numpy(), int(TARGETS[index])


class Stream(IterableDataset):
    """Batches that come by themselves."""

    def __iter__(self):
        """Give three batches of two."""
        yield from zip(INPUTS.split(2), TARGETS.split(2), strict=True)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        (DataLoader(TensorDataset(INPUTS, TARGETS), 2), 4),
        (DataLoader(Pairs(), 5, num_workers=2), 4),
        (Pairs(), 4),
        ((INPUTS, TARGETS), 4),
        ((INPUTS.numpy(), TARGETS.numpy()), 4),
        (DataLoader(Stream(), None), 2),
        ([(INPUTS[:3], TARGETS[:3]), (INPUTS[3:], TARGETS[3:])], 3),
    ],
    ids=["loader", "workers", "data set", "pair", "arrays", "stream", "batches"],
)
def test_the_batch_that_is_followed_is_made_here(source, count):
    """Four examples, whatever the loader's batch is; of a stream, the first batch."""
    inputs, targets = traced_batch(source)

    assert torch.equal(inputs, INPUTS[:count])
    assert torch.equal(targets, TARGETS[:count])


def test_the_loaders_own_function_makes_the_batch():
    """It may be what normalises."""
    loader = DataLoader(Pairs(), 2, collate_fn=lambda items: [label for _, label in items])

    assert traced_batch(loader) == [0, 1, 2, 3]


class Ragged(Pairs):
    """Examples, of which the second has no label."""

    def __getitem__(self, index):
        """Return one of them."""
        return super().__getitem__(index)[: 1 if index == 1 else 2]


def test_examples_of_different_length_are_refused():
    """No label is left out in silence."""
    with pytest.raises(ValueError, match="shorter"):
        traced_batch(Ragged())


# ------------------------------------------------------------------------ training


class Watched(nn.Linear):
    """A linear model that notes its inputs, and the mode that it ran in."""

    def forward(self, inputs):
        """Note them."""
        SEEN.append((inputs, self.training))
        return super().forward(inputs)


SEEN = []


def watched(**changes):
    """Return a project whose model notes what it sees in SEEN."""
    SEEN.clear()
    model = Watched(4, 3).eval()
    parts = {"model": model, "batch": (INPUTS, TARGETS), "loss_fn": nn.CrossEntropyLoss()}
    parts |= {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "train_step": step}
    return Project(**parts | changes)


def step(*arguments):
    """Note what a step was given."""
    SEEN.append(arguments)


def test_the_step_is_taken_on_the_very_tensors_that_are_followed():
    """A copy would have no history; the model and the optimizer are copies."""
    project = watched()

    train(project, INPUTS, TARGETS)

    ((model, loss_fn, optimizer, inputs, targets),) = SEEN
    assert inputs is INPUTS
    assert targets is TARGETS
    assert loss_fn is project.loss_fn
    assert isinstance(model, Watched)
    assert model is not project.model
    assert optimizer.param_groups[0]["params"][0] is model.weight


@pytest.mark.parametrize(
    ("changes", "targets"),
    [({"train_step": None}, TARGETS), ({"optimizer": None}, TARGETS), ({}, None)],
    ids=["no step", "no optimizer", "no targets"],
)
def test_the_model_is_run_in_training_mode_where_no_step_can_be_taken(changes, targets):
    """On the very inputs, for the model may normalise them."""
    train(watched(**changes), INPUTS, targets)

    ((inputs, training),) = SEEN
    assert torch.equal(inputs, INPUTS)
    assert training


# ------------------------------------------------------------------------ the check


def images(transform):
    """Return images of three channels and their labels, normalised by a transform."""
    x = data((6, 3, 4, 4)).clamp(0, 1)

    class Images(Dataset):
        """Images that are transformed when they are read."""

        def __len__(self):
            """Return their number."""
            return len(x)

        def __getitem__(self, index):
            """Return one of them."""
            return transform(x[index]), index % 3

    return Images()


def test_a_transform_that_normalises_twice_is_told():
    """Without a model, the data alone is followed."""
    check_data_is_normalised_once(data=images(lambda x: (x - 0.5) / 0.2))

    with pytest.raises(CheckFailedError, match=r"had 0\.5 subtracted and was scaled again"):
        check_data_is_normalised_once(data=images(lambda x: again(x, 0.5, 0.2)))


def test_data_that_can_be_read_once_only_is_not_checked():
    """Reading it would take it away from the training."""
    with pytest.raises(NotCheckedError, match="read twice"):
        check_data_is_normalised_once(loader=iter([(INPUTS, TARGETS)]))
