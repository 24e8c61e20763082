"""A second device made of the CPU's memory, for laws that are to run on a GPU where there is none.

    python -m pytest -p tests.stand_in --device stand_in tests

To PyTorch it is a backend of its own, as CUDA is: tests/stand_in.cpp, built at the start, runs each
operator in the CPU's kernel and refuses what CUDA refuses. A law that passes on it mixes no
devices, hands no tensor of the device to numpy, draws from no generator of the CPU and reads
nothing out of bounds. What it cannot show: kernels that round in another order or are not
deterministic, results that come later, what a driver does, and what is listed in QUIRKS.
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

# The laws that the stand-in cannot imitate, with the reason.
QUIRKS = {
    "test_a_compiled_model_gives_the_float64_result_within_rounding": (
        "TorchInductor writes no code for a device that it does not know"
    ),
}


def build() -> None:
    """Compile the device, or take it from torch's folder of extensions, and load it.

    Raises pytest.UsageError, with what the compiler said, if that is not possible.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # there is no CUDA
    from torch.utils.cpp_extension import load

    name = re.sub(r"\W", "_", f"{NAME}_{torch.__version__}")  # each has an interface of its own
    try:
        load(name, [str(SOURCE)], extra_cflags=["-O1"], is_python_module=False)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise pytest.UsageError(
            f"the stand-in is written in C++ and could not be built, which takes a compiler, named "
            f"by CXX if it is not c++, and ninja (pip install ninja): {error}"
        ) from error


def module() -> types.ModuleType:
    """Return what `torch.cuda` is to CUDA: the part of it that torch itself asks for."""
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
    """Make the device known to torch and to `find_device`."""
    build()
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, module())
    torch.ops.stand_in.start()
    devices.DEVICES = (*devices.DEVICES, NAME)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Start the device before conftest.py asks which there are."""
    start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the items that are listed as quirks to fail, and to fail the run if they pass."""
    for item in items:
        case = case_of(item)
        reason = QUIRKS.get(getattr(item, "originalname", ""))
        if reason and case and case.device.type == NAME:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def fail_if_lost() -> None:
    """Fail if a kernel was given what it asserts against since this was asked last."""
    if torch.ops.stand_in.lost():
        pytest.fail("a kernel was given values out of bounds: CUDA does not survive that")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Fail an item after which, on CUDA, all others in the process would fail."""
    fail_if_lost()
