"""Process-wide random state and settings are seeded, saved and restored, on every device."""

import random
import sys

import numpy as np
import pytest
import torch

from dlconcepts.checks.settings import generators, seed_everything, settings_kept


def drawn():
    return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002


def test_a_seed_repeats_what_each_generator_draws():
    """The seed covers torch, Python and numpy."""
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
    """Seeding the three by hand gives the same numbers."""
    with settings_kept():
        seed_everything(3)
        first = drawn()
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        assert drawn() == first


def test_random_states_are_restored():
    """Each generator continues as if nothing had been drawn."""
    with settings_kept():
        seed_everything(0)
        with settings_kept():
            first = drawn()
            seed_everything(1)
        assert drawn() == first


@pytest.mark.parametrize(
    ("read", "write", "value"),
    [
        (torch.is_grad_enabled, torch.set_grad_enabled, False),
        (torch.get_default_dtype, torch.set_default_dtype, torch.float64),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, True),
        (
            lambda: torch.is_autocast_enabled("cpu"),
            lambda on: torch.set_autocast_enabled("cpu", on),
            True,
        ),
        (
            lambda: torch.backends.cudnn.benchmark,
            lambda on: setattr(torch.backends.cudnn, "benchmark", on),
            True,
        ),
    ],
)
def test_a_setting_is_restored(read, write, value):
    """Code that raises may leave any setting behind."""
    before = read()
    assert before != value

    def fail():
        with settings_kept():
            write(value)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert read() == before


@pytest.mark.parametrize("modes", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("meanwhile", [(False, False), (True, False), (True, True)])
def test_deterministic_algorithms_and_their_warnings_are_restored(modes, meanwhile):
    """Two settings share one function of torch."""

    def use(deterministic, warn_only):
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)

    with settings_kept():
        use(*modes)
        with settings_kept():
            use(*meanwhile)
        deterministic = torch.are_deterministic_algorithms_enabled()
        assert (deterministic, torch.is_deterministic_algorithms_warn_only_enabled()) == modes


def test_numpy_is_optional(monkeypatch):
    """A process that has not imported numpy has two generators."""
    first = np.random.get_state()[1].tolist()  # noqa: NPY002
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "numpy")
        with settings_kept():
            numbers = torch.rand(1).item(), random.random()
            seed_everything(0)
        again = torch.rand(1).item(), random.random()

    assert again == numbers
    assert np.random.get_state()[1].tolist() == first  # noqa: NPY002


class Accelerator:
    """A module of torch for devices that keep a random state each."""

    def __init__(self, states, initialized=True):
        self.states, self.initialized = states, initialized

    def is_initialized(self):
        return self.initialized

    def device_count(self):
        return len(self.states)

    def get_rng_state(self, device):
        return self.states[device]

    def set_rng_state(self, state, device):
        self.states[device] = state


@pytest.fixture
def accelerated(monkeypatch):
    def use(module, there=True):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
        modules = {"xpu": module}
        monkeypatch.setattr(torch, "get_device_module", lambda device: modules[device.type])

    return use


class Always(Accelerator):
    is_initialized = property()  # hasattr says no, as of torch.mps


@pytest.mark.parametrize("kind", [Accelerator, Always])
def test_each_device_in_use_has_a_random_state(accelerated, kind):
    """All are restored; a module without is_initialized is always in use."""
    module = kind({"xpu:0": 1, "xpu:1": 2})
    accelerated(module)

    with settings_kept():
        module.states = {"xpu:0": 3, "xpu:1": 4}

    assert module.states == {"xpu:0": 1, "xpu:1": 2}


def test_an_accelerator_that_is_not_used_stays_uninitialized(accelerated):
    """Asking it for a random state would start it."""
    accelerated(Accelerator({"xpu:0": 1}, initialized=False))
    assert len(generators()) == 3

    accelerated(None, there=False)
    assert len(generators()) == 3


def test_a_device_that_comes_into_use_keeps_its_state(accelerated):
    """It has no earlier state to restore."""
    module = Accelerator({"xpu:0": 1}, initialized=False)
    accelerated(module)

    with settings_kept():
        module.initialized = True
        module.states = {"xpu:0": 3}

    assert module.states == {"xpu:0": 3}
