"""The plugin of the laws, the Hypothesis profiles, and one thread for torch."""

import importlib
import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from dlconcepts.testing import hypothesis_bridge

pytest_plugins = ["dlconcepts.testing.plugin"]

quick = tuple(phase for phase in Phase if phase is not Phase.explain)
common = settings(
    deadline=None,  # the first use of an operator may compile or import for seconds
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow],
)
always_the_same = settings(common, max_examples=100, derandomize=True, database=None)
settings.register_profile("dev", common, max_examples=25, phases=quick)
settings.register_profile("ci", always_the_same, phases=quick)
settings.register_profile("thorough", common, max_examples=10_000, phases=quick)
settings.register_profile("book", always_the_same, phases=tuple(Phase))
# Whether a law fails, and no more: for benchmarks/power.py and `tox -e mutants`.
searching = (Phase.explicit, Phase.generate)
settings.register_profile("power", always_the_same, phases=searching, report_multiple_bugs=False)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

hypothesis_bridge.draw_every_example_anew()

# The tensors of laws are too small for a second thread, and pytest-xdist's workers share the cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def first_optimizer() -> None:
    """Import what the first optimizer takes a second to import, outside the laws."""
    importlib.import_module("torch._dynamo")


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist nobody calls it
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, give each worker a block of the suite, and let the one that is done first steal.

    Tests that share a dear fixture, such as the built book, then stay together: xdist's default
    deals them out, so that each worker builds the fixture, or waits until another has.
    """
    if config.getoption("dist") != "load" or config.getoption("maxschedchunk"):
        return None  # somebody asked for another order
    from xdist.scheduler.worksteal import WorkStealingScheduling

    return WorkStealingScheduling(config, log)
