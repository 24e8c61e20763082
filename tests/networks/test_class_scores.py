"""The probabilities of the classes can be drawn as bars next to the image.

>>> from dlconcepts.support.plots import view_classify
>>> image, logits = torch.ones(2, 2), torch.tensor([2.0, -1.0])
>>> figure = view_classify(image, logits.softmax(dim=0), ["cat", "dog"])
>>> [f"{bar.get_width():.2f}" for bar in figure.axes[1].patches]
['0.95', '0.05']
>>> view_classify(image, logits, ["cat", "dog"])  # doctest: +ELLIPSIS
Traceback (most recent call last):
    ...
ValueError: ...probabilities...

Notes: The forward pass gives the probabilities of the classes, which can be drawn beside the
    image (view_classify).
Verdict: holds
Truth: There is one bar for each class, as long as its probability. The image is shown as it was
    before it was normalised. Neither argument changes (the course's helper reshaped its image).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from dlconcepts.strategies import tensors
from dlconcepts.support.bitwise import bits
from dlconcepts.support.plots import view_classify
from dlconcepts.testing.laws import law
from tests.networks.common import WRITABLE


def log_probabilities_as_bars(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Draw log-probabilities, the output of a network that ends in LogSoftmax."""
    figure = view_classify(image, probabilities, classes, **options)
    for bar, value in zip(figure.axes[1].patches, probabilities.log().tolist(), strict=True):
        bar.set_width(max(value, -1e3))
    return figure


def reshapes_its_argument(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Reshape the caller's image in place, as the course's helper does."""
    return view_classify(image.resize_(image.shape[-2:]), probabilities, classes, **options)


def sorts_bars_but_not_labels(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Sort the bars by length but leave the class names in order."""
    return view_classify(image, probabilities.sort(descending=True).values, classes, **options)


def stretches_the_contrast(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Let Matplotlib draw the darkest pixel black and the brightest white."""
    figure = view_classify(image, probabilities, classes, **options)
    figure.axes[0].images[0].autoscale()
    return figure


def shows_the_normalised_image(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Show the normalised numbers that the network takes."""
    figure = view_classify(image, probabilities, classes, **options)
    (shown,) = figure.axes[0].images
    shown.set_data((shown.get_array() - options.get("mean", 0.5)) / options.get("std", 0.5))
    return figure


def normalises_the_scores_in_place(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Divide the caller's probabilities by the largest one, in place."""
    figure = view_classify(image, probabilities, classes, **options)
    probabilities /= probabilities.max()
    return figure


def has_one_colour(
    image: Tensor,
    probabilities: Tensor,
    classes: Sequence[str],
    *,
    label: int | None = None,
    **options: Any,
) -> Figure:
    """Use one colour for right and wrong predictions."""
    return view_classify(image, probabilities, classes, **options)


def numbers_the_prediction(
    image: Tensor, probabilities: Tensor, classes: Sequence[str], **options: Any
) -> Figure:
    """Write the number of the class in the title."""
    figure = view_classify(image, probabilities, classes, **options)
    figure.axes[0].set_title(f"predicted: {int(probabilities.argmax())}")
    return figure


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Tensor, NDArray[np.float64], dict[str, float]]:
    """Draw an image (uint8 or normalised), its pixels from 0 to 1, and the mean and std."""
    channels = draw(st.sampled_from([(), (1,), (3,)]))
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    image = draw(tensors((*channels, height, width), torch.uint8, layouts=WRITABLE))
    colours = image.numpy(force=True).reshape(-1, height, width) / 255
    shown = np.moveaxis(colours, 0, -1) if channels == (3,) else colours[0]
    if not draw(st.booleans()):
        return image, shown, {}
    mean, std = draw(st.sampled_from([(0.5, 0.5), (0.3, 0.2)]))
    return (image.double() / 255 - mean) / std, shown, {"mean": mean, "std": std}


@law(
    right=view_classify,
    wrong={
        log_probabilities_as_bars: "as long as its probability",
        reshapes_its_argument: "neither argument is changed",
        sorts_bars_but_not_labels: "as long as its probability",
        stretches_the_contrast: "0 is black and 1 is white",
        shows_the_normalised_image: "the image before it was normalised",
        normalises_the_scores_in_place: "neither argument is changed",
        numbers_the_prediction: "the class predicted",
        has_one_colour: "the colour shows",
    },
    share=0.2,
    because="each example draws a figure",
)
@given(
    picture=pictures(),
    weights=st.lists(st.integers(0, 9), min_size=2, max_size=4).filter(any),
    labelled=st.booleans(),
)
def test_the_figure_shows_the_image_and_a_bar_for_each_class(
    view: Callable[..., Figure],
    picture: tuple[Tensor, NDArray[np.float64], dict[str, float]],
    weights: list[int],
    labelled: bool,
) -> None:
    """The figure shows the image before normalising and one bar per class, its probability."""
    image, shown, statistics = picture
    probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    classes = ["cat", "dog", "owl", "ant"][: len(weights)]
    expected = dict(zip(classes, probabilities.tolist(), strict=True))
    before = (bits(image), image.shape, bits(probabilities), probabilities.shape)

    figure = view(image, probabilities, classes, label=0 if labelled else None, **statistics)

    after = (bits(image), image.shape, bits(probabilities), probabilities.shape)
    assert after == before, "neither argument is changed"
    left, right = figure.axes
    (drawn,) = left.images
    # What one sees, in colour; half a level of 256 is room for rounding in float32.
    seen = drawn.to_rgba(drawn.get_array())[..., :3]
    whole = shown if shown.ndim == 3 else shown[..., None]
    assert np.allclose(seen, whole, rtol=0, atol=0.5 / 255), (
        "the figure shows the image before it was normalised: 0 is black and 1 is white"
    )
    assert bars_of(right, classes) == pytest.approx(expected), (
        "each class has one bar, as long as its probability"
    )
    best = [name for name in classes if expected[name] == max(expected.values())]
    assert any(name in left.get_title() for name in best), "the title has the class predicted"
    if labelled and len(best) == 1:
        place = classes.index(best[0])
        options = [{**statistics, "label": k} for k in (place, (place + 1) % len(classes))]
        true, false = (colours(view(image, probabilities, classes, **each)) for each in options)
        assert true != false, "the colour shows whether the prediction is right"


def bars_of(axes: Axes, classes: Sequence[str]) -> dict[str, float]:
    """Return the length of each bar by the name at its middle, upright or to the right."""
    bars = axes.patches
    to_the_right = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in bars]
    upright = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bars]
    for axis, found in ((axes.yaxis, to_the_right), (axes.xaxis, upright)):
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        names = {round(place, 6): label.get_text() for place, label in ticks}
        lengths = {names.get(round(middle, 6), ""): length for middle, length in found}
        if len(bars) == len(classes) and set(lengths) == set(classes):
            return lengths
    return {}


def colours(figure: Figure) -> set[Any]:
    """Return the colours of the title and of the bars."""
    left, right = figure.axes
    return {to_hex(left.title.get_color()), *(to_hex(bar.get_facecolor()) for bar in right.patches)}


def accepts_anything(
    image: Tensor, scores: Tensor, classes: Sequence[str], label: int | None = None
) -> Figure:
    """Draw any scores, under as many class names as there are."""
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.imshow(image.numpy(force=True).reshape(image.shape[-1], -1))
    right.barh([str(name) for name, _ in zip(classes, scores.flatten(), strict=False)], 1)
    return figure


@st.composite
def invalid_calls(draw: st.DrawFn) -> tuple[tuple[Any, ...], int | None, str]:
    """Draw arguments of which one is invalid, a label, and the message of the error."""
    case = draw(st.sampled_from(["logits", "classes", "image", "label"]))
    image, fair, classes = torch.zeros(2, 2), torch.tensor([0.5, 0.5]), ["cat", "dog"]
    if case == "logits":
        # Logits, log-probabilities, a sum of 1.8, a sum of 0.4, and NaN.
        scores = draw(
            st.sampled_from([[2.0, -1.0], [-0.7, -0.7], [0.9, 0.9], [0.2, 0.2], [math.nan, 1.0]])
        )
        return (image, torch.tensor(scores), classes), None, "no probabilities"
    if case == "classes":
        names = draw(st.sampled_from([["cat"], ["cat", "dog", "owl"]]))
        return (image, fair, names), None, f"{len(names)} classes.*2"
    if case == "image":
        shape = draw(st.sampled_from([(4,), (2, 2, 2), (1, 1, 2, 2)]))
        return (torch.zeros(shape), fair, classes), None, "image has shape"
    label = draw(st.sampled_from([-1, 2]))
    return (image, fair, classes), label, f"label.*{label}"


@law(right=view_classify, wrong={accepts_anything: "DID NOT RAISE"})
@given(case=invalid_calls())
def test_only_valid_probabilities_are_drawn(
    view: Callable[..., Figure], case: tuple[tuple[Any, ...], int | None, str]
) -> None:
    """Logits, log-probabilities and names, images or labels that do not fit raise ValueError."""
    arguments, label, message = case

    with pytest.raises(ValueError, match=message):
        view(*arguments, label=label)
