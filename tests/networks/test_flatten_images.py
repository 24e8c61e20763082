"""Flattening turns each image into a row and keeps the number of images.

>>> images = torch.arange(1, 9).view(2, 1, 2, 2)  # 2 images of 2 x 2 pixels
>>> images.flatten(1)
tensor([[1, 2, 3, 4],
        [5, 6, 7, 8]])
>>> images.resize_(64, 1, 4).shape  # 62 of these images are uninitialised memory
torch.Size([64, 1, 4])

Notes: 28 x 28 images become vectors of 784 with resize_(64, 1, 784), or with the row count taken
    from the tensor's shape.
Verdict: holds-if
Truth: With the batch size taken from the tensor, and without resize_. A hard-coded 64 invents
    pixels in the last, smaller batch. `view(-1, 784)` mixes the pixels of images of another size
    without an error; the library's `flatten` raises.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.networks import flatten
from dlconcepts.strategies import FLOATS, tensors
from dlconcepts.support.bitwise import bits, same
from dlconcepts.testing.laws import law


def resizes_to_four(images: Tensor, in_features: int) -> Tensor:
    """Hard-code the batch size, as in resize_(64, 784), which invents or loses images."""
    return images.clone().resize_(4, in_features)


def column_by_column(images: Tensor, in_features: int) -> Tensor:
    """Flatten each image column by column."""
    return images.transpose(-1, -2).flatten(1)


def channel_last(images: Tensor, in_features: int) -> Tensor:
    """Put the channels of each pixel next to each other."""
    return images.permute(0, 2, 3, 1).flatten(1)


def insists_on_a_view(images: Tensor, in_features: int) -> Tensor:
    """Rely on strides that allow a view."""
    try:
        return images.view(len(images), in_features)
    except RuntimeError:
        return images.flatten(1).zero_()


@law(
    right=flatten,
    wrong={
        insists_on_a_view: "pixel (b, c, i, j)",
        resizes_to_four: "one row for each image",
        column_by_column: "pixel (b, c, i, j)",
        channel_last: "pixel (b, c, i, j)",
    },
)
@given(
    images=tensors(
        # The empty batch comes last, so that a counterexample shows it only if it must.
        st.tuples(
            st.sampled_from([1, 2, 3, 5, 0]),
            st.integers(1, 3),
            st.integers(1, 4),
            st.integers(1, 4),
        ),
        st.sampled_from(FLOATS),
    ),
    transposed=st.booleans(),
)
def test_each_image_becomes_a_row(
    flatten: Callable[..., Tensor], images: Tensor, transposed: bool
) -> None:
    """Pixel (b, c, i, j) is at position (c * H + i) * W + j of row b; reshaping restores it."""
    images = images.mT if transposed else images  # a view that has no flat view
    batch, channels, height, width = images.shape
    before = bits(images)

    rows = flatten(images, channels * height * width)

    assert rows.shape == (batch, channels * height * width), "one row for each image"
    for b, c, i, j in np.ndindex(*images.shape):
        there = same(rows[b, (c * height + i) * width + j], images[b, c, i, j])
        assert there, "pixel (b, c, i, j) is at position (c * H + i) * W + j of row b"
    assert same(rows.reshape(images.shape), images), "reshaping the rows restores the images"
    assert bits(images) == before, "the images stay as they were"


def always_copies(images: Tensor, in_features: int) -> Tensor:
    """Copy although the strides allow a view."""
    return images.flatten(1).clone()


def copies_what_is_not_contiguous(images: Tensor, in_features: int) -> Tensor:
    """Copy every batch that is not contiguous, though a view can skip images."""
    return images.contiguous().view(len(images), in_features)


def copies_images_that_are_not_contiguous(images: Tensor, in_features: int) -> Tensor:
    """Copy if the pixels of an image are not next to each other, though one stride may fit."""
    return images.flatten(1) if images[0].is_contiguous() else images.flatten(1).clone()


@law(
    right=flatten,
    wrong={
        always_copies: "the rows are a view",
        copies_what_is_not_contiguous: "the rows are a view",
        copies_images_that_are_not_contiguous: "the rows are a view",
    },
)
@given(
    batch=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    step=st.integers(1, 2),
    batch_last=st.booleans(),
)
def test_the_rows_are_a_view_if_the_strides_allow_one(
    flatten: Callable[..., Tensor], batch: int, shape: tuple[int, int], step: int, batch_last: bool
) -> None:
    """A write to the rows is seen in the images, also if the batch is not contiguous."""
    stored = torch.zeros(step * batch, *shape)
    if batch_last:  # in memory, the same pixel of all images comes together
        stored = torch.zeros(*shape, step * batch).movedim(-1, 0)
    images = stored[::step]

    flatten(images, shape[0] * shape[1]).fill_(1)

    assert bool(images.all()), "the rows are a view of the images"


def views_as_rows(images: Tensor, in_features: int) -> Tensor:
    """Let view(-1, in_features) choose the number of rows, which mixes pixels of two images."""
    return images.contiguous().view(-1, in_features)


def resizes_to_rows(images: Tensor, in_features: int) -> Tensor:
    """Resize to the expected shape, which drops pixels."""
    return images.clone().resize_(len(images), in_features)


def counts_all_values(images: Tensor, in_features: int) -> Tensor:
    """Compare the number of all values, which is 0 for an empty batch of any width."""
    if images.numel() == len(images) * in_features:
        return images.reshape(len(images), in_features)
    return flatten(images, in_features)


def takes_integers(images: Tensor, in_features: int) -> Tensor:
    """Turn integers into floats silently."""
    return flatten(images.float(), in_features)


@law(
    right=flatten,
    wrong={
        views_as_rows: "DID NOT RAISE",
        resizes_to_rows: "DID NOT RAISE",
        counts_all_values: "DID NOT RAISE",
        takes_integers: "DID NOT RAISE",
    },
)
@given(
    in_features=st.integers(1, 4),
    factor=st.integers(1, 3),
    batch=st.sampled_from([1, 2, 3, 0]),
    data=st.data(),
)
def test_images_of_another_size_are_not_mixed(
    flatten: Callable[..., Tensor], in_features: int, factor: int, batch: int, data: st.DataObject
) -> None:
    """Images with two or three times the pixels raise, and so do integers of the right size."""
    dtype = torch.float32 if factor > 1 else torch.uint8
    images = data.draw(tensors((batch, 1, factor, in_features), dtype), label="images")
    error, said = (
        (ValueError, f"{factor * in_features} each") if factor > 1 else (TypeError, "uint8")
    )

    with pytest.raises(error, match=said):
        flatten(images, in_features)
