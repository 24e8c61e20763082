"""Pictures of the claims: each draws what PyTorch computes while the book is built.

Blue cells are positive and orange ones negative, the darker the larger. A red outline marks what
differs or has changed.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dlconcepts.support.plots import BLUE, GREEN, ORANGE
from dlconcepts.testing.claims import all_claims
from dlconcepts.training import gradient_descent

WIDE, HIGH, GAP = 62, 30, 14  # pixels of a cell, and below a grid
RED = "#a01414"
Values = Tensor | np.ndarray | Sequence[Any]


@dataclass(frozen=True)
class Picture:
    """A picture of a claim as SVG, with what it shows."""

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Grid:
    """Values to draw as cells below a label, with some of them marked."""

    label: str
    values: Values
    marked: Values | None = None


DRAWERS: dict[str, list[tuple[Callable[[], str], str, str]]] = {}


def of(claim: str, alt: str, caption: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register a function that draws a picture of a claim."""

    def register(draw: Callable[[], str]) -> Callable[[], str]:
        DRAWERS.setdefault(claim, []).append((draw, alt, caption))
        return draw

    return register


@cache
def pictures_of() -> Mapping[str, list[Picture]]:
    """Draw the pictures, by claim; a claim without one has an empty list."""
    found: dict[str, list[Picture]] = {claim.id: [] for claim in all_claims()}
    for claim, drawers in DRAWERS.items():
        for draw, alt, caption in drawers:
            torch.manual_seed(0)
            found[claim].append(Picture(draw(), alt, caption))
    return found


def rows_of(values: Values) -> list[list[Any]]:
    """Return values as rows of a grid.

    >>> rows_of(torch.arange(3)), rows_of(["a"])
    ([[0, 1, 2]], [['a']])
    """
    found: Any = values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)
    found = found if isinstance(found, list) else [found]
    return found if found and isinstance(found[0], list) else [found]


def text_of(value: Any) -> str:
    """Return a value as a short text.

    >>> text_of(2.0), text_of(0.25), text_of(True), text_of("cat")
    ('2', '0.25', 'True', 'cat')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def colour(value: Any, largest: float) -> str:
    """Return the colour of a cell: white for zero and text, blue above, orange below."""
    if isinstance(value, str | bool) or not math.isfinite(value) or value == 0:
        return "#ffffff"
    share = 0.25 + 0.45 * abs(value) / largest
    full = (47, 109, 178) if value > 0 else (217, 115, 13)
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in full)


def grids(*parts: Grid) -> str:
    """Draw grids of values below each other as SVG."""
    lines, y, right = [], 6, 0
    for part in parts:
        rows = rows_of(part.values)
        marks = rows_of(part.marked) if part.marked is not None else []
        numbers = [abs(x) for row in rows for x in row if isinstance(x, int | float)]
        largest = max([x for x in numbers if math.isfinite(x)], default=0) or 1
        longest = max((len(text_of(x)) for row in rows for x in row), default=0)
        wide = max(WIDE if longest > 3 else 40, 9 * longest + 14)
        lines.append(f'<text x="6" y="{y + 13}" font-weight="bold">{escape(part.label)}</text>')
        y += 20
        outlined = []
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                x, top = 6 + j * wide, y + i * HIGH
                lines.append(
                    f'<rect x="{x}" y="{top}" width="{wide}" height="{HIGH}" '
                    f'fill="{colour(value, largest)}" stroke="#7b8591"/>'
                    f'<text x="{x + wide / 2:g}" y="{top + 20}" text-anchor="middle">'
                    f"{escape(text_of(value))}</text>"
                )
                if marks and marks[i][j]:
                    outlined.append(
                        f'<rect x="{x + 1.5}" y="{top + 1.5}" width="{wide - 3}" '
                        f'height="{HIGH - 3}" fill="none" stroke="{RED}" stroke-width="3"/>'
                    )
            right = max(right, 12 + len(row) * wide)
        lines += outlined
        right = max(right, 16 + 8 * len(part.label))
        y += len(rows) * HIGH + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {y}" width="{right}" '
        f'height="{y}" font-family="DejaVu Sans, Verdana, sans-serif" font-size="13" '
        'fill="#1b1f24"><rect width="100%" height="100%" fill="#ffffff"/>'
        f"{''.join(lines)}</svg>\n"
    )


def differs(label: str, values: Tensor, before: Tensor) -> Grid:
    """Return a grid that marks the elements that are not those of another tensor."""
    return Grid(label, values, values.ne(before))


def lines(curves: Mapping[str, Values], across: str, up: str, x: Values | None = None) -> str:
    """Draw curves over the same x as SVG."""
    from book.drawings import svg_of

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    styles = zip((BLUE, ORANGE, GREEN, "0.35"), ("-", "--", "-.", ":"), strict=True)
    for (name, values), (color, style) in zip(curves.items(), styles, strict=False):
        places = np.arange(len(values)) if x is None else np.asarray(x)
        axes.plot(places, np.asarray(values), style, color=color, label=name, linewidth=2)
    axes.set(xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return svg_of(figure)


def photographs(pictures: Mapping[str, Tensor]) -> str:
    """Draw images of three channels side by side as SVG."""
    from book.drawings import side_by_side, svg_of

    shown = {name: image.permute(1, 2, 0).clamp(0, 1).numpy() for name, image in pictures.items()}
    return svg_of(side_by_side(shown))


def emblem() -> Tensor:
    from book import drawings

    return torch.from_numpy(drawings.emblem()).permute(2, 0, 1).float() / 255


# ------------------------------------------------------------------------------- tensors


@of(
    "tensors.view-is-a-new-tensor",
    "The memory 100, 1, 2, 3, 4, 5 in one row, and the view of it as two rows of three. The first "
    "element is 100 in both and is marked.",
    "A write of 100 through the view. Both tensors walk over the same six elements.",
)
def _() -> str:
    x = torch.arange(6)
    before, view = x.clone(), x.view(2, 3)
    view[0, 0] = 100
    return grids(differs("x", x, before), differs("x.view(2, 3)", view, before.view(2, 3)))


@of(
    "tensors.resize-in-place",
    "A tensor of two rows and three columns, its transpose, the transpose reshaped to two rows, "
    "and the transpose after resize_. The last holds other values where they are marked.",
    "reshape follows the elements of the transpose; resize_ follows the memory.",
)
def _() -> str:
    x = torch.arange(6).reshape(2, 3)
    reshaped, resized = x.t().reshape(2, 3), x.t().resize_(2, 3)
    return grids(
        Grid("x", x),
        Grid("x.t()", x.t()),
        Grid("x.t().reshape(2, 3)", reshaped),
        differs("x.t().resize_(2, 3)", resized, reshaped),
    )


@of(
    "tensors.numpy-shares-memory",
    "An array and the tensor from_numpy makes of it. Both show 9 at the end, marked. A tensor made "
    "by torch.tensor still shows 3.",
    "array[2] = 9 after both tensors were made.",
)
def _() -> str:
    array = np.array([1, 2, 3])
    shared, copied = torch.from_numpy(array), torch.tensor(array)
    before = copied.clone()
    array[2] = 9
    return grids(
        Grid("array", array, array != before.numpy()),
        differs("torch.from_numpy(array)", shared, before),
        differs("torch.tensor(array)", copied, before),
    )


@of(
    "tensors.underscore-mutates",
    "x is 1, 2, 3 before and 11, 12, 13 after add_, every element marked; x.add leaves it.",
    "add returns a new tensor; add_ writes into its own.",
)
def _() -> str:
    x = torch.tensor([1, 2, 3])
    before, added = x.clone(), x.add(10)
    kept = x.clone()
    x.add_(10)
    return grids(
        Grid("x.add(10)", added),
        differs("x after x.add(10)", kept, before),
        differs("x after x.add_(10)", x, before),
    )


@of(
    "tensors.type-returns-a-new-tensor",
    "The values 1.5, -1.5 and 300 as int32, where the first two become 1 and -1, marked, and the "
    "float32 original unchanged.",
    "type cuts towards zero, and the original keeps its dtype.",
)
def _() -> str:
    x = torch.tensor([1.5, -1.5, 300.0])
    cut = x.type(torch.int32)
    return grids(differs("x.type(torch.int32)", cut, x), Grid("x", x))


# ------------------------------------------------------------------------------- networks


@of(
    "networks.loader-cuts-batches",
    "Ten examples in batches of four, four and two; the last batch is marked.",
    "DataLoader(range(10), batch_size=4)",
)
def _() -> str:
    batches = list(DataLoader(range(10), batch_size=4))  # type: ignore[arg-type]
    return grids(
        *(
            Grid(f"batch {n}", batch, torch.full(batch.shape, len(batch) < 4))
            for n, batch in enumerate(batches)
        )
    )


@of(
    "networks.shuffle-reorders",
    "The numbers 0 to 7 in order, and in two different orders for two epochs.",
    "Each epoch of one shuffled loader, seed 0.",
)
def _() -> str:
    loader = DataLoader(range(8), batch_size=8, shuffle=True)  # type: ignore[arg-type]
    (one,), (two,) = loader, loader
    return grids(Grid("the data", range(8)), Grid("epoch 1", one), differs("epoch 2", two, one))


@of(
    "networks.relu",
    "Two curves from -3 to 3: ReLU is 0 up to zero and then rises with slope 1; its gradient steps "
    "from 0 to 1.",
    "F.relu and the gradient that autograd computes for it.",
)
def _() -> str:
    x = torch.linspace(-3, 3, 121, requires_grad=True)
    y = F.relu(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return lines({"relu(x)": y.detach(), "its gradient": slope}, "x", "value", x.detach())


@of(
    "networks.softmax-is-a-distribution",
    "The scores 1, 2, 4 and -1 and their softmax, which is largest under 4 and sums to 1.",
    "A row of scores and its softmax.",
)
def _() -> str:
    scores = torch.tensor([1.0, 2.0, 4.0, -1.0])
    return grids(Grid("scores", scores), Grid("softmax", scores.softmax(0)))


@of(
    "networks.dimension-of-the-classes",
    "Scores of shape (2, 1, 3). Softmax over dim 1 gives 1 everywhere, marked; over the last "
    "dimension, each row sums to 1.",
    "Dimension 1 has a single element, and the softmax of one element is 1.",
)
def _() -> str:
    scores = torch.tensor([[[1.0, 2.0, 3.0]], [[2.0, 2.0, 5.0]]])
    right, wrong = scores.softmax(-1), scores.softmax(1)
    return grids(
        Grid("scores of shape (2, 1, 3)", scores[:, 0]),
        Grid("softmax(dim=-1)", right[:, 0]),
        differs("softmax(dim=1)", wrong[:, 0], right[:, 0]),
    )


@of(
    "networks.flatten-images",
    "Two images of two rows and two columns, and the two rows of four values they become.",
    "Flattening keeps the number of images, here 2.",
)
def _() -> str:
    images = torch.arange(8).reshape(2, 2, 2)
    return grids(
        Grid("image 0", images[0]),
        Grid("image 1", images[1]),
        Grid("images.flatten(start_dim=1)", images.flatten(1)),
    )


@of(
    "networks.normalize-to-minus-one-one",
    "The values 0 to 1 become -1 to 1 when normalized once, and -3 to 1 when normalized twice; "
    "what differs is marked.",
    "Normalize with mean 0.5 and standard deviation 0.5, once and twice.",
)
def _() -> str:
    normalize = v2.Normalize([0.5], [0.5])
    x = torch.tensor([[[0.0, 0.25, 0.5, 1.0]]])
    once, twice = normalize(x), normalize(normalize(x))
    return grids(Grid("x", x[0]), Grid("once", once[0]), differs("twice", twice[0], once[0]))


# ------------------------------------------------------------------------------- autograd


@of(
    "autograd.gradients-accumulate",
    "The gradient of a weight after one, two and three backward calls: 2, 4, 6. With zero_grad "
    "before each call it stays at 2.",
    "loss = 2 * w, three times backward.",
)
def _() -> str:
    found: dict[str, list[float]] = {"without zero_grad": [], "with zero_grad": []}
    for name, grads in found.items():
        w = torch.tensor(1.0, requires_grad=True)
        for _ in range(3):
            if name == "with zero_grad":
                w.grad = None
            (2 * w).backward()
            assert w.grad is not None
            grads.append(w.grad.item())
    wrong, right = (torch.tensor(grads) for grads in found.values())
    return grids(Grid("with zero_grad", right), differs("without zero_grad", wrong, right))


@of(
    "autograd.micro-batches-add-up-to-a-batch",
    "Gradients of three examples in micro-batches of two and one. Weighted by size they add up to "
    "2, the batch's; the plain mean of the two is 2.25, marked.",
    "The loss is the mean of w * x for x = 1, 2, 3.",
)
def _() -> str:
    x = torch.tensor([1.0, 2.0, 3.0])

    def grad(part: Tensor) -> Tensor:
        w = torch.tensor(1.0, requires_grad=True)
        (w * part).mean().backward()
        assert w.grad is not None
        return w.grad

    parts = x.split(2)
    weighted = sum(grad(part) * len(part) / 3 for part in parts)
    plain = sum(grad(part) / 2 for part in parts)
    whole = grad(x)
    return grids(
        Grid("the batch", whole[None]),
        differs("micro-batches, weighted", weighted[None], whole[None]),  # type: ignore[index]
        differs("micro-batches, plain mean", plain[None], whole[None]),  # type: ignore[index]
    )


@of(
    "autograd.backward-computes-gradients",
    "The curve of x squared from -2 to 2, and its gradient, the line 2x.",
    "x ** 2 and the gradient that backward leaves in x.grad.",
)
def _() -> str:
    x = torch.linspace(-2, 2, 81, requires_grad=True)
    y = x**2
    y.sum().backward()
    assert x.grad is not None
    return lines({"x ** 2": y.detach(), "x.grad": x.grad}, "x", "value", x.detach())


@of(
    "autograd.in-place-writes-break-backward",
    "The gradient of x * w for x should be w = 3, 3. After w is written through .data, it is 30, "
    "30, marked.",
    "Autograd does not see a write through .data, so it uses the new values.",
)
def _() -> str:
    def grad(write: bool) -> Tensor:
        x, w = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 3.0])
        y = x * w
        if write:
            w.data.mul_(10)
        y.sum().backward()
        assert x.grad is not None
        return x.grad

    right = grad(write=False)
    return grids(
        Grid("x.grad", right),
        differs("x.grad after w.data.mul_(10)", grad(write=True), right),
    )


@of(
    "autograd.chain-rule",
    "sin(x ** 2) and its gradient 2x cos(x ** 2) from 0 to 3, which oscillates more and more.",
    "autograd multiplies cos(x ** 2), the outer derivative, by 2x, the inner one.",
)
def _() -> str:
    x = torch.linspace(0, 3, 200, requires_grad=True)
    y = torch.sin(x**2)
    y.sum().backward()
    assert x.grad is not None
    return lines({"sin(x ** 2)": y.detach(), "x.grad": x.grad}, "x", "value", x.detach())


# ------------------------------------------------------------------------------- training


def descent(lr: float) -> list[float]:
    """Return the loss x ** 2 along eight steps from x = 1."""
    path = gradient_descent(lambda x: (x**2).sum(), torch.tensor([1.0]), lr=lr, steps=8)
    return [float((point**2).sum()) for point in path]


def with_momentum(x: Tensor) -> SGD:
    return SGD([x], lr=0.02, momentum=0.9)


def kept(step: int, x: Tensor, optimizer: SGD) -> SGD:
    return optimizer


def rolled(steps: int, change: Callable[[int, Tensor, SGD], SGD] = kept) -> list[float]:
    """Return x at each step of SGD on x ** 2; `change` gives the optimizer of a step."""
    x = torch.tensor([1.0], requires_grad=True)
    optimizer, found = with_momentum(x), [1.0]
    for step in range(steps):
        optimizer = change(step, x, optimizer)
        optimizer.zero_grad()
        (x**2).sum().backward()
        optimizer.step()
        found.append(x.item())
    return found


@of(
    "training.loss-goes-down",
    "The loss over eight steps. At rates of 0.1 and 0.4 it falls, at 1.05 it rises with each step.",
    "Gradient descent on x ** 2 from x = 1.",
)
def _() -> str:
    return lines({f"lr {lr}": descent(lr) for lr in (0.1, 0.4, 1.05)}, "step", "loss")


@of(
    "training.running-loss",
    "Three batches of losses 1, 1 and 4 with sizes 4, 4 and 1. The weighted mean is 1.333; the "
    "plain mean of the batches is 2, marked.",
    "The last batch is smaller, so its loss must count less.",
)
def _() -> str:
    losses, sizes = torch.tensor([1.0, 1.0, 4.0]), torch.tensor([4.0, 4.0, 1.0])
    right = ((losses * sizes).sum() / sizes.sum())[None]
    return grids(
        Grid("loss of each batch", losses),
        Grid("size of each batch", sizes),
        Grid("weighted by size", right),
        differs("plain mean", losses.mean()[None], right),
    )


@of(
    "training.optimizer-step-applies-the-gradient",
    "Two parameters with gradients. Only the one given to the optimizer changes, marked.",
    "One step of SGD with a learning rate of 0.1; both gradients are 1, 2.",
)
def _() -> str:
    given, other = (torch.tensor([1.0, 1.0], requires_grad=True) for _ in range(2))
    for each in (given, other):
        each.grad = torch.tensor([1.0, 2.0])
    SGD([given], lr=0.1).step()
    return grids(
        differs("given to the optimizer", given.detach(), torch.ones(2)),
        differs("not given", other.detach(), torch.ones(2)),
    )


@of(
    "training.same-seed-same-run",
    "Three rows of random numbers. Rows with seed 0 agree; the row with seed 1 differs everywhere.",
    "torch.rand(4) after torch.manual_seed.",
)
def _() -> str:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.rand(4)

    first = drawn(0)
    return grids(
        Grid("seed 0", first), differs("seed 0 again", drawn(0), first),
        differs("seed 1", drawn(1), first),
    )  # fmt: skip


@of(
    "training.optimizer-is-built-once",
    "Distance from the minimum over 20 steps. One SGD with momentum gets there and swings past; "
    "one that is rebuilt at each step has no momentum and is slower.",
    "SGD with lr=0.02 and momentum=0.9 on x ** 2, built once or at each step.",
)
def _() -> str:
    def rebuilt(step: int, x: Tensor, optimizer: SGD) -> SGD:
        return with_momentum(x)

    curves = {"built once": rolled(20), "built at each step": rolled(20, rebuilt)}
    return lines(curves, "step", "x")


# ------------------------------------------------------------------------------- validation


@of(
    "validation.cross-entropy-expects-softmax",
    "Softmax of the scores 0 to 6 and 0: it rises to almost 1. The softmax of the softmax never "
    "passes 0.73.",
    "Probability of the first of two classes, by its score; the other's score is 0.",
)
def _() -> str:
    first = torch.linspace(-6, 6, 121)
    once = torch.stack([first, torch.zeros_like(first)], 1).softmax(1)
    curves = {"softmax": once[:, 0], "softmax of softmax": once.softmax(1)[:, 0]}
    return lines(curves, "score", "probability", first)


@of(
    "validation.log-softmax-is-stable",
    "Scores 0, 50 and 200. Their log_softmax is -200, -150, 0; the log of the softmax is -inf "
    "where it is marked.",
    "float32: the softmax of the smallest score is 0, and its logarithm -inf.",
)
def _() -> str:
    scores = torch.tensor([0.0, 50.0, 200.0])
    right = scores.log_softmax(0)
    wrong = scores.softmax(0).log()
    return grids(
        Grid("scores", scores), Grid("log_softmax", right),
        Grid("softmax(0).log()", wrong, wrong.isinf()),
    )  # fmt: skip


@of(
    "validation.equality-tensor",
    "Predictions of shape (3, 1) compared with three labels give a table of nine; with shape (3,) "
    "they give three values.",
    "(3, 1) == (3,) broadcasts to (3, 3).",
)
def _() -> str:
    predictions, labels = torch.tensor([[0], [2], [1]]), torch.tensor([0, 2, 2])
    wide = predictions == labels
    return grids(
        Grid("labels", labels),
        Grid("predictions.squeeze(1) == labels", (predictions.squeeze(1) == labels)),
        Grid("predictions == labels", wide, torch.ones_like(wide)),
    )


@of(
    "validation.dropout-is-for-training",
    "Eight ones. In training, dropout zeroes some, marked, and doubles the others; in eval mode "
    "all stay 1.",
    "nn.Dropout(0.5) on ones, seed 0.",
)
def _() -> str:
    dropout, ones = nn.Dropout(0.5), torch.ones(8)
    trained = dropout(ones)
    return grids(Grid("train()", trained, trained == 0), Grid("eval()", dropout.eval()(ones)))


@of(
    "validation.eval-and-train-modes",
    "BatchNorm on the inputs 1, 2, 3. In training the output is -1.22, 0, 1.22; in eval mode of a "
    "new layer it is 1, 2, 3.",
    "Training uses the statistics of the batch, eval mode the running ones.",
)
def _() -> str:
    norm, x = nn.BatchNorm1d(1), torch.tensor([[1.0], [2.0], [3.0]])
    evaluated = copy.deepcopy(norm).eval()(x).detach()
    trained = norm(x).detach()
    return grids(
        Grid("x", x.t()), Grid("train()", trained.t()),
        differs("eval()", evaluated.t(), trained.t()),
    )  # fmt: skip


# ------------------------------------------------------------------------------- checkpoints


@of(
    "checkpoints.state-dict-is-not-a-copy",
    "A kept state_dict shows the new weights 5, 5, marked. The deep copy shows 1, 1.",
    "model.weight += 4 after both were taken.",
)
def _() -> str:
    model = nn.BatchNorm1d(2)
    kept, copied = model.state_dict(), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.weight += 4
    return grids(
        differs("model.state_dict(), kept", kept["weight"], torch.ones(2)),
        differs("its deep copy", copied["weight"], torch.ones(2)),
    )


@of(
    "checkpoints.state-dict-holds-the-parameters",
    "A table: weight and bias are parameters; running_mean, running_var and num_batches_tracked "
    "are buffers.",
    "The state_dict of nn.BatchNorm1d(2). Buffers are marked.",
)
def _() -> str:
    model = nn.BatchNorm1d(2)
    own = dict(model.named_parameters())
    rows = [
        [name, "parameter" if name in own else "buffer", str(tuple(value.shape))]
        for name, value in model.state_dict().items()
    ]
    return grids(
        Grid("model.state_dict()", rows, [[False, row[1] == "buffer", False] for row in rows])
    )


@of(
    "checkpoints.shape-mismatch-raises",
    "Of a saved weight 7, 7 and a bias of a wrong shape, load_state_dict raises but has already "
    "copied the weight, which is marked.",
    "nn.LayerNorm(2) after a load that raised.",
)
def _() -> str:
    model = nn.LayerNorm(2)
    saved = {"weight": torch.full((2,), 7.0), "bias": torch.full((3,), 7.0)}
    try:
        model.load_state_dict(saved)
    except RuntimeError:
        pass
    else:
        raise ValueError("load_state_dict took a bias of another shape; change this picture")
    return grids(
        differs("weight", model.weight.detach(), torch.ones(2)),
        differs("bias", model.bias.detach(), torch.zeros(2)),
    )


@of(
    "checkpoints.save-and-load",
    "A table of the bytes of a file by dtype: float32 needs almost twice as many as float16, and "
    "float64 almost twice as many as float32.",
    "Bytes that torch.save writes for 1,000 random weights.",
)
def _() -> str:
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (torch.float16, torch.float32, torch.float64):
            file = Path(folder, "weights.pt")
            torch.save({"weight": torch.rand(1000).to(dtype)}, file)
            sizes.append([str(dtype).removeprefix("torch."), round(file.stat().st_size, -2)])
    return grids(Grid("dtype, bytes of the file (rounded)", sizes))


@of(
    "checkpoints.resume",
    "Distance from the minimum over 24 steps. A run resumed at step 12 with its optimizer follows "
    "the uninterrupted one exactly; with a new optimizer it departs.",
    "SGD with momentum on x ** 2. The momentum is lost with the optimizer's state.",
)
def _() -> str:
    def stop(restores: bool, step: int, x: Tensor, optimizer: SGD) -> SGD:
        if step != 12:
            return optimizer
        new = with_momentum(x)
        if restores:
            new.load_state_dict(optimizer.state_dict())
        return new

    curves = {
        "not stopped": rolled(24),
        "optimizer restored": rolled(24, partial(stop, True)),
        "new optimizer": rolled(24, partial(stop, False)),
    }
    return lines(curves, "step", "x")


# ------------------------------------------------------------------------------- images


@of(
    "images.folders-are-classes",
    "The folders cat and dog get the indices 0 and 1. With a hidden folder .cache, it is class 0, "
    "and cat and dog become 1 and 2, marked.",
    "class_to_idx of torchvision's ImageFolder, without and with a hidden folder.",
)
def _() -> str:
    def found(*names: str) -> dict[str, int]:
        with tempfile.TemporaryDirectory() as root:
            for name in names:
                Path(root, name).mkdir()
                Path(root, name, "1.png").touch()
            return dict(ImageFolder(root).class_to_idx)

    plain, hidden = found("dog", "cat"), found("dog", "cat", ".cache")
    return grids(
        Grid("cat, dog", list(map(list, plain.items()))),
        Grid(
            "with .cache",
            list(map(list, hidden.items())),
            [[False, number != plain.get(name)] for name, number in hidden.items()],
        ),
    )


@of(
    "images.augmentation-distorts-training-images",
    "A picture with a red bar, a green bar and a blue disc, and three versions of it, cropped, "
    "turned and mirrored.",
    "RandomRotation(30), RandomResizedCrop and RandomHorizontalFlip on one picture, seed 0.",
)
def _() -> str:
    image = emblem()
    distort = v2.Compose(
        [
            v2.RandomRotation(30, fill=1.0),
            v2.RandomResizedCrop((24, 32), scale=(0.5, 1.0)),
            v2.RandomHorizontalFlip(),
        ]
    )
    return photographs({"original": image, **{f"read {n}": distort(image) for n in (1, 2, 3)}})


@of(
    "images.pipeline-of-transforms",
    "A picture resized and then cropped keeps its middle; cropped first and then resized, it shows "
    "a smaller part, larger.",
    "Resize(16) and CenterCrop(12), in both orders, on a picture of 24 by 32 pixels.",
)
def _() -> str:
    image = emblem()
    resize, crop = v2.Resize(16), v2.CenterCrop(12)
    return photographs(
        {
            "original": image,
            "resize, crop": crop(resize(image)),
            "crop, resize": resize(crop(image)),
        }
    )


@of(
    "images.no-augmentation-in-validation",
    "One picture read twice through the evaluation pipeline: both results are the same.",
    "Resize(20) and CenterCrop(16) draw nothing at random.",
)
def _() -> str:
    image, pipeline = emblem(), v2.Compose([v2.Resize(20), v2.CenterCrop(16)])
    return photographs({"original": image, "read 1": pipeline(image), "read 2": pipeline(image)})


@of(
    "images.same-normalisation-for-both",
    "Three values normalised with the training statistics, and with the validation images' own; "
    "the results differ in every element.",
    "One image, normalised with two pairs of mean and standard deviation.",
)
def _() -> str:
    training, held_out = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.5, 0.75, 1.0])
    right = (held_out - training.mean()) / training.std()
    wrong = (held_out - held_out.mean()) / held_out.std()
    return grids(
        Grid("a held-out image", held_out), Grid("training statistics", right),
        differs("its own statistics", wrong, right),
    )  # fmt: skip


# ------------------------------------------------------------------------------- transfer


@of(
    "transfer.frozen-parameters-stay-fixed",
    "A frozen weight of 1 becomes 0.9, 0.8, 0.7 over three steps, marked, because its old gradient "
    "stays. With the gradient set to None it stays at 1.",
    "SGD with lr=0.1. requires_grad was set to False after a backward.",
)
def _() -> str:
    def run(clear: bool) -> Tensor:
        weight = nn.Parameter(torch.tensor([1.0]))
        weight.sum().backward()
        weight.requires_grad = False
        if clear:
            weight.grad = None
        optimizer, found = SGD([weight], lr=0.1), []
        for _ in range(3):
            optimizer.step()
            found.append(weight.item())
        return torch.tensor(found)

    return grids(
        differs("frozen, grad=None", run(clear=True), torch.ones(3)),
        differs("frozen, with its old gradient", run(clear=False), torch.ones(3)),
    )


@of(
    "transfer.frozen-parameters-stay-fixed",
    "The running mean of a frozen BatchNorm over 20 batches: in train mode it moves from 0 towards "
    "2, in eval mode it stays at 0.",
    "running_mean of nn.BatchNorm1d(1) without gradients, on batches with a mean of 2.",
)
def _() -> str:
    def run(mode: bool) -> list[float]:
        norm = nn.BatchNorm1d(1).requires_grad_(False).train(mode)
        found = [0.0]
        for _ in range(20):
            norm(torch.tensor([[1.0], [3.0]]))
            assert norm.running_mean is not None
            found.append(norm.running_mean.item())
        return found

    return lines({"train()": run(True), "eval()": run(False)}, "batch", "running_mean")


@of(
    "transfer.freeze",
    "A table of parameters: those of the features do not require a gradient, those of the head do.",
    "requires_grad of each parameter. What still trains is marked.",
)
def _() -> str:
    model = nn.Sequential()
    model.add_module("features", nn.Linear(4, 3))
    model.add_module("head", nn.Linear(3, 2))
    model.get_submodule("features").requires_grad_(False)
    rows = [[name, str(each.requires_grad)] for name, each in model.named_parameters()]
    return grids(Grid("requires_grad", rows, [[False, row[1] == "True"] for row in rows]))


@of(
    "transfer.new-head",
    "Scores of a head, their log-softmax, and the log-softmax of that: the second changes nothing, "
    "so no element is marked.",
    "log_softmax of log_softmax is the same, so CrossEntropyLoss accepts either head.",
)
def _() -> str:
    scores = torch.tensor([1.0, 3.0, 0.0])
    once = scores.log_softmax(0)
    twice = once.log_softmax(0)
    return grids(
        Grid("logits", scores), Grid("log_softmax", once),
        Grid("log_softmax twice", twice, ~torch.isclose(once, twice)),
    )  # fmt: skip


@of(
    "transfer.pretrained-models-end-in-scores",
    "An untrained network's output has negative values and does not sum to 1; its softmax is "
    "positive and does.",
    "The output of a linear layer, as the last layer of torchvision's classifiers, seed 0.",
)
def _() -> str:
    scores = nn.Linear(3, 4)(torch.tensor([1.0, 2.0, 3.0])).detach()
    return grids(
        Grid("model(x)", scores), Grid("its sum", scores.sum()[None]),
        Grid("softmax", scores.softmax(0)), Grid("its sum", scores.softmax(0).sum()[None]),
    )  # fmt: skip


# ------------------------------------------------------------------------------- devices


@of(
    "devices.same-results",
    "The error of a sum of n numbers in units of the last place, for float32 sums in order and in "
    "pairs. Summing in order has the larger error as n grows.",
    "float32 sums of random numbers against float64, seed 0.",
)
def _() -> str:
    sizes = [2**n for n in range(4, 15)]
    in_order, in_pairs = [], []
    for n in sizes:
        x = np.random.default_rng(n).random(n, dtype=np.float32)
        exact = x.astype(np.float64).sum()
        unit = float(np.spacing(np.float32(exact)))
        in_order.append(abs(float(np.cumsum(x)[-1]) - exact) / unit)
        in_pairs.append(abs(float(x.sum()) - exact) / unit)
    curves = {"in order": in_order, "in pairs": in_pairs}
    return lines(curves, "numbers summed", "error in ulp", sizes)


@of(
    "devices.same-results",
    "The numbers 100000000, 1 and -100000000. In order they sum to 0, marked; with the first and "
    "last added first, to 1.",
    "float32 addition depends on the order.",
)
def _() -> str:
    a, b, c = torch.tensor([1e8, 1.0, -1e8])
    right, wrong = ((a + c) + b)[None], ((a + b) + c)[None]
    return grids(
        Grid("a, b, c", torch.stack([a, b, c])), Grid("(a + c) + b", right),
        differs("(a + b) + c", wrong, right),
    )  # fmt: skip


@of(
    "devices.model-to-device",
    "A table: a tensor's to returns another object and leaves the original; a module's to returns "
    "the module itself, with its weights converted.",
    "to(torch.float64), which works like to(device).",
)
def _() -> str:
    tensor, module = torch.ones(2), nn.Linear(2, 1)
    moved, same = tensor.to(torch.float64), module.to(torch.float64)
    rows = [
        ["", "returns itself", "the original is now"],
        ["tensor", str(moved is tensor), str(tensor.dtype)],
        ["module", str(same is module), str(module.weight.dtype)],
    ]
    return grids(Grid("x.to(torch.float64)", rows))
