"""Hypothesis strategies for tensors, networks and batches: fast, adversarial, shrinking well.

Drawing 50,000 elements one by one is too slow, and a tensor made from a drawn seed never shrinks to
simple values. These strategies draw a recipe of a few bytes instead: a palette of magnitudes, a
window outside which everything is zero, a structure (zero rows, ties, constant columns), two
elements with special values, and a memory layout. Each byte shrinks towards a simpler tensor: fewer
elements, smaller values, the contiguous layout.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from torch import Tensor, nn

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
DTYPES = (*FLOATS, *COMPLEX, *INTEGERS, torch.bool)
LAYOUTS = ("contiguous", "permuted", "offset", "strided", "expanded")

# (pattern, scale, offset), the simplest first. At 1e2 exp overflows in float32, at 1e4 squares lose
# their ones digit, at 1e-30 squares underflow and at 1e30 they overflow.
PALETTES = (
    ("zeros", 1.0, 0.0),
    ("ones", 1.0, 0.0),
    ("ones", -1.0, 0.0),
    ("integers", 1.0, 0.0),
    ("ones", 100.0, 0.0),
    ("normal", 1.0, 0.0),
    ("integers", 1.0, 1e4),
    ("normal", 1.0, 1e4),
    ("normal", 1e2, 0.0),
    ("normal", 1e4, 0.0),
    ("normal", 1e-4, 0.0),
    ("normal", 1e-30, 0.0),
    ("normal", 1e30, 0.0),
)
# Each pair differs only in sign. Shrinking steps by one and by two, so it can lower the magnitude
# and keep the sign.
SPECIALS = (
    *(0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 5.0, -5.0, 9.0, -9.0),
    *(100.0, -100.0, 1e4, -1e4, 1e38, -1e38, 0.5, -0.5, 1e-40, -1e-40),
)

T = TypeVar("T")
Shape = tuple[int, ...]
CODES = st.binary(min_size=14, max_size=14)


def shapes(
    min_dims: int = 0, max_dims: int = 4, min_side: int = 0, max_side: int = 5
) -> st.SearchStrategy[Shape]:
    """Draw shapes of any rank from 0, some without elements, and many with equal sides.

    If sides are equal, swapped axes show only in the elements, not in the shape.

    >>> from hypothesis import find
    >>> find(shapes(), lambda shape: len(shape) == 2)
    (0, 0)
    """
    any_sides = array_shapes(
        min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side
    )
    dims, side = st.integers(min_dims, max_dims), st.integers(min_side, max_side)
    return any_sides | st.builds(_equal_sides, side, dims)


def _equal_sides(side: int, dims: int) -> Shape:
    return (side,) * dims


def tensors(
    shape: Shape | st.SearchStrategy[Shape] | None = None,
    dtype: torch.dtype | st.SearchStrategy[torch.dtype] = torch.float32,
    *,
    layouts: Sequence[str] = LAYOUTS,
    max_magnitude: float = math.inf,
    allow_nan: bool = False,
    allow_infinity: bool = False,
    requires_grad: bool = False,
    device: torch.device | str | None = None,
) -> st.SearchStrategy[Tensor]:
    """Draw tensors of any shape, dtype, magnitude and memory layout, on the default device.

    `shape` and `dtype` are values or strategies; the default shape is any of `shapes()`. No
    element exceeds `max_magnitude` unless NaN or infinity is allowed. `layouts` are some of
    "contiguous", "permuted", "offset" (starts inside a larger storage), "strided" (every other
    element of a larger tensor) and "expanded" (elements share memory, so in-place writes raise).
    With `requires_grad` the tensor is a leaf.

    Raises ValueError for an unknown layout or a negative max_magnitude.

    >>> from hypothesis import find
    >>> find(tensors((2, 3)), lambda x: (x > 0).all())
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    unknown = set(layouts) - set(LAYOUTS)
    if unknown or not layouts:
        raise ValueError(f"layouts must be some of {LAYOUTS}, but they are {tuple(layouts)}")
    if not max_magnitude >= 0:
        raise ValueError(f"max_magnitude must be 0 or more, but it is {max_magnitude}")
    # Repeated, so that about every fifth tensor has one.
    extremes = ((math.nan,) * allow_nan + (math.inf, -math.inf) * allow_infinity) * 4

    of = partial(
        _tensors,
        layouts=layouts,
        max_magnitude=max_magnitude,
        extremes=extremes,
        requires_grad=requires_grad,
        device=device,
    )
    if isinstance(shape, tuple) and isinstance(dtype, torch.dtype):
        return of(shape, dtype)
    drawn_shape = shapes() if shape is None else _strategy(shape)
    return st.tuples(drawn_shape, _strategy(dtype)).flatmap(lambda drawn: of(*drawn))


# Not inside of `tensors`: Hypothesis parses the source of a composite where it is defined, and that
# takes as long as many draws.
@st.composite
def _tensors(
    draw: st.DrawFn,
    shape: Shape,
    dtype: torch.dtype,
    *,
    layouts: Sequence[str],
    max_magnitude: float,
    extremes: tuple[float, ...],
    requires_grad: bool,
    device: torch.device | str | None,
) -> Tensor:
    limit = min(max_magnitude, _largest(dtype))
    fractional = dtype.is_floating_point or dtype.is_complex
    specials = _specials(dtype, limit) + (extremes if fractional else ())
    recipe = _Recipe(draw(CODES))
    values = recipe.values(shape, dtype, limit, specials)
    return _lay_out(values, recipe.layout(layouts), device).requires_grad_(requires_grad)


def easily_lost() -> st.SearchStrategy[Tensor]:
    """Draw single numbers that conversions lose: -0.0, subnormals, and integers past 2**53.

    >>> from hypothesis import find
    >>> find(easily_lost(), lambda x: x.dtype == torch.int64)
    tensor(9007199254740993)
    """
    floats, dtypes = st.sampled_from([-0.0, 1e-40, -1e-40]), st.sampled_from(FLOATS)
    wholes = st.sampled_from([2**53 + 1, -(2**53) - 1])
    return st.builds(torch.tensor, floats, dtype=dtypes) | st.builds(torch.tensor, wholes)


@st.composite
def aliases(draw: st.DrawFn, base: st.SearchStrategy[Tensor]) -> tuple[Tensor, Tensor]:
    """Draw a tensor and a view of all or some of its elements.

    >>> from hypothesis import find
    >>> x, alias = find(aliases(tensors((2, 2))), lambda pair: pair[1].ndim == 1)
    >>> alias.data_ptr() == x.data_ptr()
    True
    """
    tensor = draw(base)
    views: list[Callable[[], Tensor]] = [lambda: tensor.view_as(tensor)]
    if tensor.ndim:
        views += [lambda: tensor[:1], lambda: tensor.movedim(0, -1), lambda: tensor[..., ::2]]
        if tensor.shape[0]:
            views.append(lambda: tensor[0])
    if tensor.is_contiguous():
        views.append(lambda: tensor.view(-1))
    return tensor, draw(st.sampled_from(views))()


@dataclass(frozen=True)
class Problem:
    """A network, a loss function and one labelled batch: what a training step needs."""

    model: nn.Sequential
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    labels: Tensor


@st.composite
def networks(
    draw: st.DrawFn,
    sizes: Sequence[int] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    """Draw chains of Linear layers with ReLU between them; `sizes` fixes the widths.

    The simplest network has only ones as parameters; PyTorch initialises all others.

    >>> from hypothesis import find
    >>> find(networks([3, 1]), lambda model: True)[0].weight
    Parameter containing:
    tensor([[1., 1., 1.]], requires_grad=True)
    """
    if sizes is None:
        sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    seed = draw(st.integers(0, 2**16))
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds all devices: fork_rng restores only the CPU here.
        torch.default_generator.manual_seed(seed)
        for in_features, out_features in itertools.pairwise(sizes):
            layers += [nn.Linear(in_features, out_features, dtype=dtype, device="cpu"), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    if seed == 0:
        for parameter in model.parameters():
            nn.init.ones_(parameter)
    return model.to(_device(device))


@st.composite
def batches(
    draw: st.DrawFn,
    features: int,
    classes: int,
    *,
    min_size: int = 1,
    max_size: int = 8,
    dtype: torch.dtype = torch.float32,
    max_magnitude: float = 10.0,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw inputs (batch, features) and labels (batch,), int64 in [0, classes).

    >>> from hypothesis import find
    >>> find(batches(2, 3), lambda batch: batch[1].sum() > 1)
    (tensor([[0., 0.]]), tensor([2]))
    """
    size = draw(st.integers(min_size, max_size))
    inputs = draw(tensors((size, features), dtype, max_magnitude=max_magnitude, device=device))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size))
    return inputs, torch.tensor(labels, dtype=torch.int64, device=_device(device))


@st.composite
def losses(
    draw: st.DrawFn, labels: Tensor, classes: int, *, dtype: torch.dtype = torch.float32
) -> Callable[[Tensor, Tensor], Tensor]:
    """Draw cross-entropies, many with class weights, an ignored class and label smoothing.

    At least one of `labels` counts, since the mean over no label is NaN.

    >>> from hypothesis import find
    >>> find(losses(torch.tensor([1]), 2), lambda loss_fn: True)
    CrossEntropyLoss()
    """
    sizes = draw(st.lists(st.integers(0, 3), min_size=classes, max_size=classes))
    weight = torch.tensor(sizes, dtype=dtype, device=labels.device)
    ignored = draw(st.integers(-1, classes - 1))
    options: dict[str, Any] = {"label_smoothing": draw(st.sampled_from([0.0, 0.25]))}
    if bool(weight[labels[labels != ignored]].any()):
        options |= {"weight": weight, "ignore_index": ignored}
    if draw(st.booleans()):
        return partial(F.cross_entropy, **options)
    return nn.CrossEntropyLoss(**options)


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    min_size: int = 1,
    max_size: int = 8,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    any_loss: bool = False,
) -> Problem:
    """Draw classification problems: a network, cross-entropy, and a batch that fits.

    With `any_loss`, the cross-entropy is one of `losses`.

    >>> from hypothesis import find
    >>> find(problems(), lambda problem: len(problem.labels) == 2).inputs.shape[0]
    2
    """
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    classes = draw(st.integers(2, 4))
    model = draw(networks([*sizes, classes], dtype=dtype, device=device))
    size = {"min_size": min_size, "max_size": max_size}
    inputs, labels = draw(batches(sizes[0], classes, **size, dtype=dtype, device=device))
    loss_fn = draw(losses(labels, classes, dtype=dtype)) if any_loss else nn.CrossEntropyLoss()
    return Problem(model, loss_fn, inputs, labels)


@dataclass(frozen=True)
class _Recipe:
    """Bytes that describe a tensor: zeros in the first layout if all are zero.

    Each byte shrinks separately. Drawing one byte string takes a tenth of the time of ten integers.
    """

    code: bytes

    def values(
        self, shape: Shape, dtype: torch.dtype, limit: float, specials: Sequence[float]
    ) -> Tensor:
        """Return a contiguous tensor on the CPU, with no element beyond the limit."""
        palettes = [p for p in PALETTES if max(p[1:]) <= max(limit, 1.0)]
        pattern, scale, offset = palettes[self.code[0] % len(palettes)]
        wide = dtype if dtype in (torch.float32, torch.float64) else torch.float64
        values = torch.zeros(shape, dtype=wide, device="cpu")
        size = values.numel()
        end = self._position(6, size)
        window = values.view(-1)[max(0, end - self._position(4, size)) : end]
        self._fill(window, pattern, scale, offset)
        if values.ndim and size:
            self._impose_structure(values, scale)
        if limit < 10 * abs(scale) + offset:  # no normal variate exceeds ten deviations
            values.clamp_(-limit, limit)
        if dtype == torch.uint8:
            values.abs_()
        if dtype.is_complex:
            values = torch.complex(values, values.flip(0) if values.ndim else values)
        values = values.to(dtype)
        if size:
            # Either part of a complex number may be special.
            parts = torch.view_as_real(values) if dtype.is_complex else values
            self._plant(parts.view(-1), specials)
        return values

    def layout(self, layouts: Sequence[str]) -> str:
        return layouts[self.code[2] % len(layouts)]

    def _position(self, index: int, size: int) -> int:
        """Return a number from 0 to size; three of four recipes give the size itself."""
        number = int.from_bytes(self.code[index : index + 2], "big")
        return min(size, number % (4 * size + 1) if size < 2**14 else number * size >> 14)

    def _fill(self, window: Tensor, pattern: str, scale: float, offset: float) -> None:
        generator = torch.Generator(device="cpu").manual_seed(self.code[3])
        if pattern == "normal":
            window.normal_(generator=generator)
        elif pattern == "integers":
            window.random_(-9, 10, generator=generator)
        elif pattern == "ones":
            window.fill_(1)
        if (scale, offset) != (1, 0):
            window.mul_(scale).add_(offset)

    def _impose_structure(self, values: Tensor, scale: float) -> None:
        """Zero or repeat the first row, repeat the first column, keep only signs, or negate."""
        structure = self.code[1] % 8
        if structure == 1:
            values[0] = 0
        elif structure == 2:
            values[:] = values[0].clone()
        elif structure == 3:
            values[:] = values[..., :1].clone()
        elif structure == 4:
            values.sign_().mul_(abs(scale))
        elif structure == 5:
            values.neg_()  # zeros become -0.0

    def _plant(self, flat: Tensor, specials: Sequence[float]) -> None:
        """Set up to two elements to special values, each in a third of all recipes."""
        for index in (8, 11):
            special = self.code[index] % (3 * len(specials) + 1)
            if 0 < special < len(specials):
                number = int.from_bytes(self.code[index + 1 : index + 3], "big")
                flat[number % len(flat)] = specials[special]


def _specials(dtype: torch.dtype, limit: float) -> tuple[float, ...]:
    if dtype.is_floating_point or dtype.is_complex:
        return tuple(value for value in SPECIALS if abs(value) <= limit)
    if dtype == torch.bool:
        return (0, 1)
    info = torch.iinfo(dtype)
    wholes = (0, 1, -1, 2, -2, 3, -3, 100, -100, info.max, info.min)
    # info.min is one further from zero than info.max, and allowed with the same limit.
    return tuple(v for v in wholes if info.min <= v and abs(v) - (v == info.min) <= limit)


def _largest(dtype: torch.dtype) -> float:
    if dtype == torch.bool:
        return 1.0
    if dtype.is_floating_point or dtype.is_complex:
        return torch.finfo(dtype).max
    return torch.iinfo(dtype).max


def _lay_out(values: Tensor, layout: str, device: torch.device | str | None) -> Tensor:
    device = _device(device)
    if layout == "permuted" and values.ndim > 1:
        laid = values.movedim(0, -1).contiguous().to(device).movedim(-1, 0)
    elif layout == "offset":
        # Sevens in front, not zeros: a read from there changes the result.
        room = torch.full((values.numel() + 3,), 7, dtype=values.dtype, device=device)
        laid = room.as_strided(values.shape, values.stride(), 3).copy_(values)
    elif layout == "strided" and values.ndim:
        wide = (*values.shape[:-1], 2 * values.shape[-1])
        laid = torch.full(wide, 7, dtype=values.dtype, device=device)[..., ::2].copy_(values)
    elif layout == "expanded" and values.ndim and values.shape[0] > 1:
        laid = values[:1].to(device).expand(values.shape)
    else:
        return values.to(device)
    note(f"(a tensor is {layout}: strides {laid.stride()}, offset {laid.storage_offset()})")
    return laid


def _device(device: torch.device | str | None) -> torch.device:
    return torch.get_default_device() if device is None else torch.device(device)


def _strategy(value: T | st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    return value if isinstance(value, st.SearchStrategy) else st.just(value)
