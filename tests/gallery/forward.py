"""Mistakes of the forward pass."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.gallery.base import Examples, Network, arrays, classifier, mistake, project


class Sized(Network):
    """A network that does something to its input or its logits."""

    def __init__(self, before=None, after=None):
        """Keep both."""
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x):
        """Return the logits."""
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
    """Each example has its own mean subtracted."""
    return project(model=Sized(before=minus_the_row_mean))


@mistake("examples-stay-apart", "changed the output", centred)
def subtracts_the_batch_mean():
    """The mean is taken over the examples."""
    return project(model=Sized(before=minus_the_batch_mean))


def last_one(x):
    """Add a little of the last example to all."""
    return x + 0.01 * x[-1:]


@mistake("examples-stay-apart", "changed the output", classifier)
def lets_one_example_leak_into_all():
    """One hundredth of one example is added to each other one."""
    return project(model=Sized(before=last_one))


class Attends(nn.Module):
    """A classifier of sequences, (N, L, 4)."""

    def __init__(self, batch_first):
        """Make the layers."""
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=batch_first)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        """Return the logits."""
        return self.head(self.encoder(x).mean(dim=1))


def sequences(model):
    """Return a project about sequences."""
    data = Examples(*arrays(12, (5, 4)))
    batch = torch.randn(8, 5, 4), torch.arange(8) % 3
    validation = Examples(*arrays(6, (5, 4), start=1))
    return project(model=model, data=data, batch=batch, validation=validation)


def attends_along_the_sequence():
    """Attention where the batch comes first."""
    return sequences(Attends(batch_first=True))


@mistake("examples-stay-apart", "changed the output", attends_along_the_sequence)
def attends_across_the_batch():
    """The default of batch_first is False: attention goes from example to example."""
    return sequences(Attends(batch_first=False))


class LogSoftmaxed(Network):
    """A network that ends in log_softmax along a dimension."""

    def __init__(self, dim):
        """Keep the dimension."""
        super().__init__()
        self.dim = dim

    def forward(self, x):
        """Return log-probabilities."""
        return super().forward(x).log_softmax(dim=self.dim)


def exponential(model, inputs):
    """Return the probabilities of a network that gives their logarithms."""
    model.eval()
    with torch.no_grad():
        return model(inputs).exp()


def nll(model, **changes):
    """Return a project with NLLLoss."""
    return project(model=model, loss_fn=nn.NLLLoss(), predict=exponential, **changes)


def log_softmax_over_the_classes():
    """log_softmax(dim=1) and NLLLoss."""
    return nll(LogSoftmaxed(1))


@mistake(
    "softmax-is-over-the-classes",
    "each class sums to 1 over",
    log_softmax_over_the_classes,
    "examples-stay-apart",
    "nll-is-given-log-probabilities",
)
def log_softmax_over_the_batch():
    """log_softmax(dim=0): a distribution over the examples."""
    return nll(LogSoftmaxed(0))


def predicts_over_the_batch(model, inputs):
    """Return a softmax over the examples."""
    model.eval()
    with torch.no_grad():
        return model(inputs).softmax(dim=0)


@mistake("softmax-is-over-the-classes", "in what predict returned", classifier)
def predicts_with_softmax_over_the_batch():
    """The model is right; predict normalises over the examples."""
    return project(predict=predicts_over_the_batch)


def scaled(x):
    """Return a scaled copy."""
    return x * 0.5


def scaled_in_place(x):
    """Scale the caller's tensor."""
    return x.mul_(0.5)


def scales_a_copy():
    """The input is scaled out of place."""
    return project(model=Sized(before=scaled))


@mistake("inputs-are-left-alone", "the elements of the inputs", scales_a_copy)
def scales_its_input_in_place():
    """Forward writes to its argument."""
    return project(model=Sized(before=scaled_in_place))


def clamps_in_place(x):
    """Clamp the caller's tensor to bounds that it may well keep to."""
    return x.clamp_(-100, 100)


@mistake("inputs-are-left-alone", "with the values that it had", classifier)
def clamps_its_input_in_place():
    """Forward writes to its argument, mostly the values that are there."""
    return project(model=Sized(before=clamps_in_place))


def merging_loss(outputs, targets):
    """Return the cross-entropy of targets of which two are taken as one."""
    targets[targets == 2] = 1
    return F.cross_entropy(outputs, targets)


@mistake("inputs-are-left-alone", "the targets that", classifier)
def a_loss_overwrites_the_targets():
    """The loss function merges two classes in its caller's targets."""
    return project(loss_fn=merging_loss)


class AlwaysDrops(Network):
    """A network that uses dropout as a function."""

    def __init__(self, switched):
        """Say whether the mode switches dropout off."""
        super().__init__()
        self.switched = switched

    def forward(self, x):
        """Return the logits."""
        return self.head(F.dropout(self.body(x), 0.2, self.training or not self.switched))


def functional_dropout_with_the_mode():
    """F.dropout with training=self.training."""
    return project(model=AlwaysDrops(True))


@mistake("eval-mode-leaves-nothing-to-chance", "in eval mode", functional_dropout_with_the_mode)
def functional_dropout_that_stays_on():
    """F.dropout without training=: its default is True."""
    return project(model=AlwaysDrops(False))


class Scaled(Network):
    """A network that scales its input by a constant tensor."""

    def __init__(self, registered):
        """Register the constant, or keep it as a plain attribute."""
        super().__init__()
        scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
        if registered:
            self.register_buffer("scale", scale)
        else:
            self.scale = scale

    def forward(self, x):
        """Return the logits."""
        return super().forward(x * self.scale)


def constant_in_a_buffer():
    """The constant is a buffer."""
    return project(model=Scaled(True))


@mistake("the-model-moves-as-a-whole", "plain attributes stay behind: scale", constant_in_a_buffer)
def constant_in_a_plain_attribute():
    """The constant stays behind when the model moves."""
    return project(model=Scaled(False))


def noise_on_the_device(x):
    """Add a made tensor that is where x is."""
    return x + torch.linspace(0, 1, 4, device=x.device)


def noise_on_the_cpu(x):
    """Add a made tensor that is on the CPU."""
    return x + torch.linspace(0, 1, 4)


def makes_a_tensor_on_the_device():
    """What forward makes is on the device of the input."""
    return project(model=Sized(before=noise_on_the_device))


@mistake("the-model-moves-as-a-whole", "raised", makes_a_tensor_on_the_device)
def makes_a_tensor_on_the_cpu():
    """What forward makes is on the CPU."""
    return project(model=Sized(before=noise_on_the_cpu))


def batch_statistics(tracked):
    """Return a project whose BatchNorm keeps running statistics, or does not."""
    model = Network()
    model.body[1] = nn.BatchNorm1d(8, track_running_stats=tracked)
    return project(model=model)


@mistake("examples-stay-apart", "changed the output", classifier)
def batch_norm_without_running_statistics():
    """track_running_stats=False: BatchNorm normalises by the batch in eval mode too."""
    return batch_statistics(tracked=False)


@mistake("inputs-are-left-alone", "the elements of the inputs", classifier)
def an_in_place_activation_comes_first():
    """ReLU(inplace=True) as the first layer writes to the caller's tensor."""
    return project(model=nn.Sequential(nn.ReLU(inplace=True), Network()))
