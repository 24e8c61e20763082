"""Checks that read data, compare the readings, and watch training on it."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from dlconcepts import checks
from dlconcepts.checks.registry import CheckFailedError, NotCheckedError
from tests.checks.small_projects import sgd

X, Y = torch.arange(40.0).reshape(20, 2), torch.arange(20)


class Loader:
    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Pairs(Dataset):
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


# ------------------------------------------------------------------------ labels


@pytest.mark.parametrize("batch", [X, (X, ["a"] * 20), (X, torch.tensor(1))])
def test_labels_cannot_be_compared_without_a_tensor_of_them(batch):
    """The check does not apply to inputs alone, to words, or to one number for all."""
    with pytest.raises(NotCheckedError, match=r"^needs targets that are tensors$"):
        checks.check_labels_stay_with_their_inputs(loader=Loader(batch))


@pytest.mark.parametrize("kind", ["number", "array", "tensor", "float"])
def test_a_label_may_be_a_number_an_array_or_a_tensor(kind):
    """The loader may convert the labels of the data set."""
    labels = {"number": Y.tolist(), "array": Y.numpy(), "tensor": Y, "float": Y.double()}[kind]
    data = Pairs([(X[index], labels[index]) for index in range(20)])

    checks.check_labels_stay_with_their_inputs(data=data, loader=Loader((X, Y)))

    swapped = torch.cat([Y[:2], Y[2:].flip(0)])
    with pytest.raises(CheckFailedError, match="18 have another label"):
        checks.check_labels_stay_with_their_inputs(data=data, loader=Loader((X, swapped)))


# ------------------------------------------------------------------------ shared memory


def fit_that_writes(model, loader, loss_fn, optimizer):
    for inputs, _ in loader:
        inputs.zero_()


def step_that_writes(model, loss_fn, optimizer, inputs, targets):
    inputs.zero_()


class Writes(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs.add_(1))


@pytest.mark.parametrize(
    ("part", "parts"),
    [
        ("fit", {"fit": fit_that_writes}),
        ("train_step", {"train_step": step_that_writes}),
        ("a plain step", {}),
    ],
)
def test_training_that_writes_to_a_batch_writes_to_the_data(part, parts):
    """Whatever trains gets the loader's own batches, which share memory with the data."""
    parts = parts | {"loader": Loader((X.clone(), Y)), "loss_fn": nn.CrossEntropyLoss()}

    with pytest.raises(CheckFailedError) as caught:
        checks.check_shared_memory_is_not_written_to(model=Writes(2, 20), optimizer=sgd, **parts)

    says = f"training on its batches by {part} wrote to a tensor of shape (20, 2) that it keeps"
    assert caught.value.observed == says


# ------------------------------------------------------------------------ chance


class Draws(Dataset):
    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 2:
            self.draw()
        return X[index], int(Y[index])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(1),
        lambda: random.random(),
        lambda: np.random.rand(),  # noqa: NPY002
        lambda: random.gauss(0, 1),
        lambda: np.random.randn(),  # noqa: NPY002
    ],
)
def test_a_validation_example_that_draws_numbers_is_told(draw):
    """Reading must not move any of the three global generators, even if nothing uses the number."""
    with pytest.raises(CheckFailedError, match="reading validation examples draws random numbers"):
        checks.check_validation_data_is_left_to_no_chance(validation=Draws(draw))


@pytest.mark.parametrize(
    "draw", [lambda: None, lambda: torch.rand(1, generator=torch.Generator().manual_seed(0))]
)
def test_validation_without_chance_is_left_alone(draw):
    """A private generator does not count."""
    checks.check_validation_data_is_left_to_no_chance(validation=Draws(draw))
