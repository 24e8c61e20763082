"""ToTensor scales bytes to values from 0 to 1, and no other dtype.

>>> from torchvision.transforms import ToTensor
>>> pixels = np.array([[0, 51], [102, 255]], dtype=np.uint8)
>>> ToTensor()(pixels)
tensor([[[0.0000, 0.2000],
         [0.4000, 1.0000]]])
>>> ToTensor()(pixels.astype(np.int16))
tensor([[[  0,  51],
         [102, 255]]], dtype=torch.int16)

Notes: ToTensor turns an image into a tensor with values from 0 to 1.
Verdict: holds-if
Truth: The image must be uint8: (H, W, C) with values from 0 to 255 becomes float32 (C, H, W), each
    value exactly v / 255. ToTensor scales neither floats nor other integers. Version 2 of the
    transforms, `v2.ToDtype(scale=True)`, divides every integer by the largest value of its dtype.
    For bytes it multiplies by the rounded 1 / 255, so the last bit may differ, first for byte 3.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2

from dlconcepts.loading import Pixels, image_pipeline
from dlconcepts.strategies import tensors
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.networks.common import EPSILON, HOST, as_picture, channel_first, pixel_arrays

image_shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


def reshapes(image: Pixels) -> Tensor:
    """Reshape (H, W, C) to (C, H, W) instead of permuting, which mixes the pixels."""
    pixels = np.atleast_3d(np.asarray(image))
    height, width, channels = pixels.shape
    return torch.tensor(pixels).reshape(channels, height, width).float() / 255


def forgets_to_divide(image: Pixels) -> Tensor:
    """Convert to floats but leave them between 0 and 255."""
    return torch.tensor(np.atleast_3d(np.asarray(image))).permute(2, 0, 1).float()


def multiplies_by_the_reciprocal(image: Pixels) -> Tensor:
    """Multiply by the rounded 1 / 255 instead of dividing, as v2.ToDtype does."""
    return forgets_to_divide(image) * (1 / 255)


def divides_by_256(image: Pixels) -> Tensor:
    """Divide by the number of byte values instead of the largest."""
    return forgets_to_divide(image) / 256


@law(
    right=v1.ToTensor(),
    wrong={
        reshapes: "exactly v / 255",
        forgets_to_divide: "exactly v / 255",
        multiplies_by_the_reciprocal: "exactly v / 255",
        divides_by_256: "exactly v / 255",
    },
    cpu_only=HOST,
)
@given(array=pixel_arrays(), opened=st.booleans())
def test_bytes_become_floats_from_0_to_1_channel_first(
    to_tensor: Callable[[Pixels], Tensor], array: NDArray[np.uint8], opened: bool
) -> None:
    """Byte v at (i, j, c) of an array or a PIL image becomes v / 255 at (c, i, j)."""
    image = as_picture(array) if opened else array

    tensor = to_tensor(image)

    expected = channel_first(array) / 255
    assert tensor.dtype == torch.float32, "the tensor is float32"
    assert tuple(tensor.shape) == expected.shape, "the channels come first"
    # v / 255 in float64, rounded to float32, is what one float32 division returns.
    assert (tensor.numpy() == expected.astype(np.float32)).all(), "each value is exactly v / 255"
    assert same(image_pipeline(mean=0, std=1)(image), tensor), "the library's pipeline scales alike"


def divides_floats_too(image: NDArray[Any]) -> Tensor:
    """Divide by 255 whatever the dtype is."""
    return torch.from_numpy(image.transpose(2, 0, 1)) / 255


@law(right=v1.ToTensor(), wrong={divides_floats_too: "keeps its values"}, cpu_only=HOST)
@given(
    image=tensors(image_shapes, st.sampled_from([torch.float32, torch.float64]), max_magnitude=255)
)
def test_floats_are_not_scaled(to_tensor: Callable[[Any], Tensor], image: Tensor) -> None:
    """An array of floats keeps its values and its dtype, even if the values go up to 255."""
    tensor = to_tensor(image.numpy())

    assert tensor.dtype == image.dtype, "an array of floats keeps its dtype"
    assert same(tensor, image.permute(2, 0, 1)), "an array of floats keeps its values"


to_tensor_v2 = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@law(
    right=to_tensor_v2,
    wrong={v1.ToTensor(): "largest value of its dtype", forgets_to_divide: "largest value"},
    cpu_only=HOST,
)
@given(image=tensors(image_shapes, st.sampled_from([torch.uint8, torch.int16, torch.int32])))
def test_version_2_scales_every_integer_dtype(
    to_tensor: Callable[[Any], Tensor], image: Tensor
) -> None:
    """ToDtype(scale=True) divides integers by the largest value of their dtype."""
    tensor = to_tensor(image.numpy())

    expected = channel_first(image.numpy()) / torch.iinfo(image.dtype).max
    error = np.abs(tensor.double().numpy() - expected)
    # Three roundings of half a unit each: the reciprocal, the integer as a float, the product.
    assert (error <= 1.5 * EPSILON * np.abs(expected)).all(), (
        "an integer is divided by the largest value of its dtype"
    )
