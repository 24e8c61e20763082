"""Mistakes in the forward pass."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.gallery.base import Examples, Network, arrays, classifier, mistake, project


class Sized(Network):
    """A network that applies functions to its input and its logits."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x):
        x = self.before(x) if self.before else x
        x = super().forward(x)
        return self.after(x) if self.after else x


def minus_the_batch_mean(x):
    """Subtract the mean over the examples."""
    return x - x.mean(dim=0)


def minus_the_row_mean(x):
    """Subtract the mean over the features."""
    return x - x.mean(dim=1, keepdim=True)


def centred():
    """The network subtracts from each example its own mean."""
    return project(model=Sized(before=minus_the_row_mean))


@mistake("examples-stay-apart", "changed the output", centred)
def subtracts_the_batch_mean():
    """The network subtracts the mean over the batch, so examples affect one another."""
    return project(model=Sized(before=minus_the_batch_mean))


def last_one(x):
    """Add a little of the last example to every example."""
    return x + 0.01 * x[-1:]


@mistake("examples-stay-apart", "changed the output", classifier)
def lets_one_example_leak_into_all():
    """The network adds one hundredth of the last example to all the others."""
    return project(model=Sized(before=last_one))


class Attends(nn.Module):
    """A classifier of sequences, (N, L, 4)."""

    def __init__(self, batch_first):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=batch_first)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.encoder(x).mean(dim=1))


def sequences(model):
    """Return a project with sequences."""
    data = Examples(*arrays(12, (5, 4)))
    batch = torch.randn(8, 5, 4), torch.arange(8) % 3
    validation = Examples(*arrays(6, (5, 4), start=1))
    return project(model=model, data=data, batch=batch, validation=validation)


def attends_along_the_sequence():
    """Attention with batch_first=True runs along the sequence."""
    return sequences(Attends(batch_first=True))


@mistake("examples-stay-apart", "changed the output", attends_along_the_sequence)
def attends_across_the_batch():
    """Attention with batch_first=False, the default, runs across the examples."""
    return sequences(Attends(batch_first=False))


class LogSoftmaxed(Network):
    """A network that ends in log_softmax along a dimension."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return super().forward(x).log_softmax(dim=self.dim)


def exponential(model, inputs):
    """Return the probabilities of a network that returns log-probabilities."""
    model.eval()
    with torch.no_grad():
        return model(inputs).exp()


def nll(model, **changes):
    """Return a project with NLLLoss."""
    return project(model=model, loss_fn=nn.NLLLoss(), predict=exponential, **changes)


def log_softmax_over_the_classes():
    """log_softmax(dim=1) normalises over the classes, before NLLLoss."""
    return nll(LogSoftmaxed(1))


@mistake(
    "softmax-is-over-the-classes",
    "each class sums to 1 over",
    log_softmax_over_the_classes,
    "examples-stay-apart",
    "nll-is-given-log-probabilities",
)
def log_softmax_over_the_batch():
    """log_softmax(dim=0) normalises over the examples instead of the classes."""
    return nll(LogSoftmaxed(0))


def predicts_over_the_batch(model, inputs):
    model.eval()
    with torch.no_grad():
        return model(inputs).softmax(dim=0)


@mistake("softmax-is-over-the-classes", "in what predict returned", classifier)
def predicts_with_softmax_over_the_batch():
    """The model is right, but predict takes the softmax over the examples."""
    return project(predict=predicts_over_the_batch)


def scaled(x):
    return x * 0.5


def scaled_in_place(x):
    return x.mul_(0.5)


def scales_a_copy():
    """Forward scales a copy of its input."""
    return project(model=Sized(before=scaled))


@mistake("inputs-are-left-alone", "the elements of the inputs", scales_a_copy)
def scales_its_input_in_place():
    """Forward scales its input in place, so the caller's tensor changes."""
    return project(model=Sized(before=scaled_in_place))


def clamps_in_place(x):
    """Clamp the caller's tensor to bounds that it rarely reaches."""
    return x.clamp_(-100, 100)


@mistake("inputs-are-left-alone", "with the values that it had", classifier)
def clamps_its_input_in_place():
    """Forward clamps its input in place, which mostly writes back the same values."""
    return project(model=Sized(before=clamps_in_place))


def merging_loss(outputs, targets):
    """Return the cross-entropy after merging two classes in the targets."""
    targets[targets == 2] = 1
    return F.cross_entropy(outputs, targets)


@mistake("inputs-are-left-alone", "the targets that", classifier)
def a_loss_overwrites_the_targets():
    """The loss function merges two classes in place, so the caller's targets change."""
    return project(loss_fn=merging_loss)


class AlwaysDrops(Network):
    """A network that calls F.dropout."""

    def __init__(self, switched):
        super().__init__()
        self.switched = switched

    def forward(self, x):
        return self.head(F.dropout(self.body(x), 0.2, self.training or not self.switched))


def functional_dropout_with_the_mode():
    """F.dropout gets training=self.training, so eval mode switches it off."""
    return project(model=AlwaysDrops(True))


@mistake("eval-mode-leaves-nothing-to-chance", "in eval mode", functional_dropout_with_the_mode)
def functional_dropout_that_stays_on():
    """F.dropout lacks training=, whose default is True, so it stays on in eval mode."""
    return project(model=AlwaysDrops(False))


class Scaled(Network):
    """A network that scales its input by a constant tensor."""

    def __init__(self, registered):
        super().__init__()
        scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
        if registered:
            self.register_buffer("scale", scale)
        else:
            self.scale = scale

    def forward(self, x):
        return super().forward(x * self.scale)


def constant_in_a_buffer():
    """A constant tensor is a buffer, which moves with the model."""
    return project(model=Scaled(True))


@mistake("the-model-moves-as-a-whole", "plain attributes stay behind: scale", constant_in_a_buffer)
def constant_in_a_plain_attribute():
    """A constant tensor is a plain attribute, which stays behind when the model moves."""
    return project(model=Scaled(False))


def noise_on_the_device(x):
    """Add a new tensor on the device of x."""
    return x + torch.linspace(0, 1, 4, device=x.device)


def noise_on_the_cpu(x):
    """Add a new tensor on the CPU."""
    return x + torch.linspace(0, 1, 4)


def makes_a_tensor_on_the_device():
    """Forward creates a tensor on the device of its input."""
    return project(model=Sized(before=noise_on_the_device))


@mistake("the-model-moves-as-a-whole", "raised", makes_a_tensor_on_the_device)
def makes_a_tensor_on_the_cpu():
    """Forward creates a tensor on the CPU, wherever its input is."""
    return project(model=Sized(before=noise_on_the_cpu))


def batch_statistics(tracked):
    """Return a project whose BatchNorm may track running statistics."""
    model = Network()
    model.body[1] = nn.BatchNorm1d(8, track_running_stats=tracked)
    return project(model=model)


@mistake("examples-stay-apart", "changed the output", classifier)
def batch_norm_without_running_statistics():
    """With track_running_stats=False, BatchNorm uses batch statistics even in eval mode."""
    return batch_statistics(tracked=False)


@mistake("inputs-are-left-alone", "the elements of the inputs", classifier)
def an_in_place_activation_comes_first():
    """The first layer is ReLU(inplace=True), which writes to the caller's tensor."""
    return project(model=nn.Sequential(nn.ReLU(inplace=True), Network()))


class Joins(nn.Module):
    """A layer that works on pairs of rows, or on the row alone."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.layer = rows, nn.Linear(4 * rows, 4 * rows)

    def forward(self, x):
        return self.layer(x.reshape(-1, 4 * self.rows)).view(-1, 4)


def rows_alone():
    """A view keeps each row apart."""
    return {"model": Joins(1), "batch": torch.randn(8, 4)}


@mistake("examples-stay-apart", "changed the output of 4 examples", rows_alone)
def a_view_that_joins_neighbours():
    """A view puts two examples into one row, as a view of (layers, batch, h) does."""
    return {"model": Joins(2), "batch": torch.randn(8, 4)}
