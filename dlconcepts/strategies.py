"""Hypothesis strategies for tensors, networks and batches: fast, adversarial, simple once shrunk.

A tensor of 50,000 elements cannot be drawn element by element at a useful speed, and a tensor
made from a drawn seed never shrinks to simple values. These strategies draw a recipe of a few bytes
instead: a palette of magnitudes, a window outside which everything is zero, a structure (zero rows,
ties, constant columns), two elements with special values, a memory layout. Each byte of the recipe
shrinks towards less: fewer elements, smaller values, the plain layout.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from torch import Tensor, nn

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
DTYPES = (*FLOATS, *COMPLEX, *INTEGERS, torch.bool)
LAYOUTS = ("contiguous", "permuted", "offset", "strided", "expanded")

# (pattern, scale, offset), the simplest first. The scales reach where exp overflows (1e2), where
# the square of a float32 has lost the ones (1e4), where squares underflow (1e-30) and overflow.
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
# Neighbours differ in sign only: shrinking steps by one and by two, so it can keep the sign
# while it lowers the magnitude.
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
    """Draw shapes, among them rank 0, shapes without elements, and many whose sides are equal.

    Where sides are equal, mixed-up axes do not show in the shape, but in the elements.

    >>> from hypothesis import find
    >>> find(shapes(), lambda shape: len(shape) == 2)
    (0, 0)
    """
    any_sides = array_shapes(
        min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side
    )
    dims, side = st.integers(min_dims, max_dims), st.integers(min_side, max_side)
    return any_sides | st.builds(lambda n, rank: (n,) * rank, side, dims)


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
    element exceeds `max_magnitude`; NaN and infinity come only where they are allowed. `layouts`
    are some of "contiguous", "permuted", "offset" (the storage begins before it), "strided" (every
    other element of a larger one) and "expanded" (elements share memory, so that writing in place
    is an error). With `requires_grad` the tensor is a leaf.

    Raises ValueError for an unknown layout or a negative max_magnitude.

    >>> from hypothesis import find
    >>> find(tensors((2, 3)), lambda x: (x > 0).all())
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    unknown = set(layouts) - set(LAYOUTS)
    if unknown or not layouts:
        raise ValueError(f"layouts must be some of {LAYOUTS}, but are {tuple(layouts)}")
    if not max_magnitude >= 0:
        raise ValueError(f"max_magnitude must be 0 or more, but is {max_magnitude}")
    # Several times, so that they are met in every fifth tensor.
    extremes = ((math.nan,) * allow_nan + (math.inf, -math.inf) * allow_infinity) * 4

    @st.composite
    def of(draw: st.DrawFn, shape: Shape, dtype: torch.dtype) -> Tensor:
        limit = min(max_magnitude, _largest(dtype))
        fractional = dtype.is_floating_point or dtype.is_complex
        specials = _specials(dtype, limit) + (extremes if fractional else ())
        recipe = _Recipe(draw(CODES))
        values = recipe.values(shape, dtype, limit, specials)
        return _lay_out(values, recipe.layout(layouts), device).requires_grad_(requires_grad)

    if isinstance(shape, tuple) and isinstance(dtype, torch.dtype):
        return of(shape, dtype)
    drawn_shape = shapes() if shape is None else _strategy(shape)
    return st.tuples(drawn_shape, _strategy(dtype)).flatmap(lambda drawn: of(*drawn))


def easily_lost() -> st.SearchStrategy[Tensor]:
    """Draw single numbers that a conversion loses: -0.0, subnormal ones, whole ones past 2**53.

    >>> from hypothesis import find
    >>> find(easily_lost(), lambda x: x.dtype == torch.int64)
    tensor(9007199254740993)
    """
    floats, dtypes = st.sampled_from([-0.0, 1e-40, -1e-40]), st.sampled_from(FLOATS)
    wholes = st.sampled_from([2**53 + 1, -(2**53) - 1])
    return st.builds(torch.tensor, floats, dtype=dtypes) | st.builds(torch.tensor, wholes)


@st.composite
def aliases(draw: st.DrawFn, base: st.SearchStrategy[Tensor]) -> tuple[Tensor, Tensor]:
    """Draw a tensor and another view of the same memory, of all its elements or some.

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
    """A network, a loss function and one labelled batch: all that a training step needs."""

    model: nn.Sequential
    loss_fn: nn.Module
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

    The simplest network has weights and biases of one, any other PyTorch's own initialisation.

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
        torch.default_generator.manual_seed(seed)  # the CPU's alone: no other one is put back
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
def problems(
    draw: st.DrawFn,
    *,
    min_size: int = 1,
    max_size: int = 8,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Problem:
    """Draw classification problems: a network, cross-entropy, and a batch that fits both.

    >>> from hypothesis import find
    >>> find(problems(), lambda problem: len(problem.labels) == 2).inputs.shape[0]
    2
    """
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    classes = draw(st.integers(2, 4))
    model = draw(networks([*sizes, classes], dtype=dtype, device=device))
    size = {"min_size": min_size, "max_size": max_size}
    inputs, labels = draw(batches(sizes[0], classes, **size, dtype=dtype, device=device))
    return Problem(model, nn.CrossEntropyLoss(), inputs, labels)


@dataclass(frozen=True)
class _Recipe:
    """Bytes that say how to build a tensor: all zero for zeros, and each one shrinks on its own.

    One drawn byte string costs Hypothesis a tenth of ten drawn integers.
    """

    code: bytes

    def values(
        self, shape: Shape, dtype: torch.dtype, limit: float, specials: Sequence[float]
    ) -> Tensor:
        """Return the contiguous tensor of the recipe on the CPU, with no element beyond limit."""
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
        if limit < 10 * abs(scale) + offset:  # ten deviations: no normal variate goes further
            values.clamp_(-limit, limit)
        if dtype == torch.uint8:
            values.abs_()
        if dtype.is_complex:
            values = torch.complex(values, values.flip(0) if values.ndim else values)
        values = values.to(dtype)
        if size:
            # Of a complex number either part may be special.
            parts = torch.view_as_real(values) if dtype.is_complex else values
            self._plant(parts.view(-1), specials)
        return values

    def layout(self, layouts: Sequence[str]) -> str:
        """Return the layout of the tensor."""
        return layouts[self.code[2] % len(layouts)]

    def _position(self, index: int, size: int) -> int:
        """Return a number from 0 to size, in three of four recipes the size itself."""
        number = int.from_bytes(self.code[index : index + 2], "big")
        return min(size, number % (4 * size + 1) if size < 2**14 else number * size >> 14)

    def _fill(self, window: Tensor, pattern: str, scale: float, offset: float) -> None:
        """Write a pattern into the window outside which all is zero."""
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
        """Make rows or columns equal, or leave but a few values, in half of all recipes."""
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
        """Set up to two elements to special values, each in one of three recipes."""
        for index in (8, 11):
            special = self.code[index] % (3 * len(specials) + 1)
            if 0 < special < len(specials):
                number = int.from_bytes(self.code[index + 1 : index + 3], "big")
                flat[number % len(flat)] = specials[special]


def _specials(dtype: torch.dtype, limit: float) -> tuple[float, ...]:
    """Return the single values worth planting in a tensor of this dtype."""
    if dtype.is_floating_point or dtype.is_complex:
        return tuple(value for value in SPECIALS if abs(value) <= limit)
    if dtype == torch.bool:
        return (0, 1)
    info = torch.iinfo(dtype)
    wholes = (0, 1, -1, 2, -2, 3, -3, 100, -100, info.max, info.min)
    # The smallest number is one further from zero than the largest.
    return tuple(v for v in wholes if info.min <= v and abs(v) - (v == info.min) <= limit)


def _largest(dtype: torch.dtype) -> float:
    """Return the largest magnitude of a dtype, as a number that a float64 can hold."""
    if dtype == torch.bool:
        return 1.0
    if dtype.is_floating_point or dtype.is_complex:
        return torch.finfo(dtype).max
    return torch.iinfo(dtype).max


def _lay_out(values: Tensor, layout: str, device: torch.device | str | None) -> Tensor:
    """Return a tensor with these values in the memory layout asked for."""
    device = _device(device)
    if layout == "permuted" and values.ndim > 1:
        laid = values.movedim(0, -1).contiguous().to(device).movedim(-1, 0)
    elif layout == "offset":
        # The room in front is not zero, so that reading there is noticed.
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
    """Return the device asked for, by default the one of torch.set_default_device."""
    return torch.get_default_device() if device is None else torch.device(device)


def _strategy(value: T | st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Return a strategy for a value that may be one already."""
    return value if isinstance(value, st.SearchStrategy) else st.just(value)
