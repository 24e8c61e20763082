"""Pictures: the loss by epoch, and an image beside its class probabilities.

Each function returns a new Matplotlib figure. None uses pyplot and its global state, so no display
is needed and nothing has to be closed.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from dlconcepts.support.runs import History

BLUE, PALE_BLUE, ORANGE, GREEN = "#2f6db2", "#b5cce6", "#d9730d", "#3a8a4d"


def loss_curves(history: History) -> Figure:
    """Draw the training loss by epoch, and the held-out loss and accuracy if there are any.

    Raises ValueError if the history is empty.

    >>> from dlconcepts.support.runs import Epoch
    >>> figure = loss_curves([Epoch(1, 0.9, 0.8, 0.7, 1.0), Epoch(2, 0.5, 0.6, 0.8, 1.0)])
    >>> [axes.get_title() for axes in figure.axes]
    ['Loss', 'Held-out accuracy']
    """
    if not history:
        raise ValueError("the history has no epoch to draw")
    validated = history[0].held_out_loss is not None
    figure, axes = row_of_axes(["Loss", "Held-out accuracy"] if validated else ["Loss"])
    columns = {name: [getattr(each, name) for each in history] for name in vars(history[0])}
    epochs = columns["epoch"]
    axes[0].plot(epochs, columns["train_loss"], "o-", color=BLUE, label="training")
    if validated:
        axes[0].plot(epochs, columns["held_out_loss"], "s-", color=ORANGE, label="held-out")
        axes[1].plot(epochs, columns["held_out_accuracy"], "s-", color=ORANGE)
        axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    for part in axes:
        part.set_xlim(0.5, len(history) + 0.5)
    return figure


def row_of_axes(titles: Sequence[str]) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with a row of axes over epochs, one for each title."""
    figure = Figure(figsize=(4.5 * len(titles), 3.5), layout="constrained")
    row = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, row


def view_classify(
    image: torch.Tensor,
    probabilities: torch.Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    mean: float = 0.5,
    std: float = 0.5,
) -> Figure:
    """Draw an image beside a bar for the probability of each class.

    The image has shape (H, W) or (1, H, W), grey, or (3, H, W), in colour: uint8, or floats
    normalised by `loading.normalize` with this `mean` and `std`. The `probabilities` have shape
    (K,) and sum to 1; `classes` are K names. If the true class `label` is given, the colour of the
    title or of the bars shows whether the prediction is right. No argument changes.

    The first axes have the image, 0 black and 1 white, and the class predicted in the title. The
    second have the bars, upright or to the right, with the names as tick labels at their middles.

    Raises ValueError for other shapes, a label out of range, and numbers that are not
    probabilities, such as logits; TypeError for an image of other integers.

    >>> figure = view_classify(torch.zeros(28, 28), torch.tensor([0.25, 0.75]), ["cat", "dog"])
    >>> figure.axes[0].get_title()
    'predicted: dog'
    """
    figure = Figure(figsize=(6.2, 3), layout="constrained")
    _draw(figure, _displayable(image, mean, std), probabilities, classes, label)
    return figure


def view_predictions(
    images: torch.Tensor, probabilities: torch.Tensor, classes: Sequence[str], labels: torch.Tensor
) -> Figure:
    """Draw `view_classify` for several images in one figure, two in a row.

    The images have shape (N, H, W) or (N, C, H, W), the probabilities (N, K), the labels (N,).
    """
    rows = (len(images) + 1) // 2
    figure = Figure(figsize=(12.4, 3 * rows), layout="constrained")
    parts = figure.subfigures(rows, 2, squeeze=False).flat
    for part, image, row, label in zip(parts, images, probabilities, labels, strict=False):
        _draw(part, _displayable(image, 0.5, 0.5), row, classes, int(label))
    return figure


def view_confusion(confusion: torch.Tensor, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix (K, K): a row for each true class, a column for each prediction.

    Each field has its count; the darker it is, the larger its share of the row.

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
        text, color = f"{confusion[row, column]}", "white" if share > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=color)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def _draw(
    figure: FigureBase,
    pixels: NDArray[np.float64],
    probabilities: torch.Tensor,
    classes: Sequence[str],
    label: int | None,
) -> None:
    shares, positions = probabilities.tolist(), range(len(classes))
    if probabilities.shape != (len(classes),):
        raise ValueError(
            f"{len(classes)} classes need {len(classes)} probabilities, "
            f"but these have shape {tuple(probabilities.shape)}"
        )
    if not (all(share >= 0 for share in shares) and abs(sum(shares) - 1) < 0.01):
        raise ValueError(
            "these are no probabilities, since they are negative or do not sum to 1: take the "
            "softmax of logits, or the exponential of log-probabilities"
        )
    if label is not None and label not in positions:
        raise ValueError(f"the label must be from 0 to {len(classes) - 1}, but is {label}")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    left.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    left.set_axis_off()
    predicted = int(probabilities.argmax())
    title, colour = f"predicted: {classes[predicted]}", BLUE
    if label is not None:
        title += f"\ntrue class: {classes[label]}"
        colour = GREEN if predicted == label else ORANGE
    left.set_title(title, color=colour)
    colours = [colour if position == predicted else PALE_BLUE for position in positions]
    bars = right.barh(positions, shares, color=colours)
    percentages = [f"{value:.1%}" if value >= 0.001 else "" for value in shares]
    right.bar_label(bars, percentages, padding=3)
    right.set_yticks(positions, classes)
    right.invert_yaxis()
    # Leave room for the number to the right of the longest bar.
    right.set(xlim=(0, 1.2), xticks=[0, 0.25, 0.5, 0.75, 1], xlabel="probability")
    right.spines[["top", "right"]].set_visible(False)


def _displayable(
    image: torch.Tensor, mean: float | Sequence[float], std: float | Sequence[float]
) -> NDArray[np.float64]:
    """Return a copy without the normalisation, with values from 0, black, to 1, white."""
    in_colour = image.ndim == 3 and len(image) == 3
    if not in_colour and (image.ndim < 2 or image.shape[:-2] not in ((), (1,))):
        raise ValueError(
            f"an image has shape (H, W), (1, H, W) or (3, H, W), not {tuple(image.shape)}"
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"an image is uint8 or floating point, not {image.dtype}")
    values = image.detach().cpu().double()
    pixels = (values.movedim(0, -1) if in_colour else values.reshape(image.shape[-2:])).numpy()
    return (
        pixels / 255 if image.dtype == torch.uint8 else pixels * np.asarray(std) + np.asarray(mean)
    )


def view_augmentations(
    images: Sequence[Image.Image],
    transform: Callable[[Image.Image], torch.Tensor],
    *,
    draws: int = 6,
    mean: Sequence[float],
    std: Sequence[float],
) -> Figure:
    """Draw each image beside the results of `draws` calls of a training transform.

    `transform` takes a PIL image and returns floats of shape (3, H, W), normalised with this `mean`
    and `std`, one number for each channel. It draws from torch's global generator.

    Raises ValueError if there is no image or no draw.

    >>> from dlconcepts.images import MEAN, STD, train_pipeline
    >>> cat = Image.new("RGB", (30, 20), "orange")
    >>> figure = view_augmentations([cat], train_pipeline(16), draws=3, mean=MEAN, std=STD)
    >>> [axes.get_title() for axes in figure.axes]
    ['image', 'draw 1', 'draw 2', 'draw 3']
    """
    if not images or draws < 1:
        raise ValueError(f"need at least 1 image and 1 draw, not {len(images)} and {draws}")
    figure = Figure(figsize=(1.5 * (draws + 1), 1.6 * len(images)), layout="constrained")
    rows = figure.subplots(len(images), draws + 1, squeeze=False)
    for row, image in zip(rows, images, strict=True):
        row[0].imshow(image.convert("RGB"))
        for axes in row[1:]:
            axes.imshow(_displayable(transform(image), mean, std).clip(0, 1))
    for column, axes in enumerate(rows[0]):
        axes.set_title(f"draw {column}" if column else "image")
    for axes in rows.flat:
        axes.set_axis_off()
    return figure
