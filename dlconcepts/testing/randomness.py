"""Torch's random generators, as Hypothesis seeds and restores generators."""

from typing import Any

import torch
from hypothesis import register_random


class TorchRandom:
    """The global generators of torch: the CPU's, and those of the devices that laws run on.

    Hypothesis seeds them before each example. A counterexample that draws from a generator that
    nobody seeds cannot be replayed.
    """

    def __init__(self) -> None:
        self.modules: list[Any] = []  # torch.cuda and the like

    def seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)
        for module in self.modules:
            module.manual_seed(seed)

    def getstate(self) -> list[torch.Tensor]:
        states = [module.get_rng_state() for module in self.modules]
        return [torch.default_generator.get_state(), *states]

    def setstate(self, states: list[torch.Tensor]) -> None:
        torch.default_generator.set_state(states[0])
        for module, state in zip(self.modules, states[1:], strict=True):
            module.set_rng_state(state)


torch_random = TorchRandom()  # Hypothesis keeps a weak reference: this name keeps it alive
register_random(torch_random)
