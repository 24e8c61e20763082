"""The random states and settings of a process are seeded, kept and put back, on every device."""

import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dlconcepts.checks import settings
from dlconcepts.checks.settings import seed_everything, settings_kept


def drawn():
    """Return a number of each generator that there is but one of."""
    return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002


def test_a_seed_repeats_what_each_generator_draws():
    """Of torch, Python and numpy; another seed gives other numbers of each."""
    with settings_kept():
        seed_everything(3)
        first = drawn()
        seed_everything(3)
        again = drawn()
        seed_everything(4)
        other = drawn()

    assert again == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_the_seed_is_each_generators_own():
    """So that a reader who seeds the three gets the same numbers."""
    with settings_kept():
        seed_everything(3)
        first = drawn()
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        assert drawn() == first


def test_random_states_are_put_back():
    """Each generator goes on where it was."""
    states = settings.random_states()
    first = drawn()
    seed_everything(0)
    settings.set_random_states(states)

    assert drawn() == first


def test_a_process_without_numpy_has_two_generators(monkeypatch):
    """PyTorch is all that the checks need."""
    first = np.random.get_state()[1].tolist()  # noqa: NPY002
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "numpy")
        states = settings.random_states()
        numbers = torch.rand(1).item(), random.random()
        seed_everything(0)
        settings.set_random_states(states)
        again = torch.rand(1).item(), random.random()

    assert again == numbers
    assert np.random.get_state()[1].tolist() == first  # noqa: NPY002


class Accelerator:
    """A module of torch for devices that keep a random state each."""

    def __init__(self, states, initialized=True):
        """Remember the states."""
        self.states, self.initialized = states, initialized

    def is_initialized(self):
        """Return whether the process uses it."""
        return self.initialized

    def device_count(self):
        """Return how many there are."""
        return len(self.states)

    def get_rng_state(self, device):
        """Return the state of one."""
        return self.states[device]

    def set_rng_state(self, state, device):
        """Set the state of one."""
        self.states[device] = state


@pytest.fixture
def accelerated(monkeypatch):
    """Return a function that makes this process have an accelerator, or lose it."""

    def use(module, there=True):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
        modules = {"xpu": module}
        monkeypatch.setattr(torch, "get_device_module", lambda device: modules[device.type])

    return use


def test_each_device_of_an_accelerator_in_use_has_a_random_state(accelerated):
    """All of them are put back."""
    module = Accelerator({"xpu:0": 1, "xpu:1": 2})
    accelerated(module)

    assert settings.devices_in_use() == [(module, "xpu:0"), (module, "xpu:1")]
    states = settings.random_states()
    module.states = {"xpu:0": 3, "xpu:1": 4}
    settings.set_random_states(states)

    assert module.states == {"xpu:0": 1, "xpu:1": 2}


def test_an_accelerator_that_is_not_used_is_not_woken(accelerated):
    """Nor asked for anything where there is none; one that cannot tell is in use."""
    accelerated(Accelerator({"xpu:0": 1}, initialized=False))
    assert settings.devices_in_use() == []

    accelerated(None, there=False)
    assert settings.devices_in_use() == []

    module = SimpleNamespace(device_count=lambda: 1)
    accelerated(module)
    assert settings.devices_in_use() == [(module, "xpu:0")]


def test_a_device_that_came_into_use_meanwhile_keeps_its_state(accelerated):
    """There is nothing to put back."""
    module = Accelerator({"xpu:0": 1}, initialized=False)
    accelerated(module)
    states = settings.random_states()

    module.initialized = True
    settings.set_random_states(states)

    assert module.states == {"xpu:0": 1}
