"""ToTensor.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: ToTensor makes an image a tensor with values from 0 to 1.
Verdict: holds-if
Truth: For uint8 images: HWC in [0, 255] becomes float32 CHW, each value exactly v / 255. Float
    arrays are not scaled, nor are other integers. Version 2 of the transforms,
    v2.ToDtype(scale=True), multiplies by the rounded 1 / 255 (3 is the first byte that differs,
    in the last bit), and divides every integer by the largest value of its dtype.
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

from dlconcepts.loading import Pixels
from dlconcepts.strategies import tensors
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law
from tests.networks.common import EPSILON, HOST, as_picture, channel_first, pixel_arrays


def reshapes(image: Pixels) -> Tensor:
    """Reshape (H, W, C) to (C, H, W), which runs and mixes the pixels."""
    pixels = np.atleast_3d(np.asarray(image))
    height, width, channels = pixels.shape
    return torch.tensor(pixels).reshape(channels, height, width).float() / 255


def forgets_to_divide(image: Pixels) -> Tensor:
    """Convert to floats and leave them between 0 and 255."""
    return torch.tensor(np.atleast_3d(np.asarray(image))).permute(2, 0, 1).float()


def multiplies_by_the_reciprocal(image: Pixels) -> Tensor:
    """Multiply by the rounded 1 / 255 instead of dividing, as v2.ToDtype does."""
    return forgets_to_divide(image) * (1 / 255)


def divides_by_256(image: Pixels) -> Tensor:
    """Divide by the number of values instead of the largest."""
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
    """Byte v of pixel (i, j), channel c, of an array or a PIL image is v / 255 at (c, i, j)."""
    image = as_picture(array) if opened else array

    tensor = to_tensor(image)

    expected = channel_first(array) / 255
    assert tensor.dtype == torch.float32, "the tensor is float32"
    assert tuple(tensor.shape) == expected.shape, "the channels come first"
    assert (tensor.numpy() == expected.astype(np.float32)).all(), "each value is exactly v / 255"


def divides_floats_too(image: NDArray[Any]) -> Tensor:
    """Divide whatever comes by 255."""
    return torch.from_numpy(image.transpose(2, 0, 1)) / 255


@law(
    right=v1.ToTensor(),
    wrong={divides_floats_too: "keeps its values"},
    cpu_only=HOST,
)
@given(
    image=tensors(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
        st.sampled_from([torch.float32, torch.float64]),
        max_magnitude=255,
    )
)
def test_floats_are_not_scaled(to_tensor: Callable[[Any], Tensor], image: Tensor) -> None:
    """An array of floats, from 0 to 255 though it may be, keeps its values and its dtype."""
    tensor = to_tensor(image.numpy())

    assert tensor.dtype == image.dtype, "an array of floats keeps its dtype"
    assert same(tensor, image.permute(2, 0, 1)), "an array of floats keeps its values"


to_tensor_v2 = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@law(
    right=to_tensor_v2,
    wrong={v1.ToTensor(): "largest value of its dtype", forgets_to_divide: "largest value"},
    cpu_only=HOST,
)
@given(
    image=tensors(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
        st.sampled_from([torch.uint8, torch.int16, torch.int32]),
    )
)
def test_version_2_scales_every_integer_dtype(
    to_tensor: Callable[[Any], Tensor], image: Tensor
) -> None:
    """ToDtype(scale=True) divides all integers by the largest of their dtype, ToTensor bytes only.

    One rounding of the reciprocal, one of the integer and one of the product: three halves of a
    unit in the last place.
    """
    tensor = to_tensor(image.numpy())

    expected = channel_first(image.numpy()) / torch.iinfo(image.dtype).max
    error = np.abs(tensor.double().numpy() - expected)
    assert (error <= 1.5 * EPSILON * np.abs(expected)).all(), (
        "an integer is divided by the largest value of its dtype"
    )
