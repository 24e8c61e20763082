"""Figures that only the book has: runs compared by epoch, and paths of gradient descent.

Like those of `dlconcepts.support.plots`, they use neither pyplot nor its global state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dlconcepts.support.plots import BLUE, GREEN, ORANGE, PALE_BLUE, row_of_axes


@dataclass(frozen=True)
class Panel:
    """One pair of axes of `compare_runs`: values by epoch, and constants to compare them with.

    `runs` maps a name to the values of each of its runs by epoch, all of one length. `levels` maps
    a name to a horizontal line. `percent` shows shares in percent.
    """

    title: str
    runs: Mapping[str, Sequence[Sequence[float]]]
    levels: Mapping[str, float] = field(default_factory=dict)
    percent: bool = False


def compare_runs(panels: Sequence[Panel]) -> Figure:
    """Draw the mean of the runs of each name by epoch, in a band from the lowest to the highest.

    Raises ValueError if there is no panel, or a name without a run or an epoch.

    >>> runs = {"SGD": [[0.1, 0.5], [0.2, 0.4]], "Adam": [[0.4, 0.5]]}
    >>> figure = compare_runs([Panel("Accuracy", runs, levels={"chance": 0.1}, percent=True)])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['SGD', 'Adam', 'chance']
    """
    drawn = [runs for panel in panels for runs in panel.runs.values()]
    if not drawn or not all(len(runs) and len(runs[0]) for runs in drawn):
        raise ValueError("each name of each panel needs at least one run of one epoch")
    figure, parts = row_of_axes([panel.title for panel in panels])
    for axes, panel in zip(parts, panels, strict=True):
        for (name, runs), color in zip(panel.runs.items(), (BLUE, ORANGE, GREEN), strict=False):
            values = np.asarray(runs)
            epochs = np.arange(1, values.shape[1] + 1)
            band = values.min(axis=0), values.max(axis=0)
            axes.plot(epochs, values.mean(axis=0), color=color, label=name)
            axes.fill_between(epochs, *band, color=color, alpha=0.25, lw=0)
        for name, level in panel.levels.items():
            axes.axhline(level, color="0.3", linestyle="--", linewidth=1, label=name)
        if panel.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False)
    return figure


def descent_paths(matrix: torch.Tensor, paths: Mapping[str, torch.Tensor]) -> Figure:
    """Draw the paths of gradient descent on x'Ax / 2, over lines of equal loss.

    `matrix` is A, (2, 2), symmetric with positive eigenvalues. `paths` maps the title of a panel to
    points (steps + 1, 2), as `training.gradient_descent` returns them.

    Raises ValueError if there is no path.

    >>> from dlconcepts.training import gradient_descent
    >>> bowl = torch.tensor([[9.0, 0.0], [0.0, 1.0]])
    >>> start = torch.tensor([1.0, 4.0])
    >>> path = gradient_descent(lambda x: x @ bowl @ x / 2, start, lr=0.2, steps=20)
    >>> [axes.get_title() for axes in descent_paths(bowl, {"lr 0.2": path}).axes]
    ['lr 0.2']
    """
    if not paths:
        raise ValueError("there is no path to draw")
    figure = Figure(figsize=(4 * len(paths), 4.3), layout="constrained")
    panels = figure.subplots(1, len(paths), squeeze=False)[0]
    form = matrix.numpy(force=True)
    for axes, (title, path) in zip(panels, paths.items(), strict=True):
        points = path.numpy(force=True)
        reach = 1.1 * np.abs(points).max()
        x, y = np.meshgrid(*[np.linspace(-reach, reach, 101)] * 2)
        loss = (form[0, 0] * x**2 + 2 * form[0, 1] * x * y + form[1, 1] * y**2) / 2
        axes.contour(x, y, loss, levels=loss.max() * np.linspace(0, 1, 9) ** 2, colors=PALE_BLUE)
        axes.plot(points[:, 0], points[:, 1], "o-", color=ORANGE, markersize=3, linewidth=1)
        axes.set_title(title)
        axes.set_aspect("equal")
    return figure
