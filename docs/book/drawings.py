"""Draw what mistakes do, by running them next to the right technique.

`DRAWERS` maps a law to the function that draws it. Each build draws again, so a drawing shows what
the current code does.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plots import Panel, compare_runs, descent_paths
from torch import Tensor

from book.suite import Chapter, Law
from dlconcepts.autograd import history, inputs_of, operation
from dlconcepts.loading import normalize
from dlconcepts.networks import Network
from dlconcepts.support.datasets import fashion_mnist

FIGURES = Path(__file__).parents[1] / "figures"


@dataclass(frozen=True)
class Drawing:
    """A picture of a law (`subject` is empty) or of one of its mistakes."""

    figure: Figure
    alt: str
    caption: str
    subject: str = ""

    def save(self, path: Path) -> None:
        """Write the picture as SVG."""
        path.write_text(svg_of(self.figure), encoding="utf-8")


def svg_of(figure: Figure) -> str:
    """Return a figure as SVG on white, which is readable in dark mode, the same for each call."""
    out = io.StringIO()
    # Text stays text, and the ids do not depend on the run.
    with rc_context({"svg.hashsalt": "dlconcepts", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", facecolor="white", metadata={"Date": None})
    return out.getvalue()


def draw(chapter: Chapter, law: Law) -> Iterator[Drawing]:
    if law.name in DRAWERS:
        yield from DRAWERS[law.name](chapter, law)


@cache
def garments() -> tuple[Tensor, Tensor]:
    """Return the first images of the embedded sample, from -1 to 1, and their labels."""
    data = fashion_mnist(train=True)
    return normalize(data.images[:2000]), data.labels[:2000]


@cache
def losses(step: Callable[..., Any], seed: int) -> list[float]:
    """Return the loss over all images after each step of a network on batches of 50."""
    images, labels = garments()
    torch.manual_seed(seed)
    model = Network(784, [64], 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for batch in zip(images.split(50), labels.split(50), strict=True):
        step(model, F.cross_entropy, optimizer, *batch)
        with torch.no_grad():
            found.append(float(F.cross_entropy(model(images), labels)))
    return found


def loss_curves(chapter: Chapter, law: Law) -> Iterator[Drawing]:
    """Train with the right step, and with each wrong one that does not raise."""
    seeds = range(3)
    right = [losses(law.right.value, seed) for seed in seeds]
    for mistake in law.mistakes:
        try:
            wrong = [losses(mistake.value, seed) for seed in seeds]
        except RuntimeError:
            continue
        if np.allclose(wrong, right, rtol=0.01):
            continue  # this mistake does not show in the losses
        runs = {law.right.name: right, mistake.name: wrong}
        figure = compare_runs([Panel("Loss by step", runs)])
        (axes,) = figure.axes
        axes.set_xlabel("step")
        ends = [float(np.mean([run[-1] for run in curves])) for curves in (right, wrong)]
        yield Drawing(
            figure,
            f"Two loss curves over {len(right[0])} steps. The right step ends at a loss of "
            f"{ends[0]:.2f}, the mistake {mistake.title} at {ends[1]:.2f}.",
            "The loss on 2,000 images of Fashion-MNIST: mean and range of three seeds, SGD with a "
            "learning rate of 0.1.",
            mistake.name,
        )


def zigzag(chapter: Chapter, law: Law) -> Iterator[Drawing]:
    """Descend into a long valley with three learning rates."""
    valley = torch.tensor([[9.0, 0.0], [0.0, 1.0]])
    start = torch.tensor([1.5, 4.0])
    paths = {
        f"rate {rate:.2f}": law.right.value(
            lambda x: x @ valley @ x / 2, start, lr=rate, steps=steps
        )
        for rate, steps in ((0.05, 20), (0.2, 20), (0.23, 8))
    }
    yield Drawing(
        descent_paths(valley, paths),
        "Three paths of gradient descent over the contour lines of a long valley. At a rate of "
        "0.05 the path bends into the valley, at 0.2 it zigzags across, at 0.23 each step ends "
        "higher than the one before.",
        "The largest curvature of this valley is 9. At a rate above 2/9, about 0.22, the loss "
        "rises.",
    )


def emblem() -> np.ndarray:
    """Return a picture with a red, a green and a blue part, which makes a mix-up easy to see."""
    picture = np.full((24, 32, 3), 235, np.uint8)
    picture[4:20, 4:12] = (200, 40, 40)
    picture[4:20, 12:20] = (40, 150, 60)
    rows, columns = np.ogrid[:24, :32]
    picture[(rows - 12) ** 2 + (columns - 24) ** 2 < 40] = (40, 70, 200)
    return picture


def side_by_side(pictures: dict[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(2.6 * len(pictures), 2.4), layout="constrained")
    for axes, (title, pixels) in zip(
        figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True
    ):
        axes.imshow(pixels, cmap="gray")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    return figure


def images_as_tensors(chapter: Chapter, law: Law) -> Iterator[Drawing]:
    """Turn a picture into a tensor with each subject, and draw the tensor."""
    picture = emblem()
    right = law.right.value(picture).permute(1, 2, 0).numpy()
    for mistake in law.mistakes:
        found = mistake.value(picture).permute(1, 2, 0).numpy().clip(0, 1)
        if np.abs(found - right).max() < 0.1:
            continue  # too small to see
        yield Drawing(
            side_by_side({"right": right, mistake.name: found}),
            f"Left, a red bar, a green bar and a blue disc. Right, the same picture after the "
            f"mistake {mistake.title}.",
            "The channel-first tensor as an image. Values above 1 are drawn as 1.",
            mistake.name,
        )


def flattened_images(chapter: Chapter, law: Law) -> Iterator[Drawing]:
    """Flatten images with each subject, and reshape the rows into images again."""
    images = torch.from_numpy(emblem()).permute(2, 0, 1)[None].float().div(255).repeat(3, 1, 1, 1)
    size = images[0].numel()
    right = law.right.value(images, size)
    for mistake in law.mistakes:
        rows = mistake.value(images, size)
        if rows.shape != right.shape:
            continue  # the shape differs, so there is no picture to draw
        pictures = {
            title: found[0].reshape(images[0].shape).permute(1, 2, 0).numpy()
            for title, found in (("right", right), (mistake.name, rows))
        }
        yield Drawing(
            side_by_side(pictures),
            f"Left, a picture. Right, its pixels in another order after {mistake.title}.",
            "The flat row of an image, reshaped into channels, rows and columns.",
            mistake.name,
        )


def graph(result: Tensor) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the operations behind a result, and the edges from each one to its inputs."""
    nodes = history(result)
    place = {node: number for number, node in enumerate(nodes)}
    edges = [(place[n], place[source]) for n in nodes for source in inputs_of(n)]
    return [operation(node) for node in nodes], edges


def draw_graphs(results: dict[str, Tensor]) -> Figure:
    """Draw the operations behind each result from top to bottom."""
    figure = Figure(figsize=(2.5 * len(results), 2.8), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, (title, result) in zip(panels, results.items(), strict=True):
        names, edges = graph(result)
        for number, name in enumerate(names or ["no history"]):
            axes.text(0, -number, name, ha="center", va="center", bbox=BOX)
        for user, source in edges:
            bend = 0.0 if source == user + 1 else 0.5
            arrow = {"arrowstyle": "->", "connectionstyle": f"arc3,rad={bend}", "shrinkB": 12}
            axes.annotate("", (0, -source), (0, -user), arrowprops={**arrow, "shrinkA": 12})
        axes.set(xlim=(-1, 1), ylim=(-3.5, 0.5), title=title)
        axes.set_axis_off()
    return figure


BOX = {"boxstyle": "round", "facecolor": "#e5ecf9", "edgecolor": "#2b4c8c"}


def histories(chapter: Chapter, law: Law) -> Iterator[Drawing]:
    """Draw autograd's graph of one chain of operations, computed by each subject."""
    for mistake in law.mistakes:
        results = {}
        for subject in (law.right, mistake):
            x = torch.ones(2, requires_grad=True)
            results[subject.name] = subject.value(["Sin", "Tanh", "Neg"], x)
        found = {name: ", ".join(graph(result)[0]) for name, result in results.items()}
        yield Drawing(
            draw_graphs(results),
            "Two graphs of operations. "
            + " ".join(f"{name}: {text or 'no history'}." for name, text in found.items()),
            "The graph that autograd records for a sine, a hyperbolic tangent and a negation.",
            mistake.name,
        )


def class_scores(chapter: Chapter, law: Law) -> Iterator[Drawing]:
    """Draw one dim image and its probabilities with each subject."""
    images, _ = garments()
    names = ["ankle boot", "bag", "coat"]

    def drawn_by(view: Callable[..., Figure]) -> Figure:
        """Call with new arguments, since a mistake may change them."""
        image = (images[0].reshape(1, 28, 28) - 1) / 2
        return view(image, torch.tensor([0.1, 0.7, 0.2]), names)

    right = pixels_of(drawn_by(law.right.value))
    for mistake in law.mistakes:
        figure = drawn_by(mistake.value)
        if not np.array_equal(pixels_of(figure), right):
            yield Drawing(
                figure,
                f"An image next to three bars, as the mistake {mistake.title} draws them.",
                "A dim image. The probabilities are 0.1 for ankle boot, 0.7 for bag and 0.2 for "
                "coat.",
                mistake.name,
            )


def pixels_of(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


DRAWERS: dict[str, Callable[[Chapter, Law], Iterator[Drawing]]] = {
    "test_a_step_follows_its_own_batch_alone": loss_curves,
    "test_a_long_step_raises_the_loss_and_zigzags": zigzag,
    "test_bytes_become_floats_from_0_to_1_channel_first": images_as_tensors,
    "test_each_image_becomes_a_row": flattened_images,
    "test_grad_fn_leads_back_through_the_operations": histories,
    "test_the_figure_shows_the_image_and_a_bar_for_each_class": class_scores,
}
# By claim: pictures that take minutes to make, with `python docs/figures.py`.
RECORDED = {
    "validation.cross-entropy-expects-softmax": (
        "extra-softmax.png",
        "Two panels over 20 epochs. With a softmax before the cross-entropy, the training loss "
        "stays above its floor, and the held-out accuracy rises later.",
    ),
    "validation.overfitting": (
        "overfitting.png",
        "Two panels over 80 epochs. On true labels, the training accuracy passes the held-out "
        "accuracy. On random labels it rises too, but the held-out accuracy stays at chance.",
    ),
    "validation.adam-is-faster-not-better": (
        "adam-and-sgd.png",
        "Two panels over 60 epochs. Adam is ahead of SGD at first, but no better in the end.",
    ),
}
