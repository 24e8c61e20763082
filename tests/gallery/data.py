"""Mistakes in the data."""

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
        self.array, self.labels, self.together = array, labels, together

    def __iter__(self):
        order = torch.randperm(len(self.labels))
        other = order if self.together else torch.randperm(len(self.labels))
        for start in range(0, len(order), 4):
            rows, labels = order[start : start + 4], other[start : start + 4]
            yield torch.tensor(self.array[rows]), torch.tensor(self.labels[labels])


def batched(together=True, data=None):
    """Return a project with a loader that shuffles inputs and labels together or apart."""
    x, y = arrays()
    return project(loader=Batches(x, y, together), data=data or Examples(x, y))


def shuffled_together():
    """One permutation shuffles inputs and labels."""
    return batched()


@mistake("labels-stay-with-their-inputs", "have another label", shuffled_together)
def labels_shuffled_apart():
    """Each pass shuffles the inputs with one permutation and the labels with another."""
    return batched(together=False)


@mistake("labels-stay-with-their-inputs", "both in the data set and in pass 1", shuffled_together)
def labels_shuffled_once():
    """The labels were shuffled once, before the loader was built: each pass is equally wrong."""
    x, y = arrays()
    wrong = y[np.random.default_rng(0).permutation(len(y))]
    data = Examples(x, wrong)
    return project(data=Examples(x, y), loader=DataLoader(data, 8, shuffle=True))


class Normalises(Examples):
    """A data set that normalises its examples, in place or not."""

    def __init__(self, in_place):
        x, y = arrays()
        super().__init__(x, y)
        self.images, self.in_place = torch.from_numpy(x), in_place

    def __getitem__(self, index):
        x = self.images[index]
        if not self.in_place:
            return (x - 0.5) / 0.5, int(self.labels[index])
        x -= 0.5
        x /= 0.5
        return x, int(self.labels[index])


def normalises_a_copy():
    """The data set normalises a copy of each example."""
    return project(data=Normalises(in_place=False))


@mistake(
    "data-is-the-same-when-read-again",
    "were different in pass 2",
    normalises_a_copy,
    "shared-memory-is-not-written-to",
)
def normalises_what_it_keeps():
    """The line `x -= mean` changes the stored example, so each epoch normalises it again."""
    return project(data=Normalises(in_place=True))


@mistake("data-is-the-same-when-read-again", "is an iterator", classifier)
def an_iterator_for_a_loader():
    """The loader is an iterator, iter(loader), so the second epoch is empty."""
    return project(loader=iter(DataLoader(Examples(*arrays()), 8)))


class UsesUp(Examples):
    """A data set whose labels change when they are read."""

    def __getitem__(self, index):
        """Return one example and overwrite its label."""
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
    """To read an example changes its label for the next epoch."""
    return project(data=UsesUp(*arrays()))


class Views:
    """Batches that copy an array or share its memory."""

    def __init__(self, array, labels, copies):
        self.array, self.labels, self.copies = array, labels, copies

    def __iter__(self):
        for start in range(0, len(self.labels), 4):
            part = self.array[start : start + 4]
            x = torch.tensor(part) if self.copies else torch.from_numpy(part)
            yield x, torch.tensor(self.labels[start : start + 4])


def centres_its_batch(model, loss_fn, optimizer, inputs, targets):
    """Centre the batch in place before the step."""
    inputs -= 0.1
    return train_step(model, loss_fn, optimizer, inputs, targets)


def batches_without_shared_memory():
    """The batches are copies, made by torch.tensor."""
    return project(loader=Views(*arrays(), copies=True))


@mistake(
    "shared-memory-is-not-written-to",
    "wrote to a numpy array of shape (12, 4)",
    batches_without_shared_memory,
)
def writes_through_to_the_array():
    """The step centres its batch in place, and from_numpy shares that memory with the array."""
    step = centres_its_batch
    return project(loader=Views(*arrays(), copies=False), train_step=step, fit=fit_with(step))


class Buffered(Views):
    """Batches that all use the same buffer."""

    def __iter__(self):
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
    """Every batch is the same buffer, so the next batch overwrites the one before."""
    return project(loader=Buffered(*arrays(), copies=False))


def jitter(x):
    """Add noise, as an augmentation does."""
    return x + 0.1 * torch.randn_like(x)


def seldom(x):
    """Change the sign of one example in ten thousand."""
    return -x if torch.rand(()) < 1e-4 else x


def augmented(validation):
    """Return a project that augments its training data."""
    return project(
        data=Examples(*arrays(), jitter), validation=Examples(*arrays(6, start=1), validation)
    )


def augmented_in_training_only():
    """Only the training data is augmented."""
    return augmented(None)


@mistake("validation-data-is-left-to-no-chance", "came out different", augmented_in_training_only)
def augmentation_in_validation():
    """The validation data goes through the augmenting transform of the training data."""
    return augmented(jitter)


@mistake("validation-data-is-left-to-no-chance", "draws random numbers", augmented_in_training_only)
def augmentation_in_validation_that_is_rare():
    """The validation data is augmented, but only one example in ten thousand changes."""
    return augmented(seldom)


class Jittered(Examples):
    """Examples with noise from a generator that the data set keeps."""

    def __init__(self):
        super().__init__(*arrays())
        self.generator = np.random.default_rng(0)

    def __getitem__(self, index):
        x, label = super().__getitem__(index)
        return x + torch.from_numpy(self.generator.standard_normal(4, dtype=np.float32)), label


def reseed(worker):
    """Give each worker a generator of its own, from a seed that changes with each epoch."""
    data = torch.utils.data.get_worker_info().dataset
    data.generator = np.random.default_rng(torch.initial_seed() % 2**32)


def read_by_workers(worker_init_fn):
    """Return a project whose loader has two workers."""
    data = Jittered()
    loader = DataLoader(data, 4, num_workers=2, worker_init_fn=worker_init_fn)
    return project(data=data, loader=loader)


def noise_of_each_worker():
    """Each worker gets a generator of its own."""
    return read_by_workers(reseed)


@mistake("workers-draw-their-own-numbers", "read by 2 workers, are the same", noise_of_each_worker)
def noise_that_each_worker_repeats():
    """The generator that the data set keeps is copied into each worker."""
    return read_by_workers(None)


def normalise(x):
    """Scale values from [0, 1] to [-1, 1]."""
    return (x - 0.5) / 0.5


def normalise_twice(x):
    return normalise(normalise(x))


class Pictures(Network):
    """A classifier of images that may normalise them itself."""

    def __init__(self, normalises):
        super().__init__()
        self.body[0] = nn.Linear(48, 8)
        self.normalises = normalises

    def forward(self, x):
        x = normalise(x) if self.normalises else x
        return super().forward(x.flatten(1))


def pictures(transform, normalises=False, step=train_step):
    """Return a project with images of 3 x 4 x 4 and values from 0 to 1."""
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
    """The transform normalises the images; nothing else does."""
    return pictures(normalise)


@mistake("data-is-normalised-once", "was normalised already", normalised_once)
def normalised_twice_in_the_transform():
    """The pipeline normalises the images twice."""
    return pictures(normalise_twice)


@mistake("data-is-normalised-once", "was normalised already", normalised_once)
def normalised_in_the_transform_and_in_the_model():
    """The transform normalises the images, and the model does it again."""
    return pictures(normalise, normalises=True)


def normalises_its_batch(model, loss_fn, optimizer, inputs, targets):
    """Normalise the batch before the step."""
    return train_step(model, loss_fn, optimizer, normalise(inputs), targets)


@mistake("data-is-normalised-once", "was normalised already", normalised_once)
def normalised_in_the_transform_and_in_the_step():
    """The transform normalises the images, and the training step does it again."""
    return pictures(normalise, step=normalises_its_batch)


def bytes_twice(x):
    return (x * 255).div(255).div(255)


def bytes_once(x):
    return (x * 255).div(255)


def bytes_scaled_once():
    """The transform divides bytes by 255 once."""
    return pictures(bytes_once)


@mistake("data-is-normalised-once", "divided by 255 twice", bytes_scaled_once)
def bytes_scaled_twice():
    """The images are divided by 255 twice, as after ToTensor."""
    return pictures(bytes_twice)


class NormalisedByNumpy(Examples):
    """Images that numpy normalises."""

    def __getitem__(self, index):
        return torch.from_numpy((self.array[index] - 0.5) / 0.5), int(self.labels[index])


def by_numpy(normalises):
    """Return a project whose data set normalises with numpy; the model may do it again."""
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
    """The data set normalises with numpy; nothing else does."""
    return by_numpy(normalises=False)


@mistake("data-is-normalised-once", "was normalised already", normalised_by_numpy)
def normalised_by_numpy_and_in_the_model():
    """The data set normalises with numpy, outside PyTorch, and the model does it again."""
    return by_numpy(normalises=True)


class Noisy:
    """A collate function that adds noise."""

    def __call__(self, examples):
        inputs, labels = torch.utils.data.default_collate(examples)
        return inputs + 0.1 * torch.randn_like(inputs), labels


def collated(collate_fn):
    """Return a project whose validation loader has a collate function."""
    data = Examples(*arrays(6, start=1))
    return project(validation=DataLoader(data, 3, shuffle=True, collate_fn=collate_fn))


def collated_plainly():
    """The validation loader shuffles, which does no harm."""
    return collated(None)


@mistake("validation-data-is-left-to-no-chance", "not there in the next pass", collated_plainly)
def augmentation_in_the_collate_function():
    """The collate function of the validation loader adds noise."""
    return collated(Noisy())


def as_from_a_camera(x):
    return (x * 255).div(255)


def normalise_bytes(x):
    return normalise(x * 255)


def images_scaled_first():
    """The images are divided by 255, and then normalised."""
    return pictures(lambda x: normalise(as_from_a_camera(x)))


@mistake("data-is-normalised-once", "divide them by 255 first", images_scaled_first)
def images_not_scaled():
    """Images from 0 to 255 are normalised by the mean of images from 0 to 1."""
    return pictures(normalise_bytes)
