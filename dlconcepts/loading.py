"""Lesson 2, the data that goes in: from images to normalised batches."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Pixels = Image.Image | NDArray[np.uint8]

READ_AT_ONCE = 2**18  # values; as float32 they take 1 MiB, which fits the cache of a core


def normalize(
    images: torch.Tensor,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> torch.Tensor:
    """Turn bytes into floats around 0: (images / 255 - mean) / std, from -1 to 1 by default.

    Input: uint8 of any shape. `mean` and `std` are numbers, or one number for each channel of
    images of shape (..., C, H, W). Output: a new float32 tensor of the same shape and device.

    Raises TypeError for any other dtype, since floats may be normalised already. Raises ValueError
    if the number of channels does not match, a `mean` is not finite, or a `std` is not finite and
    above 0.
    Source: torchvision documentation, `Normalize`. Version 2 broadcasts a grey image instead.

    >>> normalize(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([-1.0000, -0.6000,  1.0000])
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize takes uint8 images, but got {images.dtype}; pass the bytes")
    means, stds = _by_channel("mean", mean, images), _by_channel("std", std, images)
    if not bool(means.isfinite().all()):
        raise ValueError(f"mean must be finite, but it is {mean}")
    if not bool(((stds > 0) & stds.isfinite()).all()):
        raise ValueError(
            f"std must be finite and above 0, but it is {std}; images are divided by it"
        )
    # In torchvision's order, so its pretrained weights get the same bits as in training.
    floats = images.to(torch.float32).div_(255)
    return floats.sub_(means.to(images.device)).div_(stds.to(images.device))


def image_pipeline(
    mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
) -> Callable[[Pixels], torch.Tensor]:
    """Return the transform from one image to the input of a network: a normalised tensor.

    It takes a PIL image or a uint8 array of shape (H, W) or (H, W, C), and returns float32 of
    shape (C, H, W). It passes `mean` and `std` to `normalize`, and raises the same errors, then.
    Source: torchvision documentation, "Transforming images", version 2.

    >>> image_pipeline()(Image.new("L", (1, 2), color=255))
    tensor([[[1.],
             [1.]]])
    """
    # Imported here because it takes as long as torch itself, and tensors do not need it.
    from torchvision.transforms import v2

    # v2.ToDtype(scale=True) leaves floats unscaled and divides integers by the largest value of
    # their dtype; v2.Normalize broadcasts a grey image over three channels. `normalize` raises.
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
    """Cut images and labels into batches, in the given order of positions.

    The order may skip or repeat positions. Batches may share memory with the data.
    The last batch is smaller if `batch_size` does not divide the number of examples. Batches are
    moved to `device`, and uint8 images are normalised first.

    Raises ValueError, at the call and not at the first batch, if there are no examples, if the
    numbers of images and labels differ, or if `batch_size` is below 1.
    Source: PyTorch documentation, `torch.utils.data.DataLoader`, which cuts the same batches.

    >>> data = torch.zeros(5, 28, 28), torch.arange(5)
    >>> [labels.tolist() for images, labels in batches(data, 2)]
    [[0, 1], [2, 3], [4]]
    """
    check_data(data, batch_size)
    images, labels = data
    order = torch.arange(len(images), device=images.device) if order is None else order
    # Read several small batches at once: each read takes a dozen calls, whatever its size.
    at_once = max(1, READ_AT_ONCE // (batch_size * max(1, images[0].numel())))
    return (
        batch
        for cut in order.split(batch_size * at_once)
        for batch in zip(
            # Ten times as fast as images[cut], which first works out the kind of index.
            as_input(images.index_select(0, cut.to(images.device))).to(device).split(batch_size),
            labels.index_select(0, cut.to(labels.device)).to(device).split(batch_size),
            strict=True,
        )
    )


def check_data(data: tuple[torch.Tensor, torch.Tensor], batch_size: int) -> None:
    """Raise ValueError unless the images and labels can be cut into batches of this size."""
    images, labels = data
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} images but {len(labels)} labels; each needs one")
    if len(images) == 0:
        raise ValueError("there are no examples; pass at least one image and its label")
    if batch_size < 1:
        raise ValueError(f"a batch needs at least 1 example, but batch_size is {batch_size}")


def as_input(images: torch.Tensor) -> torch.Tensor:
    """Return normalised bytes, and images of any other dtype as they are."""
    return normalize(images) if images.dtype == torch.uint8 else images


def _by_channel(name: str, values: float | Sequence[float], images: torch.Tensor) -> torch.Tensor:
    """Return a CPU tensor that broadcasts over images: shape (), or (C, 1, 1) for a sequence."""
    statistics = torch.tensor(values, dtype=torch.float32, device="cpu")
    if statistics.ndim == 0:
        return statistics
    if images.ndim < 3 or statistics.shape != images.shape[-3:-2]:
        raise ValueError(
            f"{name} has {statistics.numel()} values, but images of shape {tuple(images.shape)} "
            "have another number of channels; pass one value for each channel of (..., C, H, W)"
        )
    return statistics.view(-1, 1, 1)
