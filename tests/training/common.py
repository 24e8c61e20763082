"""Shared by several claims of the lesson training."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

float64 = torch.float64


Array = NDArray[np.float64]


def assert_close(actual: Tensor, expected: Tensor | Array, law: str, *, rtol: float = 1e-9) -> None:
    """Assert that tensors agree up to rounding, relative to the largest element expected."""
    actual, expected = actual.detach(), torch.as_tensor(expected, device=actual.device).detach()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual,
        expected,
        rtol=0,
        atol=rtol * scale + 1e-12,
        msg=lambda text: f"{law}: {text}",
    )


class Recorder(nn.Module):
    """A model that keeps what went in; its loss keeps the labels beside it."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []
        self.labels: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Keep the inputs and return something that depends on the weight."""
        self.seen += inputs.flatten().tolist()
        return inputs * self.weight

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Keep the labels and return a loss."""
        self.labels += labels.tolist()
        return outputs.mean()


Train = Callable[..., object]


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Examples that are found one by one."""

    def __init__(self, n: int) -> None:
        """Have n examples."""
        self.n = n

    def __len__(self) -> int:
        """Return the number of examples."""
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return an example that is its own number."""
        return torch.tensor([float(index)]), torch.tensor(index)


def as_tensors(n: int, batch_size: int) -> object:
    """Return a TensorDataset."""
    return TensorDataset(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n))


def as_examples(n: int, batch_size: int) -> object:
    """Return a Dataset that gives one example at a time."""
    return Pairs(n)


def examples(n: int = 6) -> tuple[Tensor, Tensor]:
    """Return examples of two classes."""
    return torch.arange(2.0 * n).reshape(n, 2), torch.arange(n) % 2
