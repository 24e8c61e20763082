"""The figures of the book show what they are given."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dlconcepts.strategies import shapes
from docs.plots import Panel, compare_runs


@given(runs=hnp.arrays(float, shapes(2, 2, min_side=1), elements=st.floats(0, 1)))
@settings(max_examples=10)  # each example draws a figure, which is slow
def test_runs_are_plotted_as_their_mean_in_a_band_from_lowest_to_highest(
    runs: NDArray[np.float64],
) -> None:
    """For each epoch, the line shows the mean of the runs and the band their range."""
    panel = Panel("Accuracy", {"SGD": runs.tolist()}, levels={"chance": 0.1})

    (axes,) = compare_runs([panel]).axes

    line, level = axes.get_lines()
    epochs = np.arange(1, runs.shape[1] + 1)
    assert np.allclose(line.get_xydata(), np.stack([epochs, runs.mean(axis=0)], axis=1))
    assert set(level.get_ydata()) == {0.1}
    band = axes.collections[0].get_paths()[0].vertices
    for epoch, values in zip(epochs, runs.T, strict=True):
        heights = band[band[:, 0] == epoch, 1]
        assert np.allclose([heights.min(), heights.max()], [values.min(), values.max()])


@pytest.mark.parametrize(
    "panels", [[], [Panel("Loss", {"SGD": []})], [Panel("Loss", {"SGD": [[]]})]]
)
def test_a_plot_without_runs_is_refused(panels: list[Panel]) -> None:
    """To plot no run, or runs without epochs, is an error that says what is missing."""
    with pytest.raises(ValueError, match="at least one run of one epoch"):
        compare_runs(panels)
