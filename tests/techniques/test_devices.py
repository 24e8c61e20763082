"""Techniques of devices beyond the claims: bad input, edge cases, timing, parity's comparison."""

import functools
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlconcepts import devices
from dlconcepts.devices import move
from dlconcepts.networks import Network
from dlconcepts.parity import comparison as parity
from dlconcepts.parity.bounds import Arithmetic, Bounded
from dlconcepts.parity.comparison import Comparison, Subject, compare
from dlconcepts.parity.faults import ulp
from dlconcepts.parity.reference import layers_of
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


def run_benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_benchmark_runs_on_the_cpu_and_gives_reasons_for_what_it_skips(tmp_path: Path) -> None:
    """Each way to train has its row, with figures or with the reason why it was skipped."""
    small = ["--images", "128", "--batch", "64", "--rounds", "1", "--deep-batch", "2"]

    result = run_benchmark("--device", "cpu", *small, "--side", "32", "--out", str(tmp_path))

    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 6
    skipped = [row["skipped"] for row in rows if "skipped" in row]
    assert "a CUDA graph needs CUDA" in skipped
    assert all(row["images/s"] > 0 for row in rows if "skipped" not in row)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_benchmark_without_cuda_fails_at_once_with_the_reason() -> None:
    """The error names the device and the reason, and suggests the CPU."""
    result = run_benchmark()

    assert result.returncode == 2
    assert "device 'cuda' is not available: " in result.stderr
    assert "--device cpu" in result.stderr


# ------------------------------------------------- the comparison of parity


@pytest.mark.parametrize("dtype", parity.DTYPES)
def test_a_diverging_training_is_compared_until_its_numbers_overflow(dtype: torch.dtype) -> None:
    """Bright images let SGD overshoot: every bound stays finite, and float16 stops early."""
    pixels = torch.tensor([8.0, 4.0, 0.0, -8.0], dtype=dtype)
    images, labels = pixels.repeat_interleave(784).view(4, 784), torch.tensor([3, 5, 9, 9])
    model = parity.network(dtype, torch.device("cpu"), seed=224)
    momentum = parity.OPTIMIZERS["SGD, momentum and decay"]
    subject = Subject(model, model, Arithmetic.of(dtype))

    triples = list(parity.steps_with(momentum, 30)(subject, (images, labels)))

    assert compare(triples).holds
    assert all(bool(bound.error.isfinite().all()) for _, _, bound in triples)
    steps = len({name.rpartition("step ")[2] for name, _, _ in triples})
    assert steps < 30 if dtype == torch.float16 else steps == 30


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.GELU()), "Tanh, GELU"),
        (nn.Linear(2, 2), "Linear"),
        (Network(2, [2], 2, activation="gelu"), "a Network with dropout or without ReLU"),
        (Network(2, [2], 2, dropout=0.5), "a Network with dropout or without ReLU"),
        (nn.ModuleList([nn.Linear(2, 2)]), "ModuleList"),
    ],
)
def test_a_layer_without_a_known_bound_is_an_error(model: nn.Module, named: str) -> None:
    """The error names the layers; the reference never guesses a bound."""
    with pytest.raises(TypeError, match=f"^no error bound is known for {named}$"):
        layers_of(model)


def test_a_result_of_another_size_is_an_error() -> None:
    """Only results with the expected number of elements are compared."""
    bound = Bounded.exact(torch.ones(2))

    with pytest.raises(ValueError, match="logits has 3 elements, not 2"):
        compare([("logits", torch.ones(3), bound)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_exceed_every_bound(value: float) -> None:
    """A comparison with NaN is false, so a naive `error > bound` would let it pass."""
    computed, bound = torch.tensor([1.0, value]), Bounded(torch.ones(2), torch.full((2,), 9.0))

    assert compare([("logits", computed, bound)]).ratio == math.inf


def test_the_reported_ulps_are_the_smallest_shift_that_is_caught() -> None:
    """One element off by the reported units exceeds the bound; off by one unit less it does not."""
    target = torch.tensor([1.0, -3.0, 0.25])
    bound = Bounded(target.double(), torch.tensor([1e-6, 1e-6, 1e-6], dtype=torch.float64))
    least = int(compare([("logits", target, bound)]).ulps[0])

    def moved(ulps: int) -> Comparison:
        # -3 has the largest ulp of the three, so it takes the fewest units.
        shift = torch.tensor([0.0, -ulps * float(ulp(target[1])), 0.0])
        return compare([("logits", target + shift, bound)])

    assert not moved(least).holds
    assert moved(least - 1).holds
