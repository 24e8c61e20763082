"""A second device made of CPU memory, to run the laws as on a GPU where there is none.

    python -m pytest -p tests.stand_in --device stand_in tests

PyTorch sees a separate backend, like CUDA: stand_in.cpp, built at start-up, runs each operator in
the CPU's kernel and rejects what CUDA rejects. A law that passes on it mixes no devices, passes no
device tensor to numpy, draws from no CPU generator and reads nothing out of bounds. The stand-in
cannot show other rounding orders, nondeterministic kernels, asynchronous results, driver bugs, and
the cases in QUIRKS.
"""

import logging
import re
import subprocess
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from dlconcepts.support import devices
from dlconcepts.testing.laws import case_of

NAME = "stand_in"
SOURCE = Path(__file__).with_name("stand_in.cpp")

# The laws, and the mistakes, that the stand-in cannot imitate, with the reason.
QUIRKS = {
    "test_a_compiled_model_gives_the_float64_result_within_rounding": (
        "TorchInductor generates no code for an unknown device"
    ),
    "writes_through_dlpack": "DLPack knows no such device",
    "multiplies_in_bfloat16": "the stand-in has no autocast",
}


def build() -> None:
    """Compile the device, or find it in torch's cache of extensions, and load it.

    Raises pytest.UsageError with the compiler's message if the build fails.
    """
    # It warns that CUDA is missing.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.cpp_extension import load

    name = re.sub(r"\W", "_", f"{NAME}_{torch.__version__}")  # each torch version has its own ABI
    try:
        load(name, [str(SOURCE)], extra_cflags=["-O1"], is_python_module=False)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise pytest.UsageError(
            "the stand-in is written in C++ and could not be built. It needs ninja (pip install "
            f"ninja) and a compiler: c++, or the one that CXX names. The error was: {error}"
        ) from error


def module() -> types.ModuleType:
    """Return the device's counterpart of `torch.cuda`, with the functions that torch calls."""
    made = types.ModuleType(f"torch.{NAME}")
    functions: dict[str, Callable[..., object]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "device": lambda device: nullcontext(device),
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "synchronize": lambda device=None: None,
        "_is_in_bad_fork": torch.ops.stand_in.is_forked,
        "manual_seed": torch.ops.stand_in.seed,
        "manual_seed_all": torch.ops.stand_in.seed,
        "get_rng_state": lambda device=None: torch.ops.stand_in.get_state(),
        "set_rng_state": lambda state, device=None: torch.ops.stand_in.set_state(state),
    }
    vars(made).update(functions)
    return made


def start() -> None:
    """Register the device with torch and with `find_device`."""
    build()
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, module())
    torch.ops.stand_in.start()
    devices.DEVICES = (*devices.DEVICES, NAME)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Start the device before conftest.py looks for devices."""
    start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quirks as strict expected failures."""
    for item in items:
        case = case_of(item)
        if case is None or case.device.type != NAME:
            continue
        if reason := QUIRKS.get(getattr(item, "originalname", "")) or QUIRKS.get(case.name):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def fail_if_lost() -> None:
    """Fail if a kernel read out of bounds since the last call."""
    if torch.ops.stand_in.lost():
        pytest.fail("a kernel read out of bounds: CUDA does not survive that")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Fail a test after which, on CUDA, every other test in the process would fail."""
    fail_if_lost()
