"""The check of normalisation: what the trace follows, and what counts as a second one."""

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
    traced_batch,
    train,
)
from dlconcepts.checks.project import Project

ONCE = ("sub", "normalised")


def data(shape=(2, 3, 4, 4), mean=0.5, deviation=0.2, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((x - x.mean()) / x.std(correction=0) * deviation + mean).float()


def followed(function, *inputs):
    with Trace() as trace:
        result = function(*inputs)
    return tuple(name for name, *_ in trace.history(result))


def seen(function, *inputs):
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
    """The trace knows every way to write it, with other operations in between."""
    assert followed(normalise, data()) == ONCE


def in_place(x):
    x = x.clone()
    x -= 0.5
    x /= 0.2
    return x


def test_a_normalisation_in_place_is_followed():
    """The tensor object stays the same."""
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
    """A divisor of at least 200 turns bytes into shares; a factor never does."""
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
    """The output of a layer has another scale."""
    steps = followed(lambda x: function((x - 0.5) / 0.2), data())

    assert steps == (ONCE if follows else ())


@pytest.mark.parametrize("longest", [0, 1])
def test_what_is_made_of_several_has_the_longest_history(longest):
    """A stack of two images is normalised if one of them is."""

    def joined(x):
        parts = [x - 0.5, x - 0.5]
        parts[longest] = parts[longest] / 0.2
        return torch.stack(parts)

    assert followed(joined, data()) == ONCE


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
    """A mean for each of 16 channels is a constant, an image is not."""
    steps = followed(lambda x: x - torch.ones(constants), torch.ones(shape))

    assert steps == (("sub",) if counts else ())


def test_what_is_computed_from_what_is_followed_is_no_constant():
    """BatchNorm and LayerNorm subtract a mean of the data itself."""
    assert followed(lambda x: (y := x - 0.5) - y.mean(), data()) == ("sub",)


def test_a_parameter_is_no_constant():
    """A learnt shift is part of the model."""
    assert followed(lambda x: x - nn.Parameter(torch.ones(1)), data()) == ()


def test_whole_numbers_have_no_history():
    """A difference of bytes is not yet the input of a network."""
    assert followed(lambda x: x - 3, torch.arange(48)) == ()
    assert followed(lambda x: x / 255, torch.arange(48)) == ("bytes",)


def test_following_changes_no_result():
    """The trace handles keyword arguments, and calls without tensors."""
    x = data()
    with Trace():
        results = [torch.sub(x, 1.0, alpha=2), x - 1, torch.full((2,), 3.0), x.clone().mul_(2)]

    expected = [x - 2, x - 1, torch.tensor([3.0, 3.0]), 2 * x]
    assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))


# ------------------------------------------------------------------------ what is noticed

TWICE = "data that was normalised already had {} subtracted and was scaled again: "


def again(x, mean, scale):
    return ((x - 0.5) / 0.2 - mean) / scale


@pytest.mark.parametrize("shape", [(40,), (4, 10), (2, 3, 4, 4)])
def test_a_second_normalisation_is_noticed_with_its_figures(shape):
    """The message gives the new mean and deviation, for data of any shape."""
    says = seen(lambda x: again(x, 0.5, 0.2), data(shape))

    deviation = 5 * math.sqrt(math.prod(shape) / (math.prod(shape) - 1))
    figures = f"its mean is -2.50 and its deviation {deviation:.2f} now"
    assert says == TWICE.format("0.5") + figures


def test_a_second_normalisation_by_a_product_is_noticed_too():
    """A factor of 5 is the same as a divisor of 0.2."""
    says = seen(lambda x: ((x - 0.5) * 5 - 0.5) * 5, data())

    assert says.startswith(TWICE.format("0.5") + "its mean is -2.50")


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.05, 1.0), (0.0, 1.05), (0.0, 0.95)])
def test_a_second_normalisation_that_changes_little_is_left_alone(mean, deviation):
    """The tolerance is 0.1 for |mean| + |log(deviation)|."""
    assert seen(lambda x: again(x, mean, deviation), data()) == ""


@pytest.mark.parametrize(("mean", "deviation"), [(0.2, 1.0), (0.0, 1.2), (0.0, 0.8)])
def test_a_second_normalisation_that_shifts_or_scales_is_noticed(mean, deviation):
    """More than 0.1 is not just the rounding of a mean."""
    assert seen(lambda x: again(x, mean, deviation), data()) != ""


def test_a_second_normalisation_to_mean_0_and_deviation_1_is_left_alone():
    """Such a step brings the data closer to a standard normal distribution."""
    x = data(mean=0.6, deviation=0.1)

    assert seen(lambda x: ((x - 0.5) / 0.5 - 0.2) / 0.2, x) == ""


def test_the_first_that_is_noticed_is_told():
    """The message describes the second normalisation, not the third."""

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
    """A first one is suspect only if it has an image's constants and the data is negative."""
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
    """Earlier code, perhaps in a file, must have normalised it."""
    x = torch.linspace(smallest, 2, math.prod(shape)).reshape(shape)

    assert seen(lambda x: (x - mean) / scale, x).startswith(TWICE.format(f"{mean:.3g}"))


def test_one_channel_whose_scale_is_large_is_no_image():
    """All deviations of an image are at most 1."""
    x = torch.linspace(-2, 2, 48).reshape(2, 3, 8)

    assert seen(lambda x: (x - 0.5) / torch.tensor([0.5, 0.5, 1.5]).view(3, 1), x) == ""
    assert seen(lambda x: (x - 0.5) / torch.tensor([0.5, 0.5, 0.5]).view(3, 1), x) != ""


def test_a_scale_by_a_product_is_its_reciprocal():
    """A factor of 1.5 fits an image, since it divides by 2/3; a factor of 0.5 does not."""
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
    """ToTensor has already divided by 255."""
    assert seen(function, torch.linspace(0, 255, 48)) == says


@pytest.mark.parametrize(
    "function", [lambda x: x / 255, lambda x: x / 255 * 255, lambda x: x / 255 / 2]
)
def test_bytes_that_are_divided_once_are_left_alone(function):
    """Other divisors do not belong to bytes."""
    assert seen(function, torch.linspace(0, 255, 48)) == ""


def test_data_that_requires_a_gradient_is_followed_as_well():
    """The trace's own arithmetic stays outside the graph."""
    x = data().requires_grad_()

    assert seen(lambda x: again(x, 0.5, 0.2), x).startswith(TWICE.format("0.5"))
    assert seen(lambda x: x / 255 / 255, x).startswith("values were divided by 255 twice")


# ------------------------------------------------------------------------ the batch

INPUTS, TARGETS = torch.arange(24.0).reshape(6, 4), torch.arange(6)


class Pairs(Dataset):
    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, index):
        return INPUTS[index].numpy(), int(TARGETS[index])


class Stream(IterableDataset):
    def __iter__(self):
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
    """It has four examples, or is the first batch of a stream."""
    inputs, targets = traced_batch(source)

    assert torch.equal(inputs, INPUTS[:count])
    assert torch.equal(targets, TARGETS[:count])


def test_the_loaders_own_function_makes_the_batch():
    """The collate_fn may be what normalises."""
    loader = DataLoader(Pairs(), 2, collate_fn=lambda items: [label for _, label in items])

    assert traced_batch(loader) == [0, 1, 2, 3]


class Ragged(Pairs):
    def __getitem__(self, index):
        return super().__getitem__(index)[: 1 if index == 1 else 2]


def test_examples_of_different_length_are_refused():
    """The error keeps the check from dropping a label silently."""
    with pytest.raises(RuntimeError, match="equal size"):
        traced_batch(Ragged())


# ------------------------------------------------------------------------ training


class Watched(nn.Linear):
    def forward(self, inputs):
        SEEN.append((inputs, self.training))
        return super().forward(inputs)


SEEN = []


def watched(**changes):
    SEEN.clear()
    model = Watched(4, 3).eval()
    parts = {"model": model, "batch": (INPUTS, TARGETS), "loss_fn": nn.CrossEntropyLoss()}
    parts |= {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "train_step": step}
    return Project(**parts | changes)


def step(*arguments):
    SEEN.append(arguments)


def test_the_step_is_taken_on_the_very_tensors_that_are_followed():
    """A copy of the inputs would have no history; model and optimizer are copies."""
    project = watched()

    train(project, (INPUTS, TARGETS))

    ((model, loss_fn, optimizer, inputs, targets),) = SEEN
    assert inputs is INPUTS
    assert targets is TARGETS
    assert loss_fn is project.loss_fn
    assert isinstance(model, Watched)
    assert model is not project.model
    assert optimizer.param_groups[0]["params"][0] is model.weight


@pytest.mark.parametrize("batch", [(INPUTS, TARGETS), INPUTS])
def test_the_model_is_run_in_training_mode_where_no_step_can_be_taken(batch):
    """The model gets the very inputs, since it may normalise them."""
    train(watched(train_step=None, batch=batch), batch)

    ((inputs, training),) = SEEN
    assert torch.equal(inputs, INPUTS)
    assert training


# ------------------------------------------------------------------------ the check


def images(transform):
    x = data((6, 3, 4, 4)).clamp(0, 1)

    class Images(Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            return transform(x[index]), index % 3

    return Images()


def test_a_transform_that_normalises_twice_is_told():
    """Without a model, the check follows the data alone."""
    check_data_is_normalised_once(data=images(lambda x: (x - 0.5) / 0.2))

    with pytest.raises(CheckFailedError, match=r"had 0\.5 subtracted and was scaled again"):
        check_data_is_normalised_once(data=images(lambda x: again(x, 0.5, 0.2)))


def test_data_that_can_be_read_once_only_is_not_checked():
    """Reading an iterator would take its batches away from training."""
    with pytest.raises(NotCheckedError, match="read twice"):
        check_data_is_normalised_once(loader=iter([(INPUTS, TARGETS)]))
