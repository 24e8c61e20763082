"""Mistakes in freezing parameters."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.gallery.base import mistake, project
from tests.gallery.loss import fit_with


class Transfer(nn.Module):
    """A backbone with BatchNorm, and a head; `kept` keeps the backbone in eval mode."""

    def __init__(self, kept=True):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 3))
        self.kept = kept
        self.train()

    def train(self, mode=True):
        """Switch the mode, but leave a kept backbone in eval mode."""
        super().train(mode)
        if self.kept:
            self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(self.backbone(x))


def transfer(model=None, optimizer=None, **changes):
    """Return a project that trains a head on a frozen backbone."""
    model = model or Transfer()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    optimizer = optimizer or torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9)
    return project(model=model, optimizer=optimizer, **changes)


def frozen_for_good():
    """The backbone is frozen, and the optimizer holds only the head."""
    return transfer(frozen=["backbone"])


def backward_once(model):
    F.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 3).backward()


def adds_up(model, loss_fn, optimizer, inputs, targets):
    """Zero only the gradients of the head, then take a step."""
    model.train()
    model.head.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@mistake("frozen-parameters-stay", "a gradient of an earlier backward", frozen_for_good)
def frozen_with_stale_gradients():
    """The backbone was frozen after a backward, and its old gradients still move it."""
    torch.manual_seed(0)
    model = Transfer()
    backward_once(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return transfer(model, optimizer, train_step=adds_up, fit=fit_with(adds_up))


def zeroes_in_place(model, loss_fn, optimizer, inputs, targets):
    """Take a step with gradients set to zero instead of None."""
    model.train()
    optimizer.zero_grad(set_to_none=False)
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@mistake("frozen-parameters-stay", "the optimizer has momentum for it", frozen_for_good)
def frozen_with_momentum():
    """The backbone was frozen in the middle of training, and its momentum still moves it."""
    torch.manual_seed(0)
    model = Transfer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    zeroes_in_place(model, F.cross_entropy, optimizer, torch.randn(8, 4), torch.arange(8) % 3)
    optimizer.zero_grad(set_to_none=False)
    return transfer(model, optimizer, train_step=zeroes_in_place, fit=fit_with(zeroes_in_place))


@mistake("frozen-parameters-stay", "weight_decay is 0.01", frozen_for_good)
def frozen_with_weight_decay():
    """The gradients of the frozen backbone are zero, not None, so weight decay still moves it."""
    torch.manual_seed(0)
    model = Transfer()
    backward_once(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.01)
    optimizer.zero_grad(set_to_none=False)
    return transfer(model, optimizer, train_step=zeroes_in_place, fit=fit_with(zeroes_in_place))


@mistake("frozen-parameters-stay", "its requires_grad is still True", frozen_for_good)
def frozen_by_an_attribute_of_the_module():
    """module.requires_grad = False freezes nothing: it only sets an unused attribute."""
    model = Transfer()
    model.backbone.requires_grad = False
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return project(model=model, optimizer=optimizer, frozen=["backbone"])


@mistake("frozen-statistics-stay", "backbone.1.running_mean", frozen_for_good)
def frozen_batch_norm_in_training_mode():
    """model.train() puts the frozen BatchNorm into training mode, so its statistics move."""
    return transfer(Transfer(kept=False))
