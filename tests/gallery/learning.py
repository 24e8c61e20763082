"""Mistakes of what learns: layers, optimizers, steps, seeds."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.gallery.base import Network, classifier, mistake, project, train_step
from tests.gallery.forward import Sized
from tests.gallery.loss import fit_with


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


@mistake("a-step-follows-its-own-batch", "to where fit lands", classifier)
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
    """Train on the batches in an order from a generator that nobody seeds.

    Of two batches, 32 times each, there are 10**18 orders: no two runs will have the same.
    """
    batches = list(loader)
    for position in np.random.default_rng().permutation(64) % len(batches):
        train_step(model, loss_fn, optimizer, *batches[position])


@mistake("a-seed-repeats-the-run", "ended", classifier)
def a_generator_that_nobody_seeds():
    """default_rng() draws its seed from the system."""
    return project(fit=fit_in_fresh_order, seed=None)


class Nested(nn.Module):
    """A network whose hidden layers are in a list inside a dictionary."""

    def __init__(self):
        """Make the layers."""
        super().__init__()
        self.layers = {"hidden": [nn.Linear(4, 8)]}
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        """Return the logits."""
        return self.head(self.layers["hidden"][0](x).relu())


@mistake("every-layer-is-registered", "kept in layers", classifier, "the-model-moves-as-a-whole")
def layers_in_a_nested_container():
    """A list inside a dictionary registers nothing either."""
    return project(model=Nested())


@mistake("the-optimizer-holds-the-model", "head.weight, head.bias", classifier)
def optimizer_over_the_body_alone():
    """The head is trainable, and nobody trains it."""
    model = Network()
    return project(model=model, optimizer=torch.optim.Adam(model.body.parameters()))


def zeroes_every_second():
    """Return a step that zeroes the gradients in each second call, and steps in each."""
    calls = 0

    def step(model, loss_fn, optimizer, inputs, targets):
        nonlocal calls
        calls += 1
        if calls % 2:
            optimizer.zero_grad()
        return never_zeroes(model, loss_fn, optimizer, inputs, targets)

    return step


@mistake("a-step-follows-its-own-batch", "of the way from where", classifier)
def gradients_zeroed_every_second_time():
    """Half of an accumulation: the gradients add up, but each call steps."""
    return steps(zeroes_every_second())


def forgets_to_step(model, loss_fn, optimizer, inputs, targets):
    """Compute gradients, and leave it at that."""
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    return loss.item()


@mistake("a-step-follows-the-gradient", "moved the weights not at all", classifier)
def no_optimizer_step():
    """No optimizer.step()."""
    return steps(forgets_to_step)


def forgets_backward(model, loss_fn, optimizer, inputs, targets):
    """Step without a gradient."""
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(inputs), targets)
    optimizer.step()
    return loss.item()


@mistake("a-step-follows-the-gradient", "moved the weights not at all", classifier)
def no_backward():
    """No loss.backward()."""
    return steps(forgets_backward)


@mistake("the-loss-is-kept-as-a-number", "were still in memory", classifier)
def losses_in_a_list_of_a_closure():
    """What is returned is a number; a list keeps the tensors."""
    history = []

    def step(model, loss_fn, optimizer, inputs, targets):
        model.train()
        optimizer.zero_grad()
        history.append(loss_fn(model(inputs), targets))
        history[-1].backward()
        optimizer.step()
        return history[-1].item()

    return steps(step)


def zeroes_before_a_late_step():
    """Return a step that gathers three gradients, and wipes them out before it uses them."""
    calls = 0

    def step(model, loss_fn, optimizer, inputs, targets):
        nonlocal calls
        model.train()
        loss = loss_fn(model(inputs), targets) / 3
        loss.backward()
        calls += 1
        if calls % 3 == 0:
            optimizer.zero_grad(set_to_none=False)
            optimizer.step()
        return loss.item()

    return step


@mistake("a-step-follows-the-gradient", "the same for both", classifier)
def gathered_gradients_zeroed_before_the_step():
    """An accumulation whose zero_grad comes before its step: weight decay alone moves."""
    return steps(zeroes_before_a_late_step())
