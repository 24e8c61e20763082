"""Mistakes of the data."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.gallery.base import Examples, Network, arrays, classifier, mistake, project, train_step
from tests.gallery.learning import adam
from tests.gallery.loss import fit_with


class Batches:
    """Batches of arrays, shuffled in each pass."""

    def __init__(self, array, labels, together):
        """Keep the arrays, and whether one permutation is for both."""
        self.array, self.labels, self.together = array, labels, together

    def __iter__(self):
        """Yield batches of four."""
        order = torch.randperm(len(self.labels))
        other = order if self.together else torch.randperm(len(self.labels))
        for start in range(0, len(order), 4):
            rows, labels = order[start : start + 4], other[start : start + 4]
            yield torch.tensor(self.array[rows]), torch.tensor(self.labels[labels])


def batched(together=True, data=None):
    """Return a project with a loader of its own."""
    x, y = arrays()
    return project(loader=Batches(x, y, together), data=data or Examples(x, y))


def shuffled_together():
    """One permutation for both."""
    return batched()


@mistake("labels-stay-with-their-inputs", "have another label", shuffled_together)
def labels_shuffled_apart():
    """A permutation for the inputs and another for the labels, in each pass."""
    return batched(together=False)


@mistake("labels-stay-with-their-inputs", "both in the data set and in pass 1", shuffled_together)
def labels_shuffled_once():
    """The labels were shuffled apart before the loader was made: each pass is the same."""
    x, y = arrays()
    wrong = y[np.random.default_rng(0).permutation(len(y))]
    data = Examples(x, wrong)
    return project(data=Examples(x, y), loader=DataLoader(data, 8, shuffle=True))


class Normalises(Examples):
    """A data set that normalises what it keeps, in place or not."""

    def __init__(self, in_place):
        """Keep tensors."""
        x, y = arrays()
        super().__init__(x, y)
        self.images, self.in_place = torch.from_numpy(x), in_place

    def __getitem__(self, index):
        """Return one example."""
        x = self.images[index]
        if not self.in_place:
            return (x - 0.5) / 0.5, int(self.labels[index])
        x -= 0.5
        x /= 0.5
        return x, int(self.labels[index])


def normalises_a_copy():
    """The data set normalises out of place."""
    return project(data=Normalises(in_place=False))


@mistake(
    "data-is-the-same-when-read-again",
    "were different in pass 2",
    normalises_a_copy,
    "shared-memory-is-not-written-to",
)
def normalises_what_it_keeps():
    """X -= mean writes to what the data set keeps: it is normalised again in each epoch."""
    return project(data=Normalises(in_place=True))


@mistake("data-is-the-same-when-read-again", "is an iterator", classifier)
def an_iterator_for_a_loader():
    """iter(loader) is made once: the second epoch sees nothing."""
    return project(loader=iter(DataLoader(Examples(*arrays()), 8)))


class UsesUp(Examples):
    """A data set that forgets an example when it was read."""

    def __getitem__(self, index):
        """Return one example, and overwrite it."""
        x, y = super().__getitem__(index)
        self.labels = self.labels.copy()
        self.labels[index] = 0
        return x, y


@mistake(
    "data-is-the-same-when-read-again",
    "were different in pass 2",
    classifier,
    "labels-stay-with-their-inputs",
)
def a_data_set_that_is_used_up():
    """Reading an example changes its label."""
    return project(data=UsesUp(*arrays()))


class Views:
    """Batches that share the memory of an array, or not."""

    def __init__(self, array, labels, copies):
        """Keep the array."""
        self.array, self.labels, self.copies = array, labels, copies

    def __iter__(self):
        """Yield batches of four."""
        for start in range(0, len(self.labels), 4):
            part = self.array[start : start + 4]
            x = torch.tensor(part) if self.copies else torch.from_numpy(part)
            yield x, torch.tensor(self.labels[start : start + 4])


def centres_its_batch(model, loss_fn, optimizer, inputs, targets):
    """Take a step on a batch that is centred in place."""
    inputs -= 0.1
    return train_step(model, loss_fn, optimizer, inputs, targets)


def batches_without_shared_memory():
    """torch.tensor copies."""
    return project(loader=Views(*arrays(), copies=True))


@mistake(
    "shared-memory-is-not-written-to",
    "wrote to a numpy array of shape (12, 4)",
    batches_without_shared_memory,
    "inputs-are-left-alone",
)
def writes_through_to_the_array():
    """from_numpy shares memory, and the step centres its batch in place."""
    step = centres_its_batch
    return project(loader=Views(*arrays(), copies=False), train_step=step, fit=fit_with(step))


class Buffered(Views):
    """Batches that are made in one buffer."""

    def __iter__(self):
        """Yield batches of four."""
        buffer = np.zeros((4, 4), dtype=np.float32)
        for start in range(0, len(self.labels), 4):
            buffer[:] = self.array[start : start + 4]
            yield torch.from_numpy(buffer), torch.tensor(self.labels[start : start + 4])


@mistake(
    "shared-memory-is-not-written-to",
    "a batch that was kept changed",
    batches_without_shared_memory,
)
def fills_one_buffer_again_and_again():
    """Every batch is the same memory, filled again."""
    return project(loader=Buffered(*arrays(), copies=False))


def jitter(x):
    """Add noise, as an augmentation does."""
    return x + 0.1 * torch.randn_like(x)


def seldom(x):
    """Turn one example in ten thousand around."""
    return -x if torch.rand(()) < 1e-4 else x


def augmented(validation):
    """Return a project that augments its training data."""
    return project(
        data=Examples(*arrays(), jitter), validation=Examples(*arrays(6, start=1), validation)
    )


def augmented_in_training_only():
    """Augmentation for the training data alone."""
    return augmented(None)


@mistake("validation-data-is-left-to-no-chance", "came out different", augmented_in_training_only)
def augmentation_in_validation():
    """The training transform is used for validation."""
    return augmented(jitter)


@mistake("validation-data-is-left-to-no-chance", "draws random numbers", augmented_in_training_only)
def augmentation_in_validation_that_is_rare():
    """One example in ten thousand is changed."""
    return augmented(seldom)


def normalise(x):
    """Take values from [0, 1] to [-1, 1]."""
    return (x - 0.5) / 0.5


def normalise_twice(x):
    """Do it twice."""
    return normalise(normalise(x))


class Pictures(Network):
    """A classifier of images that may normalise them itself."""

    def __init__(self, normalises):
        """Make the layers."""
        super().__init__()
        self.body[0] = nn.Linear(48, 8)
        self.normalises = normalises

    def forward(self, x):
        """Return the logits."""
        x = normalise(x) if self.normalises else x
        return super().forward(x.flatten(1))


def pictures(transform, normalises=False, step=train_step):
    """Return a project about images of 3 x 4 x 4 with values from 0 to 1."""
    generator = np.random.default_rng(0)
    x, y = generator.random((12, 3, 4, 4), dtype=np.float32), np.arange(12) % 3
    data = Examples(x, y, transform)
    return project(
        model=Pictures(normalises),
        data=data,
        batch=next(iter(DataLoader(data, 8))),
        validation=Examples(x[:6].copy(), y[:6], transform),
        train_step=step,
        fit=fit_with(step),
    )


def normalised_once():
    """Normalised in the transform."""
    return pictures(normalise)


@mistake("data-is-normalised-once", "was normalised already", normalised_once)
def normalised_twice_in_the_transform():
    """Two Normalize in the pipeline."""
    return pictures(normalise_twice)


@mistake("data-is-normalised-once", "was normalised already", normalised_once)
def normalised_in_the_transform_and_in_the_model():
    """The model normalises what the transform has normalised."""
    return pictures(normalise, normalises=True)


def normalises_its_batch(model, loss_fn, optimizer, inputs, targets):
    """Take a step on a batch that is normalised first."""
    return train_step(model, loss_fn, optimizer, normalise(inputs), targets)


@mistake("data-is-normalised-once", "was normalised already", normalised_once)
def normalised_in_the_transform_and_in_the_step():
    """The training step normalises once more."""
    return pictures(normalise, step=normalises_its_batch)


def bytes_twice(x):
    """Divide by 255 what is from 0 to 1."""
    return (x * 255).div(255).div(255)


def bytes_once(x):
    """Divide by 255 once."""
    return (x * 255).div(255)


def bytes_scaled_once():
    """From bytes to shares."""
    return pictures(bytes_once)


@mistake("data-is-normalised-once", "divided by 255 twice", bytes_scaled_once)
def bytes_scaled_twice():
    """ToTensor divides by 255, and the code that follows does so again."""
    return pictures(bytes_twice)


class NormalisedByNumpy(Examples):
    """Images that numpy has normalised."""

    def __getitem__(self, index):
        """Return one example."""
        return torch.from_numpy((self.array[index] - 0.5) / 0.5), int(self.labels[index])


def by_numpy(normalises):
    """Return a project whose data set normalises by numpy, and perhaps the model again."""
    generator = np.random.default_rng(0)
    x, y = generator.random((12, 3, 4, 4), dtype=np.float32), np.arange(12) % 3
    data = NormalisedByNumpy(x, y)
    return pictures(None) | {
        "model": Pictures(normalises),
        "optimizer": adam,
        "data": data,
        "loader": DataLoader(data, 8),
        "batch": next(iter(DataLoader(data, 8))),
    }


def normalised_by_numpy():
    """The data set alone normalises."""
    return by_numpy(normalises=False)


@mistake("data-is-normalised-once", "was normalised already", normalised_by_numpy)
def normalised_by_numpy_and_in_the_model():
    """PyTorch never sees the first normalisation; its result gives it away."""
    return by_numpy(normalises=True)


class Noisy:
    """A collate function that adds noise."""

    def __call__(self, examples):
        """Return a batch."""
        inputs, labels = torch.utils.data.default_collate(examples)
        return inputs + 0.1 * torch.randn_like(inputs), labels


def collated(collate_fn):
    """Return a project whose validation loader has a collate function."""
    data = Examples(*arrays(6, start=1))
    return project(validation=DataLoader(data, 3, shuffle=True, collate_fn=collate_fn))


def collated_plainly():
    """A validation loader that shuffles, which does no harm."""
    return collated(None)


@mistake("validation-data-is-left-to-no-chance", "not there in the next pass", collated_plainly)
def augmentation_in_the_collate_function():
    """The data set is plain; the loader adds noise."""
    return collated(Noisy())
