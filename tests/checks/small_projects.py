"""Projects of a few numbers, for the tests of single checks."""

import torch
from torch import nn

from dlconcepts.checks import CheckFailedError


class Gives(nn.Module):
    def __init__(self, after=None):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.after = after

    def forward(self, x):
        return self.after(x * self.one) if self.after else x * self.one


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def observed(check, **parts):
    try:
        check(**parts)
    except CheckFailedError as failure:
        return failure.observed
    return ""
