"""Strategies and constants that several claims about tensors share."""

from hypothesis import strategies as st

from dlconcepts.strategies import shapes

# Not "expanded": torch refuses to write in place to elements that share memory.
WRITABLE = ("contiguous", "permuted", "offset", "strided")
HOST = "numpy arrays live in the memory of the CPU"


@st.composite
def shapes_of(draw: st.DrawFn, elements: int) -> tuple[int, ...]:
    """Draw a shape that holds this number of elements."""
    if elements == 0:
        return draw(shapes(min_dims=1).filter(lambda shape: 0 in shape))
    # Split off one divisor after another, then mix in sides of length one.
    shape, rest = [], elements
    while rest > 1:
        shape.append(draw(st.sampled_from([n for n in range(2, rest + 1) if rest % n == 0])))
        rest //= shape[-1]
    shape += [1] * draw(st.integers(0, 2))
    return tuple(draw(st.permutations(shape)))
