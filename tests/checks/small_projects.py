"""Projects of a few numbers, for the tests of single checks."""

import torch
from torch import nn

from dlconcepts.checks import CheckFailedError


class Gives(nn.Module):
    """A model whose outputs are its inputs, times one, after a function."""

    def __init__(self, after=None):
        """Keep the function."""
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.after = after

    def forward(self, x):
        """Return what the function makes of the inputs."""
        return self.after(x * self.one) if self.after else x * self.one


def sgd(model):
    """Return an optimizer."""
    return torch.optim.SGD(model.parameters(), lr=0.1)


def observed(check, **parts):
    """Return what a check sees, empty if it sees nothing wrong."""
    try:
        check(**parts)
    except CheckFailedError as failure:
        return failure.observed
    return ""
