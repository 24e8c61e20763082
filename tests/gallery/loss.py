"""Mistakes in the arguments of the loss."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.gallery.base import Examples, Network, arrays, classifier, mistake, predict, project
from tests.gallery.forward import Sized, log_softmax_over_the_classes, nll


def as_it_is(model, inputs):
    """Return the outputs unchanged, for a network that ends in softmax."""
    model.eval()
    with torch.no_grad():
        return model(inputs)


def softmaxed(x):
    return x.softmax(dim=1)


@mistake("cross-entropy-is-given-logits", "sum to 1 in each row", classifier)
def softmax_before_cross_entropy():
    """The network ends in softmax, and the loss is CrossEntropyLoss."""
    return project(model=Sized(after=softmaxed), predict=as_it_is)


def own_cross_entropy(outputs, targets):
    """Return a custom cross-entropy, with class weights and label smoothing."""
    weight = torch.tensor([1.0, 2.0, 3.0])
    return F.cross_entropy(outputs, targets, weight=weight, label_smoothing=0.1)


@mistake("cross-entropy-is-given-logits", "sum to 1 in each row", classifier)
def softmax_before_a_loss_of_ones_own():
    """The network ends in softmax, and a custom loss calls cross_entropy."""
    return project(model=Sized(after=softmaxed), predict=as_it_is, loss_fn=own_cross_entropy)


def softmax_step(model, loss_fn, optimizer, inputs, targets):
    """Take one step, with a softmax before the loss."""
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(inputs).softmax(dim=1), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


def fit_with(step):
    """Return a fit that trains with this step."""

    def fit(model, loader, loss_fn, optimizer):
        total = 0.0
        for inputs, targets in loader:
            total += step(model, loss_fn, optimizer, inputs, targets) * len(targets)
        return total / len(loader.dataset)

    return fit


@mistake("cross-entropy-is-given-logits", "sum to 1 in each row", classifier)
def softmax_in_the_training_step():
    """The model returns logits, but the step takes their softmax before the loss."""
    return project(train_step=softmax_step, fit=fit_with(softmax_step))


def half(outputs):
    """Return the predicted class of each logit, one of two."""
    return outputs > 0


def binary_accuracy(outputs, targets):
    """Return the share that is right."""
    return (half(outputs) == (targets > 0.5)).double().mean().item()


def binary_evaluate(model, loader, loss_fn):
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
    """A data set whose targets are floats."""

    def __getitem__(self, index):
        x = torch.from_numpy(self.array[index].copy())
        return x, torch.as_tensor(self.labels[index], dtype=torch.float32)


def floating(model, targets, loss_fn, **changes):
    """Return a project with float targets."""
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
    """Return three labels, 0 or 1, for each of 12 examples."""
    return (torch.arange(36).reshape(12, 3) % 5 % 2).float()


def multi_label():
    """Logits with three labels for each example, and BCEWithLogitsLoss."""
    return floating(Network(), multi_label_targets(), nn.BCEWithLogitsLoss())


@mistake("cross-entropy-is-given-logits", "come from a sigmoid", multi_label)
def sigmoid_before_bce_with_logits():
    """The network ends in a sigmoid, and BCEWithLogitsLoss applies another."""
    return floating(Sized(after=torch.sigmoid), multi_label_targets(), nn.BCEWithLogitsLoss())


@mistake("nll-is-given-log-probabilities", "is given probabilities", log_softmax_over_the_classes)
def nll_on_probabilities():
    """The network ends in softmax instead of log_softmax, before NLLLoss."""
    return nll(Sized(after=softmaxed)) | {"predict": as_it_is}


@mistake("nll-is-given-log-probabilities", "is given logits", log_softmax_over_the_classes)
def nll_on_logits():
    """The network returns logits, without log_softmax, to NLLLoss."""
    return nll(Network()) | {"predict": predict}


@mistake("scores-are-not-cut-at-zero", "come from Relu", classifier)
def relu_on_the_logits():
    """A ReLU follows the last layer and cuts the logits at zero."""
    return project(model=Sized(after=F.relu))


def relu_log_softmax(x):
    return F.relu(x).log_softmax(dim=1)


@mistake("scores-are-not-cut-at-zero", "come from Relu", log_softmax_over_the_classes)
def relu_under_log_softmax():
    """A ReLU cuts the logits at zero before log_softmax."""
    return nll(Sized(after=relu_log_softmax))


class Regression(nn.Module):
    """A regression of four features, (N, 1) or (N,)."""

    def __init__(self, squeeze):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.squeeze = squeeze

    def forward(self, x):
        return self.layers(x).squeeze(1) if self.squeeze else self.layers(x)


def mean_loss(model, loader, loss_fn):
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for inputs, targets in loader:
            total += loss_fn(model(inputs), targets).item() * len(targets)
    model.train(was_training)
    return total / len(loader.dataset)


def regression(squeeze=True, loss_fn=None):
    """Return a project with one target per example, (N,)."""
    targets = torch.linspace(-1, 1, 12)
    parts = floating(Regression(squeeze), targets, loss_fn or nn.MSELoss(), evaluate=mean_loss)
    return parts | {"accuracy": None}


@mistake("the-loss-pairs-outputs-with-targets", "were compared as (8, 8): 64 pairs", regression)
def a_loss_that_broadcasts():
    """MSELoss gets outputs (N, 1) and targets (N,), which broadcast to (N, N)."""
    return regression(squeeze=False)


def own_loss(outputs, targets):
    return (outputs - targets).abs().mean()


@mistake("the-loss-pairs-outputs-with-targets", "were compared as (8, 8): 64 pairs", regression)
def a_loss_of_ones_own_that_broadcasts():
    """A custom loss subtracts targets (N,) from outputs (N, 1), without a warning from PyTorch."""
    return regression(squeeze=False, loss_fn=own_loss)


def one_logit(*after):
    """Return a project with two classes and one logit per example, (N,)."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), *after, nn.Flatten(0))
    targets = (torch.arange(12) % 2).float()
    return floating(model, targets, nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)))


def one_logit_for_two_classes():
    """Logits (N,) and targets (N,), with a weight for the positive class."""
    return one_logit()


@mistake("cross-entropy-is-given-logits", "come from a sigmoid", one_logit_for_two_classes)
def sigmoid_of_one_logit():
    """A sigmoid, then a reshape, come before BCEWithLogitsLoss."""
    return one_logit(nn.Sigmoid())


def clamped(x):
    return x.clamp(min=0)


@mistake("scores-are-not-cut-at-zero", "come from Clamp", classifier)
def logits_clamped_at_zero():
    """The logits are clamped at zero, which is ReLU by another name."""
    return project(model=Sized(after=clamped))


def one_map(targets_have_a_channel):
    """Return a project that predicts one number for each pixel, (N, 1, H, W)."""
    targets = torch.linspace(-1, 1, 8 * 16).reshape(8, 4, 4)
    targets = targets.unsqueeze(1) if targets_have_a_channel else targets
    model = nn.Conv2d(3, 1, 1)
    batch = torch.randn(8, 3, 4, 4), targets
    return {"model": model, "batch": batch, "loss_fn": nn.L1Loss(), "optimizer": None}


def maps_of_one_shape():
    """Outputs and targets have the same shape, (N, 1, H, W)."""
    return one_map(True)


@mistake("the-loss-pairs-outputs-with-targets", "were compared as (8, 8, 4, 4)", maps_of_one_shape)
def maps_that_broadcast():
    """Outputs (N, 1, H, W) and targets (N, H, W) broadcast to (N, N, H, W)."""
    return one_map(False)


def divergence(scale):
    """Return a distillation loss whose input is this function of the scores."""

    def loss(outputs, targets):
        teacher = F.one_hot(targets, 3) * 0.7 + 0.1
        return F.kl_div(scale(outputs, dim=1), teacher, reduction="batchmean")

    return loss


def kl_div_of_log_probabilities():
    """A student learns from the probabilities of a teacher."""
    return project(loss_fn=divergence(F.log_softmax))


@mistake(
    "nll-is-given-log-probabilities",
    "kl_div is given probabilities",
    kl_div_of_log_probabilities,
)
def kl_div_of_probabilities():
    """The input of kl_div are probabilities."""
    return project(loss_fn=divergence(F.softmax))


def with_a_term(term):
    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets) + 0.5 * term(outputs)

    return loss


def confident(outputs):
    return outputs.softmax(dim=1).square().mean()


def often_first(outputs):
    weights = torch.arange(len(outputs), dtype=outputs.dtype, device=outputs.device)
    return 4 * (weights * (outputs.argmax(dim=1) == 0)).mean()


def a_smooth_term():
    """A second term of the loss has a gradient."""
    return project(loss_fn=with_a_term(confident))


@mistake(
    "every-term-of-the-loss-has-a-gradient",
    "a number without a gradient is added",
    a_smooth_term,
)
def a_term_made_of_argmax():
    """A second term of the loss is computed with argmax, and has no gradient."""
    return project(loss_fn=with_a_term(often_first))
