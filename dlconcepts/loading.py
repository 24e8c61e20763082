"""Lesson 2, the data that goes in: from images to normalised batches."""

from collections.abc import Iterator

import torch


def normalize(images: torch.Tensor, *, mean: float = 0.5, std: float = 0.5) -> torch.Tensor:
    """Turn bytes into floats around 0: (images / 255 - mean) / std, from -1 to 1 by default.

    Input: uint8 of any shape. Output: float32 of the same shape; the input is left alone.

    Raises TypeError for any other dtype, since floats may well be normalised already.
    Source: torchvision documentation, `ToTensor` and `Normalize`.

    >>> normalize(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([-1.0000, -0.6000,  1.0000])
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize takes uint8 images, but these are {images.dtype}")
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def batches(
    data: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut images and their labels into batches, in the given order of positions.

    The last batch is smaller if `batch_size` does not divide the number of examples. Images of
    dtype uint8 are normalised, a batch at a time; each batch is moved to `device`.

    Raises ValueError for no examples, images and labels of different number, a batch size below 1.
    Source: PyTorch documentation, `torch.utils.data.DataLoader`, which cuts the same batches.

    >>> data = torch.zeros(5, 28, 28), torch.arange(5)
    >>> [labels.tolist() for images, labels in batches(data, 2)]
    [[0, 1], [2, 3], [4]]
    """
    check_data(data, batch_size)
    images, labels = data
    order = torch.arange(len(images)) if order is None else order
    cuts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    return ((_as_input(images[cut]).to(device), labels[cut].to(device)) for cut in cuts)


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
