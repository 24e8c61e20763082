"""The gallery: small projects with one mistake each, beside the same project without it.

Each project is whole, with every part that `dlconcepts.checks` can look at, so that a check which
complains about what is right is seen at once. A mistake names the check that must find it, a piece
of what that check must say, and in `also` the checks that are rightly concerned too.
"""

import copy
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

Parts = dict[str, Any]


@dataclass(frozen=True)
class Mistake:
    """A project with a mistake: which check must find it, what it must say, and what is right."""

    name: str
    wrong: Callable[[], Parts]
    right: Callable[[], Parts]
    check: str
    says: str
    also: tuple[str, ...] = ()


MISTAKES: list[Mistake] = []


def mistake(
    check: str, says: str, right: Callable[[], Parts], *also: str
) -> Callable[[Callable[[], Parts]], Callable[[], Parts]]:
    """Put a project into the gallery."""

    def hang(wrong: Callable[[], Parts]) -> Callable[[], Parts]:
        MISTAKES.append(Mistake(wrong.__name__, seeded(wrong), seeded(right), check, says, also))
        return wrong

    return hang


CORRECT: dict[str, Callable[[], Parts]] = {}


def correct(parts: Callable[[], Parts]) -> Callable[[], Parts]:
    """Put a project without a mistake, of another kind, into the gallery."""
    CORRECT[parts.__name__] = seeded(parts)
    return parts


def seeded(parts: Callable[[], Parts]) -> Callable[[], Parts]:
    """Return a function that makes a project with the same weights each time."""

    @functools.wraps(parts)
    def make() -> Parts:
        seed(0)
        return parts()

    return make


# ------------------------------------------------------------------ a project without a mistake


class Network(nn.Module):
    """A classifier of four features with all that can go wrong: BatchNorm, dropout, a head."""

    def __init__(self, classes: int = 3) -> None:
        """Make the layers."""
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        """Return the logits."""
        return self.head(self.body(x))


def train_step(model, loss_fn, optimizer, inputs, targets):
    """Take one step."""
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


def fit(model, loader, loss_fn, optimizer):
    """Train for one epoch and return the mean loss."""
    total = 0.0
    for inputs, targets in loader:
        total += train_step(model, loss_fn, optimizer, inputs, targets) * len(targets)
    return total / len(loader.dataset)


def predict(model, inputs):
    """Return the probabilities."""
    model.eval()
    with torch.no_grad():
        return model(inputs).softmax(dim=1)


def accuracy(outputs, targets):
    """Return the share that is right."""
    return (outputs.argmax(dim=1) == targets).double().mean().item()


def evaluate(model, loader, loss_fn):
    """Return the mean loss and the accuracy."""
    was_training = model.training
    model.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for inputs, targets in loader:
            outputs = model(inputs)
            total += loss_fn(outputs, targets).item() * len(targets)
            right += (outputs.argmax(dim=1) == targets).sum().item()
    model.train(was_training)
    return total / len(loader.dataset), right / len(loader.dataset)


def save(model, optimizer, path):
    """Write everything to a file."""
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)


def load(model, optimizer, path):
    """Read everything from a file."""
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])


def snapshot(model):
    """Return weights to keep."""
    return copy.deepcopy(model.state_dict())


def seed(number):
    """Seed every generator."""
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002 - the generator that others draw from
    random.seed(number)


class Examples(Dataset):
    """Numpy arrays as a data set, with a transform."""

    def __init__(self, array, labels, transform=None):
        """Keep the arrays."""
        self.array, self.labels, self.transform = array, labels, transform

    def __len__(self):
        """Return the number of examples."""
        return len(self.labels)

    def __getitem__(self, index):
        """Return one example."""
        x = torch.from_numpy(self.array[index].copy())
        return (self.transform(x) if self.transform else x), int(self.labels[index])


def arrays(count=12, shape=(4,), start=0):
    """Return features and labels of a few examples."""
    generator = np.random.default_rng(start)
    return generator.standard_normal((count, *shape)).astype(np.float32), np.arange(count) % 3


def project(**changes):
    """Return a whole project without a mistake, but for what is changed."""
    torch.manual_seed(0)
    model = changes.pop("model", None) or Network()
    data = changes.pop("data", None) or Examples(*arrays())
    torch.manual_seed(1)
    parts = {
        "model": model,
        "batch": (torch.randn(8, 4), torch.arange(8) % 3),
        "data": data,
        "loader": DataLoader(data, 8, shuffle=True),
        "validation": Examples(*arrays(6, start=1)),
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3),
        "train_step": train_step,
        "fit": fit,
        "predict": predict,
        "accuracy": accuracy,
        "evaluate": evaluate,
        "save": save,
        "load": load,
        "snapshot": snapshot,
        "seed": seed,
    }
    return parts | changes


def classifier():
    """A classifier without a mistake."""
    return project()


# ------------------------------------------------------------------ forward


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
    """forward writes to its argument."""
    return project(model=Sized(before=scaled_in_place))


def clamps_in_place(x):
    """Clamp the caller's tensor to bounds that it may well keep to."""
    return x.clamp_(-100, 100)


@mistake("inputs-are-left-alone", "with the values that it had", classifier)
def clamps_its_input_in_place():
    """forward writes to its argument, mostly the values that are there."""
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


# ------------------------------------------------------------------ loss


def as_it_is(model, inputs):
    """Return what a network gives that ends in softmax."""
    model.eval()
    with torch.no_grad():
        return model(inputs)


def softmaxed(x):
    """Return probabilities."""
    return x.softmax(dim=1)


@mistake("cross-entropy-is-given-logits", "sum to 1 in each row", classifier)
def softmax_before_cross_entropy():
    """The network ends in softmax, and the loss is CrossEntropyLoss."""
    return project(model=Sized(after=softmaxed), predict=as_it_is)


def own_cross_entropy(outputs, targets):
    """Return a cross-entropy of one's own, with class weights and label smoothing."""
    weight = torch.tensor([1.0, 2.0, 3.0])
    return F.cross_entropy(outputs, targets, weight=weight, label_smoothing=0.1)


@mistake("cross-entropy-is-given-logits", "sum to 1 in each row", classifier)
def softmax_before_a_loss_of_ones_own():
    """The loss is not named CrossEntropyLoss."""
    return project(model=Sized(after=softmaxed), predict=as_it_is, loss_fn=own_cross_entropy)


def softmax_step(model, loss_fn, optimizer, inputs, targets):
    """Take one step on the loss of the softmax."""
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(inputs).softmax(dim=1), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


def fit_with(step):
    """Return a fit that takes steps of some kind."""

    def fit(model, loader, loss_fn, optimizer):
        total = 0.0
        for inputs, targets in loader:
            total += step(model, loss_fn, optimizer, inputs, targets) * len(targets)
        return total / len(loader.dataset)

    return fit


@mistake("cross-entropy-is-given-logits", "sum to 1 in each row", classifier)
def softmax_in_the_training_step():
    """The model gives logits; the step takes their softmax before the loss."""
    return project(train_step=softmax_step, fit=fit_with(softmax_step))


def half(outputs):
    """Say which of two classes each logit is for."""
    return outputs > 0


def binary_accuracy(outputs, targets):
    """Return the share that is right."""
    return (half(outputs) == (targets > 0.5)).double().mean().item()


def binary_evaluate(model, loader, loss_fn):
    """Return the mean loss and the accuracy."""
    was_training = model.training
    model.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for inputs, targets in loader:
            outputs = model(inputs)
            total += loss_fn(outputs, targets).item() * len(targets)
            right += (half(outputs) == (targets > 0.5)).sum().item() / outputs[0].numel()
    model.train(was_training)
    return total / len(loader.dataset), right / len(loader.dataset)


class Labelled(Examples):
    """A data set whose targets are floats of a shape."""

    def __getitem__(self, index):
        """Return one example."""
        x = torch.from_numpy(self.array[index].copy())
        return x, torch.as_tensor(self.labels[index], dtype=torch.float32)


def floating(model, targets, loss_fn, **changes):
    """Return a project with targets that are floats."""
    x, y = arrays(len(targets))[0], targets.numpy()
    return project(
        model=model,
        data=Labelled(x, y),
        batch=(torch.from_numpy(x[:8].copy()), targets[:8].clone()),
        validation=Labelled(x[:6].copy(), y[:6]),
        loss_fn=loss_fn,
        **{"predict": as_it_is, "accuracy": binary_accuracy, "evaluate": binary_evaluate} | changes,
    )


def multi_label_targets():
    """Return three zeros and ones for each of 12 examples."""
    return (torch.arange(36).reshape(12, 3) % 5 % 2).float()


def multi_label():
    """Logits and BCEWithLogitsLoss, three labels for each example."""
    return floating(Network(), multi_label_targets(), nn.BCEWithLogitsLoss())


@mistake("cross-entropy-is-given-logits", "come from a sigmoid", multi_label)
def sigmoid_before_bce_with_logits():
    """The network ends in a sigmoid, and the loss takes one too."""
    return floating(Sized(after=torch.sigmoid), multi_label_targets(), nn.BCEWithLogitsLoss())


@mistake("nll-is-given-log-probabilities", "is given probabilities", log_softmax_over_the_classes)
def nll_on_probabilities():
    """Softmax, not log_softmax, before NLLLoss."""
    return nll(Sized(after=softmaxed)) | {"predict": as_it_is}


@mistake("nll-is-given-log-probabilities", "is given logits", log_softmax_over_the_classes)
def nll_on_logits():
    """No log_softmax at all before NLLLoss."""
    return nll(Network()) | {"predict": predict}


@mistake("scores-are-not-cut-at-zero", "come from Relu", classifier)
def relu_on_the_logits():
    """An activation follows the last layer too."""
    return project(model=Sized(after=F.relu))


def relu_log_softmax(x):
    """Cut at zero, then normalise."""
    return F.relu(x).log_softmax(dim=1)


@mistake("scores-are-not-cut-at-zero", "come from Relu", log_softmax_over_the_classes)
def relu_under_log_softmax():
    """The cut is hidden behind log_softmax."""
    return nll(Sized(after=relu_log_softmax))


class Regression(nn.Module):
    """A regression of four features, (N, 1) or (N,)."""

    def __init__(self, squeeze):
        """Say whether the outputs are (N,)."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.squeeze = squeeze

    def forward(self, x):
        """Return a number for each example."""
        return self.layers(x).squeeze(1) if self.squeeze else self.layers(x)


def mean_loss(model, loader, loss_fn):
    """Return the mean loss."""
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for inputs, targets in loader:
            total += loss_fn(model(inputs), targets).item() * len(targets)
    model.train(was_training)
    return total / len(loader.dataset)


def regression(squeeze=True, loss_fn=None):
    """Return a project with a target for each example, (N,)."""
    targets = torch.linspace(-1, 1, 12)
    parts = floating(Regression(squeeze), targets, loss_fn or nn.MSELoss(), evaluate=mean_loss)
    return parts | {"accuracy": None}


@mistake("the-loss-pairs-outputs-with-targets", "were compared as (8, 8): 64 pairs", regression)
def a_loss_that_broadcasts():
    """Outputs (N, 1) and targets (N,) in MSELoss."""
    return regression(squeeze=False)


def own_loss(outputs, targets):
    """Return a mean absolute difference."""
    return (outputs - targets).abs().mean()


@mistake("the-loss-pairs-outputs-with-targets", "were compared as (8, 8): 64 pairs", regression)
def a_loss_of_ones_own_that_broadcasts():
    """Outputs (N, 1) and targets (N,) in a difference; PyTorch does not warn."""
    return regression(squeeze=False, loss_fn=own_loss)


# ------------------------------------------------------------------ learning


class Listed(nn.Module):
    """A network whose hidden layers are in a list."""

    def __init__(self, container):
        """Make the layers."""
        super().__init__()
        self.hidden = container([nn.Linear(4, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        """Return the logits."""
        for layer in self.hidden:
            x = layer(x).relu()
        return self.head(x)


def layers_in_a_module_list():
    """nn.ModuleList registers them."""
    return project(model=Listed(nn.ModuleList))


@mistake(
    "every-layer-is-registered",
    "kept in hidden",
    layers_in_a_module_list,
    "the-model-moves-as-a-whole",
)
def layers_in_a_plain_list():
    """A list registers nothing."""
    return project(model=Listed(list))


class MakesLayers(Network):
    """A network that makes a layer in each forward pass."""

    def forward(self, x):
        """Return the logits."""
        torch.manual_seed(0)
        return nn.Linear(3, 3)(super().forward(x))


@mistake(
    "every-layer-is-registered",
    "model.parameters() does not list",
    classifier,
    "the-model-moves-as-a-whole",
)
def a_layer_made_in_forward():
    """The layer is new in each pass, and never learns."""
    return project(model=MakesLayers())


class Spare(Network):
    """A network with a layer that it may forget to use."""

    def __init__(self, used, cut=False):
        """Make one layer more."""
        super().__init__()
        self.spare, self.used, self.cut = nn.Linear(8, 8), used, cut

    def forward(self, x):
        """Return the logits."""
        x = self.body(x)
        if self.used:
            x = self.spare(x)
        return self.head(x.detach() if self.cut else x)


def every_layer_used():
    """The layer is used."""
    return project(model=Spare(True))


@mistake("every-parameter-gets-a-gradient", "spare.weight, spare.bias is None", every_layer_used)
def a_layer_that_is_never_used():
    """The layer is made and forgotten."""
    return project(model=Spare(False))


@mistake("every-parameter-gets-a-gradient", "is None: 6 of 8", every_layer_used)
def a_graph_that_is_cut():
    """detach() before the head: all below it never learns."""
    return project(model=Spare(True, cut=True))


def rounded(x):
    """Round, whose gradient is zero."""
    return x + (x * 0).sum() + 10 * x.round() - x


@mistake(
    "every-parameter-gets-a-gradient", "is exactly zero", classifier, "a-step-follows-the-gradient"
)
def rounds_the_logits():
    """round() has a gradient of zero everywhere."""
    return project(model=Sized(after=rounded))


def new_head(late):
    """Return a project whose optimizer was built before or after the head was replaced."""
    model = Network(classes=5)
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    model.head = nn.Linear(8, 3)
    return project(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1) if late else early
    )


def optimizer_built_after_the_head():
    """The optimizer is built last."""
    return new_head(late=True)


@mistake("the-optimizer-holds-the-model", "head.weight, head.bias", optimizer_built_after_the_head)
def optimizer_built_before_the_head():
    """The optimizer holds the old head."""
    return new_head(late=False)


@mistake("the-optimizer-holds-the-model", "6 of 6", classifier)
def optimizer_over_another_model():
    """The optimizer holds the parameters of another network."""
    return project(optimizer=torch.optim.SGD(Network().parameters(), lr=0.1))


def steps(step, **changes):
    """Return a project that trains by steps of some kind."""
    return project(train_step=step, fit=fit_with(step), **changes)


def never_zeroes(model, loss_fn, optimizer, inputs, targets):
    """Take one step without zero_grad."""
    model.train()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@mistake("a-step-follows-its-own-batch", "of the way from where", classifier)
def gradients_never_zeroed():
    """No zero_grad anywhere."""
    return steps(never_zeroes)


def tiny_and_negative(outputs, targets):
    """Return a loss that is tiny and below zero."""
    return 1e-4 * (F.cross_entropy(outputs, targets) - 100)


def a_tiny_and_negative_loss():
    """The scale and the sign of the loss do not matter."""
    return project(loss_fn=tiny_and_negative)


def adam(model):
    """Return Adam, which hides the size of a gradient."""
    return torch.optim.Adam(model.parameters(), lr=0.01)


@mistake("a-step-follows-its-own-batch", "of the way from where", classifier)
def gradients_never_zeroed_with_adam():
    """Adam divides by the size of the gradient, which hides that it grows."""
    return steps(never_zeroes, optimizer=adam)


def zeroes_the_model_of_the_first_step(model, loss_fn, optimizer, inputs, targets):
    """Zero the gradients of the head only."""
    model.train()
    model.head.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@mistake("a-step-follows-its-own-batch", "of the way from where", a_tiny_and_negative_loss)
def gradients_never_zeroed_of_a_negative_loss():
    """The loss is tiny and below zero."""
    return steps(never_zeroes, loss_fn=tiny_and_negative)


@mistake("a-step-follows-its-own-batch", "of the way from where", classifier)
def only_the_head_is_zeroed():
    """zero_grad of a part of the model."""
    return steps(zeroes_the_model_of_the_first_step)


def zeroes_once(model, loader, loss_fn, optimizer):
    """Train for an epoch, zeroing the gradients at its start."""
    model.train()
    optimizer.zero_grad()
    total = 0.0
    for inputs, targets in loader:
        total += never_zeroes(model, loss_fn, optimizer, inputs, targets) * len(targets)
    return total / len(loader.dataset)


@mistake("a-step-follows-its-own-batch", "of the way from where fit", classifier)
def gradients_zeroed_once_an_epoch():
    """zero_grad stands before the loop."""
    return project(fit=zeroes_once, train_step=None)


def zeroes_before_the_step(model, loss_fn, optimizer, inputs, targets):
    """Wipe the gradient out before it is used."""
    model.train()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@mistake("a-step-follows-the-gradient", "moved the weights not at all", classifier)
def gradients_zeroed_before_the_step():
    """zero_grad between backward and step."""
    return steps(zeroes_before_the_step)


def zeroes_in_place_before_the_step(model, loss_fn, optimizer, inputs, targets):
    """Wipe the gradient out, so that only weight decay is left of the step."""
    model.train()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    return loss.item()


@mistake("a-step-follows-the-gradient", "the same for both", classifier)
def weight_decay_is_all_that_moves():
    """zero_grad(set_to_none=False) before the step: weight decay still moves the weights."""
    return steps(zeroes_in_place_before_the_step)


def keeps_losses(model, loader, loss_fn, optimizer):
    """Add up the loss tensors."""
    model.train()
    total = 0.0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        total = total + loss * len(targets)
    return total.item() / len(loader.dataset)


@mistake("the-loss-is-kept-as-a-number", "were still in memory", classifier)
def a_running_loss_of_tensors():
    """The sum is a number at last, but holds every graph until then."""
    return project(fit=keeps_losses)


def returns_losses(model, loader, loss_fn, optimizer):
    """Return the loss tensors."""
    model.train()
    history = []
    for inputs, targets in loader:
        optimizer.zero_grad()
        history.append(loss_fn(model(inputs), targets))
        history[-1].backward()
        optimizer.step()
    return history


@mistake("the-loss-is-kept-as-a-number", "requires a gradient", classifier)
def a_history_of_loss_tensors():
    """The losses are returned with their graphs."""
    return project(fit=returns_losses)


def seeds_torch_only(number):
    """Seed one of the generators."""
    torch.manual_seed(number)


def fit_in_numpy_order(model, loader, loss_fn, optimizer):
    """Train on the batches in an order that numpy draws."""
    batches = list(loader)
    for position in np.random.permutation(len(batches)):  # noqa: NPY002
        train_step(model, loss_fn, optimizer, *batches[position])


def every_generator_seeded():
    """The order is drawn by numpy, and the seed is numpy's too."""
    return project(fit=fit_in_numpy_order)


@mistake("a-seed-repeats-the-run", "ended", every_generator_seeded)
def numpy_is_not_seeded():
    """The order is drawn by numpy, and the seed is torch's only."""
    return project(fit=fit_in_numpy_order, seed=seeds_torch_only)


def fit_in_fresh_order(model, loader, loss_fn, optimizer):
    """Train on the batches in an order from a generator that nobody seeds."""
    batches = list(loader)
    for position in np.random.default_rng().permutation(8) % len(batches):
        train_step(model, loss_fn, optimizer, *batches[position])


@mistake("a-seed-repeats-the-run", "ended", classifier)
def a_generator_that_nobody_seeds():
    """default_rng() draws its seed from the system."""
    return project(fit=fit_in_fresh_order, seed=None)


# ------------------------------------------------------------------ freezing


class Transfer(nn.Module):
    """A backbone with BatchNorm and a head; `kept` keeps the backbone in eval mode."""

    def __init__(self, kept=True):
        """Make both; freeze the backbone."""
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 3))
        self.kept = kept
        self.train()

    def train(self, mode=True):
        """Switch the head, and the backbone only if it is not kept."""
        super().train(mode)
        if self.kept:
            self.backbone.eval()
        return self

    def forward(self, x):
        """Return the logits."""
        return self.head(self.backbone(x))


def transfer(model=None, optimizer=None, **changes):
    """Return a project that trains a head on a frozen backbone."""
    model = model or Transfer()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    optimizer = optimizer or torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9)
    return project(model=model, optimizer=optimizer, **changes)


def frozen_for_good():
    """The optimizer holds the head only."""
    return transfer(frozen=["backbone"])


def backward_once(model):
    """Leave gradients behind."""
    F.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 3).backward()


def adds_up(model, loss_fn, optimizer, inputs, targets):
    """Take a step whose zero_grad is the head's only."""
    model.train()
    model.head.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@mistake("frozen-parameters-stay", "a gradient of an earlier backward", frozen_for_good)
def frozen_with_stale_gradients():
    """Frozen after a backward, with the gradients left in place."""
    torch.manual_seed(0)
    model = Transfer()
    backward_once(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return transfer(model, optimizer, train_step=adds_up, fit=fit_with(adds_up))


def zeroes_in_place(model, loss_fn, optimizer, inputs, targets):
    """Take a step with gradients that are zeroed, not dropped."""
    model.train()
    optimizer.zero_grad(set_to_none=False)
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@mistake("frozen-parameters-stay", "the optimizer has momentum for it", frozen_for_good)
def frozen_with_momentum():
    """Frozen in the middle of training: the momentum goes on."""
    torch.manual_seed(0)
    model = Transfer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    zeroes_in_place(model, F.cross_entropy, optimizer, torch.randn(8, 4), torch.arange(8) % 3)
    optimizer.zero_grad(set_to_none=False)
    return transfer(model, optimizer, train_step=zeroes_in_place, fit=fit_with(zeroes_in_place))


@mistake("frozen-parameters-stay", "weight_decay is 0.01", frozen_for_good)
def frozen_with_weight_decay():
    """A gradient of zero is one: weight decay moves the parameter."""
    torch.manual_seed(0)
    model = Transfer()
    backward_once(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.01)
    optimizer.zero_grad(set_to_none=False)
    return transfer(model, optimizer, train_step=zeroes_in_place, fit=fit_with(zeroes_in_place))


@mistake("frozen-parameters-stay", "its requires_grad is still True", frozen_for_good)
def frozen_by_an_attribute_of_the_module():
    """module.requires_grad = False sets an attribute that nobody reads."""
    model = Transfer()
    model.backbone.requires_grad = False
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return project(model=model, optimizer=optimizer, frozen=["backbone"])


@mistake("frozen-statistics-stay", "backbone.1.running_mean", frozen_for_good)
def frozen_batch_norm_in_training_mode():
    """model.train() reaches the frozen BatchNorm, whose statistics move."""
    return transfer(Transfer(kept=False))


# ------------------------------------------------------------------ validation


def in_training_mode(model, loader, loss_fn):
    """Evaluate without eval()."""
    total, right = 0.0, 0
    with torch.no_grad():
        for inputs, targets in loader:
            outputs = model(inputs)
            total += loss_fn(outputs, targets).item() * len(targets)
            right += (outputs.argmax(dim=1) == targets).sum().item()
    return total / len(loader.dataset), right / len(loader.dataset)


class Plain(nn.Sequential):
    """A classifier with dropout and no BatchNorm."""

    def __init__(self):
        """Make the layers."""
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def dropout_off_in_validation():
    """Dropout, and an evaluation in eval mode."""
    return project(model=Plain())


@mistake("validation-is-in-eval-mode", "in training mode, Dropout", dropout_off_in_validation)
def no_eval_in_validation():
    """The evaluation leaves dropout on."""
    return project(model=Plain(), evaluate=in_training_mode)


@mistake(
    "validation-changes-nothing",
    "evaluate changed BatchNorm statistics",
    classifier,
    "validation-is-in-eval-mode",
)
def validation_updates_batch_norm():
    """The evaluation runs BatchNorm in training mode, which learns the held-out statistics."""
    return project(evaluate=in_training_mode)


def eval_for_the_first_batch(model, loader, loss_fn):
    """Evaluate; a look at the training in between switches the mode back."""
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for inputs, targets in loader:
            total += loss_fn(model(inputs), targets).item() * len(targets)
            count += len(targets)
            model.train()
    return total / count


@mistake("validation-is-in-eval-mode", "in training mode", classifier, "validation-changes-nothing")
def train_inside_the_validation_loop():
    """model.train() is indented too far: from the second batch on, the mode is wrong."""
    return project(evaluate=two_batches_in(eval_for_the_first_batch))


def two_batches_in(function):
    """Return an evaluation that always has a second batch: it goes over the loader twice."""

    def evaluate(model, loader, loss_fn):
        class Twice:
            dataset = loader.dataset

            def __iter__(self):
                yield from loader
                yield from loader

        return function(model, Twice(), loss_fn)

    return evaluate


def leaves_eval_mode(model, loader, loss_fn):
    """Evaluate and stay in eval mode."""
    model.eval()
    return in_training_mode(model, loader, loss_fn)


def step_in_the_mode_it_finds(model, loss_fn, optimizer, inputs, targets):
    """Take one step in whatever mode the model is."""
    optimizer.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


def mode_restored():
    """The step does not set the mode, but evaluate restores it."""
    return steps(step_in_the_mode_it_finds)


@mistake("the-mode-is-restored", "now in eval mode", mode_restored)
def eval_mode_stays():
    """After the first evaluation the network trains in eval mode."""
    return steps(step_in_the_mode_it_finds, evaluate=leaves_eval_mode)


def trains_everything(model, loader, loss_fn):
    """Evaluate and put all of the model into training mode."""
    model.eval()
    result = in_training_mode(model, loader, loss_fn)
    for part in model.modules():
        part.training = True
    return result


@mistake("the-mode-is-restored", "now in training mode", frozen_for_good)
def train_wakes_what_was_frozen():
    """After the evaluation a frozen BatchNorm is in training mode."""
    step = step_in_the_mode_it_finds
    return transfer(train_step=step, fit=fit_with(step), evaluate=trains_everything)


def with_gradients(model, loader, loss_fn):
    """Evaluate without no_grad."""
    was_training = model.training
    model.eval()
    total, right = 0.0, 0
    for inputs, targets in loader:
        outputs = model(inputs)
        total += loss_fn(outputs, targets).item() * len(targets)
        right += (outputs.argmax(dim=1) == targets).sum().item()
    model.train(was_training)
    return total / len(loader.dataset), right / len(loader.dataset)


@mistake("validation-records-no-gradients", "1 of 1 forward passes", classifier)
def gradients_recorded_in_validation():
    """No torch.no_grad()."""
    return project(evaluate=with_gradients)


def switches_gradients_off(model, loader, loss_fn):
    """Evaluate with gradients off, for good."""
    torch.set_grad_enabled(False)
    return with_gradients(model, loader, loss_fn)


@mistake("validation-records-no-gradients", "left them off", classifier)
def gradients_left_off_after_validation():
    """torch.set_grad_enabled(False) outside a with."""
    return project(evaluate=switches_gradients_off)


def mean_of_means(model, loader, loss_fn):
    """Return the means of the batches' means."""
    was_training = model.training
    model.eval()
    losses, shares = [], []
    with torch.no_grad():
        for inputs, targets in loader:
            outputs = model(inputs)
            losses.append(loss_fn(outputs, targets).item())
            shares.append((outputs.argmax(dim=1) == targets).double().mean().item())
    model.train(was_training)
    return {"loss": sum(losses) / len(losses), "accuracy": sum(shares) / len(shares)}


@mistake("every-example-counts-once", "in batches of 6 and 2", classifier)
def mean_of_batch_means():
    """Each batch counts the same, whatever its size."""
    return project(evaluate=mean_of_means)


def accuracy_of_means(model, loader, loss_fn):
    """Return the mean of the batches' accuracies alone."""
    return mean_of_means(model, loader, loss_fn)["accuracy"]


@mistake("every-example-counts-once", "in batches of 6 and 2", classifier)
def mean_of_batch_accuracies():
    """An accuracy alone, which an untrained network may have at zero throughout."""
    return project(evaluate=accuracy_of_means)


def last_batch_only(model, loader, loss_fn):
    """Return the loss of the last batch."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for inputs, targets in loader:
            loss = loss_fn(model(inputs), targets).item()
    model.train(was_training)
    return loss


@mistake("every-example-counts-once", "in batches of 6 and 2", classifier)
def only_the_last_batch_counts():
    """The loss is overwritten, not added up."""
    return project(evaluate=last_batch_only)


def broadcasting_accuracy(outputs, targets):
    """Compare topk's (N, 1) with labels (N,)."""
    return (outputs.topk(1, dim=1)[1] == targets).double().mean().item()


@mistake("accuracy-counts-each-example", "right predictions of 6", classifier)
def accuracy_that_broadcasts():
    """topk(1) keeps the dimension."""
    return project(accuracy=broadcasting_accuracy)


# ------------------------------------------------------------------ checkpoints


def save_parameters(model, optimizer, path):
    """Write the parameters, and no buffers."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    torch.save({"model": named, "optimizer": optimizer.state_dict()}, path)


def load_what_fits(model, optimizer, path):
    """Read what is there, and say nothing of the rest."""
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model"], strict=False)
    optimizer.load_state_dict(checkpoint["optimizer"])


@mistake(
    "a-checkpoint-holds-the-model",
    "buffers did not come back: body.1.running_mean",
    classifier,
    "a-partial-checkpoint-is-refused",
)
def buffers_missing_in_the_checkpoint():
    """named_parameters() has no buffers, and strict=False hides it."""
    return project(save=save_parameters, load=load_what_fits)


@mistake("a-partial-checkpoint-is-refused", "loaded without an error", classifier)
def a_partial_load():
    """strict=False: what the file lacks stays as it was."""
    return project(load=load_what_fits)


def load_by_name(model, optimizer, path):
    """Copy the tensors whose names and shapes are there."""
    checkpoint = torch.load(path, weights_only=True)
    own = model.state_dict()
    fitting = {k: v for k, v in checkpoint["model"].items() if k in own}
    own.update(fitting)
    model.load_state_dict(own)
    optimizer.load_state_dict(checkpoint["optimizer"])


@mistake("a-partial-checkpoint-is-refused", "loaded without an error", classifier)
def a_filtered_load():
    """A filter on names takes what fits, and load_state_dict is strict in vain."""
    return project(load=load_by_name)


def save_model_only(model, optimizer, path):
    """Write the model alone."""
    torch.save({"model": model.state_dict()}, path)


def load_model_only(model, optimizer, path):
    """Read the model alone."""
    model.load_state_dict(torch.load(path, weights_only=True)["model"])


@mistake("a-checkpoint-holds-the-optimizer", "did not come back", classifier)
def optimizer_missing_in_the_checkpoint():
    """The optimizer's state is neither saved nor loaded."""
    return project(save=save_model_only, load=load_model_only)


def live_state(model):
    """Return the live tensors."""
    return model.state_dict()


@mistake("kept-weights-are-a-copy", "that snapshot returned share memory", classifier)
def state_dict_kept_by_reference():
    """best = model.state_dict()."""
    return project(snapshot=live_state)


def shallow_copy(model):
    """Return a new dictionary of the live tensors."""
    return dict(model.state_dict())


@mistake("kept-weights-are-a-copy", "that snapshot returned share memory", classifier)
def a_shallow_copy_of_the_state():
    """dict(model.state_dict())."""
    return project(snapshot=shallow_copy)


def fit_with_best(keep):
    """Return a fit that goes back to the best weights, kept in some way."""

    def fit(model, loader, loss_fn, optimizer):
        best, least = None, float("inf")
        for inputs, targets in loader:
            loss = train_step(model, loss_fn, optimizer, inputs, targets)
            if loss < least:
                best, least = keep(model.state_dict()), loss
        model.load_state_dict(best)
        return least

    return fit


def keeps_a_deep_copy():
    """Early stopping with a deep copy."""
    return project(fit=fit_with_best(copy.deepcopy), snapshot=None)


@mistake("kept-weights-are-a-copy", "fit loaded", keeps_a_deep_copy)
def early_stopping_that_keeps_the_last():
    """Early stopping whose best weights are the live ones."""
    return project(fit=fit_with_best(dict), snapshot=None)


# ------------------------------------------------------------------ data


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
    """x -= mean writes to what the data set keeps: it is normalised again in each epoch."""
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


# ------------------------------------------------------------------ correct projects of other kinds


def norms(layer):
    """Return a project whose body has another normalisation."""
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
    """InstanceNorm with statistics of its own, over images."""
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
        """Make the shared weight."""
        super().__init__()
        self.encode, self.bias = nn.Linear(4, 3), nn.Parameter(torch.zeros(4))
        self.again = [self.encode]

    def forward(self, x):
        """Return the reconstruction."""
        return F.linear(self.encode(x).tanh(), self.again[0].weight.T, self.bias)


@correct
def weight_sharing():
    """One weight used twice, once through a plain list."""
    x = torch.from_numpy(arrays()[0])
    return floating(Tied(), x.clone(), nn.MSELoss(), evaluate=mean_loss) | {"accuracy": None}


class Recurrent(nn.Module):
    """A classifier of sequences by the last state of an LSTM."""

    def __init__(self, batch_first):
        """Make the layers."""
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, dropout=0.2, batch_first=batch_first)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        """Return the logits and the states."""
        _, (state, _) = self.lstm(x)
        return self.head(state[-1])


@correct
def recurrent_cells():
    """An LSTM, batch first."""
    return sequences(Recurrent(batch_first=True))


@correct
def recurrent_cells_with_the_time_first():
    """An LSTM over (L, N, 4), L and N not equal."""
    parts = project(model=Recurrent(batch_first=False), data=None)
    batch = torch.randn(5, 8, 4), torch.arange(8) % 3
    return parts | {"batch": batch, "data": None, "loader": None, "evaluate": None}


class WithState(nn.Module):
    """A model that returns its states too, whose examples are in dimension 1."""

    def __init__(self):
        """Make the layers."""
        super().__init__()
        self.gru, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        """Return logits and states in a dictionary."""
        outputs, state = self.gru(x)
        return {"logits": self.head(outputs[:, -1]), "state": state}


def loss_of_logits(outputs, targets):
    """Return the cross-entropy of what a dictionary has."""
    return F.cross_entropy(outputs["logits"], targets)


def predict_logits(model, inputs):
    """Return the probabilities of a model that returns a dictionary."""
    model.eval()
    with torch.no_grad():
        return model(inputs)["logits"].softmax(dim=1)


@correct
def dictionaries_as_outputs():
    """Outputs in a dictionary, some with the examples in another dimension."""
    parts = sequences(WithState())
    return parts | {
        "loss_fn": loss_of_logits,
        "predict": predict_logits,
        "accuracy": None,
        "evaluate": mean_loss,
    }


@correct
def attention():
    """Multi-head attention along the sequence."""
    return attends_along_the_sequence()


class Words(nn.Module):
    """A classifier of words and a length, two inputs, by an embedding."""

    def __init__(self):
        """Make the layers."""
        super().__init__()
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.head = nn.Linear(7, 3)

    def forward(self, words, length):
        """Return the logits."""
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
    """Integers and floats as inputs, in a tuple."""
    return with_several_inputs(words())


@correct
def inputs_in_a_dictionary():
    """Inputs by name, with the labels among them."""
    return with_several_inputs(dict(zip(("words", "length", "labels"), words(), strict=True)))


@correct
def regression_of_one_number():
    """Outputs and targets (N,)."""
    return regression()


@correct
def regression_that_cannot_be_negative():
    """ReLU at the end is right for a count or a price."""
    parts = regression()
    model = nn.Sequential(Regression(False), nn.ReLU(), nn.Flatten(0))
    nn.init.ones_(model[0].layers[2].bias)  # not dead from the start
    return parts | {"model": model, "optimizer": adam}


@correct
def several_labels():
    """BCEWithLogitsLoss."""
    return multi_label()


class Sigmoids(Network):
    """A network that ends in a sigmoid, for BCELoss."""

    def forward(self, x):
        """Return probabilities."""
        return super().forward(x).sigmoid()


@correct
def probabilities_for_bce():
    """BCELoss takes probabilities."""
    return floating(Sigmoids(), multi_label_targets(), nn.BCELoss()) | {"evaluate": mean_loss}


class Segments(nn.Module):
    """A classifier of each pixel."""

    def __init__(self):
        """Make the layers."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(8, 3, 1),
        )

    def forward(self, x):
        """Return the logits, (N, 3, H, W)."""
        return self.layers(x)


@correct
def segmentation():
    """A label for each pixel, some of which do not count."""
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
    """Take a step with a clipped gradient, and zero it afterwards."""
    model.train()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


@correct
def gradient_clipping():
    """Clipped gradients, zeroed after the step."""
    return steps(clips)


@correct
def a_learning_rate_schedule():
    """A schedule in a closure, which starts at a rate of zero."""
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
    """autocast to bfloat16."""
    return steps(autocasts)


@correct
def half_precision_throughout():
    """A model and data in bfloat16."""
    data = Examples(*arrays(), to_bfloat16)
    return project(
        model=Network().bfloat16(),
        data=data,
        batch=(torch.randn(8, 4).bfloat16(), torch.arange(8) % 3),
        validation=Examples(*arrays(6, start=1), to_bfloat16),
    )


def to_bfloat16(x):
    """Return x in bfloat16."""
    return x.bfloat16()


@correct
def gradient_accumulation():
    """A step for each three batches, counted in a closure."""
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
    """An EMA of the weights in a closure."""
    model = Network()
    average = torch.optim.swa_utils.AveragedModel(model)

    def step(model, loss_fn, optimizer, inputs, targets):
        loss = train_step(model, loss_fn, optimizer, inputs, targets)
        average.update_parameters(model)
        return loss

    return project(model=model, train_step=step, fit=fit_with(step))


class Momentum(Network):
    """A network with a slow copy of its head, which no gradient trains."""

    def __init__(self):
        """Make the slow copy."""
        super().__init__()
        self.slow = copy.deepcopy(self.head).requires_grad_(False)

    def forward(self, x):
        """Return the logits, and move the slow copy in training."""
        if self.training:
            with torch.no_grad():
                for slow, fast in zip(self.slow.parameters(), self.head.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
        return super().forward(x)


@correct
def a_slow_copy_inside_the_model():
    """requires_grad=False, and moved on purpose, but not by the optimizer."""
    return project(model=Momentum())


@correct
def a_frozen_backbone():
    """Transfer learning without names."""
    return transfer()


@correct
def factories():
    """The model and the optimizer are made by functions."""
    return project() | {"model": Network, "optimizer": adam}


@correct
def class_weights_and_label_smoothing():
    """A loss whose mean weighs the classes."""
    return project(loss_fn=own_cross_entropy)


class Residual(nn.Module):
    """A block that starts as the identity, and is left out by chance in training."""

    def __init__(self):
        """Make the layers; the last starts at zero."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        """Return the logits."""
        if not self.training or torch.rand(()) < 0.5:
            x = x + self.layers(x)
        return self.head(x)


@correct
def stochastic_depth_and_zero_init():
    """Layers without a gradient at first, or by chance."""
    return project(model=Residual())


class Closed(Network):
    """A network with a closure over itself, which a deepcopy does not follow."""

    def __init__(self):
        """Make the closure."""
        super().__init__()
        self.through = lambda x: self.head(self.body(x))

    def forward(self, x):
        """Return the logits."""
        return self.through(x)


@correct
def a_model_that_cannot_be_copied():
    """A deep copy would run the original's layers."""
    return project(model=Closed())


def with_a_closure(model, loss_fn, optimizer, inputs, targets):
    """Take a step of an optimizer that evaluates the loss itself."""
    model.train()

    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        return loss

    return optimizer.step(closure).item()


@correct
def lbfgs():
    """An optimizer that evaluates the loss itself."""
    model = Plain()
    return project(
        model=model,
        optimizer=torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3),
        train_step=with_a_closure,
        fit=fit_with(with_a_closure),
    )


def root_mean_square(model, loader, loss_fn):
    """Return a figure of all examples together, and the seconds, which differ each time."""
    mean = mean_loss(model, loader, loss_fn)
    return {"rmse": mean**0.5, "batches": len(loader), "seconds": np.random.default_rng().random()}


@correct
def figures_that_are_no_means():
    """A root of a mean, a number of batches, and seconds."""
    return regression() | {"evaluate": root_mean_square}


@correct
def an_evaluation_that_leaves_eval_mode_to_fit():
    """evaluate stays in eval mode; fit calls train() at the start of each epoch."""
    return project(evaluate=leaves_eval_mode)


@correct
def a_negative_loss():
    """A loss below zero is a loss."""
    return project(loss_fn=less_a_hundred)


def less_a_hundred(outputs, targets):
    """Return the cross-entropy less 100."""
    return F.cross_entropy(outputs, targets) - 100


def tiny(outputs, targets):
    """Return a loss of a tiny scale."""
    return 1e-6 * F.cross_entropy(outputs, targets)


@correct
def a_tiny_loss():
    """The scale of the loss does not matter."""
    return project(loss_fn=tiny)


@correct
def a_model_and_a_batch_alone():
    """Nothing else is given."""
    return {"model": Network(), "batch": torch.randn(8, 4)}
