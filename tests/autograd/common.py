"""Helpers that several claims about autograd share."""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

float64 = torch.float64  # its rounding is far smaller than the mistakes
MicroBatches = Sequence[tuple[Tensor, Tensor]]


def assert_close(
    actual: Tensor | None,
    expected: Tensor,
    law: str,
    *,
    rtol: float = 1e-9,
    atol: float = 1e-12,
) -> None:
    """Assert that tensors agree up to rounding, relative to the largest expected element."""
    assert actual is not None, f"{law}: there is none"
    # A small element may be the difference of large ones, and has their rounding.
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=rtol * scale + atol, msg=lambda text: f"{law}: {text}"
    )


def gradients(model: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def gradients_of(
    model: nn.Module, loss_fn: Callable[..., Tensor], inputs: Tensor, labels: Tensor
) -> list[Tensor]:
    # The oracle: torch.autograd.grad returns gradients and stores none.
    return list(torch.autograd.grad(loss_fn(model(inputs), labels), list(model.parameters())))


# By the names of their nodes in the graph.
UNARY = {
    "Sin": torch.sin,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Neg": torch.neg,
    "Pow": torch.square,
    "Abs": torch.abs,
}
chains = st.lists(st.sampled_from(sorted(UNARY)), min_size=1, max_size=5)


def apply_chain(names: Sequence[str], x: Tensor) -> Tensor:
    return reduce(lambda value, name: UNARY[name](value), names, x)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "plain SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.5),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9),
    "weight decay": lambda parameters: torch.optim.SGD(parameters, lr=0.5, weight_decay=0.1),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.5),
}
