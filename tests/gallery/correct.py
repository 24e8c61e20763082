"""Correct projects of other kinds, on which every check must pass."""

import copy
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler
from torchvision import transforms

from tests.gallery.base import Examples, Network, arrays, correct, project, train_step
from tests.gallery.data import normalise, pictures
from tests.gallery.forward import attends_along_the_sequence, sequences
from tests.gallery.freezing import transfer
from tests.gallery.learning import adam, steps
from tests.gallery.loss import (
    Regression,
    fit_with,
    floating,
    mean_loss,
    multi_label,
    multi_label_targets,
    own_cross_entropy,
    regression,
)
from tests.gallery.validation import Plain, leaves_eval_mode


def norms(layer):
    """Return a project with this normalisation layer."""
    model = Network()
    model.body[1] = layer
    return project(model=model)


@correct
def layer_norm():
    """LayerNorm normalises along the features."""
    return norms(nn.LayerNorm(8))


@correct
def group_norm():
    """GroupNorm normalises groups of features."""
    return norms(nn.GroupNorm(2, 8))


@correct
def instance_norm():
    """InstanceNorm tracks running statistics of images."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    return pictures(normalise) | {"model": model, "optimizer": adam}


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose."""

    def __init__(self):
        super().__init__()
        self.encode, self.bias = nn.Linear(4, 3), nn.Parameter(torch.zeros(4))
        self.again = [self.encode]

    def forward(self, x):
        return F.linear(self.encode(x).tanh(), self.again[0].weight.T, self.bias)


@correct
def weight_sharing():
    """One weight is used twice, once through a plain list."""
    x = torch.from_numpy(arrays()[0])
    return floating(Tied(), x.clone(), nn.MSELoss(), evaluate=mean_loss) | {"accuracy": None}


class Recurrent(nn.Module):
    """A classifier of sequences by the last state of an LSTM."""

    def __init__(self, batch_first):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, dropout=0.2, batch_first=batch_first)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        _, (state, _) = self.lstm(x)
        return self.head(state[-1])


@correct
def recurrent_cells():
    """An LSTM gets the batch first."""
    return sequences(Recurrent(batch_first=True))


@correct
def recurrent_cells_with_the_time_first():
    """An LSTM gets inputs (L, N, 4) with L different from N."""
    parts = project(model=Recurrent(batch_first=False), data=None)
    batch = torch.randn(5, 8, 4), torch.arange(8) % 3
    return parts | {"batch": batch, "data": None, "loader": None, "evaluate": None}


class WithState(nn.Module):
    """A model that also returns its states, which have the examples in dimension 1."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        outputs, state = self.gru(x)
        return {"logits": self.head(outputs[:, -1]), "state": state}


def loss_of_logits(outputs, targets):
    """Return the cross-entropy of the logits in a dictionary."""
    return F.cross_entropy(outputs["logits"], targets)


def predict_logits(model, inputs):
    """Return the probabilities of a model that returns a dictionary."""
    model.eval()
    with torch.no_grad():
        return model(inputs)["logits"].softmax(dim=1)


@correct
def dictionaries_as_outputs():
    """The model returns a dictionary; one of its tensors has the examples in dimension 1."""
    parts = sequences(WithState())
    return parts | {
        "loss_fn": loss_of_logits,
        "predict": predict_logits,
        "accuracy": None,
        "evaluate": mean_loss,
    }


@correct
def attention():
    """Multi-head attention runs along the sequence."""
    return attends_along_the_sequence()


class Words(nn.Module):
    """A classifier with two inputs, words and a length, and an embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.head = nn.Linear(7, 3)

    def forward(self, words, length):
        return self.head(torch.cat([self.embedding(words).mean(dim=1), length], dim=1))


def with_several_inputs(batch):
    """Return a project whose model takes several inputs."""

    def step(model, loss_fn, optimizer, inputs, targets):
        model.train()
        optimizer.zero_grad()
        outputs = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
        loss = loss_fn(outputs, targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    parts = project(model=Words(), train_step=step, fit=fit_with(step))
    nothing = ("data", "loader", "validation", "predict", "evaluate")
    return parts | dict.fromkeys(nothing) | {"batch": batch}


def words():
    """Return words, lengths and labels of eight examples."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randint(1, 20, (8, 5), generator=generator),
        torch.rand(8, 1, generator=generator),
        torch.arange(8) % 3,
    )


@correct
def embeddings_and_several_inputs():
    """The inputs are a tuple of integers and floats."""
    return with_several_inputs(words())


@correct
def inputs_in_a_dictionary():
    """The batch is a dictionary of inputs by name, including the labels."""
    return with_several_inputs(dict(zip(("words", "length", "labels"), words(), strict=True)))


@correct
def regression_of_one_number():
    """A regression has outputs and targets of shape (N,)."""
    return regression()


@correct
def regression_that_cannot_be_negative():
    """A network ends in ReLU, which is right for a count or a price."""
    parts = regression()
    model = nn.Sequential(Regression(False), nn.ReLU(), nn.Flatten(0))
    nn.init.ones_(model[0].layers[2].bias)  # not dead from the start
    return parts | {"model": model, "optimizer": adam}


@correct
def several_labels():
    """Each example has several labels, and the loss is BCEWithLogitsLoss."""
    return multi_label()


class Sigmoids(Network):
    """A network that ends in a sigmoid, for BCELoss."""

    def forward(self, x):
        return super().forward(x).sigmoid()


@correct
def probabilities_for_bce():
    """The network ends in a sigmoid, because BCELoss takes probabilities."""
    return floating(Sigmoids(), multi_label_targets(), nn.BCELoss()) | {"evaluate": mean_loss}


class Segments(nn.Module):
    """A classifier of each pixel."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(8, 3, 1),
        )

    def forward(self, x):
        return self.layers(x)


@correct
def segmentation():
    """Each pixel has a label, and some labels are ignored."""
    targets = torch.arange(8 * 16).reshape(8, 4, 4) % 3
    targets[:, 0] = -100
    parts = pictures(normalise)
    return parts | {
        "model": Segments(),
        "optimizer": adam,
        "batch": (torch.randn(8, 3, 4, 4), targets),
        "evaluate": mean_loss,
        "data": None,
        "loader": None,
    }


def clips(model, loss_fn, optimizer, inputs, targets):
    """Take a step with a clipped gradient and zero the gradient afterwards."""
    model.train()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


@correct
def gradient_clipping():
    """The step clips the gradients, and zeroes them afterwards."""
    return steps(clips)


@correct
def a_learning_rate_schedule():
    """A closure holds a learning rate schedule, which starts at zero."""
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 4, 1))

    def step(model, loss_fn, optimizer, inputs, targets):
        loss = train_step(model, loss_fn, optimizer, inputs, targets)
        schedule.step()
        return loss

    return project(model=model, optimizer=optimizer, train_step=step, fit=fit_with(step))


def autocasts(model, loss_fn, optimizer, inputs, targets):
    """Take a step in mixed precision."""
    model.train()
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@correct
def mixed_precision():
    """The forward pass runs under autocast to bfloat16."""
    return steps(autocasts)


@correct
def half_precision_throughout():
    """The model and the data are in bfloat16."""
    data = Examples(*arrays(), to_bfloat16)
    return project(
        model=Network().bfloat16(),
        data=data,
        batch=(torch.randn(8, 4).bfloat16(), torch.arange(8) % 3),
        validation=Examples(*arrays(6, start=1), to_bfloat16),
    )


def to_bfloat16(x):
    return x.bfloat16()


@correct
def gradient_accumulation():
    """The optimizer steps after every third batch, counted in a closure."""
    calls = 0

    def step(model, loss_fn, optimizer, inputs, targets):
        nonlocal calls
        model.train()
        loss = loss_fn(model(inputs), targets) / 3
        loss.backward()
        calls += 1
        if calls % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    return steps(step)


@correct
def an_average_of_the_weights():
    """A closure holds a moving average of the weights."""
    model = Network()
    average = torch.optim.swa_utils.AveragedModel(model)

    def step(model, loss_fn, optimizer, inputs, targets):
        loss = train_step(model, loss_fn, optimizer, inputs, targets)
        average.update_parameters(model)
        return loss

    return project(model=model, train_step=step, fit=fit_with(step))


class Momentum(Network):
    """A network with a slow copy of its head, which gets no gradient."""

    def __init__(self):
        super().__init__()
        self.slow = copy.deepcopy(self.head).requires_grad_(False)

    def forward(self, x):
        """Return the logits; in training, move the slow copy."""
        if self.training:
            with torch.no_grad():
                for slow, fast in zip(self.slow.parameters(), self.head.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
        return super().forward(x)


@correct
def a_slow_copy_inside_the_model():
    """Parameters with requires_grad=False are moved on purpose, without the optimizer."""
    return project(model=Momentum())


@correct
def a_frozen_backbone():
    """A frozen backbone and a new head, without a list of frozen names."""
    return transfer()


@correct
def factories():
    """The model and the optimizer are given as functions that build them."""
    return project() | {"model": Network, "optimizer": adam}


@correct
def class_weights_and_label_smoothing():
    """The loss weights the classes and smooths the labels."""
    return project(loss_fn=own_cross_entropy)


class Residual(nn.Module):
    """A block that starts as the identity and is skipped at random in training."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        if not self.training or torch.rand(()) < 0.5:
            x = x + self.layers(x)
        return self.head(x)


@correct
def stochastic_depth_and_zero_init():
    """Some layers have no gradient at first, or at random."""
    return project(model=Residual())


class Closed(Network):
    """A network with a closure over itself, which deepcopy does not copy."""

    def __init__(self):
        super().__init__()
        self.through = lambda x: self.head(self.body(x))

    def forward(self, x):
        return self.through(x)


@correct
def a_model_that_cannot_be_copied():
    """A deep copy of the model would run the layers of the original."""
    return project(model=Closed())


def with_a_closure(model, loss_fn, optimizer, inputs, targets):
    """Take a step with a closure that the optimizer calls."""
    model.train()

    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        return loss

    return optimizer.step(closure).item()


@correct
def lbfgs():
    """LBFGS evaluates the loss itself, through a closure."""
    model = Plain()
    return project(
        model=model,
        optimizer=torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3),
        train_step=with_a_closure,
        fit=fit_with(with_a_closure),
    )


def root_mean_square(model, loader, loss_fn):
    """Return a metric of all examples together, and seconds, which differ each time."""
    mean = mean_loss(model, loader, loss_fn)
    return {"rmse": mean**0.5, "batches": len(loader), "seconds": np.random.default_rng().random()}


@correct
def figures_that_are_no_means():
    """The evaluation returns a root of a mean, a number of batches, and seconds."""
    return regression() | {"evaluate": root_mean_square}


@correct
def an_evaluation_that_leaves_eval_mode_to_fit():
    """The evaluation stays in eval mode, because fit calls train() at the start of each epoch."""
    return project(evaluate=leaves_eval_mode)


@correct
def a_negative_loss():
    """The loss may be negative."""
    return project(loss_fn=less_a_hundred)


def less_a_hundred(outputs, targets):
    """Return the cross-entropy minus 100."""
    return F.cross_entropy(outputs, targets) - 100


def tiny(outputs, targets):
    return 1e-6 * F.cross_entropy(outputs, targets)


@correct
def a_tiny_loss():
    """The loss is tiny, because its scale does not matter."""
    return project(loss_fn=tiny)


@correct
def a_model_and_a_batch_alone():
    """The project has a model and a batch, and nothing else."""
    return {"model": Network(), "batch": torch.randn(8, 4)}


@correct
def layers_that_are_lazy():
    """Lazy layers get their shapes in the first forward pass."""
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    batch = torch.randn(8, 4), torch.arange(8) % 3
    return {"model": model, "batch": batch, "loss_fn": nn.CrossEntropyLoss()}


@correct
def a_scripted_model():
    """The model is TorchScript, whose deep copies have no trainable parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still around
        return project(model=torch.jit.script(Plain()))


@correct
def spectral_norm():
    """Spectral norm keeps a tensor with a history, which deepcopy refuses."""
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    model(torch.randn(2, 4))
    return project(model=model)


class Checkpointed(Network):
    """A network that recomputes its body in the backward pass."""

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False))


@correct
def activation_checkpointing():
    """Checkpointing runs the body twice: forward, and again in the backward pass."""
    return project(model=Checkpointed())


def contrast(outputs, targets):
    """Return a loss that compares examples with one another."""
    directions = F.normalize(outputs, dim=1)
    likeness = directions @ directions.T / 0.1
    likeness = likeness.masked_fill(torch.eye(len(outputs), dtype=torch.bool), -1e9)
    return F.cross_entropy(likeness, torch.arange(1, len(outputs) + 1) % len(outputs))


@correct
def a_contrastive_loss():
    """The loss compares examples, but the model keeps them apart."""
    return project(loss_fn=contrast, evaluate=None)


class Experts(nn.Module):
    """Three experts; each example goes to one of them."""

    def __init__(self):
        super().__init__()
        self.gate, self.head = nn.Linear(4, 3), nn.Linear(8, 3)
        self.experts = nn.ModuleList([nn.Linear(4, 8) for _ in range(3)])

    def forward(self, x):
        share, chosen = self.gate(x).softmax(dim=1).max(dim=1)
        out = torch.zeros(len(x), 8, dtype=x.dtype, device=x.device)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                out = out.index_copy(0, rows, expert(x[rows]))
        return self.head(out * share[:, None])


@correct
def a_mixture_of_experts():
    """An expert without an example in the batch has no gradient."""
    return project(model=Experts())


class Variational(nn.Module):
    """An autoencoder that samples its code in training."""

    def __init__(self):
        super().__init__()
        self.mean, self.spread, self.decode = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x):
        """Return the reconstruction, the mean and the log-variance."""
        mean, spread = self.mean(x), self.spread(x)
        noise = torch.randn_like(mean) * (spread / 2).exp() if self.training else 0
        return self.decode(mean + noise), mean, spread


def evidence(outputs, targets):
    """Return the negative of the evidence lower bound."""
    decoded, mean, spread = outputs
    divergence = -0.5 * (1 + spread - mean**2 - spread.exp()).mean()
    return F.mse_loss(decoded, targets) + divergence


@correct
def a_variational_autoencoder():
    """The model returns a tuple, and samples in training."""
    x = torch.from_numpy(arrays()[0])
    parts = floating(Variational(), x.clone(), evidence, evaluate=mean_loss, predict=None)
    return parts | {"accuracy": None}


class Stream(IterableDataset):
    """A data set that can only be iterated."""

    def __iter__(self):
        for number in range(12):
            yield torch.full((4,), float(number)), number % 3


@correct
def a_data_set_without_positions():
    """The data is an IterableDataset, read from its start in each pass."""
    loader = DataLoader(Stream(), 4)
    return project() | {"data": None, "loader": loader, "validation": loader}


@correct
def arrays_for_data():
    """The data is a pair of numpy arrays."""
    return project() | {"data": arrays(), "loader": None}


@correct
def data_alone():
    """The project has no model, only data and a loader that samples with replacement."""
    data = Examples(*arrays())
    sampler = WeightedRandomSampler(torch.ones(12), 12)
    return {"data": data, "loader": DataLoader(data, 4, sampler=sampler), "validation": data}


def photographs(*random):
    """Return images that torchvision transforms and normalises."""
    generator = np.random.default_rng(0)
    images = [
        Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(12)
    ]
    steps = [*random, transforms.CenterCrop(4), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return Photographs(images, transforms.Compose(steps))


class Photographs(Dataset):
    """PIL images, with a transform."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), index % 3


@correct
def a_pipeline_of_torchvision():
    """Only the training data is augmented; both pipelines normalise the same way."""
    data = photographs(transforms.RandomHorizontalFlip(), transforms.RandomCrop(5))
    parts = pictures(normalise)
    return parts | {
        "data": data,
        "loader": DataLoader(data, 4, shuffle=True),
        "batch": next(iter(DataLoader(data, 8))),
        "validation": DataLoader(photographs(), 4, shuffle=True),
    }


@correct
def a_step_that_scales_the_loss():
    """A closure holds a gradient scaler, and the step clips the gradients."""
    scaler = torch.amp.GradScaler("cpu")

    def step(model, loss_fn, optimizer, inputs, targets):
        model.train()
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return steps(step)


def save_whole(model, path):
    """Save the model itself."""
    torch.save(model, path)


def load_whole(path):
    """Load the model itself."""
    return torch.load(path, weights_only=False)


@correct
def a_model_that_is_saved_whole():
    """The file holds the whole model instead of its state."""
    return project(save=save_whole, load=load_whole)
