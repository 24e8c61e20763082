"""Lesson 2, the data that goes in: from images to normalised batches."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Pixels = Image.Image | NDArray[np.uint8]

READ_AT_ONCE = 2**18  # values: as floats 1 MiB, which stays in the cache of a core


def normalize(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Turn bytes into floats around 0: (images / 255 - mean) / std, from -1 to 1 by default.

    Input: uint8 of any shape; `mean` and `std` are numbers, or one number for each channel of
    images of shape (..., C, H, W). Output: float32 of the same shape; the input is left alone.

    Raises TypeError for any other dtype, since floats may well be normalised already, and
    ValueError for other channels than the images have, or a `std` that is not above 0.
    Source: torchvision documentation, `Normalize`, which spreads a grey image over the channels
    of its statistics in version 2.

    >>> normalize(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([-1.0000, -0.6000,  1.0000])
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize takes uint8 images, but these are {images.dtype}")
    means, stds = _by_channel("mean", mean, images), _by_channel("std", std, images)
    if not bool((stds > 0).all()):
        raise ValueError(f"std must be above 0, since it divides, but it is {std}")
    # In torchvision's order, so that what its weights were trained to see is the same to the bit.
    floats = images.to(torch.float32).div_(255)
    return floats.sub_(means.to(images.device)).div_(stds.to(images.device))


def image_pipeline(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Return the transform from one image to what a network takes: a tensor, then normalised.

    It takes a PIL image or a uint8 array of shape (H, W) or (H, W, C), and returns float32 of
    shape (C, H, W). `mean` and `std` are those of `normalize`, which says what it raises.
    Source: torchvision documentation, "Transforming images", version 2.

    >>> image_pipeline()(Image.new("L", (1, 2), color=255))
    tensor([[[1.],
             [1.]]])
    """
    # It takes as long to import as torch itself, and who has tensors already does not need it.
    from torchvision.transforms import v2

    # Not ToDtype(scale=True) and v2.Normalize: they scale floats not at all and any integers by
    # the largest of their dtype, and accept a grey image with the statistics of three channels.
    steps = [v2.ToImage(), v2.ToPureTensor(), partial(normalize, mean=mean, std=std)]
    transform: Callable[[Pixels], torch.Tensor] = v2.Compose(steps)
    return transform


def batches(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut images and their labels into batches, in the given order of positions.

    The last batch is smaller if `batch_size` does not divide the number of examples. Images of
    dtype uint8 are normalised, a few batches at a time, and moved to `device`.

    Raises ValueError for no examples, images and labels of different number, a batch size below 1.
    Source: PyTorch documentation, `torch.utils.data.DataLoader`, which cuts the same batches.

    >>> data = torch.zeros(5, 28, 28), torch.arange(5)
    >>> [labels.tolist() for images, labels in batches(data, 2)]
    [[0, 1], [2, 3], [4]]
    """
    check_data(data, batch_size)
    images, labels = data
    order = torch.arange(len(images), device=images.device) if order is None else order
    # Small batches are read several at once: reading takes a dozen calls, whatever the size.
    at_once = max(1, READ_AT_ONCE // (batch_size * max(1, images[0].numel())))
    return (
        batch
        for cut in order.split(batch_size * at_once)
        for batch in zip(
            # Ten times as fast as images[cut], which first finds out what kind of index it has.
            _as_input(images.index_select(0, cut.to(images.device))).to(device).split(batch_size),
            labels.index_select(0, cut.to(labels.device)).to(device).split(batch_size),
            strict=True,
        )
    )


def check_data(data: tuple[torch.Tensor, torch.Tensor], batch_size: int) -> None:
    """Raise ValueError unless the images and labels can be cut into batches of that size."""
    images, labels = data
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} images but {len(labels)} labels")
    if len(images) == 0:
        raise ValueError("there are no examples")
    if batch_size < 1:
        raise ValueError(f"a batch needs at least 1 example, but batch_size is {batch_size}")


def _as_input(images: torch.Tensor) -> torch.Tensor:
    """Return what a network takes: bytes normalised, floats as they are."""
    return normalize(images) if images.dtype == torch.uint8 else images


def _by_channel(name: str, values: float | Sequence[float], images: torch.Tensor) -> torch.Tensor:
    """Return one value for all channels, (), or one for each, (C, 1, 1), on the CPU."""
    statistics = torch.tensor(values, dtype=torch.float32, device="cpu")
    if statistics.ndim == 0:
        return statistics
    if images.ndim < 3 or statistics.shape != images.shape[-3:-2]:
        raise ValueError(
            f"{name} has {statistics.numel()} values, one for each channel of (..., C, H, W), "
            f"but the images have the shape {tuple(images.shape)}"
        )
    return statistics.view(-1, 1, 1)
