"""Mistakes in validation."""

import torch
from torch import nn

from tests.gallery.base import accuracy, classifier, evaluate, mistake, project
from tests.gallery.freezing import frozen_for_good, transfer
from tests.gallery.learning import steps
from tests.gallery.loss import fit_with


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
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def dropout_off_in_validation():
    """A network with dropout is evaluated in eval mode."""
    return project(model=Plain())


@mistake("validation-is-in-eval-mode", "in training mode, Dropout", dropout_off_in_validation)
def no_eval_in_validation():
    """The evaluation does not call eval(), so dropout stays on."""
    return project(model=Plain(), evaluate=in_training_mode)


@mistake(
    "validation-changes-nothing",
    "evaluate changed BatchNorm statistics",
    classifier,
    "validation-is-in-eval-mode",
)
def validation_updates_batch_norm():
    """Without eval(), the evaluation updates BatchNorm with the statistics of held-out data."""
    return project(evaluate=in_training_mode)


def eval_for_the_first_batch(model, loader, loss_fn):
    """Evaluate, but return to training mode after the first batch."""
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
    """model.train() is indented too far, so from the second batch on the mode is wrong."""
    return project(evaluate=two_batches_in(eval_for_the_first_batch))


class Twice:
    """A loader that yields its batches twice, so there always is a second batch."""

    def __init__(self, loader):
        self.loader, self.dataset = loader, loader.dataset

    def __iter__(self):
        yield from self.loader
        yield from self.loader


def two_batches_in(function):
    """Return an evaluation that always has a second batch."""

    def evaluate(model, loader, loss_fn):
        return function(model, Twice(loader), loss_fn)

    return evaluate


def leaves_eval_mode(model, loader, loss_fn):
    """Evaluate and stay in eval mode."""
    model.eval()
    return in_training_mode(model, loader, loss_fn)


def step_in_the_mode_it_finds(model, loss_fn, optimizer, inputs, targets):
    """Take one step without setting the mode."""
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
    """The evaluation leaves the model in eval mode, in which it is then trained."""
    return steps(step_in_the_mode_it_finds, evaluate=leaves_eval_mode)


def trains_everything(model, loader, loss_fn):
    """Evaluate and put every module into training mode."""
    model.eval()
    result = in_training_mode(model, loader, loss_fn)
    for part in model.modules():
        part.training = True
    return result


@mistake("the-mode-is-restored", "now in training mode", frozen_for_good)
def train_wakes_what_was_frozen():
    """The evaluation puts every module into training mode, even a frozen BatchNorm."""
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
    """The evaluation records gradients: torch.no_grad() is missing."""
    return project(evaluate=with_gradients)


def switches_gradients_off(model, loader, loss_fn):
    """Switch gradients off and never on again."""
    torch.set_grad_enabled(False)
    return with_gradients(model, loader, loss_fn)


@mistake("validation-records-no-gradients", "left them off", classifier)
def gradients_left_off_after_validation():
    """The evaluation calls torch.set_grad_enabled(False), which stays off afterwards."""
    return project(evaluate=switches_gradients_off)


def mean_of_means(model, loader, loss_fn):
    """Return the mean of the batch means."""
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
    """The evaluation averages batch means, so a small batch counts too much."""
    return project(evaluate=mean_of_means)


def accuracy_of_means(model, loader, loss_fn):
    """Return the mean of the batch accuracies."""
    return mean_of_means(model, loader, loss_fn)["accuracy"]


@mistake("every-example-counts-once", "in batches of 6 and 2", classifier)
def mean_of_batch_accuracies():
    """The evaluation averages batch accuracies, which may all be 0 in an untrained network."""
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
    """The loss is overwritten in each batch, not added up."""
    return project(evaluate=last_batch_only)


def broadcasting_accuracy(outputs, targets):
    """Compare predictions (N, 1) with labels (N,)."""
    return (outputs.topk(1, dim=1)[1] == targets).double().mean().item()


@mistake("accuracy-counts-each-example", "right predictions of 6", classifier)
def accuracy_that_broadcasts():
    """topk(1) keeps its dimension, so (N, 1) and labels (N,) broadcast to (N, N)."""
    return project(accuracy=broadcasting_accuracy)


def with_zero_grad(model, loader, loss_fn):
    """Evaluate after zeroing the gradients."""
    model.zero_grad()
    return evaluate(model, loader, loss_fn)


@mistake("validation-records-no-gradients", "changed the gradients of", classifier)
def gradients_wiped_out_by_validation():
    """The evaluation calls zero_grad, which loses gradients that are being accumulated."""
    return project(evaluate=with_zero_grad)


def moves_the_weights(model, loader, loss_fn):
    """Evaluate and change the weights a little."""
    result = evaluate(model, loader, loss_fn)
    with torch.no_grad():
        model.head.weight.mul_(0.999)
    return result


@mistake("validation-changes-nothing", "evaluate changed the model", classifier)
def validation_that_moves_the_weights():
    """The evaluation writes to a parameter."""
    return project(evaluate=moves_the_weights)


def of_the_first_batch(model, loader, loss_fn):
    """Return the loss of the first batch."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for inputs, targets in loader:
            loss = loss_fn(model(inputs), targets).item()
            model.train(was_training)
            return loss


@mistake("every-example-counts-once", "in batches of 6 and 2", classifier)
def returns_inside_the_loop():
    """The return is indented too far, so only the first batch counts."""
    return project(evaluate=of_the_first_batch)


def truncated_accuracy(outputs, targets):
    """Return the accuracy as an integer."""
    return int(accuracy(outputs, targets))


@mistake("accuracy-counts-each-example", "half of them right 0", classifier)
def accuracy_that_is_truncated():
    """int() of an accuracy is 0 unless every answer is right."""
    return project(accuracy=truncated_accuracy)
