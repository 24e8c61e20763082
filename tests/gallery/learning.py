"""Mistakes in layers, optimizers, training steps and seeds."""

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
        super().__init__()
        self.hidden = container([nn.Linear(4, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for layer in self.hidden:
            x = layer(x).relu()
        return self.head(x)


def layers_in_a_module_list():
    """The layers are in an nn.ModuleList, which registers them."""
    return project(model=Listed(nn.ModuleList))


@mistake(
    "every-layer-is-registered",
    "kept in hidden",
    layers_in_a_module_list,
    "the-model-moves-as-a-whole",
)
def layers_in_a_plain_list():
    """The layers are in a plain list, which registers nothing."""
    return project(model=Listed(list))


class MakesLayers(Network):
    """A network that makes a layer in each forward pass."""

    def forward(self, x):
        torch.manual_seed(0)
        return nn.Linear(3, 3)(super().forward(x))


@mistake(
    "every-layer-is-registered",
    "model.parameters() does not list",
    classifier,
    "the-model-moves-as-a-whole",
)
def a_layer_made_in_forward():
    """Forward creates a new layer in each pass, so the layer never learns."""
    return project(model=MakesLayers())


class Spare(Network):
    """A network with a spare layer that forward may skip."""

    def __init__(self, used, cut=False):
        super().__init__()
        self.spare, self.used, self.cut = nn.Linear(8, 8), used, cut

    def forward(self, x):
        x = self.body(x)
        if self.used:
            x = self.spare(x)
        return self.head(x.detach() if self.cut else x)


def every_layer_used():
    """Forward uses every layer."""
    return project(model=Spare(True))


@mistake("every-parameter-gets-a-gradient", "spare.weight, spare.bias is None", every_layer_used)
def a_layer_that_is_never_used():
    """Forward never uses one of the layers."""
    return project(model=Spare(False))


@mistake("every-parameter-gets-a-gradient", "is None: 6 of 8", every_layer_used)
def a_graph_that_is_cut():
    """detach() before the head cuts the graph, so the layers below never learn."""
    return project(model=Spare(True, cut=True))


def rounded(x):
    """Round, with a gradient of zero."""
    return x + (x * 0).sum() + 10 * x.round() - x


@mistake(
    "every-parameter-gets-a-gradient", "is exactly zero", classifier, "a-step-follows-the-gradient"
)
def rounds_the_logits():
    """The logits are rounded, and round() has a gradient of zero."""
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
    """The optimizer is built after the head was replaced."""
    return new_head(late=True)


@mistake("the-optimizer-holds-the-model", "head.weight, head.bias", optimizer_built_after_the_head)
def optimizer_built_before_the_head():
    """The optimizer was built before the head was replaced, so it holds the old head."""
    return new_head(late=False)


@mistake("the-optimizer-holds-the-model", "6 of 6", classifier)
def optimizer_over_another_model():
    """The optimizer holds the parameters of another network."""
    return project(optimizer=torch.optim.SGD(Network().parameters(), lr=0.1))


def steps(step, **changes):
    """Return a project that trains with this step."""
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
    """Nothing ever zeroes the gradients, so they add up."""
    return steps(never_zeroes)


def tiny_and_negative(outputs, targets):
    return 1e-4 * (F.cross_entropy(outputs, targets) - 100)


def a_tiny_and_negative_loss():
    """The loss is tiny and negative, which does no harm."""
    return project(loss_fn=tiny_and_negative)


def adam(model):
    """Return Adam, whose steps hide the size of the gradient."""
    return torch.optim.Adam(model.parameters(), lr=0.01)


@mistake("a-step-follows-its-own-batch", "of the way from where", classifier)
def gradients_never_zeroed_with_adam():
    """Nothing ever zeroes the gradients, and Adam hides that they grow."""
    return steps(never_zeroes, optimizer=adam)


def zeroes_the_model_of_the_first_step(model, loss_fn, optimizer, inputs, targets):
    model.train()
    model.head.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@mistake("a-step-follows-its-own-batch", "of the way from where", a_tiny_and_negative_loss)
def gradients_never_zeroed_of_a_negative_loss():
    """Nothing ever zeroes the gradients of a tiny, negative loss."""
    return steps(never_zeroes, loss_fn=tiny_and_negative)


@mistake("a-step-follows-its-own-batch", "of the way from where", classifier)
def only_the_head_is_zeroed():
    """zero_grad is called on the head only."""
    return steps(zeroes_the_model_of_the_first_step)


def zeroes_once(model, loader, loss_fn, optimizer):
    """Train for an epoch and zero the gradients only at its start."""
    model.train()
    optimizer.zero_grad()
    total = 0.0
    for inputs, targets in loader:
        total += never_zeroes(model, loss_fn, optimizer, inputs, targets) * len(targets)
    return total / len(loader.dataset)


@mistake("a-step-follows-its-own-batch", "to where fit lands", classifier)
def gradients_zeroed_once_an_epoch():
    """zero_grad is called before the loop, once an epoch."""
    return project(fit=zeroes_once, train_step=None)


def zeroes_before_the_step(model, loss_fn, optimizer, inputs, targets):
    """Zero the gradient before the step uses it."""
    model.train()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@mistake("a-step-follows-the-gradient", "moved the weights not at all", classifier)
def gradients_zeroed_before_the_step():
    """zero_grad is called between backward and step."""
    return steps(zeroes_before_the_step)


def zeroes_in_place_before_the_step(model, loss_fn, optimizer, inputs, targets):
    """Zero the gradient, so that only weight decay is left of the step."""
    model.train()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    return loss.item()


@mistake("a-step-follows-the-gradient", "the same for both", classifier)
def weight_decay_is_all_that_moves():
    """zero_grad(set_to_none=False) comes before the step: only weight decay moves the weights."""
    return steps(zeroes_in_place_before_the_step)


def keeps_losses(model, loader, loss_fn, optimizer):
    """Add up loss tensors instead of numbers."""
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
    """The running loss is a tensor, which keeps every graph until the end of the epoch."""
    return project(fit=keeps_losses)


def returns_losses(model, loader, loss_fn, optimizer):
    """Return a list of loss tensors."""
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
    """The losses are returned as tensors, with their graphs."""
    return project(fit=returns_losses)


def seeds_torch_only(number):
    """Seed only PyTorch's generator."""
    torch.manual_seed(number)


def fit_in_numpy_order(model, loader, loss_fn, optimizer):
    """Train on the batches in an order that numpy draws."""
    batches = list(loader)
    for position in np.random.permutation(len(batches)):  # noqa: NPY002
        train_step(model, loss_fn, optimizer, *batches[position])


def every_generator_seeded():
    """The batches are shuffled by numpy, which is seeded too."""
    return project(fit=fit_in_numpy_order)


@mistake("a-seed-repeats-the-run", "ended", every_generator_seeded)
def numpy_is_not_seeded():
    """The batches are shuffled by numpy, but only torch is seeded."""
    return project(fit=fit_in_numpy_order, seed=seeds_torch_only)


def fit_in_fresh_order(model, loader, loss_fn, optimizer):
    """Train on the batches in an order from a generator that nobody seeds.

    Two batches, 32 times each, have 10**18 orders, so no two runs have the same.
    """
    batches = list(loader)
    for position in np.random.default_rng().permutation(64) % len(batches):
        train_step(model, loss_fn, optimizer, *batches[position])


@mistake("a-seed-repeats-the-run", "ended", classifier)
def a_generator_that_nobody_seeds():
    """The batches are shuffled by default_rng(), which takes its seed from the system."""
    return project(fit=fit_in_fresh_order, seed=None)


class Nested(nn.Module):
    """A network whose hidden layers are in a list inside a dictionary."""

    def __init__(self):
        super().__init__()
        self.layers = {"hidden": [nn.Linear(4, 8)]}
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layers["hidden"][0](x).relu())


@mistake("every-layer-is-registered", "kept in layers", classifier, "the-model-moves-as-a-whole")
def layers_in_a_nested_container():
    """The layers are in a list inside a dictionary, which registers nothing."""
    return project(model=Nested())


@mistake("the-optimizer-holds-the-model", "head.weight, head.bias", classifier)
def optimizer_over_the_body_alone():
    """The optimizer holds only the body, so the head is never trained."""
    model = Network()
    return project(model=model, optimizer=torch.optim.Adam(model.body.parameters()))


def zeroes_every_second():
    """Return a step that zeroes the gradients in every second call only."""
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
    """The gradients are zeroed every second time, but the optimizer steps every time."""
    return steps(zeroes_every_second())


def forgets_to_step(model, loss_fn, optimizer, inputs, targets):
    """Compute the gradients and forget the step."""
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    return loss.item()


@mistake("a-step-follows-the-gradient", "moved the weights not at all", classifier)
def no_optimizer_step():
    """optimizer.step() is missing."""
    return steps(forgets_to_step)


def forgets_backward(model, loss_fn, optimizer, inputs, targets):
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(inputs), targets)
    optimizer.step()
    return loss.item()


@mistake("a-step-follows-the-gradient", "moved the weights not at all", classifier)
def no_backward():
    """loss.backward() is missing."""
    return steps(forgets_backward)


@mistake("the-loss-is-kept-as-a-number", "were still in memory", classifier)
def losses_in_a_list_of_a_closure():
    """The step returns a number, but appends the loss tensor to a list."""
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
    """Return a step that accumulates three gradients and zeroes them before it uses them."""
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
    """Accumulated gradients are zeroed before the step, so only weight decay moves the weights."""
    return steps(zeroes_before_a_late_step())
