"""Proof that the stand-in rejects what CUDA rejects, and otherwise computes as the CPU does.

It runs on the device itself, `python -m pytest -p tests.stand_in --device stand_in
tests/stand_in/proof.py`. Other runs skip it; test_stand_in.py starts it in a separate process.
"""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import find
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tests.gallery as gallery
from dlconcepts import checks
from dlconcepts.__main__ import main
from dlconcepts.checks.settings import settings_kept
from dlconcepts.devices import deterministic
from dlconcepts.strategies import networks
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.randomness import torch_random
from tests import stand_in

HERE = torch.device(stand_in.NAME, 0)

# Projects that cannot run on the stand-in, or must differ from the CPU, with the reason.
RECURRENT = "the fused cells of recurrent layers have no CPU kernel"
OF_THE_CPU = "the project itself creates tensors on the CPU"
DIFFERENT = {
    "recurrent_cells": RECURRENT,
    "recurrent_cells_with_the_time_first": RECURRENT,
    "dictionaries_as_outputs": RECURRENT,
    **dict.fromkeys(
        (
            *("packed_sequences", "a_sentence", "targets_with_the_time_first"),
            *(
                "targets_with_the_time_first_as_batch_dim_says",
                "flattened_targets_as_batch_dim_says",
            ),
            "flattened_targets_with_the_time_first",
        ),
        RECURRENT,
    ),
    "sparse_inputs": "sparse tensors have no CPU kernel",
    "states_on_the_device_of_the_script": OF_THE_CPU,
    "weights_that_are_averaged": OF_THE_CPU,
    "class_weights_and_label_smoothing": OF_THE_CPU,
    "softmax_before_a_loss_of_ones_own": OF_THE_CPU,
    "a_contrastive_loss": OF_THE_CPU,
    "writes_through_to_the_array": "a batch on a device shares no memory with an array",
}


def here(*shape: int) -> Tensor:
    return torch.ones(shape, device=HERE)


def labels(*values: int) -> Tensor:
    return torch.tensor(values, device=HERE)


SAME = "on the same device|at least two devices"
GENERATOR = "device type for generator but found"
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a sum": (lambda: here(2) + torch.ones(2), SAME),
    "a sum in the other order": (lambda: torch.ones(2) + here(2), SAME),
    "a sum in place on the CPU": (lambda: torch.ones(2).add_(here()), SAME),
    "a scalar that is not an operand": (lambda: here(2).mv(torch.tensor(1.0)), "."),
    "out= on the CPU": (lambda: torch.add(here(2), here(2), out=torch.ones(2)), "."),
    "a matrix product": (lambda: here(2, 2) @ torch.ones(2, 2), SAME),
    "a comparison": (lambda: torch.equal(here(2), torch.ones(2)), SAME),
    "stacking": (lambda: torch.stack([here(2), torch.ones(2)]), SAME),
    "where with a CPU mask": (
        lambda: torch.where(torch.ones(2, dtype=torch.bool), here(2), here(2)),
        SAME,
    ),
    "a CPU model": (lambda: nn.Linear(2, 1, device="cpu")(here(3, 2)), SAME),
    "a model on the device": (lambda: nn.Linear(2, 1, device=HERE)(torch.ones(3, 2)), SAME),
    "a convolution": (lambda: nn.Conv2d(1, 1, 1, device=HERE)(torch.ones(1, 1, 2, 2)), "."),
    "CPU labels": (lambda: F.cross_entropy(here(2, 3), torch.zeros(2).long()), SAME),
    "CPU class weights": (
        lambda: F.cross_entropy(here(2, 3), labels(0, 1), weight=torch.ones(3)),
        SAME,
    ),
    "a CPU gradient": (
        lambda: (here(2).requires_grad_() * 2).backward(torch.ones(2)),
        "device",
    ),
    "an index on the device": (lambda: torch.ones(2)[labels(1)], "indices should be"),
    "index_select with a CPU index": (
        lambda: here(2).index_select(0, torch.tensor([1])),
        SAME,
    ),
    "a CPU generator": (
        lambda: torch.randn(2, device=HERE, generator=torch.Generator("cpu")),
        GENERATOR,
    ),
    "a generator on the device": (
        lambda: torch.randn(2, device="cpu", generator=torch.Generator(HERE)),
        f"{GENERATOR}|{SAME}",
    ),
    "an integer matrix product": (lambda: labels(1, 2).view(1, 2) @ labels(1, 2), "not impl"),
    "the workers of a loader": (
        lambda: list(
            DataLoader(TensorDataset(here(2)), num_workers=1, multiprocessing_context="fork")
        ),
        "forked subprocess",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(name: str) -> None:
    """Tensors, indices and generators of two devices do not mix; the error uses CUDA's words."""
    call, says = REFUSED[name]

    with pytest.raises(RuntimeError, match=says):
        call()


def test_deterministic_mode_refuses_what_is_not_deterministic_on_cuda() -> None:
    """The histogram has no deterministic kernel on CUDA, so the stand-in raises too."""
    here(2).histc(2)

    with deterministic(), pytest.raises(RuntimeError, match=r"histc.* deterministic"):
        here(2).histc(2)


@pytest.mark.parametrize("convert", [Tensor.numpy, np.asarray, torch.Tensor.__array__])
def test_numpy_refuses_a_tensor_on_the_device(convert: Callable[[Tensor], object]) -> None:
    """Numpy reads only CPU memory, and the error names the missing call."""
    with pytest.raises(TypeError, match=r"Tensor\.cpu\(\)"):
        convert(here(2))


ALLOWED: dict[str, Callable[[], Tensor]] = {
    "a CPU scalar": lambda: here(2) * torch.tensor(2.0),
    "a CPU scalar in place": lambda: here(2).mul_(torch.tensor(2.0)),
    "a CPU scalar in where": lambda: torch.where(here(2) > 2, here(2), torch.tensor(2.0)),
    "a CPU scalar in fill_": lambda: here(2).fill_(torch.tensor(2.0)),
    "CPU indices": lambda: (2 * here(3))[torch.tensor([0, 1])],
    "a CPU mask": lambda: (2 * here(2))[torch.tensor([True, True])],
    "a write at CPU indices": lambda: here(2).index_put_((torch.arange(2),), torch.tensor(2.0)),
    "a copy into the device": lambda: here(2).copy_(torch.full((2,), 2.0)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_is_allowed(name: str) -> None:
    """CPU scalars and indices are allowed, and the result is on the device."""
    result = ALLOWED[name]()

    assert result.device == HERE
    assert result.tolist() == [2.0, 2.0]


def test_from_numpy_and_the_cpu_stay_where_they_are() -> None:
    """An array becomes a CPU tensor, whatever the default device is."""
    with HERE:
        tensor = torch.from_numpy(np.ones(2))
        made = torch.zeros(2)

    assert (tensor.device.type, made.device) == ("cpu", HERE)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.view(6),
    "transpose": lambda x: x.t(),
    "slice": lambda x: x[:, 1:],
    "unfold": lambda x: x.unfold(1, 2, 1),
    "diagonal": lambda x: x.diagonal(),
    "detach": lambda x: x.detach(),
    "set_": lambda x: torch.empty(0, device=HERE).set_(x),
    "storage": lambda x: torch.empty(0, device=HERE).set_(x.untyped_storage()),
    "as real": lambda x: torch.view_as_real(torch.view_as_complex(x.view(3, 2))),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory(name: str) -> None:
    """A write through a view reaches the tensor, and vice versa."""
    x = torch.zeros(2, 3, device=HERE)
    view = VIEWS[name](x)

    view += 1
    through = int(x.sum())
    x.fill_(5)

    assert through == view.numel() > 0 or name == "unfold", "seen in the tensor"
    assert set(view.flatten().tolist()) == {5.0}, "seen in the view"
    assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_an_in_place_operation_returns_its_tensor_with_the_new_shape() -> None:
    """In place and with out=, the result is the tensor itself, in its new shape."""
    x, out = here(2), torch.empty(0, device=HERE)
    version = x._version

    assert x.add_(1) is x
    assert x._version > version
    assert torch.mul(x, 3, out=out) is out
    assert out.tolist() == [6.0, 6.0]
    assert x.resize_(2, 2) is x
    assert x.shape == (2, 2)
    assert x.t_().stride() == (1, 2)


def test_a_module_keeps_its_parameters_when_it_moves() -> None:
    """As on CUDA, an optimizer built before the move still steps the parameters."""
    model = nn.Linear(2, 1, device="cpu")
    weight = model.weight

    model.to(HERE)

    assert model.weight is weight
    assert weight.device == HERE


def network() -> nn.Module:
    """Return a CPU network with many kinds of layers."""
    torch.manual_seed(0)
    with torch.device("cpu"):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),  # the next layer removes a bias
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.ConvTranspose2d(4, 4, 2, bias=False),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.LayerNorm(16),
            nn.Linear(16, 3),
        )


def trained(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Return the state of a model after three steps of Adam on a device."""
    images = torch.linspace(-1, 1, 4 * 3 * 6 * 6, device="cpu").sin().view(4, 3, 6, 6)
    images, targets = images.double().to(device), torch.tensor([0, 1, 2, 0]).to(device)
    model = model.double().to(device)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()
    return model.cpu().state_dict()


def test_training_computes_what_it_does_on_the_cpu() -> None:
    """In float64, three steps through many kinds of layers agree to twelve digits."""
    # Not bit for bit: as on CUDA, some layers use other operators, and Adam steps all parameters in
    # one call.
    expected = trained(network(), torch.device("cpu"))

    torch.testing.assert_close(trained(network(), HERE), expected, rtol=1e-12, atol=1e-12)


def test_a_factor_is_not_rounded_to_the_dtype_of_the_tensor() -> None:
    """As on CUDA, for one tensor or many: 0.9 is not a float16 number."""
    x = torch.linspace(-1, 1, 1000, device="cpu").half()
    expected = bits((x.float() * 0.9).half())
    many = x.to(HERE)
    torch._foreach_mul_([many], 0.9)

    assert bits(many.cpu()) == bits(x.to(HERE).mul_(0.9).cpu()) == expected
    assert labels(3).mul_(2).tolist() == [6]


def test_the_device_has_its_own_generator() -> None:
    """A draw leaves the CPU's generator alone, manual_seed seeds both, a clone repeats draws."""
    torch.manual_seed(3)
    before = bits(torch.get_rng_state())
    first = F.dropout(here(50)).tolist(), torch.rand(2, device=HERE).tolist()
    after = bits(torch.get_rng_state())
    own = torch.Generator(HERE).manual_seed(7)
    twin = own.clone_state()

    torch.manual_seed(3)

    assert after == before
    assert (F.dropout(here(50)).tolist(), torch.rand(2, device=HERE).tolist()) == first
    draws = [torch.randn(3, device=HERE, generator=each).tolist() for each in (own, twin)]
    assert draws[0] == draws[1] != torch.randn(3, device=HERE, generator=own).tolist()


def test_the_random_state_of_the_device_is_restored() -> None:
    """Hypothesis, the checks and the strategies also restore the device's generator."""
    state = torch.ops.stand_in.get_state
    before = bits(state())

    find(networks([3, 1]), lambda model: True)
    assert bits(state()) == before, "drawing a network seeds only the CPU's generator"
    with settings_kept():
        torch.manual_seed(1)
    assert bits(state()) == before, "settings_kept"
    states = torch_random.getstate()
    torch_random.seed(0)
    drawn = torch.rand(3, device=HERE).tolist()
    torch_random.seed(0)
    assert torch.rand(3, device=HERE).tolist() == drawn, "Hypothesis repeats an example"
    torch_random.setstate(states)
    assert bits(state()) == before, "Hypothesis restores the state"


def test_a_checkpoint_loads_to_its_device_or_to_the_cpu() -> None:
    """Saved weights load to the same device, or with map_location to the CPU."""
    file = io.BytesIO()
    torch.save({"weight": here(3)}, file)

    for where, expected in ((None, HERE), ("cpu", torch.device("cpu"))):
        file.seek(0)
        assert torch.load(file, map_location=where)["weight"].device == expected
    assert copy.deepcopy(here(2)).device == HERE


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.cross_entropy(here(1, 2), labels(2)),
        lambda: F.embedding(labels(5), here(2, 2)),
        lambda: here(2)[labels(2)],
        lambda: here(2).gather(0, labels(2)),
        lambda: F.binary_cross_entropy(2 * here(2), here(2)),
        lambda: torch.bernoulli(2 * here(2)),
    ],
)
def test_a_test_that_reads_out_of_bounds_fails(call: Callable[[], object]) -> None:
    """It fails even if it expects the error: on CUDA a kernel assertion ends the process."""
    with pytest.raises(RuntimeError, match="device-side assert"):
        call()

    with pytest.raises(pytest.fail.Exception, match="CUDA does not survive"):
        stand_in.fail_if_lost()


def complaints(parts: dict[str, Any]) -> set[str]:
    """Return the checks that fail on the device."""
    return {result.check for result in checks.check(**parts, device=HERE).failed}


def compare(name: str, on_device: bool) -> None:
    """Fail unless the result is that of the CPU, or the project is listed as different."""
    assert on_device != (name in DIFFERENT), DIFFERENT.get(name, "the result is that of the CPU")


@pytest.mark.parametrize("mistake", gallery.MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_of_the_gallery_is_found_on_the_device_too(mistake: Any) -> None:
    """The expected check finds it; a model that cannot move fails other checks too."""
    found = complaints(mistake.wrong())

    moves = "the-model-moves-as-a-whole" not in {mistake.check, *mistake.also}
    expected = {mistake.check, *mistake.also}
    compare(mistake.name, found == expected if moves else mistake.check in found)


@pytest.mark.parametrize("name", gallery.CORRECT)
def test_a_correct_project_passes_on_the_device_too(name: str) -> None:
    """No check mixes the project's device with the CPU."""
    compare(name, not complaints(gallery.CORRECT[name]()))


def test_a_loss_with_weights_stays_on_the_device() -> None:
    """A project on the device is checked there, and its loss does not move."""
    model = nn.Linear(4, 3, device=HERE)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], device=HERE))
    batch = torch.randn(6, 4, device="cpu"), torch.tensor([0, 1, 2, 0, 1, 2], device="cpu")

    report = checks.check(
        model=model,
        batch=batch,
        loss_fn=loss_fn,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    )

    assert report.ok, str(report)
    assert loss_fn.weight is not None
    assert loss_fn.weight.device == HERE


def test_train_runs_and_resumes_on_the_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--resume`, the second epoch prints the same numbers."""
    line = ["train", "--device", stand_in.NAME, "--hidden", "8", "--batch-size", "600"]

    assert main([*line, "--epochs", "2", "--out", str(tmp_path / "whole")]) == 0
    assert main([*line, "--epochs", "1", "--out", str(tmp_path / "half")]) == 0
    half = str(tmp_path / "half" / "checkpoint.pt")
    assert main([*line, "--epochs", "2", "--resume", half, "--out", str(tmp_path / "rest")]) == 0

    last = [text for text in capsys.readouterr().out.splitlines() if text.startswith("epoch   2")]
    assert len(last) == 2
    assert last[0] == last[1]
