"""Pictures: the loss over the epochs, runs compared, and an image beside its probabilities.

Each function returns a Matplotlib figure that belongs to its caller alone; pyplot's global state
is not touched, so no display is needed and nothing has to be closed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from dlconcepts.support.runs import History

BLUE, PALE_BLUE, ORANGE, GREEN = "#2f6db2", "#b5cce6", "#d9730d", "#3a8a4d"


def loss_curves(history: History) -> Figure:
    """Draw the training loss by epoch, and beside it the held-out loss and accuracy if any.

    Raises ValueError if there is no epoch to draw.

    >>> from dlconcepts.support.runs import Epoch
    >>> figure = loss_curves([Epoch(1, 0.9, 0.8, 0.7, 1.0), Epoch(2, 0.5, 0.6, 0.8, 1.0)])
    >>> [axes.get_title() for axes in figure.axes]
    ['Loss', 'Held-out accuracy']
    """
    if not history:
        raise ValueError("the history has no epoch to draw")
    validated = history[0].held_out_loss is not None
    figure = Figure(figsize=(9 if validated else 4.5, 3.5), layout="constrained")
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    epochs = [record.epoch for record in history]
    panels[0].plot(
        epochs, [record.train_loss for record in history], "o-", color=BLUE, label="training"
    )
    panels[0].set_title("Loss")
    if validated:
        panels[0].plot(
            epochs,
            [record.held_out_loss for record in history],
            "s-",
            color=ORANGE,
            label="held-out",
        )
        panels[1].plot(epochs, [record.held_out_accuracy for record in history], "s-", color=ORANGE)
        panels[1].set_title("Held-out accuracy")
        panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False)
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, len(history) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


@dataclass(frozen=True)
class Panel:
    """One pair of axes of `compare_runs`: what is drawn by epoch, and constants to compare it with.

    `runs` has a name for each kind of training, and under it the values of each run by epoch, all
    of one length. `levels` are horizontal lines by name. Shares are shown in percent.
    """

    title: str
    runs: Mapping[str, Sequence[Sequence[float]]]
    levels: Mapping[str, float] = field(default_factory=dict)
    percent: bool = False


def compare_runs(panels: Sequence[Panel]) -> Figure:
    """Draw the mean of the runs of each name by epoch, in the band from the lowest to the highest.

    Raises ValueError if there is no panel, or a name without a run or an epoch.

    >>> runs = {"SGD": [[0.1, 0.5], [0.2, 0.4]], "Adam": [[0.4, 0.5]]}
    >>> figure = compare_runs([Panel("Accuracy", runs, levels={"chance": 0.1}, percent=True)])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['SGD', 'Adam', 'chance']
    """
    drawn = [runs for panel in panels for runs in panel.runs.values()]
    if not drawn or not all(len(runs) and len(runs[0]) for runs in drawn):
        raise ValueError("each name of each panel needs at least one run of one epoch")
    figure = Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for (name, runs), color in zip(panel.runs.items(), (BLUE, ORANGE, GREEN), strict=False):
            values = np.asarray(runs)
            epochs = np.arange(1, values.shape[1] + 1)
            axes.plot(epochs, values.mean(axis=0), color=color, label=name)
            axes.fill_between(
                epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.25, lw=0
            )
        for name, level in panel.levels.items():
            axes.axhline(level, color="0.3", linestyle="--", linewidth=1, label=name)
        axes.set_title(panel.title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if panel.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def view_classify(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Draw an image beside one bar for each class, as long as its probability.

    Image of shape (H, W) or (1, H, W), grey, or (3, H, W), in colour: uint8, or floats that
    `loading.normalize` made with this `mean` and `std`. The `probabilities` have shape (K,) and
    sum to 1; `classes` are K names. With `label`, the true class, the colour shows whether the
    prediction is right. No argument is changed.

    Raises ValueError for other shapes, a label that is no class, and numbers that are no
    probabilities, such as logits; TypeError for an image of other integers.

    >>> figure = view_classify(torch.zeros(28, 28), torch.tensor([0.25, 0.75]), ["cat", "dog"])
    >>> figure.axes[0].get_title()
    'predicted: dog'
    """
    figure = Figure(figsize=(6.2, 3), layout="constrained")
    _draw(figure, _displayable(image, mean, std), probabilities, classes, label)
    return figure


def view_predictions(
    images: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    labels: torch.Tensor,
) -> Figure:
    """Draw `view_classify` for a few images in one figure, two beside each other.

    Images of shape (N, H, W) or (N, C, H, W), probabilities (N, K), labels (N,); else as there.
    """
    rows = (len(images) + 1) // 2
    figure = Figure(figsize=(12.4, 3 * rows), layout="constrained")
    parts = figure.subfigures(rows, 2, squeeze=False).flat
    for part, image, row, label in zip(parts, images, probabilities, labels, strict=False):
        _draw(part, _displayable(image, 0.5, 0.5), row, classes, int(label))
    return figure


def view_confusion(confusion: torch.Tensor, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix (K, K): rows are the classes, columns what they were taken for.

    The darker a field, the larger its share of the row, of which it says the number.

    >>> figure = view_confusion(torch.tensor([[2, 1], [0, 3]]), ["cat", "dog"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['2', '1', '0', '3']
    """
    side = 2 + 0.6 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares.numpy()):
        color = "white" if share > 0.5 else "black"
        text = str(int(confusion[row, column]))
        axes.text(column, row, text, ha="center", va="center", color=color)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    return figure


def _draw(
    figure: FigureBase,
    pixels: NDArray[np.float64],
    probabilities: torch.Tensor,
    classes: Sequence[str],
    label: int | None,
) -> None:
    """Draw one image and its bars into a figure or a part of one."""
    _check_probabilities(probabilities, classes)
    if label is not None and not 0 <= label < len(classes):
        raise ValueError(f"the label is one of 0 to {len(classes) - 1}, but it is {label}")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    left.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    left.set_axis_off()
    predicted = int(probabilities.argmax())
    title, colour = f"predicted: {classes[predicted]}", BLUE
    if label is not None:
        title += f"\ntrue class: {classes[label]}"
        colour = GREEN if predicted == label else ORANGE
    left.set_title(title, color=colour)
    positions = range(len(classes))
    colours = [colour if position == predicted else PALE_BLUE for position in positions]
    bars = right.barh(positions, probabilities.tolist(), color=colours)
    percentages = [f"{value:.1%}" if value >= 0.001 else "" for value in probabilities.tolist()]
    right.bar_label(bars, percentages, padding=3)
    right.set_yticks(positions, classes)
    right.invert_yaxis()
    # Room at the right of the longest bar for its number.
    right.set_xlim(0, 1.2)
    right.set_xticks([0, 0.25, 0.5, 0.75, 1])
    right.set_xlabel("probability")
    right.spines[["top", "right"]].set_visible(False)


def _displayable(image: torch.Tensor, mean: float, std: float) -> NDArray[np.float64]:
    """Return a copy of the image, un-normalised, with values from 0, black, to 1, white."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and len(image) not in (1, 3)):
        raise ValueError(
            f"an image has shape (H, W), (1, H, W) or (3, H, W), not {tuple(image.shape)}"
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"an image is uint8 or floating point, not {image.dtype}")
    values = image.detach().cpu().double()
    in_colour = image.ndim == 3 and len(image) == 3
    pixels = (values.movedim(0, -1) if in_colour else values.reshape(image.shape[-2:])).numpy()
    return pixels / 255 if image.dtype == torch.uint8 else pixels * std + mean


def _check_probabilities(probabilities: torch.Tensor, classes: Sequence[str]) -> None:
    """Raise ValueError unless there is one probability for each class, and they sum to 1."""
    if probabilities.shape != (len(classes),):
        raise ValueError(
            f"{len(classes)} classes need as many probabilities, "
            f"but these have the shape {tuple(probabilities.shape)}"
        )
    if not (bool((probabilities >= 0).all()) and abs(float(probabilities.sum()) - 1) < 0.01):
        raise ValueError(
            "these are no probabilities, since they are negative or do not sum to 1: take the "
            "softmax of logits, or the exponential of log-probabilities"
        )


def view_augmentations(
    images: Sequence[Image.Image],
    transform: Callable[[Image.Image], torch.Tensor],
    *,
    draws: int = 6,
    mean: Sequence[float],
    std: Sequence[float],
) -> Figure:
    """Draw each image, and beside it what `draws` calls of a training transform make of it.

    `transform` takes a PIL image and returns floats of shape (3, H, W), normalised with this `mean`
    and `std`, one number a channel. The draws come from torch's global generator.

    Raises ValueError if there is no image or no draw.

    >>> from dlconcepts.images import MEAN, STD, train_pipeline
    >>> cat = Image.new("RGB", (30, 20), "orange")
    >>> figure = view_augmentations([cat], train_pipeline(16), draws=3, mean=MEAN, std=STD)
    >>> [axes.get_title() for axes in figure.axes]
    ['image', 'draw 1', 'draw 2', 'draw 3']
    """
    if not images or draws < 1:
        raise ValueError(f"there are {len(images)} images and {draws} draws, but 1 is the least")
    figure = Figure(figsize=(1.5 * (draws + 1), 1.6 * len(images)), layout="constrained")
    rows = figure.subplots(len(images), draws + 1, squeeze=False)
    for row, image in zip(rows, images, strict=True):
        row[0].imshow(image.convert("RGB"))
        for axes in row[1:]:
            output = transform(image).detach().cpu().permute(1, 2, 0).double()
            pixels = output * torch.tensor(std).cpu() + torch.tensor(mean).cpu()
            axes.imshow(pixels.clamp(0, 1).numpy())
    for column, axes in enumerate(rows[0]):
        axes.set_title(f"draw {column}" if column else "image")
    for axes in rows.flat:
        axes.set_axis_off()
    return figure


def descent_paths(matrix: torch.Tensor, paths: Mapping[str, torch.Tensor]) -> Figure:
    """Draw where gradient descent leads on x'Ax / 2, over its lines of equal loss.

    `matrix` is A, (2, 2), symmetric with positive eigenvalues; `paths` are points (steps + 1, 2),
    as `training.gradient_descent` returns them, by the title of their panel.

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
