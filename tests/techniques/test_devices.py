"""Techniques of devices: bad input, edge cases and speed, beyond the claims."""

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
from dlconcepts.__main__ import main
from dlconcepts.cli import parity as parity_command
from dlconcepts.devices import move
from dlconcepts.networks import Network
from dlconcepts.parity import comparison as parity
from dlconcepts.parity.bounds import Arithmetic, Bounded
from dlconcepts.parity.comparison import TECHNIQUES, Comparison, Subject, compare
from dlconcepts.parity.faults import drops_a_bias, ulp
from dlconcepts.parity.reference import layers_of
from dlconcepts.support.devices import DeviceUnavailableError, find_device
from tests.devices.common import META, Queue, settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Found no NVIDIA driver on your system.", "there is no NVIDIA driver; install"),
        ("No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES does not hide it"),
        ("CUDA driver error: 35\nmore", "PyTorch says 'CUDA driver error: 35'"),
    ],
)
def test_what_torch_says_of_a_missing_device_becomes_a_reason_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    """Each way in which CUDA can be absent has a remedy of its own."""

    def ones(*size: int, device: str) -> Tensor:
        """Fail as torch does on a machine without the device."""
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    with pytest.raises(DeviceUnavailableError, match="device 'cuda' is not available") as found:
        find_device("cuda")

    assert told in str(found.value)


def test_an_optimizer_of_another_model_stays_and_so_does_the_model() -> None:
    """What does not belong together is not moved together."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1)

    with pytest.raises(ValueError, match="not the model's"):
        move(model, META, optimizer)

    assert model.weight.device.type == "cpu"


@pytest.mark.parametrize("dtype", parity.DTYPES)
def test_a_training_that_diverges_is_compared_as_far_as_its_numbers_are_in_range(
    dtype: torch.dtype,
) -> None:
    """Bright images let SGD overshoot: no bound is lost on the way, and float16 ends in time."""
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


def test_determinism_that_comes_too_late_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once CUDA is at work, cuBLAS no longer looks at the setting that it needs."""
    before = settings()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.delenv(devices.WORKSPACE)

    with pytest.raises(RuntimeError, match=devices.WORKSPACE), devices.deterministic():
        pass

    assert settings() == before


def test_a_device_without_events_is_timed_by_the_clock() -> None:
    """The queue is empty before and after each round; no round is an error.

    A launch takes a second, and three are worked.
    """
    queue = Queue()

    def seconds(device: str, rounds: int) -> float:
        """Return the time of three seconds of work."""
        module = SimpleNamespace(synchronize=queue.synchronize)
        work = functools.partial(queue.launch, 3)
        return devices.median_seconds(work, device, rounds=rounds, module=module, clock=queue.clock)

    assert (seconds("cpu", 1), seconds("mps", 2)) == (4, 4)
    with pytest.raises(ValueError, match="at least 1 round, but rounds is 0"):
        seconds("cpu", 0)


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
def test_a_build_of_pytorch_without_a_device_is_told_from_a_machine_without_one(
    monkeypatch: pytest.MonkeyPatch, device: str, build: dict[str, Any], says: str
) -> None:
    """The one needs another build, the other a device: only there is a computation tried."""

    def nothing_answers(*sizes: int, device: str) -> Tensor:
        """Stand for a machine without a device."""
        raise RuntimeError(f"nothing answers on {device}")

    monkeypatch.setattr(torch, "version", SimpleNamespace(**build))
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: build["mps"])
    monkeypatch.setattr(torch, "ones", nothing_answers)

    with pytest.raises(DeviceUnavailableError, match=f"'{device}' is not available: .*{says}"):
        find_device(device)


class FiveSeconds:
    """An event of a queue in which all work takes five seconds."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        """Come after what is in the queue."""

    def synchronize(self) -> None:
        """Wait."""

    def elapsed_time(self, end: Any) -> float:
        """Return the milliseconds to another event."""
        return 5000.0


def test_events_tell_the_time_of_an_accelerator_and_the_clock_that_of_the_cpu() -> None:
    """Where there are events, the clock is not looked at, but for the CPU."""
    module = SimpleNamespace(synchronize=lambda: None, Event=FiveSeconds)
    seconds = functools.partial(devices.median_seconds, lambda: None, module=module)

    assert seconds("cuda", clock=lambda: pytest.fail("asked the clock")) == 5
    assert seconds("cpu", clock=itertools.count().__next__) == 1
    assert seconds(clock=itertools.count().__next__) == 1


def test_the_module_of_the_device_is_asked_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default two calls warm up and nine are timed, between waits for the device named."""
    calls: list[str] = []
    module = SimpleNamespace(synchronize=lambda: calls.append("waits"))
    monkeypatch.setattr(torch, "get_device_module", {"mps": module}.__getitem__)

    devices.median_seconds(lambda: calls.append("works"), "mps")

    assert calls == ["works"] * 2 + ["waits", "works", "waits"] * 9


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave but three techniques, two dtypes and two probes, so that a table takes a second."""
    names = ("forward", "1 step of Adam", "transforms")
    monkeypatch.setattr(parity_command, "TECHNIQUES", {name: TECHNIQUES[name] for name in names})
    monkeypatch.setattr(parity, "DTYPES", (torch.float32, torch.float16))
    monkeypatch.setattr(parity_command, "PROBES", ("two pixels", "blank"))


@pytest.mark.usefixtures("few")
def test_the_table_of_parity_has_error_bound_and_blindness(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each technique has a row in each arithmetic, and the same figures are in the file."""
    file = tmp_path / "parity.json"

    assert main(["parity", "--eager", "--json", str(file)]) == 0

    printed = capsys.readouterr().out
    record = json.loads(file.read_text(encoding="utf-8"))
    arithmetics = ["float32", "float32 with TF32", "float16"]
    assert [row["arithmetic"] for row in record["rows"][::3]] == arithmetics
    assert all(title in printed for title in (*arithmetics, "channels_last", "not noticed"))
    assert {row["technique"]: row["missed"] for row in record["rows"][:3]}["forward"] == []
    found = [c for row in record["rows"] for c in row["backends"].values()]
    assert all(0 <= comparison["ratio"] <= 1 for comparison in found)


@pytest.mark.usefixtures("few")
def test_a_bound_that_is_exceeded_ends_the_table_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backend with a fault is told by the exit status."""
    sound = parity.network

    def faulty(dtype: torch.dtype, device: torch.device) -> Network:
        """Return the network without its last bias."""
        model = sound(dtype, device)
        drops_a_bias(model)
        return model

    monkeypatch.setattr(parity, "network", faulty)

    assert main(["parity", "--eager"]) == 1
    assert "forward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--json", "nowhere/parity.json"], "there is no folder nowhere"),
    ],
)
def test_the_table_says_what_it_cannot_do(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown device or a missing folder is told before anything is measured."""
    assert main(["parity", *arguments]) == 2

    assert said in capsys.readouterr().err


def run_benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark as a person would."""
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_benchmark_runs_on_the_cpu_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    """Every route has its row: figures, or the reason why there are none."""
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
    """It names the device, the reason, and what one can do."""
    result = run_benchmark()

    assert result.returncode == 2
    assert "device 'cuda' is not available: " in result.stderr
    assert "--device cpu" in result.stderr


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.GELU()), "Tanh, GELU"),
        (nn.Linear(2, 2), "Linear"),
        (Network(2, [2], 2, activation="gelu"), "a Network but of ReLU and no dropout"),
        (Network(2, [2], 2, dropout=0.5), "a Network but of ReLU and no dropout"),
        (nn.ModuleList([nn.Linear(2, 2)]), "ModuleList"),
    ],
)
def test_a_layer_without_a_bound_is_an_error(model: nn.Module, named: str) -> None:
    """What the reference has no bound for is named, and not guessed."""
    with pytest.raises(TypeError, match=f"^no error bound is known for {named}$"):
        layers_of(model)


def test_a_result_of_another_shape_is_no_result() -> None:
    """A comparison of other elements than were computed is refused."""
    bound = Bounded.exact(torch.ones(2))

    with pytest.raises(ValueError, match="logits has 3 elements, not 2"):
        compare([("logits", torch.ones(3), bound)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_no_number_exceeds_every_bound(value: float) -> None:
    """NaN is below no bound, although it is above none."""
    computed, bound = torch.tensor([1.0, value]), Bounded(torch.ones(2), torch.full((2,), 9.0))

    assert compare([("logits", computed, bound)]).ratio == math.inf


def test_one_element_off_by_the_reported_ulps_is_noticed_and_by_one_less_is_not() -> None:
    """The smallest shift that a comparison reports is planted, and is the smallest."""
    target = torch.tensor([1.0, -3.0, 0.25])
    bound = Bounded(target.double(), torch.tensor([1e-6, 1e-6, 1e-6], dtype=torch.float64))
    least = int(compare([("logits", target, bound)]).ulps[0])

    def moved(ulps: int) -> Comparison:
        """Compare with the element of the largest ulp moved away from zero."""
        shift = torch.tensor([0.0, -ulps * float(ulp(target[1])), 0.0])
        return compare([("logits", target + shift, bound)])

    assert not moved(least).holds
    assert moved(least - 1).holds
