"""Which arithmetics, probes and faults the tables of parity are measured with."""

import pytest
import torch

from dlconcepts.parity import comparison as parity
from dlconcepts.parity.comparison import Comparison
from dlconcepts.parity.faults import FAULTS
from dlconcepts.parity.measure import PROBES, Kind, batch, faults_of, kinds_of, models_of, worst

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "names"),
    [
        ("cpu", ["float64", "float32", "float32 with TF32", "bfloat16", "float16"]),
        ("mps", ["float32", "float32 with TF32", "bfloat16", "float16"]),
    ],
)
def test_tf32_follows_float32(device: str, names: list[str]) -> None:
    """Every dtype of the device has a table, and float32 has two."""
    assert [kind.name for kind in kinds_of(torch.device(device))] == names


def test_a_fault_that_is_no_fault_in_an_arithmetic_is_not_planted() -> None:
    """TF32 factors are right if TF32 is allowed, and transforms run no network."""
    forward = parity.forward_pass

    assert "TF32 factors" in faults_of(Kind(torch.float32), forward)
    assert "TF32 factors" not in faults_of(Kind(torch.float32, tf32=True), forward)
    assert "sums in the dtype" not in faults_of(Kind(torch.float32), forward)
    assert "sums in the dtype" in faults_of(Kind(torch.float16), forward)
    assert faults_of(Kind(torch.float16), forward).keys() <= FAULTS.keys()
    assert faults_of(Kind(torch.float16), parity.transforms) == {}


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("backend", ["eager", "channels_last"])
def test_a_probe_is_a_batch_for_the_model(probe: str, backend: str) -> None:
    """It has 16 images in the dtype of the model, the same in every call."""
    model, run = models_of(backend, torch.bfloat16, CPU)

    images, labels = batch(probe, model, CPU)

    assert run is model
    assert run(images).shape == (16, 10)
    assert (images.dtype, labels.shape) == (torch.bfloat16, (16,))
    assert images.equal(batch(probe, model, CPU)[0])
    if images.ndim == 4:
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_probes_differ_in_the_length_of_their_sums() -> None:
    """Noise, noise in about two pixels, nothing, and products of one sign."""
    model, _ = models_of("eager", torch.float32, CPU)
    images = {probe: batch(probe, model, CPU)[0] for probe in PROBES}

    lit = {probe: int((part != 0).sum()) / 16 for probe, part in images.items()}
    assert lit["dense"] == 784
    assert 1 < lit["two pixels"] < 3
    assert lit["blank"] == 0
    products = images["aligned"] * model.hidden[0].weight[:16]
    assert bool((products >= 0).all())


def test_the_worst_comparison_has_the_extremes_of_all_shifts() -> None:
    """It has the largest ratio; the smallest shift and the largest median may be others'."""
    near = Comparison("near", 1.0, 2.0, 0.5, ulps=(3.0, 9.0))
    far = Comparison("far", 1.0, 8.0, 0.125, ulps=(2.0, 70.0))

    assert worst([far, near]) == Comparison("near", 1.0, 2.0, 0.5, ulps=(2.0, 70.0))
