"""`python -m dlconcepts parity` prints error, bound and missed faults of each technique."""

import json
from pathlib import Path

import pytest
import torch

from dlconcepts.__main__ import main
from dlconcepts.networks import Network
from dlconcepts.parity import comparison as parity
from dlconcepts.parity import measure
from dlconcepts.parity.faults import drops_a_bias


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure three techniques in two dtypes on two probes, so that a table takes a second."""
    names = ("forward", "1 step of Adam", "transforms")
    techniques = {name: parity.TECHNIQUES[name] for name in names}
    monkeypatch.setattr(measure, "TECHNIQUES", techniques)
    monkeypatch.setattr(parity, "DTYPES", (torch.float32, torch.float16))
    monkeypatch.setattr(measure, "PROBES", ("two pixels", "blank"))


@pytest.mark.usefixtures("small")
def test_the_tables_have_a_row_for_each_technique(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each technique has a row in each arithmetic, and the JSON file has the same figures."""
    file = tmp_path / "parity.json"

    assert main(["parity", "--eager", "--json", str(file)]) == 0

    printed = capsys.readouterr().out
    record = json.loads(file.read_text(encoding="utf-8"))
    arithmetics = ["float32", "float32 with TF32", "float16"]
    # Three rows for each arithmetic, one for each technique.
    assert [row["arithmetic"] for row in record["rows"][::3]] == arithmetics
    assert all(title in printed for title in (*arithmetics, "channels_last", "not noticed"))
    assert {row["technique"]: row["missed"] for row in record["rows"][:3]}["forward"] == []
    found = [c for row in record["rows"] for c in row["backends"].values()]
    assert all(0 <= comparison["ratio"] <= 1 for comparison in found)


@pytest.mark.usefixtures("small")
def test_an_exceeded_bound_gives_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints its tables to the end and exits with 1 if a backend has a fault."""
    sound = parity.network

    def faulty(dtype: torch.dtype, device: torch.device) -> Network:
        model = sound(dtype, device)
        drops_a_bias(model)
        return model

    monkeypatch.setattr(parity, "network", faulty)

    assert main(["parity", "--eager"]) == 1
    assert "forward" in capsys.readouterr().out
