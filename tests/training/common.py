"""Shared by several claims of the lesson training, and by the tests of its techniques."""

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
    # Sums cancel, so an element's rounding error is relative to the largest, not to itself.
    # 1e-9 is far above float64's rounding of a few steps and far below what a mistake changes.
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual,
        expected,
        rtol=0,
        atol=rtol * scale + 1e-12,
        msg=lambda text: f"{law}: {text}",
    )


class Recorder(nn.Module):
    """A model that records the inputs it sees; its `loss` records the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []
        self.labels: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += inputs.flatten().tolist()
        return inputs * self.weight  # the loss needs something to differentiate

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.labels += labels.tolist()
        return outputs.mean()


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """A Dataset of n examples, each of which has its index as input and as label."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor([float(index)]), torch.tensor(index)


# Forms of data that `fit` accepts, with the signature of those that need a batch size.
def as_pair(n: int, batch_size: int) -> tuple[Tensor, Tensor]:
    return torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n)


def as_tensors(n: int, batch_size: int) -> TensorDataset:
    return TensorDataset(*as_pair(n, batch_size))


def as_examples(n: int, batch_size: int) -> Pairs:
    return Pairs(n)
