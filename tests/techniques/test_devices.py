"""Techniques of devices beyond the claims: bad input, edge cases, timing."""

import functools
import importlib.util
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlconcepts import devices
from dlconcepts.devices import move
from dlconcepts.support.devices import DeviceUnavailableError, find_device
from tests.devices.common import META, Queue, settings

ROOT = Path(__file__).parents[2]


# ------------------------------------------------- finding a device


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Found no NVIDIA driver on your system.", "there is no NVIDIA driver; install"),
        ("No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES does not hide it"),
        ("CUDA driver error: 35\nmore", "PyTorch says 'CUDA driver error: 35'"),
    ],
)
def test_each_reason_for_a_missing_device_comes_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    """For each error of torch about CUDA the message says what to do."""

    def ones(*size: int, device: str) -> Tensor:
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    with pytest.raises(DeviceUnavailableError, match="device 'cuda' is not available") as found:
        find_device("cuda")

    assert told in str(found.value)


@pytest.mark.parametrize(
    ("device", "build", "says"),
    [
        ("cuda", {"cuda": None, "hip": None}, "no support"),
        ("cuda", {"cuda": "12.4", "hip": None}, "nothing answers"),
        ("cuda", {"cuda": None, "hip": "6.2"}, "nothing answers"),
        ("mps", {"mps": False}, "no support"),
        ("mps", {"mps": True}, "nothing answers"),
        ("xpu", {"xpu": None}, "no support"),
        ("xpu", {"xpu": "20250101"}, "nothing answers"),
        ("xpu", {}, "no support"),
    ],
)
def test_the_error_tells_a_build_without_support_from_a_machine_without_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, build: dict[str, Any], says: str
) -> None:
    """Only a build with support tries a computation; without it the user needs another build."""

    def ones(*sizes: int, device: str) -> Tensor:
        raise RuntimeError(f"nothing answers on {device}")

    monkeypatch.setattr(torch, "version", SimpleNamespace(**build))
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: build["mps"])
    monkeypatch.setattr(torch, "ones", ones)

    with pytest.raises(DeviceUnavailableError, match=f"'{device}' is not available: .*{says}"):
        find_device(device)


# ------------------------------------------------- moving, determinism


def test_another_models_optimizer_is_refused_before_anything_moves() -> None:
    """`move` raises if the optimizer steps parameters of another model, and the model stays."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1)

    with pytest.raises(ValueError, match="steps another model's parameters"):
        move(model, META, optimizer)

    assert model.weight.device.type == "cpu"


def test_determinism_is_an_error_once_cuda_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace setting of cuBLAS is read when CUDA starts; after that it is too late."""
    before = settings()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.delenv(devices.WORKSPACE, raising=False)

    with pytest.raises(RuntimeError, match=devices.WORKSPACE), devices.deterministic():
        pass

    assert settings() == before


# ------------------------------------------------- timing


def test_a_device_without_events_is_timed_by_the_clock() -> None:
    """The time includes the second that a launch takes and the three seconds of work."""
    queue = Queue()

    def seconds(device: str, rounds: int) -> float:
        module = SimpleNamespace(synchronize=queue.synchronize)
        work = functools.partial(queue.launch, 3)
        return devices.median_seconds(work, device, rounds=rounds, module=module, clock=queue.clock)

    assert (seconds("cpu", 1), seconds("mps", 2)) == (4, 4)
    with pytest.raises(ValueError, match="rounds must be at least 1, but is 0"):
        seconds("cpu", 0)


class FiveSeconds:
    """An event on a device where all work takes five seconds."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Any) -> float:
        return 5000.0  # milliseconds


def test_events_time_an_accelerator_and_the_clock_times_the_cpu() -> None:
    """A device with events never asks the clock, except for the CPU."""
    module = SimpleNamespace(synchronize=lambda: None, Event=FiveSeconds)
    seconds = functools.partial(devices.median_seconds, lambda: None, module=module)

    assert seconds("cuda", clock=lambda: pytest.fail("asked the clock")) == 5
    assert seconds("cpu", clock=itertools.count().__next__) == 1
    assert seconds(clock=itertools.count().__next__) == 1


def test_each_timed_call_stands_between_two_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default two calls warm up and nine are timed, on the module of the named device."""
    calls: list[str] = []
    module = SimpleNamespace(synchronize=lambda: calls.append("waits"))
    monkeypatch.setattr(torch, "get_device_module", {"mps": module}.__getitem__)

    devices.median_seconds(lambda: calls.append("works"), "mps")

    assert calls == ["works"] * 2 + ["waits", "works", "waits"] * 9


# ------------------------------------------------- the benchmark


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return the program, in this process: another would spend seconds on importing torch."""
    found = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks" / "gpu.py")
    assert found is not None
    assert found.loader is not None
    program = importlib.util.module_from_spec(found)
    found.loader.exec_module(program)

    def run(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
        status: int = program.main()
        return status

    return run


def test_the_benchmark_runs_on_the_cpu_and_gives_reasons_for_what_it_skips(
    benchmark: Callable[..., int], tmp_path: Path
) -> None:
    """Each way to train has its row, with figures or with the reason why it was skipped."""
    small = ["--images", "128", "--batch", "64", "--rounds", "1", "--deep-batch", "2"]

    assert benchmark("--device", "cpu", *small, "--side", "32", "--out", str(tmp_path)) == 0

    rows = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 6
    skipped = [row["skipped"] for row in rows if "skipped" in row]
    assert "a CUDA graph needs CUDA" in skipped
    assert all(row["images/s"] > 0 for row in rows if "skipped" not in row)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_benchmark_without_cuda_fails_at_once_with_the_reason(
    benchmark: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the device and the reason, and suggests the CPU."""
    assert benchmark() == 2

    printed = capsys.readouterr().err
    assert "device 'cuda' is not available: " in printed
    assert "--device cpu" in printed
