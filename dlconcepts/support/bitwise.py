"""Exact comparisons, by which laws say that a tensor or a module has not changed."""

import torch
from torch import Tensor, nn

SHOWN = 100  # elements; torch abbreviates more than 1,000, and people read none of them


class Bits:
    """The bytes of elements. A failed comparison shows the elements with all of their digits."""

    def __init__(self, elements: Tensor) -> None:
        self.elements = elements
        self.bytes = elements.reshape(-1).view(torch.uint8).numpy().tobytes()

    def __eq__(self, other: object) -> bool:
        return self.bytes == (other.bytes if isinstance(other, Bits) else other)

    def __hash__(self) -> int:
        return hash(self.bytes)

    def __repr__(self) -> str:
        few = self.elements.numel() <= SHOWN
        return repr(self.elements.tolist() if few else self.elements)


def bits(tensor: Tensor) -> Bits:
    """Return the bytes of the elements in row-major order, for any strides and device.

    >>> bits(torch.tensor([0.0])), bits(torch.tensor([-0.0]))
    ([0.0], [-0.0])
    >>> bits(torch.tensor([0.0])) == bits(torch.tensor([-0.0]))
    False
    """
    elements = tensor.detach().cpu().resolve_conj().resolve_neg()
    return Bits(elements.clone(memory_format=torch.contiguous_format))


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether shapes, dtypes and elements are equal; NaN equals NaN, and -0.0 equals 0.0.

    >>> same(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    True
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def state_of(module: nn.Module) -> dict[str, object]:
    """Return the state of a module by name: all that a law may require to stay unchanged.

    The bits of each parameter, buffer and gradient (None if there is none), whether each parameter
    requires grad, and the training mode of each submodule.

    >>> layer = nn.Linear(1, 1)
    >>> before = state_of(layer)
    >>> layer.eval() is layer and state_of(layer) == before
    False
    """
    state: dict[str, object] = {
        f"{name}: training": part.training for name, part in module.named_modules()
    }
    for name, parameter in module.named_parameters(remove_duplicate=False):
        gradient = None if parameter.grad is None else bits(parameter.grad)
        state[name] = (bits(parameter), parameter.requires_grad, gradient)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        state[name] = bits(buffer)
    return state
